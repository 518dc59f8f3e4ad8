//! Entries of every kind, and what a reader has to say of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use bytes::Bytes;
use lifeboat_model::entry::Principal;
use lifeboat_model::flow::{BodyError, BodyRead, Piece};
use lifeboat_model::{EntryKind, EntryMeta, Xattr};
use lifeboat_testkit::bench_data::Numbers;
use serde_json::{Map, Value as Json, json};

use crate::reader::describe::{short, shown};

/// An entry to be put, with what it holds.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) meta: EntryMeta,
    pub(crate) pieces: Vec<Piece>,
}

impl Item {
    pub(crate) fn new(path: impl Into<Vec<u8>>, kind: EntryKind) -> Self {
        Self { path: path.into(), meta: EntryMeta::new(kind), pieces: vec![] }
    }

    pub(crate) fn file(path: impl Into<Vec<u8>>, bytes: impl Into<Vec<u8>>) -> Self {
        let item = Self::new(path, EntryKind::File);
        Self { pieces: vec![Piece::Data(bytes.into().into())], ..item }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut EntryMeta)) -> Self {
        change(&mut self.meta);
        self
    }

    /// What a reader has to say of it.
    pub(crate) fn expected(&self) -> Json {
        let mut out = Map::new();
        let mut put = |name: &str, value: Option<Json>| value.map(|value| out.insert(name.into(), value));
        let owner = |owner: &Principal| json!([owner.id, owner.name]);
        let meta = &self.meta;
        put("path", Some(shown(&self.path).into()));
        put("kind", Some((meta.kind as u8).into()));
        put("mode", meta.mode.map(Into::into));
        put("owner", meta.owner.as_ref().map(owner));
        put("group", meta.group.as_ref().map(owner));
        put("mtime", meta.mtime.map(|time| json!(time)));
        put("link", meta.link.as_ref().map(|link| shown(link).into()));
        put("device", meta.device.map(|device| json!(device)));
        let xattrs = || meta.xattrs.iter().map(|xattr| json!([shown(&xattr.name), shown(&xattr.value)])).collect();
        put("xattrs", (!meta.xattrs.is_empty()).then(xattrs));
        put("why", meta.why.clone().map(Into::into));
        let extra = || meta.extra.iter().map(|(key, text)| (key.clone(), short(text).into())).collect::<Map<_, _>>();
        put("extra", (!meta.extra.is_empty()).then(|| extra().into()));
        let (mut bytes, mut holes) = (Vec::new(), Vec::new());
        for piece in &self.pieces {
            match piece {
                Piece::Data(data) => bytes.extend_from_slice(data),
                Piece::Hole(length) => {
                    holes.push(json!([bytes.len(), length]));
                    bytes.resize(bytes.len() + usize::try_from(*length).expect("small"), 0);
                }
            }
        }
        put("bytes", (!bytes.is_empty()).then(|| bytes.len().into()));
        put("hash", (!bytes.is_empty()).then(|| blake3::hash(&bytes).to_hex().as_str().into()));
        put("holes", (!holes.is_empty()).then(|| holes.into()));
        out.into()
    }
}

/// Hands over pieces one by one.
pub(crate) struct Pieces(pub(crate) VecDeque<Piece>);

#[async_trait::async_trait]
impl BodyRead for Pieces {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        Ok(self.0.pop_front())
    }
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Numbers::new(seed).fill(&mut bytes);
    bytes
}

/// Some of everything that an entry can be.
pub(crate) fn documents() -> Vec<Item> {
    use EntryKind::{BlockDevice, CharDevice, Dir, Fifo, File, Hardlink, Socket, Symlink};
    let name = |id, name: Option<&str>| Some(Principal { id, name: name.map(Into::into) });
    let stretches = |n: u32| [Piece::Data(Bytes::from(n.to_le_bytes().repeat(4))), Piece::Hole(100)];
    let mut items = vec![
        Item::new("srv", Dir).with(|meta| {
            meta.mode = Some(0o2755);
            (meta.owner, meta.group) = (name(1000, Some("ada")), name(4_000_000_000, None));
            meta.mtime = Some((-5, 999_999_999));
        }),
        Item::new("srv/link", Symlink).with(|meta| meta.link = Some(b"../else\xff".to_vec())),
        Item::new("srv/hard", Hardlink).with(|meta| meta.link = Some(b"srv/big".to_vec())),
        Item::new("srv/fifo", Fifo).with(|meta| meta.mtime = Some((1_700_000_000, 0))),
        Item::new("srv/null", CharDevice).with(|meta| meta.device = Some((1, 3))),
        Item::new("srv/disk", BlockDevice).with(|meta| meta.device = Some((259, 1_048_575))),
        Item::new("srv/socket", Socket),
        Item::new("srv/empty", File),
        Item::file(&b"srv/caf\xe9"[..], "no UTF-8 in its name"),
        Item::file("srv-above", "sorts behind what is in srv/"),
        Item::file("srv/attributes", "x").with(|meta| {
            meta.xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }];
            meta.extra = BTreeMap::from([("postgres.rows".into(), "12".into()), ("z".into(), "\u{e9}".into())]);
        }),
        Item::file("srv/big", noise(1, 150_000)),
        Item {
            pieces: vec![Piece::Hole(70_000), Piece::Data(noise(2, 5000).into()), Piece::Hole(4096)],
            ..Item::new("srv/sparse", File)
        },
        Item { pieces: (0..3000).flat_map(stretches).collect(), ..Item::new("srv/stretches", File) },
    ];
    items.extend((0..700).map(|n| Item::file(format!("many/{:02}/{n:04}", n % 7), format!("file {}", n % 50))));
    items
}

/// So many entries with so much said of each that they fill pages of two levels.
pub(crate) fn wide() -> Vec<Item> {
    let told = BTreeMap::from([("told".to_owned(), "at length ".repeat(1000))]);
    (0..40).map(|n| Item::new(format!("wide/{n:02}"), EntryKind::Dir).with(|m| m.extra = told.clone())).collect()
}

/// The rows of a table; one of them is other on each day.
pub(crate) fn rows(day: usize) -> Item {
    let mut out = String::new();
    for number in 0..3000 {
        let version = if number == 700 * day { day } else { 0 };
        writeln!(out, "{number}\t{}\tversion {version}", number * 7919 % 10007).expect("written");
    }
    let pieces = out.as_bytes().chunks(50_000).map(|piece| Piece::Data(Bytes::copy_from_slice(piece))).collect();
    Item { pieces, ..Item::new("events/1.dat", EntryKind::File) }
}

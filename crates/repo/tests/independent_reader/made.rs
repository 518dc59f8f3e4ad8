//! A repository made by the product, with some of everything, and what a reader has to find in it.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use lifeboat_model::entry::Principal;
use lifeboat_model::flow::{Body, BodyError, BodyRead, Clock, EntrySink, Piece, RunContext, Shape};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, ObjectHash, RecoveryPoint, SnapshotId, SourceName, StackName};
use lifeboat_model::{Fingerprint, Xattr};
use lifeboat_repo::copy::Copier;
use lifeboat_repo::forget::{forget, hold};
use lifeboat_repo::keyfile::{IdentityKey, OwnerKey, WriterKey};
use lifeboat_repo::owner::DomainChoice;
use lifeboat_repo::prune::{PruneOptions, prune};
use lifeboat_repo::small::{self, RunId, Void};
use lifeboat_repo::{
    CreateOptions, Creation, Keys, Owner, Repository, Scope, SnapshotHead, WriteOptions, join, open_access,
};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{PutMode, Store};
use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::context::{FakeClock, run_context};
use serde_json::{Map, Value as Json, json};

use crate::reader::describe::shown;

/// An entry to be put, with what it holds.
#[derive(Clone)]
struct Item {
    path: Vec<u8>,
    meta: EntryMeta,
    pieces: Vec<Piece>,
}

impl Item {
    fn new(path: impl Into<Vec<u8>>, kind: EntryKind) -> Self {
        Self { path: path.into(), meta: EntryMeta::new(kind), pieces: vec![] }
    }

    fn file(path: impl Into<Vec<u8>>, bytes: impl Into<Vec<u8>>) -> Self {
        let item = Self::new(path, EntryKind::File);
        Self { pieces: vec![Piece::Data(bytes.into().into())], ..item }
    }

    fn with(mut self, change: impl FnOnce(&mut EntryMeta)) -> Self {
        change(&mut self.meta);
        self
    }

    /// What a reader has to say of it.
    fn expected(&self) -> Json {
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
        put("extra", (!meta.extra.is_empty()).then(|| json!(meta.extra)));
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

struct Pieces(VecDeque<Piece>);

#[async_trait::async_trait]
impl BodyRead for Pieces {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        Ok(self.0.pop_front())
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Numbers::new(seed).fill(&mut bytes);
    bytes
}

/// Some of everything that an entry can be.
fn documents() -> Vec<Item> {
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

/// A repository in a directory, the texts of key files that read it, and what they read.
pub(crate) struct Made {
    /// The store.
    pub(crate) dir: tempfile::TempDir,
    /// An identity's key file.
    pub(crate) identity: String,
    /// The owner's, under the passphrase `correct horse`.
    pub(crate) owner: String,
    /// The owner's on paper.
    pub(crate) sheet: String,
    /// The snapshots.
    pub(crate) expected: Json,
    /// The root object of a writer that was removed before.
    pub(crate) refused: String,
}

struct House {
    clock: Arc<FakeClock>,
    memory: MemoryStore,
    store: Arc<dyn Store>,
    owner: OwnerKey,
    scratch: tempfile::TempDir,
    expected: Vec<Json>,
}

fn stack() -> StackName {
    StackName::new("office").expect("a name")
}

impl House {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn context(&self) -> RunContext {
        RunContext { clock: Arc::clone(&self.clock) as _, ..run_context(self.scratch.path()) }
    }

    async fn open(&self, keys: Keys) -> Repository {
        let access = open_access(&self.store, &keys, None).await.expect("opened").access;
        let cache = tempfile::tempdir_in(self.scratch.path()).expect("a directory").keep();
        Repository::open(Arc::clone(&self.store), access, &cache).await.expect("opened")
    }

    fn as_owner(&self) -> Owner<'_> {
        Owner {
            store: &self.store,
            key: &self.owner,
            remembered: None,
            forget_roster: false,
            now: self.now(),
            exported: None,
        }
    }

    /// Backs up and notes what a reader has to find.
    async fn backup(&mut self, repository: &Repository, source: &str, sequence: u64, items: &[Item]) -> SnapshotId {
        self.clock.advance(Duration::from_secs(2));
        let (labelled, joined) = (sequence == 2, source == "documents");
        let facts = BTreeMap::from([("machine.id".to_owned(), format!("m{sequence}"))]);
        let point = RecoveryPoint { time: self.now(), consistency: "each file by itself".into(), facts: facts.clone() };
        let head = SnapshotHead {
            stack: stack(),
            source: SourceName::new(source).expect("a name"),
            kind: "files".into(),
            label: labelled.then(|| "before the move".into()),
            config: format!("stack: office # {sequence}\n"),
            stack_run: joined.then_some(RunId([7; 16])),
            system: facts.clone(),
        };
        let options = WriteOptions { zstd_level: 3, ..WriteOptions::default() };
        let writer = repository.writer(head, options, self.context()).await.expect("a run");
        let mut found = Vec::new();
        for item in items {
            let path = EntryPath::new(item.path.as_slice()).expect("a path");
            let body = match item.pieces.as_slice() {
                [] => Body::Empty,
                [Piece::Data(bytes)] => Body::Bytes(bytes.clone()),
                pieces => Body::Stream { from: Box::new(Pieces(pieces.iter().cloned().collect())), shape: Shape::Rows },
            };
            writer.put(&path, &item.meta, Some(Fingerprint([1; 16])), body).await.expect("stored");
            found.push((path, item.expected()));
        }
        let (secret, busy) = (EntryPath::new("a-secret").expect("a path"), EntryPath::new("srv/big").expect("a path"));
        writer.skip(&secret, "permission denied").await.expect("taken");
        writer.problem(&busy, "it changed while it was read").await.expect("taken");
        let skipped =
            Item::new("a-secret", EntryKind::Skipped).with(|meta| meta.why = Some("permission denied".into()));
        found.push((secret, skipped.expected()));
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let sealed = writer.seal(point.clone()).await.expect("sealed");
        let time = (point.time.as_second(), point.time.subsec_nanosecond());
        self.expected.push(json!({
            "id": sealed.id.to_string(),
            "stack": "office",
            "source": source,
            "kind": "files",
            "sequence": sequence,
            "original": null,
            "point": [time, "each file by itself", facts],
            "system": ["machine.id"],
            "config": format!("stack: office # {sequence}\n"),
            "label": labelled.then_some("before the move"),
            "problems": [["a-secret", "permission denied"], ["srv/big", "it changed while it was read"]],
            "stack_run": joined.then(|| hex::encode([7; 16])),
            "forgotten": false,
            "held": false,
            "void": false,
            "entries": found.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
        }));
        sealed.id
    }

    fn note(&mut self, id: SnapshotId, what: &str) {
        let told = self.expected.iter_mut().find(|told| told["id"] == id.to_string()).expect("sealed");
        told[what] = true.into();
        if what != "held" {
            told["entries"] = json!([]);
        }
    }

    /// A second host with a domain of its own that may write `mail` only.
    async fn second_writer(&self) -> WriterKey {
        let wish = Scope { stack: stack(), sources: vec![SourceName::new("mail").expect("a name")] };
        let (pending, request) = join::request_writer(&self.store, "second", wish.clone()).await.expect("a request");
        let granted = self.as_owner().add_writer(&request, DomainChoice::New, &[wish]).await.expect("added");
        granted.0.accept(&pending).expect("a grant")
    }

    /// A snapshot that was made in another repository and copied into this one.
    async fn copied(&mut self, writer: &WriterKey) {
        let elsewhere: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&self.clock) as Arc<dyn Clock>));
        let from = Creation::new(CreateOptions { now: self.now(), grace_seconds: 60, stack: stack() });
        from.put(&elsewhere).await.expect("made");
        let keys = Keys { writer: Some(from.writer), identity: Some(from.owner.identity), ..Keys::default() };
        let access = open_access(&elsewhere, &keys, None).await.expect("opened").access;
        let cache = tempfile::tempdir_in(self.scratch.path()).expect("a directory").keep();
        let from = Repository::open(elsewhere, access, &cache).await.expect("opened");
        let original = self.backup(&from, "archive", 1, &documents()[..14]).await;
        let (writer, identity) = (Some(writer.clone()), Some(self.owner.identity.clone()));
        let to = self.open(Keys { writer, identity, ..Keys::default() }).await;
        let ctx = self.context();
        let mut copier = Copier::new(Arc::new(from), Arc::new(to), &ctx).await.expect("two repositories");
        let options = WriteOptions::default();
        let sealed = copier.copy(&original, self.now(), options, &ctx).await.expect("copied");
        let told = self.expected.last_mut().expect("it was backed up");
        told["id"] = sealed.id.to_string().into();
        told["original"] = original.to_string().into();
    }

    /// Writes the objects as files with the times at which the store took them.
    async fn write_to(&self, dir: &Path) {
        let objects: Vec<_> = self.store.list("").try_collect().await.expect("listed");
        for object in objects {
            let path = dir.join(object.key.as_str());
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(&path, self.memory.get(&object.key, None).await.expect("got")).expect("written");
            let file = std::fs::File::options().write(true).open(&path).expect("opened");
            file.set_modified(object.stored_at.into()).expect("dated");
        }
    }
}

/// Makes the repository.
pub(crate) async fn make() -> Made {
    let clock = FakeClock::at("2026-11-21T03:00:00.25Z".parse().expect("a time"));
    let memory = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let made = Creation::new(CreateOptions { now: clock.now(), grace_seconds: 60, stack: stack() });
    made.put(&store).await.expect("made");
    let scratch = tempfile::tempdir().expect("a directory");
    let mut house = House { clock, memory, store, owner: made.owner.clone(), scratch, expected: vec![] };
    let writer = || Keys { writer: Some(made.writer.clone()), ..Keys::default() };
    let maintainer = || Keys { maintainer: Some(made.maintainer.clone()), ..Keys::default() };

    // Two snapshots of which the first is pruned, so that packs hold records of other packs.
    let repository = house.open(writer()).await;
    let with_more = [documents(), vec![Item::file("srv/gone", noise(3, 60_000))]].concat();
    let first = house.backup(&repository, "documents", 1, &with_more).await;
    house.backup(&repository, "documents", 2, &documents()).await;
    let keeper = house.open(maintainer()).await;
    forget(&keeper, &[first], "a test", &house.context()).await.expect("forgotten");
    for round in 0..2 {
        house.clock.advance(Duration::from_secs(61));
        let options = PruneOptions { waste_percent: 5, dry_run: false };
        let report = prune(&keeper, &options, &house.context()).await.expect("pruned");
        assert_eq!((report.repacked_packs > 0, report.deleted_objects > 0), (round == 0, round == 1), "{report:?}");
    }
    house.expected.remove(0);

    // Other keys: a second writer, and an identity that is gone, so that there is a second epoch.
    let second = house.second_writer().await;
    let lost = IdentityKey::random(house.owner.identity.repository, house.owner.identity.root);
    let identity = IdentityKey::random(lost.repository, lost.root);
    for key in [&lost, &identity] {
        house.as_owner().add_identity(&key.roster_key()).await.expect("added");
    }
    house.as_owner().remove_identity(lost.sign().verify_key()).await.expect("removed");
    let mut changed = documents();
    changed[8] = Item::file(&b"srv/caf\xe9"[..], "changed");
    let repository = house.open(writer()).await;
    let third = house.backup(&repository, "documents", 3, &changed).await;
    let fourth = house.backup(&repository, "documents", 4, &changed[..3]).await;
    let fifth = house.backup(&repository, "documents", 5, &changed[..3]).await;
    let keeper = house.open(maintainer()).await;
    hold(&keeper, third, "a test", &house.context()).await.expect("held");
    forget(&keeper, &[fourth], "a test", &house.context()).await.expect("forgotten");
    let void = Void { snapshot: fifth, why: "a test".into(), time: house.now() };
    let domain = keeper.access().domains[&made.writer.domain].index.clone();
    let (key, bytes) = small::encode(&void, &domain, &made.maintainer.sign);
    house.store.put(&key, bytes, PutMode::CreateNew).await.expect("put");
    for (id, what) in [(third, "held"), (fourth, "forgotten"), (fifth, "void")] {
        house.note(id, what);
    }

    house.copied(&made.writer).await;

    // The second writer is removed, and goes on.
    let repository = house.open(Keys { writer: Some(second.clone()), ..Keys::default() }).await;
    let mail = [Item::file("inbox", noise(4, 40_000))];
    house.backup(&repository, "mail", 1, &mail).await;
    let head = house.backup(&repository, "mail", 2, &mail).await;
    house.as_owner().remove_writer(second.sign.verify_key(), &[ObjectHash(head.0)]).await.expect("removed");
    let late = house.backup(&repository, "mail", 3, &mail).await;
    house.expected.pop();

    let dir = tempfile::tempdir().expect("a directory");
    house.write_to(dir.path()).await;
    house.expected.sort_by_key(|told| format!("{} {:>9}", told["source"], told["sequence"]));
    let text = |key: lifeboat_repo::KeyFile, passphrase: Option<&lifeboat_repo::Passphrase>| {
        key.encode(passphrase).expect("a key file").to_string()
    };
    let passphrase = lifeboat_repo::Passphrase::new("correct horse");
    Made {
        dir,
        identity: text(lifeboat_repo::KeyFile::Identity(identity), None),
        owner: text(lifeboat_repo::KeyFile::Owner(house.owner.clone()), Some(&passphrase)),
        sheet: lifeboat_repo::recovery_sheet::print(&house.owner, "file:///store", house.now()).to_string(),
        expected: house.expected.into(),
        refused: format!("roots/snapshot/{late}"),
    }
}

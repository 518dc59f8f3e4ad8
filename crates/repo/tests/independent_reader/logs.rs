//! A repository with log roots, which no source of the product writes yet: made by hand of its parts.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use lifeboat_model::{ChunkId, EntryKind, EntryMeta, EntryPath, ObjectHash, SourceName};
use lifeboat_repo::Repository;
use lifeboat_repo::crypt::Secret;
use lifeboat_repo::index::IndexBuilder;
use lifeboat_repo::object::{Envelope, ObjectType, Recipient};
use lifeboat_repo::pack::{Codec, FinishedPack, PackBuilder, PackKind};
use lifeboat_repo::page::{Content, Extent, ManifestPage, ReferencePage, StoredEntry};
use lifeboat_repo::root::log::{self, LogBody, Segment};
use lifeboat_repo::root::{RootHeader, RootKeys, RootRefs, RunSecret};
use lifeboat_repo::small::RunId;
use lifeboat_store::{Key, PutMode};
use lifeboat_testkit::log::FakeLog;
use serde_json::json;

use crate::house::{House, Made, stack};
use crate::items::Item;

/// A stretch of a log.
struct Stretch<'a> {
    of: &'a FakeLog,
    name: &'static str,
    range: Range<usize>,
}

/// What puts objects of one run.
struct Hand<'h> {
    house: &'h House,
    repository: Repository,
    content: RunSecret,
    references: RunSecret,
}

impl<'h> Hand<'h> {
    async fn new(house: &'h House) -> Self {
        let repository = house.open(house.writer()).await;
        let access = repository.access();
        let secret = |recipient: &Recipient| {
            let secret = Secret::random();
            RunSecret { envelope: Envelope::seal(access.repository, recipient, &secret).expect("sealed"), secret }
        };
        let (content, references) = (secret(&access.epoch_recipient()), secret(&access.maintenance_recipient()));
        Self { house, repository, content, references }
    }

    fn keys(&self) -> &lifeboat_repo::access::DomainKeys {
        &self.repository.access().domains[&self.house.made.writer.domain]
    }

    fn id(&self, kind: PackKind, plain: &[u8]) -> ChunkId {
        kind.id_of(self.keys(), plain).expect("the keys of the domain")
    }

    async fn put(&self, key: &Key, bytes: Bytes) {
        self.house.store.put(key, bytes, PutMode::CreateNew).await.expect("put");
    }

    async fn pack(&self, kind: PackKind, chunks: &[&[u8]]) -> FinishedPack {
        let run = if kind == PackKind::Refs { &self.references } else { &self.content };
        let index = &self.keys().index;
        let envelope = run.envelope.clone();
        let mut pack = PackBuilder::new(kind, index.repository, index.domain, &run.secret, envelope, 1 << 16);
        for plain in chunks {
            pack.push(self.id(kind, plain), plain, plain.len(), Codec::Plain);
        }
        let pack = pack.finish(index);
        self.put(&kind.object_type().key(pack.hash), pack.bytes.clone()).await;
        pack
    }

    /// Puts a root and returns its hash.
    async fn stretch(&self, sequence: u64, previous: Option<ObjectHash>, stretch: &Stretch<'_>) -> ObjectHash {
        let segments = &stretch.of.segments()[stretch.range.clone()];
        let entry = |(name, bytes): &(String, Bytes)| {
            let extent = Extent::Chunk {
                id: self.id(PackKind::Data, bytes),
                offset: 0,
                len: bytes.len().try_into().expect("short"),
            };
            let path = EntryPath::new(name.as_bytes()).expect("a path");
            let meta = EntryMeta::new(EntryKind::File);
            StoredEntry { path, meta, content: Content::Inline(vec![extent]) }
        };
        let mut entries: Vec<StoredEntry> = segments.iter().map(entry).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let page = ManifestPage::assemble(0, &entries.iter().map(StoredEntry::encode).collect::<Vec<_>>());
        let top = self.id(PackKind::Meta, &page);
        let mut chunks: Vec<ChunkId> = segments.iter().map(|(_, bytes)| self.id(PackKind::Data, bytes)).collect();
        chunks.sort();
        let refs = ReferencePage { page: top, chunks, pages: vec![] }.encode();
        let data: Vec<&[u8]> = segments.iter().map(|(_, bytes)| &bytes[..]).collect();
        let mut index = IndexBuilder::new();
        for (kind, chunks) in [(PackKind::Data, &data[..]), (PackKind::Meta, &[&page[..]]), (PackKind::Refs, &[&refs])]
        {
            index.add(&self.pack(kind, chunks).await);
        }
        let sign = &self.house.made.writer.sign;
        let (hash, bytes) = index.finish().encode(&self.keys().index, sign);
        self.put(&ObjectType::Index.key(hash), bytes).await;
        let keys = RootKeys { index: &self.keys().index, content: &self.content, references: &self.references, sign };
        let refs = RootRefs { top: Some(self.id(PackKind::Refs, &refs)) };
        let (hash, bytes) = log::encode(&self.header(sequence, previous), &refs, &body(stretch, top), &keys);
        self.put(&ObjectType::LogRoot.key(hash), bytes).await;
        hash
    }

    fn header(&self, sequence: u64, previous: Option<ObjectHash>) -> RootHeader {
        let roster = &self.repository.access().roster;
        RootHeader {
            stack_tag: self.keys().stack_tag(&stack()),
            source_tag: self.keys().source_tag(&stack(), &source()),
            sequence,
            previous,
            time: self.house.now(),
            roster_number: roster.number,
            roster_hash: roster.hash,
            run: RunId([9; 16]),
            original: None,
            countersigned: None,
            systems: vec![],
        }
    }
}

fn source() -> SourceName {
    SourceName::new("registry").expect("a name")
}

fn position(at: usize) -> String {
    format!("0/{at:X}000000")
}

fn body(stretch: &Stretch<'_>, top: ChunkId) -> LogBody {
    let segment = |(at, (name, _)): (usize, &(String, Bytes))| Segment {
        name: name.clone(),
        begins: position(at),
        ends: position(at + 1),
    };
    LogBody {
        stack: stack(),
        source: source(),
        kind: "postgres".into(),
        log: stretch.name.into(),
        top: Some(top),
        segments: stretch.range.clone().zip(&stretch.of.segments()[stretch.range.clone()]).map(segment).collect(),
        facts: BTreeMap::from([("log.begun".into(), "2026-11-21T03:00:00Z".into())]),
    }
}

/// A snapshot, and two logs that go on from it.
pub(crate) async fn made() -> Made {
    let mut house = House::new().await;
    let repository = house.open(house.writer()).await;
    house.backup(&repository, "registry", 1, &[Item::file("base", "what stands")]).await;
    let logs = [FakeLog::new(1, 5), FakeLog::new(2, 3)];
    let stretch = |log: usize, name, range| Stretch { of: &logs[log], name, range };
    let stretches = [stretch(0, "timeline 1", 0..2), stretch(1, "timeline 2", 0..3), stretch(0, "timeline 1", 2..5)];
    let (mut previous, mut told) = (None, Vec::new());
    for (sequence, stretch) in (1..).zip(&stretches) {
        // A run of its own each: nonces under one secret would repeat.
        let hash = Hand::new(&house).await.stretch(sequence, previous, stretch).await;
        let segments = stretch.range.clone().zip(&stretch.of.segments()[stretch.range.clone()]);
        let shown = |(at, (name, bytes)): (usize, &(String, Bytes))| {
            json!([name, position(at), position(at + 1), blake3::hash(bytes).to_hex().as_str()])
        };
        told.push(json!({
            "id": hash.to_string(),
            "source": "registry",
            "sequence": sequence,
            "log": stretch.name,
            "facts": {"log.begun": "2026-11-21T03:00:00Z"},
            "segments": segments.map(shown).collect::<Vec<_>>(),
        }));
        previous = Some(hash);
    }
    house.logs = told;
    let identity = house.made.owner.identity.clone();
    house.done("logs", identity).await
}

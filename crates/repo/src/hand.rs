//! Repositories made by hand, for tests of what reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_model::{ChunkId, EntryKind, EntryMeta, EntryPath, ObjectHash, RecoveryPoint, SnapshotId, SourceName};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{Key, PutMode, Store};
use tempfile::TempDir;

use crate::access::{Access, DomainKeys};
use crate::crypt::{Secret, SignKey};
use crate::index::IndexBuilder;
use crate::object::{Envelope, ObjectType};
use crate::pack::{Codec, FinishedPack, PackBuilder, PackKind};
use crate::page::{ChildPage, Content, Extent, ManifestPage, StoredEntry, encode_content_page};
use crate::repository::Repository;
use crate::root::{RootBody, RootHeader, RootKeys, RootRefs, RunSecret, encode};
use crate::small::{RunId, Small};
use crate::testing::TestRepository;

/// A repository in memory whose packs, indexes and roots a test puts one by one.
pub(crate) struct Hand {
    pub(crate) test: TestRepository,
    pub(crate) store: MemoryStore,
    pub(crate) cache: TempDir,
    pub(crate) content: RunSecret,
    pub(crate) references: RunSecret,
}

impl Hand {
    pub(crate) async fn new() -> Self {
        let store = MemoryStore::default();
        let test = TestRepository::create(Arc::new(store.clone())).await;
        let run_secret = |recipient| {
            let secret = Secret::random();
            let envelope = Envelope::seal(test.all.repository, &recipient, &secret).expect("sealed");
            RunSecret { secret, envelope }
        };
        let content = run_secret(test.all.epoch_recipient());
        let references = run_secret(test.all.maintenance_recipient());
        Self { test, store, cache: tempfile::tempdir().expect("a directory"), content, references }
    }

    pub(crate) fn keys(&self) -> &DomainKeys {
        self.test.all.domains.values().next().expect("a domain")
    }

    pub(crate) fn writer(&self) -> &SignKey {
        &self.test.all.writer.as_ref().expect("a writer").sign
    }

    pub(crate) fn id(&self, kind: PackKind, plain: &[u8]) -> ChunkId {
        kind.id_of(self.keys(), plain).expect("the keys of the domain")
    }

    pub(crate) fn pack<T: AsRef<[u8]>>(&self, kind: PackKind, chunks: &[T]) -> FinishedPack {
        let index = &self.keys().index;
        let run = if kind == PackKind::Refs { &self.references } else { &self.content };
        let mut pack =
            PackBuilder::new(kind, index.repository, index.domain, &run.secret, run.envelope.clone(), 1 << 20);
        for plain in chunks {
            let plain = plain.as_ref();
            let squeezed = zstd::bulk::compress(plain, 1).expect("compressed");
            pack.push(self.id(kind, plain), &squeezed, plain.len(), Codec::Zstd);
        }
        pack.finish(index)
    }

    pub(crate) async fn put(&self, key: &Key, bytes: bytes::Bytes) {
        self.store.put(key, bytes, PutMode::Replace).await.expect("put");
    }

    pub(crate) async fn put_pack(&self, pack: &FinishedPack) -> Key {
        let key = pack.kind.object_type().key(pack.hash);
        self.put(&key, pack.bytes.clone()).await;
        key
    }

    pub(crate) async fn put_index(&self, packs: &[&FinishedPack]) -> Key {
        let mut index = IndexBuilder::new();
        for pack in packs {
            index.add(pack);
        }
        let (hash, bytes) = index.finish().encode(&self.keys().index, self.writer());
        let key = ObjectType::Index.key(hash);
        self.put(&key, bytes).await;
        key
    }

    pub(crate) async fn put_small<T: Small>(&self, value: &T, signer: &SignKey) -> Key {
        let (key, bytes) = crate::small::encode(value, &self.keys().index, signer);
        self.put(&key, bytes).await;
        key
    }

    pub(crate) fn header(&self, sequence: u64, previous: Option<SnapshotId>) -> RootHeader {
        let source = SourceName::new("documents").expect("a name");
        RootHeader {
            stack_tag: self.keys().stack_tag(&TestRepository::stack()),
            source_tag: self.keys().source_tag(&TestRepository::stack(), &source),
            sequence,
            previous: previous.map(|id| ObjectHash(id.0)),
            time: TestRepository::start(),
            roster_number: self.test.all.roster.number,
            roster_hash: self.test.all.roster.hash,
            run: RunId([7; 16]),
            original: None,
            countersigned: None,
            systems: vec![],
        }
    }

    pub(crate) fn body(top: Option<ChunkId>) -> RootBody {
        RootBody {
            stack: TestRepository::stack(),
            source: SourceName::new("documents").expect("a name"),
            kind: "files".into(),
            recovery_point: RecoveryPoint {
                time: TestRepository::start(),
                consistency: "each file by itself".into(),
                facts: BTreeMap::from([("machine.id".into(), "m1".into())]),
            },
            top,
            stats: BTreeMap::from([("entries".into(), 3)]),
            config: "stack: test\n".into(),
            label: Some("before the move".into()),
            problems: vec![(b"caf\xe9".to_vec(), "it kept changing".into())],
            stack_run: Some(RunId([8; 16])),
        }
    }

    pub(crate) async fn put_root(&self, header: &RootHeader, body: &RootBody, signer: &SignKey) -> SnapshotId {
        let keys =
            RootKeys { index: &self.keys().index, content: &self.content, references: &self.references, sign: signer };
        let (id, bytes) = encode(header, &RootRefs { top: body.top }, body, &keys);
        self.put(&ObjectType::SnapshotRoot.key(ObjectHash(id.0)), bytes).await;
        id
    }

    pub(crate) async fn open(&self, access: &Access) -> Repository {
        let store = Arc::new(self.store.clone());
        Repository::open(store, access.clone(), self.cache.path()).await.expect("opened")
    }

    /// A file whose content is `chunks`, a hole, and the last three bytes of the first chunk; with
    /// `on_pages` its extents lie on two content pages.
    pub(crate) fn file(&self, path: &str, chunks: &[&[u8]], on_pages: bool) -> (StoredEntry, Vec<Vec<u8>>) {
        let mut extents: Vec<Extent> = chunks
            .iter()
            .map(|plain| Extent::Chunk {
                id: self.id(PackKind::Data, plain),
                offset: 0,
                len: u32::try_from(plain.len()).expect("short"),
            })
            .collect();
        extents.push(Extent::Hole(5000));
        let first = chunks[0];
        extents.push(Extent::Chunk {
            id: self.id(PackKind::Data, first),
            offset: u32::try_from(first.len() - 3).expect("short"),
            len: 3,
        });
        let mut pages = Vec::new();
        let content = if on_pages {
            let mut refs = Vec::new();
            for part in extents.chunks(2) {
                let page = encode_content_page(part);
                refs.push((self.id(PackKind::Meta, &page), part.iter().map(Extent::bytes).sum()));
                pages.push(page);
            }
            Content::Pages(refs)
        } else {
            Content::Inline(extents)
        };
        let path = EntryPath::new(path).expect("a path");
        (StoredEntry { path, meta: EntryMeta::new(EntryKind::File), content }, pages)
    }

    /// Pages of a manifest with two entries or pages on each, and its top.
    pub(crate) fn manifest(&self, entries: &[StoredEntry]) -> (ChunkId, Vec<Vec<u8>>) {
        let mut pages = Vec::new();
        let mut children: Vec<ChildPage> = Vec::new();
        for part in entries.chunks(2) {
            let page = ManifestPage::assemble(0, &part.iter().map(StoredEntry::encode).collect::<Vec<_>>());
            children.push(ChildPage {
                first: part[0].path.clone(),
                id: self.id(PackKind::Meta, &page),
                entries: part.len() as u64,
                bytes: part.iter().map(StoredEntry::bytes).sum(),
            });
            pages.push(page);
        }
        for level in 1.. {
            if children.len() == 1 {
                break;
            }
            let mut above = Vec::new();
            for part in children.chunks(2) {
                let page = ManifestPage::assemble(level, &part.iter().map(ChildPage::encode).collect::<Vec<_>>());
                let (entries, bytes) =
                    part.iter().fold((0, 0), |sum, child| (sum.0 + child.entries, sum.1 + child.bytes));
                above.push(ChildPage {
                    first: part[0].first.clone(),
                    id: self.id(PackKind::Meta, &page),
                    entries,
                    bytes,
                });
                pages.push(page);
            }
            children = above;
        }
        (children[0].id, pages)
    }
}

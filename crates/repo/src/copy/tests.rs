use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use lifeboat_model::flow::{Body, BodyError, BodyRead, EntrySink, Piece, Shape};
use lifeboat_model::{EntryKind, EntryMeta, RecoveryPoint, SourceName};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::wrap::{Operation, Record};
use lifeboat_store::{PutMode, Store};
use lifeboat_testkit::context::FakeClock;
use lifeboat_testkit::crash::{CrashStore, InFlight};

use super::*;
use crate::access::Access;
use crate::check::{CheckScope, check};
use crate::error::RepoErrorKind;
use crate::object::ObjectType;
use crate::testing::TestRepository;
use crate::tiny::{Chain, Files, backup, context, files, open, restore};

/// Two repositories, the first with snapshots.
struct Pair {
    clock: Arc<FakeClock>,
    from: TestRepository,
    from_memory: MemoryStore,
    to: TestRepository,
    to_memory: MemoryStore,
    ctx: RunContext,
    chain: Chain,
    scratch: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        let clock = FakeClock::at(TestRepository::start());
        let memory = || MemoryStore::new(Arc::clone(&clock) as _);
        let (from_memory, to_memory) = (memory(), memory());
        let from = TestRepository::create(Arc::new(from_memory.clone())).await;
        let to = TestRepository::create(Arc::new(to_memory.clone())).await;
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        Self { clock, from, from_memory, to, to_memory, ctx, chain: Chain::default(), scratch }
    }

    async fn backup(&mut self, files: &Files) -> SnapshotId {
        let done = backup(&self.from.store, &self.from.writer, files, &mut self.chain, &self.ctx).await;
        done.expect("a backup")
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    async fn source(&self, store: Arc<dyn Store>, cache: &str) -> Repository {
        Repository::open(store, self.from.identity.clone(), &self.cache(cache)).await.expect("opened")
    }

    /// Copies into the second repository's store, which may be wrapped.
    async fn copy_on(
        &self,
        id: SnapshotId,
        from: Arc<dyn Store>,
        to: Arc<dyn Store>,
        cache: &str,
    ) -> Result<Sealed, RepoError> {
        let from = self.source(from, &format!("{cache}-from")).await;
        let to = Repository::open(to, self.to.all.clone(), &self.cache(&format!("{cache}-to"))).await?;
        let mut copier = Copier::new(Arc::new(from), Arc::new(to), &self.ctx).await?;
        copier.copy(&id, then(), WriteOptions::default(), &self.ctx).await
    }

    async fn copy(&self, id: SnapshotId) -> Sealed {
        self.copy_on(id, Arc::clone(&self.from.store), Arc::clone(&self.to.store), "a").await.expect("a copy")
    }

    async fn restored(&self, id: SnapshotId) -> Files {
        let store: Arc<dyn Store> = Arc::new(self.to_memory.clone());
        restore(&open(&store, &self.to.identity, &self.ctx).await, id).await.expect("restored")
    }

    /// What the second repository lists, after it was found whole.
    async fn copies(&self, at: &str) -> Vec<SnapshotId> {
        let store: Arc<dyn Store> = Arc::new(self.to_memory.clone());
        let repository = open(&store, &self.to.identity, &self.ctx).await;
        let report = check(&repository, CheckScope { read_data: true }, &[], &self.ctx).await.expect("checked");
        assert!(report.is_clean(), "{at}: {report:#?}");
        let list = repository.snapshots(&[]).await.expect("listed");
        list.snapshots.iter().filter(|info| info.counts()).map(|info| info.id).collect()
    }
}

/// How old the copied snapshots are said to be.
fn then() -> Timestamp {
    "2025-03-04T05:06:07Z".parse().expect("a time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_restores_equal_and_tells_whose_copy_it_is() {
    let mut pair = Pair::new().await;
    let content = files(1, &["a", "b", "deep/c"], 5);
    let id = pair.backup(&content).await;
    let sealed = pair.copy(id).await;
    assert_ne!(sealed.id, id);
    assert_eq!(pair.restored(sealed.id).await, content);
    assert_eq!(pair.copies("").await, [sealed.id]);
    let to = open(&pair.to.store, &pair.to.identity, &pair.ctx).await;
    let list = to.snapshots(&[]).await.expect("listed");
    let header = &list.snapshots[0].header;
    assert_eq!((header.original, header.copied_from()), (Some(id), Some(id)));
    assert_eq!(list.snapshots[0].dated(), then(), "retention counts by the original's time");
    let [one, other] = [(&pair.from, id), (&pair.to, sealed.id)];
    let body = async |repository: &TestRepository, id: SnapshotId| {
        let opened = open(&repository.store, &repository.identity, &pair.ctx).await;
        opened.root(&id).await.expect("a root").body.expect("open")
    };
    let (one, other) = (body(one.0, one.1).await, body(other.0, other.1).await);
    assert_eq!((one.recovery_point, one.label, one.config), (other.recovery_point, other.label, other.config));
    assert_eq!((one.stack, one.source, one.kind), (other.stack, other.source, other.kind));
    assert_eq!(sealed.stats.new_bytes, 15_000);

    // A copy of the copy names the original, not the copy.
    let third_memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&pair.clock) as _));
    let third = TestRepository::create(third_memory).await;
    let onward = Arc::new(open(&third.store, &third.all, &pair.ctx).await);
    let copier = Copier::new(Arc::new(to), Arc::clone(&onward), &pair.ctx).await;
    let mut copier = copier.expect("two repositories");
    copier.copy(&sealed.id, then(), WriteOptions::default(), &pair.ctx).await.expect("a copy");
    let list = onward.snapshots(&[]).await.expect("listed");
    assert_eq!(list.snapshots[0].header.copied_from(), Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_copied_before_is_neither_stored_nor_read_again() {
    let mut pair = Pair::new().await;
    let mut content = files(1, &["a", "b", "c"], 40);
    let first = pair.backup(&content).await;
    pair.copy(first).await;
    content.extend(files(2, &["d"], 3));
    let second = pair.backup(&content).await;
    // With what the host remembers, and on a host that never copied.
    for (cache, reads_everything) in [("a", false), ("b", true)] {
        let reads = Arc::new(Record::new(Arc::new(pair.from_memory.clone())));
        let to = pair.to_memory.fork();
        let done = pair.copy_on(second, Arc::clone(&reads) as _, Arc::new(to), cache).await.expect("a copy");
        assert_eq!(done.stats.new_bytes, 3000, "{cache}");
        let data = reads.calls().into_iter().filter(|call| call.operation == Operation::Get);
        let packs: std::collections::BTreeSet<_> =
            data.filter(|call| call.key.starts_with("data/")).map(|call| call.key).collect();
        assert_eq!(packs.len(), if reads_everything { 2 } else { 1 }, "{cache}: {packs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_died_late_brings_only_what_is_missing() {
    let pair = Pair::new().await;
    let bytes = noise(64 << 20);
    let id = pair.real_backup(&[("big", Bytes::from(bytes.clone()))]).await;
    let ctx = RunContext { memory_budget_bytes: 64 << 20, ..pair.ctx.clone() };
    let pair = Pair { ctx, ..pair };
    let whole = Arc::new(Record::new(Arc::new(pair.to_memory.fork())));
    pair.copy_on(id, Arc::clone(&pair.from.store), Arc::clone(&whole) as _, "whole").await.expect("a copy");
    let packs = whole.count(Operation::Put, "data/");
    assert!(packs >= 8, "{packs} packs");

    // At the last pack but one, long before the last index object.
    let puts: Vec<_> = whole.calls().into_iter().filter(|call| call.operation == Operation::Put).collect();
    let data = puts.iter().enumerate().filter(|(_, call)| call.key.starts_with("data/"));
    let dies_at = data.map(|(at, _)| at as u64 + 1).nth(packs - 2).expect("there are more");
    let crash = CrashStore::new(Arc::new(pair.to_memory.clone()), dies_at, InFlight::Lost);
    let died = pair.copy_on(id, Arc::clone(&pair.from.store), crash as _, "died").await;
    died.expect_err("the process died");
    let again = Arc::new(Record::new(Arc::new(pair.to_memory.clone())));
    let sealed = pair.copy_on(id, Arc::clone(&pair.from.store), Arc::clone(&again) as _, "again").await;
    let missing = again.count(Operation::Put, "data/");
    assert!(missing + 3 <= packs, "{missing} of {packs} packs were brought again");
    let restored = pair.restored(sealed.expect("a copy").id).await;
    assert!(restored["big"] == before_hole(&bytes), "what was resumed is whole");
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

/// What is at the end of each file of [`Pair::real_backup`].
const HOLE_BYTES: u32 = 70_000;

/// Those bytes, and the hole.
fn before_hole(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    all.resize(bytes.len() + HOLE_BYTES as usize, 0);
    all
}

/// Pieces, the last one first.
struct Holey(Vec<Piece>);

#[async_trait::async_trait]
impl BodyRead for Holey {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        Ok(self.0.pop())
    }
}

fn machine() -> BTreeMap<String, String> {
    BTreeMap::from([("machine.id".to_owned(), "m1".to_owned())])
}

impl Pair {
    /// A snapshot by the writer that backups use.
    async fn real_backup(&self, files: &[(&str, Bytes)]) -> SnapshotId {
        let cache = self.cache("writer");
        let repository = Repository::open(Arc::clone(&self.from.store), self.from.writer.clone(), &cache).await;
        let head = SnapshotHead {
            stack: TestRepository::stack(),
            source: SourceName::new("files").expect("a name"),
            kind: "files".into(),
            label: Some("first".into()),
            config: "stack: test\n".into(),
            stack_run: None,
            system: machine(),
        };
        let repository = repository.expect("opened");
        let writer = repository.writer(head, WriteOptions::default(), self.ctx.clone()).await.expect("a run");
        for (name, bytes) in files {
            let mut pieces = vec![Piece::Hole(HOLE_BYTES.into())];
            pieces.extend(bytes.chunks(1 << 20).rev().map(|part| Piece::Data(bytes.slice_ref(part))));
            let body = Body::Stream { from: Box::new(Holey(pieces)), shape: Shape::Rows };
            let path = EntryPath::new(*name).expect("a path");
            writer.put(&path, &EntryMeta::new(EntryKind::File), None, body).await.expect("stored");
        }
        let skipped = EntryPath::new("secret").expect("a path");
        writer.skip(&skipped, "no right to read it").await.expect("skipped");
        let point = RecoveryPoint { time: TestRepository::start(), consistency: "a walk".into(), facts: machine() };
        writer.seal(point).await.expect("sealed").id
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_entries_holes_and_skips_are_copied_as_they_are() {
    let pair = Pair::new().await;
    let big = Bytes::from(noise(9 << 20));
    let id = pair.real_backup(&[("big", big.clone()), ("small", big.slice(..10))]).await;
    let sealed = pair.copy(id).await;
    let systems = pair.to.identity.domains[&pair.to.writer_key.domain].system_tags(&machine());
    let to = open(&pair.to.store, &pair.to.identity, &pair.ctx).await;
    let root = to.root(&sealed.id).await.expect("its root");
    assert_eq!(root.header.systems, systems, "it tells its original's system by tags of its own domain");
    let entries = async |repository: &TestRepository, id: &SnapshotId| {
        let opened = open(&repository.store, &repository.identity, &pair.ctx).await;
        let reader = opened.reader(id).await.expect("a reader");
        let mut walk = reader.stored_entries();
        let mut shapes = Vec::new();
        while let Some(page) = walk.next_page().await.expect("a page") {
            for entry in page {
                let mut lengths = Vec::new();
                let mut extents = Extents::new(opened.fetcher(), &entry.path, entry.content.clone());
                while let Some(extent) = extents.next().await.expect("an extent") {
                    lengths.push((matches!(extent, Extent::Hole(_)), extent.bytes()));
                }
                let paged = matches!(entry.content, Content::Pages(_));
                shapes.push((entry.path, entry.meta, paged, lengths));
            }
        }
        let body = opened.root(id).await.expect("a root").body.expect("open");
        (shapes, body.problems, body.stats["skips"])
    };
    let original = entries(&pair.from, &id).await;
    assert!(original.0[0].2, "the big one lies on content pages");
    assert_eq!((original.1.len(), original.2), (1, 1));
    assert_eq!(entries(&pair.to, &sealed.id).await, original);
    assert!(pair.restored(sealed.id).await["big"] == before_hole(&big), "the bytes are the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_copied_is_refused_before_anything_is_written() {
    let mut pair = Pair::new().await;
    let id = pair.backup(&files(1, &["a"], 2)).await;
    let before = pair.to_memory.object_count();
    let refused = async |from: &Access, to: &Access, to_store: &Arc<dyn Store>| {
        let from = open(&pair.from.store, from, &pair.ctx).await;
        let to = open(to_store, to, &pair.ctx).await;
        match Copier::new(Arc::new(from), Arc::new(to), &pair.ctx).await {
            Err(error) => error,
            Ok(mut copier) => copier.copy(&id, then(), WriteOptions::default(), &pair.ctx).await.expect_err("refused"),
        }
    };
    let mut unallowed = pair.to.all.clone();
    for writer in &mut unallowed.roster.writers {
        writer.allowed.clear();
    }
    for (from, to, to_store, kind) in [
        (&pair.from.identity, &pair.from.all, &pair.from.store, RepoErrorKind::Usage),
        (&pair.from.writer, &pair.to.all, &pair.to.store, RepoErrorKind::Key),
        (&pair.from.identity, &pair.to.writer, &pair.to.store, RepoErrorKind::Key),
        (&pair.from.identity, &pair.to.identity, &pair.to.store, RepoErrorKind::Key),
        (&pair.from.identity, &unallowed, &pair.to.store, RepoErrorKind::Key),
    ] {
        let error = refused(from, to, to_store).await;
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(pair.to_memory.object_count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hurt_original_is_named_and_makes_no_copy() {
    let mut pair = Pair::new().await;
    let id = pair.backup(&files(1, &["a", "b"], 2)).await;
    for kind in [ObjectType::DataPack, ObjectType::MetaPack] {
        let memory = pair.from_memory.fork();
        let listed: Vec<_> = futures::TryStreamExt::try_collect(memory.list(kind.prefix())).await.expect("listed");
        let key = &listed[0].key;
        let mut bytes = memory.get(key, None).await.expect("got").to_vec();
        bytes[100] ^= 1;
        memory.put(key, bytes.into(), PutMode::Replace).await.expect("put");
        let to = pair.to_memory.fork();
        let error = pair.copy_on(id, Arc::new(memory), Arc::new(to.clone()), kind.prefix().trim_end_matches('/')).await;
        let error = error.expect_err("hurt");
        assert_eq!(error.kind(), RepoErrorKind::Damaged, "{error}");
        if kind == ObjectType::DataPack {
            assert!(error.to_string().contains("a cannot be read"), "{error}");
        }
        let roots: Vec<_> = futures::TryStreamExt::try_collect(to.list("roots/")).await.expect("listed");
        assert_eq!(roots, []);
    }
}

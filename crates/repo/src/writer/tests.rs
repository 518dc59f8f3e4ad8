use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use bytes::Bytes;
use lifeboat_model::flow::{BodyError, BodyRead, Piece, Shape};
use lifeboat_model::{ObjectHash, RecoveryPoint};
use lifeboat_store::StoreErrorKind;
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::wrap::{Call, Fault, Faulty, Operation, Record};
use lifeboat_testkit::context::{FakeClock, run_context};
use proptest::prelude::*;

use super::*;
use crate::object::ObjectType;
use crate::pack::PackKind;
use crate::small::{self, Deleting, Mark, Renewal, Void};
use crate::testing::TestRepository;

mod failures;
mod plain_reader;
mod prune;
mod sliced;

use plain_reader::PlainReader;

/// A repository in memory whose calls are counted, and a host that writes to it.
struct Host {
    repository: TestRepository,
    memory: MemoryStore,
    calls: Arc<Record>,
    clock: Arc<FakeClock>,
    directory: tempfile::TempDir,
}

impl Host {
    async fn new() -> Self {
        let clock = FakeClock::at(TestRepository::start());
        let memory = MemoryStore::new(Arc::clone(&clock) as _);
        let calls = Arc::new(Record::new(Arc::new(memory.clone())));
        let repository = TestRepository::create(Arc::clone(&calls) as _).await;
        Self { repository, memory, calls, clock, directory: tempfile::tempdir().expect("a directory") }
    }

    fn state(&self) -> &Path {
        self.directory.path()
    }

    fn context(&self) -> RunContext {
        let scratch = self.directory.path().join("scratch");
        std::fs::create_dir_all(&scratch).expect("made");
        RunContext { clock: Arc::clone(&self.clock) as _, ..run_context(&scratch) }
    }

    async fn open_on(&self, store: Arc<dyn Store>) -> Result<Repository, RepoError> {
        Repository::open(store, self.repository.writer.clone(), &self.state().join("cache")).await
    }

    async fn begin_on(&self, store: Arc<dyn Store>, context: RunContext) -> Result<SnapshotWriter, RepoError> {
        self.open_on(store).await?.writer(head(), WriteOptions::default(), context).await
    }

    async fn begin(&self) -> SnapshotWriter {
        self.begin_on(Arc::clone(&self.calls) as _, self.context()).await.expect("a run")
    }

    async fn reader(&self) -> PlainReader {
        PlainReader::open(Arc::new(self.memory.clone()), &self.repository.identity).await
    }

    async fn backup(&self, files: &[(&str, Bytes)]) -> Sealed {
        let writer = self.begin().await;
        for (name, bytes) in files {
            put(&writer, name, Body::Bytes(bytes.clone())).await.expect("stored");
        }
        writer.seal(point()).await.expect("sealed")
    }

    /// Names of small objects of one type, decoded.
    async fn small<T: small::Small>(&self) -> Vec<T> {
        let listed: Vec<_> =
            futures::TryStreamExt::try_collect(self.memory.list(T::TYPE.prefix())).await.expect("listed");
        let mut all = Vec::new();
        for meta in listed {
            let bytes = self.memory.get(&meta.key, None).await.expect("got");
            let hash = ObjectHash::from_hex(meta.key.as_str().rsplit('/').next().expect("a name")).expect("a hash");
            all.push(small::decode::<T>(&self.repository.all, hash, &bytes).expect("decoded").value);
        }
        all
    }
}

fn head() -> SnapshotHead {
    SnapshotHead {
        stack: TestRepository::stack(),
        source: SourceName::new("files").expect("a name"),
        kind: "files".into(),
        label: Some("first".into()),
        config: "stack: test\n".into(),
        stack_run: None,
        system: BTreeMap::new(),
    }
}

fn point() -> RecoveryPoint {
    RecoveryPoint { time: TestRepository::start(), consistency: "a walk".into(), facts: BTreeMap::new() }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).expect("a path")
}

fn file() -> EntryMeta {
    EntryMeta { mode: Some(0o644), ..EntryMeta::new(EntryKind::File) }
}

async fn put(writer: &SnapshotWriter, name: &str, body: Body) -> Result<EntryStats, SinkError> {
    let fingerprint = Fingerprint::of(name.as_bytes());
    writer.put(&path(name), &file(), Some(fingerprint), body).await
}

fn noise(seed: u8, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

struct Pieces(VecDeque<Result<Piece, &'static str>>);

#[async_trait]
impl BodyRead for Pieces {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        tokio::task::yield_now().await;
        self.0.pop_front().transpose().map_err(Into::into)
    }
}

fn stream(shape: Shape, pieces: impl IntoIterator<Item = Piece>) -> Body {
    Body::Stream { from: Box::new(Pieces(pieces.into_iter().map(Ok).collect())), shape }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_read_back() {
    let host = Host::new().await;
    let writer = host.begin().await;
    let big = noise(1, 3_000_000);
    let stats = put(&writer, "srv/big", stream(Shape::Stream, [Piece::Data(big.clone())])).await.expect("stored");
    assert_eq!(stats, EntryStats { bytes: 3_000_000, new_bytes: 3_000_000 });
    put(&writer, "srv/small", Body::Bytes(Bytes::from_static(b"small"))).await.expect("stored");
    put(&writer, "srv/empty", Body::Empty).await.expect("stored");
    let dir = EntryMeta::new(EntryKind::Dir);
    writer.put(&path("srv"), &dir, None, Body::Empty).await.expect("stored");
    let sealed = writer.seal(point()).await.expect("sealed");

    assert_eq!((sealed.stats.entries, sealed.stats.bytes), (4, 3_000_005));
    let reader = host.reader().await;
    let files = reader.files(sealed.id).await;
    let names: Vec<String> = files.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["srv", "srv/big", "srv/empty", "srv/small"]);
    assert!(files[&path("srv/big")] == big);
    assert_eq!(files[&path("srv/small")], b"small");
    let entries = reader.entries(sealed.id).await;
    assert_eq!((&entries[0].meta, &entries[3].meta), (&dir, &file()));
    assert_eq!(reader.referenced(sealed.id).await, reader.needed(sealed.id).await);
    let body = reader.root(sealed.id).await.body.expect("a body");
    assert_eq!(
        (body.kind.as_str(), body.label.as_deref(), body.config.as_str()),
        ("files", Some("first"), "stack: test\n")
    );
    assert_eq!(body.recovery_point, point());
    assert_eq!(body.stats["new_bytes"], 3_000_005);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backup_of_the_same_data_puts_no_pack() {
    let host = Host::new().await;
    let names: Vec<String> = (0..2000).map(|n| format!("dir-{}/file-{n}", n % 37)).collect();
    let files: Vec<(&str, Bytes)> = names.iter().map(|name| (name.as_str(), Bytes::from(name.repeat(20)))).collect();
    let first = host.backup(&files).await;
    assert!(host.reader().await.chunks(PackKind::Meta) > 2, "the manifest has several pages");
    assert_eq!(first.stats.packs, 3);

    host.calls.clear();
    let second = host.backup(&files).await;
    assert_eq!((second.stats.packs, second.stats.new_bytes, second.stats.stored_bytes), (0, 0, 0));
    for prefix in ["data/", "meta/", "refs/", "index/"] {
        assert_eq!(host.calls.count(Operation::Put, prefix), 0, "{prefix}");
    }
    assert_eq!(host.calls.count(Operation::Put, ""), 4, "run, two renewals, root");
    let reader = host.reader().await;
    assert_eq!(reader.files(first.id).await, reader.files(second.id).await);
    let header = reader.root(second.id).await.header;
    assert_eq!((header.sequence, header.previous), (2, Some(ObjectHash(first.id.0))));

    host.calls.clear();
    let writer = host.begin().await;
    for name in &names {
        let kept = writer.keep(&path(name), &file(), &Fingerprint::of(name.as_bytes())).await.expect("asked");
        assert!(matches!(kept, Kept::Yes { .. }), "{name}");
    }
    let third = writer.seal(point()).await.expect("sealed");
    assert_eq!((third.stats.packs, third.stats.kept), (0, 2000));
    assert_eq!(host.calls.count(Operation::Put, ""), 4, "run, two renewals, root");
    for prefix in ["data/", "meta/", "refs/", "index/"] {
        assert_eq!(host.calls.count(Operation::Get, prefix), 0, "{prefix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_costs_its_own_chunks_and_the_pages_above_it() {
    let host = Host::new().await;
    let names: Vec<String> = (0..3000).map(|n| format!("f{n:05}")).collect();
    let mut files: Vec<(&str, Bytes)> = names.iter().map(|name| (name.as_str(), Bytes::from(name.repeat(9)))).collect();
    host.backup(&files).await;
    let before = host.reader().await;
    files[1500].1 = Bytes::from_static(b"changed");
    let second = host.backup(&files).await;
    let after = host.reader().await;
    assert_eq!(second.stats.new_bytes, 7);
    assert_eq!(after.chunks(PackKind::Data) - before.chunks(PackKind::Data), 1);
    assert!(before.chunks(PackKind::Meta) > 2, "pages end where a random key says, 12 on average");
    let pages = after.chunks(PackKind::Meta) - before.chunks(PackKind::Meta);
    assert!((2..=3).contains(&pages), "{pages} new pages");
    assert_eq!(after.chunks(PackKind::Refs) - before.chunks(PackKind::Refs), pages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn equal_content_is_stored_once_though_many_put_it_at_the_same_time() {
    let host = Host::new().await;
    let writer = Arc::new(host.begin().await);
    let content = noise(2, 400_000);
    let puts = (0..40).map(|number| {
        let (writer, content) = (Arc::clone(&writer), content.clone());
        tokio::spawn(async move {
            let body = if number % 2 == 0 {
                Body::Bytes(content)
            } else {
                stream(Shape::Stream, [Piece::Data(content.slice(..123)), Piece::Data(content.slice(123..))])
            };
            put(&writer, &format!("copy-{number}"), body).await.expect("stored").new_bytes
        })
    });
    let new: u64 = futures::future::join_all(puts).await.into_iter().map(|done| done.expect("done")).sum();
    assert_eq!(new, 400_000);
    let sealed = Arc::into_inner(writer).expect("the only one").seal(point()).await.expect("sealed");
    assert_eq!((sealed.stats.bytes, sealed.stats.new_bytes), (40 * 400_000, 400_000));
    let reader = host.reader().await;
    assert_eq!(
        reader.copies(),
        reader.chunks(PackKind::Data) + reader.chunks(PackKind::Meta) + reader.chunks(PackKind::Refs)
    );
    assert!(reader.files(sealed.id).await.values().all(|bytes| *bytes == content));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_stay_holes() {
    let host = Host::new().await;
    let writer = host.begin().await;
    let pieces = [Piece::Hole(1 << 40), Piece::Data(noise(3, 5000)), Piece::Hole(4096), Piece::Hole(4096)];
    let stats = put(&writer, "sparse", stream(Shape::Stream, pieces)).await.expect("stored");
    assert_eq!(stats, EntryStats { bytes: (1 << 40) + 5000 + 8192, new_bytes: 5000 });
    let sealed = writer.seal(point()).await.expect("sealed");
    let reader = host.reader().await;
    let entries = reader.entries(sealed.id).await;
    let expected = [Piece::Hole(1 << 40), Piece::Data(noise(3, 5000)), Piece::Hole(8192)];
    assert_eq!(reader.pieces(&entries[0]).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_put_of_a_path_wins() {
    let host = Host::new().await;
    let writer = host.begin().await;
    for number in 0..5 {
        put(&writer, "again", Body::Bytes(Bytes::from(format!("take {number}")))).await.expect("stored");
    }
    put(&writer, "other", Body::Empty).await.expect("stored");
    let sealed = writer.seal(point()).await.expect("sealed");
    assert_eq!(sealed.stats.entries, 2);
    assert_eq!(host.reader().await.files(sealed.id).await[&path("again")], b"take 4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_larger_than_its_memory_is_sorted_on_disk() {
    let host = Host::new().await;
    let context = RunContext { memory_budget_bytes: 64 << 20, ..host.context() };
    let writer = host.begin_on(Arc::new(host.memory.clone()), context).await.expect("a run");
    let deep = "a-long-directory-name/".repeat(10);
    let name = |number: usize| path(&format!("{deep}{:05}", number * 7919 % 20_000));
    for number in (0..20_000).chain(0..10) {
        let meta = EntryMeta { mode: Some(u32::from(number < 10)), ..file() };
        writer.put(&name(number), &meta, Some(Fingerprint([1; 16])), Body::Empty).await.expect("stored");
    }
    let sealed = writer.seal(point()).await.expect("sealed");
    assert_eq!(sealed.stats.entries, 20_000);
    let entries = host.reader().await.entries(sealed.id).await;
    assert!(entries.is_sorted_by(|a, b| a.path < b.path));
    assert_eq!(entries.iter().filter(|entry| entry.meta.mode == Some(1)).count(), 10);
    let writer = host.begin().await;
    let kept = writer.keep(&name(19_999), &file(), &Fingerprint([1; 16])).await.expect("asked");
    assert_eq!(kept, Kept::Yes { bytes: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_nothing_is_one() {
    let host = Host::new().await;
    let sealed = host.begin().await.seal(point()).await.expect("sealed");
    assert_eq!(sealed.stats, SnapshotStats::default());
    let reader = host.reader().await;
    assert!(reader.files(sealed.id).await.is_empty());
    assert!(reader.referenced(sealed.id).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_content_goes_to_pages_of_its_own_and_can_be_kept() {
    let host = Host::new().await;
    // Holes between short stretches make many extents of few bytes.
    let pieces = |seed: u32| {
        (0..6000u32).flat_map(move |n| [Piece::Data(Bytes::from((n ^ seed).to_le_bytes().repeat(4))), Piece::Hole(100)])
    };
    let writer = host.begin().await;
    put(&writer, "long", stream(Shape::Rows, pieces(0))).await.expect("stored");
    let first = writer.seal(point()).await.expect("sealed");
    let reader = host.reader().await;
    let entries = reader.entries(first.id).await;
    assert!(matches!(&entries[0].content, Content::Pages(pages) if pages.len() > 2), "{:?}", entries[0].content);
    assert_eq!(reader.pieces(&entries[0]).await, pieces(0).collect::<Vec<_>>());
    assert_eq!(reader.referenced(first.id).await, reader.needed(first.id).await);

    host.calls.clear();
    let writer = host.begin().await;
    let kept = writer.keep(&path("long"), &file(), &Fingerprint::of(b"long")).await.expect("asked");
    assert_eq!(kept, Kept::Yes { bytes: 6000 * 116 });
    let second = writer.seal(point()).await.expect("sealed");
    assert_eq!((second.stats.packs, second.stats.kept, second.stats.bytes), (0, 1, 6000 * 116));
    // What was kept can be kept again.
    let writer = host.begin().await;
    let kept = writer.keep(&path("long"), &file(), &Fingerprint::of(b"long")).await.expect("asked");
    assert_eq!(kept, Kept::Yes { bytes: 6000 * 116 });
    let third = writer.seal(point()).await.expect("sealed");
    let reader = host.reader().await;
    assert_eq!(reader.entries(third.id).await, entries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_file_is_kept_with_new_metadata() {
    let host = Host::new().await;
    let content = noise(4, 200_000);
    host.backup(&[("kept", content.clone()), ("changed", Bytes::from_static(b"old"))]).await;
    let writer = host.begin().await;
    let meta = EntryMeta { mode: Some(0o600), ..file() };
    let kept = writer.keep(&path("kept"), &meta, &Fingerprint::of(b"kept")).await.expect("asked");
    assert_eq!(kept, Kept::Yes { bytes: 200_000 });
    let other = writer.keep(&path("changed"), &meta, &Fingerprint::of(b"another")).await.expect("asked");
    let unknown = writer.keep(&path("unknown"), &meta, &Fingerprint::of(b"unknown")).await.expect("asked");
    assert_eq!((other, unknown), (Kept::No, Kept::No));
    let sealed = writer.seal(point()).await.expect("sealed");
    let reader = host.reader().await;
    let entries = reader.entries(sealed.id).await;
    assert_eq!((entries.len(), &entries[0].meta), (1, &meta));
    assert!(reader.files(sealed.id).await[&path("kept")] == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_or_damaging_the_local_cache_costs_time_only() {
    let host = Host::new().await;
    let files = [("a", noise(5, 100_000)), ("b", Bytes::from_static(b"b"))];
    host.backup(&files).await;
    let parents = std::fs::read_dir(host.state().join("cache/parents")).expect("a directory");
    let parent = parents.map(|entry| entry.expect("an entry").path()).next().expect("a file");
    let good = std::fs::read(&parent).expect("read");
    for damage in [None, Some(good.len() / 2), Some(0)] {
        match damage {
            None => std::fs::remove_file(&parent).expect("removed"),
            Some(at) => {
                let mut bad = good.clone();
                bad[at] ^= 1;
                std::io::Write::write_all(&mut std::fs::File::create(&parent).expect("made"), &bad).expect("written");
            }
        }
        std::fs::remove_dir_all(host.state().join("cache/index")).expect("removed");
        let writer = host.begin().await;
        let kept = writer.keep(&path("a"), &file(), &Fingerprint::of(b"a")).await.expect("asked");
        assert_eq!(kept, Kept::No);
        for (name, bytes) in &files {
            put(&writer, name, Body::Bytes(bytes.clone())).await.expect("stored");
        }
        let sealed = writer.seal(point()).await.expect("sealed");
        assert_eq!((sealed.stats.packs, sealed.stats.new_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skips_and_problems_are_in_the_snapshot() {
    let host = Host::new().await;
    let writer = host.begin().await;
    put(&writer, "busy", Body::Bytes(Bytes::from_static(b"x"))).await.expect("stored");
    writer.problem(&path("busy"), "it changed while it was read").await.expect("taken");
    writer.skip(&path("secret"), "permission denied").await.expect("taken");
    let sealed = writer.seal(point()).await.expect("sealed");
    assert_eq!((sealed.stats.skips, sealed.stats.problems), (1, 1));
    let expected =
        [(path("busy"), "it changed while it was read".to_owned()), (path("secret"), "permission denied".into())];
    assert_eq!(sealed.problems, expected);
    let reader = host.reader().await;
    let entries = reader.entries(sealed.id).await;
    assert_eq!((entries[1].meta.kind, entries[1].meta.why.as_deref()), (EntryKind::Skipped, Some("permission denied")));
    assert_eq!(reader.root(sealed.id).await.body.expect("a body").problems.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remembered_head_counts_where_the_store_shows_less() {
    let host = Host::new().await;
    let first = host.backup(&[("a", Bytes::from_static(b"a"))]).await;
    let second = host.backup(&[("a", Bytes::from_static(b"b"))]).await;
    let key = ObjectType::SnapshotRoot.key(ObjectHash(second.id.0));
    host.memory.delete(&key).await.expect("deleted");
    let remembered = WriteOptions { remembered: Some(second.head.clone()), ..WriteOptions::default() };
    let repository = host.open_on(Arc::clone(&host.calls) as _).await.expect("opened");
    let writer = repository.writer(head(), remembered, host.context()).await.expect("a run");
    let third = writer.seal(point()).await.expect("sealed");
    assert_eq!((first.head.sequence, second.head.sequence, third.head.sequence), (1, 2, 3));
    let header = host.reader().await.root(third.id).await.header;
    assert_eq!(header.previous, Some(second.head.root));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_tree_is_read_back(
        files in prop::collection::btree_map("[a-c]{1,2}(/[a-d]{1,3}){0,3}", prop::collection::vec((any::<u8>(), 0usize..90_000), 0..4), 0..60),
        twice in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let host = Host::new().await;
            let contents: BTreeMap<EntryPath, Vec<u8>> = files
                .iter()
                .map(|(name, parts)| {
                    (path(name), parts.iter().flat_map(|(seed, length)| noise(seed % 5, *length)).collect())
                })
                .collect();
            let mut last = None;
            for _ in 0..=u8::from(twice) {
                let writer = host.begin().await;
                for (path, bytes) in contents.iter().rev() {
                    let pieces = bytes.chunks(33_333).map(|part| Piece::Data(Bytes::copy_from_slice(part)));
                    let body = stream(Shape::Rows, pieces.collect::<Vec<_>>());
                    writer.put(path, &file(), None, body).await.expect("stored");
                }
                last = Some(writer.seal(point()).await.expect("sealed"));
            }
            let sealed = last.expect("sealed");
            let reader = host.reader().await;
            assert!(reader.files(sealed.id).await == contents);
            assert_eq!(reader.referenced(sealed.id).await, reader.needed(sealed.id).await);
        });
    }
}

//! What upkeep and reading take of memory does not grow with the number of chunks: the same works on a
//! small repository and on one of five times as many chunks, each peak of the heap measured.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lifeboat_model::flow::{Body, EntryReader, EntrySink, RunContext};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint, SnapshotId, SourceName, StackName};
use lifeboat_repo::check::{Budget, CheckScope, ReadBefore, check, check_since};
use lifeboat_repo::copy::Copier;
use lifeboat_repo::forget::forget;
use lifeboat_repo::prune::{PruneOptions, prune};
use lifeboat_repo::repair::Repair;
use lifeboat_repo::{
    CreateOptions, Creation, Keys, RememberedHead, Repository, SnapshotHead, WriteOptions, open_access,
};
use lifeboat_store::Store;
use lifeboat_store::local::LocalStore;
use lifeboat_testkit::context::run_context;
use lifeboat_wire::clock::SystemClock;
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Chunks that are new in each snapshot, so that every pack and index object has the same size in both.
const FRESH: u64 = 1000;
const SNAPSHOTS: [u64; 2] = [6, 30];
/// What one more chunk may cost: a filter's bits, its share of packs, index objects and roots, and of the
/// sorted runs that are joined. Its id alone has 32 bytes.
const BYTES_PER_CHUNK: usize = 16;

fn stack() -> StackName {
    StackName::new("test").expect("a name")
}

/// A repository in a directory, with the cache of the one machine that uses it.
struct Site {
    directory: tempfile::TempDir,
    ctx: RunContext,
    store: Arc<dyn Store>,
    keys: Keys,
    sealed: Vec<SnapshotId>,
    head: Option<RememberedHead>,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let store: Arc<dyn Store> = Arc::new(LocalStore::create(&at("store")).expect("a store"));
        std::fs::create_dir(at("scratch")).expect("a directory");
        // So small that everything is sorted on the disk.
        let ctx =
            RunContext { clock: Arc::new(SystemClock), memory_budget_bytes: 4 << 20, ..run_context(&at("scratch")) };
        let made = Creation::new(CreateOptions { now: ctx.clock.now(), grace_seconds: 60, stack: stack() });
        made.put(&store).await.expect("made");
        let keys = Keys {
            writer: Some(made.writer.clone()),
            maintainer: Some(made.maintainer.clone()),
            identity: Some(made.owner.identity.clone()),
        };
        Self { directory, ctx, store, keys, sealed: Vec::new(), head: None }
    }

    async fn open(&self) -> Arc<Repository> {
        let access = open_access(&self.store, &self.keys, None).await.expect("opened").access;
        let cache = self.directory.path().join("cache");
        Arc::new(Repository::open(Arc::clone(&self.store), access, &cache).await.expect("a repository"))
    }

    /// Files that are new, and one in four of those that were new before.
    async fn back_up(&mut self, number: u64) {
        let head = SnapshotHead {
            stack: stack(),
            source: SourceName::new("data").expect("a name"),
            kind: "files".to_owned(),
            label: None,
            config: String::new(),
            stack_run: None,
            system: BTreeMap::new(),
        };
        let options = WriteOptions { threads: Some(1), remembered: self.head.take(), ..WriteOptions::default() };
        let writer = self.open().await.writer(head, options, self.ctx.clone()).await.expect("a run");
        let fresh = number * FRESH..(number + 1) * FRESH;
        let kept = (fresh.start.saturating_sub(FRESH)..fresh.start).filter(|file| file % 4 == 3);
        for file in kept.chain(fresh) {
            let content = blake3::hash(&file.to_le_bytes()).as_bytes().to_vec();
            let meta = EntryMeta::new(EntryKind::File);
            writer.put(&path(file), &meta, None, Body::Bytes(content.into())).await.expect("a file is put");
        }
        let point = RecoveryPoint { time: self.ctx.clock.now(), consistency: String::new(), facts: BTreeMap::new() };
        let sealed = writer.seal(point).await.expect("sealed");
        self.sealed.push(sealed.id);
        self.head = Some(sealed.head);
    }

    /// Makes all objects older than the grace period.
    fn age(&self) {
        fn each(directory: &Path, long_ago: SystemTime) {
            for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
                let path = entry.path();
                if path.is_dir() {
                    each(&path, long_ago);
                    continue;
                }
                let file = File::open(&path).expect("an object");
                let time = file.metadata().and_then(|meta| meta.modified()).expect("a time");
                file.set_modified(time.min(long_ago)).expect("set");
            }
        }
        let now = File::create(self.directory.path().join("now")).and_then(|file| file.metadata());
        let now = now.and_then(|meta| meta.modified()).expect("a time");
        each(&self.directory.path().join("store"), now - Duration::from_hours(1));
    }

    /// What each work takes of the heap at its peak, in the order in which one may follow the other.
    async fn works(&self, peaks: &mut Peaks) {
        let (ctx, newest) = (&self.ctx, *self.sealed.last().expect("a snapshot"));
        let repository = peaks.of("open", self.open()).await;
        let list = peaks.of("list", repository.snapshots(&[])).await.expect("listed");
        assert_eq!(list.snapshots.len(), self.sealed.len());
        drop(list);
        let reader = repository.reader(&newest).await.expect("a reader");
        let file = path(self.sealed.len() as u64 * FRESH - 1);
        let entry = peaks.of("one entry", reader.entry(&file)).await.expect("looked up");
        assert!(entry.is_some(), "{file} is in the newest snapshot");
        drop(reader);
        // What it leaves in the cache of packs is the same for those that follow.
        check(&repository, CheckScope::default(), &[], ctx).await.expect("checked");
        for (name, read_data) in [("check", false), ("check of all data", true)] {
            let report = peaks.of(name, check(&repository, CheckScope { read_data }, &[], ctx)).await.expect("checked");
            assert!(report.is_clean(), "{report:?}");
        }
        let before = ReadBefore::new();
        let since = peaks.of("check since last", check_since(&repository, &before, Budget::default(), &[], ctx)).await;
        assert!(since.expect("checked").report.is_clean());
        let look = Repair::look(&repository, CheckScope::default(), &[], ctx);
        assert!(peaks.of("look of a repair", look).await.expect("looked").plan(&repository).is_empty());
        let refill = async { Copier::within(Arc::clone(&repository), ctx).await?.refill(&newest, ctx).await };
        peaks.of("copy", refill).await.expect("copied");
        let old = &self.sealed[..self.sealed.len() / 2];
        peaks.of("forget", forget(&repository, old, "a test", ctx)).await.expect("forgotten");
        self.age();
        let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
        let report = peaks.of("plan of a prune", prune(&repository, &options, ctx)).await.expect("planned");
        assert!(report.marked_packs > 0, "{report:?}");
    }
}

/// The peak of each work, above what was in memory before.
#[derive(Default)]
struct Peaks(Vec<(&'static str, usize)>);

impl Peaks {
    async fn of<T>(&mut self, name: &'static str, work: impl Future<Output = T>) -> T {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let done = work.await;
        self.0.push((name, HEAP.peak_usage().saturating_sub(before)));
        done
    }
}

fn path(file: u64) -> EntryPath {
    EntryPath::new(format!("srv/{file:06}")).expect("a path")
}

// The only test that runs here: memory is counted for the whole process.
#[tokio::test]
async fn no_work_takes_memory_for_each_chunk_of_the_repository() {
    let mut measured = Vec::new();
    for snapshots in SNAPSHOTS {
        let mut site = Site::new().await;
        for number in 0..snapshots {
            site.back_up(number).await;
        }
        let mut peaks = Peaks::default();
        site.works(&mut peaks).await;
        measured.push(peaks.0);
    }
    let more = usize::try_from((SNAPSHOTS[1] - SNAPSHOTS[0]) * FRESH).expect("few");
    let [small, large] = &measured[..] else { panic!("two repositories were measured") };
    let grown: Vec<_> = small.iter().zip(large).map(|((name, small), (_, large))| (*name, *small, *large)).collect();
    for (name, small, large) in &grown {
        let allowed = small + more * BYTES_PER_CHUNK;
        assert!(*large <= allowed, "{name} took {large} bytes, {allowed} are allowed; all: {grown:?}");
    }
}

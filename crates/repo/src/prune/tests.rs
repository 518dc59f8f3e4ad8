use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use lifeboat_model::SnapshotId;
use lifeboat_model::flow::{Clock, RunContext};
use lifeboat_store::Store;
use lifeboat_store::memory::MemoryStore;
use lifeboat_testkit::context::FakeClock;
use lifeboat_testkit::stale::StaleStore;

use super::*;
mod large;
mod model;

use crate::forget::forget;
use crate::interrupted::Interrupted;
use crate::testing::TestRepository;
use crate::tiny::{Chain, Files, TinyRun, backup, context, files, open, restore};

/// The grace period of the test repository, and a bit.
const GRACE: Duration = Duration::from_secs(61);

struct House {
    memory: MemoryStore,
    clock: Arc<FakeClock>,
    store: Arc<dyn Store>,
    repository: TestRepository,
    ctx: RunContext,
    chain: Chain,
    _scratch: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        Self::with(FakeClock::at(TestRepository::start())).await
    }

    async fn with(clock: Arc<FakeClock>) -> Self {
        Self::on(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>), clock).await
    }

    /// With a store whose clock may be another.
    async fn on(memory: MemoryStore, clock: Arc<FakeClock>) -> Self {
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        let repository = TestRepository::create(Arc::clone(&store)).await;
        Self { memory, clock, store, repository, ctx, chain: Chain::default(), _scratch: scratch }
    }

    async fn backup(&mut self, files: &Files) -> SnapshotId {
        self.clock.advance(Duration::from_secs(1));
        backup(&self.store, &self.repository.writer, files, &mut self.chain, &self.ctx).await.expect("a backup")
    }

    async fn forget(&self, id: SnapshotId) {
        let repository = open(&self.store, &self.repository.maintainer, &self.ctx).await;
        forget(&repository, &[id], "a test", &self.ctx).await.expect("forgotten");
    }

    async fn prune(&self) -> PruneReport {
        let repository = open(&self.store, &self.repository.maintainer, &self.ctx).await;
        prune(&repository, &PruneOptions::default(), &self.ctx).await.expect("a prune")
    }

    /// Lets the grace period pass.
    fn wait(&self) {
        self.clock.advance(GRACE);
    }

    async fn restores(&self, id: SnapshotId, files: &Files) {
        let repository = open(&self.store, &self.repository.identity, &self.ctx).await;
        assert_eq!(restore(&repository, id).await.expect("restored"), *files);
    }

    async fn names(&self, prefix: &str) -> BTreeSet<String> {
        self.store.list(prefix).map_ok(|object| object.key.to_string()).try_collect().await.expect("listed")
    }
}

#[tokio::test]
async fn what_no_snapshot_needs_is_marked_then_deleted_after_the_grace_period() {
    let mut house = House::new().await;
    let (old, new) = (files(1, &["a", "b", "c"], 3), files(2, &["a", "b", "c"], 3));
    let first = house.backup(&old).await;
    let second = house.backup(&new).await;
    house.forget(first).await;
    house.wait();
    let before = house.names("").await;
    let marked = house.prune().await;
    assert_eq!((marked.deleted_objects, marked.marked_packs), (0, 3), "{marked:?}");
    assert_eq!(house.names("data/").await.len(), 2, "marking deletes nothing");
    let early = house.prune().await;
    assert!(matches!(early.waits[..], [Wait::Grace { .. }]), "{early:?}");
    house.wait();
    let done = house.prune().await;
    assert_eq!((done.waits.len(), done.refused.len()), (0, 0), "{done:?}");
    assert!(done.deleted_bytes > 9000, "{done:?}");
    for kind in ["data/", "meta/", "refs/", "index/", "roots/"] {
        assert_eq!(house.names(kind).await.len(), 1, "{kind} {before:?}");
    }
    house.restores(second, &new).await;
}

#[tokio::test]
async fn a_prune_with_nothing_to_do_changes_nothing() {
    let mut house = House::new().await;
    house.backup(&files(1, &["a"], 2)).await;
    house.wait();
    let before = house.names("").await;
    let report = house.prune().await;
    assert_eq!(report, PruneReport::default());
    assert_eq!(house.names("").await, before);
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let mut house = House::new().await;
    let id = house.backup(&files(1, &["a"], 2)).await;
    house.forget(id).await;
    house.wait();
    let before = house.names("").await;
    let repository = open(&house.store, &house.repository.maintainer, &house.ctx).await;
    let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let report = prune(&repository, &options, &house.ctx).await.expect("a plan");
    assert_eq!(report.marked_packs, 3, "{report:?}");
    assert_eq!(house.names("").await, before);
}

#[tokio::test]
async fn a_partly_used_pack_is_packed_anew_without_being_read() {
    let mut house = House::new().await;
    let both = files(1, &["kept", "lost"], 5);
    let first = house.backup(&both).await;
    let kept: Files = both.iter().filter(|(name, _)| *name == "kept").map(|(n, b)| (n.clone(), b.clone())).collect();
    let second = house.backup(&kept).await;
    house.forget(first).await;
    house.wait();
    let marked = house.prune().await;
    assert!(marked.repacked_packs > 0, "{marked:?}");
    house.restores(second, &kept).await;
    house.wait();
    house.prune().await;
    house.restores(second, &kept).await;
    let data: Vec<_> = house.store.list("data/").try_collect().await.expect("listed");
    assert_eq!(data.len(), 1);
    assert!(data[0].bytes < 8000, "{} bytes of which 5000 are needed", data[0].bytes);
    house.wait();
    house.wait();
    house.wait();
    house.prune().await;
    assert_eq!(house.names("mark/").await.len() + house.names("deleting/").await.len(), 0, "old marks go as well");
    let last = house.prune().await;
    assert_eq!(last, PruneReport::default(), "a prune comes to rest");
    house.restores(second, &kept).await;
}

#[tokio::test]
async fn what_an_open_run_uses_is_kept_when_the_run_has_pinned_it() {
    let mut house = House::new().await;
    let content = files(1, &["a", "b"], 3);
    let id = house.backup(&content).await;
    house.wait();
    let mut run = TinyRun::begin(&house.store, &house.repository.writer, "files", &house.ctx).await.expect("begun");
    let pages = run.add(&content);
    house.forget(id).await;
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(house.prune().await.marked_packs, 3);
    let packs = async || [house.names("data/").await, house.names("meta/").await, house.names("refs/").await];
    let before = packs().await;
    // The run goes on for longer than the grace period, and gives signs of life.
    for _ in 0..3 {
        house.clock.advance(Duration::from_secs(25));
        let report = house.prune().await;
        assert_eq!(packs().await, before, "{report:?}");
        run.renew(false).await.expect("renewed");
    }
    let report = house.prune().await;
    assert_eq!(packs().await, before, "the pinned packs stay: {report:?}");
    let second = run.seal(pages, &mut house.chain).await.expect("sealed");
    house.restores(second, &content).await;
    for _ in 0..4 {
        house.wait();
        house.prune().await;
        house.restores(second, &content).await;
    }
}

#[tokio::test]
async fn a_run_that_was_silent_for_too_long_fails_instead_of_naming_what_is_gone() {
    let mut house = House::new().await;
    let content = files(1, &["a"], 3);
    let id = house.backup(&content).await;
    let mut run = TinyRun::begin(&house.store, &house.repository.writer, "files", &house.ctx).await.expect("begun");
    let pages = run.add(&content);
    house.forget(id).await;
    house.wait();
    house.wait();
    house.prune().await;
    house.wait();
    house.prune().await;
    assert_eq!(house.names("data/").await.len(), 0);
    run.seal(pages, &mut house.chain).await.expect_err("voided");
    let repository = open(&house.store, &house.repository.identity, &house.ctx).await;
    let list = repository.snapshots(&[]).await.expect("listed");
    assert!(list.snapshots.iter().all(|snapshot| !snapshot.counts()), "{list:?}");
    house.wait();
    let report = house.prune().await;
    assert_eq!(report.refused, [], "a void root needs nothing");
}

#[tokio::test]
async fn packs_of_a_run_that_is_still_open_are_left_alone_however_old_they_are() {
    let mut house = House::new().await;
    let content = files(1, &["a", "b"], 3);
    let mut run = TinyRun::begin(&house.store, &house.repository.writer, "files", &house.ctx).await.expect("begun");
    house.clock.advance(Duration::from_secs(1));
    let pages = run.add(&content);
    run.flush().await.expect("put");
    for _ in 0..5 {
        house.clock.advance(Duration::from_secs(30));
        run.renew(false).await.expect("renewed");
        assert_eq!(house.prune().await.marked_packs, 0);
    }
    let id = run.seal(pages, &mut house.chain).await.expect("sealed");
    house.restores(id, &content).await;
}

#[tokio::test]
async fn what_a_dead_run_left_is_deleted() {
    let house = House::new().await;
    let mut run = TinyRun::begin(&house.store, &house.repository.writer, "files", &house.ctx).await.expect("begun");
    run.add(&files(1, &["a"], 3));
    run.flush().await.expect("put");
    drop(run);
    house.wait();
    house.wait();
    assert_eq!(house.prune().await.marked_packs, 3);
    for _ in 0..4 {
        house.wait();
        house.prune().await;
    }
    for prefix in ["data/", "meta/", "refs/", "run/", "renewal/", "mark/", "deleting/"] {
        assert_eq!(house.names(prefix).await.len(), 0, "{prefix}");
    }
}

#[tokio::test]
async fn an_unknown_kind_of_root_or_a_root_that_cannot_be_read_stops_the_prune() {
    let mut house = House::new().await;
    let id = house.backup(&files(1, &["a"], 3)).await;
    house.forget(id).await;
    house.wait();
    let unknown = lifeboat_store::Key::new(format!("roots/log/{}", "0".repeat(64))).expect("a key");
    crate::forget::put(&house.store, &unknown, bytes::Bytes::from_static(b"x")).await.expect("put");
    let report = house.prune().await;
    assert_eq!((report.marked_packs, report.refused.len()), (0, 1), "{report:?}");
    house.store.delete(&unknown).await.expect("deleted");
    let hash = Digest::of(b"forged");
    let forged = ObjectType::SnapshotRoot.key(ObjectHash(hash));
    crate::forget::put(&house.store, &forged, bytes::Bytes::from_static(b"forged")).await.expect("put");
    let report = house.prune().await;
    assert_eq!((report.marked_packs, report.refused.len()), (0, 1), "{report:?}");
    house.forget(SnapshotId(hash)).await;
    assert_eq!(house.prune().await.marked_packs, 3, "a forged root that was forgotten is in nobody's way");
}

#[tokio::test]
async fn a_missing_chunk_stops_the_prune() {
    let mut house = House::new().await;
    let first = house.backup(&files(1, &["a"], 3)).await;
    let before = house.names("data/").await;
    house.backup(&files(2, &["a"], 3)).await;
    house.forget(first).await;
    let lost = house.names("data/").await.into_iter().find(|name| !before.contains(name)).expect("a pack");
    house.store.delete(&lifeboat_store::Key::new(lost).expect("a key")).await.expect("deleted");
    house.wait();
    let report = house.prune().await;
    assert_eq!((report.marked_packs, report.refused.len()), (0, 1), "{report:?}");
}

#[tokio::test]
async fn a_writer_may_neither_prune_nor_forget() {
    let mut house = House::new().await;
    let id = house.backup(&files(1, &["a"], 1)).await;
    let repository = open(&house.store, &house.repository.writer, &house.ctx).await;
    let refused = prune(&repository, &PruneOptions::default(), &house.ctx).await.expect_err("refused");
    assert_eq!(refused.kind().exit_code(), 12);
    let refused = forget(&repository, &[id], "a test", &house.ctx).await.expect_err("refused");
    assert_eq!(refused.kind().exit_code(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_root_that_the_list_does_not_show_yet_is_seen_before_anything_is_deleted() {
    let mut house = House::with(FakeClock::with_tokio(TestRepository::start())).await;
    let clock = Arc::clone(&house.clock) as Arc<dyn Clock>;
    house.store = Arc::new(StaleStore::new(Arc::clone(&house.store), Duration::from_secs(5), clock));
    let first = house.backup(&files(1, &["a"], 3)).await;
    house.wait();
    house.forget(first).await;
    house.wait();
    assert_eq!(house.prune().await.marked_packs, 3);
    house.wait();
    house.wait();
    let before = house.names("").await;
    let store = Arc::clone(&house.store);
    let late = Interrupted::by(&house.store, "deleting/", async move {
        let root = ObjectType::SnapshotRoot.key(ObjectHash(Digest::of(b"late")));
        crate::forget::put(&store, &root, bytes::Bytes::from_static(b"late")).await.expect("put");
    });
    let repository = open(&late, &house.repository.maintainer, &house.ctx).await;
    let report = prune(&repository, &PruneOptions::default(), &house.ctx).await.expect("a prune");
    assert!(report.problems.iter().any(|problem| problem.contains("sealed")), "{report:?}");
    for kind in ["data/", "meta/", "refs/", "index/"] {
        let names = house.names(kind).await;
        assert!(before.iter().filter(|name| name.starts_with(kind)).all(|name| names.contains(name)), "{kind}");
    }
}

#[tokio::test]
async fn a_void_root_that_is_deleted_leaves_no_hole_in_its_chain() {
    let mut house = House::new().await;
    house.backup(&files(1, &["a"], 1)).await;
    let void = house.backup(&files(2, &["a"], 1)).await;
    let writer = house.repository.writer.writer.clone().expect("a writer");
    let word = crate::small::Void { snapshot: void, why: "a test".into(), time: TestRepository::start() };
    let key = &house.repository.writer.domains[&writer.domain].index;
    let (name, bytes) = small::encode(&word, key, &writer.sign);
    crate::forget::put(&house.store, &name, bytes).await.expect("put");
    let identity = open(&house.store, &house.repository.identity, &house.ctx).await;
    let heads = identity.snapshots(&[]).await.expect("listed").heads();
    house.backup(&files(3, &["a"], 1)).await;
    for _ in 0..6 {
        house.wait();
        house.prune().await;
    }
    let list = identity.snapshots(&heads).await.expect("listed");
    assert_eq!((list.snapshots.len(), list.findings), (2, vec![]), "the void one is gone, and nobody is alarmed");
    assert!(house.names("void/").await.is_empty());
}

#[tokio::test]
async fn damaged_words_of_runs_go_when_they_can_tell_of_no_open_run_any_more() {
    let mut house = House::new().await;
    let content = files(1, &["a", "b"], 2);
    let id = house.backup(&content).await;
    let mut words = house.names("run/").await;
    words.extend(house.names("renewal/").await);
    assert!(words.len() >= 2, "{words:?}");
    for name in &words {
        let key = lifeboat_store::Key::new(name.as_str()).expect("a name");
        let mut bytes = house.store.get(&key, None).await.expect("got").to_vec();
        bytes[20] ^= 1;
        house.store.put(&key, bytes.into(), lifeboat_store::PutMode::Replace).await.expect("put");
    }
    let young = house.prune().await;
    assert_eq!((young.deleted_objects, young.problems.len()), (0, words.len()), "{young:?}");
    house.wait();
    let repository = open(&house.store, &house.repository.maintainer, &house.ctx).await;
    let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let planned = prune(&repository, &options, &house.ctx).await.expect("a plan");
    let done = house.prune().await;
    for report in [&planned, &done] {
        assert_eq!((report.deleted_objects, report.problems.len()), (words.len() as u64, 0), "{report:?}");
        assert!(report.deleted_bytes > 0);
    }
    assert!(house.names("run/").await.is_empty() && house.names("renewal/").await.is_empty());
    house.restores(id, &content).await;
}

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_model::flow::Clock;
use lifeboat_model::{ObjectHash, SnapshotId};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{Key, PutMode, Store};
use lifeboat_testkit::context::FakeClock;

use super::*;
use crate::access::Access;
use crate::forget::{forget, hold};
use crate::prune::{PruneOptions, prune};
use crate::testing::TestRepository;
use crate::tiny::{Chain, Files, backup, context, files, open, restore_each};

mod matrix;

const READ_DATA: CheckScope = CheckScope { read_data: true };

struct House {
    memory: MemoryStore,
    clock: Arc<FakeClock>,
    store: Arc<dyn Store>,
    repository: TestRepository,
    ctx: RunContext,
    chain: Chain,
    snapshots: Vec<(SnapshotId, Files)>,
    _scratch: tempfile::TempDir,
}

impl House {
    /// Two snapshots that share half of their files, a forgotten one, a held one, and a mark.
    async fn new() -> Self {
        let clock = FakeClock::at(TestRepository::start());
        let memory = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        let repository = TestRepository::create(Arc::clone(&store)).await;
        let chain = Chain::default();
        let mut house = Self { memory, clock, store, repository, ctx, chain, snapshots: Vec::new(), _scratch: scratch };
        let gone = house.backup(&files(9, &["gone"], 2)).await;
        let mut content = files(1, &["a", "b", "c"], 3);
        house.backup(&content).await;
        content.extend(files(2, &["c", "d"], 3));
        let held = house.backup(&content).await;
        let maintainer = open(&house.store, &house.repository.maintainer, &house.ctx).await;
        forget(&maintainer, &[gone], "a test", &house.ctx).await.expect("forgotten");
        hold(&maintainer, held, "a test", &house.ctx).await.expect("held");
        house.snapshots.remove(0);
        house.clock.advance(Duration::from_secs(100));
        prune(&maintainer, &PruneOptions::default(), &house.ctx).await.expect("marked");
        house
    }

    async fn backup(&mut self, files: &Files) -> SnapshotId {
        let writer = &self.repository.writer;
        let id = backup(&self.store, writer, files, &mut self.chain, &self.ctx).await.expect("a backup");
        self.snapshots.push((id, files.clone()));
        id
    }

    async fn check(&self, store: &Arc<dyn Store>, access: &Access, scope: CheckScope) -> CheckReport {
        let repository = open(store, access, &self.ctx).await;
        check(&repository, scope, &[], &self.ctx).await.expect("a check")
    }

    async fn objects(&self) -> BTreeMap<Key, Bytes> {
        let listed: Vec<_> = self.store.list("").try_collect().await.expect("listed");
        let mut objects = BTreeMap::new();
        for object in listed {
            let bytes = self.store.get(&object.key, None).await.expect("got");
            objects.insert(object.key, bytes);
        }
        objects
    }

    /// Every entry that the report does not name restores as it was.
    async fn the_rest_restores(&self, store: &Arc<dyn Store>, report: &CheckReport, at: &str) {
        let named: Vec<&String> = report.problems.iter().flat_map(|problem| &problem.entries).collect();
        let bad_roots: BTreeSet<&str> = report.problems.iter().map(|problem| problem.object.as_str()).collect();
        let repository = open(store, &self.repository.identity, &self.ctx).await;
        for (id, files) in &self.snapshots {
            let root = ObjectType::SnapshotRoot.key(ObjectHash(id.0));
            if bad_roots.contains(root.as_str()) || store.get(&root, None).await.is_err() {
                continue;
            }
            let label = format!("test/files@{}:", id.short());
            let is_named = |path: &str| {
                named.iter().filter_map(|entry| entry.strip_prefix(&label)).any(|entry| {
                    let from = entry.strip_suffix(" and what follows");
                    entry == path || entry == "everything" || from.is_some_and(|from| path >= from)
                })
            };
            for (path, bytes) in files {
                let restored = restore_each(&repository, *id, path).await;
                match restored {
                    Ok(restored) => assert_eq!(restored, *bytes, "{at}: {path}"),
                    Err(error) => assert!(is_named(path), "{at}: {path} is hurt ({error}) and not named: {report:#?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_sound_repository_is_clean_for_every_role() {
    let house = House::new().await;
    for (access, snapshots) in
        [(&house.repository.identity, 2), (&house.repository.maintainer, 2), (&house.repository.writer, 2)]
    {
        for scope in [CheckScope::default(), READ_DATA] {
            let report = house.check(&house.store, access, scope).await;
            assert!(report.is_clean(), "{report:#?}");
            assert_eq!(report.snapshots, snapshots);
            assert_eq!(report.objects, house.memory.object_count() as u64);
        }
    }
}

#[tokio::test]
async fn a_missing_pack_that_a_snapshot_needs_is_named_with_its_entries_without_reading_data() {
    let house = House::new().await;
    let needed = house.check(&house.store, &house.repository.identity, CheckScope::default()).await;
    assert!(needed.is_clean());
    let mut found = 0;
    for key in house.objects().await.into_keys().filter(|key| key.as_str().starts_with("data/")) {
        let store: Arc<dyn Store> = Arc::new(house.memory.fork());
        store.delete(&key).await.expect("deleted");
        let report = house.check(&store, &house.repository.identity, CheckScope::default()).await;
        if let Some(problem) = report.problems.iter().find(|problem| problem.object == key.as_str()) {
            assert_eq!(problem.kind, ProblemKind::Missing);
            assert!(problem.entry_count > 0, "{report:#?}");
            found += 1;
        }
    }
    assert_eq!(found, 2, "the third pack holds only what was forgotten");
}

#[tokio::test]
async fn a_flipped_bit_hits_the_entries_of_one_record_only() {
    let house = House::new().await;
    let id = house.snapshots[0].0;
    let list = open(&house.store, &house.repository.identity, &house.ctx).await;
    let root = list.root(&id).await.expect("a root");
    assert!(root.body.is_some());
    let mut hits = 0;
    for (key, bytes) in house.objects().await.into_iter().filter(|(key, _)| key.as_str().starts_with("data/")) {
        let store: Arc<dyn Store> = Arc::new(house.memory.fork());
        let mut changed = bytes.to_vec();
        changed[100] ^= 1;
        store.put(&key, changed.into(), PutMode::Replace).await.expect("put");
        let report = house.check(&store, &house.repository.identity, READ_DATA).await;
        let problem = report.problems.iter().find(|problem| problem.object == key.as_str()).expect("named");
        assert!(problem.what.contains("1 of"), "{problem:?}");
        assert!(problem.entries.iter().all(|entry| entry.contains("test/files@")), "{problem:?}");
        assert!(problem.entry_count <= 2, "one file of at most two snapshots: {problem:?}");
        hits += problem.entry_count;
    }
    assert!(hits >= 2, "{hits}");
}

#[tokio::test]
async fn a_damaged_copy_is_named_although_another_serves() {
    let mut house = House::new().await;
    // The same content by a run that sees no index: everything is stored twice.
    let hidden: Vec<Key> = house.objects().await.into_keys().filter(|key| key.as_str().starts_with("index/")).collect();
    let kept: Vec<(Key, Bytes)> = house.objects().await.into_iter().filter(|(key, _)| hidden.contains(key)).collect();
    for key in &hidden {
        house.store.delete(key).await.expect("hidden");
    }
    let content = house.snapshots[0].1.clone();
    house.backup(&content).await;
    for (key, bytes) in kept {
        house.store.put(&key, bytes, PutMode::CreateNew).await.expect("back");
    }
    for (key, bytes) in house.objects().await.into_iter().filter(|(key, _)| key.as_str().starts_with("data/")) {
        let store: Arc<dyn Store> = Arc::new(house.memory.fork());
        let mut changed = bytes.to_vec();
        changed[100] ^= 1;
        store.put(&key, changed.into(), PutMode::Replace).await.expect("put");
        let report = house.check(&store, &house.repository.identity, READ_DATA).await;
        let problem = report.problems.iter().find(|problem| problem.object == key.as_str()).expect("named");
        house.the_rest_restores(&store, &report, key.as_str()).await;
        if problem.entry_count == 0 {
            return;
        }
    }
    panic!("no pack was doubled");
}

#[tokio::test]
async fn forged_roots_and_rosters_are_named_as_forged() {
    let house = House::new().await;
    let stranger = crate::crypt::SignKey::random();
    let repository = house.repository.writer.repository;
    let forged = crate::object::sign(repository, ObjectType::Roster, b"\xa0", &stranger);
    let hash = ObjectHash(lifeboat_model::Digest::of(&forged));
    let roster = Key::new(format!("roster/00000002-{hash}")).expect("a key");
    house.store.put(&roster, forged, PutMode::CreateNew).await.expect("put");
    let mut thief = house.repository.writer.clone();
    thief.writer.as_mut().expect("a writer").sign = stranger;
    let mut chain = house.chain.clone();
    let id = backup(&house.store, &thief, &files(1, &["a"], 1), &mut chain, &house.ctx).await.expect("put");
    let report = house.check(&house.store, &house.repository.identity, CheckScope::default()).await;
    let kind_of =
        |name: &str| report.problems.iter().find(|problem| problem.object == name).map(|problem| problem.kind);
    assert_eq!(kind_of(ObjectType::SnapshotRoot.key(ObjectHash(id.0)).as_str()), Some(ProblemKind::Forged));
    assert!(kind_of(roster.as_str()).is_some(), "{report:#?}");
    assert_eq!(report.snapshots, 2, "a forged root is no snapshot");
}

#[tokio::test]
async fn a_torn_chain_is_told_and_a_newest_root_is_missed_where_it_was_remembered() {
    let house = House::new().await;
    let repository = open(&house.store, &house.repository.identity, &house.ctx).await;
    let heads = repository.snapshots(&[]).await.expect("listed").heads();
    for (id, _) in &house.snapshots {
        let store: Arc<dyn Store> = Arc::new(house.memory.fork());
        store.delete(&ObjectType::SnapshotRoot.key(ObjectHash(id.0))).await.expect("deleted");
        let repository = open(&store, &house.repository.identity, &house.ctx).await;
        let report = check(&repository, CheckScope::default(), &heads, &house.ctx).await.expect("a check");
        assert!(report.problems.iter().any(|problem| problem.kind == ProblemKind::Chain), "{report:#?}");
    }
}

#[tokio::test]
async fn packs_without_an_index_are_told_as_such_not_as_lost_and_a_prune_with_an_identity_indexes_them_again() {
    let house = House::new().await;
    for key in house.objects().await.into_keys().filter(|key| key.as_str().starts_with("index/")) {
        house.store.delete(&key).await.expect("deleted");
    }
    for (access, scope) in [
        (&house.repository.identity, CheckScope::default()),
        (&house.repository.identity, READ_DATA),
        (&house.repository.maintainer, READ_DATA),
    ] {
        let report = house.check(&house.store, access, scope).await;
        let [problem] = &report.problems[..] else { panic!("one line tells it: {report:#?}") };
        assert_eq!((problem.kind, problem.object.as_str(), problem.entry_count), (ProblemKind::Unindexed, "index/", 0));
        assert!(problem.what.contains("data/") && problem.what.contains("--identity"), "{problem:?}");
    }
    let prune = async |access| {
        let repository = open(&house.store, access, &house.ctx).await;
        prune(&repository, &PruneOptions::default(), &house.ctx).await.expect("a prune")
    };
    let blind = prune(&house.repository.maintainer).await;
    assert_eq!((blind.refused.len(), blind.deleted_objects), (1, 0), "{blind:?}");
    assert!(blind.problems.iter().all(|problem| problem.contains("--identity")), "{blind:?}");
    let mended = prune(&house.repository.identity).await;
    assert!(mended.indexed_packs > 0 && mended.refused.is_empty(), "{mended:?}");
    let report = house.check(&house.store, &house.repository.identity, READ_DATA).await;
    assert!(report.is_clean(), "{report:#?}");
    house.the_rest_restores(&house.store, &report, "indexed again").await;
}

#[tokio::test]
async fn a_damaged_pack_without_an_index_is_lost_and_is_never_indexed_again() {
    let house = House::new().await;
    let mut damaged = Vec::new();
    for (key, bytes) in house.objects().await {
        if key.as_str().starts_with("index/") {
            house.store.delete(&key).await.expect("deleted");
        } else if key.as_str().starts_with("data/") {
            let mut changed = bytes.to_vec();
            changed[100] ^= 1;
            house.store.put(&key, changed.into(), PutMode::Replace).await.expect("put");
            damaged.push(key.to_string());
        }
    }
    let report = house.check(&house.store, &house.repository.identity, READ_DATA).await;
    let hurt = report.problems.iter().filter(|problem| problem.kind == ProblemKind::Damaged);
    assert!(hurt.clone().all(|problem| damaged.contains(&problem.object)), "{report:#?}");
    assert!(hurt.map(|problem| problem.entry_count).sum::<u64>() > 0, "the hurt entries are named: {report:#?}");
    let repository = open(&house.store, &house.repository.identity, &house.ctx).await;
    let pruned = prune(&repository, &PruneOptions::default(), &house.ctx).await.expect("a prune");
    let told = damaged.iter().filter(|name| pruned.problems.iter().any(|problem| problem.contains(*name)));
    assert_eq!((told.count(), pruned.refused.len()), (2, 1), "the third holds only what was forgotten: {pruned:?}");
    let after = open(&house.store, &house.repository.identity, &house.ctx).await;
    let named: Vec<_> =
        after.index().packs().iter().map(|pack| pack.kind.object_type().key(pack.hash).to_string()).collect();
    assert!(damaged.iter().all(|name| !named.contains(name)), "{named:?}");
}

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_model::flow::{Body, EntrySink};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint, SnapshotId, SourceName};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{PutMode, Store};
use lifeboat_testkit::context::FakeClock;

use super::*;
use crate::change::Owner;
use crate::check::check;
use crate::copy::Copier;
use crate::join::{Scope, request_writer};
use crate::open::{Keys, open_access};
use crate::owner::DomainChoice;
use crate::testing::TestRepository;
use crate::tiny::{Files, context, files, open, restore};
use crate::writer::{SnapshotHead, WriteOptions};

/// A repository with snapshots by the writer that backups use, and one with their copies.
struct Pair {
    one: TestRepository,
    memory: MemoryStore,
    other: TestRepository,
    ctx: RunContext,
    snapshots: Vec<(SnapshotId, Files)>,
    copies: Vec<SnapshotId>,
    scratch: tempfile::TempDir,
}

const READ_DATA: CheckScope = CheckScope { read_data: true };

impl Pair {
    async fn new() -> Self {
        let clock = FakeClock::at(TestRepository::start());
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        let memory = MemoryStore::new(Arc::clone(&clock) as _);
        let one = TestRepository::create(Arc::new(memory.clone())).await;
        let other = TestRepository::create(Arc::new(MemoryStore::new(clock))).await;
        let mut pair = Self { one, memory, other, ctx, snapshots: Vec::new(), copies: Vec::new(), scratch };
        let mut content = files(1, &["a", "b", "c"], 40);
        pair.backup(&content).await;
        content.extend(files(2, &["c", "d"], 40));
        pair.backup(&content).await;
        let from = Arc::new(open(&pair.one.store, &pair.one.identity, &pair.ctx).await);
        let to = Arc::new(open(&pair.other.store, &pair.other.all, &pair.ctx).await);
        let mut copier = Copier::new(from, to, &pair.ctx).await.expect("two repositories");
        for (id, _) in &pair.snapshots {
            let done = copier.copy(id, TestRepository::start(), WriteOptions::default(), &pair.ctx).await;
            pair.copies.push(done.expect("a copy").id);
        }
        pair
    }

    async fn backup_on(&self, store: &Arc<dyn Store>, files: &Files) -> SnapshotId {
        let repository = open(store, &self.one.writer, &self.ctx).await;
        let head = SnapshotHead {
            stack: TestRepository::stack(),
            source: SourceName::new("files").expect("a name"),
            kind: "files".into(),
            label: None,
            config: String::new(),
            stack_run: None,
            system: BTreeMap::new(),
        };
        let writer = repository.writer(head, WriteOptions::default(), self.ctx.clone()).await.expect("a run");
        for (name, bytes) in files {
            let path = EntryPath::new(name.as_str()).expect("a path");
            let body = Body::Bytes(Bytes::from(bytes.clone()));
            writer.put(&path, &EntryMeta::new(EntryKind::File), None, body).await.expect("stored");
        }
        let time = TestRepository::start();
        let point = RecoveryPoint { time, consistency: "a walk".into(), facts: BTreeMap::new() };
        writer.seal(point).await.expect("sealed").id
    }

    async fn backup(&mut self, files: &Files) {
        let id = self.backup_on(&self.one.store, files).await;
        self.snapshots.push((id, files.clone()));
    }

    /// What `lifeboat repair` does, step by step; how many chunks are lost in the end.
    async fn repair(&self, store: &Arc<dyn Store>, with_copies: bool) -> Result<Repair, RepoError> {
        let cache = tempfile::tempdir_in(self.scratch.path()).expect("a directory");
        let target = Arc::new(Repository::open(Arc::clone(store), self.one.all.clone(), cache.path()).await?);
        let found = Repair::look(&target, READ_DATA, &[], &self.ctx).await?;
        found.mend(&target, &self.ctx).await?;
        let mut left = found.look_again(&target, &self.ctx).await?;
        for _ in 0..4 {
            left.quarantine(&target, &self.ctx).await?;
            for hit in left.lost(&target).await? {
                if hit.count == 0 {
                    Copier::within(Arc::clone(&target), &self.ctx).await?.refill(&hit.id, &self.ctx).await?;
                } else if with_copies {
                    let at = self.snapshots.iter().position(|(id, _)| *id == hit.id).expect("known");
                    let from = Arc::new(open(&self.other.store, &self.other.identity, &self.ctx).await);
                    let mut copier = Copier::new(from, Arc::clone(&target), &self.ctx).await?;
                    copier.refill(&self.copies[at], &self.ctx).await?;
                }
            }
            left = left.look_again(&target, &self.ctx).await?;
        }
        left.tidy(&target, &self.ctx).await?;
        left.look_again(&target, &self.ctx).await
    }

    async fn is_whole(&self, store: &Arc<dyn Store>, at: &str) {
        let repository = open(store, &self.one.identity, &self.ctx).await;
        let report = check(&repository, READ_DATA, &[], &self.ctx).await.expect("checked");
        assert!(report.is_clean(), "{at}: {report:#?}");
        for (id, files) in &self.snapshots {
            assert!(restore(&repository, *id).await.expect(at) == *files, "{at}");
        }
    }

    async fn keys(&self, prefix: &str) -> Vec<Key> {
        let listed: Vec<_> = self.memory.list(prefix).try_collect().await.expect("listed");
        listed.into_iter().map(|object| object.key).collect()
    }

    /// The same objects with one of them damaged.
    async fn damaged(&self, key: &Key, how: &str) -> Arc<dyn Store> {
        let store: Arc<dyn Store> = Arc::new(self.memory.fork());
        let mut bytes = store.get(key, None).await.expect("got").to_vec();
        match how {
            "delete" => store.delete(key).await.expect("deleted"),
            "truncate" => bytes.truncate(bytes.len() - 20),
            "flip" => bytes[200] ^= 1,
            _ => unreachable!("no such damage"),
        }
        if how != "delete" {
            store.put(key, bytes.into(), PutMode::Replace).await.expect("put");
        }
        store
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_second_repository_holds_comes_back_whatever_was_damaged() {
    let pair = Pair::new().await;
    for prefix in ["data/", "meta/", "refs/", "index/", "keyring/", "keyring2/"] {
        for key in pair.keys(prefix).await {
            for how in ["delete", "truncate", "flip"] {
                let at = format!("{how} {key}");
                let store = pair.damaged(&key, how).await;
                let left = pair.repair(&store, true).await.expect(&at);
                assert_eq!(left.lost_chunks(), 0, "{at}");
                pair.is_whole(&store, &at).await;
                // What else was in the pack is not taken for stored by a later backup.
                let marks: Vec<_> = store.list("mark/").try_collect().await.expect("listed");
                let is_pack = ["data/", "meta/", "refs/"].contains(&prefix);
                assert_eq!(marks.is_empty(), !is_pack, "{at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_references_and_good_records_need_no_second_repository() {
    let pair = Pair::new().await;
    for (prefix, how) in [("index/", "delete"), ("index/", "flip"), ("refs/", "delete"), ("refs/", "flip")] {
        for key in pair.keys(prefix).await {
            let at = format!("{how} {key}");
            let store = pair.damaged(&key, how).await;
            assert_eq!(pair.repair(&store, false).await.expect(&at).lost_chunks(), 0, "{at}");
            pair.is_whole(&store, &at).await;
        }
    }
    let mut hits = 0;
    for key in pair.keys("data/").await {
        let store = pair.damaged(&key, "flip").await;
        let left = pair.repair(&store, false).await.expect("repaired");
        assert_eq!(left.lost_chunks(), 1, "the record that was hit, no other");
        let repository = open(&store, &pair.one.identity, &pair.ctx).await;
        for lost in left.lost(&repository).await.expect("told") {
            assert_eq!((lost.count, lost.paths.len(), lost.references), (1, 1, false), "{lost:?}");
            hits += 1;
        }
    }
    assert!(hits >= 2, "{hits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_backup_stores_what_the_sources_still_have() {
    let pair = Pair::new().await;
    let newest = pair.snapshots[1].1.clone();
    let key = pair.keys("data/").await.into_iter().max_by_key(|key| key.as_str().len()).expect("a pack");
    for how in ["delete", "flip"] {
        let store = pair.damaged(&key, how).await;
        let left = pair.repair(&store, false).await.expect("repaired");
        assert!(left.lost_chunks() > 0);
        // Both versions of the tree are still there.
        pair.backup_on(&store, &pair.snapshots[0].1).await;
        pair.backup_on(&store, &newest).await;
        let left = pair.repair(&store, false).await.expect("repaired");
        assert_eq!(left.lost_chunks(), 0, "{how}");
        pair.is_whole(&store, how).await;
        let quarantines: Vec<_> = store.list("quarantine/").try_collect().await.expect("listed");
        assert_eq!(quarantines, [], "nothing is stored a third time");
    }
}

/// Lists what repairs told writers.
async fn told(store: &Arc<dyn Store>) -> Vec<Key> {
    let listed: Vec<_> = store.list("quarantine/").try_collect().await.expect("listed");
    listed.into_iter().map(|object: lifeboat_store::ObjectMeta| object.key).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_told_one_domain_and_died_is_gone_on_with() {
    let mut pair = Pair::new().await;
    let store = Arc::clone(&pair.one.store);
    let wish = Scope { stack: TestRepository::stack(), sources: vec![] };
    let (pending, request) = request_writer(&store, "another", wish.clone()).await.expect("a request");
    let (key, now) = (pair.one.owner.clone(), TestRepository::start());
    let owner = Owner { store: &store, key: &key, remembered: None, forget_roster: false, now, exported: None };
    let (grant, _) = owner.add_writer(&request, DomainChoice::New, &[wish]).await.expect("added");
    let opened = async |keys: Keys| open_access(&store, &keys, None).await.expect("opened").access;
    let writer = Some(grant.accept(&pending).expect("a writer"));
    pair.one.writer = opened(Keys { writer, ..Keys::default() }).await;
    let (maintainer, identity) = (Some(pair.one.maintainer_key.clone()), Some(pair.one.owner.identity.clone()));
    pair.one.all = opened(Keys { maintainer, identity, ..Keys::default() }).await;
    pair.backup_on(&store, &files(7, &["x"], 40)).await;

    let lost = pair.keys("data/").await.into_iter().max_by_key(|key| key.as_str().len()).expect("a pack");
    store.delete(&lost).await.expect("deleted");
    let target = open(&store, &pair.one.all, &pair.ctx).await;
    let left = Repair::look(&target, READ_DATA, &[], &pair.ctx).await.expect("looked");
    assert!(left.lost_chunks() > 0);
    left.quarantine(&target, &pair.ctx).await.expect("told");
    let both = told(&store).await;
    assert_eq!(both.len(), 2, "one for each domain");
    for missed in &both {
        store.delete(missed).await.expect("deleted");
        let again = Repair::look(&target, READ_DATA, &[], &pair.ctx).await.expect("looked");
        again.quarantine(&target, &pair.ctx).await.expect("told");
        assert_eq!(told(&store).await.len(), 2, "the domain of {missed} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_of_which_nobody_can_tell_what_was_in_it_stays_while_anything_is_lost() {
    let pair = Pair::new().await;
    for key in pair.keys("data/").await {
        let store = pair.damaged(&key, "truncate").await;
        for index in pair.keys("index/").await {
            store.delete(&index).await.expect("deleted");
        }
        let target = open(&store, &pair.one.all, &pair.ctx).await;
        let plan = Repair::look(&target, READ_DATA, &[], &pair.ctx).await.expect("looked").plan(&target);
        assert_eq!((plan.unknown, plan.salvage, plan.drop), (vec![key.to_string()], vec![], vec![]), "{key}");
        assert!(plan.lost_chunks > 0, "{key}");
        assert!(pair.repair(&store, false).await.expect("repaired").lost_chunks() > 0);
        assert!(store.get(&key, None).await.is_ok(), "{key} is the only place where what is lost may be");
        // When all is there again it is of no use.
        assert_eq!(pair.repair(&store, true).await.expect("repaired").lost_chunks(), 0);
        assert!(store.get(&key, None).await.is_err(), "{key}");
        pair.is_whole(&store, key.as_str()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_repository_has_nothing_to_repair() {
    let pair = Pair::new().await;
    let target = open(&pair.one.store, &pair.one.all, &pair.ctx).await;
    let found = Repair::look(&target, READ_DATA, &[], &pair.ctx).await.expect("looked");
    assert!(found.plan(&target).is_empty(), "{:?}", found.plan(&target));
    let before = pair.memory.object_count();
    found.mend(&target, &pair.ctx).await.expect("mended");
    found.quarantine(&target, &pair.ctx).await.expect("told");
    assert_eq!(found.tidy(&target, &pair.ctx).await.expect("tidied"), 0);
    assert_eq!(pair.memory.object_count(), before);
    let blind = open(&pair.one.store, &pair.one.maintainer, &pair.ctx).await;
    let refused = Repair::look(&blind, READ_DATA, &[], &pair.ctx).await.expect_err("no identity");
    assert_eq!(refused.kind(), crate::RepoErrorKind::Key);
}

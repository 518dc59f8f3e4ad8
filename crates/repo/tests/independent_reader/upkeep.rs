//! What is done to a copy of a fixture: everything that a repository of an older version has to bear.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use lifeboat_model::flow::{Body, Clock, EntrySink, RunContext};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint, SnapshotId, SourceName};
use lifeboat_repo::check::CheckScope;
use lifeboat_repo::copy::Copier;
use lifeboat_repo::forget::forget;
use lifeboat_repo::keyfile::IdentityKey;
use lifeboat_repo::prune::{PruneOptions, prune};
use lifeboat_repo::repair::Repair;
use lifeboat_repo::{CreateOptions, Creation, Keys, Owner, Repository, SnapshotHead, WriteOptions};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{Key, PutMode, Store};
use lifeboat_testkit::context::{FakeClock, run_context};

use crate::fixture::{Fixture, open, restored, sound};
use crate::house::stack;

/// The copy, in memory, where the clock of the store can be put on.
struct Copy {
    fixture: Fixture,
    clock: Arc<FakeClock>,
    store: Arc<dyn Store>,
    /// What is in each snapshot.
    contents: BTreeMap<String, BTreeMap<String, String>>,
}

impl Copy {
    async fn new(dir: &Path) -> Self {
        let fixture = Fixture::open(dir);
        let mut order: Vec<_> = fixture.times.iter().collect();
        order.sort_by_key(|(_, time)| **time);
        let clock = FakeClock::at(*order[0].1);
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
        for (name, time) in order {
            clock.advance(time.duration_since(clock.now()).unsigned_abs());
            let bytes = std::fs::read(fixture.store.join(name)).expect("read");
            let key = Key::new(name.as_str()).expect("a key");
            memory.put(&key, bytes.into(), PutMode::CreateNew).await.expect("put");
        }
        let contents = fixture.contents();
        Self { fixture, clock, store: memory, contents }
    }

    fn context(&self) -> RunContext {
        RunContext { clock: Arc::clone(&self.clock) as _, ..run_context(self.fixture.scratch.path()) }
    }

    async fn open(&self, keys: &Keys) -> Repository {
        open(&self.store, keys, self.fixture.scratch.path()).await
    }

    /// Every snapshot that counts is there, equal, and nothing is damaged.
    async fn holds(&self, keys: &Keys) {
        let repository = self.open(keys).await;
        for (id, entries) in &self.contents {
            assert_eq!(restored(&repository, SnapshotId::from_hex(id).expect("an id")).await, *entries);
        }
        sound(&repository, &self.fixture).await;
    }

    /// On top of what is there.
    async fn backup(&mut self) -> SnapshotId {
        let repository = self.open(&self.fixture.writer()).await;
        let head = SnapshotHead {
            stack: stack(),
            source: SourceName::new("documents").expect("a name"),
            kind: "files".into(),
            label: None,
            config: "stack: office\n".into(),
            stack_run: None,
            system: BTreeMap::new(),
        };
        let writer = repository.writer(head, WriteOptions::default(), self.context()).await.expect("a run");
        let (path, bytes) = (EntryPath::new("new").expect("a path"), b"what is new".as_slice());
        let body = Body::Bytes(bytes.into());
        writer.put(&path, &EntryMeta::new(EntryKind::File), None, body).await.expect("stored");
        let point = RecoveryPoint { time: self.clock.now(), consistency: "all".into(), facts: BTreeMap::new() };
        let id = writer.seal(point).await.expect("sealed").id;
        let entries = BTreeMap::from([("\"new\"".to_owned(), blake3::hash(bytes).to_hex().to_string())]);
        self.contents.insert(id.to_string(), entries);
        id
    }

    async fn names(&self, prefix: &str) -> usize {
        self.store.list(prefix).try_collect::<Vec<_>>().await.expect("listed").len()
    }

    /// Forgets a snapshot and prunes until nothing of it is left; beside a log root nothing may go.
    async fn forget_and_prune(&mut self, id: SnapshotId) {
        let keeper = self.open(&self.fixture.maintainer()).await;
        forget(&keeper, &[id], "a test", &self.context()).await.expect("forgotten");
        self.contents.remove(&id.to_string()).expect("it counted");
        let logs = self.names("roots/log/").await > 0;
        let before = self.names("roots/snapshot/").await;
        let mut last = None;
        for _ in 0..6 {
            self.clock.advance(Duration::from_secs(121));
            let report = prune(&keeper, &PruneOptions { waste_percent: 5, dry_run: false }, &self.context()).await;
            last = Some(report.expect("a prune"));
        }
        let last = last.expect("it was pruned");
        assert_eq!(!last.refused.is_empty(), logs, "{last:?}");
        if !logs {
            assert_eq!((last.marked_packs, last.deleted_objects), (0, 0), "the end: {last:?}");
            assert!(self.names("roots/snapshot/").await < before);
        }
    }

    async fn copy_to_a_new_repository(&self, identity: &Keys) {
        let elsewhere: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&self.clock) as Arc<dyn Clock>));
        let made = Creation::new(CreateOptions { now: self.clock.now(), grace_seconds: 60, stack: stack() });
        made.put(&elsewhere).await.expect("made");
        let keys = Keys { writer: Some(made.writer), identity: Some(made.owner.identity), ..Keys::default() };
        let from = Arc::new(self.open(identity).await);
        for (id, entries) in &self.contents {
            let to = Arc::new(open(&elsewhere, &keys, self.fixture.scratch.path()).await);
            let ctx = self.context();
            let mut copier = Copier::new(Arc::clone(&from), Arc::clone(&to), &ctx).await.expect("two repositories");
            let id = SnapshotId::from_hex(id).expect("an id");
            let new = copier.copy(&id, self.clock.now(), WriteOptions::default(), &ctx).await.expect("copied").id;
            let to = open(&elsewhere, &keys, self.fixture.scratch.path()).await;
            assert_eq!(restored(&to, new).await, *entries);
        }
    }

    /// A new identity comes, and the one that is there goes.
    async fn change_identities(&self) -> Keys {
        let key = self.fixture.key("owner.key").into_owner().expect("the owner's");
        let owner = Owner {
            store: &self.store,
            key: &key,
            remembered: None,
            forget_roster: false,
            now: self.clock.now(),
            exported: None,
        };
        let new = IdentityKey::random(key.identity.repository, key.identity.root);
        owner.add_identity(&new.roster_key()).await.expect("added");
        let old = self.fixture.key("identity.key").into_identity().expect("an identity").sign().verify_key();
        if old != key.identity.sign().verify_key() {
            owner.remove_identity(old).await.expect("removed");
        }
        Keys { identity: Some(new), ..Keys::default() }
    }

    /// Loses all index objects: a repair writes them anew.
    async fn repair(&self, identity: &Keys) {
        let keys = Keys { maintainer: self.fixture.maintainer().maintainer, ..identity.clone() };
        let (repository, ctx) = (self.open(&keys).await, self.context());
        for object in self.store.list("index/").try_collect::<Vec<_>>().await.expect("listed") {
            self.store.delete(&object.key).await.expect("deleted");
        }
        let found = Repair::look(&repository, CheckScope { read_data: true }, &[], &ctx).await.expect("a look");
        let mended = found.mend(&repository, &ctx).await.expect("mended");
        assert!(mended.indexed > 0, "{mended:?}");
    }
}

/// A backup on top, forget, prune to the end, other keys, a copy to a new repository, a repair.
pub(crate) async fn goes_on(dir: &Path) {
    let mut copy = Copy::new(dir).await;
    let identity = copy.fixture.identity("identity.key");
    copy.holds(&identity).await;
    let spare = copy.backup().await;
    copy.backup().await;
    copy.holds(&identity).await;
    copy.forget_and_prune(spare).await;
    copy.holds(&identity).await;
    let identity = copy.change_identities().await;
    copy.backup().await;
    copy.holds(&identity).await;
    copy.copy_to_a_new_repository(&identity).await;
    copy.repair(&identity).await;
    copy.holds(&identity).await;
}

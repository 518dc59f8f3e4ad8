//! Runs on a store whose lists lag.

use lifeboat_store::PutMode;
use lifeboat_store::memory::MemoryStore;
use lifeboat_testkit::context::FakeClock;
use lifeboat_testkit::stale::StaleStore;

use super::*;
use crate::index::IndexSet;
use crate::testing::TestRepository;

const LAG: Duration = Duration::from_secs(10);

struct House {
    clock: Arc<FakeClock>,
    store: Arc<dyn Store>,
    link: Link,
    /// Puts what a prune puts.
    maintainer: Link,
    known: Arc<Known>,
    _cache: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let clock = FakeClock::with_tokio(TestRepository::start());
        let dyn_clock = || Arc::clone(&clock) as Arc<dyn Clock>;
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(dyn_clock()));
        let repository = TestRepository::create(Arc::clone(&memory)).await;
        let store: Arc<dyn Store> = Arc::new(StaleStore::new(memory, LAG, dyn_clock()));
        let writer = repository.writer.writer.clone().expect("a writer");
        let key = repository.writer.domains[&writer.domain].index.clone();
        let access = Arc::new(repository.writer.clone());
        let cache = tempfile::tempdir().expect("a directory");
        let index = IndexSet::open(Arc::clone(&access), cache.path()).expect("an index");
        let known = Arc::new(Known::new(Arc::new(index), (writer.sign.verify_key(), writer.domain)));
        let sign = repository.maintainer.maintain.clone().expect("a maintainer");
        let link = Link { store: Arc::clone(&store), access, key, sign: writer.sign };
        let maintainer = Link { sign, ..link.clone() };
        Self { clock, store, link, maintainer, known, _cache: cache }
    }

    async fn run(&self) -> OpenRun {
        let id = OpenRun::announce(&self.link, Digest([1; 32]), self.clock.as_ref()).await.expect("announced");
        let (known, clock) = (Arc::clone(&self.known), Arc::clone(&self.clock) as Arc<dyn Clock>);
        OpenRun::begin(id, self.link.clone(), known, clock, Duration::from_mins(1)).await.expect("begun")
    }

    /// Puts something under the name of a pack, which the run then uses.
    async fn used_pack(&self) -> lifeboat_store::Key {
        let pack = ObjectHash::from([9; 32]);
        let key = ObjectType::DataPack.key(pack);
        self.store.put(&key, bytes::Bytes::from_static(&[0; 64]), PutMode::CreateNew).await.expect("put");
        self.known.uses(pack);
        self.clock.advance(LAG);
        key
    }

    async fn listed(&self, prefix: &str) -> usize {
        self.store.list(prefix).try_collect::<Vec<_>>().await.expect("listed").len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_began_before_the_root_voids_it_although_the_list_does_not_show_it_yet() {
    let house = House::new().await;
    let run = house.run().await;
    house.used_pack().await;
    let packs = vec![(PackKind::Data, ObjectHash::from([9; 32]))];
    let mark = Mark { time: house.clock.now(), packs, indexes: Vec::new(), others: Vec::new() };
    house.maintainer.put(&mark).await.expect("put");
    house.clock.advance(LAG);
    let marks = house.link.list(ObjectType::Mark).await.expect("listed");
    let word = Deleting { mark: marks[0], time: house.clock.now(), kept: Vec::new() };
    house.maintainer.put(&word).await.expect("put");
    assert_eq!(house.listed("deleting/").await, 0, "the list lags");
    run.second_look(SnapshotId(Digest([2; 32]))).await.expect_err("the pack is going");
    house.clock.advance(LAG);
    assert_eq!(house.listed("void/").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_which_lists_may_not_tell_asks_for_each_pack_and_not_a_list_that_still_shows_it() {
    let house = House::new().await;
    let run = house.run().await;
    let pack = house.used_pack().await;
    run.renew(false).await.expect("renewed");
    // Shorter than half of the grace period, but not with the lag.
    house.clock.advance(Duration::from_secs(25));
    run.confirm().await.expect("the pack is there");
    house.store.delete(&pack).await.expect("deleted");
    assert_eq!(house.listed("data/").await, 1, "the list lags");
    run.confirm().await.expect_err("the pack is gone");
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_until_the_list_shows_what_was_put_before_it_began() {
    let house = House::new().await;
    let root = ObjectType::SnapshotRoot.key(ObjectHash::from([3; 32]));
    house.store.put(&root, bytes::Bytes::from_static(b"root"), PutMode::CreateNew).await.expect("put");
    assert_eq!(house.listed("roots/").await, 0, "the list lags");
    OpenRun::announce(&house.link, Digest([1; 32]), house.clock.as_ref()).await.expect("announced");
    assert_eq!(house.listed("roots/").await, 1);
}

use std::sync::Arc;
use std::time::Duration;

use lifeboat_store::Store as _;
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::wrap::{Operation, Record};

use super::*;
use crate::Repository;
use crate::crypt::SignKey;
use crate::hand::Hand;
use crate::roster::RemovedWriter;
use crate::small::{Forget, Hold, Void};
use crate::testing::TestRepository;

/// Three snapshots of one source, each naming the one before.
async fn three(hand: &Hand) -> [SnapshotId; 3] {
    let mut ids = Vec::new();
    for sequence in 1..=3 {
        let header = hand.header(sequence, ids.last().copied());
        ids.push(hand.put_root(&header, &Hand::body(None), hand.writer()).await);
    }
    ids.try_into().expect("three")
}

async fn listed(hand: &Hand, access: &Access, remembered: &[RememberedHead]) -> SnapshotList {
    hand.open(access).await.snapshots(remembered).await.expect("listed")
}

fn key(id: SnapshotId) -> lifeboat_store::Key {
    ObjectType::SnapshotRoot.key(ObjectHash(id.0))
}

fn verdict(id: SnapshotId) -> Forget {
    Forget { snapshot: id, why: "30d".into(), time: TestRepository::start() }
}

async fn delete(hand: &Hand, id: SnapshotId) {
    hand.store.delete(&key(id)).await.expect("deleted");
}

#[tokio::test]
async fn snapshots_are_listed_in_order_with_what_each_role_may_see() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    for (access, reads) in [(&hand.test.writer, false), (&hand.test.maintainer, false), (&hand.test.identity, true)] {
        let list = listed(&hand, access, &[]).await;
        assert_eq!(list.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), ids);
        assert!(list.snapshots.iter().all(|info| info.counts() && info.summary.is_some() == reads));
        assert_eq!((list.refused, list.findings), (vec![], vec![]));
    }
    let list = listed(&hand, &hand.test.identity, &[]).await;
    let summary = list.snapshots[0].summary.as_ref().expect("open");
    assert_eq!(
        (summary.source.as_str(), summary.label.as_deref(), summary.problems),
        ("documents", Some("before the move"), 1)
    );
    assert_eq!(
        list.heads().iter().map(|head| (head.sequence, head.root)).collect::<Vec<_>>(),
        [(3, ObjectHash(ids[2].0))]
    );
}

#[tokio::test]
async fn a_second_list_fetches_nothing_and_a_damaged_local_copy_is_fetched_again() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let store = Arc::new(Record::new(Arc::new(hand.store.clone())));
    let list = async || {
        let opened =
            Repository::open(store.clone(), hand.test.identity.clone(), hand.cache.path()).await.expect("opened");
        opened.snapshots(&[]).await.expect("listed").snapshots.len()
    };
    assert_eq!((list().await, store.count(Operation::Get, "roots/")), (3, 3));
    assert_eq!((list().await, store.count(Operation::Get, "roots/")), (3, 3));
    let local = hand.cache.path().join("objects/roots-snapshot").join(ids[1].to_string());
    std::fs::OpenOptions::new().write(true).open(&local).expect("opened").set_len(100).expect("cut");
    assert_eq!((list().await, store.count(Operation::Get, "roots/")), (3, 4));
    delete(&hand, ids[0]).await;
    assert_eq!(list().await, 2);
    assert!(!hand.cache.path().join("objects/roots-snapshot").join(ids[0].to_string()).exists());
}

#[tokio::test]
async fn forged_and_damaged_roots_are_refused_and_named() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let stranger = SignKey::random();
    let forged = hand.put_root(&hand.header(4, Some(ids[2])), &Hand::body(None), &stranger).await;
    let mut bytes = hand.store.get(&key(ids[1]), None).await.expect("there").to_vec();
    bytes[700] ^= 1;
    hand.put(&key(ids[1]), bytes.into()).await;
    let list = listed(&hand, &hand.test.maintainer, &[]).await;
    assert_eq!(list.snapshots.len(), 2);
    let mut refused: Vec<_> =
        list.refused.iter().map(|refused| (refused.object.clone(), refused.why.clone())).collect();
    let mut expected = vec![
        (key(forged).to_string(), ObjectError::Stranger(stranger.verify_key())),
        (key(ids[1]).to_string(), ObjectError::WrongHash),
    ];
    refused.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!((refused, list.roots.len()), (expected, 4));
}

#[tokio::test]
async fn what_is_missing_of_a_chain_is_told_unless_somebody_forgot_it() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let heads = listed(&hand, &hand.test.writer, &[]).await.heads();
    delete(&hand, ids[1]).await;
    let list = listed(&hand, &hand.test.writer, &heads).await;
    let troubles: Vec<&Trouble> = list.findings.iter().map(|finding| &finding.trouble).collect();
    assert_eq!(troubles, [&Trouble::Gap { after: ids[2], missing: ObjectHash(ids[1].0) }]);
    hand.put_small(&verdict(ids[1]), hand.test.maintainer.maintain.as_ref().expect("a maintainer")).await;
    assert_eq!(listed(&hand, &hand.test.writer, &heads).await.findings, []);
    delete(&hand, ids[2]).await;
    assert_eq!(listed(&hand, &hand.test.writer, &[]).await.findings, [], "the store alone cannot tell");
    let list = listed(&hand, &hand.test.writer, &heads).await;
    let root = ObjectHash(ids[2].0);
    assert_eq!(list.findings[0].trouble, Trouble::Missing { root, sequence: 3, newest: true });
    assert!(list.findings[0].to_string().contains(&root.to_string()));
}

#[tokio::test]
async fn two_roots_at_one_place_are_told() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let twin = hand.put_root(&hand.header(3, Some(ids[1])), &Hand::body(None), hand.writer()).await;
    let list = listed(&hand, &hand.test.writer, &[]).await;
    let Trouble::Fork { sequence: 3, roots } = &list.findings[0].trouble else { panic!("{:?}", list.findings) };
    assert_eq!(roots.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&twin, &ids[2]]));
}

#[tokio::test]
async fn forgotten_held_and_void_snapshots_are_marked() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let maintainer = hand.test.maintainer.maintain.as_ref().expect("a maintainer");
    hand.put_small(&verdict(ids[0]), maintainer).await;
    let later = TestRepository::start() + Duration::from_mins(1);
    let hold = |time, release| Hold { snapshot: ids[1], why: "audit".into(), time, release };
    hand.put_small(&hold(TestRepository::start(), false), maintainer).await;
    let void = Void { snapshot: ids[2], why: "a pack went".into(), time: later };
    hand.put_small(&void, hand.writer()).await;
    let list = listed(&hand, &hand.test.writer, &[]).await;
    let marks: Vec<_> = list
        .snapshots
        .iter()
        .map(|info| (info.forgotten.as_deref(), info.held.as_deref(), info.void.as_deref()))
        .collect();
    assert_eq!(marks, [(Some("30d"), None, None), (None, Some("audit"), None), (None, None, Some("a pack went"))]);
    hand.put_small(&hold(later, true), maintainer).await;
    let list = listed(&hand, &hand.test.writer, &[]).await;
    assert_eq!(list.snapshots[1].held, None);
    for why in ["one", "two", "three"] {
        hand.put_small(&Hold { why: why.into(), ..hold(later, false) }, maintainer).await;
        let list = listed(&hand, &hand.test.writer, &[]).await;
        assert!(list.snapshots[1].held.is_some(), "of a hold and a release at one time the hold counts");
    }
    // A writer's forget is nobody's word.
    hand.put_small(&verdict(ids[1]), hand.writer()).await;
    let list = listed(&hand, &hand.test.writer, &[]).await;
    assert_eq!((list.snapshots[1].forgotten.as_deref(), list.refused.len()), (None, 1));
}

/// A clock that a test moves.
#[derive(Debug)]
struct Hands(std::sync::Mutex<Timestamp>);

impl lifeboat_model::flow::Clock for Hands {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no holder panics")
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_stolen_writer_key_cannot_void_history() {
    let mut hand = Hand::new().await;
    let clock = Arc::new(Hands(std::sync::Mutex::new(TestRepository::start())));
    hand.store = MemoryStore::new(clock.clone());
    let ids = three(&hand).await;
    *clock.0.lock().expect("no holder panics") = TestRepository::start() + Duration::from_hours(1);
    let void = Void { snapshot: ids[2], why: "gone".into(), time: TestRepository::start() };
    hand.put_small(&void, hand.writer()).await;
    assert_eq!(listed(&hand, &hand.test.writer, &[]).await.snapshots[2].void, None);
    hand.put_small(&void, hand.test.maintainer.maintain.as_ref().expect("a maintainer")).await;
    assert_eq!(listed(&hand, &hand.test.writer, &[]).await.snapshots[2].void.as_deref(), Some("gone"));
}

#[tokio::test]
async fn of_a_removed_writer_only_what_was_known_then_counts() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let mut access = hand.test.identity.clone();
    let writer = access.roster.writers.remove(0);
    let roots = ids[..2].iter().map(|id| ObjectHash(id.0)).collect();
    access.roster.removed.push(RemovedWriter { verify: writer.verify, domain: writer.domain, roots });
    let list = listed(&hand, &access, &[]).await;
    assert_eq!(list.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(list.refused[0].object, key(ids[2]).to_string());
    let repository = hand.open(&access).await;
    assert!(repository.root(&ids[0]).await.is_ok());
    assert!(matches!(repository.root(&ids[2]).await, Err(RepoError::Object { .. })));
    // A forgotten one that a prune took out of the middle takes nothing else along.
    hand.put_small(&verdict(ids[1]), hand.test.maintainer.maintain.as_ref().expect("a maintainer")).await;
    delete(&hand, ids[1]).await;
    let list = listed(&hand, &access, &[]).await;
    assert_eq!(list.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), ids[..1]);
}

#[tokio::test]
async fn a_root_that_cites_a_newer_roster_than_was_seen_tells_of_it() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    assert_eq!(listed(&hand, &hand.test.identity, &[]).await.findings, []);
    let (own, lower) = (hand.test.all.roster.hash, ObjectHash::from([0; 32]));
    for (number, hash) in [(1, lower), (2, lower), (7, own)] {
        let header = RootHeader { roster_number: number, roster_hash: hash, ..hand.header(4, Some(ids[2])) };
        let id = hand.put_root(&header, &Hand::body(None), hand.writer()).await;
        for access in [&hand.test.writer, &hand.test.maintainer, &hand.test.identity] {
            let findings = listed(&hand, access, &[]).await.findings;
            let [finding] = &findings[..] else { panic!("{findings:?}") };
            assert_eq!(finding.trouble, Trouble::NewerRoster { root: id, cited: (number, hash), newest: 1 });
            assert!(finding.to_string().contains("rolled back or missing"), "{finding}");
        }
        delete(&hand, id).await;
    }
    let older = RootHeader { roster_hash: ObjectHash::from([255; 32]), ..hand.header(4, Some(ids[2])) };
    hand.put_root(&older, &Hand::body(None), hand.writer()).await;
    assert_eq!(listed(&hand, &hand.test.identity, &[]).await.findings, [], "of two with one number ours holds");
}

/// Flips a bit of the object in the store, which dates it anew.
async fn flip(hand: &Hand, id: SnapshotId) {
    let mut bytes = hand.store.get(&key(id), None).await.expect("got").to_vec();
    bytes[200] ^= 1;
    tokio::time::sleep(Duration::from_millis(5)).await;
    hand.put(&key(id), bytes.into()).await;
}

#[tokio::test]
async fn the_newest_system_is_that_of_the_end_of_the_chain_whatever_the_store_dates_an_older_root() {
    let hand = Hand::new().await;
    let mut ids = Vec::new();
    for (sequence, system) in [(1, "a"), (2, "b"), (3, "a")] {
        let mut header = hand.header(sequence, ids.last().copied());
        header.systems = vec![Digest::of(system.as_bytes())];
        ids.push(hand.put_root(&header, &Hand::body(None), hand.writer()).await);
    }
    let source = hand.header(1, None).source_tag;
    let newest = |list: &SnapshotList| list.newest_system(&source).map(|info| info.id);
    assert_eq!(newest(&listed(&hand, &hand.test.writer, &[]).await), Some(ids[2]));
    flip(&hand, ids[1]).await;
    // The local copy of the damaged root is whole, and the store says that it came last.
    let mut list = listed(&hand, &hand.test.writer, &[]).await;
    assert_eq!(newest(&list), Some(ids[2]));
    // The same where another writer made it: then the signed times decide.
    for info in &mut list.snapshots {
        info.stored_at += Duration::from_secs(u64::from(info.id == ids[1]));
    }
    let other = list.snapshots.iter_mut().find(|info| info.id == ids[1]).expect("listed");
    other.writer = VerifyKey([9; 32]);
    let later = list.snapshots.iter_mut().find(|info| info.id == ids[2]).expect("listed");
    later.header.time += Duration::from_secs(1);
    assert_eq!(newest(&list), Some(ids[2]));
    // A clock that ran ahead does not hold the place for ever.
    let other = list.snapshots.iter_mut().find(|info| info.id == ids[1]).expect("listed");
    other.header.time += Duration::from_secs(1 << 32);
    other.stored_at = other.stored_at.min(TestRepository::start());
    assert_eq!(newest(&list), Some(ids[2]));
}

#[tokio::test]
async fn a_root_that_is_damaged_in_the_store_is_told_and_counts_by_its_local_copy_at_its_time() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let before = listed(&hand, &hand.test.identity, &[]).await;
    let heads = before.heads();
    flip(&hand, ids[1]).await;
    flip(&hand, ids[2]).await;
    let after = listed(&hand, &hand.test.identity, &heads).await;
    assert_eq!(after.snapshots, before.snapshots);
    let told: Vec<&str> = after.refused.iter().map(|refused| refused.object.as_str()).collect();
    let mut damaged = [key(ids[1]), key(ids[2])];
    damaged.sort();
    assert_eq!(told, damaged.each_ref().map(lifeboat_store::Key::as_str));
    let troubles = |list: &SnapshotList| list.findings.iter().map(|found| found.trouble.clone()).collect::<Vec<_>>();
    let mut roots = [ids[1], ids[2]].map(|id| ObjectHash(id.0));
    roots.sort();
    assert_eq!(troubles(&after), roots.map(|root| Trouble::Damaged { root }));
    // Who keeps no copy knows them by the chain, and by the head that it remembers.
    let other = tempfile::tempdir().expect("a directory");
    let blank = Repository::open(Arc::new(hand.store.clone()), hand.test.identity.clone(), other.path()).await;
    let blank = blank.expect("opened").snapshots(&heads).await.expect("listed");
    assert_eq!((blank.snapshots.len(), troubles(&blank)), (1, vec![Trouble::Damaged { root: ObjectHash(ids[2].0) }]));
    assert_eq!(blank.damaged(), roots.into());
}

#[tokio::test]
async fn a_root_is_no_newer_than_the_one_that_follows_it() {
    let hand = Hand::new().await;
    let ids = three(&hand).await;
    let bytes = hand.store.get(&key(ids[0]), None).await.expect("got");
    tokio::time::sleep(Duration::from_millis(5)).await;
    // As a repair puts it back.
    hand.put(&key(ids[0]), bytes).await;
    let list = listed(&hand, &hand.test.identity, &[]).await;
    assert_eq!(list.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), ids);
    assert_eq!(list.snapshots[0].stored_at, list.snapshots[1].stored_at);
}

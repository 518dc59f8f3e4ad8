use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lifeboat_model::flow::{Body, EntryStats, LogSink, SinkError};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, SnapshotId};
use lifeboat_store::{Key, Store};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::log::{FakeLog, LOG_BEGINS, LOG_ENDS};

use super::*;
use crate::check::{CheckScope, check};
use crate::forget::put;
use crate::hand::Hand;
use crate::pack::PackKind;
use crate::page::{Content, Extent, ManifestPage, ReferencePage, StoredEntry};
use crate::prune::{PruneOptions, prune};

/// Takes segments, and is a log root in the end.
struct Stretch<'h> {
    hand: &'h Hand,
    taken: Mutex<Vec<(Segment, StoredEntry, Vec<u8>)>>,
}

#[async_trait]
impl LogSink for Stretch<'_> {
    async fn segment(&self, name: &str, facts: &BTreeMap<String, String>, body: Body) -> Result<EntryStats, SinkError> {
        let Body::Bytes(bytes) = body else { panic!("the fake log has bytes") };
        let len = u32::try_from(bytes.len()).expect("short");
        let extent = Extent::Chunk { id: self.hand.id(PackKind::Data, &bytes), offset: 0, len };
        let meta = EntryMeta { extra: facts.clone(), ..EntryMeta::new(EntryKind::File) };
        let path = EntryPath::new(name).expect("a path");
        let entry = StoredEntry { path, meta, content: Content::Inline(vec![extent]) };
        let position = |fact: &str| facts[fact].clone();
        let segment = Segment { name: name.to_owned(), begins: position(LOG_BEGINS), ends: position(LOG_ENDS) };
        self.taken.lock().expect("nobody panicked").push((segment, entry, bytes.to_vec()));
        Ok(EntryStats { bytes: len.into(), new_bytes: len.into() })
    }
}

impl Stretch<'_> {
    async fn seal(self, sequence: u64, previous: Option<ObjectHash>) -> ObjectHash {
        let hand = self.hand;
        let mut taken = self.taken.into_inner().expect("nobody panicked");
        let segments = taken.iter().map(|(segment, ..)| segment.clone()).collect();
        taken.sort_by(|a, b| a.1.path.cmp(&b.1.path));
        let items: Vec<Vec<u8>> = taken.iter().map(|(_, entry, _)| entry.encode()).collect();
        let page = ManifestPage::assemble(0, &items);
        let top = hand.id(PackKind::Meta, &page);
        let bytes: Vec<&Vec<u8>> = taken.iter().map(|(.., bytes)| bytes).collect();
        let mut chunks: Vec<ChunkId> = bytes.iter().map(|bytes| hand.id(PackKind::Data, bytes)).collect();
        chunks.sort();
        let refs = ReferencePage { page: top, chunks, pages: vec![] }.encode();
        let packs = [
            hand.pack(PackKind::Data, &bytes),
            hand.pack(PackKind::Meta, &[page]),
            hand.pack(PackKind::Refs, std::slice::from_ref(&refs)),
        ];
        for pack in &packs {
            hand.put_pack(pack).await;
        }
        hand.put_index(&packs.iter().collect::<Vec<_>>()).await;
        let header = hand.header(sequence, previous.map(|hash| SnapshotId(hash.0)));
        let body = LogBody { segments, ..body(Some(top)) };
        let refs = RootRefs { top: Some(hand.id(PackKind::Refs, &refs)) };
        let (hash, bytes) = encode(&header, &refs, &body, &keys(hand));
        hand.put(&ObjectType::LogRoot.key(hash), bytes).await;
        hash
    }
}

fn keys(hand: &Hand) -> RootKeys<'_> {
    RootKeys { index: &hand.keys().index, content: &hand.content, references: &hand.references, sign: hand.writer() }
}

fn body(top: Option<ChunkId>) -> LogBody {
    let snapshot = Hand::body(top);
    let (stack, source) = (snapshot.stack, snapshot.source);
    let facts = BTreeMap::from([("log.begun".to_owned(), "2026-11-21T03:00:00Z".to_owned())]);
    LogBody { stack, source, kind: "postgres".into(), log: "timeline 1".into(), top, segments: vec![], facts }
}

/// Stores stretches of a log, each a range of its segments, as roots that follow each other.
async fn stored(hand: &Hand, log: &FakeLog, stretches: &[std::ops::Range<usize>]) -> Vec<LogRoot> {
    let mut roots: Vec<LogRoot> = Vec::new();
    for (sequence, range) in (1..).zip(stretches) {
        let stretch = Stretch { hand, taken: Mutex::default() };
        log.push(range.clone(), &stretch).await.expect("taken");
        let hash = stretch.seal(sequence, roots.last().map(|root| root.hash)).await;
        let bytes = hand.store.get(&ObjectType::LogRoot.key(hash), None).await.expect("got");
        roots.push(decode(&hand.test.identity, hash, &bytes).expect("a log root"));
    }
    roots
}

#[tokio::test]
async fn a_log_comes_back_segment_by_segment_in_its_own_order() {
    let (hand, log) = (Hand::new().await, FakeLog::new(1, 7));
    let roots = stored(&hand, &log, &[0..3, 3..4, 4..7]).await;
    assert_eq!(tears(&roots), []);
    let repository = hand.open(&hand.test.identity).await;
    let mut found = Vec::new();
    for root in &roots {
        let body = root.body.as_ref().expect("an identity reads it");
        let page = repository.fetcher().chunk(&body.top.expect("not empty")).await.expect("read");
        let ManifestPage::Entries(entries) = ManifestPage::decode(&page).expect("a page") else { panic!("one page") };
        for segment in &body.segments {
            let entry = entries.iter().find(|entry| entry.path.as_bytes() == segment.name.as_bytes()).expect("there");
            let Content::Inline(extents) = &entry.content else { panic!("short") };
            let [Extent::Chunk { id, .. }] = extents.as_slice() else { panic!("one chunk") };
            found.push((segment.name.clone(), repository.fetcher().chunk(id).await.expect("read")));
        }
    }
    assert_eq!(found, log.segments());
    assert!(!found.is_sorted(), "the order of the log is not that of the names: this tests something");
}

#[tokio::test]
async fn what_is_missing_of_a_log_is_named() {
    let (hand, log) = (Hand::new().await, FakeLog::new(2, 9));
    let name = |n: usize| log.segments()[n].0.clone();
    let lost = Tear::Segments { after: name(2), next: name(4) };
    let roots = stored(&hand, &log, &[0..3, 4..9]).await;
    assert_eq!(tears(&roots), [lost], "a segment that was never stored");
    let mut roots = stored(&hand, &log, &[0..3, 3..6, 6..9]).await;
    roots.remove(1);
    let segments = Tear::Segments { after: name(2), next: name(6) };
    assert_eq!(tears(&roots), [Tear::Roots { after: 1, next: 3 }, segments], "a root that was taken away");
    // A root that follows another history, though its segments fit.
    let mut forked = stored(&hand, &log, &[0..3, 3..6]).await;
    forked[1].header.previous = Some([9; 32].into());
    assert_eq!(tears(&forked), [Tear::Roots { after: 1, next: 2 }]);
}

#[tokio::test]
async fn logs_of_one_source_share_a_chain_and_each_goes_on_by_itself() {
    let (hand, log) = (Hand::new().await, FakeLog::new(4, 6));
    let mut roots = stored(&hand, &log, &[0..2, 0..3, 2..5, 3..6]).await;
    for root in roots.iter_mut().skip(1).step_by(2) {
        root.body.as_mut().expect("an identity reads it").log = "timeline 2".into();
    }
    assert_eq!(tears(&roots), []);
    roots.pop();
    roots[2].body.as_mut().expect("read").segments.remove(0);
    let name = |n: usize| log.segments()[n].0.clone();
    assert_eq!(tears(&roots), [Tear::Segments { after: name(1), next: name(3) }]);
}

#[tokio::test]
async fn each_role_opens_its_part_of_a_log_root_and_any_change_is_noticed() {
    let hand = Hand::new().await;
    let segment = |name: &str| Segment { name: name.into(), begins: "0/1".into(), ends: "0/2".into() };
    let sealed = |body: &LogBody| encode(&hand.header(1, None), &RootRefs { top: None }, body, &keys(&hand));
    let body = LogBody { segments: vec![segment("a"), segment("b")], ..body(None) };
    let (hash, bytes) = sealed(&body);
    for (access, refs, whole) in
        [(&hand.test.writer, false, false), (&hand.test.maintainer, true, false), (&hand.test.identity, true, true)]
    {
        let root = decode(access, hash, &bytes).expect("opened");
        assert_eq!((root.refs.is_some(), root.body), (refs, whole.then(|| body.clone())));
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let own = ObjectHash(lifeboat_model::Digest::of(&flipped));
        assert!(decode(&hand.test.all, own, &flipped).is_err(), "byte {at}");
    }
    assert!(super::super::decode(&hand.test.all, SnapshotId(hash.0), &bytes).is_err(), "it is no snapshot");
    let (hash, bytes) = sealed(&LogBody { segments: vec![segment("a"), segment("a")], ..body });
    assert!(matches!(decode(&hand.test.all, hash, &bytes), Err(ObjectError::Malformed(_))), "two of one name");
}

#[tokio::test]
async fn roots_that_nobody_follows_stop_a_prune_and_no_reader_and_a_check_tells_of_them() {
    let (hand, log) = (Hand::new().await, FakeLog::new(3, 2));
    let snapshot = hand.put_root(&hand.header(1, None), &Hand::body(None), hand.writer()).await;
    let [root] = &stored(&hand, &log, std::slice::from_ref(&(0..2))).await[..] else { panic!("one root") };
    let unknown = Key::new(format!("roots/future/{}", "0".repeat(64))).expect("a key");
    let known = ObjectType::LogRoot.key(root.hash);
    let scratch = tempfile::tempdir().expect("a directory");
    let ctx = run_context(scratch.path());
    let store: Arc<dyn Store> = Arc::new(hand.store.clone());
    for (name, told) in [(&known, "a log"), (&unknown, "of no kind that this program knows")] {
        if *name == unknown {
            store.delete(&known).await.expect("deleted");
            put(&store, &unknown, Bytes::from_static(b"of the future")).await.expect("put");
        }
        let maintainer = hand.open(&hand.test.maintainer).await;
        let pruned = prune(&maintainer, &PruneOptions::default(), &ctx).await.expect("a prune");
        let [refusal] = &pruned.refused[..] else { panic!("it stops: {pruned:?}") };
        assert!(refusal.why.contains(name.as_str()), "{refusal:?}");
        let identity = hand.open(&hand.test.identity).await;
        let list = identity.snapshots(&[]).await.expect("listed");
        assert_eq!((list.snapshots.len(), list.snapshots[0].id, list.refused.len()), (1, snapshot, 0));
        let report = check(&identity, CheckScope::default(), &[], &ctx).await.expect("a check");
        assert!(report.is_clean(), "{report:#?}");
        assert!(report.notes.iter().any(|note| note.contains(told)), "{report:#?}");
    }
    let bytes = Bytes::from_static(b"LIFEBOAT\x0b\x01\0\0\0\0\0\0 not a log root");
    let damaged = ObjectType::LogRoot.key([7; 32].into());
    put(&store, &damaged, bytes).await.expect("put");
    let identity = hand.open(&hand.test.identity).await;
    let report = check(&identity, CheckScope::default(), &[], &ctx).await.expect("a check");
    assert_eq!(report.problems.iter().map(|problem| problem.object.as_str()).collect::<Vec<_>>(), [damaged.as_str()]);
}

#[tokio::test]
async fn an_object_in_an_unknown_folder_is_noted_and_left_alone() {
    let hand = Hand::new().await;
    let snapshot = hand.put_root(&hand.header(1, None), &Hand::body(None), hand.writer()).await;
    let unknown = Key::new(format!("future/{}", "0".repeat(64))).expect("a key");
    let store: Arc<dyn Store> = Arc::new(hand.store.clone());
    put(&store, &unknown, Bytes::from_static(b"of the future")).await.expect("put");
    let scratch = tempfile::tempdir().expect("a directory");
    let ctx = run_context(scratch.path());
    let identity = hand.open(&hand.test.identity).await;
    assert_eq!(identity.snapshots(&[]).await.expect("listed").snapshots[0].id, snapshot);
    let report = check(&identity, CheckScope::default(), &[], &ctx).await.expect("a check");
    assert!(report.is_clean() && report.notes.iter().any(|note| note.contains(unknown.as_str())), "{report:#?}");
    let maintainer = hand.open(&hand.test.maintainer).await;
    let pruned = prune(&maintainer, &PruneOptions::default(), &ctx).await.expect("a prune");
    assert_eq!(pruned.refused.len(), 0, "{pruned:?}");
    assert!(store.get(&unknown, None).await.is_ok());
}

#[tokio::test]
async fn a_snapshot_of_a_newer_version_is_named_and_stops_a_prune_and_no_reader() {
    let hand = Hand::new().await;
    let snapshot = hand.put_root(&hand.header(1, None), &Hand::body(None), hand.writer()).await;
    let bytes = hand.store.get(&ObjectType::SnapshotRoot.key(ObjectHash(snapshot.0)), None).await.expect("got");
    let mut newer = bytes.to_vec();
    newer[9] += 1;
    let name = ObjectType::SnapshotRoot.key(ObjectHash(lifeboat_model::Digest::of(&newer)));
    let store: Arc<dyn Store> = Arc::new(hand.store.clone());
    put(&store, &name, newer.into()).await.expect("put");
    let scratch = tempfile::tempdir().expect("a directory");
    let ctx = run_context(scratch.path());
    let identity = hand.open(&hand.test.identity).await;
    let list = identity.snapshots(&[]).await.expect("listed");
    assert_eq!((list.snapshots.len(), list.refused[0].object.as_str()), (1, name.as_str()));
    let report = check(&identity, CheckScope::default(), &[], &ctx).await.expect("a check");
    let problems: Vec<_> = report.problems.iter().map(|problem| (problem.kind, problem.object.as_str())).collect();
    assert_eq!(problems, [(crate::check::ProblemKind::Newer, name.as_str())]);
    let maintainer = hand.open(&hand.test.maintainer).await;
    let pruned = prune(&maintainer, &PruneOptions::default(), &ctx).await.expect("a prune");
    let [refusal] = &pruned.refused[..] else { panic!("it stops: {pruned:?}") };
    assert!(refusal.why.contains(name.as_str()) && refusal.why.contains("newer than this program"), "{refusal:?}");
}

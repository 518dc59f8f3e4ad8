//! What the restore of one file among many asks of the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::flow::{Body, EntrySink};
use lifeboat_model::{EntryKind, EntryMeta};
use lifeboat_store::wrap::{Operation, Record};
use lifeboat_testkit::context::run_context;

use super::*;
use crate::testing::TestRepository;
use crate::writer::{SnapshotHead, WriteOptions};

/// So many that the manifest has several levels, with packs of its own.
const FILES: usize = 40_000;
const FILE_BYTES: usize = 2000;

fn content(number: usize) -> Bytes {
    let mut bytes = vec![0; FILE_BYTES];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn name(number: usize) -> String {
    format!("d{:03}/file-{number}", number % 400)
}

/// And everything costs few requests: what is wanted much is read with its neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn one_file_of_many_costs_its_own_bytes_and_at_most_two_packs_beside_the_index() {
    let hand = Hand::new().await;
    let scratch = hand.cache.path().join("scratch");
    std::fs::create_dir_all(&scratch).expect("made");
    let head = SnapshotHead {
        stack: TestRepository::stack(),
        source: lifeboat_model::SourceName::new("documents").expect("a name"),
        kind: "files".into(),
        label: None,
        config: String::new(),
        stack_run: None,
        system: std::collections::BTreeMap::new(),
    };
    let writer = hand.open(&hand.test.writer).await;
    let run = writer.writer(head, WriteOptions::default(), run_context(&scratch)).await.expect("a run");
    for number in 0..FILES {
        let meta = EntryMeta::new(EntryKind::File);
        run.put(&path(&name(number)), &meta, None, Body::Bytes(content(number))).await.expect("stored");
    }
    let sealed = run.seal(Hand::body(None).recovery_point).await.expect("sealed");
    assert!(sealed.stats.packs > 3, "{:?}", sealed.stats);

    let record = Arc::new(Record::new(Arc::new(hand.store.clone())));
    for number in [0, 12_345, FILES - 1] {
        let cache = tempfile::tempdir().expect("a directory");
        let store = Arc::clone(&record) as Arc<dyn Store>;
        let access = hand.test.identity.clone();
        let repository = crate::Repository::open(store, access, cache.path()).await.expect("opened");
        let reader = repository.reader(&sealed.id).await.expect("a reader");
        record.clear();
        assert_eq!(read(&reader, &name(number)).await.expect("read"), content(number));
        let packs: BTreeSet<String> = record.calls().into_iter().map(|call| call.key).collect();
        assert!(packs.len() <= 2, "{packs:?}");
        let stored = (FILE_BYTES + crate::pack::RECORD_BYTES) as u64;
        assert!(record.bytes(Operation::Get, "data/") <= stored, "{:?}", record.calls());
    }
    let cache = tempfile::tempdir().expect("a directory");
    let store = Arc::clone(&record) as Arc<dyn Store>;
    let repository = crate::Repository::open(store, hand.test.identity.clone(), cache.path()).await.expect("opened");
    let reader = repository.reader(&sealed.id).await.expect("a reader");
    record.clear();
    for number in (0..FILES).step_by(10) {
        assert_eq!(read(&reader, &name(number)).await.expect("read"), content(number));
    }
    let (gets, bytes) = (record.count(Operation::Get, "data/"), record.bytes(Operation::Get, "data/"));
    assert!(gets < 400 && bytes < 3 * (FILES * FILE_BYTES) as u64, "{gets} gets, {bytes} bytes");
}

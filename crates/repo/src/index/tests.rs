use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_model::ChunkId;
use lifeboat_store::Store;
use lifeboat_store::wrap::{Operation, Record as Recorded};
use proptest::prelude::*;

use super::*;
use crate::hand::Hand;
use crate::object::{DomainId, RepositoryId};
use crate::pack::Codec;
use crate::sealed::Role;

mod poison;

fn chunks(from: u32, count: u32) -> Vec<[u8; 4]> {
    (from..from + count).map(u32::to_le_bytes).collect()
}

async fn refreshed(hand: &Hand, store: &dyn Store) -> IndexSet {
    let set = IndexSet::open(Arc::new(hand.test.all.clone()), hand.cache.path()).expect("opened");
    set.refresh(store).await.expect("refreshed");
    set
}

fn found(hand: &Hand, set: &IndexSet, numbers: std::ops::Range<u32>) -> usize {
    let ids = numbers.map(|number| hand.id(PackKind::Data, &number.to_le_bytes()));
    ids.filter(|id| !set.locate(id).is_empty()).count()
}

fn tables(hand: &Hand) -> Vec<PathBuf> {
    super::segment::files(hand.cache.path()).expect("listed")
}

#[tokio::test]
async fn chunks_of_all_index_objects_are_found_and_each_object_is_fetched_once() {
    let hand = Hand::new().await;
    let store = Recorded::new(Arc::new(hand.store.clone()));
    for number in 0..10 {
        let pack = hand.pack(PackKind::Data, &chunks(number * 100, 100));
        hand.put_index(&[&pack]).await;
        let set = refreshed(&hand, &store).await;
        assert_eq!(found(&hand, &set, 0..1000), (number as usize + 1) * 100);
        let location = set.locate(&hand.id(PackKind::Data, &(number * 100 + 3).to_le_bytes())).remove(0);
        assert_eq!((location.pack, location.record.number, location.sure), (pack.hash, 3, true));
        assert_eq!(location.origin, pack.origins[0]);
        assert_eq!(set.packs().len(), number as usize + 1);
    }
    assert_eq!(store.count(Operation::Get, "index/"), 10);
    assert!(tables(&hand).len() <= 4, "tables are joined: {}", tables(&hand).len());
}

#[tokio::test]
async fn what_an_index_object_named_is_gone_with_it() {
    let hand = Hand::new().await;
    let packs = [0, 100, 200].map(|from| hand.pack(PackKind::Data, &chunks(from, 100)));
    let keys = [
        hand.put_index(&[&packs[0]]).await,
        hand.put_index(&[&packs[1]]).await,
        hand.put_index(&[&packs[0], &packs[2]]).await,
    ];
    assert_eq!(found(&hand, &refreshed(&hand, &hand.store).await, 0..300), 300);
    hand.store.delete(&keys[1]).await.expect("deleted");
    let set = refreshed(&hand, &hand.store).await;
    assert_eq!((found(&hand, &set, 0..300), found(&hand, &set, 100..200)), (200, 0));
    hand.store.delete(&keys[0]).await.expect("deleted");
    assert_eq!(found(&hand, &refreshed(&hand, &hand.store).await, 0..100), 100, "another object names the pack");
    hand.store.delete(&keys[2]).await.expect("deleted");
    let set = refreshed(&hand, &hand.store).await;
    assert_eq!((found(&hand, &set, 0..300), tables(&hand).len()), (0, 0));
}

#[tokio::test]
async fn a_chunk_in_two_packs_has_two_copies_and_one_in_two_indexes_has_one() {
    let hand = Hand::new().await;
    let packs = [hand.pack(PackKind::Data, &chunks(0, 3)), hand.pack(PackKind::Data, &chunks(0, 3))];
    hand.put_index(&[&packs[0]]).await;
    hand.put_index(&[&packs[0], &packs[1]]).await;
    let set = refreshed(&hand, &hand.store).await;
    let id = hand.id(PackKind::Data, &0u32.to_le_bytes());
    let copies: BTreeSet<_> = set.locate(&id).into_iter().map(|location| location.pack).collect();
    assert_eq!((set.locate(&id).len(), copies), (2, packs.iter().map(|pack| pack.hash).collect()));
    assert_eq!(set.known_in(&id, |pack| *pack == packs[1].hash), Some(packs[1].hash));
    assert_eq!(set.known_in(&id, |_| false), None);
}

#[tokio::test]
async fn a_damaged_index_object_is_told_and_its_packs_speak_for_themselves() {
    let hand = Hand::new().await;
    let pack = hand.pack(PackKind::Data, &chunks(0, 100));
    hand.put_pack(&pack).await;
    let key = hand.put_index(&[&pack]).await;
    let mut bytes = hand.store.get(&key, None).await.expect("there").to_vec();
    bytes[500] ^= 4;
    hand.put(&key, bytes.into()).await;
    let set = refreshed(&hand, &hand.store).await;
    assert_eq!(found(&hand, &set, 0..100), 0);
    let damaged = set.damaged();
    assert_eq!(
        (damaged.len(), damaged[0].object.as_str(), &damaged[0].why),
        (1, key.as_str(), &ObjectError::WrongHash)
    );
    let id = hand.id(PackKind::Data, &7u32.to_le_bytes());
    let copies = set.search(&hand.store, &id).await.expect("searched");
    assert_eq!((copies.len(), copies[0].pack, copies[0].sure), (1, pack.hash, false));
    assert_eq!(found(&hand, &set, 0..100), 100);
    assert_eq!(set.known_in(&id, |_| true), None, "no writer builds on what no index names");
}

#[tokio::test]
async fn a_damaged_table_is_made_again() {
    let hand = Hand::new().await;
    hand.put_index(&[&hand.pack(PackKind::Data, &chunks(0, 1000))]).await;
    drop(refreshed(&hand, &hand.store).await);
    let path = tables(&hand).remove(0);
    let good = std::fs::read(&path).expect("read");
    for at in [20, good.len() / 2, good.len() - 40] {
        let mut bytes = std::fs::read(tables(&hand).remove(0)).expect("read");
        bytes[at] ^= 1;
        let path = tables(&hand).remove(0);
        std::fs::remove_file(&path).expect("removed");
        std::io::Write::write_all(&mut std::fs::File::create(&path).expect("created"), &bytes).expect("written");
        let set = refreshed(&hand, &hand.store).await;
        for number in 0u32..1000 {
            let id = hand.id(PackKind::Data, &number.to_le_bytes());
            let mut copies = set.locate(&id);
            if copies.is_empty() {
                copies = set.search(&hand.store, &id).await.expect("searched");
            }
            assert_eq!(copies.len(), 1, "byte {at}, chunk {number}");
        }
    }
}

#[tokio::test]
async fn an_object_that_was_just_put_is_found_without_a_refresh() {
    let hand = Hand::new().await;
    let set = refreshed(&hand, &hand.store).await;
    let mut builder = IndexBuilder::new();
    builder.add(&hand.pack(PackKind::Meta, &chunks(0, 10)));
    let object = builder.finish();
    let (hash, bytes) = object.encode(&hand.keys().index, hand.writer());
    hand.put(&ObjectType::Index.key(hash), bytes).await;
    set.add_object(hash, hand.writer().verify_key(), hand.keys().index.domain, &object).expect("taken");
    let id = hand.id(PackKind::Meta, &3u32.to_le_bytes());
    assert!(set.known_in(&id, |_| true).is_some());
    let store = Recorded::new(Arc::new(hand.store.clone()));
    assert!(refreshed(&hand, &store).await.known_in(&id, |_| true).is_some());
    assert_eq!(store.count(Operation::Get, "index/"), 0, "it is on the disk already");
}

#[tokio::test]
async fn a_removed_writers_index_serves_readers_only() {
    let hand = Hand::new().await;
    hand.put_index(&[&hand.pack(PackKind::Data, &chunks(0, 10))]).await;
    let mut access = hand.test.all.clone();
    let writer = access.roster.writers.remove(0);
    let removed = crate::roster::RemovedWriter { verify: writer.verify, domain: writer.domain, roots: Vec::new() };
    access.roster.removed.push(removed);
    let set = IndexSet::open(Arc::new(access), hand.cache.path()).expect("opened");
    set.refresh(&hand.store).await.expect("refreshed");
    assert_eq!(found(&hand, &set, 0..10), 10);
    assert_eq!(set.known_in(&hand.id(PackKind::Data, &3u32.to_le_bytes()), |_| true), None);
}

#[tokio::test]
async fn a_removed_maintainers_index_serves_readers_only_and_only_where_the_roster_lists_it() {
    let hand = Hand::new().await;
    let mut access = hand.test.all.clone();
    let maintainer = access.maintain.clone().expect("a key");
    let mut builder = IndexBuilder::new();
    builder.add(&hand.pack(PackKind::Data, &chunks(0, 10)));
    let (hash, bytes) = builder.finish().encode(&hand.keys().index, &maintainer);
    hand.put(&ObjectType::Index.key(hash), bytes).await;
    let verify = maintainer.verify_key();
    access.roster.maintainers.retain(|key| key.verify != verify);
    access.roster.identities.retain(|key| key.verify != verify);
    for (words, readable) in [(vec![hash], 10), (vec![], 0)] {
        let mut access = access.clone();
        let removed = hand.test.all.roster.time;
        access.roster.retired = vec![crate::roster::RetiredKey { verify, removed, words }];
        let cache = tempfile::tempdir().expect("a directory");
        let set = IndexSet::open(Arc::new(access), cache.path()).expect("opened");
        set.refresh(&hand.store).await.expect("refreshed");
        assert_eq!(found(&hand, &set, 0..10), readable);
        assert_eq!(set.known_in(&hand.id(PackKind::Data, &3u32.to_le_bytes()), |_| true), None);
    }
}

#[tokio::test]
async fn index_objects_of_strangers_are_told_and_those_of_other_domains_passed_over() {
    let hand = Hand::new().await;
    let mut builder = IndexBuilder::new();
    builder.add(&hand.pack(PackKind::Data, &chunks(0, 10)));
    let object = builder.finish();
    let stranger = crate::crypt::SignKey::random();
    let (hash, bytes) = object.encode(&hand.keys().index, &stranger);
    hand.put(&ObjectType::Index.key(hash), bytes).await;
    let set = refreshed(&hand, &hand.store).await;
    assert_eq!(found(&hand, &set, 0..10), 0);
    assert_eq!(set.damaged()[0].why, ObjectError::Stranger(stranger.verify_key()));

    // The maintainer may sign for any domain; a reader without that domain's key fetches it once.
    hand.store.delete(&ObjectType::Index.key(hash)).await.expect("deleted");
    let foreign = IndexKey { domain: DomainId([9; 16]), ..hand.keys().index.clone() };
    let (hash, bytes) = object.encode(&foreign, hand.test.all.maintain.as_ref().expect("a maintainer"));
    hand.put(&ObjectType::Index.key(hash), bytes).await;
    let store = Recorded::new(Arc::new(hand.store.clone()));
    for _ in 0..3 {
        assert_eq!(refreshed(&hand, &store).await.damaged(), []);
    }
    assert_eq!(store.count(Operation::Get, "index/"), 1);
}

#[tokio::test]
async fn only_the_signers_of_a_type_may_sign_it() {
    let hand = Hand::new().await;
    let object = IndexBuilder::new().finish();
    let (hash, bytes) = object.encode(&hand.keys().index, hand.writer());
    let signed = IndexObject::decode(&hand.test.maintainer, hash, &bytes).expect("opened with the index key alone");
    assert_eq!((signed.role, signed.value), (Role::Writer, object));
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        assert!(IndexObject::decode(&hand.test.all, hash, &flipped).is_err());
        let own_name = ObjectHash(lifeboat_model::Digest::of(&flipped));
        assert!(IndexObject::decode(&hand.test.all, own_name, &flipped).is_err(), "byte {at}");
    }
}

fn object(ids: &[u8]) -> IndexObject {
    let envelope = crate::object::Envelope::from_bytes(&[&[1, 0, 0, 0, 1, 0, 0, 0][..], &[7; 1200]].concat());
    let mut records: Vec<Record> = ids
        .iter()
        .zip(0..)
        .map(|(id, number)| Record {
            id: ChunkId::from([*id; 32]),
            offset: 48 + number * 100,
            stored_len: 100,
            plain_len: 84,
            number,
            origin: 0,
            pack: 0,
            codec: Codec::Plain,
            kind: PackKind::Data,
        })
        .collect();
    records.sort_by_key(|record| record.id);
    IndexObject {
        packs: vec![IndexPack { hash: [2; 32].into(), bytes: 1 << 20, kind: PackKind::Data }],
        origins: vec![(PackId([3; 16]), 0)],
        envelopes: vec![envelope.expect("an envelope in form")],
        records,
    }
}

#[test]
fn the_bytes_of_an_index_are_those_of_the_format() {
    let plain = object(&[0xcc]).plain();
    let golden = format!(
        "a4 00 81 83 5820{} 1a00100000 04 01 81 82 50{} 00 02 81 5904b8 0100000001000000{} 03 5838{}30000000 64000000 54000000 00000000 00000000 0000 00 04",
        "02".repeat(32),
        "03".repeat(16),
        "07".repeat(1200),
        "cc".repeat(32),
    );
    assert_eq!(hex::encode(plain), golden.replace(' ', ""));
}

#[test]
fn records_that_point_nowhere_are_refused() {
    let good = object(&[1, 2, 3]);
    assert_eq!(IndexObject::parse(&good.plain()), Ok(good.clone()));
    let refused = |change: fn(&mut IndexObject)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(IndexObject::parse(&bad.plain()).is_err());
    };
    refused(|bad| bad.records[1].pack = 1);
    refused(|bad| bad.records[1].origin = 1);
    refused(|bad| bad.origins[0].1 = 1);
    refused(|bad| bad.packs[0].bytes = 300);
    refused(|bad| bad.packs[0].kind = PackKind::Meta);
    refused(|bad| bad.records.swap(0, 2));
    refused(|bad| bad.records[0].plain_len = u32::MAX);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_of_an_index_panic(
        ids in proptest::collection::vec(any::<u8>(), 0..5),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
    ) {
        let mut plain = object(&ids).plain();
        let at = at.index(plain.len());
        if cut {
            plain.truncate(at);
            prop_assert!(IndexObject::parse(&plain).is_err());
        } else {
            plain[at] ^= 1 << bit;
            let _ = IndexObject::parse(&plain);
        }
    }
}

#[test]
fn repository_ids_of_tables_are_compared() {
    let directory = tempfile::tempdir().expect("a directory");
    let segment = segment::Collector::default().write(directory.path(), RepositoryId([1; 16])).expect("written");
    assert!(segment::Segment::open(segment.table.path(), RepositoryId([1; 16])).is_ok());
    assert!(segment::Segment::open(segment.table.path(), RepositoryId([2; 16])).is_err());
}

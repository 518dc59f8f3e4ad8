//! A stolen writer key of one domain against the chunks of another: indexes that lie.

use super::*;
use crate::change::Owner;
use crate::crypt::SignKey;
use crate::hand::Hand;
use crate::join::{Scope, request_writer};
use crate::keyfile::WriterKey;
use crate::object::ObjectType;
use crate::open::{Keys, open_access};
use crate::owner::DomainChoice;
use crate::testing::TestRepository;

/// A second writer in a domain of its own.
async fn thief(hand: &Hand) -> WriterKey {
    let store: Arc<dyn Store> = Arc::new(hand.store.clone());
    let wish = Scope { stack: TestRepository::stack(), sources: vec![] };
    let (pending, request) = request_writer(&store, "thief", wish.clone()).await.expect("a request");
    let (key, now) = (&hand.test.owner, TestRepository::start());
    let owner = Owner { store: &store, key, remembered: None, forget_roster: false, now, exported: None };
    let (grant, _) = owner.add_writer(&request, DomainChoice::New, &[wish]).await.expect("added");
    grant.accept(&pending).expect("a writer")
}

/// What the honest index says, changed in every way that could get into another's way.
fn lies(honest: &IndexObject, envelope: &Envelope) -> Vec<IndexObject> {
    let mut all = Vec::new();
    for n in 0..12 {
        // The same pack and origin with an envelope of the thief's own; other lengths tell them apart.
        let mut lie = IndexObject { envelopes: vec![envelope.clone()], ..honest.clone() };
        lie.packs[0].bytes += n;
        all.push(lie.clone());
        // The same place, read otherwise.
        lie.envelopes = honest.envelopes.clone();
        lie.records.iter_mut().for_each(|record| record.number += 1);
        all.push(lie);
    }
    // More copies than anybody looks at.
    for n in 0..100u8 {
        let mut lie = honest.clone();
        lie.packs[0].hash = ObjectHash::from([n; 32]);
        all.push(lie);
    }
    all
}

#[tokio::test]
async fn an_index_of_another_domain_that_lies_about_a_pack_displaces_nothing() {
    let hand = Hand::new().await;
    let chunks: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 500]).collect();
    let pack = hand.pack(PackKind::Data, &chunks);
    hand.put_pack(&pack).await;
    hand.put_index(&[&pack]).await;
    let thief = thief(&hand).await;
    let store: Arc<dyn Store> = Arc::new(hand.store.clone());
    let keys = Keys { identity: Some(hand.test.owner.identity.clone()), ..Keys::default() };
    let access = open_access(&store, &keys, None).await.expect("opened").access;
    let mut honest = IndexBuilder::new();
    honest.add(&pack);
    let sign: &SignKey = &thief.sign;
    for lie in lies(&honest.finish(), &hand.references.envelope) {
        let (hash, bytes) = lie.encode(&access.domains[&thief.domain].index, sign);
        hand.put(&ObjectType::Index.key(hash), bytes).await;
    }
    // Once from the index objects, once from the tables that were made of them.
    for _ in 0..2 {
        let repository = hand.open(&access).await;
        for plain in &chunks {
            let id = hand.id(PackKind::Data, plain);
            assert_eq!(repository.fetcher().chunk(&id).await.expect("read"), plain);
        }
        repository.index().refresh(store.as_ref()).await.expect("read again");
    }
}

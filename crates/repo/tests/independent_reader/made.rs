//! Repositories made by the product, with some of everything.

use std::time::Duration;

use lifeboat_model::{ObjectHash, SourceName};
use lifeboat_repo::forget::{forget, hold};
use lifeboat_repo::keyfile::IdentityKey;
use lifeboat_repo::owner::DomainChoice;
use lifeboat_repo::prune::{PruneOptions, prune};
use lifeboat_repo::small::{self, Quarantine, Run, RunId, Small, Void};
use lifeboat_repo::{KeyFile, Keys, Scope, join};
use lifeboat_store::PutMode;

use crate::house::{House, Made, stack};
use crate::items::{Item, documents, noise, rows, wide};

/// Every repository.
pub(crate) async fn all() -> Vec<Made> {
    vec![everything().await, marked().await, crate::logs::made().await]
}

async fn put<T: Small>(house: &House, word: &T, signer: &lifeboat_repo::crypt::SignKey) {
    let access = house.open(house.maintainer()).await;
    let domain = access.access().domains[&house.made.writer.domain].index.clone();
    let (key, bytes) = small::encode(word, &domain, signer);
    house.store.put(&key, bytes, PutMode::CreateNew).await.expect("put");
}

/// Three snapshots of which two are pruned, so that packs hold records of other packs.
async fn pruned(house: &mut House) {
    let repository = house.open(house.writer()).await;
    let late = Item::file("srv-late", noise(8, 10_000));
    let mut forgotten = Vec::new();
    for (sequence, gone) in [(1, vec![]), (2, vec![late.clone()])] {
        let gone = [gone, vec![Item::file("srv/gone", noise(10 + sequence, 20_000))]].concat();
        forgotten.push(house.backup(&repository, "documents", sequence, &[documents(), gone].concat()).await);
    }
    house.backup(&repository, "documents", 3, &[documents(), vec![late]].concat()).await;
    let keeper = house.open(house.maintainer()).await;
    forget(&keeper, &forgotten, "a test", &house.context()).await.expect("forgotten");
    for round in 0..2 {
        house.clock.advance(Duration::from_secs(61));
        let options = PruneOptions { waste_percent: 5, dry_run: false };
        let report = prune(&keeper, &options, &house.context()).await.expect("pruned");
        assert_eq!((report.repacked_packs > 0, report.deleted_objects > 0), (round == 0, round == 1), "{report:?}");
    }
    house.expected.drain(..2);
}

/// Snapshots that are held, forgotten and void.
async fn judged(house: &mut House) {
    let mut changed = documents();
    changed[8] = Item::file(&b"srv/caf\xe9"[..], "changed");
    let repository = house.open(house.writer()).await;
    let fourth = house.backup(&repository, "documents", 4, &changed).await;
    let fifth = house.backup(&repository, "documents", 5, &changed[..3]).await;
    let sixth = house.backup(&repository, "documents", 6, &changed[..3]).await;
    let keeper = house.open(house.maintainer()).await;
    hold(&keeper, fourth, "a test", &house.context()).await.expect("held");
    forget(&keeper, &[fifth], "a test", &house.context()).await.expect("forgotten");
    let void = Void { snapshot: sixth, why: "a test".into(), time: house.now() };
    put(house, &void, &house.made.maintainer.sign).await;
    for (id, what) in [(fourth, "held"), (fifth, "forgotten"), (sixth, "void")] {
        house.note(id, what);
    }
}

/// A repository with some of everything that a prune goes on with.
pub(crate) async fn everything() -> Made {
    let mut house = House::new().await;
    pruned(&mut house).await;

    // Other keys: a second writer, and an identity that vouches for a copy and is gone, so that there is a
    // second epoch.
    let second = house.second_writer().await;
    let lost = IdentityKey::random(house.made.owner.identity.repository, house.made.owner.identity.root);
    let identity = IdentityKey::random(lost.repository, lost.root);
    for key in [&lost, &identity] {
        house.as_owner().add_identity(&key.roster_key()).await.expect("added");
    }
    house.copied(&lost).await;
    house.as_owner().remove_identity(lost.sign().verify_key()).await.expect("removed");
    judged(&mut house).await;

    // Rows of which one is other the next day, and a manifest of more than one level.
    let repository = house.open(house.writer()).await;
    for day in 1..=2 {
        house.backup(&repository, "registry", day as u64, &[rows(day)]).await;
    }
    house.backup(&repository, "wide", 1, &wide()).await;

    // The second writer is removed, and goes on.
    let repository = house.open(Keys { writer: Some(second.clone()), ..Keys::default() }).await;
    let mail = [Item::file("inbox", noise(4, 40_000))];
    house.backup(&repository, "mail", 1, &mail).await;
    let head = house.backup(&repository, "mail", 2, &mail).await;
    house.as_owner().remove_writer(second.sign.verify_key(), &[ObjectHash(head.0)]).await.expect("removed");
    let late = house.backup(&repository, "mail", 3, &mail).await;
    house.expected.pop();
    house.refused = vec![format!("roots/snapshot/{late}: made after its writer was removed")];

    // A third host has asked and was let in, and has not been told yet.
    let wish = Scope { stack: stack(), sources: vec![] };
    let (pending, request) = join::request_writer(&house.store, "third", wish.clone()).await.expect("a request");
    let (grant, _) = house.as_owner().add_writer(&request, DomainChoice::New, &[wish]).await.expect("added");
    let mut made = house.done("everything", identity).await;
    let pending = KeyFile::Pending(pending).encode(None).expect("a key file").to_string();
    let texts = [("pending.key", pending), ("request.key", request.encode()), ("grant.key", grant.encode())];
    made.keys.extend(texts);
    made
}

/// A repository in the midst of a prune, beside a run that is open; a chunk is in quarantine.
async fn marked() -> Made {
    let mut house = House::new().await;
    let files = |seed| [Item::file("kept", noise(5, 20_000)), Item::file("changing", noise(seed, 20_000))];
    let repository = house.open(house.writer()).await;
    let first = house.backup(&repository, "documents", 1, &files(6)).await;
    house.backup(&repository, "documents", 2, &files(7)).await;
    let keeper = house.open(house.maintainer()).await;
    forget(&keeper, &[first], "a test", &house.context()).await.expect("forgotten");
    house.note(first, "forgotten");
    let quarantine = Quarantine { time: house.now(), chunks: vec![[7; 32].into()], why: "a test".into() };
    put(&house, &quarantine, &house.made.maintainer.sign).await;
    house.clock.advance(Duration::from_secs(61));
    let source_tag = keeper.access().domains[&house.made.writer.domain]
        .source_tag(&stack(), &SourceName::new("mail").expect("a name"));
    put(&house, &Run { run: RunId([3; 16]), source_tag, time: house.now() }, &house.made.writer.sign).await;
    let options = PruneOptions { waste_percent: 5, dry_run: false };
    let report = prune(&keeper, &options, &house.context()).await.expect("a prune");
    assert!(report.marked_packs > 0 && report.deleted_objects == 0, "{report:?}");
    let identity = house.made.owner.identity.clone();
    house.done("marked", identity).await
}

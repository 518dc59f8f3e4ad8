//! Every stored byte is hostile; every combination of keys opens what its roles may have.

use bytes::Bytes;
use futures::StreamExt;
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::wrap::Record;
use lifeboat_store::{Key, PutMode};

use super::*;
use crate::change::Owner;
use crate::crypt::{Secret, SignKey};
use crate::error::RepoErrorKind;
use crate::object::{ObjectType, SIGNATURE_BYTES, header};
use crate::roster::KeyringCopy;
use crate::testing::TestRepository;

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

async fn repository() -> TestRepository {
    TestRepository::create(memory()).await
}

fn writer(repository: &TestRepository) -> Keys {
    Keys { writer: Some(repository.writer_key.clone()), ..Keys::default() }
}

fn maintainer(repository: &TestRepository) -> Keys {
    Keys { maintainer: Some(repository.maintainer_key.clone()), ..Keys::default() }
}

fn identity(repository: &TestRepository) -> Keys {
    Keys { identity: Some(repository.owner.identity.clone()), ..Keys::default() }
}

fn every_role(repository: &TestRepository) -> [Keys; 3] {
    [writer(repository), maintainer(repository), identity(repository)]
}

async fn get(store: &Arc<dyn Store>, key: &Key) -> Bytes {
    store.get(key, None).await.expect("the object is there")
}

async fn put(store: &Arc<dyn Store>, key: &Key, bytes: impl Into<Bytes>) {
    store.put(key, bytes.into(), PutMode::Replace).await.expect("put");
}

async fn flip(store: &Arc<dyn Store>, key: &Key, at: usize) {
    let mut bytes = get(store, key).await.to_vec();
    bytes[at] ^= 1 << (at % 8);
    put(store, key, bytes).await;
}

async fn refused(store: &Arc<dyn Store>, keys: &Keys) -> RepoError {
    open_access(store, keys, None).await.expect_err("refused")
}

/// A second roster, by a change of the grace period.
async fn second_roster(repository: &TestRepository) -> Roster {
    owner(repository).set_grace(61).await.expect("changed").roster
}

fn owner(repository: &TestRepository) -> Owner<'_> {
    Owner {
        store: &repository.store,
        key: &repository.owner,
        remembered: None,
        forget_roster: false,
        now: TestRepository::start(),
        exported: None,
    }
}

#[tokio::test]
async fn an_empty_store_is_no_repository() {
    let repository = repository().await;
    let error = refused(&memory(), &writer(&repository)).await;
    assert_eq!((error.kind(), error.kind().exit_code()), (RepoErrorKind::NoRepository, 10));
}

#[tokio::test]
async fn keys_of_different_repositories_are_not_mixed() {
    let (one, two) = (repository().await, repository().await);
    let keys = Keys { identity: identity(&two).identity, ..writer(&one) };
    assert!(matches!(refused(&one.store, &keys).await, RepoError::KeysDiffer));
    assert_eq!(refused(&one.store, &keys).await.kind(), RepoErrorKind::Key);
    assert_eq!(refused(&one.store, &Keys::default()).await.kind(), RepoErrorKind::Key);
}

#[tokio::test]
async fn another_repository_in_the_store_is_named() {
    let (one, two) = (repository().await, repository().await);
    for keys in every_role(&one) {
        let error = refused(&two.store, &keys).await;
        let found = two.owner.identity.repository;
        assert!(matches!(error, RepoError::OtherRepository { found: f, .. } if f == found), "{error}");
        assert_eq!(error.kind().exit_code(), 12);
    }
}

#[tokio::test]
async fn a_format_that_another_root_signed_is_refused_and_named() {
    let repository = repository().await;
    let thief = SignKey::random();
    let format = Format::new(repository.owner.identity.repository, TestRepository::start());
    put(&repository.store, &Format::key(), format.sign(&thief)).await;
    for keys in every_role(&repository) {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::OtherRoot { found, .. } if found == thief.verify_key()), "{error}");
    }
}

#[tokio::test]
async fn a_format_with_any_byte_changed_or_cut_is_refused_as_damaged() {
    let repository = repository().await;
    let key = Format::key();
    let good = get(&repository.store, &key).await;
    for at in 0..good.len() {
        flip(&repository.store, &key, at).await;
        let error = refused(&repository.store, &writer(&repository)).await;
        assert_eq!(error.kind(), RepoErrorKind::Damaged, "byte {at}: {error}");
        put(&repository.store, &key, good.slice(..at)).await;
        let error = refused(&repository.store, &writer(&repository)).await;
        assert_eq!(error.kind(), RepoErrorKind::Damaged, "cut at {at}: {error}");
        put(&repository.store, &key, good.clone()).await;
    }
}

#[tokio::test]
async fn a_newer_version_and_unknown_features_are_told_from_damage() {
    let repository = repository().await;
    let root = &repository.owner.root;
    let key = Format::key();
    let mut newer = get(&repository.store, &key).await.to_vec();
    newer[9] = 2;
    put(&repository.store, &key, newer).await;
    let error = refused(&repository.store, &identity(&repository)).await;
    assert!(matches!(error, RepoError::Object { source: ObjectError::NewerVersion(2), .. }), "{error}");
    assert_eq!(error.hint(), Some("use a newer lifeboat"));

    let mut format = Format::new(repository.owner.identity.repository, TestRepository::start());
    format.read_only_compatible = vec!["bloom".into()];
    put(&repository.store, &key, format.sign(root)).await;
    let opened = open_access(&repository.store, &identity(&repository), None).await.expect("it can be read");
    assert!(crate::forget::keeper(&opened.access, "a test").is_err(), "an identity may change nothing either");
    for keys in [writer(&repository), maintainer(&repository)] {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::UnknownFeature { to_read: false, .. }), "{error}");
    }
    format.incompatible = vec!["tape".into()];
    put(&repository.store, &key, format.sign(root)).await;
    let error = refused(&repository.store, &identity(&repository)).await;
    assert!(error.to_string().contains("\"tape\""), "{error}");
}

#[tokio::test]
async fn a_roster_that_another_root_signed_is_refused_and_named() {
    let repository = repository().await;
    let thief = SignKey::random();
    let mut forged = repository.identity.roster.clone();
    forged.number = 2;
    forged.writers.clear();
    let (forged, bytes) = forged.sign(repository.owner.identity.repository, &thief);
    put(&repository.store, &forged.key(), bytes).await;
    for keys in every_role(&repository) {
        let opened = open_access(&repository.store, &keys, None).await.expect("the root's roster holds");
        assert_eq!(opened.access.roster, repository.identity.roster);
        let named = OpenWarning::ForeignRoster { object: forged.key().to_string(), signer: thief.verify_key() };
        assert_eq!(opened.warnings, [named]);
    }
    repository.store.delete(&repository.identity.roster.key()).await.expect("deleted");
    let error = refused(&repository.store, &writer(&repository)).await;
    assert!(matches!(error, RepoError::OtherRoot { found, .. } if found == thief.verify_key()), "{error}");
    assert_eq!(error.kind(), RepoErrorKind::Damaged, "the key is right, the roster is forged");
}

#[tokio::test]
async fn a_roster_of_another_repository_of_the_same_owner_is_not_taken() {
    let repository = repository().await;
    let mut swapped = repository.identity.roster.clone();
    swapped.number = 9;
    let (swapped, bytes) = swapped.sign(RepositoryId([9; 16]), &repository.owner.root);
    put(&repository.store, &swapped.key(), bytes).await;
    let opened = open_access(&repository.store, &writer(&repository), None).await.expect("opens");
    assert_eq!(opened.access.roster.number, 1);
    assert!(matches!(opened.warnings[..], [OpenWarning::ForeignRoster { .. }]));
}

#[tokio::test]
async fn the_only_roster_with_any_byte_changed_is_named() {
    let repository = repository().await;
    let key = repository.identity.roster.key();
    let good = get(&repository.store, &key).await;
    for at in (0..good.len()).step_by(7) {
        flip(&repository.store, &key, at).await;
        for keys in every_role(&repository) {
            let error = refused(&repository.store, &keys).await;
            assert!(
                matches!(&error, RepoError::Object { object, .. } if *object == key.as_str()),
                "byte {at}: {error}"
            );
        }
        put(&repository.store, &key, good.clone()).await;
    }
    put(&repository.store, &key, good.slice(..40)).await;
    assert_eq!(refused(&repository.store, &writer(&repository)).await.kind(), RepoErrorKind::Damaged);
    repository.store.delete(&key).await.expect("deleted");
    assert!(matches!(refused(&repository.store, &writer(&repository)).await, RepoError::Missing { .. }));
}

#[tokio::test]
async fn a_damaged_newest_roster_stops_those_who_write_and_warns_those_who_read() {
    let repository = repository().await;
    let newest = second_roster(&repository).await;
    flip(&repository.store, &newest.key(), 100).await;
    for keys in [writer(&repository), maintainer(&repository)] {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(&error, RepoError::Object { object, .. } if *object == newest.key().as_str()), "{error}");
    }
    let opened = open_access(&repository.store, &identity(&repository), None).await.expect("reads on");
    assert_eq!(opened.access.roster.number, 1);
    assert!(matches!(opened.warnings[..], [OpenWarning::DamagedRoster { .. }]));
    // The owner puts it right by writing the roster again.
    owner(&repository).renew().await.expect("repaired");
    let opened = open_access(&repository.store, &writer(&repository), None).await.expect("writes again");
    assert_eq!(opened.access.roster.number, 2);
}

#[tokio::test]
async fn a_roster_of_a_newer_program_stops_everybody() {
    let repository = repository().await;
    let (mut roster, bytes) = {
        let mut next = repository.identity.roster.clone();
        next.number = 2;
        next.sign(repository.owner.identity.repository, &repository.owner.root)
    };
    // The same body with a newer version in its header, signed by the root.
    let body = &bytes[header(ObjectType::Roster).len()..bytes.len() - SIGNATURE_BYTES];
    let mut newer = header(ObjectType::Roster).to_vec();
    newer[9] = 2;
    newer.extend_from_slice(body);
    let mut message = b"lifeboat v1 object signature\0".to_vec();
    message.extend_from_slice(&repository.owner.identity.repository.0);
    message.extend_from_slice(&Digest::of(&newer).0);
    let signature = repository.owner.root.sign(&message);
    newer.extend_from_slice(&repository.owner.root.verify_key().0);
    newer.extend_from_slice(&signature);
    roster.hash = lifeboat_model::ObjectHash(Digest::of(&newer));
    put(&repository.store, &roster.key(), newer).await;
    for keys in every_role(&repository) {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::Object { source: ObjectError::NewerVersion(2), .. }), "{error}");
    }
}

#[tokio::test]
async fn a_repository_from_before_the_freeze_is_refused_and_left_alone() {
    let repository = repository().await;
    let mut older = get(&repository.store, &Format::key()).await.to_vec();
    older[9] = 0;
    put(&repository.store, &Format::key(), older).await;
    for keys in every_role(&repository) {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::Object { source: ObjectError::OlderVersion(0), .. }), "{error}");
        assert!(error.hint().expect("a hint").contains("lifeboat init"));
    }
}

/// Puts the next roster, with these features.
async fn roster_needs(repository: &TestRepository, incompatible: &[&str], read_only: &[&str]) {
    let texts = |features: &[&str]| features.iter().map(|feature| (*feature).to_owned()).collect();
    let mut next = repository.identity.roster.clone();
    next.number += 1;
    (next.incompatible, next.read_only_compatible) = (texts(incompatible), texts(read_only));
    let (roster, bytes) = next.sign(repository.owner.identity.repository, &repository.owner.root);
    put(&repository.store, &roster.key(), bytes).await;
}

#[tokio::test]
async fn a_roster_may_ask_for_features_too() {
    let repository = repository().await;
    roster_needs(&repository, &[], &["bloom"]).await;
    for keys in [writer(&repository), maintainer(&repository)] {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::UnknownFeature { to_read: false, .. }), "{error}");
    }
    let opened = open_access(&repository.store, &identity(&repository), None).await.expect("it can be read");
    let error = crate::forget::keeper(&opened.access, "a test").expect_err("and not be changed");
    assert!(matches!(error, RepoError::UnknownFeature { to_read: false, .. }), "{error}");

    let repository = self::repository().await;
    roster_needs(&repository, &["tape"], &[]).await;
    for keys in every_role(&repository) {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::UnknownFeature { to_read: true, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_was_set_back_is_refused_by_whoever_remembers() {
    let repository = repository().await;
    let newest = second_roster(&repository).await;
    let opened = open_access(&repository.store, &writer(&repository), None).await.expect("opens");
    assert_eq!((opened.remembered.roster, opened.warnings.len()), (2, 0));
    repository.store.delete(&newest.key()).await.expect("deleted");
    for keys in every_role(&repository) {
        let error = open_access(&repository.store, &keys, Some(&opened.remembered)).await.expect_err("refused");
        assert!(matches!(error, RepoError::OlderRoster { remembered: 2, found: 1, .. }), "{error}");
        open_access(&repository.store, &keys, None).await.expect("nobody else can tell");
    }
    let other = Remembered { repository: RepositoryId([1; 16]), ..opened.remembered };
    open_access(&repository.store, &writer(&repository), Some(&other)).await.expect("another repository's memory");
}

#[tokio::test]
async fn a_missing_predecessor_is_told() {
    let repository = repository().await;
    second_roster(&repository).await;
    repository.store.delete(&repository.identity.roster.key()).await.expect("deleted");
    let opened = open_access(&repository.store, &writer(&repository), None).await.expect("opens");
    assert!(matches!(opened.warnings[..], [OpenWarning::PredecessorMissing { number: 2, .. }]));
}

#[tokio::test]
async fn one_damaged_copy_of_the_keyring_is_told_and_the_other_used() {
    let repository = repository().await;
    for copy in KeyringCopy::ALL {
        let key = repository.identity.roster.keyring_key(copy);
        let good = get(&repository.store, &key).await;
        for at in (0..good.len()).step_by(97) {
            flip(&repository.store, &key, at).await;
            for keys in [maintainer(&repository), identity(&repository)] {
                let opened = open_access(&repository.store, &keys, None).await.expect("the other copy opens");
                let told = opened.warnings.len();
                // The second copy is read only where the first is bad.
                assert_eq!(told, usize::from(copy == KeyringCopy::First), "byte {at}");
            }
            put(&repository.store, &key, good.clone()).await;
        }
        repository.store.delete(&key).await.expect("deleted");
        open_access(&repository.store, &identity(&repository), None).await.expect("the other copy opens");
        put(&repository.store, &key, good).await;
    }
}

#[tokio::test]
async fn with_both_copies_damaged_an_older_keyring_opens_or_the_loss_is_named() {
    let repository = repository().await;
    let first = repository.identity.roster.clone();
    let newest = second_roster(&repository).await;
    for copy in KeyringCopy::ALL {
        flip(&repository.store, &newest.keyring_key(copy), 50).await;
    }
    for keys in [maintainer(&repository), identity(&repository)] {
        let opened = open_access(&repository.store, &keys, None).await.expect("the older keyring opens");
        assert_eq!(opened.warnings, [OpenWarning::OlderKeyring { wanted: 2, used: 1 }]);
    }
    for copy in KeyringCopy::ALL {
        repository.store.delete(&first.keyring_key(copy)).await.expect("deleted");
    }
    for keys in [maintainer(&repository), identity(&repository)] {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::KeyringLost { number: 2, .. }), "{error}");
        assert_eq!(error.kind(), RepoErrorKind::Damaged);
    }
    open_access(&repository.store, &writer(&repository), None).await.expect("writers need no keyring");
}

#[tokio::test]
async fn objects_that_stand_under_each_others_names_are_refused() {
    let repository = repository().await;
    let roster = repository.identity.roster.clone();
    let names = [Format::key(), roster.key(), roster.keyring_key(KeyringCopy::First)];
    for one in &names {
        for two in &names {
            if one == two {
                continue;
            }
            let (first, second) = (get(&repository.store, one).await, get(&repository.store, two).await);
            put(&repository.store, one, second).await;
            for keys in [writer(&repository), maintainer(&repository)] {
                match open_access(&repository.store, &keys, None).await {
                    Ok(opened) => {
                        assert!(one.as_str().starts_with("keyring/"), "{two} under the name {one}");
                        assert_eq!(opened.warnings.len(), usize::from(keys.maintainer.is_some()));
                    }
                    Err(error) => assert_eq!(error.kind(), RepoErrorKind::Damaged, "{error}"),
                }
            }
            put(&repository.store, one, first).await;
        }
    }
}

#[tokio::test]
async fn keys_that_are_not_on_the_roster_are_wrong_keys_and_nothing_is_touched() {
    let repository = repository().await;
    let (repository_id, root) = (repository.owner.identity.repository, repository.owner.identity.root);
    let stranger = Keys {
        writer: Some(WriterKey { sign: SignKey::random(), ..repository.writer_key.clone() }),
        ..Keys::default()
    };
    let other_domain = Keys {
        writer: Some(WriterKey { domain: crate::object::DomainId([0; 16]), ..repository.writer_key.clone() }),
        ..Keys::default()
    };
    let maintainer = Keys { maintainer: Some(MaintainerKey::random(repository_id, root)), ..Keys::default() };
    let identity = Keys {
        identity: Some(IdentityKey { seed: Secret::random(), ..repository.owner.identity.clone() }),
        ..writer(&repository)
    };
    let objects = repository.store.list("").count().await;
    for keys in [stranger, other_domain, maintainer, identity] {
        let error = refused(&repository.store, &keys).await;
        assert!(matches!(error, RepoError::WrongKey { .. }), "{error}");
        assert_eq!(error.kind().exit_code(), 12);
    }
    assert_eq!(repository.store.list("").count().await, objects);
}

#[tokio::test]
async fn junk_far_above_the_newest_roster_stops_nobody() {
    let repository = repository().await;
    let hash = lifeboat_model::ObjectHash(Digest::of(b"another content"));
    put(&repository.store, &crate::roster::numbered_key("roster/", 99_999_999, hash), &b"junk"[..]).await;
    let opened = open_access(&repository.store, &writer(&repository), None).await.expect("opens");
    assert!(matches!(opened.warnings[..], [OpenWarning::DamagedRoster { .. }]));
}

#[tokio::test]
async fn a_writer_opens_by_three_calls_and_asks_for_no_secret() {
    let repository = repository().await;
    let record = Arc::new(Record::new(Arc::clone(&repository.store)));
    let store: Arc<dyn Store> = record.clone();
    open_access(&store, &writer(&repository), None).await.expect("opens");
    let names: Vec<String> = record.calls().into_iter().map(|call| call.key).collect();
    assert_eq!(names, ["format", "roster/", repository.identity.roster.key().as_str()]);
}

#[tokio::test]
async fn a_store_filled_with_names_of_rosters_is_refused_without_reading_them() {
    let repository = repository().await;
    for number in 0..10_001u32 {
        let hash = lifeboat_model::ObjectHash(Digest::of(&number.to_le_bytes()));
        put(&repository.store, &crate::roster::numbered_key("roster/", number, hash), Bytes::new()).await;
    }
    let error = refused(&repository.store, &writer(&repository)).await;
    assert!(matches!(error, RepoError::TooMany { .. }), "{error}");
}

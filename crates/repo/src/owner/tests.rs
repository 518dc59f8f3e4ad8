//! Letting hosts in and out, alone and with another owner at work at the same time.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::{SnapshotId, SourceName, StackName};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{Key, PutMode, Store};

use super::*;
use crate::access::Access;
use crate::crypt::SignKey;
use crate::error::RepoErrorKind;
use crate::export::{decode_secrets, export_secrets};
use crate::interrupted::Interrupted;
use crate::join::{accept_grant, request_writer};
use crate::keyfile::{IdentityKey, KeyFile, KeyFileError, MaintainerKey, OwnerKey, PendingKey, WriterKey};
use crate::newest::OpenWarning;
use crate::object::ObjectError;
use crate::open::{Keys, Opened, open_access};
use crate::roster::KeyringCopy;
use crate::small::{self, Forget};
use crate::testing::TestRepository;

/// Where another owner comes between.
const ROSTERS: &str = "roster/";

async fn repository() -> TestRepository {
    TestRepository::create(Arc::new(MemoryStore::default())).await
}

fn owner_in<'a>(store: &'a Arc<dyn Store>, key: &'a OwnerKey) -> Owner<'a> {
    Owner { store, key, remembered: None, forget_roster: false, now: TestRepository::start(), exported: None }
}

fn owner(repository: &TestRepository) -> Owner<'_> {
    owner_in(&repository.store, &repository.owner)
}

fn scope(stack: &str, sources: &[&str]) -> Scope {
    Scope {
        stack: StackName::new(stack).expect("a name"),
        sources: sources.iter().map(|source| SourceName::new(source).expect("a name")).collect(),
    }
}

async fn request(repository: &TestRepository) -> (PendingKey, Request) {
    request_writer(&repository.store, "second", scope("second", &[])).await.expect("a request")
}

async fn open(store: &Arc<dyn Store>, keys: Keys) -> Result<Opened, RepoError> {
    open_access(store, &keys, None).await
}

fn writer(key: WriterKey) -> Keys {
    Keys { writer: Some(key), ..Keys::default() }
}

fn identity(key: &IdentityKey) -> Keys {
    Keys { identity: Some(key.clone()), ..Keys::default() }
}

fn maintainer(key: &MaintainerKey) -> Keys {
    Keys { maintainer: Some(key.clone()), ..Keys::default() }
}

#[tokio::test]
async fn a_second_host_joins_by_request_and_grant_through_files() {
    let repository = repository().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("writer.key");
    let (pending, asked) = request(&repository).await;
    KeyFile::Pending(pending).write_new(&path, None).expect("written");
    let carried = Request::decode(&asked.encode()).expect("a request");
    assert_eq!((&carried, carried.fingerprint()), (&asked, asked.fingerprint()));

    let (grant, changed) =
        owner(&repository).add_writer(&carried, DomainChoice::New, &[scope("second", &[])]).await.expect("added");
    assert_eq!(changed.roster.number, 2);
    let key = accept_grant(&path, &Grant::decode(&grant.encode()).expect("a grant")).expect("accepted");
    assert_eq!(KeyFile::read(&path, &mut || None).expect("read"), KeyFile::Writer(key.clone()));
    assert_ne!(key.domain, repository.writer_key.domain, "a domain of its own");

    let access = open(&repository.store, writer(key.clone())).await.expect("opens").access;
    let keys = &access.domains[&key.domain];
    let stack = StackName::new("second").expect("a name");
    let source = keys.source_tag(&stack, &SourceName::new("files").expect("a name"));
    let listed = access.roster.writer(key.sign.verify_key()).expect("on the roster");
    assert!(listed.allows(keys.stack_tag(&stack), source));
    assert!(!listed.allows(keys.stack_tag(&TestRepository::stack()), source), "not the first host's stack");
    let reads = open(&repository.store, identity(&repository.owner.identity)).await.expect("opens").access;
    assert_eq!(reads.domains[&key.domain].index, keys.index, "identities have the new domain");
    let keeps = open(&repository.store, maintainer(&repository.maintainer_key)).await.expect("opens").access;
    assert_eq!(keeps.domains[&key.domain].index, keys.index, "maintainers have its index key");
    assert!(keeps.domains[&key.domain].content.is_none());
}

#[tokio::test]
async fn a_host_joins_an_existing_domain_and_its_scopes_can_be_changed() {
    let repository = repository().await;
    let (pending, asked) = request(&repository).await;
    let join = DomainChoice::Join(repository.writer_key.domain);
    let (grant, _) = owner(&repository).add_writer(&asked, join, &[scope("test", &["files"])]).await.expect("added");
    let key = grant.accept(&pending).expect("accepted");
    assert_eq!((key.domain, &key.secret), (repository.writer_key.domain, &repository.writer_key.secret));
    let (again, changed) =
        owner(&repository).add_writer(&asked, DomainChoice::New, &[scope("test", &["db"])]).await.expect("changed");
    assert_eq!(changed.roster.number, 3);
    assert_eq!(again.accept(&pending).expect("accepted"), key, "it stays in its domain");
    let (_, same) =
        owner(&repository).add_writer(&asked, DomainChoice::New, &[scope("test", &["db"])]).await.expect("the same");
    assert_eq!(same.roster, changed.roster, "nothing to do puts nothing");
    let nowhere = DomainChoice::Join(DomainId([0; 16]));
    let (_, third) = request(&repository).await;
    let error = owner(&repository).add_writer(&third, nowhere, &[scope("test", &[])]).await.expect_err("refused");
    assert_eq!(error.kind(), RepoErrorKind::Usage);
}

#[tokio::test]
async fn grants_and_requests_of_others_are_refused() {
    let (one, two) = (repository().await, repository().await);
    let (pending, asked) = request(&one).await;
    let (bystander, _) = request(&one).await;
    let error = owner(&two).add_writer(&asked, DomainChoice::New, &[scope("a", &[])]).await.expect_err("refused");
    assert_eq!(error.kind(), RepoErrorKind::Usage);
    let (grant, _) = owner(&one).add_writer(&asked, DomainChoice::New, &[scope("a", &[])]).await.expect("added");
    assert!(matches!(grant.accept(&bystander), Err(KeyFileError::Grant { .. })));
    let (forged, _) =
        owner_in(&one.store, &one.owner).add_writer(&asked, DomainChoice::New, &[scope("a", &[])]).await.expect("same");
    let thief = Grant::seal(&asked, DomainId([1; 16]), &Secret::random(), &two.owner.root).expect("sealed");
    assert!(thief.accept(&pending).is_err(), "signed by another root");
    assert!(forged.accept(&pending).is_ok());
    let text = grant.encode();
    for at in (0..text.len()).step_by(11) {
        let mut typo = text.clone().into_bytes();
        typo[at] = if typo[at] == b'7' { b'3' } else { b'7' };
        let typo = String::from_utf8(typo).expect("text");
        let taken = Grant::decode(&typo).and_then(|grant| grant.accept(&pending));
        assert!(taken.is_err() || text.as_bytes()[at].is_ascii_whitespace(), "at {at}");
    }
}

#[tokio::test]
async fn a_removed_writer_is_told_so_and_its_roots_are_recorded() {
    let repository = repository().await;
    let verify = repository.writer_key.sign.verify_key();
    let head = ObjectHash::from([7; 32]);
    let changed = owner(&repository).remove_writer(verify, &[head]).await.expect("removed");
    assert_eq!(changed.roster.removed[0].roots, [head]);
    let error = open(&repository.store, writer(repository.writer_key.clone())).await.expect_err("refused");
    assert_eq!(error.kind(), RepoErrorKind::Key);
    assert!(error.to_string().contains("removed from the roster"), "{error}");
    let again = owner(&repository).remove_writer(verify, &[]).await.expect("nothing to do");
    assert_eq!(again.roster, changed.roster);
    let nobody = owner(&repository).remove_writer(VerifyKey([0; 32]), &[]).await.expect_err("unknown");
    assert_eq!(nobody.kind(), RepoErrorKind::Usage);
    let reads = open(&repository.store, identity(&repository.owner.identity)).await.expect("opens").access;
    assert!(reads.domains.contains_key(&repository.writer_key.domain), "what it wrote stays readable");
}

#[tokio::test]
async fn an_identity_without_root_reads_everything_until_it_is_removed() {
    let repository = repository().await;
    let home = &repository.owner.identity;
    let restore = IdentityKey::random(home.repository, home.root);
    owner(&repository).add_identity(&restore.roster_key()).await.expect("added");
    let before = open(&repository.store, identity(&restore)).await.expect("opens").access;
    assert_eq!(before.epochs, repository.identity.epochs);

    let own = home.roster_key().verify;
    let error = owner(&repository).remove_identity(own).await.expect_err("the owner's own stays");
    assert_eq!(error.kind(), RepoErrorKind::Usage);
    let changed = owner(&repository).remove_identity(restore.roster_key().verify).await.expect("removed");
    assert_ne!(changed.roster.epoch.0, before.roster.epoch.0);
    assert_ne!(changed.roster.maintenance.0, before.roster.maintenance.0);
    let retired: Vec<_> = changed.roster.retired.iter().map(|key| key.verify).collect();
    assert_eq!(retired, [restore.roster_key().verify], "what it vouched for stands");
    let again = owner(&repository).remove_identity(restore.roster_key().verify).await.expect("nothing to do");
    assert_eq!(again.roster, changed.roster, "a try that was cut off late is run again");
    let error = open(&repository.store, identity(&restore)).await.expect_err("refused");
    assert_eq!(error.kind(), RepoErrorKind::Key);
    let after = open(&repository.store, identity(home)).await.expect("opens").access;
    assert_eq!(after.epochs.len(), 2, "old content stays readable");
    let newest = after.epoch_recipient();
    assert_eq!(after.epochs[&newest.generation].public(), newest.public);
    assert!(!before.epochs.contains_key(&newest.generation), "the removed identity lacks the new epoch");
    let keeps = open(&repository.store, maintainer(&repository.maintainer_key)).await.expect("opens").access;
    assert_eq!(keeps.maintenance.len(), 2, "maintainers have the new maintenance key");
}

#[tokio::test]
async fn what_a_removed_maintainer_said_stands_and_what_it_says_later_does_not() {
    let repository = repository().await;
    let home = &repository.owner.identity;
    let old = MaintainerKey::random(home.repository, home.root);
    owner(&repository).add_maintainer(&old.roster_key()).await.expect("added");
    let access = open(&repository.store, identity(home)).await.expect("opens").access;
    let key = &access.domains[&repository.writer_key.domain].index;
    let forget = |number: u8, signer: &SignKey| {
        let snapshot = SnapshotId(Digest([number; 32]));
        small::encode(&Forget { snapshot, why: "it is old".into(), time: TestRepository::start() }, key, signer)
    };
    for (number, signer) in [(1, &old.sign), (2, &repository.maintainer_key.sign)] {
        let (name, bytes) = forget(number, signer);
        repository.store.put(&name, bytes, PutMode::CreateNew).await.expect("put");
    }
    let changed = owner(&repository).remove_maintainer(old.sign.verify_key()).await.expect("removed");
    let [retired] = &changed.roster.retired[..] else { panic!("{:?}", changed.roster.retired) };
    assert_eq!(retired.words.len(), 1, "what others signed is not listed");
    let access = open(&repository.store, identity(home)).await.expect("opens").access;
    let found = inventory::small::<Forget>(&repository.store, &access).await.expect("listed");
    let mut roles: Vec<_> = found.iter().map(|(_, word)| word.as_ref().expect("it counts").role).collect();
    roles.sort_by_key(|role| *role == Role::Retired);
    assert_eq!(roles, [Role::Maintainer, Role::Retired]);
    let (name, bytes) = forget(3, &old.sign);
    let hash = ObjectHash::from_hex(name.as_str().strip_prefix("forget/").expect("a forget")).expect("a hash");
    let later = small::decode::<Forget>(&access, hash, &bytes);
    assert!(matches!(later, Err(ObjectError::Stranger(signer)) if signer == old.sign.verify_key()));
    let again = owner(&repository).add_maintainer(&old.roster_key()).await.expect("added again");
    assert_eq!(again.roster.retired, []);
}

#[tokio::test]
async fn a_removed_maintainer_lacks_the_new_maintenance_key() {
    let repository = repository().await;
    let home = &repository.owner.identity;
    let second = MaintainerKey::random(home.repository, home.root);
    owner(&repository).add_maintainer(&second.roster_key()).await.expect("added");
    open(&repository.store, maintainer(&second)).await.expect("opens");
    let changed = owner(&repository).remove_maintainer(second.sign.verify_key()).await.expect("removed");
    assert_eq!(open(&repository.store, maintainer(&second)).await.expect_err("refused").kind(), RepoErrorKind::Key);
    let keeps = open(&repository.store, maintainer(&repository.maintainer_key)).await.expect("opens").access;
    assert!(keeps.maintenance.contains_key(&changed.roster.maintenance.0));
    let again = owner(&repository).remove_maintainer(second.sign.verify_key()).await.expect("nothing to do");
    assert_eq!(again.roster, changed.roster, "a try that was cut off late is run again");
    let one_key_two_roles = owner(&repository).add_identity(&repository.maintainer_key.roster_key()).await;
    assert_eq!(one_key_two_roles.expect_err("refused").kind(), RepoErrorKind::Usage);
}

#[tokio::test]
async fn an_export_brings_back_a_repository_whose_keyrings_are_lost() {
    let repository = repository().await;
    let home = &repository.owner.identity;
    let text = export_secrets(&repository.store, home, None).await.expect("exported");
    for copy in KeyringCopy::ALL {
        let key = repository.identity.roster.keyring_key(copy);
        repository.store.delete(&key).await.expect("deleted");
    }
    let error = owner(&repository).renew().await.expect_err("lost");
    assert!(matches!(error, RepoError::KeyringLost { .. }), "{error}");
    let exported = decode_secrets(&text, home.repository, home.root).expect("read");
    let owner = Owner { exported: Some(exported), ..owner(&repository) };
    owner.renew().await.expect("repaired");
    let opened = open(&repository.store, identity(home)).await.expect("opens");
    assert_eq!((opened.access.epochs, opened.warnings), (repository.identity.epochs.clone(), vec![]));
}

#[tokio::test]
async fn a_keyring_that_lacks_a_secret_is_never_written_over_a_fuller_one() {
    let repository = repository().await;
    let home = &repository.owner.identity;
    let lost = IdentityKey::random(home.repository, home.root);
    owner(&repository).add_identity(&lost.roster_key()).await.expect("added");
    let changed = owner(&repository).remove_identity(lost.roster_key().verify).await.expect("removed");
    for copy in KeyringCopy::ALL {
        repository.store.delete(&changed.roster.keyring_key(copy)).await.expect("deleted");
    }
    let opened = open(&repository.store, identity(home)).await.expect("reads with the older keyring");
    assert!(matches!(opened.warnings[..], [OpenWarning::OlderKeyring { wanted: 3, used: 2 }]));
    let error = owner(&repository).set_grace(5).await.expect_err("refused");
    assert!(error.to_string().contains("newest epoch"), "{error}");
}

#[tokio::test]
async fn an_owner_who_comes_late_does_not_undo_the_change_of_one_who_is_done() {
    // Which of two rosters has the lower hash is chance; twelve rounds see both cases.
    for _ in 0..12 {
        let repository = repository().await;
        let home = &repository.owner.identity;
        let lost = IdentityKey::random(home.repository, home.root);
        owner(&repository).add_identity(&lost.roster_key()).await.expect("added");
        let (store, key) = (Arc::clone(&repository.store), repository.owner.clone());
        let verify = repository.writer_key.sign.verify_key();
        let late = Interrupted::by(&repository.store, ROSTERS, async move {
            owner_in(&store, &key).remove_writer(verify, &[]).await.expect("removed");
        });
        owner_in(&late, &repository.owner).remove_identity(lost.roster_key().verify).await.expect("removed");
        let reads = open(&repository.store, identity(home)).await.expect("opens").access;
        assert_eq!(reads.roster.identities, [home.roster_key()]);
        assert!(reads.roster.writers.is_empty(), "the writer stays removed");
        every_epoch_opens(&repository, &reads).await;
    }
}

#[tokio::test]
async fn a_secret_that_was_put_under_an_outrun_roster_is_kept() {
    let repository = repository().await;
    let home = &repository.owner.identity;
    let lost = IdentityKey::random(home.repository, home.root);
    let verify = lost.roster_key().verify;
    owner(&repository).add_identity(&lost.roster_key()).await.expect("added");
    let (store, key) = (Arc::clone(&repository.store), repository.owner.clone());
    let late = Interrupted::by(&repository.store, ROSTERS, async move {
        owner_in(&store, &key).remove_identity(verify).await.expect("removed");
        owner_in(&store, &key).set_grace(5).await.expect("changed");
    });
    owner_in(&late, &repository.owner).remove_identity(verify).await.expect("removed");
    let reads = open(&repository.store, identity(home)).await.expect("opens").access;
    assert_eq!(reads.roster.grace_seconds, 5);
    every_epoch_opens(&repository, &reads).await;
}

#[tokio::test]
async fn two_owners_at_once_both_get_their_change_and_no_secret_is_lost() {
    // Which of two rosters has the lower hash is chance; eight rounds see both cases.
    for _ in 0..8 {
        let repository = repository().await;
        let home = &repository.owner.identity;
        let lost = IdentityKey::random(home.repository, home.root);
        owner(&repository).add_identity(&lost.roster_key()).await.expect("added");
        let (pending, asked) = request(&repository).await;
        let [left, right] = Interrupted::pair(&repository.store, ROSTERS);
        let (one, two) = (owner_in(&left, &repository.owner), owner_in(&right, &repository.owner));
        let scopes = [scope("second", &[])];
        let (added, removed) = tokio::join!(
            one.add_writer(&asked, DomainChoice::New, &scopes),
            two.remove_identity(lost.roster_key().verify)
        );
        let (grant, _) = added.expect("added");
        let removed = removed.expect("removed");
        let key = grant.accept(&pending).expect("accepted");
        open(&repository.store, writer(key.clone())).await.expect("the new writer is on the roster");
        let error = open(&repository.store, identity(&lost)).await.expect_err("the removed identity is off");
        assert_eq!(error.kind(), RepoErrorKind::Key);
        let reads = open(&repository.store, identity(home)).await.expect("opens").access;
        assert!(reads.domains.contains_key(&key.domain));
        assert!(reads.epochs.contains_key(&removed.roster.epoch.0));
        every_epoch_opens(&repository, &reads).await;
    }
}

#[tokio::test]
async fn two_owners_who_do_the_same_at_once_both_succeed() {
    for _ in 0..4 {
        let repository = repository().await;
        let home = &repository.owner.identity;
        let lost = IdentityKey::random(home.repository, home.root);
        owner(&repository).add_identity(&lost.roster_key()).await.expect("added");
        let [left, right] = Interrupted::pair(&repository.store, ROSTERS);
        let (one, two) = (owner_in(&left, &repository.owner), owner_in(&right, &repository.owner));
        let verify = lost.roster_key().verify;
        let (first, second) = tokio::join!(one.remove_identity(verify), two.remove_identity(verify));
        first.expect("removed");
        second.expect("removed");
        let reads = open(&repository.store, identity(home)).await.expect("opens").access;
        every_epoch_opens(&repository, &reads).await;
    }
}

#[tokio::test]
async fn of_two_rosters_with_one_number_all_readers_take_the_same_and_say_so() {
    let repository = repository().await;
    // An owner that died right after its put: the change of another, made from the same roster, stands beside it.
    let fork: Arc<dyn Store> = Arc::new(MemoryStore::default());
    copy_all(&repository.store, &fork).await;
    let here = owner(&repository).set_grace(100).await.expect("changed");
    let there = owner_in(&fork, &repository.owner).set_grace(200).await.expect("changed");
    assert_eq!((here.roster.number, there.roster.number), (2, 2));
    copy_all(&fork, &repository.store).await;
    let wins = if here.roster.hash < there.roster.hash { &here } else { &there };
    for keys in [writer(repository.writer_key.clone()), identity(&repository.owner.identity)] {
        let opened = open(&repository.store, keys).await.expect("opens");
        assert_eq!(opened.access.roster, wins.roster);
        assert_eq!(opened.warnings, [OpenWarning::Fork { number: 2, count: 2 }]);
    }
    for seen in [&here, &there] {
        let keys = writer(repository.writer_key.clone());
        open_access(&repository.store, &keys, Some(&seen.remembered)).await.expect("neither is older");
    }
    // Whoever remembers the one that holds notices when it is withheld.
    repository.store.delete(&wins.roster.key()).await.expect("deleted");
    let keys = writer(repository.writer_key.clone());
    let error = open_access(&repository.store, &keys, Some(&wins.remembered)).await.expect_err("refused");
    assert!(matches!(error, RepoError::OlderRoster { .. }), "{error}");
    copy_all(&fork, &repository.store).await;
    owner(&repository).set_grace(300).await.expect("the next change ends the fork");
    let opened = open(&repository.store, writer(repository.writer_key.clone())).await.expect("opens");
    assert_eq!((opened.access.roster.grace_seconds, opened.warnings), (300, vec![]));
}

#[tokio::test]
async fn the_same_command_again_ends_a_fork_in_which_both_rosters_have_its_change() {
    let repository = repository().await;
    let late: Arc<dyn Store> = Arc::new(MemoryStore::default());
    copy_all(&repository.store, &late).await;
    for (store, seconds) in [(&repository.store, 0), (&late, 1)] {
        let now = TestRepository::start() + jiff::SignedDuration::from_secs(seconds);
        Owner { now, ..owner_in(store, &repository.owner) }.set_grace(61).await.expect("changed");
    }
    copy_all(&late, &repository.store).await;
    let keys = || writer(repository.writer_key.clone());
    let forked = open(&repository.store, keys()).await.expect("opens").warnings;
    assert!(matches!(forked[..], [OpenWarning::Fork { number: 2, count: 2 }]), "{forked:?}");
    let again = owner(&repository).set_grace(61).await.expect("ended");
    assert_eq!((again.roster.number, again.roster.grace_seconds), (3, 61));
    assert_eq!(open(&repository.store, keys()).await.expect("opens").warnings, []);
    let same = owner(&repository).set_grace(61).await.expect("nothing to do");
    assert_eq!(same.roster, again.roster);
}

async fn copy_all(from: &Arc<dyn Store>, to: &Arc<dyn Store>) {
    use futures::StreamExt;
    let keys: Vec<Key> = from.list("").map(|meta| meta.expect("listed").key).collect().await;
    for key in keys {
        let bytes = from.get(&key, None).await.expect("there");
        to.put(&key, bytes, PutMode::Replace).await.expect("put");
    }
}

/// What was sealed to the epoch of any roster in the store opens.
async fn every_epoch_opens(repository: &TestRepository, reads: &Access) {
    use futures::StreamExt;
    let keys: Vec<Key> = repository.store.list("roster/").map(|meta| meta.expect("listed").key).collect().await;
    for key in keys {
        let bytes = repository.store.get(&key, None).await.expect("there");
        let (_, roster) = Roster::open(repository.owner.identity.repository, &bytes).expect("a roster");
        let secret = reads.epochs.get(&roster.epoch.0).expect("a secret for the epoch's number");
        assert_eq!(secret.public(), roster.epoch.1, "and it is that epoch's own");
    }
}

#[tokio::test]
async fn an_owner_who_remembers_a_newer_roster_goes_on_only_when_told_to_and_then_outruns_it() {
    let repository = repository().await;
    let second = owner(&repository).set_grace(61).await.expect("changed");
    let third = owner(&repository).set_grace(62).await.expect("changed");
    let key = third.roster.key();
    repository.store.put(&key, Bytes::from_static(b"rot"), PutMode::Replace).await.expect("damaged");
    let remembering = Owner { remembered: Some(&third.remembered), ..owner(&repository) };
    let refused = remembering.set_grace(63).await.expect_err("refused");
    assert!(matches!(refused, RepoError::OlderRoster { remembered: 3, found: 2, .. }), "{refused}");
    let told = Owner { forget_roster: true, ..remembering };
    let changed = told.set_grace(63).await.expect("repaired");
    assert_eq!((changed.roster.number, changed.roster.previous), (4, Some(second.roster.hash)));
    for keys in [writer(repository.writer_key.clone()), maintainer(&repository.maintainer_key)] {
        let opened = open_access(&repository.store, &keys, Some(&third.remembered)).await.expect("nobody refuses it");
        assert_eq!((opened.access.roster.grace_seconds, opened.warnings), (63, vec![]));
    }
}

//! Making a repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use lifeboat_model::{Digest, ObjectHash, StackName};
use lifeboat_store::{PutMode, Store, StoreErrorKind};

use crate::access::DomainKeys;
use crate::change::{put_roster, seal_roster};
use crate::crypt::{SealSecret, Secret, SignKey, random};
use crate::error::RepoError;
use crate::format::Format;
use crate::keyfile::{IdentityKey, MaintainerKey, OwnerKey, WriterKey};
use crate::keyring::RepositorySecrets;
use crate::newest::newest_roster;
use crate::object::{DomainId, ObjectType, RepositoryId};
use crate::roster::{Roster, RosterWriter};

/// The usual [`CreateOptions::grace_seconds`]: 48 hours.
pub const GRACE_SECONDS: u64 = 48 * 3600;

/// What a new repository is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The time.
    pub now: Timestamp,
    /// G: how long a prune waits and a run may be silent, in seconds.
    pub grace_seconds: u64,
    /// The stack whose sources the first writer may add snapshots of.
    pub stack: StackName,
}

/// A repository to be made: its keys exist, the store holds nothing of it yet. Write the key files
/// first, then [`Creation::put`]: whatever happens between, no repository is without its keys.
#[derive(Clone, Debug)]
pub struct Creation {
    /// The owner's key: root and identity.
    pub owner: OwnerKey,
    /// The key of the first writer, in a domain of its own.
    pub writer: WriterKey,
    /// The key of the first maintainer.
    pub maintainer: MaintainerKey,
    options: CreateOptions,
    outrun: u32,
}

impl Creation {
    /// A repository with new keys.
    #[must_use]
    pub fn new(options: CreateOptions) -> Self {
        let root = SignKey::random();
        let identity = IdentityKey::random(RepositoryId(random()), root.verify_key());
        Self::with_keys(options, OwnerKey { root, identity }, None, None)
    }

    /// A repository for keys that were made, and written to files, by a creation that came to
    /// nothing afterwards.
    #[must_use]
    pub fn with_keys(
        options: CreateOptions,
        owner: OwnerKey,
        writer: Option<WriterKey>,
        maintainer: Option<MaintainerKey>,
    ) -> Self {
        let (repository, root) = (owner.identity.repository, owner.identity.root);
        let writer = writer.unwrap_or_else(|| WriterKey {
            repository,
            root,
            sign: SignKey::random(),
            domain: DomainId(random()),
            secret: Secret::random(),
        });
        let maintainer = maintainer.unwrap_or_else(|| MaintainerKey::random(repository, root));
        Self { owner, writer, maintainer, options, outrun: 0 }
    }

    /// The same in place of a repository that is lost: its roster is newer than any that is remembered, so
    /// that nobody who knew the old one refuses.
    #[must_use]
    pub const fn after(mut self, roster: u32) -> Self {
        self.outrun = roster;
        self
    }

    /// Makes the repository: keyring, its copy, roster and, last, `format`, by which it exists.
    /// What an interrupted creation left in the store does no harm and stays.
    ///
    /// # Errors
    /// [`RepoError::AlreadyThere`] where the store holds a repository, [`RepoError::FormatMissing`] where it
    /// holds parts of one; [`RepoError::Store`].
    pub async fn put(&self, store: &Arc<dyn Store>) -> Result<(), RepoError> {
        refuse_existing(store).await?;
        let (repository, root) = (self.owner.identity.repository, &self.owner.root);
        let before = match newest_roster(store, repository, root.verify_key()).await {
            Ok(newest) => Some(newest.roster),
            Err(error @ RepoError::Store(_)) => return Err(error),
            Err(_) => None,
        };
        let number = before.as_ref().map_or(0, |before| before.number).max(self.outrun) + 1;
        let secrets = RepositorySecrets {
            epochs: BTreeMap::from([(1, SealSecret::random())]),
            maintenance: BTreeMap::from([(1, SealSecret::random())]),
            domains: BTreeMap::from([(self.writer.domain, self.writer.secret.clone())]),
        };
        let stack =
            DomainKeys::from_secret(repository, self.writer.domain, &self.writer.secret).stack_tag(&self.options.stack);
        let roster = Roster {
            retired: vec![],
            incompatible: vec![],
            read_only_compatible: vec![],
            number,
            hash: ObjectHash(Digest([0; 32])),
            previous: before.map(|before| before.hash),
            time: self.options.now,
            grace_seconds: self.options.grace_seconds,
            epoch: (1, secrets.epochs[&1].public()),
            maintenance: (1, secrets.maintenance[&1].public()),
            writers: vec![RosterWriter {
                verify: self.writer.sign.verify_key(),
                domain: self.writer.domain,
                allowed: vec![stack],
                added: self.options.now,
            }],
            maintainers: vec![self.maintainer.roster_key()],
            identities: vec![self.owner.identity.roster_key()],
            removed: vec![],
            keyring: ObjectHash(Digest([0; 32])),
        };
        let (roster, objects) = seal_roster(roster, &secrets, repository, root)?;
        put_roster(store, &roster, objects).await?;
        let format = Format::new(repository, self.options.now).sign(root);
        store.put(&Format::key(), format.clone(), PutMode::CreateNew).await.map_err(|error| match error.kind {
            StoreErrorKind::Exists => RepoError::AlreadyThere { store: store.to_string() },
            _ => error.into(),
        })?;
        // A store that cannot refuse a put tells only afterwards who was last.
        if !store.capabilities().conditional_put && store.get(&Format::key(), None).await? != format {
            return Err(RepoError::AlreadyThere { store: store.to_string() });
        }
        Ok(())
    }
}

/// Refuses a store that holds a repository, or parts that only a repository has: its `format` may
/// have been lost, and that must not cost the rest.
async fn refuse_existing(store: &Arc<dyn Store>) -> Result<(), RepoError> {
    match store.get(&Format::key(), None).await {
        Ok(_) => return Err(RepoError::AlreadyThere { store: store.to_string() }),
        Err(error) if error.kind == StoreErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    match without_format(store).await {
        RepoError::NoRepository { .. } => Ok(()),
        error => Err(error),
    }
}

/// What a store without `format` is: one in which no repository was made, or one that lost it. Rosters and
/// keyrings may be what an interrupted creation left.
pub async fn without_format(store: &Arc<dyn Store>) -> RepoError {
    for kind in ObjectType::ALL {
        if matches!(kind, ObjectType::Format | ObjectType::Roster | ObjectType::Keyring) {
            continue;
        }
        match store.list(kind.prefix()).next().await.transpose() {
            Ok(None) => {}
            Ok(Some(_)) => return RepoError::FormatMissing { store: store.to_string() },
            Err(error) => return error.into(),
        }
    }
    RepoError::NoRepository { store: store.to_string() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lifeboat_store::memory::MemoryStore;

    use super::*;
    use crate::error::RepoErrorKind;
    use crate::open::{Keys, open_access};
    use crate::testing::TestRepository;

    fn options() -> CreateOptions {
        CreateOptions { now: TestRepository::start(), grace_seconds: 60, stack: TestRepository::stack() }
    }

    fn identity_of(creation: &Creation) -> Keys {
        Keys { identity: Some(creation.owner.identity.clone()), ..Keys::default() }
    }

    fn memory() -> Arc<dyn Store> {
        Arc::new(MemoryStore::default())
    }

    async fn keys_in(store: &Arc<dyn Store>) -> Vec<(lifeboat_store::Key, Bytes)> {
        let metas: Vec<_> = store.list("").map(|meta| meta.expect("listed").key).collect().await;
        let mut out = Vec::new();
        for key in metas {
            let bytes = store.get(&key, None).await.expect("there");
            out.push((key, bytes));
        }
        out.sort();
        out
    }

    #[tokio::test]
    async fn each_key_opens_what_its_role_may_have() {
        let repository = TestRepository::create(memory()).await;
        let domain = repository.writer_key.domain;
        let (writer, maintainer, identity) = (&repository.writer, &repository.maintainer, &repository.identity);
        assert!(writer.writer.is_some() && writer.maintain.is_none() && !writer.can_read());
        assert!(writer.maintenance.is_empty() && writer.domains[&domain].content.is_some());
        assert!(maintainer.writer.is_none() && maintainer.maintain.is_some() && !maintainer.can_read());
        assert!(!maintainer.maintenance.is_empty() && maintainer.domains[&domain].content.is_none());
        assert!(identity.writer.is_none() && identity.maintain.is_some() && identity.can_read());
        assert_eq!(identity.domains[&domain].index, writer.domains[&domain].index);
        assert_eq!(maintainer.domains[&domain].index, writer.domains[&domain].index);
        assert!(repository.all.writer.is_some() && repository.all.can_read());
        assert_eq!(identity.epochs[&1].public(), writer.epoch_recipient().public);
        assert_eq!(maintainer.maintenance[&1].public(), writer.maintenance_recipient().public);
    }

    #[tokio::test]
    async fn a_repository_is_never_made_over_another() {
        let store = memory();
        let first = Creation::new(options());
        first.put(&store).await.expect("made");
        let before = keys_in(&store).await;
        let error = Creation::new(options()).put(&store).await.expect_err("refused");
        assert!(matches!(error, RepoError::AlreadyThere { .. }), "{error}");
        assert_eq!(keys_in(&store).await, before, "nothing was touched");
    }

    #[tokio::test]
    async fn a_repository_that_lost_its_format_is_not_taken_for_empty() {
        let store = memory();
        let data = ObjectType::DataPack.key(ObjectHash(Digest::of(b"pack")));
        store.put(&data, Bytes::from_static(b"pack"), PutMode::CreateNew).await.expect("put");
        let error = Creation::new(options()).put(&store).await.expect_err("refused");
        assert!(matches!(error, RepoError::FormatMissing { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_creation_cut_off_after_any_put_can_be_run_again_with_its_keys_or_with_new_ones() {
        let whole = memory();
        let made = Creation::new(options());
        made.put(&whole).await.expect("made");
        let objects = keys_in(&whole).await;
        let order = ["keyring/", "keyring2/", "roster/"];
        for done in 0..=order.len() {
            for again in [
                Creation::with_keys(options(), made.owner.clone(), Some(made.writer.clone()), None),
                Creation::new(options()),
            ] {
                let store = memory();
                for (key, bytes) in &objects {
                    if order[..done].iter().any(|prefix| key.as_str().starts_with(prefix)) {
                        store.put(key, bytes.clone(), PutMode::CreateNew).await.expect("put");
                    }
                }
                let nothing = open_access(&store, &identity_of(&made), None).await.expect_err("not there yet");
                assert_eq!(nothing.kind(), RepoErrorKind::NoRepository);
                again.put(&store).await.expect("made the second time");
                let keys = Keys {
                    writer: Some(again.writer.clone()),
                    maintainer: Some(again.maintainer.clone()),
                    ..identity_of(&again)
                };
                let opened = open_access(&store, &keys, None).await.expect("opens");
                assert_eq!(opened.warnings, [], "after {done} puts");
            }
        }
    }
}

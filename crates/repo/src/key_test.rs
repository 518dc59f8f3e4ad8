//! Proving that a copy of a key file opens its repository, before it is needed.

use std::sync::Arc;

use lifeboat_store::Store;

use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::keyfile::KeyFile;
use crate::newest::OpenWarning;
use crate::object::{DomainId, RepositoryId};
use crate::open::{Keys, open_access, read_format};
use crate::remember::Remembered;

/// What a key file was proved to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReport {
    /// The role.
    pub role: &'static str,
    /// The repository that it opens.
    pub repository: RepositoryId,
    /// That repository's root.
    pub root: VerifyKey,
    /// How the roster names the key; the root for an owner.
    pub verify: VerifyKey,
    /// A writer's domain.
    pub domain: Option<DomainId>,
    /// What the caller remembers from now on; heads as they were given.
    pub remembered: Remembered,
    /// What was tried and works, in words.
    pub proved: Vec<&'static str>,
    /// What a person should be told.
    pub warnings: Vec<OpenWarning>,
}

/// Opens the repository with this key alone and tells what that proves.
///
/// # Errors
/// As [`open_access`]: an error means that this copy does not serve. A pending writer key gives
/// [`RepoError::KeyMissing`].
pub async fn test_key(
    store: &Arc<dyn Store>,
    key: &KeyFile,
    remembered: Option<&Remembered>,
) -> Result<KeyReport, RepoError> {
    let (repository, root) = key.home();
    let mut keys = Keys::default();
    let (verify, mut proved) = match key {
        KeyFile::Writer(writer) => {
            keys.writer = Some(writer.clone());
            (writer.sign.verify_key(), vec!["it is on the roster as a writer"])
        }
        KeyFile::Maintainer(maintainer) => {
            keys.maintainer = Some(maintainer.clone());
            (
                maintainer.sign.verify_key(),
                vec!["it is on the roster as a maintainer", "it opens its part of the keyring"],
            )
        }
        KeyFile::Identity(identity) => {
            keys.identity = Some(identity.clone());
            (identity.sign().verify_key(), vec!["it is on the roster as an identity", "it opens the keyring"])
        }
        KeyFile::Owner(owner) => {
            keys.identity = Some(owner.identity.clone());
            // Reading the file compared the root's secret with its public half; the store's
            // `format` and roster are signed by it, so it can sign the next.
            let proved = vec![
                "its identity is on the roster",
                "it opens the keyring",
                "its root signed this repository and can sign the next roster",
            ];
            (owner.root.verify_key(), proved)
        }
        KeyFile::Pending(_) => {
            read_format(store, repository, root, true).await?;
            return Err(RepoError::KeyMissing {
                what: "this host's request, which still waits,",
                needs: "the owner's grant",
            });
        }
    };
    let opened = open_access(store, &keys, remembered).await?;
    let access = opened.access;
    let epoch = access.epochs.get(&access.roster.epoch.0);
    if keys.identity.is_some() {
        match epoch {
            Some(epoch) if epoch.public() == access.roster.epoch.1 => proved.push("it reads what is written today"),
            _ => {
                return Err(RepoError::KeyringLost {
                    number: access.roster.number,
                    why: "what opened lacks the secret of the newest epoch".into(),
                });
            }
        }
    }
    Ok(KeyReport {
        role: key.role(),
        repository,
        root,
        verify,
        domain: access.writer.map(|writer| writer.domain),
        remembered: opened.remembered,
        proved,
        warnings: opened.warnings,
    })
}

#[cfg(test)]
mod tests {
    use lifeboat_store::memory::MemoryStore;

    use super::*;
    use crate::error::RepoErrorKind;
    use crate::testing::TestRepository;

    #[tokio::test]
    async fn every_key_of_a_repository_proves_itself_there_and_nowhere_else() {
        let memory = || -> Arc<dyn Store> { Arc::new(MemoryStore::default()) };
        let repository = TestRepository::create(memory()).await;
        let other = TestRepository::create(memory()).await;
        for key in [
            KeyFile::Writer(repository.writer_key.clone()),
            KeyFile::Maintainer(repository.maintainer_key.clone()),
            KeyFile::Identity(repository.owner.identity.clone()),
            KeyFile::Owner(repository.owner.clone()),
        ] {
            let report = test_key(&repository.store, &key, None).await.expect("it opens");
            assert_eq!((report.role, report.remembered.roster), (key.role(), 1));
            assert!(!report.proved.is_empty() && report.warnings.is_empty());
            let error = test_key(&other.store, &key, None).await.expect_err("another repository");
            assert_eq!(error.kind(), RepoErrorKind::Key, "{error}");
        }
    }
}

//! Key files: what each role keeps outside of the repository. `docs/format.md`, section "Key files".

use crate::crypt::{SealSecret, Secret, SignKey, VerifyKey};
use crate::object::{DomainId, RepositoryId};
use crate::roster::RosterKey;

/// What a host that backs up keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterKey {
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// Signs runs, indexes and roots.
    pub sign: SignKey,
    /// The writer's domain.
    pub domain: DomainId,
    /// D of that domain.
    pub secret: Secret,
}

/// What a host that forgets and prunes keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintainerKey {
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// Signs what maintainers put.
    pub sign: SignKey,
    /// Opens the maintainers' part of the keyring.
    pub seal: SealSecret,
}

/// What whoever may read keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityKey {
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// The identity's two keys come from it.
    pub seed: Secret,
}

/// What the owner keeps: the root, and an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerKey {
    /// Signs the roster.
    pub root: SignKey,
    /// Reads.
    pub identity: IdentityKey,
}

impl MaintainerKey {
    /// How the roster names it.
    #[must_use]
    pub fn roster_key(&self) -> RosterKey {
        RosterKey { verify: self.sign.verify_key(), seal: self.seal.public() }
    }
}

impl IdentityKey {
    /// Signs what identities put.
    #[must_use]
    pub fn sign(&self) -> SignKey {
        SignKey(self.seed.derive("lifeboat v0 identity sign", &[]))
    }

    /// Opens the identities' part of the keyring.
    #[must_use]
    pub fn seal(&self) -> SealSecret {
        SealSecret(self.seed.derive("lifeboat v0 identity seal", &[]))
    }

    /// How the roster names it.
    #[must_use]
    pub fn roster_key(&self) -> RosterKey {
        RosterKey { verify: self.sign().verify_key(), seal: self.seal().public() }
    }
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {}

impl KeyFileError {
    /// What a person can do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        None
    }
}

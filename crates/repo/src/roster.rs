//! The signed list of who may do what. `docs/format.md`, section "format, roster, keyring".

use jiff::Timestamp;
use lifeboat_model::{Digest, ObjectHash};

use crate::crypt::{SealPublic, VerifyKey};
use crate::object::DomainId;

/// Who may do what, as the root signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// Counts up by one from 1.
    pub number: u32,
    /// Hash of this roster's object.
    pub hash: ObjectHash,
    /// Hash of the roster before.
    pub previous: Option<ObjectHash>,
    /// When it was signed, by the owner's clock.
    pub time: Timestamp,
    /// G: how long a prune waits and a run may be silent, in seconds.
    pub grace_seconds: u64,
    /// Number and public key of the epoch that new content is sealed to.
    pub epoch: (u32, SealPublic),
    /// Number and public key that new references are sealed to.
    pub maintenance: (u32, SealPublic),
    /// Who may add snapshots.
    pub writers: Vec<RosterWriter>,
    /// Who may forget and prune.
    pub maintainers: Vec<RosterKey>,
    /// Who may read.
    pub identities: Vec<RosterKey>,
    /// Who may no longer add snapshots, with what they had added until then.
    pub removed: Vec<RemovedWriter>,
    /// The keyring object that belongs to it.
    pub keyring: ObjectHash,
}

/// A writer on the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterWriter {
    /// Checks its signatures.
    pub verify: VerifyKey,
    /// Its domain.
    pub domain: DomainId,
    /// Tags of the stacks and sources that it may write.
    pub allowed: Vec<Digest>,
    /// Since when.
    pub added: Timestamp,
}

/// A maintainer or an identity on the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterKey {
    /// Checks its signatures.
    pub verify: VerifyKey,
    /// Its part of the keyring is sealed to this.
    pub seal: SealPublic,
}

/// A writer that was taken off the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedWriter {
    /// Checked its signatures.
    pub verify: VerifyKey,
    /// Its domain.
    pub domain: DomainId,
    /// Newest roots of its chains when it was removed; later ones are refused.
    pub heads: Vec<ObjectHash>,
}

//! The repository: encrypted, deduplicated, write-only for the hosts that write.
//!
//! `docs/format.md` specifies every byte; the modules follow its sections.

// Keys and roles: opening, making and joining a repository.
pub mod access;
pub mod change;
pub mod create;
pub mod error;
pub mod export;
pub mod format;
pub mod join;
pub mod key_test;
pub mod keyfile;
pub mod keyring;
mod keytext;
mod newest;
pub mod open;
pub mod owner;
pub mod passphrase;
pub mod recovery_sheet;
pub mod remember;
pub mod roster;

// Primitives and frames.
pub mod cbor;
pub mod crypt;
pub mod object;

// Stored objects, one module for each kind.
pub mod index;
pub mod pack;
pub mod page;
pub mod root;
pub mod sealed;
pub mod small;

// What is in a repository, and the way out of it.
pub mod fetch;
mod local;
pub mod reader;
pub mod repository;
pub mod snapshots;
pub mod table;

// Content on its way in.
pub mod cache;
pub mod chunker;
mod content;
mod parent;
pub mod pipeline;
mod run;
mod slices;
mod spill;
mod tree;
pub mod writer;

// Between two repositories.
pub mod compare;
pub mod copy;

// Upkeep: what nobody needs, and what is damaged.
pub mod check;
pub mod forget;
mod inventory;
pub mod prune;
mod refs;
pub mod repair;
mod scan;

#[cfg(test)]
mod hand;
#[cfg(test)]
mod interrupted;
#[cfg(test)]
mod tiny;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use access::Access;
pub use change::{Changed, Owner};
pub use create::{CreateOptions, Creation, without_format};
pub use error::{RepoError, RepoErrorKind};
pub use join::{Grant, Request, Scope};
pub use keyfile::{KeyFile, KeyFileError};
pub use newest::OpenWarning;
pub use open::{Keys, Opened, open_access};
pub use passphrase::Passphrase;
pub use reader::SnapshotReader;
pub use remember::{AcceptedLoss, Remembered, RememberedHead};
pub use repository::Repository;
pub use writer::{Sealed, SnapshotHead, SnapshotStats, SnapshotWriter, WriteOptions};

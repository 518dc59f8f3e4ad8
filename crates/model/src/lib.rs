//! The domain of Lifeboat: names, paths, entries, recovery points, and the contracts between a
//! datastore and a repository.
//!
//! This crate does no I/O, starts no task and reads no clock. Everything that decides (retention,
//! the next run of a schedule, the plan of a restore) is a pure function over data and `now`.

pub mod config;
pub mod entry;
pub mod flow;
pub mod id;
pub mod nearest;
pub mod path;
pub mod recovery;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod snapshot;
pub mod store_options;
pub mod target;
pub mod words;

pub use config::{Role, StackConfig};
pub use entry::{EntryKind, EntryMeta, Fingerprint, Xattr};
pub use id::{ChunkId, Digest, ObjectHash, SnapshotId, SourceName, StackName};
pub use path::EntryPath;
pub use recovery::RecoveryPoint;
pub use snapshot::{SnapshotRef, SnapshotSummary};

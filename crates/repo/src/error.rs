//! What can go wrong with a repository, and what a person can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_model::ChunkId;
use lifeboat_model::flow::ReadError;
use lifeboat_store::{StoreError, StoreErrorKind};

use crate::crypt::VerifyKey;
use crate::keyfile::KeyFileError;
use crate::object::{ObjectError, RepositoryId};
use crate::table::TableError;

/// For callers that decide by it, and for exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoErrorKind {
    /// There is no repository. Exit code 10.
    NoRepository,
    /// Locked or busy: passes when another is done. Exit code 11.
    Busy,
    /// A key is wrong or missing. Exit code 12.
    Key,
    /// Objects are damaged, forged, missing or of a newer version. Exit code 1.
    Damaged,
    /// What was asked for does not go. Exit code 2.
    Usage,
    /// A store, a disk or the machine failed. Exit code 1.
    Failed,
}

impl RepoErrorKind {
    /// The exit code of a command that fails with it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NoRepository => 10,
            Self::Busy => 11,
            Self::Key => 12,
            Self::Usage => 2,
            Self::Damaged | Self::Failed => 1,
        }
    }
}

/// Everything that fails in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The store holds no `format`.
    #[error("there is no repository in {store}")]
    NoRepository {
        /// The store.
        store: String,
    },
    /// The store holds objects of a repository, and not its `format`.
    #[error("the repository in {store} is damaged: its object `format` is gone, and others are there")]
    FormatMissing {
        /// The store.
        store: String,
    },
    /// A repository may not be made over another.
    #[error("there is a repository in {store} already")]
    AlreadyThere {
        /// The store.
        store: String,
    },
    /// The repository needs a feature that this program does not have.
    #[error("the repository needs the feature {feature:?}, which this program does not know{}", if *.to_read { "" } else { "; it can be read, not written" })]
    UnknownFeature {
        /// Its name in `format`.
        feature: String,
        /// False where reading would be possible without it.
        to_read: bool,
    },
    /// An object is damaged, forged or of a newer version.
    #[error("the object {object} is bad")]
    Object {
        /// Its name in the store.
        object: String,
        /// What is wrong.
        #[source]
        source: ObjectError,
    },
    /// An object or all of its copies are not there.
    #[error("{object} is missing")]
    Missing {
        /// Its name in the store, or what it is.
        object: String,
    },
    /// No index leads to a good copy of a chunk.
    #[error("no good copy of the chunk {id} is left{}", if .why.is_empty() { String::new() } else { format!(" ({why})") })]
    Chunk {
        /// Its id.
        id: ChunkId,
        /// What was wrong with the copies that were tried.
        why: String,
    },
    /// Another repository than the key file's.
    #[error("{store} holds the repository {found}, the key file belongs to {wanted}")]
    OtherRepository {
        /// The store.
        store: String,
        /// What the key file names.
        wanted: RepositoryId,
        /// What the store holds.
        found: RepositoryId,
    },
    /// One of the key files is of another repository; nothing was asked of the store.
    #[error("the key files belong to different repositories")]
    KeysDiffer,
    /// Signed by another root than the key file's.
    #[error("{object} is signed by {found}, not by {wanted}, the root that the key file names")]
    OtherRoot {
        /// Its name in the store.
        object: String,
        /// What the key file names.
        wanted: VerifyKey,
        /// Who signed.
        found: VerifyKey,
    },
    /// The store shows an older roster than was seen before.
    #[error("{store} shows roster {found}, but roster {remembered} was seen before")]
    OlderRoster {
        /// The store.
        store: String,
        /// What was seen before.
        remembered: u32,
        /// What the store shows.
        found: u32,
    },
    /// No copy of the keyring can be used.
    #[error("no copy of keyring {number} can be used, nor an older one ({why})")]
    KeyringLost {
        /// The newest roster's.
        number: u32,
        /// What is wrong with each.
        why: String,
    },
    /// A store that lists far more than can be, which somebody filled on purpose.
    #[error("{store} lists more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The store.
        store: String,
        /// The most that this program reads.
        most: usize,
    },
    /// The key is not on the roster, or does not open the keyring.
    #[error("the {role} key {key} does not open this repository: {why}")]
    WrongKey {
        /// `writer`, `maintainer`, `identity`, `owner`.
        role: &'static str,
        /// The key's public half, shortened.
        key: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The keys at hand do not suffice.
    #[error("{what} needs {needs}")]
    KeyMissing {
        /// What was asked for.
        what: &'static str,
        /// `an identity`, `a maintainer or identity key`.
        needs: &'static str,
    },
    /// The owner did not allow this writer this source.
    #[error("the writer key {key} may not write {source_name}")]
    NotAllowed {
        /// The key's public half, shortened.
        key: String,
        /// `stack/source`.
        source_name: String,
    },
    /// What a snapshot holds cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file with a key.
    #[error("the key file {} cannot be used", .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyFileError,
    },
    /// Somebody else changes the same thing at this moment.
    #[error("{what} is being changed by another process")]
    Busy {
        /// What.
        what: String,
    },
    /// What was asked for does not go.
    #[error("{what}")]
    Usage {
        /// What does not go and why.
        what: String,
        /// What to do instead.
        hint: Option<&'static str>,
    },
    /// A local file.
    #[error("{doing} {} failed", .path.display())]
    Io {
        /// `reading`, `writing`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A table in the cache directory.
    #[error(transparent)]
    Cache(#[from] TableError),
    /// A run was given up; no snapshot was made.
    #[error("the snapshot was given up{}", if .why.is_empty() { String::new() } else { format!(": {why}") })]
    GivenUp {
        /// Why, unless another error tells.
        why: String,
        /// The error that ended it.
        #[source]
        source: Option<Arc<RepoError>>,
    },
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to do about a `format` that is gone or damaged.
const FORMAT_BACK: &str = "`lifeboat repair` puts it back on any machine that has opened the repository before; else \
                           put it back from a copy of the store";

/// What to do about what version 0 wrote.
pub(crate) const BEFORE_THE_FREEZE: &str = "version 0 was for trying out: `lifeboat init` makes a new repository with new keys, in an \
                                            empty store; to bring data back from the old one, use the lifeboat that wrote it";

impl RepoError {
    /// A bad object, by its name.
    #[must_use]
    pub fn object(object: impl std::fmt::Display, source: ObjectError) -> Self {
        Self::Object { object: object.to_string(), source }
    }

    /// What to decide by.
    #[must_use]
    pub fn kind(&self) -> RepoErrorKind {
        match self {
            Self::NoRepository { .. } => RepoErrorKind::NoRepository,
            Self::Busy { .. } => RepoErrorKind::Busy,
            Self::AlreadyThere { .. }
            | Self::Usage { .. }
            | Self::KeyFile { source: KeyFileError::Exists | KeyFileError::NoPassphrase { .. }, .. } => {
                RepoErrorKind::Usage
            }
            Self::Io { .. }
            | Self::Cache(_)
            | Self::Store(_)
            | Self::KeyFile { source: KeyFileError::Write(_), .. } => RepoErrorKind::Failed,
            Self::WrongKey { .. }
            | Self::NotAllowed { .. }
            | Self::KeyMissing { .. }
            | Self::KeysDiffer
            | Self::KeyFile { .. }
            | Self::OtherRepository { .. } => RepoErrorKind::Key,
            Self::OtherRoot { object, .. } if object == "format" => RepoErrorKind::Key,
            Self::UnknownFeature { .. }
            | Self::Object { .. }
            | Self::Missing { .. }
            | Self::Chunk { .. }
            | Self::OtherRoot { .. }
            | Self::KeyringLost { .. }
            | Self::TooMany { .. }
            | Self::OlderRoster { .. }
            | Self::FormatMissing { .. } => RepoErrorKind::Damaged,
            Self::GivenUp { source, .. } => source.as_ref().map_or(RepoErrorKind::Failed, |cause| cause.kind()),
            Self::Read(ReadError::Damaged { source, .. }) => {
                source.downcast_ref::<Self>().map_or(RepoErrorKind::Damaged, Self::kind)
            }
            Self::Read(_) => RepoErrorKind::Failed,
        }
    }

    /// What a person can do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NoRepository { .. } => Some("check the URL, and that the disk of the store is mounted"),
            Self::FormatMissing { .. } => Some(FORMAT_BACK),
            Self::AlreadyThere { .. } => Some("use its key files, or give another url; nothing was changed"),
            Self::UnknownFeature { .. } | Self::Object { source: ObjectError::NewerVersion(_), .. } => {
                Some("use a newer lifeboat")
            }
            Self::Object { source: ObjectError::OlderVersion(_), .. } => Some(BEFORE_THE_FREEZE),
            Self::Object { object, .. } if object == "format" => Some(FORMAT_BACK),
            Self::Object { object, .. } | Self::Missing { object } if opens(object) => {
                Some("nothing opens the repository without it; put the object back from a copy of the store")
            }
            Self::Object { .. } | Self::Missing { .. } | Self::Chunk { .. } | Self::Read(ReadError::Damaged { .. }) => {
                Some("`lifeboat check --read-data` tells what is damaged and which entries it hits")
            }
            Self::NotAllowed { .. } => {
                Some("the owner grants a writer its sources with `lifeboat key add`; nothing was written")
            }
            Self::KeysDiffer => Some("`lifeboat key test FILE` tells to which repository a key file belongs"),
            Self::OtherRepository { .. } => Some("the url and the key file do not belong together; compare both"),
            Self::OtherRoot { .. } => {
                Some("somebody else set up or changed this store; do not write to it before you know who")
            }
            Self::KeyringLost { .. } => Some(
                "put back the objects under keyring/ or keyring2/ from a copy of the store; all secrets are in them",
            ),
            Self::TooMany { .. } => {
                Some("find out who wrote them; the names of the objects tell what they claim to be")
            }
            Self::OlderRoster { .. } => Some(
                "the store was set back, a roster is damaged, or somebody withholds it; ask who may change the store. \
                 The owner goes on from what is there by `lifeboat key add` or `remove` with --forget-remembered-roster",
            ),
            Self::WrongKey { role: "writer", why: crate::open::REMOVED, .. } => Some(
                "a removed key does not come back: `lifeboat key generate writer --out FILE` makes a new one and its request, \
                 which the owner takes with `lifeboat key add`; then name FILE as `writerKeyFile`",
            ),
            Self::WrongKey { .. } => Some("`lifeboat key test FILE` tells what a key file opens"),
            Self::KeyMissing { .. } => Some("name the key file in the configuration, or by --identity FILE"),
            Self::KeyFile { source, .. } => source.hint(),
            Self::Busy { .. } => Some("try again when it is done"),
            Self::Usage { hint, .. } => *hint,
            Self::Store(error) if error.advice().is_some() => error.hint(),
            Self::Store(error) => match error.kind {
                StoreErrorKind::Denied => Some("check the login and the rights of the store's account"),
                StoreErrorKind::Full => Some("make space in the store; what is sealed there is whole"),
                StoreErrorKind::Transient => Some("try again; the store may be back soon"),
                _ => None,
            },
            Self::Cache(_) => Some(
                "the cache directory needs a working disk with free space; what is in it can be deleted, and --state-dir \
                 names another one",
            ),
            Self::GivenUp { source, .. } => source.as_ref().and_then(|cause| cause.hint()),
            Self::Io { .. } | Self::Read(_) => None,
        }
    }
}

/// Whether an object is one of those without which nothing opens, `check` neither.
fn opens(object: &str) -> bool {
    ["format", "roster", "keyring", "the roster", "the new keyring"].iter().any(|start| object.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_give_the_exit_codes_of_the_command_line() {
        let none = RepoError::NoRepository { store: "memory:".into() };
        assert_eq!((none.kind().exit_code(), none.hint().is_some()), (10, true));
        let newer = RepoError::object("format", ObjectError::NewerVersion(3));
        assert_eq!((newer.kind().exit_code(), newer.hint()), (1, Some("use a newer lifeboat")));
        let bad = |object: &str| RepoError::object(object, ObjectError::WrongHash).hint().expect("a hint").to_owned();
        assert!(bad("data/ab").contains("check --read-data"));
        for object in ["format", "roster/00000002-ab", "keyring2/00000001-ab"] {
            assert!(bad(object).contains("copy of the store"), "check could not open either");
        }
        let key = RepoError::KeyMissing { what: "reading content", needs: "an identity" };
        assert_eq!((key.kind().exit_code(), key.to_string().as_str()), (12, "reading content needs an identity"));
    }

    #[test]
    fn the_cause_is_not_repeated_in_the_message() {
        let error = RepoError::object("roster/00000001-ab", ObjectError::WrongHash);
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(!error.to_string().contains(&cause));
    }
}

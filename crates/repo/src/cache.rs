//! What a host keeps of a repository between runs. Losing any of it costs time only, and nothing in
//! it is a secret, a name or content.
//!
//! The state directory of one repository, mode 0700, is made when it is first used:
//!
//! | path | holds | without it |
//! |---|---|---|
//! | `parents/TAG` | for the source with this tag: what each file looked like at the last backup, and the chunks of its content (module `parent`) | the next backup reads every file anew; chunks are still deduplicated |
//! | `slices/TAG/` | for each large stream of the source that changes: keyed hashes of its slices, and where they are stored (module `slices`) | a changed chunk is stored whole |
//! | `copied/REPOSITORY-DOMAIN/` | for each repository that was copied from: which of its chunks is which of this one's (module `copy`) | the next copy reads everything, and still stores only what is new |
//! | `index/` | tables of the repository's indexes ([`crate::index::IndexSet`]) | they are read from the store again |
//! | `objects/` | roots and verdicts on them, as they lie in the store | a list of snapshots reads them again |
//!
//! What was remembered of rosters and heads ([`crate::remember`]) is kept by the caller, since losing
//! that loses more than time.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lifeboat_model::Digest;

use crate::error::RepoError;

/// The state directory of one repository on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Whether it exists does not matter yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of a source's last backup.
    #[must_use]
    pub fn parent(&self, source_tag: &Digest) -> PathBuf {
        self.0.join("parents").join(source_tag.to_hex())
    }

    /// The directory of a source's slice maps.
    #[must_use]
    pub fn slices(&self, source_tag: &Digest) -> PathBuf {
        self.0.join("slices").join(source_tag.to_hex())
    }

    /// Makes the directory that `file` lies in, readable by nobody else.
    ///
    /// # Errors
    /// [`RepoError::Io`].
    pub fn make_room_for(&self, file: &Path) -> Result<(), RepoError> {
        let Some(directory) = file.parent() else { return Ok(()) };
        make_private(directory).map_err(|source: io::Error| RepoError::Io {
            doing: "making",
            path: directory.into(),
            source,
        })
    }
}

/// Makes a directory that nobody else may read, and those above it.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

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
//! | `objects/` | roots and verdicts on them, as they lie in the store | a list of snapshots reads them again; a repair cannot put a damaged root back |
//!
//! What was remembered of rosters and heads ([`crate::remember`]) is kept by the caller, since losing
//! that loses more than time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use lifeboat_model::Digest;

use crate::crypt::Secret;
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

    /// The directory of small objects as they lie in the store.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
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

/// Magic and binding, with which a file of one source begins.
pub(crate) const BOUND_HEADER_BYTES: u64 = 16 + 32;

/// Opens a file of one source after all of it was checked against the keyed hash at its end. Returns it
/// with the length of what is before the hash: the header, and at least eight bytes.
pub(crate) fn open_bound(path: &Path, magic: &[u8; 16], key: &Secret, binding: &Digest) -> io::Result<(File, u64)> {
    let damaged = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut file = File::open(path)?;
    let signed = file.metadata()?.len().checked_sub(32).filter(|bytes| *bytes >= BOUND_HEADER_BYTES + 8);
    let signed = signed.ok_or_else(|| damaged("too short"))?;
    let mut mac = blake3::Hasher::new_keyed(&key.0);
    io::copy(&mut Read::by_ref(&mut file).take(signed), &mut mac)?;
    let mut stored = [0; 32];
    file.read_exact(&mut stored)?;
    // Comparing hashes of blake3 takes constant time.
    if mac.finalize() != blake3::Hash::from_bytes(stored) {
        return Err(damaged("the checksum is wrong"));
    }
    let mut header = [0; 48];
    file.read_exact_at(&mut header, 0)?;
    if header[..16] != magic[..] || header[16..] != binding.0 {
        return Err(damaged("it belongs to another source or version"));
    }
    Ok((file, signed))
}

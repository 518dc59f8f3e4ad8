//! Scratch directories that never outlive their command for long.
//!
//! Each command has one of its own, mode 0700, and holds a lock on it. What a killed command left
//! is removed by the next one that starts: a directory whose lock is free belongs to nobody.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::lock::make_private_dir;

/// The name of the lock inside a scratch directory.
const LOCK: &str = ".lock";

/// A scratch directory of this command; removed with everything in it when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

/// A scratch directory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making a scratch directory below {} failed", below.display())]
pub struct ScratchError {
    /// Where.
    pub below: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Scratch {
    /// Removes what killed commands left below `state_dir` and makes a directory for this one.
    ///
    /// # Errors
    /// [`ScratchError`] where the new directory cannot be made. Leftovers that cannot be removed
    /// stay for the next command.
    pub fn begin(state_dir: &Path) -> Result<Self, ScratchError> {
        let below = state_dir.join("scratch");
        let failed = |source| ScratchError { below: below.clone(), source };
        make_private_dir(&below).map_err(failed)?;
        // While one command sweeps, no other is between making its directory and locking it.
        let sweeping = open_lock(&below.join(LOCK)).map_err(failed)?;
        sweeping.lock().map_err(failed)?;
        sweep(&below);
        let path = (0..u32::MAX)
            .map(|n| below.join(format!("{}-{n}", std::process::id())))
            .find(|path| !path.exists())
            .ok_or_else(|| failed(io::ErrorKind::AlreadyExists.into()))?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let lock = open_lock(&path.join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next command removes what this one cannot.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn sweep(below: &Path) {
    let Ok(entries) = std::fs::read_dir(below) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        let abandoned = match File::open(path.join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if abandoned {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_scratch_directory_is_private_and_goes_with_its_command() {
        let state = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::begin(state.path()).expect("scratch");
        let path = scratch.path().to_owned();
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        File::create(path.join("dump")).expect("a file");
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn the_next_command_removes_what_a_killed_one_left_and_nothing_else() {
        let state = tempfile::tempdir().expect("a directory");
        let living = Scratch::begin(state.path()).expect("scratch");
        let abandoned = state.path().join("scratch/999-0");
        std::fs::create_dir(&abandoned).expect("a directory");
        File::create(abandoned.join(LOCK)).expect("a lock that nobody holds");
        File::create(abandoned.join("dump")).expect("a file");
        let before_its_lock = state.path().join("scratch/999-1");
        std::fs::create_dir(&before_its_lock).expect("a directory");
        let next = Scratch::begin(state.path()).expect("scratch");
        assert!(!abandoned.exists() && !before_its_lock.exists());
        assert!(living.path().exists() && next.path().exists());
    }
}

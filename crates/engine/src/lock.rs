//! One backup of a source at a time on one machine.
//!
//! The lock is the kernel's, on a file of the state directory: it ends with the process that holds
//! it, however that ends, so that no stale lock ever needs a hand. The file stays; deleting it
//! would let two processes lock two files of one name.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    // Its drop releases the lock.
    _file: File,
}

/// Why a lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another process{} holds {}", owner(holder), path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it: its process id.
        holder: String,
    },
    /// The lock file cannot be made or locked.
    #[error("locking {} failed", path.display())]
    Failed {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn owner(holder: &str) -> String {
    if holder.is_empty() { String::new() } else { format!(" ({holder})") }
}

impl Lock {
    /// Takes the lock `name` below `state_dir` or tells who has it. Never waits.
    ///
    /// # Errors
    /// [`LockError::Busy`] where another process, or another part of this one, holds it.
    pub fn take(state_dir: &Path, name: &str) -> Result<Self, LockError> {
        let dir = state_dir.join("locks");
        let path = dir.join(format!("{name}.lock"));
        let failed = |source| LockError::Failed { path: path.clone(), source };
        make_private_dir(&dir).map_err(failed)?;
        let mut file = open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Told where it can be read; the refusal stands either way.
                let _ = file.take(64).read_to_string(&mut holder);
                return Err(LockError::Busy { path, holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "process {}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes `dir` and what is above it, readable by nobody else.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_refuses_and_names_its_holder() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = Lock::take(dir.path(), "backup-a-b").expect("free");
        let Err(LockError::Busy { holder, .. }) = Lock::take(dir.path(), "backup-a-b") else { panic!("busy") };
        assert_eq!(holder, format!("process {}", std::process::id()));
        Lock::take(dir.path(), "backup-a-c").expect("another name is free");
        drop(held);
        Lock::take(dir.path(), "backup-a-b").expect("free again");
    }

    #[test]
    fn what_a_dead_process_left_does_not_block() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Lock::take(dir.path(), "x").expect("free"));
        assert!(dir.path().join("locks/x.lock").exists(), "the file stays");
        Lock::take(dir.path(), "x").expect("the file alone locks nothing");
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        File::create(&file).expect("a file");
        let error = Lock::take(&file, "x").expect_err("no directory");
        assert!(error.to_string().contains("locks/x.lock"), "{error}");
    }
}

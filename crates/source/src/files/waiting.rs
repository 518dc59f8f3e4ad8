//! Files that wait to take the places of others.
//!
//! What is replaced must not be lost to a power cut: the new content has to be on disk before its
//! name is. To flush each file by itself costs a journal commit and a flush of the disk's cache for
//! each; a group of them is flushed at once by `syncfs`. Measured with 50,000 small files, all newer
//! than the snapshot, on ext4 with a journal: 125 s with a flush for each, 10 s in groups.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::EntryPath;
use lifeboat_model::flow::{Entry, PIECE_BYTES_MAX};

use super::place::{Temp, failed};
use crate::SourceError;

/// Files of a group: each keeps itself and its directory open.
const GROUP_FILES: usize = 256;
/// Content of a group, which is on disk beside what it replaces. A large file does not wait.
pub(super) const GROUP_BYTES: u64 = 64 << 20;

/// A group that is growing.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Group>);

#[derive(Debug, Default)]
struct Group {
    files: Vec<Ready>,
    bytes: u64,
}

/// A file that is written and has its metadata.
#[derive(Debug)]
struct Ready {
    temp: Temp,
    file: Arc<File>,
    path: EntryPath,
}

impl Waiting {
    /// Takes a file; gives the group their places when it is full.
    pub(super) fn add(&self, temp: Temp, file: &Arc<File>, entry: &Entry) -> Result<(), SourceError> {
        let ready = Ready { temp, file: Arc::clone(file), path: entry.path.clone() };
        let full = {
            let mut group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            group.files.push(ready);
            group.bytes = group.bytes.saturating_add(entry.bytes);
            let is_full =
                group.files.len() >= GROUP_FILES || group.bytes >= GROUP_BYTES || entry.bytes > PIECE_BYTES_MAX as u64;
            if !is_full {
                return Ok(());
            }
            std::mem::take(&mut *group)
        };
        full.settle()
    }

    /// Gives all that wait their places.
    pub(super) fn settle(&self) -> Result<(), SourceError> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).settle()
    }
}

impl Group {
    fn settle(self) -> Result<(), SourceError> {
        let mut flushed = HashSet::new();
        for Ready { file, path, .. } in &self.files {
            let say = |error| failed("flushing", path, error);
            if flushed.insert(rustix::fs::fstat(file).map_err(say)?.st_dev) {
                rustix::fs::syncfs(file).map_err(say)?;
            }
        }
        for Ready { mut temp, path, .. } in self.files {
            let (from, to) = (OsStr::from_bytes(&temp.name), OsStr::from_bytes(path.name()));
            rustix::fs::renameat(&temp.dir, from, &temp.dir, to).map_err(|error| failed("restoring", &path, error))?;
            temp.placed = true;
        }
        Ok(())
    }
}

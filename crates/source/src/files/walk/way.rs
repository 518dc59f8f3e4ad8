//! Directories on the way, which need not be readable.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use lifeboat_model::EntryPath;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::{Frame, OPEN_DIRS};

/// Opens a directory for the way through it only, which needs no right to read it.
pub(super) fn reach(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
}

/// Opens the last frame's directory if it was closed on the way down, and those shortly above it.
pub(super) fn reopen(frames: &mut [Frame]) -> Result<(), Errno> {
    let Some(last) = frames.len().checked_sub(1) else { return Ok(()) };
    if frames[last].fd.is_some() {
        return Ok(());
    }
    // The topmost frame's directory is closed only after 64 deeper ones were opened; the way down
    // starts from `/` then, by names and without following links.
    let slash = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut at = Arc::new(slash);
    let path = frames[last].path.clone();
    // The path of the last frame has as many components as there are frames below the top one, and
    // those of the configured path.
    let components = path.iter().flat_map(EntryPath::components).count();
    let first_kept = last.saturating_sub(OPEN_DIRS / 2);
    for (depth, name) in path.iter().flat_map(EntryPath::components).enumerate() {
        at = Arc::new(reach(&at, name)?);
        let Some(index) = (depth + 1 + last).checked_sub(components) else { continue };
        if let Some(frame) = frames.get_mut(index)
            && index >= first_kept
        {
            let stat = rustix::fs::fstat(&at)?;
            if (stat.st_dev, stat.st_ino) != frame.inode {
                return Err(Errno::NOENT);
            }
            frame.fd = Some(Arc::clone(&at));
        }
    }
    if frames[last].fd.is_some() { Ok(()) } else { Err(Errno::NOENT) }
}

//! The second pass of a restore: hard links, and each directory when all below it is done.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use lifeboat_model::flow::Entry;
use lifeboat_model::{EntryKind, EntryPath};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::below::{UNFINISHED, parent};
use super::meta::kind_of;
use super::place::{Over, Place, failed};
use super::select::Item;
use crate::SourceError;

/// Something of the second pass.
pub(super) enum Step {
    /// Gives the file at this path a further name.
    Link(EntryPath, Entry),
    /// Gives a directory its metadata.
    Dir(Item),
    /// Finishes a directory of which the snapshot knows nothing.
    Plain(EntryPath),
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It is back.
    Restored,
    /// It was there, equal to the snapshot's; of a directory, it was there.
    Unchanged,
    /// Neither: what there is to say is told as a shortfall.
    Neither,
}

impl Step {
    pub(super) fn run(self, place: &Place) -> Result<Became, SourceError> {
        match self {
            Self::Link(origin, entry) => link(place, &origin, &entry),
            Self::Dir(item) => finish_dir(place, &item),
            Self::Plain(path) => {
                if let Some((above, UNFINISHED)) = look_at_dir(place, &path)?
                    && let Some(fd) = open_dir(place, &above, &path)?
                {
                    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(|e| failed("finishing", &path, e))?;
                }
                Ok(Became::Neither)
            }
        }
    }
}

/// Moves the directories that do not hold `next` from the way down to the steps, deepest first.
pub(super) fn close(open: &mut Vec<Item>, next: Option<&EntryPath>, steps: &mut Vec<Step>) {
    while let Some(last) = open.pop_if(|last| next.is_none_or(|next| !next.is_within(&last.entry.path))) {
        steps.push(Step::Dir(last));
    }
}

fn link(place: &Place, origin: &EntryPath, entry: &Entry) -> Result<Became, SourceError> {
    let say = |error| failed("linking", &entry.path, error);
    let look = |dir: &OwnedFd, path: &EntryPath| {
        rustix::fs::statat(dir, OsStr::from_bytes(path.name()), AtFlags::SYMLINK_NOFOLLOW)
    };
    let from = place.below.dir(parent(origin)).and_then(|dir| look(&dir, origin));
    let from = match from {
        // Its content could not be restored; that was told.
        Err(Errno::NOENT) => return Ok(Became::Neither),
        other => other.map_err(say)?,
    };
    let dir = place.parent(&entry.path)?;
    let over = match look(&dir, &entry.path) {
        Err(Errno::NOENT) => Over::Nothing,
        Ok(here) if (here.st_dev, here.st_ino) == (from.st_dev, from.st_ino) => return Ok(Became::Unchanged),
        Ok(here) if place.replace && kind_of(&here) != EntryKind::Dir => Over::What,
        Ok(_) => {
            place.move_aside(&entry.path)?;
            Over::Nothing
        }
        Err(error) => return Err(say(error)),
    };
    place.link(origin, dir, entry, over).map(|()| Became::Restored)
}

/// The directory above the one at `path`, and the permissions of the latter; `None` where there is
/// none.
fn look_at_dir(place: &Place, path: &EntryPath) -> Result<Option<(OwnedFd, u32)>, SourceError> {
    let stat = place.below.dir(parent(path)).and_then(|above| {
        let stat = rustix::fs::statat(&above, OsStr::from_bytes(path.name()), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((above, stat))
    });
    match stat {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(failed("finishing", path, error)),
        Ok((above, stat)) => Ok((kind_of(&stat) == EntryKind::Dir).then_some((above, stat.st_mode & 0o7777))),
    }
}

/// Opens a directory to give it metadata; `None` where that may not be.
fn open_dir(place: &Place, above: &OwnedFd, path: &EntryPath) -> Result<Option<OwnedFd>, SourceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(above, OsStr::from_bytes(path.name()), flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(Errno::ACCESS) => {
            place.shortfalls.add("metadata of directories that may not be opened stayed as it was", path);
            Ok(None)
        }
        other => other.map(Some).map_err(|error| failed("finishing", path, error)),
    }
}

fn finish_dir(place: &Place, item: &Item) -> Result<Became, SourceError> {
    let path = &item.entry.path;
    let Some((above, mode)) = look_at_dir(place, path)? else { return Ok(Became::Neither) };
    let became = if mode == UNFINISHED || (place.replace && item.selected) {
        let Some(fd) = open_dir(place, &above, path)? else { return Ok(Became::Neither) };
        place.dress(fd.as_fd(), &item.entry.meta, path);
        Became::Restored
    } else {
        Became::Unchanged
    };
    Ok(if item.selected { became } else { Became::Neither })
}

//! Makes one thing beside its place, gives it its metadata and moves it there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::flow::{Entry, Piece};
use lifeboat_model::{EntryKind, EntryPath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::below::{Below, parent, run_tag, sweep, temp_name};
use super::meta::{At, Names, kind_of, mtime, size_of, xattrs};
use super::steps::Became;
use super::waiting::Waiting;
use super::walk::Inode;
use crate::SourceError;

/// Directories that are remembered as swept.
const SWEPT_MAX: usize = 200_000;

/// What a restore works with.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) below: Below,
    pub(super) names: Names,
    pub(super) replace: bool,
    pub(super) shortfalls: Shortfalls,
    pub(super) waiting: Waiting,
    pub(super) is_root: bool,
    tag: String,
    making: Mutex<()>,
    swept: Mutex<HashSet<Inode>>,
    /// One open directory of each file system that was written to.
    mounts: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    /// Taken while what was written is brought to disk; what failed on the way.
    flushing: Mutex<Option<Errno>>,
}

/// What is back but not as it was, by its kind: a million files must not make a million lines.
#[derive(Debug, Default)]
pub(super) struct Shortfalls(Mutex<BTreeMap<String, (u64, String)>>);

impl Shortfalls {
    pub(super) fn add(&self, what: &str, path: &EntryPath) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Texts of the system are few; a limit holds all the same.
        let key = if all.len() < 100 || all.contains_key(what) { what } else { "further problems" };
        all.entry(key.to_owned()).or_insert_with(|| (0, path.to_string())).0 += 1;
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(what, (count, first)): (&String, &(u64, String))| match count {
            1 => format!("{what}: {first}"),
            more => format!("{what}: {first} and {} more", more - 1),
        };
        all.iter().map(line).collect()
    }
}

/// What stands where an entry belongs.
#[derive(Debug)]
pub(super) enum Standing {
    Nothing,
    /// The entry itself, as far as metadata tells.
    Same,
    /// Something else that is no directory.
    Other,
    /// A directory where something else belongs.
    Dir,
}

/// A name that is removed again unless it is moved to its place.
#[derive(Debug)]
pub(super) struct Temp {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: Vec<u8>,
    pub(super) placed: bool,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.placed {
            // What cannot be removed now is swept by the next run.
            let _ = rustix::fs::unlinkat(&self.dir, OsStr::from_bytes(&self.name), AtFlags::empty());
        }
    }
}

impl Place {
    pub(super) fn new(below: Below, replace: bool) -> Self {
        Self {
            below,
            names: Names::default(),
            replace,
            shortfalls: Shortfalls::default(),
            waiting: Waiting::default(),
            is_root: rustix::process::geteuid().is_root(),
            tag: run_tag(),
            making: Mutex::default(),
            swept: Mutex::default(),
            mounts: Mutex::default(),
            flushing: Mutex::default(),
        }
    }

    /// Opens the directory that an entry belongs in, making what is missing above it.
    pub(super) fn parent(&self, path: &EntryPath) -> Result<Arc<OwnedFd>, SourceError> {
        let dir = Arc::new(self.dirs(parent(path), path)?);
        let stat = rustix::fs::fstat(&dir).map_err(|error| failed("looking at the directory of", path, error))?;
        self.remember_mount(&dir, stat.st_dev);
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.len() >= SWEPT_MAX {
            swept.clear();
        }
        if swept.insert((stat.st_dev, stat.st_ino)) {
            drop(swept);
            sweep(dir.as_fd(), &self.tag);
        }
        Ok(dir)
    }

    fn remember_mount(&self, dir: &OwnedFd, device: u64) {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if !mounts.contains_key(&device)
            && let Ok(open) = rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        {
            mounts.insert(device, Arc::new(open));
        }
    }

    /// Brings all that was written to disk. Tells too what failed of [`Place::sync_ahead`], since the system
    /// tells each failure once.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        let failed = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)?;
        self.flush()
    }

    /// Brings what was written so far to disk, unless somebody is at it.
    pub(super) fn sync_ahead(&self) {
        if let Ok(mut failed) = self.flushing.try_lock() {
            *failed = failed.or(self.flush().err());
        }
    }

    fn flush(&self) -> Result<(), Errno> {
        let mounts: Vec<_> =
            self.mounts.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        rustix::fs::syncfs(self.below.root())?;
        mounts.iter().try_for_each(rustix::fs::syncfs)
    }

    /// Opens or makes the directory at `wanted`, for the sake of `path`.
    pub(super) fn dirs(&self, wanted: &[u8], path: &EntryPath) -> Result<OwnedFd, SourceError> {
        if let Ok(dir) = self.below.dir(wanted) {
            return Ok(dir);
        }
        // One at a time: two tasks may meet the same obstacle.
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.below.make_dirs(wanted) {
                Ok(dir) => return Ok(dir),
                Err((at, Errno::NOTDIR | Errno::LOOP)) => {
                    let at = EntryPath::new(at).map_err(|bad| SourceError::at(path, bad))?;
                    self.move_aside(&at)?;
                }
                Err((_, error)) => return Err(failed("making the directory of", path, error)),
            }
        }
    }

    /// Moves what stands at `path` to a name beside it: it is of another kind than the snapshot's
    /// entry and is not replaced but kept.
    pub(super) fn move_aside(&self, path: &EntryPath) -> Result<(), SourceError> {
        if !self.replace {
            return Err(occupied(path));
        }
        let dir = self.below.dir(parent(path)).map_err(|error| failed("looking at the directory of", path, error))?;
        for number in 0..1_000_u32 {
            let mut aside = path.name().to_vec();
            aside.truncate(255 - 20);
            aside.extend_from_slice(b".lifeboat-aside");
            if number > 0 {
                aside.extend_from_slice(number.to_string().as_bytes());
            }
            match move_to(dir.as_fd(), path.name(), &aside, Over::Nothing) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("moving aside", path, error)),
                Ok(()) => {
                    self.shortfalls.add("what was in the way is now beside it as NAME.lifeboat-aside", path);
                    return Ok(());
                }
            }
        }
        Err(failed("moving aside", path, Errno::EXIST))
    }

    /// Tells that there is nothing to bring to `path`, and why the backup left it out.
    pub(super) fn left_out(&self, path: &EntryPath, skipped: &Entry) {
        let why = skipped.meta.why.as_deref().unwrap_or("it does not say why");
        self.shortfalls.add(&format!("left out of the backup: {why}"), path);
    }

    /// What stands where `entry`, which is no directory, belongs.
    pub(super) fn standing(&self, dir: BorrowedFd<'_>, entry: &Entry) -> Result<Standing, Errno> {
        let name = entry.path.name();
        let stat = match rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Standing::Nothing),
            other => other?,
        };
        if kind_of(&stat) == EntryKind::Dir {
            return Ok(Standing::Dir);
        }
        let same = differences(&self.names, entry, &stat, At::Name(dir, name), self.is_root).is_empty();
        Ok(if same { Standing::Same } else { Standing::Other })
    }

    /// Whether there is work to do at `entry`'s place, and over what it will be put.
    pub(super) fn clear_the_way(&self, dir: BorrowedFd<'_>, entry: &Entry) -> Result<Option<Over>, SourceError> {
        match self.standing(dir, entry).map_err(|error| failed("looking at", &entry.path, error))? {
            Standing::Nothing => Ok(Some(Over::Nothing)),
            Standing::Same if entry.meta.kind == EntryKind::File => Ok(Some(Over::Same)),
            Standing::Same => Ok(None),
            Standing::Other if self.replace => Ok(Some(Over::What)),
            Standing::Dir if self.replace => {
                self.move_aside(&entry.path)?;
                Ok(Some(Over::Nothing))
            }
            _ => Err(occupied(&entry.path)),
        }
    }

    /// A new empty file beside the place of `path`.
    pub(super) fn temp_file(&self, dir: Arc<OwnedFd>, path: &EntryPath) -> Result<(Temp, File), SourceError> {
        let name = temp_name(&self.tag);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, OsStr::from_bytes(&name), flags, Mode::from_raw_mode(0o600))
            .map_err(|error| failed("making", path, error))?;
        let temp = Temp { dir, name, placed: false };
        // Tells a sweep of another run that this file is in use; a file system without locks has
        // no such runs to fear but on the same machine at the same time.
        let _ = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        Ok((temp, File::from(file)))
    }

    /// Gives a written file its metadata and its place, the latter a little later where another
    /// file stands there.
    pub(super) fn finish(
        &self,
        mut temp: Temp,
        file: &Arc<File>,
        entry: &Entry,
        over: Over,
    ) -> Result<(), SourceError> {
        self.dress(file.as_fd(), &entry.meta, &entry.path);
        if over != Over::Nothing {
            return self.waiting.add(temp, file, entry);
        }
        move_to(temp.dir.as_fd(), &temp.name, entry.path.name(), over).map_err(|error| placing(&entry.path, error))?;
        temp.placed = true;
        Ok(())
    }

    /// Makes a symbolic link, a named pipe or a device.
    pub(super) fn special(&self, dir: Arc<OwnedFd>, entry: &Entry, over: Over) -> Result<Became, SourceError> {
        let (meta, path) = (&entry.meta, &entry.path);
        let name = temp_name(&self.tag);
        let shown = OsStr::from_bytes(&name);
        let node = |kind| {
            let (major, minor) = meta.device.unwrap_or((0, 0));
            rustix::fs::mknodat(&dir, shown, kind, Mode::from_raw_mode(0o600), rustix::fs::makedev(major, minor))
        };
        let made = match meta.kind {
            EntryKind::Symlink => rustix::fs::symlinkat(meta.link.as_deref().unwrap_or_default(), &dir, shown),
            EntryKind::Fifo => node(FileType::Fifo),
            EntryKind::CharDevice => node(FileType::CharacterDevice),
            EntryKind::BlockDevice => node(FileType::BlockDevice),
            _ => Err(Errno::INVAL),
        };
        match made {
            Err(Errno::PERM) => {
                self.shortfalls.add("devices that only root can make are missing", path);
                return Ok(Became::Neither);
            }
            other => other.map_err(|error| failed("making", path, error))?,
        }
        let mut temp = Temp { dir, name, placed: false };
        self.dress_special(temp.dir.as_fd(), &temp.name, entry);
        move_to(temp.dir.as_fd(), &temp.name, path.name(), over).map_err(|error| placing(path, error))?;
        temp.placed = true;
        Ok(Became::Restored)
    }

    /// Gives `path` the file at `origin` under a further name.
    pub(super) fn link(
        &self,
        origin: &EntryPath,
        dir: Arc<OwnedFd>,
        entry: &Entry,
        over: Over,
    ) -> Result<(), SourceError> {
        let path = &entry.path;
        let say = |error| failed("linking", path, error);
        let from = self.below.dir(parent(origin)).map_err(say)?;
        let name = temp_name(&self.tag);
        rustix::fs::linkat(&from, OsStr::from_bytes(origin.name()), &dir, OsStr::from_bytes(&name), AtFlags::empty())
            .map_err(say)?;
        let mut temp = Temp { dir, name, placed: false };
        move_to(temp.dir.as_fd(), &temp.name, path.name(), over).map_err(|error| placing(path, error))?;
        temp.placed = true;
        Ok(())
    }

    /// How an entry's file here differs from it, its content aside.
    pub(super) fn differences(&self, entry: &Entry, stat: &Stat, at: At<'_>) -> Vec<String> {
        differences(&self.names, entry, stat, at, self.is_root)
    }
}

/// What a rename may put its file over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing: it fails where something is.
    Nothing,
    /// Whatever is there but a directory.
    What,
    /// A file that is equal as far as metadata tells: its bytes are compared, and it is written only
    /// where they differ and may be replaced.
    Same,
}

fn move_to(dir: BorrowedFd<'_>, from: &[u8], to: &[u8], over: Over) -> Result<(), Errno> {
    let (from, to) = (OsStr::from_bytes(from), OsStr::from_bytes(to));
    if over != Over::Nothing {
        return rustix::fs::renameat(dir, from, dir, to);
    }
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // A file system that knows no such rename: a link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
            rustix::fs::unlinkat(dir, from, AtFlags::empty())
        }
        other => other,
    }
}

/// Writes pieces from an offset on; the offset after them.
pub(super) fn write_piece(file: &File, piece: &Piece, offset: u64) -> std::io::Result<u64> {
    match piece {
        Piece::Hole(length) => offset.checked_add(*length).ok_or_else(|| std::io::Error::from(Errno::FBIG)),
        Piece::Data(bytes) => {
            file.write_all_at(bytes, offset)?;
            Ok(offset + bytes.len() as u64)
        }
    }
}

fn differences(names: &Names, entry: &Entry, stat: &Stat, at: At<'_>, owners: bool) -> Vec<String> {
    let meta = &entry.meta;
    let mut found = Vec::new();
    let here = kind_of(stat);
    if here != meta.kind && meta.kind != EntryKind::Hardlink {
        return vec![format!("it is a {}, not a {}", here.word(), meta.kind.word())];
    }
    if here == EntryKind::File && meta.kind == EntryKind::File && size_of(stat) != entry.bytes {
        found.push(format!("it has {} bytes, not {}", size_of(stat), entry.bytes));
    }
    if let (Some(mode), true) = (meta.mode, here != EntryKind::Symlink)
        && mode != stat.st_mode & 0o7777
    {
        found.push(format!("its permissions are {:04o}, not {mode:04o}", stat.st_mode & 0o7777));
    }
    if let Some(wanted) = meta.mtime
        && wanted != mtime(stat)
    {
        found.push("its time of change differs".to_owned());
    }
    if owners && !is_owned_as(names, entry, stat) {
        found.push(format!("it belongs to {}:{}", stat.st_uid, stat.st_gid));
    }
    if let (Some(device), EntryKind::CharDevice | EntryKind::BlockDevice) = (meta.device, here)
        && device != (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
    {
        found.push("it is another device".to_owned());
    }
    if let (EntryKind::Symlink, EntryKind::Symlink, At::Name(dir, name)) = (here, meta.kind, at) {
        let link = rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new());
        if link.ok().map(std::ffi::CString::into_bytes) != meta.link {
            found.push("it leads elsewhere".to_owned());
        }
    }
    let kept = |name: &[u8]| owners || !(name.starts_with(b"security.") || name.starts_with(b"trusted."));
    let wanted = meta.xattrs.iter().filter(|xattr| kept(&xattr.name));
    let present = xattrs(at, &mut Vec::new());
    if !wanted.eq(present.iter().filter(|xattr| kept(&xattr.name))) {
        found.push("its extended attributes or access control lists differ".to_owned());
    }
    found
}

/// Whether it belongs to whom the entry does.
pub(super) fn is_owned_as(names: &Names, entry: &Entry, stat: &Stat) -> bool {
    entry.meta.owner.as_ref().is_none_or(|owner| names.user_id(owner).0 == stat.st_uid)
        && entry.meta.group.as_ref().is_none_or(|group| names.group_id(group).0 == stat.st_gid)
}

fn placing(path: &EntryPath, error: Errno) -> SourceError {
    if error == Errno::EXIST { occupied(path) } else { failed("restoring", path, error) }
}

fn occupied(path: &EntryPath) -> SourceError {
    SourceError::Failed {
        what: format!("/{path} is there already, and it is not the snapshot's"),
        hint: Some("restore to an empty directory, or say --replace to write over what is there".to_owned()),
        source: None,
    }
}

/// A failure of the system at an entry, with a hint where one is known.
pub(super) fn failed(doing: &str, path: &EntryPath, error: Errno) -> SourceError {
    let hint = match error {
        Errno::NOSPC | Errno::DQUOT => {
            "make room on the target's disk and run the restore again: it goes on where it was"
        }
        Errno::ACCESS | Errno::PERM => "run the restore as root",
        Errno::ROFS => "the target is mounted read-only",
        Errno::IO => "the target's disk fails: look at dmesg",
        _ => return SourceError::Failed { what: format!("{doing} /{path} failed"), hint: None, source: io(error) },
    };
    SourceError::Failed { what: format!("{doing} /{path} failed"), hint: Some(hint.to_owned()), source: io(error) }
}

#[expect(clippy::unnecessary_wraps, reason = "the field that it fills is optional")]
fn io(error: Errno) -> Option<Box<dyn std::error::Error + Send + Sync>> {
    Some(Box::new(std::io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_early_flush_failed_of_is_told_by_the_last_one() {
        let tree = tempfile::tempdir().expect("a directory");
        let place = Place::new(Below::open(tree.path()).expect("opened"), false);
        place.sync_ahead();
        assert_eq!(place.sync(), Ok(()));
        // A descriptor that only names a directory can be flushed by nobody.
        let name = rustix::fs::open(tree.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("opened");
        place.mounts.lock().expect("free").insert(0, Arc::new(name));
        place.sync_ahead();
        place.mounts.lock().expect("free").clear();
        assert_eq!(place.sync(), Err(Errno::BADF));
    }
}

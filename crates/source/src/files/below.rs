//! Directories below the target of a restore, reached without ever leaving it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_model::EntryPath;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Mode of a directory that a restore made and has not finished: of itself nobody gives a
/// directory the sticky bit that nobody else may enter.
pub(super) const UNFINISHED: u32 = 0o1700;

/// The longest path that one system call is asked to resolve; `PATH_MAX` is 4,096.
const PATH_BYTES_AT_ONCE: usize = 3_072;

const TEMP_PREFIX: &[u8] = b".lifeboat-tmp-";

/// An open target directory.
#[derive(Debug)]
pub(super) struct Below {
    root: OwnedFd,
}

impl Below {
    /// Opens a directory that exists. The path to it is the caller's word: links in it are
    /// followed.
    pub(super) fn open(root: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())? })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory at `path` below the target (the target itself where it is empty), for
    /// reaching names in it only. No component may be a symbolic link.
    pub(super) fn dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_empty() {
            return openat(&self.root, ".", flags, Mode::empty());
        }
        if path.len() > PATH_BYTES_AT_ONCE {
            return self.dir_by_steps(path, flags);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
            // Kernels before 5.6, and sandboxes that know no such call.
            Err(Errno::NOSYS | Errno::PERM) => self.dir_by_steps(path, flags),
            other => other,
        }
    }

    fn dir_by_steps(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at = openat(&self.root, ".", flags, Mode::empty())?;
        for name in path.split(|b| *b == b'/') {
            at = openat(&at, OsStr::from_bytes(name), flags, Mode::empty())?;
        }
        Ok(at)
    }

    /// As [`Below::dir`], making what is missing with the mode of unfinished directories.
    ///
    /// # Errors
    /// The path of the first component that is no directory, with what the system said.
    pub(super) fn make_dirs(&self, path: &[u8]) -> Result<OwnedFd, (Vec<u8>, Errno)> {
        match self.dir(path) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err((path.to_vec(), error)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = openat(&self.root, ".", flags, Mode::empty()).map_err(|error| (Vec::new(), error))?;
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += name.len();
            let failed = |error| (path[..end].to_vec(), error);
            let name = OsStr::from_bytes(name);
            at = match openat(&at, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o700)) {
                        // Made by another task in between.
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(failed(error)),
                        Ok(()) => mark_unfinished(&at, name).map_err(failed)?,
                    }
                    openat(&at, name, flags, Mode::empty()).map_err(failed)?
                }
                other => other.map_err(failed)?,
            };
            end += 1;
        }
        Ok(at)
    }
}

fn mark_unfinished(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::fchmod(openat(dir, name, flags, Mode::empty())?, Mode::from_raw_mode(UNFINISHED))
}

/// The path of the directory that holds this entry; empty at the top.
pub(super) fn parent(path: &EntryPath) -> &[u8] {
    let bytes = path.as_bytes();
    &bytes[..bytes.len().saturating_sub(path.name().len() + 1)]
}

/// A name that no other restore uses: the tag of this run and a number.
pub(super) fn temp_name(tag: &str) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = TEMP_PREFIX.to_vec();
    // Writing into a vector does not fail.
    let _ = write!(name, "{tag}-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed));
    name
}

/// A tag for the temporary names of one run: eight hexadecimal digits.
pub(super) fn run_tag() -> String {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = rustix::process::getpid().as_raw_nonzero().get().to_le_bytes();
    }
    format!("{:08x}", u32::from_le_bytes(bytes))
}

/// Whether this is a temporary name of a restore.
pub(super) fn is_temp_name(name: &[u8]) -> bool {
    name.strip_prefix(TEMP_PREFIX).is_some_and(|rest| {
        rest.len() == 21
            && rest[8] == b'-'
            && rest.iter().enumerate().all(|(at, b)| at == 8 || b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    })
}

/// Removes temporary files that runs left which are no longer alive. A living run holds a lock on
/// its regular files and bears another tag.
pub(super) fn sweep(dir: BorrowedFd<'_>, own_tag: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(listed) = openat(dir, ".", flags, Mode::empty()) else { return };
    let Ok(mut names) = rustix::fs::Dir::read_from(&listed) else { return };
    while let Some(Ok(entry)) = names.read() {
        let name = entry.file_name().to_bytes();
        if !is_temp_name(name) || name[TEMP_PREFIX.len()..].starts_with(own_tag.as_bytes()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let in_use = openat(dir, OsStr::from_bytes(name), flags, Mode::empty()).is_ok_and(|file| {
            let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            lock == Err(Errno::WOULDBLOCK)
        });
        if !in_use {
            // What cannot be removed is found again by the next run.
            let _ = rustix::fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_known_again_and_others_are_not() {
        let tag = run_tag();
        let name = temp_name(&tag);
        assert!(is_temp_name(&name), "{name:?}");
        assert_ne!(name, temp_name(&tag));
        for other in [".lifeboat-tmp-", ".lifeboat-tmp-0123456789abcdef01234", "lifeboat-tmp-01234567-0123456789ab"] {
            assert!(!is_temp_name(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn leftovers_of_a_dead_run_are_swept_and_those_of_a_living_one_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let below = Below::open(dir.path()).expect("open");
        let at = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
        let (dead, living, own) = (temp_name("00000001"), temp_name("00000002"), temp_name("00000003"));
        for name in [&dead, &living, &own] {
            std::fs::File::create(at(name)).expect("create");
        }
        let held = std::fs::File::open(at(&living)).expect("open");
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("lock");
        std::fs::File::create(at(b"mine")).expect("create");
        sweep(below.root(), "00000003");
        assert!(!at(&dead).exists());
        assert!(at(&living).exists() && at(&own).exists() && at(b"mine").exists());
    }

    #[test]
    fn a_symbolic_link_is_never_walked_through() {
        let (dir, outside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        std::os::unix::fs::symlink(outside.path(), dir.path().join("a")).expect("link");
        let below = Below::open(dir.path()).expect("open");
        assert!(below.dir(b"a").is_err());
        assert_eq!(below.make_dirs(b"a/b").expect_err("through a link").0, b"a");
        assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_made_and_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let below = Below::open(dir.path()).expect("open");
        let path = vec!["d".repeat(200); 30].join("/");
        below.make_dirs(path.as_bytes()).expect("make");
        below.dir(path.as_bytes()).expect("open again");
    }
}

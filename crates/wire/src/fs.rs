//! Files that survive a power cut once the call has returned, and that nobody sees half written.
//!
//! These functions block; async code calls them through `tokio::task::spawn_blocking`.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, StatVfs};
use rustix::io::Errno;

/// A failed step of a file operation.
#[derive(Debug, thiserror::Error)]
#[error("{action} {} failed", path.display())]
pub struct FsError {
    /// What was being done, as a verb (`create`, `write`, `sync`).
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Makes a closure for `map_err` out of what was being done where.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }

    /// The kind of the system's error, for callers that decide by it.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Room in the file system that holds `path`, as [`room_of`].
///
/// # Errors
/// What the system said.
pub fn room(path: &Path) -> io::Result<(u64, Option<u64>)> {
    Ok(room_of(&rustix::fs::statvfs(path)?))
}

/// Bytes that this process may still write and, where the file system counts them, files that it may
/// still make. What is reserved for root counts for root.
#[must_use]
pub fn room_of(stat: &StatVfs) -> (u64, Option<u64>) {
    let (blocks, files) = if rustix::process::geteuid().is_root() {
        (stat.f_bfree, stat.f_ffree)
    } else {
        (stat.f_bavail, stat.f_favail)
    };
    (blocks.saturating_mul(stat.f_frsize), (stat.f_files > 0).then_some(files))
}

/// What to do where a file of that name is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail with [`io::ErrorKind::AlreadyExists`], decided by the file system itself: of two
    /// processes that try at once, one wins.
    Refuse,
    /// Put the new file in its place. Readers see the old or the new one.
    Replace,
}

/// Writes a file of exactly this mode (whatever the umask is) through a temporary file in the same
/// directory: write, fsync, rename, fsync of the directory. A killed process may leave a file
/// named `.lifeboat-*.tmp` behind.
///
/// # Errors
/// [`FsError`]; the file is then as it was before, unless only the last fsync of the directory
/// failed.
pub fn write_durable(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), FsError> {
    write_durable_through(parent(path), path, bytes, mode, existing)
}

/// As [`write_durable`], with the temporary file in `temp_dir`, which must be on the same file
/// system.
///
/// # Errors
/// As [`write_durable`].
pub fn write_durable_through(
    temp_dir: &Path,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    existing: Existing,
) -> Result<(), FsError> {
    let mut temp = TempFile::create(temp_dir, mode)?;
    temp.file.write_all(bytes).map_err(FsError::at("write", path))?;
    temp.file.sync_all().map_err(FsError::at("sync", path))?;
    match existing {
        Existing::Replace => std::fs::rename(&temp.path, path).map_err(FsError::at("rename to", path))?,
        Existing::Refuse => rename_new(&temp.path, path).map_err(FsError::at("create", path))?,
    }
    temp.renamed = true;
    sync_dir(parent(path))
}

struct TempFile {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl TempFile {
    fn create(dir: &Path, mode: u32) -> Result<Self, FsError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| FsError::at("name a file in", dir)(io::Error::other(error.to_string())))?;
        let path = dir.join(format!(".lifeboat-{:016x}.tmp", u64::from_le_bytes(random)));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode & 0o700)
            .open(&path)
            .map_err(FsError::at("create", &path))?;
        let temp = Self { path, file, renamed: false };
        temp.file.set_permissions(Permissions::from_mode(mode)).map_err(FsError::at("set the mode of", &temp.path))?;
        Ok(temp)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed now is told by its name and cleaned later.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Renames without replacing. File systems that lack the flag (NFS) get a hard link instead.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// The directory of a path; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// [`FsError`]. File systems that cannot sync a directory (EINVAL) are taken at their word that
/// there is nothing to sync.
pub fn sync_dir(dir: &Path) -> Result<(), FsError> {
    let file = File::open(dir).map_err(FsError::at("open", dir))?;
    match rustix::fs::fsync(&file) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(FsError::at("sync", dir)(errno.into())),
    }
}

/// Makes sure that a directory is there, durably. What is missing of it is created with exactly
/// this mode, whatever the umask is; directories that are there already keep theirs.
///
/// # Errors
/// [`FsError`], also where something else than a directory has the name.
pub fn create_dir_durable(dir: &Path, mode: u32) -> Result<(), FsError> {
    match std::fs::DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => {
            std::fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(FsError::at("set the mode of", dir))?;
            sync_dir(parent(dir))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent(dir) != dir => {
            create_dir_durable(parent(dir), mode)?;
            create_dir_durable(dir, mode)
        }
        Err(error) => Err(FsError::at("create", dir)(error)),
    }
}

/// Removes a file, durably. One that is not there is fine.
///
/// # Errors
/// [`FsError`].
pub fn remove_durable(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FsError::at("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_with_its_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        write_durable(&path, b"one", 0o640, Existing::Refuse).expect("written");
        write_durable(&path, b"two", 0o664, Existing::Replace).expect("replaced");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::metadata(&path).expect("stat").mode() & 0o7777, 0o664);
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_taken_name_is_refused_and_keeps_its_content() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        write_durable(&path, b"one", 0o600, Existing::Refuse).expect("written");
        let error = write_durable(&path, b"two", 0o600, Existing::Refuse).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).expect("read"), b"one");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn of_many_that_create_one_name_at_once_exactly_one_wins() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let wins = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8u8)
                .map(|n| {
                    scope.spawn({
                        let path = &path;
                        move || write_durable(path, &[n], 0o600, Existing::Refuse).is_ok()
                    })
                })
                .collect();
            tries.into_iter().map(|t| t.join().expect("joined")).filter(|won| *won).count()
        });
        assert_eq!(wins, 1);
    }

    #[test]
    fn directories_are_made_down_the_path_and_a_file_in_the_way_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("a/b/c");
        create_dir_durable(&deep, 0o2770).expect("created");
        create_dir_durable(&deep, 0o700).expect("is there");
        assert_eq!(std::fs::metadata(&deep).expect("stat").mode() & 0o7777, 0o2770);
        write_durable(&dir.path().join("f"), b"", 0o600, Existing::Refuse).expect("written");
        assert!(create_dir_durable(&dir.path().join("f"), 0o700).is_err());
        assert!(create_dir_durable(&dir.path().join("f/g"), 0o700).is_err());
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        remove_durable(&path).expect("nothing to do");
        write_durable(&path, b"x", 0o600, Existing::Refuse).expect("written");
        remove_durable(&path).expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_reserved_for_root_is_room_for_root_alone() {
        let mut stat = rustix::fs::statvfs("/").expect("stat");
        (stat.f_frsize, stat.f_bfree, stat.f_bavail) = (4096, 100, 90);
        (stat.f_files, stat.f_ffree, stat.f_favail) = (50, 20, 10);
        let root = rustix::process::geteuid().is_root();
        let expected = if root { (409_600, Some(20)) } else { (368_640, Some(10)) };
        assert_eq!(room_of(&stat), expected);
        stat.f_files = 0;
        assert_eq!(room_of(&stat).1, None, "the file system counts no files");
        assert!(room(Path::new("/nonexistent")).is_err());
    }
}

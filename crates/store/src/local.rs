//! A store in a directory of this machine: a disk, a mounted server.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use lifeboat_wire::fs::{Existing, FsError, create_dir_durable, sync_dir, write_durable_through};

use crate::{
    Capabilities, Immutability, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind, check_size, clamp_range,
};

/// Where unfinished puts are. No key starts with a dot.
const TEMP_DIR: &str = ".tmp";
/// How old a leftover in [`TEMP_DIR`] must be before it is removed.
const LEFTOVER_AGE: Duration = Duration::from_hours(24);
/// Objects in one message from the thread that lists.
const LIST_BATCH: usize = 256;

/// Objects as files below a directory, by their keys; `.tmp` holds unfinished puts.
///
/// **Immutability: none.** Whoever may write the directory may delete and replace; the append-only
/// wrapper protects against mistakes only.
///
/// # Users and modes
/// Files are 0600 and directories 0700, whatever the umask is. To share a store between Unix users
/// (writer, maintainer, identity), make its root directory belong to a common group with mode 2770
/// (set-group-id, group-writable): then directories are 2770 and files 0640, so that each of the
/// group may add, read and delete objects, and none may change one in place. A default ACL on the
/// group-writable root works the same way.
///
/// # Times
/// `stored_at` is the file's mtime: the clock of whoever keeps the file system.
#[derive(Clone)]
pub struct LocalStore(Arc<Inner>);

struct Inner {
    root: PathBuf,
    shared: bool,
    cleaned: Once,
}

impl LocalStore {
    /// Opens the store in an existing directory. Nothing is created, so that a disk that is not
    /// mounted is not taken for an empty one.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] where there is no such directory.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let shown = Shown(root);
        let metadata = std::fs::metadata(root).map_err(|error| io_error("open", "", &shown, error))?;
        if !metadata.is_dir() {
            let why = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(io_error("open", "", &shown, why));
        }
        let shared = is_shared(root, &metadata);
        Ok(Self(Arc::new(Inner { root: root.to_owned(), shared, cleaned: Once::new() })))
    }

    /// Creates the directory where it is missing (mode 0700), and opens the store in it.
    ///
    /// # Errors
    /// Where the directory cannot be created.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        create_dir_durable(root, 0o700).map_err(|error| fs_error("create", "", &Shown(root), error))?;
        Self::open(root)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::new(StoreErrorKind::Failed, "call", "", self, error)),
        }
    }
}

/// Whether the directory is meant for a group of users.
fn is_shared(root: &Path, metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    let group_writes = mode & 0o020 != 0;
    let default_acl = || rustix::fs::getxattr(root, "system.posix_acl_default", &mut [0u8; 0][..]).is_ok_and(|n| n > 0);
    group_writes && (mode & 0o2000 != 0 || default_acl())
}

struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.0.display())
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Shown(&self.root), f)
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({self})")
    }
}

fn kind_of(error: &io::Error) -> StoreErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => StoreErrorKind::Exists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::Interrupted
        | io::ErrorKind::TimedOut
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::ResourceBusy
        | io::ErrorKind::StaleNetworkFileHandle => StoreErrorKind::Transient,
        _ => StoreErrorKind::Failed,
    }
}

fn io_error(operation: &'static str, key: impl fmt::Display, store: &dyn fmt::Display, error: io::Error) -> StoreError {
    StoreError::new(kind_of(&error), operation, key, store, error)
}

fn fs_error(operation: &'static str, key: impl fmt::Display, store: &dyn fmt::Display, error: FsError) -> StoreError {
    StoreError::new(kind_of(&error.source), operation, key, store, error)
}

impl Inner {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn file_mode(&self) -> u32 {
        if self.shared { 0o640 } else { 0o600 }
    }

    fn dir_mode(&self) -> u32 {
        if self.shared { 0o2770 } else { 0o700 }
    }

    fn put(&self, key: &Key, body: &[u8], mode: PutMode) -> Result<(), StoreError> {
        check_size("put", key, self, body.len() as u64)?;
        let temp_dir = self.root.join(TEMP_DIR);
        let existing = match mode {
            PutMode::CreateNew => Existing::Refuse,
            PutMode::Replace => Existing::Replace,
        };
        let path = self.path(key);
        let write = || write_durable_through(&temp_dir, &path, body, self.file_mode(), existing);
        let done = match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_dirs(&temp_dir, &path).and_then(|()| write())
            }
            other => other,
        };
        done.map_err(|error| fs_error("put", key, self, error))?;
        self.cleaned.call_once(|| clean_leftovers(&temp_dir, &path));
        Ok(())
    }

    /// Creates the directories below the root; never the root itself.
    fn make_dirs(&self, temp_dir: &Path, path: &Path) -> Result<(), FsError> {
        std::fs::metadata(&self.root).map_err(FsError::at("find", &self.root))?;
        create_dir_durable(temp_dir, self.dir_mode())?;
        match path.parent() {
            Some(parent) => create_dir_durable(parent, self.dir_mode()),
            None => Ok(()),
        }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let failed = |error| io_error("get", key, self, error);
        let file = File::open(self.path(key)).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let range = match range {
            Some(range) => clamp_range(key, self, &range, metadata.len())?,
            None => 0..metadata.len(),
        };
        let length = range.end - range.start;
        check_size("get", key, self, length)?;
        // As much as is wanted in one call: small reads that grow wait for the disk once each.
        let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        while (body.len() as u64) < length {
            let at = range.start + body.len() as u64;
            match rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut body), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        body.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(body.into())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Ok(()) => {
                let dir = path.parent().unwrap_or(&self.root);
                sync_dir(dir).map_err(|error| fs_error("delete", key, self, error))
            }
            // No such file: the name may still be that of a directory, which is no object.
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Ok(()),
                _ => Err(io_error("delete", key, self, error)),
            },
        }
    }

    /// Sends what is listed in batches; ends early when nobody listens any more.
    fn list(&self, prefix: &str, send: &mut dyn FnMut(Vec<ObjectMeta>) -> bool) -> Result<(), StoreError> {
        let failed = |error| io_error("list", prefix, self, error);
        // A missing root is an error, a missing directory below it an empty list.
        std::fs::metadata(&self.root).map_err(failed)?;
        let top = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        if !top.is_empty() && Key::new(top).is_err() {
            return Ok(());
        }
        let mut batch = Vec::new();
        let mut dirs = vec![top.to_owned()];
        while let Some(dir) = dirs.pop() {
            let entries = match std::fs::read_dir(self.root.join(&dir)) {
                Ok(entries) => entries,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
                let text = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                // Strangers (`.tmp`, `lost+found`) have names that are no keys.
                let Ok(key) = Key::new(text.clone()) else { continue };
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed(error)),
                };
                if metadata.is_dir() {
                    if text.starts_with(prefix) || prefix.starts_with(&format!("{text}/")) {
                        dirs.push(text);
                    }
                } else if metadata.is_file() && text.starts_with(prefix) {
                    batch.push(ObjectMeta {
                        key,
                        bytes: metadata.len(),
                        stored_at: modified(&metadata).map_err(failed)?,
                    });
                }
                if batch.len() >= LIST_BATCH && !send(std::mem::take(&mut batch)) {
                    return Ok(());
                }
            }
        }
        send(batch);
        Ok(())
    }
}

fn modified(metadata: &Metadata) -> io::Result<Timestamp> {
    Timestamp::try_from(metadata.modified()?).map_err(io::Error::other)
}

/// Removes what killed processes left, by the file system's own clock: a file that was put just now
/// tells what time it is there. Nothing depends on it, so nothing is reported.
fn clean_leftovers(temp_dir: &Path, fresh: &Path) {
    let Ok(now) = std::fs::metadata(fresh).and_then(|metadata| metadata.modified()) else { return };
    let Ok(entries) = std::fs::read_dir(temp_dir) else { return };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let old = modified.is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age > LEFTOVER_AGE));
        if old {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let key = key.clone();
        self.blocking(move |inner| inner.put(&key, &body, mode)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.blocking(move |inner| inner.get(&key, range)).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<ObjectMeta>, StoreError>>(2);
        let prefix = prefix.to_owned();
        let inner = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            let mut send = |batch| sender.blocking_send(Ok(batch)).is_ok();
            if let Err(error) = inner.list(&prefix, &mut send) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        let batches = futures::stream::unfold((receiver, Some(task)), move |(mut receiver, task)| async move {
            if let Some(batch) = receiver.recv().await {
                return Some((batch, (receiver, task)));
            }
            // The sender is gone: either the list is whole, or its thread died.
            let error = task?.await.err()?;
            Some((Err(StoreError::new(StoreErrorKind::Failed, "list", "", self, error)), (receiver, None)))
        });
        batches
            .flat_map(|batch| match batch {
                Ok(objects) => futures::stream::iter(objects).map(Ok).boxed(),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.blocking(move |inner| inner.delete(&key)).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { conditional_put: true, list_staleness: Duration::ZERO, immutability: Immutability::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("stat").permissions().mode() & 0o7777
    }

    async fn put(store: &LocalStore, name: &str) -> Result<(), StoreError> {
        store.put(&key(name), Bytes::from_static(b"body"), PutMode::CreateNew).await
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LocalStore::create(&dir.path().join("store")).expect("created");
        crate::conformance::run(Arc::new(store)).await;
    }

    #[tokio::test]
    async fn objects_are_private_unless_the_root_is_shared_with_a_group() {
        let dir = tempfile::tempdir().expect("a directory");
        for (root, root_mode, dir_mode, file_mode) in
            [("private", 0o755, 0o700, 0o600), ("wide", 0o775, 0o700, 0o600), ("shared", 0o2770, 0o2770, 0o640)]
        {
            let root = dir.path().join(root);
            create_dir_durable(&root, root_mode).expect("created");
            put(&LocalStore::open(&root).expect("opened"), "data/00").await.expect("put");
            assert_eq!(mode(&root.join("data")), dir_mode, "{root:?}");
            assert_eq!(mode(&root.join(TEMP_DIR)), dir_mode, "{root:?}");
            assert_eq!(mode(&root.join("data/00")), file_mode, "{root:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_root_is_never_created_by_a_put() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("disk");
        assert_eq!(LocalStore::open(&root).expect_err("not mounted").kind, StoreErrorKind::NotFound);
        let store = LocalStore::create(&root).expect("created");
        std::fs::remove_dir(&root).expect("unmounted");
        assert_eq!(put(&store, "data/00").await.expect_err("gone").kind, StoreErrorKind::NotFound);
        let list = store.list("data/").try_collect::<Vec<_>>().await;
        assert_eq!(list.expect_err("gone").kind, StoreErrorKind::NotFound);
        assert!(!root.exists());
    }

    #[tokio::test]
    async fn old_leftovers_are_removed_and_young_ones_are_left_to_their_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let temp = dir.path().join(TEMP_DIR);
        std::fs::create_dir(&temp).expect("created");
        for (name, age_hours) in [("old", 25), ("young", 23)] {
            let file = File::create(temp.join(name)).expect("created");
            let now = file.metadata().and_then(|m| m.modified()).expect("a time");
            file.set_modified(now - Duration::from_hours(age_hours)).expect("set");
        }
        put(&LocalStore::open(dir.path()).expect("opened"), "format").await.expect("put");
        assert!(!temp.join("old").exists());
        assert!(temp.join("young").exists());
    }

    #[tokio::test]
    async fn strangers_in_the_directory_are_not_listed() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LocalStore::open(dir.path()).expect("opened");
        put(&store, "data/00").await.expect("put");
        std::fs::create_dir(dir.path().join("lost+found")).expect("created");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("data/link")).expect("linked");
        let listed: Vec<_> = store.list("").map_ok(|o| o.key.to_string()).try_collect().await.expect("listed");
        assert_eq!(listed, ["data/00"]);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_as_such() {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        assert_eq!(kind_of(&full), StoreErrorKind::Full);
        let quota = io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error());
        assert_eq!(kind_of(&quota), StoreErrorKind::Full);
        let read_only = io::Error::from_raw_os_error(rustix::io::Errno::ROFS.raw_os_error());
        assert_eq!(kind_of(&read_only), StoreErrorKind::Denied);
    }

    #[tokio::test]
    async fn a_sparse_giant_is_refused_instead_of_read_into_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LocalStore::open(dir.path()).expect("opened");
        File::create(dir.path().join("giant")).and_then(|f| f.set_len(1 << 40)).expect("made");
        assert_eq!(store.get(&key("giant"), None).await.expect_err("refused").kind, StoreErrorKind::Failed);
        let end = store.get(&key("giant"), Some((1 << 40) - 4..u64::MAX)).await.expect("a range");
        assert_eq!(end, [0; 4][..]);
    }
}

//! A store on a server that gives SFTP: a login that can do nothing else is enough.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use lifeboat_model::config::SshOptions;
use lifeboat_wire::ssh::sftp::{Attributes, Refusal, Sftp, SftpError};
use lifeboat_wire::ssh::{Address, SshErrorKind, Times};
use tokio::sync::OnceCell;

use crate::pool::Pool;
use crate::{
    Capabilities, Examination, Immutability, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind, check_size,
    clamp_range,
};

/// Where unfinished puts are. No key starts with a dot.
const TEMP_DIR: &str = ".tmp";
/// How old a leftover in [`TEMP_DIR`] must be before it is removed.
const LEFTOVER_SECONDS: u32 = 24 * 60 * 60;
/// Directories that are read at once.
const DIRS: usize = 16;

/// Objects as files below a directory of a server, by their keys; `.tmp` holds unfinished puts. The
/// layout is that of [`LocalStore`](crate::local::LocalStore), and so are users, modes and times.
///
/// A put writes a temporary file, has it written through to the disk where the server offers
/// `fsync@openssh.com`, renames it, and has the directory written through. The rename is the
/// protocol's own, which fails where the name is taken, or `posix-rename@openssh.com`; a server without
/// that cannot replace. On file systems without hard links OpenSSH looks before it renames, so that of two
/// creators at the same moment both may win.
///
/// **Immutability: none.** Who may write may delete; `ssh+serve` stores keep that from a writer.
///
/// A server that was never reached is told at once; later losses of the connection are transient, and the
/// next call connects anew.
#[derive(Clone)]
pub struct SftpStore(Arc<Inner>);

struct Inner {
    pool: Pool<Sftp>,
    url: String,
    /// Empty for `/`.
    root: String,
    create: bool,
    shared: OnceCell<bool>,
    cleaned: AtomicBool,
}

impl SftpStore {
    /// The store in the directory `root`, which `url` names; it is connected to when it is first used.
    #[must_use]
    pub fn new(url: &str, address: Address, root: &str, options: &SshOptions, times: Times) -> Self {
        Self::with(url, address, root, options, times, false)
    }

    /// As [`SftpStore::new`]; the first put creates the directory where it is missing (mode 0700).
    #[must_use]
    pub fn creating(url: &str, address: Address, root: &str, options: &SshOptions, times: Times) -> Self {
        Self::with(url, address, root, options, times, true)
    }

    fn with(url: &str, address: Address, root: &str, options: &SshOptions, times: Times, create: bool) -> Self {
        Self(Arc::new(Inner {
            pool: Pool::new(address, options.clone(), times),
            url: url.to_owned(),
            root: root.trim_end_matches('/').to_owned(),
            create,
            shared: OnceCell::new(),
            cleaned: AtomicBool::new(false),
        }))
    }
}

impl fmt::Display for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.url)
    }
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SftpStore({self})")
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(parent, _)| if parent.is_empty() { "/" } else { parent })
}

impl Inner {
    fn root_path(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    fn path(&self, key: impl fmt::Display) -> String {
        format!("{}/{key}", self.root)
    }

    fn error(&self, operation: &'static str, key: impl fmt::Display, error: SftpError) -> StoreError {
        let kind = match &error {
            SftpError::Refused { refusal: Refusal::NotFound, .. } => StoreErrorKind::NotFound,
            SftpError::Refused { refusal: Refusal::Denied, .. } => StoreErrorKind::Denied,
            SftpError::Refused { .. } => StoreErrorKind::Failed,
            SftpError::Ssh(error) => match error.kind {
                SshErrorKind::Lost => StoreErrorKind::Transient,
                SshErrorKind::HostKey | SshErrorKind::Login => StoreErrorKind::Denied,
                SshErrorKind::Setup | SshErrorKind::Refused => StoreErrorKind::Failed,
            },
        };
        let advice = match &error {
            SftpError::Ssh(error) => error.hint().map(str::to_owned),
            SftpError::Refused { .. } => None,
        };
        StoreError::new(kind, operation, key, &self.url, error).advise(advice)
    }

    /// Whether the directory is meant for a group of users.
    async fn shared(&self, sftp: &Sftp) -> Result<bool, SftpError> {
        let look = || async { sftp.look_behind(self.root_path()).await.map(|root| root.mode & 0o2020 == 0o2020) };
        self.shared.get_or_try_init(look).await.copied()
    }

    async fn put(&self, key: &Key, body: &Bytes, mode: PutMode) -> Result<(), StoreError> {
        check_size("put", key, &self.url, body.len() as u64)?;
        let failed = |error| self.error("put", key, error);
        let sftp = self.pool.channel().await.map_err(failed)?;
        if mode == PutMode::Replace && !sftp.offers().replace {
            let why = "the server cannot replace a file in one step: it does not offer posix-rename@openssh.com";
            return Err(StoreError::new(StoreErrorKind::Failed, "put", key, &self.url, why));
        }
        let random = random().map_err(|why| StoreError::new(StoreErrorKind::Failed, "put", key, &self.url, why))?;
        let temp = self.path(format_args!("{TEMP_DIR}/{random:016x}"));
        let path = self.path(key);
        if let Err(error) = sftp.alive(self.put_through(&sftp, &temp, &path, body, mode)).await {
            if sftp.is_closed() {
                return Err(self.error("put", key, error));
            }
            sftp.alive(sftp.remove(&temp)).await.ok();
            return Err(self.reason(&sftp, key, &path, body, error).await);
        }
        if !self.cleaned.swap(true, Ordering::SeqCst) {
            sftp.alive(self.clean_leftovers(&sftp, &path)).await.ok();
        }
        Ok(())
    }

    async fn put_through(
        &self,
        sftp: &Sftp,
        temp: &str,
        path: &str,
        body: &Bytes,
        mode: PutMode,
    ) -> Result<(), SftpError> {
        let missing =
            |done: &Result<(), SftpError>| done.as_ref().is_err_and(|error| error.refusal() == Some(Refusal::NotFound));
        let write = || async {
            let mode = if self.shared(sftp).await? { 0o640 } else { 0o600 };
            sftp.write_new(temp, body, mode).await
        };
        let mut written = write().await;
        if missing(&written) {
            self.make_dirs(sftp, parent(temp)).await?;
            written = write().await;
        }
        written?;
        let rename = || async {
            match mode {
                PutMode::CreateNew => sftp.rename_new(temp, path).await,
                PutMode::Replace => sftp.rename_over(temp, path).await,
            }
        };
        let mut renamed = rename().await;
        if missing(&renamed) {
            self.make_dirs(sftp, parent(path)).await?;
            renamed = rename().await;
        }
        renamed?;
        sftp.sync_dir(parent(path)).await
    }

    /// What a server means that says no more than "failure".
    async fn reason(&self, sftp: &Sftp, key: &Key, path: &str, body: &Bytes, error: SftpError) -> StoreError {
        if error.refusal() == Some(Refusal::Failure) {
            if sftp.alive(sftp.look(path)).await.is_ok_and(|found| found.is_file) {
                return StoreError::new(StoreErrorKind::Exists, "put", key, &self.url, "the name is taken");
            }
            let room = sftp.alive(sftp.room(self.root_path())).await.ok().flatten();
            if room.is_some_and(|(bytes, files)| bytes < body.len() as u64 + (64 << 10) || files == 0) {
                return StoreError::new(StoreErrorKind::Full, "put", key, &self.url, error);
            }
            let advice =
                "OpenSSH does not say why; a quota that is used up, a read-only disk and the like look like this";
            return self.error("put", key, error).advise(Some(advice.to_owned()));
        }
        self.error("put", key, error)
    }

    /// Makes a directory and those above it, down from the root, which itself is made only for a new
    /// store.
    async fn make_dirs(&self, sftp: &Sftp, dir: &str) -> Result<(), SftpError> {
        if self.create && sftp.look_behind(self.root_path()).await.is_err() {
            for (end, _) in self.root.match_indices('/').filter(|(end, _)| *end > 0).chain([(self.root.len(), "")]) {
                self.make_dir(sftp, &self.root[..end], 0o700).await?;
            }
        }
        let mode = if self.shared(sftp).await? { 0o2770 } else { 0o700 };
        let below = dir.strip_prefix(&self.root).unwrap_or_default();
        for (at, _) in below.match_indices('/').skip(1).chain([(below.len(), "")]) {
            self.make_dir(sftp, &dir[..self.root.len() + at], mode).await?;
        }
        Ok(())
    }

    async fn make_dir(&self, sftp: &Sftp, dir: &str, mode: u32) -> Result<(), SftpError> {
        if sftp.look_behind(dir).await.is_ok_and(|found| found.is_dir) {
            return Ok(());
        }
        sftp.make_dir(dir, mode).await?;
        sftp.sync_dir(parent(dir)).await
    }

    /// Removes what broken puts left, by the server's own clock: a file that was put just now tells what
    /// time it is there. Nothing depends on it, so nothing is reported.
    async fn clean_leftovers(&self, sftp: &Sftp, fresh: &str) -> Result<(), SftpError> {
        let now = sftp.look(fresh).await?.changed;
        let dir = self.path(TEMP_DIR);
        for (name, found) in sftp.list(&dir).await? {
            if found.is_file && now.saturating_sub(found.changed) > LEFTOVER_SECONDS {
                sftp.remove(&format!("{dir}/{name}")).await?;
            }
        }
        Ok(())
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, GetError> {
        let sftp = self.pool.channel().await?;
        let path = self.path(key);
        let read = sftp.read(&path, |bytes| {
            let range = match range {
                Some(range) => clamp_range(key, &self.url, &range, bytes)?,
                None => 0..bytes,
            };
            check_size("get", key, &self.url, range.end - range.start)?;
            Ok(range)
        });
        sftp.alive(read).await
    }

    async fn delete(&self, key: &Key) -> Result<(), SftpError> {
        let sftp = self.pool.channel().await?;
        sftp.alive(self.delete_through(&sftp, key)).await
    }

    async fn delete_through(&self, sftp: &Sftp, key: &Key) -> Result<(), SftpError> {
        let path = self.path(key);
        match sftp.remove(&path).await {
            Ok(()) => sftp.sync_dir(parent(&path)).await,
            Err(error) => match error.refusal() {
                Some(Refusal::NotFound) => Ok(()),
                // The name may be that of a directory, which is no object.
                Some(Refusal::Failure | Refusal::Denied) if sftp.look(&path).await.is_ok_and(|found| found.is_dir) => {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// What is in a directory of the store; nothing in one that is not there.
    async fn read_dir(&self, dir: String) -> Result<(String, Vec<(String, Attributes)>), SftpError> {
        let sftp = self.pool.channel().await?;
        sftp.alive(self.read_dir_through(&sftp, dir)).await
    }

    async fn read_dir_through(
        &self,
        sftp: &Sftp,
        dir: String,
    ) -> Result<(String, Vec<(String, Attributes)>), SftpError> {
        let path = if dir.is_empty() { self.root_path().to_owned() } else { self.path(&dir) };
        match sftp.list(&path).await {
            Ok(found) => Ok((dir, found)),
            Err(error) if error.refusal() == Some(Refusal::NotFound) => {
                // A missing root is an error, a missing directory below it an empty list.
                if !self.create {
                    sftp.look_behind(self.root_path()).await?;
                }
                Ok((dir, Vec::new()))
            }
            // A file in the place of a directory.
            Err(error)
                if error.refusal() == Some(Refusal::Failure) && sftp.look(&path).await.is_ok_and(|f| f.is_file) =>
            {
                Ok((dir, Vec::new()))
            }
            Err(error) => Err(error),
        }
    }
}

/// A get fails by the server or by what was asked.
enum GetError {
    Sftp(SftpError),
    Store(StoreError),
}

impl From<SftpError> for GetError {
    fn from(error: SftpError) -> Self {
        Self::Sftp(error)
    }
}

impl From<StoreError> for GetError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn random() -> Result<u64, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(u64::from_le_bytes(bytes))
}

/// Takes the objects out of what was found in a directory, and notes the directories to go on with.
fn sort_out(prefix: &str, dir: &str, found: Vec<(String, Attributes)>, dirs: &mut Vec<String>) -> Vec<ObjectMeta> {
    let mut objects = Vec::new();
    for (name, found) in found {
        let text = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        // Strangers (`.tmp`, `lost+found`) have names that are no keys.
        let Ok(key) = Key::new(text.clone()) else { continue };
        if found.is_dir {
            if text.starts_with(prefix) || prefix.starts_with(&format!("{text}/")) {
                dirs.push(text);
            }
        } else if found.is_file && text.starts_with(prefix) {
            let stored_at = Timestamp::new(i64::from(found.changed), 0).unwrap_or(Timestamp::UNIX_EPOCH);
            objects.push(ObjectMeta { key, bytes: found.bytes, stored_at });
        }
    }
    objects
}

#[async_trait]
impl Store for SftpStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.0.put(key, &body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.0.get(key, range).await.map_err(|error| match error {
            GetError::Sftp(error) => self.0.error("get", key, error),
            GetError::Store(error) => error,
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let top = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let dirs = if top.is_empty() || Key::new(top).is_ok() { vec![top.to_owned()] } else { Vec::new() };
        let walk = (dirs, FuturesUnordered::new());
        let found = futures::stream::try_unfold(walk, move |(mut dirs, mut reading)| async move {
            loop {
                while reading.len() < DIRS
                    && let Some(dir) = dirs.pop()
                {
                    reading.push(self.0.read_dir(dir));
                }
                let Some((dir, found)) = reading.try_next().await? else { return Ok::<_, SftpError>(None) };
                let objects = sort_out(prefix, &dir, found, &mut dirs);
                if !objects.is_empty() {
                    let objects = futures::stream::iter(objects).map(Ok::<_, SftpError>);
                    return Ok(Some((objects, (dirs, reading))));
                }
            }
        });
        found.try_flatten().map_err(move |error| self.0.error("list", prefix, error)).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete(key).await.map_err(|error| self.0.error("delete", key, error))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { conditional_put: true, list_staleness: Duration::ZERO, immutability: Immutability::None }
    }

    async fn examine(&self) -> Result<Examination, StoreError> {
        let failed = |error| self.0.error("look at", "", error);
        let sftp = self.0.pool.channel().await.map_err(failed)?;
        let room = sftp.alive(sftp.room(self.0.root_path())).await.map_err(failed)?;
        let offers = sftp.offers();
        let mut lacks = Vec::new();
        if !offers.fsync {
            lacks.push("the server does not write files through to its disk on demand (fsync@openssh.com): a power cut there can cost what was put last");
        }
        if !offers.replace {
            lacks.push("the server does not replace files in one step (posix-rename@openssh.com): changes of keys and repairs fail");
        }
        let lacks = lacks.into_iter().map(str::to_owned).collect();
        Ok(Examination { room_bytes: room.map(|(bytes, _)| bytes), lacks })
    }
}

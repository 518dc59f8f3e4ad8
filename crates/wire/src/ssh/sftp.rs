//! Files on a server: SFTP version 3 (draft-ietf-secsh-filexfer-02) with the extensions of OpenSSH
//! (its `PROTOCOL` file, section 4).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use russh_sftp::client::{Config, RawSftpSession, error::Error as LibraryError};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};

use super::{Connection, SshError, SshErrorKind};

/// Bytes in one write: what every server takes.
const WRITE_BYTES: usize = 32 << 10;
/// Writes under way at once in one channel: together what OpenSSH lets come in (2 MiB).
const WRITES: usize = 64;
/// Bytes that one read asks for at most; servers may give less.
const READ_BYTES_MAX: u64 = 255 << 10;
/// What is asked for where the server does not say how much it gives.
const READ_BYTES: u64 = 32 << 10;
/// Bytes of reads under way at once in one channel.
const READ_AHEAD_BYTES: u64 = 4 << 20;
/// Requests for the next part of a directory under way at once.
const LISTS: usize = 4;
/// The longest packet that is taken from a server.
const PACKET_BYTES_MAX: u32 = 512 << 10;

/// What the server answered that is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such file or directory.
    NotFound,
    /// The account may not.
    Denied,
    /// The server does not do it.
    Unsupported,
    /// OpenSSH says no more than this of a name that is taken, a full disk, a directory, a quota.
    Failure,
    /// Another answer.
    Other,
}

/// A request that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SftpError {
    /// The server's answer.
    #[error("the server says: {message}")]
    Refused {
        /// What to decide by.
        refusal: Refusal,
        /// Its words.
        message: String,
    },
    /// The connection, or something below it.
    #[error(transparent)]
    Ssh(#[from] SshError),
}

impl SftpError {
    /// The server's answer, where it gave one.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            Self::Ssh(_) => None,
        }
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Whether it is a file and not a directory, a link or something else.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its length.
    pub bytes: u64,
    /// When it was changed, in seconds since 1970 by the server's clock.
    pub changed: u32,
    /// Mode bits without the kind.
    pub mode: u32,
}

impl From<&FileAttributes> for Attributes {
    fn from(attributes: &FileAttributes) -> Self {
        let kind = attributes.permissions.unwrap_or(0) & 0o170_000;
        Self {
            is_file: kind == 0o100_000,
            is_dir: kind == 0o040_000,
            bytes: attributes.size.unwrap_or(0),
            changed: attributes.mtime.unwrap_or(0),
            mode: attributes.permissions.unwrap_or(0) & 0o7777,
        }
    }
}

/// One channel that speaks the file protocol.
pub struct Sftp {
    raw: Arc<RawSftpSession>,
    connection: Arc<Connection>,
    offers: Offers,
    dead: AtomicBool,
}

/// What the server does beyond the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// It writes a file through to the disk on demand (`fsync@openssh.com`).
    pub fsync: bool,
    /// It renames over what is there in one step (`posix-rename@openssh.com`).
    pub replace: bool,
    /// It tells how much room there is (`statvfs@openssh.com`).
    pub room: bool,
    read_bytes: u64,
}

impl Sftp {
    /// Opens a channel on a connection.
    ///
    /// # Errors
    /// [`SshErrorKind::Refused`] where the account has no SFTP.
    pub async fn open(connection: &Arc<Connection>) -> Result<Self, SftpError> {
        let channel = connection.subsystem("sftp").await?;
        let config = Config {
            max_packet_len: PACKET_BYTES_MAX,
            request_timeout_secs: connection.times().answer.as_secs().max(1),
            ..Config::default()
        };
        let raw = Arc::new(RawSftpSession::new_with_config(channel.into_stream(), config));
        let mut sftp = Self {
            raw,
            connection: Arc::clone(connection),
            offers: Offers { fsync: false, replace: false, room: false, read_bytes: READ_BYTES },
            dead: AtomicBool::new(false),
        };
        let version = tokio::time::timeout(connection.times().connect, sftp.raw.init()).await;
        let version = version.map_err(|_| connection.lost())?.map_err(|error| sftp.error(error))?;
        let has = |name: &str, number: &str| version.extensions.get(name).is_some_and(|offered| offered == number);
        sftp.offers.fsync = has("fsync@openssh.com", "1");
        sftp.offers.replace = has("posix-rename@openssh.com", "1");
        sftp.offers.room = has("statvfs@openssh.com", "2");
        if has("limits@openssh.com", "1") {
            let limits = sftp.raw.limits().await.map_err(|error| sftp.error(error))?;
            if limits.max_read_len > 0 {
                sftp.offers.read_bytes = limits.max_read_len.min(READ_BYTES_MAX);
            }
        }
        Ok(sftp)
    }

    /// What the server does beyond the protocol.
    #[must_use]
    pub const fn offers(&self) -> Offers {
        self.offers
    }

    /// Whether it is of no use any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.dead.load(Ordering::SeqCst) || self.connection.is_closed()
    }

    /// Does something over it, and gives it up when the connection breaks: the library waits for answers that
    /// cannot come any more.
    ///
    /// # Errors
    /// Of the work; [`SshErrorKind::Lost`].
    pub async fn alive<T, E: From<SftpError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            done = work => done,
            () = self.connection.over() => Err(SftpError::from(self.connection.lost()).into()),
        }
    }

    /// The connection that it runs on.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Writes a new file and has it written through to the disk where the server does that.
    ///
    /// # Errors
    /// [`Refusal::Failure`] where the name is taken, or the disk is full.
    pub async fn write_new(&self, path: &str, body: &Bytes, mode: u32) -> Result<(), SftpError> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let file =
            self.open_file(path, flags, FileAttributes { permissions: Some(mode), ..FileAttributes::empty() }).await?;
        let mut writes = FuturesUnordered::new();
        let mut at = 0;
        while at < body.len() {
            if writes.len() == WRITES {
                writes.try_next().await?;
            }
            let piece = body.slice(at..body.len().min(at + WRITE_BYTES));
            let offset = at as u64;
            at += piece.len();
            writes.push(file.write(offset, piece));
        }
        while writes.try_next().await?.is_some() {}
        drop(writes);
        file.sync().await?;
        file.close().await
    }

    /// Reads a file or a part of it: `part` says which, given the length.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for what is no file; what `part` says.
    pub async fn read<E: From<SftpError>>(
        &self,
        path: &str,
        part: impl FnOnce(u64) -> Result<Range<u64>, E> + Send,
    ) -> Result<Bytes, E> {
        let file = self.open_file(path, OpenFlags::READ, FileAttributes::empty()).await?;
        let attributes = self.raw.fstat(&file.handle).await.map_err(|error| self.error(error))?;
        let attributes = Attributes::from(&attributes.attrs);
        if !attributes.is_file {
            return Err(SftpError::Refused { refusal: Refusal::NotFound, message: "it is no file".to_owned() }.into());
        }
        let part = part(attributes.bytes)?;
        let step = self.offers.read_bytes;
        let ahead = usize::try_from(READ_AHEAD_BYTES / step).unwrap_or(1).max(1);
        let starts = (0..(part.end - part.start).div_ceil(step)).map(|n| part.start + n * step);
        let mut pieces = futures::stream::iter(starts.map(|at| file.read(at..part.end.min(at + step)))).buffered(ahead);
        let mut body = Vec::with_capacity(usize::try_from(part.end - part.start).unwrap_or(0));
        while let Some(piece) = pieces.try_next().await? {
            for bytes in piece {
                body.extend_from_slice(&bytes);
            }
        }
        drop(pieces);
        drop(file);
        Ok(body.into())
    }

    /// Renames a file where the new name is free.
    ///
    /// # Errors
    /// [`Refusal::Failure`] where it is taken, among other reasons.
    pub async fn rename_new(&self, from: &str, to: &str) -> Result<(), SftpError> {
        self.raw.rename(from, to).await.map(drop).map_err(|error| self.error(error))
    }

    /// Renames a file over whatever has the new name, in one step.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] where the server does not do that.
    pub async fn rename_over(&self, from: &str, to: &str) -> Result<(), SftpError> {
        let texts = [from, to].into_iter().flat_map(|text| {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
            length.into_iter().chain(text.bytes())
        });
        let answer = self.raw.extended("posix-rename@openssh.com", texts.collect::<Vec<u8>>()).await;
        match answer.map_err(|error| self.error(error))? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(self.error(status.into())),
            _ => Err(self.error(LibraryError::UnexpectedPacket)),
        }
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], or [`Refusal::Failure`] for a directory.
    pub async fn remove(&self, path: &str) -> Result<(), SftpError> {
        self.raw.remove(path).await.map(drop).map_err(|error| self.error(error))
    }

    /// Looks at a file without following a link.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn look(&self, path: &str) -> Result<Attributes, SftpError> {
        let found = self.raw.lstat(path).await.map_err(|error| self.error(error))?;
        Ok(Attributes::from(&found.attrs))
    }

    /// Looks at a file behind all links.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn look_behind(&self, path: &str) -> Result<Attributes, SftpError> {
        let found = self.raw.stat(path).await.map_err(|error| self.error(error))?;
        Ok(Attributes::from(&found.attrs))
    }

    /// Makes a directory with exactly this mode; one that is there already is left as it is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where the directory above is missing.
    pub async fn make_dir(&self, path: &str, mode: u32) -> Result<(), SftpError> {
        let attributes = || FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        match self.raw.mkdir(path, attributes()).await.map_err(|error| self.error(error)) {
            // The server's umask may have taken bits away.
            Ok(_) => self.raw.setstat(path, attributes()).await.map(drop).map_err(|error| self.error(error)),
            Err(error) if error.refusal() == Some(Refusal::Failure) => match self.look_behind(path).await {
                Ok(found) if found.is_dir => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Has the names in a directory written through to the disk, where the server can be brought to it:
    /// OpenSSH opens directories like files.
    ///
    /// # Errors
    /// A connection that broke; a server that cannot is no error.
    pub async fn sync_dir(&self, path: &str) -> Result<(), SftpError> {
        if !self.offers.fsync {
            return Ok(());
        }
        let opened = self.open_file(path, OpenFlags::READ, FileAttributes::empty()).await;
        let synced = match opened {
            Ok(dir) => dir.sync().await,
            Err(error) => Err(error),
        };
        match synced {
            Err(SftpError::Ssh(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What is in a directory, without `.` and `..`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn list(&self, path: &str) -> Result<Vec<(String, Attributes)>, SftpError> {
        let handle = self.raw.opendir(path).await.map_err(|error| self.error(error))?.handle;
        let dir = OpenFile { sftp: self, handle };
        let mut found = Vec::new();
        let mut parts = FuturesUnordered::new();
        let mut more = true;
        while more || !parts.is_empty() {
            while more && parts.len() < LISTS {
                parts.push(self.raw.readdir(&dir.handle));
            }
            match parts.next().await {
                Some(Ok(part)) => {
                    more &= !part.files.is_empty();
                    let files = part.files.iter().filter(|file| !matches!(file.filename.as_str(), "." | ".."));
                    found.extend(files.map(|file| (file.filename.clone(), Attributes::from(&file.attrs))));
                }
                Some(Err(LibraryError::Status(status))) if status.status_code == StatusCode::Eof => more = false,
                Some(Err(error)) => return Err(self.error(error)),
                None => {}
            }
        }
        drop(parts);
        drop(dir);
        Ok(found)
    }

    /// Bytes and files that the account can still put below a directory; `None` where the server does
    /// not tell.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn room(&self, path: &str) -> Result<Option<(u64, u64)>, SftpError> {
        if !self.offers.room {
            return Ok(None);
        }
        let room = self.raw.statvfs(path).await.map_err(|error| self.error(error))?;
        Ok(Some((room.blocks_avail.saturating_mul(room.fragment_size), room.inodes_avail)))
    }

    async fn open_file(
        &self,
        path: &str,
        flags: OpenFlags,
        attributes: FileAttributes,
    ) -> Result<OpenFile<'_>, SftpError> {
        let handle = self.raw.open(path, flags, attributes).await.map_err(|error| self.error(error))?.handle;
        Ok(OpenFile { sftp: self, handle })
    }

    fn error(&self, error: LibraryError) -> SftpError {
        let refused = |refusal, message| SftpError::Refused { refusal, message };
        match error {
            LibraryError::Status(status) => {
                let refusal = match status.status_code {
                    StatusCode::NoSuchFile => Refusal::NotFound,
                    StatusCode::PermissionDenied => Refusal::Denied,
                    StatusCode::OpUnsupported => Refusal::Unsupported,
                    StatusCode::Failure => Refusal::Failure,
                    _ => Refusal::Other,
                };
                let message =
                    if status.error_message.is_empty() { status.status_code.to_string() } else { status.error_message };
                refused(refusal, message)
            }
            LibraryError::Timeout => {
                // Whatever comes later on this channel is not waited for.
                self.raw.close_session().ok();
                self.dead.store(true, Ordering::SeqCst);
                let seconds = self.connection.times().answer.as_secs();
                let what = format!("{} did not answer within {seconds} seconds", self.connection);
                SshError::new(SshErrorKind::Lost, what).into()
            }
            LibraryError::Limited(what) => refused(Refusal::Other, what),
            LibraryError::UnexpectedPacket => {
                refused(Refusal::Other, "the server gave an answer to another question".to_owned())
            }
            LibraryError::IO(_) | LibraryError::UnexpectedBehavior(_) => {
                self.dead.store(true, Ordering::SeqCst);
                self.connection.lost().into()
            }
        }
    }
}

/// A handle that is given back when it is dropped.
struct OpenFile<'a> {
    sftp: &'a Sftp,
    handle: String,
}

impl OpenFile<'_> {
    async fn write(&self, offset: u64, piece: Bytes) -> Result<(), SftpError> {
        let written = self.sftp.raw.write(&self.handle, offset, piece.to_vec()).await;
        written.map(drop).map_err(|error| self.sftp.error(error))
    }

    /// The bytes of a range, in the pieces in which the server gives them.
    async fn read(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, SftpError> {
        let mut pieces = Vec::with_capacity(1);
        let mut at = range.start;
        while at < range.end {
            let wanted = u32::try_from(range.end - at).unwrap_or(u32::MAX);
            let piece =
                self.sftp.raw.read(&self.handle, at, wanted).await.map_err(|error| self.sftp.error(error))?.data;
            if piece.is_empty() || piece.len() as u64 > range.end - at {
                let message = "it gave another number of bytes than were asked for".to_owned();
                return Err(SftpError::Refused { refusal: Refusal::Other, message });
            }
            at += piece.len() as u64;
            pieces.push(piece);
        }
        Ok(pieces)
    }

    async fn sync(&self) -> Result<(), SftpError> {
        if !self.sftp.offers.fsync {
            return Ok(());
        }
        self.sftp.raw.fsync(&self.handle).await.map(drop).map_err(|error| self.sftp.error(error))
    }

    async fn close(mut self) -> Result<(), SftpError> {
        let handle = std::mem::take(&mut self.handle);
        self.sftp.raw.close(handle).await.map(drop).map_err(|error| self.sftp.error(error))
    }
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        let handle = std::mem::take(&mut self.handle);
        if let (false, Ok(runtime)) = (handle.is_empty(), tokio::runtime::Handle::try_current()) {
            let raw = Arc::clone(&self.sftp.raw);
            // A channel that is gone took its handles with it.
            runtime.spawn(async move { raw.close(handle).await.ok() });
        }
    }
}

impl std::fmt::Debug for Sftp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sftp({})", self.connection)
    }
}

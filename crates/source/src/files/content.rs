//! Reads a file's bytes and holes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::EntryKind;
use lifeboat_model::flow::{BodyError, BodyRead, Cancel, Monitor, PIECE_BYTES_MAX, Piece};
use rustix::buffer::spare_capacity;
use rustix::fs::{OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::meta::{allocated, kind_of, open_quietly, size_of, unchanged};
use super::walk::{Found, gone_or};

/// A file that is open for reading, as it was when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    pub(super) stat: Stat,
}

/// Why one file could not be read; the rest of the backup goes on.
#[derive(Clone, Debug)]
pub(super) struct Unread {
    pub(super) why: String,
    /// Whether the name no longer leads to the file that the walk saw.
    pub(super) gone: bool,
}

impl Unread {
    fn from_errno(error: Errno) -> Self {
        let gone = matches!(error, Errno::NOENT | Errno::LOOP | Errno::NOTDIR);
        Self { why: gone_or(error, "cannot be read"), gone }
    }

    pub(super) fn from_io(error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        errno.map_or_else(|| Self { why: format!("it cannot be read: {error}"), gone: false }, Self::from_errno)
    }
}

/// Opens what the walk met; whatever took its place in between is not read unless it is a file.
pub(super) fn open(found: &Found) -> Result<Opened, Unread> {
    let dir = found.dir.as_ref().ok_or_else(|| Unread::from_errno(Errno::NOTDIR))?;
    let fd = open_quietly(dir.as_fd(), found.path.name(), OFlags::empty()).map_err(Unread::from_errno)?;
    let stat = rustix::fs::fstat(&fd).map_err(Unread::from_errno)?;
    if kind_of(&stat) != EntryKind::File {
        return Err(Unread::from_errno(Errno::LOOP));
    }
    Ok(Opened { file: Arc::new(File::from(fd)), stat })
}

impl Opened {
    /// Whether the file is still as it was when it was opened.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(unchanged(&self.stat, &rustix::fs::fstat(self.file.as_fd())?))
    }

    /// All of a small file.
    pub(super) fn read_all(&self) -> io::Result<Vec<Piece>> {
        let mut cursor = Cursor::new(self);
        let mut pieces = Vec::new();
        while let Some(piece) = cursor.next_piece()? {
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

/// How far a file was read. Never reads beyond the length that the file had when it was opened:
/// what grows meanwhile is seen by the comparison afterwards.
#[derive(Debug)]
struct Cursor {
    file: Arc<File>,
    offset: u64,
    end: u64,
    /// Where the data ends that `offset` is in.
    data_end: u64,
    may_have_holes: bool,
}

impl Cursor {
    fn new(opened: &Opened) -> Self {
        let end = size_of(&opened.stat);
        let may_have_holes = allocated(&opened.stat) < end;
        let data_end = if may_have_holes { 0 } else { end };
        Self { file: Arc::clone(&opened.file), offset: 0, end, data_end, may_have_holes }
    }

    fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        if self.offset >= self.data_end
            && self.may_have_holes
            && let Some(hole) = self.find_data()?
        {
            self.offset += hole;
            return Ok(Some(Piece::Hole(hole)));
        }
        let wanted = (self.data_end - self.offset).min(PIECE_BYTES_MAX as u64);
        let wanted = usize::try_from(wanted).map_err(io::Error::other)?;
        let mut buffer = Vec::with_capacity(wanted);
        while buffer.len() < wanted {
            let at = self.offset + buffer.len() as u64;
            match rustix::io::pread(&*self.file, spare_capacity(&mut buffer), at) {
                // Shorter than it was: the comparison afterwards tells.
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A vector may get more room than it asked for.
        buffer.truncate(wanted);
        if buffer.is_empty() {
            self.offset = self.end;
            return Ok(None);
        }
        self.offset += buffer.len() as u64;
        Ok(Some(Piece::Data(Bytes::from(buffer))))
    }

    /// Looks for the next data at or after the offset: the length of the hole before it, if any.
    fn find_data(&mut self) -> io::Result<Option<u64>> {
        let start = match rustix::fs::seek(&*self.file, SeekFrom::Data(self.offset)) {
            Ok(start) => start.min(self.end),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => self.end,
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                (self.may_have_holes, self.data_end) = (false, self.end);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if start >= self.end {
            return Ok(Some(self.end - self.offset));
        }
        self.data_end = match rustix::fs::seek(&*self.file, SeekFrom::Hole(start)) {
            Ok(end) => end.clamp(start + 1, self.end),
            Err(_) => self.end,
        };
        Ok((start > self.offset).then(|| start - self.offset))
    }
}

/// Where a [`FileBody`] leaves the error that ended it early.
pub(super) type Failure = Arc<Mutex<Option<Unread>>>;

/// How far into a file whoever watches was told; one that is read again is not told twice.
#[derive(Clone)]
pub(super) struct Told {
    monitor: Arc<dyn Monitor>,
    bytes: Arc<AtomicU64>,
}

impl Told {
    pub(super) fn new(monitor: &Arc<dyn Monitor>) -> Self {
        Self { monitor: Arc::clone(monitor), bytes: Arc::default() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn up_to(&self, offset: u64) {
        self.monitor.bytes(offset.saturating_sub(self.bytes.fetch_max(offset, Ordering::Relaxed)));
    }
}

/// The content of a large file, read one piece ahead.
///
/// A read error must not kill the whole backup, and an error of a body does. So a body that cannot
/// go on ends as if the file ended, and leaves the reason in its [`Failure`]; the caller looks
/// there and then reads again or records a skip, which replaces what was put.
pub(super) struct FileBody {
    ahead: Option<JoinHandle<(Cursor, io::Result<Option<Piece>>)>>,
    failure: Failure,
    cancel: Cancel,
    told: Told,
    offset: u64,
}

impl FileBody {
    pub(super) fn new(opened: &Opened, failure: Failure, cancel: Cancel, told: Told) -> Self {
        Self { ahead: Some(read_ahead(Cursor::new(opened))), failure, cancel, told, offset: 0 }
    }
}

fn read_ahead(mut cursor: Cursor) -> JoinHandle<(Cursor, io::Result<Option<Piece>>)> {
    tokio::task::spawn_blocking(move || {
        let piece = cursor.next_piece();
        (cursor, piece)
    })
}

#[async_trait]
impl BodyRead for FileBody {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        if self.cancel.is_cancelled() {
            return Err("stopped by request".into());
        }
        let Some(ahead) = self.ahead.take() else { return Ok(None) };
        let (cursor, piece) = ahead.await?;
        match piece {
            Ok(Some(piece)) => {
                self.offset += piece.length();
                self.told.up_to(self.offset);
                self.ahead = Some(read_ahead(cursor));
                Ok(Some(piece))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *failure = Some(Unread::from_io(&error));
                Ok(None)
            }
        }
    }
}

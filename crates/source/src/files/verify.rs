//! Compares files with a snapshot: metadata, links and every byte.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lifeboat_model::flow::{
    BodyError, Cancel, ContentSink, Entry, EntryReader, Monitor, PIECE_BYTES_MAX, Piece, ReadError, RunContext,
};
use lifeboat_model::target::{RestoreOptions, Verified};
use lifeboat_model::words::counted;
use lifeboat_model::{EntryKind, EntryPath};
use rustix::fs::{AtFlags, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::below::{Below, parent};
use super::meta::{At, kind_of, open_quietly, said, xattrs};
use super::place::{Place, failed, is_owned_as};
use super::select::{BatchWork, Item, Selection, channel, in_parallel};
use super::{broke, restore};
use crate::SourceError;

/// Differences that are named.
const DIFFERENCES_MAX: usize = 1_000;

struct Run<'a> {
    data: &'a dyn EntryReader,
    ctx: &'a RunContext,
    selection: &'a Selection,
    place: Arc<Place>,
    found: Mutex<Verified>,
    given_up: AtomicBool,
}

/// What the look at one entry found.
struct Seen {
    differences: Vec<String>,
    /// The open file, if its content is to be compared.
    file: Option<File>,
}

pub(super) async fn run(
    root: &Path,
    data: &dyn EntryReader,
    options: &RestoreOptions,
    ctx: &RunContext,
) -> Result<Verified, SourceError> {
    let selection = Selection::new(options, data).await?;
    let below = Below::open(root).map_err(|error| SourceError::Failed {
        what: format!("the directory {} cannot be opened", root.display()),
        hint: None,
        source: Some(Box::new(std::io::Error::from(error))),
    })?;
    let place = Arc::new(Place::new(below, false));
    let run =
        Run { data, ctx, selection: &selection, place, found: Mutex::default(), given_up: AtomicBool::new(false) };
    let (out, batches) = channel();
    let work = in_parallel(restore::jobs(options), batches, &run);
    let (walk, work) = tokio::join!(selection.walk(data, out), work);
    work.and(walk)?;
    let mut verified = run.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    verified.differences.sort();
    verified.of = vec![format!("metadata and content of {}", counted(verified.compared, "entry"))];
    verified.problems = run.place.shortfalls.lines();
    Ok(verified)
}

#[async_trait]
impl BatchWork for Run<'_> {
    async fn batch(&self, batch: Vec<Item>) -> Result<(), SourceError> {
        let mut entries = Vec::new();
        for item in batch {
            if !item.selected || matches!(item.entry.meta.kind, EntryKind::Socket | EntryKind::Skipped) {
                continue;
            }
            entries.push(self.resolve(item.entry).await?);
        }
        let place = Arc::clone(&self.place);
        let looked = tokio::task::spawn_blocking(move || {
            let look = |(entry, read): (Entry, Entry)| {
                let seen = look(&place, &entry)?;
                Ok::<_, SourceError>((entry, read, seen))
            };
            entries.into_iter().map(look).collect::<Result<Vec<_>, _>>()
        });
        for (entry, read, seen) in looked.await.map_err(|error| broke("looking at files", error))?? {
            if self.ctx.cancel.is_cancelled() || self.given_up.load(Ordering::Relaxed) {
                return Err(SourceError::Cancelled);
            }
            self.compare(&entry, &read, seen).await?;
        }
        Ok(())
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Run<'_> {
    /// An entry as it should be here, and the entry that holds its content: a hard link whose first
    /// name was not asked for is a file of its own.
    async fn resolve(&self, entry: Entry) -> Result<(Entry, Entry), SourceError> {
        if entry.meta.kind == EntryKind::Hardlink
            && let Some(Ok(origin)) = entry.meta.link.clone().map(EntryPath::new)
            && !self.selection.holds(&origin, EntryKind::File)
            && let Some(origin) = self.data.entry(&origin).await?
        {
            return Ok((Entry { path: entry.path, ..origin.clone() }, origin));
        }
        Ok((entry.clone(), entry))
    }

    async fn compare(&self, entry: &Entry, read: &Entry, mut seen: Seen) -> Result<(), SourceError> {
        if let Some(file) = seen.file.take() {
            let mut sink = Compare::new(file, self.ctx);
            let content = self.data.content(read, &mut sink).await;
            match (sink.outcome, content) {
                (Err(error), _) => seen.differences.push(format!("it cannot be read: {error}")),
                (Ok(false), _) => seen.differences.push("its content differs".to_owned()),
                (Ok(true), Err(ReadError::Receiver(_))) if self.ctx.cancel.is_cancelled() => {
                    return Err(SourceError::Cancelled);
                }
                (Ok(true), Err(error @ ReadError::Receiver(_))) => return Err(error.into()),
                (Ok(true), content) => {
                    content?;
                }
            }
        }
        self.ctx.monitor.entries(1);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.compared += 1;
        if !seen.differences.is_empty() {
            found.difference_count += 1;
            if found.differences.len() < DIFFERENCES_MAX {
                found.differences.push(format!("/{}: {}", entry.path, seen.differences.join("; ")));
            }
        }
        Ok(())
    }
}

fn look(place: &Place, entry: &Entry) -> Result<Seen, SourceError> {
    let only = |what: &str| Ok(Seen { differences: vec![what.to_owned()], file: None });
    let say = |error| failed("looking at", &entry.path, error);
    let dir = match place.below.dir(parent(&entry.path)) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return only("it is missing"),
        other => other.map_err(say)?,
    };
    let name = entry.path.name();
    let stat = match rustix::fs::statat(&dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return only("it is missing"),
        other => other.map_err(say)?,
    };
    let mut differences = place.differences(entry, &stat, At::Name(dir.as_fd(), name));
    if entry.meta.kind == EntryKind::Hardlink && !is_linked(place, entry, (stat.st_dev, stat.st_ino)) {
        differences.push("it is not the same file as the one that it was linked with".to_owned());
    }
    tell_what_only_root_sets(place, entry, &stat, At::Name(dir.as_fd(), name));
    let compares = entry.meta.kind == EntryKind::File && kind_of(&stat) == EntryKind::File;
    let file = match compares.then(|| open(&dir, name)) {
        None => None,
        Some(Ok(file)) => Some(file),
        Some(Err(error)) => {
            differences.push(format!("it cannot be opened: {}", said(error)));
            None
        }
    };
    Ok(Seen { differences, file })
}

/// Without root's rights a restore cannot set owners and some attributes: that they differ is told
/// apart from what a restore gets right.
fn tell_what_only_root_sets(place: &Place, entry: &Entry, stat: &Stat, at: At<'_>) {
    if place.is_root {
        return;
    }
    if !is_owned_as(&place.names, entry, stat) {
        place.shortfalls.add("the owner or group differs, which only root can set", &entry.path);
    }
    let set_by_root = |name: &[u8]| name.starts_with(b"security.");
    let wanted = entry.meta.xattrs.iter().filter(|xattr| set_by_root(&xattr.name));
    if !wanted.eq(xattrs(at, &mut Vec::new()).iter().filter(|xattr| set_by_root(&xattr.name))) {
        place.shortfalls.add("attributes security.* differ, which only root can set", &entry.path);
    }
    if entry.meta.xattrs.iter().any(|xattr| xattr.name.starts_with(b"trusted.")) {
        place.shortfalls.add("attributes trusted.* were not compared: only root sees them", &entry.path);
    }
}

pub(super) fn open(dir: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
    open_quietly(dir.as_fd(), name, OFlags::empty()).map(File::from)
}

fn is_linked(place: &Place, entry: &Entry, here: (u64, u64)) -> bool {
    let Some(Ok(origin)) = entry.meta.link.clone().map(EntryPath::new) else { return false };
    place
        .below
        .dir(parent(&origin))
        .and_then(|dir| rustix::fs::statat(dir, OsStr::from_bytes(origin.name()), AtFlags::SYMLINK_NOFOLLOW))
        .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == here)
}

/// Compares content as it comes with a file.
pub(super) struct Compare {
    file: Arc<File>,
    offset: u64,
    cancel: Cancel,
    monitor: Arc<dyn Monitor>,
    /// Whether everything so far was equal.
    pub(super) outcome: std::io::Result<bool>,
}

impl Compare {
    pub(super) fn new(file: File, ctx: &RunContext) -> Self {
        let (cancel, monitor) = (ctx.cancel.clone(), Arc::clone(&ctx.monitor));
        Self { file: Arc::new(file), offset: 0, cancel, monitor, outcome: Ok(true) }
    }
}

#[async_trait]
impl ContentSink for Compare {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        if self.cancel.is_cancelled() {
            return Err("stopped by request".into());
        }
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        self.offset += piece.length();
        self.monitor.bytes(piece.length());
        self.outcome = tokio::task::spawn_blocking(move || is_equal(&file, offset, &piece)).await?;
        if matches!(self.outcome, Ok(true)) { Ok(()) } else { Err("the comparison has ended".into()) }
    }
}

pub(super) fn is_equal(file: &File, offset: u64, piece: &Piece) -> std::io::Result<bool> {
    match piece {
        Piece::Data(bytes) => {
            let mut here = vec![0; bytes.len()];
            Ok(read_full(file, offset, &mut here)? && here == *bytes)
        }
        Piece::Hole(length) => is_zero(file, offset, offset.saturating_add(*length)),
    }
}

/// Whether a stretch reads as zeros, be it a hole or not.
fn is_zero(file: &File, start: u64, end: u64) -> std::io::Result<bool> {
    if file.metadata()?.len() < end {
        return Ok(false);
    }
    let mut at = start;
    while at < end {
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(true),
            Err(_) => at,
            Ok(data) => data,
        };
        if at >= end {
            break;
        }
        let length = usize::try_from((end - at).min(PIECE_BYTES_MAX as u64)).unwrap_or(PIECE_BYTES_MAX);
        let mut here = vec![0; length];
        if !read_full(file, at, &mut here)? || here.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

/// Fills the buffer; false where the file ends before.
fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact_at(buffer, offset) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

//! Writes the content of one file, or compares it where one stands that looks the same.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_model::EntryPath;
use lifeboat_model::flow::{BodyError, ContentSink, Entry, PIECE_BYTES_MAX, Piece, ReadError};
use rustix::io::Errno;

use super::super::meta::said;
use super::super::place::{Over, Place, Temp, failed, write_piece};
use super::super::steps::Became;
use super::super::{broke, verify};
use super::Run;
use crate::SourceError;

/// Told of files that are left alone without `replace`.
const KEPT: &str = "kept, though its content is not the snapshot's (length and time of change are equal): --replace \
                    writes it anew, `lifeboat verify` names all of them";

/// A file that has to be written, or compared first.
pub(super) struct Work {
    /// Where, and with which metadata.
    pub(super) entry: Entry,
    /// Whose content, if it is not its own.
    pub(super) content_of: Option<Entry>,
    pub(super) dir: Arc<OwnedFd>,
    pub(super) over: Over,
}

impl Work {
    /// The entry that holds the content.
    pub(super) fn read(&self) -> &Entry {
        self.content_of.as_ref().unwrap_or(&self.entry)
    }
}

impl Run<'_> {
    /// All content of a small file; `None` where the repository cannot give it.
    pub(super) async fn collect(&self, work: &Work) -> Result<Option<Vec<Piece>>, SourceError> {
        let mut sink = Collect { pieces: Vec::new(), data_bytes: 0 };
        let read = match self.data.content(work.read(), &mut sink).await {
            Ok(read) => read,
            Err(error) => return self.hurt(&work.entry.path, error).map(|()| None),
        };
        if read != work.entry.bytes {
            return self.hurt(&work.entry.path, wrong_length(&work.entry, read)).map(|()| None);
        }
        Ok(Some(sink.pieces))
    }

    /// Writes a large file piece by piece as its content comes.
    pub(super) async fn large(&self, work: Work) -> Result<(), SourceError> {
        if work.over == Over::Same {
            let Some(became) = self.compare(&work).await? else { return Ok(()) };
            if became != Became::Restored {
                self.count(became, work.entry.bytes, 0);
                return Ok(());
            }
        }
        let (place, dir, path) = (Arc::clone(&self.place), Arc::clone(&work.dir), work.entry.path.clone());
        let made = tokio::task::spawn_blocking(move || place.temp_file(dir, &path));
        let (temp, file) = made.await.map_err(|error| broke("making a file", error))??;
        let path = work.entry.path.clone();
        let mut sink = Stream { file: Arc::new(file), offset: 0, path, error: None, run: self };
        let read = self.data.content(work.read(), &mut sink).await;
        if let Some(error) = sink.error {
            return Err(error);
        }
        match read {
            Err(error) => return self.hurt(&work.entry.path, error),
            Ok(read) if read != work.entry.bytes || sink.offset != read => {
                return self.hurt(&work.entry.path, wrong_length(&work.entry, read));
            }
            Ok(_) => {}
        }
        let (place, file, bytes) = (Arc::clone(&self.place), sink.file, work.entry.bytes);
        let finished = tokio::task::spawn_blocking(move || finish(&place, temp, &file, &work));
        finished.await.map_err(|error| broke("finishing a file", error))??;
        // The bytes were told piece by piece.
        self.count(Became::Restored, bytes, 0);
        Ok(())
    }

    /// Compares a large file that looks the same with the snapshot; [`Became::Restored`] where it is
    /// still to be written, `None` where the repository cannot give its content.
    async fn compare(&self, work: &Work) -> Result<Option<Became>, SourceError> {
        let (dir, path) = (Arc::clone(&work.dir), work.entry.path.clone());
        let opened = tokio::task::spawn_blocking(move || verify::open(&dir, path.name()));
        let file = match opened.await.map_err(|error| broke("opening a file", error))? {
            Ok(file) => file,
            Err(error) => return Ok(Some(self.place.same_or_not(&work.entry.path, Err(error)))),
        };
        let mut sink = verify::Compare::new(file, self.ctx);
        let read = self.data.content(work.read(), &mut sink).await;
        if self.is_stopped() {
            return Err(SourceError::Cancelled);
        }
        let equal = match (sink.outcome, read) {
            (Ok(true), Ok(read)) if read != work.entry.bytes => {
                return self.hurt(&work.entry.path, wrong_length(&work.entry, read)).map(|()| None);
            }
            (Ok(true), Err(error)) => return self.hurt(&work.entry.path, error).map(|()| None),
            (outcome, _) => outcome.map_err(|error| errno(&error)),
        };
        Ok(Some(self.place.same_or_not(&work.entry.path, equal)))
    }
}

impl Place {
    /// What becomes of a file that looks the same: nothing where its bytes are equal. Where they are
    /// not, or cannot be read, it is written anew with `replace` and kept without, which is told.
    fn same_or_not(&self, path: &EntryPath, equal: Result<bool, Errno>) -> Became {
        match equal {
            Ok(true) => return Became::Unchanged,
            _ if self.replace => return Became::Restored,
            Ok(false) => self.shortfalls.add(KEPT, path),
            Err(error) => {
                let what = format!("kept, and not compared with the snapshot: it cannot be read ({})", said(error));
                self.shortfalls.add(&what, path);
            }
        }
        Became::Neither
    }
}

pub(super) fn write_small(place: &Place, work: &Work, pieces: &[Piece]) -> Result<Became, SourceError> {
    if work.over == Over::Same {
        let became = place.same_or_not(&work.entry.path, has_content(work, pieces));
        if became != Became::Restored {
            return Ok(became);
        }
    }
    let (temp, file) = place.temp_file(Arc::clone(&work.dir), &work.entry.path)?;
    let mut offset = 0;
    let file = Arc::new(file);
    for piece in pieces {
        offset = write_piece(&file, piece, offset).map_err(|error| writing(&work.entry.path, &error))?;
    }
    finish(place, temp, &file, work)?;
    Ok(Became::Restored)
}

/// Whether a file that looks the same has these bytes.
fn has_content(work: &Work, pieces: &[Piece]) -> Result<bool, Errno> {
    let file = verify::open(&work.dir, work.entry.path.name())?;
    let mut offset = 0;
    for piece in pieces {
        if !verify::is_equal(&file, offset, piece).map_err(|error| errno(&error))? {
            return Ok(false);
        }
        offset += piece.length();
    }
    Ok(true)
}

fn finish(place: &Place, temp: Temp, file: &Arc<File>, work: &Work) -> Result<(), SourceError> {
    let path = &work.entry.path;
    let written = rustix::fs::fstat(file).map_err(|error| failed("restoring", path, error))?;
    if u64::try_from(written.st_size) != Ok(work.entry.bytes) {
        // A hole at the end.
        rustix::fs::ftruncate(file, work.entry.bytes).map_err(|error| failed("restoring", path, error))?;
    }
    place.finish(temp, file, &work.entry, work.over)
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

fn writing(path: &EntryPath, error: &std::io::Error) -> SourceError {
    failed("writing", path, errno(error))
}

fn wrong_length(entry: &Entry, read: u64) -> ReadError {
    let source = format!("{read} bytes came of {} that were listed", entry.bytes).into();
    ReadError::Damaged { what: entry.path.to_string(), source }
}

/// Takes the content of a small file.
struct Collect {
    pieces: Vec<Piece>,
    data_bytes: usize,
}

#[async_trait]
impl ContentSink for Collect {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        if let Piece::Data(bytes) = &piece {
            self.data_bytes += bytes.len();
        }
        // More than was listed is cut off here; the length is compared afterwards.
        if self.data_bytes <= PIECE_BYTES_MAX && self.pieces.len() <= PIECE_BYTES_MAX / 512 {
            self.pieces.push(piece);
            return Ok(());
        }
        Err("more content came than was listed".into())
    }
}

/// Writes the content of a large file as it comes.
struct Stream<'a> {
    file: Arc<File>,
    offset: u64,
    path: EntryPath,
    error: Option<SourceError>,
    run: &'a Run<'a>,
}

#[async_trait]
impl ContentSink for Stream<'_> {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let wrote = if self.run.is_stopped() {
            Err(SourceError::Cancelled)
        } else {
            match tokio::task::spawn_blocking(move || write_piece(&file, &piece, offset)).await {
                Ok(wrote) => wrote.map_err(|error| writing(&self.path, &error)),
                Err(error) => Err(broke("writing a file", error)),
            }
        };
        match wrote {
            Ok(after) => {
                self.run.wrote(after - offset);
                self.offset = after;
                Ok(())
            }
            Err(error) => {
                let said = error.to_string();
                self.error = Some(error);
                Err(said.into())
            }
        }
    }
}

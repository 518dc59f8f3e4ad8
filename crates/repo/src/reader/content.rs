//! The content of an entry: chunks fetched ahead and handed out in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::flow::{ContentSink, Entry, PIECE_BYTES_MAX, Piece, ReadError};
use lifeboat_model::{ChunkId, EntryPath};
use tokio::sync::OwnedSemaphorePermit;

use super::extents::Extents;
use super::{Ahead, SnapshotReader, content_of, damaged, hurt};
use crate::object::ObjectError;
use crate::page::Extent;

/// Plain bytes that one read fetches ahead at most.
const WINDOW_BYTES: u64 = 16 << 20;
/// Extents that one read looks ahead at most.
const WINDOW_EXTENTS: usize = 256;

/// An extent on its way.
enum Slot {
    Hole(u64),
    Chunk {
        fetch: Ahead,
        offset: u32,
        len: u32,
        room: Option<OwnedSemaphorePermit>,
    },
    /// More of the chunk before.
    Again {
        offset: u32,
        len: u32,
    },
}

impl Slot {
    fn ahead_bytes(&self) -> u64 {
        match self {
            Self::Chunk { len, .. } => u64::from(*len),
            Self::Hole(_) | Self::Again { .. } => 0,
        }
    }
}

/// The extents that are fetched ahead of the sink.
struct Window<'r> {
    reader: &'r SnapshotReader,
    extents: Extents<'r>,
    waiting: Option<Extent>,
    slots: VecDeque<Slot>,
    bytes: u64,
    newest: Option<ChunkId>,
}

impl Window<'_> {
    /// Starts fetches until the window is full or nothing is left.
    async fn fill(&mut self) -> Result<(), ReadError> {
        while self.slots.len() < WINDOW_EXTENTS && self.bytes < WINDOW_BYTES {
            let next = match self.waiting.take() {
                Some(extent) => Some(extent),
                None => self.extents.next().await?,
            };
            let Some(extent) = next else { return Ok(()) };
            let slot = match extent {
                Extent::Hole(len) => Slot::Hole(len),
                Extent::Chunk { id, offset, len } if self.newest == Some(id) => Slot::Again { offset, len },
                Extent::Chunk { id, offset, len } => {
                    // All reads share the room for what is fetched ahead. The chunk that the sink
                    // waits for needs none, so that no read ever waits for another.
                    let room = Arc::clone(&self.reader.ahead).try_acquire_many_owned(len).ok();
                    if room.is_none() && !self.slots.is_empty() {
                        self.waiting = Some(extent);
                        return Ok(());
                    }
                    self.newest = Some(id);
                    Slot::Chunk { fetch: Ahead::fetch(&self.reader.fetcher, id), offset, len, room }
                }
            };
            self.bytes += slot.ahead_bytes();
            self.slots.push_back(slot);
        }
        Ok(())
    }
}

pub(super) async fn read(reader: &SnapshotReader, entry: &Entry, sink: &mut dyn ContentSink) -> Result<u64, ReadError> {
    let extents = Extents::new(&reader.fetcher, &entry.path, content_of(entry)?);
    let (slots, newest) = (VecDeque::new(), None);
    let mut window = Window { reader, extents, waiting: None, slots, bytes: 0, newest };
    let (mut total, mut chunk) = (0, Bytes::new());
    loop {
        window.fill().await?;
        let Some(slot) = window.slots.pop_front() else { break };
        window.bytes -= slot.ahead_bytes();
        total += match slot {
            Slot::Hole(len) => {
                sink.piece(Piece::Hole(len)).await.map_err(ReadError::Receiver)?;
                len
            }
            Slot::Chunk { fetch, offset, len, room } => {
                chunk = fetch.plain().await.map_err(|error| hurt(&entry.path, error))?;
                hand_out(&entry.path, &chunk, offset, len, sink).await?;
                drop(room);
                u64::from(len)
            }
            Slot::Again { offset, len } => {
                hand_out(&entry.path, &chunk, offset, len, sink).await?;
                u64::from(len)
            }
        };
    }
    Ok(total)
}

async fn hand_out(
    path: &EntryPath,
    chunk: &Bytes,
    offset: u32,
    len: u32,
    sink: &mut dyn ContentSink,
) -> Result<(), ReadError> {
    let (start, end) = (offset as usize, offset as usize + len as usize);
    if end > chunk.len() {
        return Err(damaged(path, ObjectError::malformed("an extent outside of its chunk")));
    }
    for at in (start..end).step_by(PIECE_BYTES_MAX) {
        let piece = chunk.slice(at..end.min(at + PIECE_BYTES_MAX));
        sink.piece(Piece::Data(piece)).await.map_err(ReadError::Receiver)?;
    }
    Ok(())
}

//! The content of an entry: chunks fetched ahead and handed out in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lifeboat_model::flow::{ContentSink, Entry, PIECE_BYTES_MAX, Piece, ReadError};
use lifeboat_model::{ChunkId, EntryPath};
use tokio::sync::OwnedSemaphorePermit;

use super::extents::Extents;
use super::{SnapshotReader, content_of, damaged, hurt};
use crate::error::RepoError;
use crate::object::ObjectError;
use crate::page::Extent;

/// Plain bytes that one read fetches ahead at most.
const WINDOW_BYTES: u64 = 16 << 20;
/// Extents that one read looks ahead at most.
const WINDOW_EXTENTS: usize = 256;
/// Chunks whose plain bytes are at hand for further extents: where a stream changed day after day, the
/// small chunks of these days take turns.
const RECENT_CHUNKS: usize = 128;
/// Their bytes at most, but for the newest.
const RECENT_BYTES: usize = 8 << 20;

/// A chunk's plain bytes, for one extent or several.
type Fetched = Shared<BoxFuture<'static, Result<Bytes, Arc<RepoError>>>>;

/// The chunks that were asked for last.
#[derive(Default)]
struct Recent(VecDeque<(ChunkId, Fetched)>);

impl Recent {
    /// The chunk, which counts as the newest from now on.
    fn get(&mut self, id: &ChunkId) -> Option<Fetched> {
        let at = self.0.iter().position(|(recent, _)| recent == id)?;
        let found = self.0.remove(at)?;
        let fetched = found.1.clone();
        self.0.push_back(found);
        Some(fetched)
    }

    fn push(&mut self, id: ChunkId, fetched: Fetched) {
        let bytes = |fetched: &Fetched| fetched.peek().and_then(|done| done.as_ref().ok()).map_or(0, Bytes::len);
        let mut held: usize = self.0.iter().map(|(_, fetched)| bytes(fetched)).sum();
        while self.0.len() == RECENT_CHUNKS || held > RECENT_BYTES {
            let Some((_, oldest)) = self.0.pop_front() else { break };
            held -= bytes(&oldest);
        }
        self.0.push_back((id, fetched));
    }
}

/// An extent on its way.
enum Slot {
    Hole(u64),
    Chunk {
        fetched: Fetched,
        offset: u32,
        len: u32,
        /// What is fetched for this extent; nothing where the chunk is at hand.
        room: Option<OwnedSemaphorePermit>,
        ahead_bytes: u64,
    },
}

impl Slot {
    fn ahead_bytes(&self) -> u64 {
        match self {
            Self::Chunk { ahead_bytes, .. } => *ahead_bytes,
            Self::Hole(_) => 0,
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
    recent: Recent,
}

impl Window<'_> {
    fn fetch(&mut self, id: ChunkId) -> Fetched {
        let ahead = self.reader.fetcher.ahead(id);
        let fetched = ahead.plain().map(|plain| plain.map_err(Arc::new)).boxed().shared();
        self.recent.push(id, fetched.clone());
        fetched
    }

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
                Extent::Chunk { id, offset, len } => {
                    if let Some(fetched) = self.recent.get(&id) {
                        Slot::Chunk { fetched, offset, len, room: None, ahead_bytes: 0 }
                    } else {
                        // All reads share the room for what is fetched ahead. The chunk that the sink
                        // waits for needs none, so that no read ever waits for another.
                        let room = Arc::clone(&self.reader.ahead).try_acquire_many_owned(len).ok();
                        if room.is_none() && !self.slots.is_empty() {
                            self.waiting = Some(extent);
                            return Ok(());
                        }
                        Slot::Chunk { fetched: self.fetch(id), offset, len, room, ahead_bytes: u64::from(len) }
                    }
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
    let mut window =
        Window { reader, extents, waiting: None, slots: VecDeque::new(), bytes: 0, recent: Recent::default() };
    let mut total = 0;
    loop {
        window.fill().await?;
        let Some(slot) = window.slots.pop_front() else { break };
        window.bytes -= slot.ahead_bytes();
        total += match slot {
            Slot::Hole(len) => {
                sink.piece(Piece::Hole(len)).await.map_err(ReadError::Receiver)?;
                len
            }
            Slot::Chunk { fetched, offset, len, room, .. } => {
                let chunk = fetched.await.map_err(|error| hurt(&entry.path, error))?;
                hand_out(&entry.path, &chunk, offset, len, sink).await?;
                drop(room);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ChunkId {
        (*blake3::hash(&number.to_le_bytes()).as_bytes()).into()
    }

    async fn push(recent: &mut Recent, number: u32, length: usize) {
        let plain = Bytes::from(vec![0; length]);
        let fetched = std::future::ready(Ok(plain)).boxed().shared();
        fetched.clone().await.expect("ready");
        recent.push(id(number), fetched);
    }

    #[tokio::test]
    async fn the_chunks_asked_for_last_are_at_hand_and_no_more_of_them_than_memory_has_room_for() {
        let mut recent = Recent::default();
        for number in 0..1000 {
            push(&mut recent, number, 1000).await;
            // The first is asked for all the time.
            assert!(recent.get(&id(0)).is_some(), "after {number}");
        }
        assert_eq!(recent.0.len(), RECENT_CHUNKS);
        assert!(recent.get(&id(999)).is_some() && recent.get(&id(800)).is_none());
        for number in 2000..2100 {
            push(&mut recent, number, 1 << 20).await;
        }
        let largest = (RECENT_BYTES >> 20) + 1;
        assert!(recent.0.len() <= largest, "{} of a MiB", recent.0.len());
        assert!(recent.get(&id(2099)).is_some() && recent.get(&id(2094)).is_some());
    }
}

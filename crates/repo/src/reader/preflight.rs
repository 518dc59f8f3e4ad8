//! Checks every chunk of some entries before a restore destroys anything.

use std::collections::HashSet;

use futures::StreamExt;
use lifeboat_model::flow::{Monitor, ReadError};
use lifeboat_model::{ChunkId, EntryPath, ObjectHash};

use super::extents::Extents;
use super::{SnapshotReader, hurt};
use crate::error::RepoError;
use crate::page::Extent;

/// Chunks that are sorted by their places in packs and checked together.
const BATCH: usize = 32_768;
/// Chunks that are remembered as checked: 32 MiB with the set's own room.
const REMEMBERED: usize = 1 << 19;
/// Chunks that are checked at once: each may have 8 MiB, most are far shorter.
const CHECKS: usize = 8;

/// Chunks of entries, in the order of the entries.
#[derive(Default)]
struct Batch {
    paths: Vec<EntryPath>,
    chunks: Vec<Wanted>,
}

#[derive(Clone, Copy)]
struct Wanted {
    id: ChunkId,
    /// Content that it stands for where it was met first.
    bytes: u64,
    /// The first entry of the batch that needs it.
    entry: usize,
    place: Option<(ObjectHash, u32)>,
}

pub(super) async fn check(
    reader: &SnapshotReader,
    under: Option<&EntryPath>,
    monitor: &dyn Monitor,
) -> Result<(), ReadError> {
    let mut walk = reader.tree.walk(under);
    let (mut batch, mut seen) = (Batch::default(), HashSet::new());
    while let Some(page) = walk.next_page().await? {
        for entry in page {
            let mut extents = Extents::new(&reader.fetcher, &entry.path, entry.content);
            let mut named = false;
            loop {
                let extent = match extents.next().await {
                    Ok(extent) => extent,
                    Err(error) => {
                        // Entries before this one may be hurt too; the first is to be named.
                        batch.check(reader, monitor).await?;
                        return Err(error);
                    }
                };
                let Some(extent) = extent else { break };
                let bytes = extent.bytes();
                let id = match extent {
                    Extent::Chunk { id, .. } if seen.insert(id) => id,
                    // Nothing to read, or it is read for another stretch.
                    _ => {
                        monitor.bytes(bytes);
                        continue;
                    }
                };
                if !named {
                    batch.paths.push(entry.path.clone());
                    named = true;
                }
                batch.chunks.push(Wanted { id, bytes, entry: batch.paths.len() - 1, place: None });
                if batch.chunks.len() == BATCH {
                    std::mem::take(&mut batch).check(reader, monitor).await?;
                    named = false;
                    if seen.len() >= REMEMBERED {
                        seen = HashSet::new();
                    }
                }
            }
        }
    }
    batch.check(reader, monitor).await
}

impl Batch {
    /// Reads all chunks in the order of their packs.
    async fn check(mut self, reader: &SnapshotReader, monitor: &dyn Monitor) -> Result<(), ReadError> {
        let index = reader.fetcher.index();
        for chunk in &mut self.chunks {
            chunk.place = index.locate(&chunk.id).first().map(|copy| (copy.pack, copy.record.offset));
        }
        self.chunks.sort_unstable_by_key(|chunk| chunk.place);
        let mut checks = futures::stream::iter(self.chunks)
            .map(|chunk| {
                let fetch = reader.fetcher.ahead(chunk.id);
                async move { (chunk, fetch.plain().await) }
            })
            .buffer_unordered(CHECKS);
        let mut first: Option<(usize, RepoError)> = None;
        while let Some((chunk, done)) = checks.next().await {
            let Err(error) = done else {
                monitor.bytes(chunk.bytes);
                continue;
            };
            let entry = chunk.entry;
            // Where the store fails every other chunk would fail too.
            let given_up = matches!(error, RepoError::Store(_));
            if first.as_ref().is_none_or(|known| entry < known.0) {
                first = Some((entry, error));
            }
            if given_up {
                break;
            }
        }
        match first {
            Some((entry, error)) => Err(hurt(&self.paths[entry], error)),
            None => Ok(()),
        }
    }
}

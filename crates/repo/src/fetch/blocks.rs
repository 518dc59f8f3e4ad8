//! Stretches of packs in memory, so that neighbours are fetched once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use lifeboat_model::ObjectHash;
use lifeboat_store::{Store, StoreError};
use tokio::sync::OnceCell;

use crate::index::Location;

/// Packs are read in stretches of this many bytes, once it is clear that much is wanted.
const BLOCK_BYTES: u64 = 1 << 20;
/// So many reads get what they ask for and no neighbours: one file of a large snapshot costs its own bytes.
const EXACT_READS: u64 = 64;
/// Stretches that are kept: 32 MiB.
const BLOCKS_MAX: usize = 32;
/// Stretches of one chunk that are fetched at once.
const FETCHES: usize = 4;

/// Pack, and the stretch of it.
type BlockKey = (ObjectHash, Range<u64>);

#[derive(Debug)]
struct Block {
    bytes: Arc<OnceCell<Bytes>>,
    last_used: u64,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<BlockKey, Block>,
    uses: u64,
}

/// The stretches that were used last. Who asks for one that is being fetched waits for it.
#[derive(Debug)]
pub(super) struct Blocks {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    reads: AtomicU64,
}

impl Blocks {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, state: Mutex::default(), reads: AtomicU64::new(0) }
    }

    /// The bytes of a range of a pack; fewer where the pack ends before.
    pub(super) async fn read(&self, location: &Location, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut blocks = futures::stream::iter(self.stretches(location, &range))
            .map(|stretch| async move { Ok::<_, StoreError>((stretch.start, self.block(location, stretch).await?)) })
            .buffered(FETCHES);
        while let Some((start, block)) = blocks.try_next().await? {
            let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(block.len());
            out.extend_from_slice(&block[within(range.start)..within(range.end)]);
        }
        Ok(out)
    }

    /// What is fetched for a range, in order.
    fn stretches(&self, location: &Location, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let (start, end) = if self.reads.fetch_add(1, Ordering::Relaxed) < EXACT_READS {
            (range.start, range.end)
        } else {
            // The length of the pack as the location has it may lie.
            let end = range.end.next_multiple_of(BLOCK_BYTES).min(location.pack_bytes.max(range.end));
            (range.start - range.start % BLOCK_BYTES, end)
        };
        (start..end)
            .step_by(usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX))
            .map(move |at| at..(at + BLOCK_BYTES).min(end))
    }

    async fn block(&self, location: &Location, stretch: Range<u64>) -> Result<Bytes, StoreError> {
        let key = (location.pack, stretch.clone());
        let cell = self.cell(key.clone());
        let fetch = || async { self.store.get(&location.pack_key(), Some(stretch)).await };
        let bytes = cell.get_or_try_init(fetch).await;
        if bytes.is_err() {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).blocks.remove(&key);
        }
        bytes.cloned()
    }

    fn cell(&self, key: BlockKey) -> Arc<OnceCell<Bytes>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.uses += 1;
        let last_used = state.uses;
        if !state.blocks.contains_key(&key) && state.blocks.len() >= BLOCKS_MAX {
            let oldest = state.blocks.iter().min_by_key(|(_, block)| block.last_used).map(|(key, _)| key.clone());
            oldest.map(|oldest| state.blocks.remove(&oldest));
        }
        let block = state.blocks.entry(key).or_insert_with(|| Block { bytes: Arc::default(), last_used });
        block.last_used = last_used;
        Arc::clone(&block.bytes)
    }
}

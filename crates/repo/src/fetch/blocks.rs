//! Stretches of packs in memory, so that neighbours are fetched once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use lifeboat_model::ObjectHash;
use lifeboat_store::{Store, StoreError};
use tokio::sync::OnceCell;

use crate::index::Location;

/// Packs are read in stretches of this many bytes.
const BLOCK_BYTES: u64 = 1 << 20;
/// Stretches that are kept: 32 MiB.
const BLOCKS_MAX: usize = 32;
/// Stretches of one chunk that are fetched at once.
const FETCHES: usize = 4;

/// Pack, its length as the location has it (which may lie), and the number of the block.
type BlockKey = (ObjectHash, u64, u64);

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
}

impl Blocks {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, state: Mutex::default() }
    }

    /// The bytes of a range of a pack; fewer where the pack ends before.
    pub(super) async fn read(&self, location: &Location, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let numbers = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let mut blocks = futures::stream::iter(numbers)
            .map(|number| async move { Ok::<_, StoreError>((number, self.block(location, number).await?)) })
            .buffered(FETCHES);
        while let Some((number, block)) = blocks.try_next().await? {
            let start = number * BLOCK_BYTES;
            let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(block.len());
            out.extend_from_slice(&block[within(range.start)..within(range.end)]);
        }
        Ok(out)
    }

    async fn block(&self, location: &Location, number: u64) -> Result<Bytes, StoreError> {
        let key = (location.pack, location.pack_bytes, number);
        let cell = self.cell(key);
        let start = number * BLOCK_BYTES;
        let range = start..(start + BLOCK_BYTES).min(location.pack_bytes.max(start + 1));
        let fetch = || async { self.store.get(&location.pack_key(), Some(range)).await };
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
            let oldest = state.blocks.iter().min_by_key(|(_, block)| block.last_used).map(|(key, _)| *key);
            oldest.map(|oldest| state.blocks.remove(&oldest));
        }
        let block = state.blocks.entry(key).or_insert_with(|| Block { bytes: Arc::default(), last_used });
        block.last_used = last_used;
        Arc::clone(&block.bytes)
    }
}

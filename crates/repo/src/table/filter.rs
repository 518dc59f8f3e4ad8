//! A filter that tells most keys that are not there: blocks of 512 bits, six bits for each key.

use super::RowKey;

const BLOCK_BYTES: usize = 64;
const BITS_PER_ROW: u64 = 10;

/// One block for each key, so that a look-up touches one line of the processor's cache. About one in
/// a hundred missing keys passes.
#[derive(Debug)]
pub(super) struct Filter(Vec<u8>);

impl Filter {
    pub(super) fn for_rows(rows: u64) -> Self {
        let blocks = (rows.saturating_mul(BITS_PER_ROW)).div_ceil(BLOCK_BYTES as u64 * 8).max(1);
        Self(vec![0; usize::try_from(blocks).unwrap_or(usize::MAX / BLOCK_BYTES) * BLOCK_BYTES])
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_BYTES)).then(|| Self(bytes.to_vec()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where the key's block starts, and its six bits there.
    fn places(&self, key: &RowKey) -> (usize, impl Iterator<Item = usize> + use<>) {
        let number = |at: usize| u64::from_le_bytes(*key[at..].first_chunk().expect("a key has 32 bytes"));
        let blocks = (self.0.len() / BLOCK_BYTES) as u128;
        // The high half of the product spreads the keys evenly over the blocks.
        let block = usize::try_from((u128::from(number(8)) * blocks) >> 64).expect("below the number of blocks");
        let bits = number(16);
        (block * BLOCK_BYTES, (0..6).map(move |place| usize::try_from((bits >> (place * 9)) & 511).expect("nine bits")))
    }

    pub(super) fn insert(&mut self, key: &RowKey) {
        let (start, bits) = self.places(key);
        for bit in bits {
            self.0[start + bit / 8] |= 1 << (bit % 8);
        }
    }

    pub(super) fn may_hold(&self, key: &RowKey) -> bool {
        let (start, mut bits) = self.places(key);
        bits.all(|bit| self.0[start + bit / 8] & (1 << (bit % 8)) != 0)
    }
}

//! Parts of chunks that the repository holds already, so that a large stream that changed a little
//! costs little.
//!
//! A *slice* is a short part of a chunk, about 1 KiB or a database page. For large streams that change
//! from backup to backup the writer keeps a *slice map* in its state directory: for each chunk of the
//! last backup the keyed hashes of its slices, and where they are stored. A chunk that is not at hand
//! as a whole is looked at slice by slice: known slices become extents of older chunks, the others
//! are stored together as one small chunk. Where that would save little, or leave many fragments, the
//! chunk is stored whole, so that old chunks do not live on for a few bytes each.
//!
//! What changed once often changes again, row by row: a slice that is not known is cut into *fine*
//! slices, about a row each, which are looked up and remembered in its place.
//!
//! A map is a cache: it holds keyed hashes, no names and no content. Without it, chunks are still
//! deduplicated as wholes.

use lifeboat_model::ChunkId;
use lifeboat_model::flow::Shape;

use crate::chunker::{Cutter, Profile};
use crate::crypt::Secret;

mod file;
mod maps;
mod plan;

pub(crate) use file::{Segment, SliceMap, SliceMapWriter};
pub(crate) use maps::SliceMaps;
pub(crate) use plan::{Part, Plan, Window};

/// Length of a slice's keyed hash: two slices of one stream collide by chance once in 2^64 maps of
/// 2^32 slices.
const HASH_BYTES: usize = 16;
/// Slices of what is no database file.
const PROFILE: Profile = Profile { min: 256, avg: 1024, max: 4096 };
/// Pages of the usual databases are of this length or divide it.
const PAGE_BYTES: usize = 8 << 10;
/// A fine slice ends behind the first newline after so many bytes: that is where rows of dumps and lines
/// end, and one byte in 256 of anything else is one.
const FINE_BYTES_MIN: usize = 64;
/// Or after so many.
const FINE_BYTES_MAX: usize = 1024;

/// The keyed hash of a slice.
pub(crate) type SliceHash = [u8; HASH_BYTES];

/// A short part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) hash: SliceHash,
    pub(crate) len: u32,
}

/// Bytes of a stored chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) chunk: ChunkId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Cuts chunks into slices. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Slicer {
    cutter: Cutter,
    key: Secret,
    shape: Shape,
}

impl Slicer {
    pub(crate) fn new(cutter: Cutter, key: Secret, shape: Shape) -> Self {
        Self { cutter, key, shape }
    }

    /// The slices of a chunk, in order.
    pub(crate) fn slices(&self, chunk: &[u8]) -> Vec<Slice> {
        let mut rest = chunk;
        let mut out = Vec::with_capacity(chunk.len() / PROFILE.avg + 1);
        while !rest.is_empty() {
            let length = match self.shape {
                Shape::Pages => rest.len().min(PAGE_BYTES),
                Shape::Rows | Shape::Stream => self.cutter.cut(PROFILE, rest),
            };
            let (slice, after) = rest.split_at(length);
            out.push(self.slice(slice));
            rest = after;
        }
        out
    }

    /// The fine slices of a slice, in order. A page has none but itself.
    pub(crate) fn fine(&self, slice: &[u8]) -> Vec<Slice> {
        if self.shape == Shape::Pages {
            return vec![self.slice(slice)];
        }
        let (mut rest, mut out) = (slice, Vec::new());
        while !rest.is_empty() {
            let searched = rest.iter().take(FINE_BYTES_MAX).skip(FINE_BYTES_MIN);
            let newline = searched.take_while(|byte| **byte != b'\n').count();
            let (slice, after) = rest.split_at((FINE_BYTES_MIN + newline + 1).min(FINE_BYTES_MAX).min(rest.len()));
            out.push(self.slice(slice));
            rest = after;
        }
        out
    }

    fn slice(&self, bytes: &[u8]) -> Slice {
        let hash = *self.key.mac(&[bytes]).0.first_chunk().expect("a hash has 32 bytes");
        Slice { hash, len: u32::try_from(bytes.len()).expect("a slice is short") }
    }
}

#[cfg(test)]
mod tests;

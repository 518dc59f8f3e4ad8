//! Content-defined chunking: where a stream is cut depends on its bytes and on a secret of the domain.
//!
//! `FastCDC` (Xia et al. 2020) with two bytes per step, normalization level 1 and a gear table drawn
//! from `K_cdc`, so that who does not know the key cannot tell content by the lengths of its chunks.
//! Boundaries are part of the format in this sense only: a writer that cuts otherwise deduplicates
//! against nothing that was written before. Readers need not know the rule.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use lifeboat_model::flow::{Piece, Shape};

use crate::crypt::Secret;

/// Bounds of chunk lengths in bytes. All are even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// A chunk is shorter only at the end of a stretch of data.
    pub min: usize,
    /// About the mean on random bytes.
    pub avg: usize,
    /// No chunk is longer.
    pub max: usize,
}

impl Profile {
    /// The bounds for a shape of data.
    #[must_use]
    pub const fn of(shape: Shape) -> Self {
        match shape {
            Shape::Stream => Self { min: 64 << 10, avg: 256 << 10, max: 1 << 20 },
            Shape::Rows => Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 },
            Shape::Pages => Self { min: 256 << 10, avg: 256 << 10, max: 256 << 10 },
        }
    }
}

/// The secret table of a domain: cheap to clone.
#[derive(Clone)]
pub struct Cutter {
    gear: Arc<[u64; 256]>,
    gear_shifted: Arc<[u64; 256]>,
}

impl fmt::Debug for Cutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cutter(..)")
    }
}

impl Cutter {
    /// The table under `K_cdc`: 256 little-endian numbers of 64 bits, the first 2,048 bytes of keyed
    /// BLAKE3 of `lifeboat v1 gear table` in extendable output.
    ///
    /// # Panics
    /// Never: slices of eight bytes.
    #[must_use]
    pub fn new(key: &Secret) -> Self {
        let mut bytes = [0; 256 * 8];
        blake3::Hasher::new_keyed(&key.0).update(b"lifeboat v1 gear table").finalize_xof().fill(&mut bytes);
        let mut gear = [0; 256];
        for (number, eight) in gear.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        }
        Self { gear: Arc::new(gear), gear_shifted: Arc::new(gear.map(|number| number << 1)) }
    }

    /// Length of the first chunk of `window`. A length below `window.len()` is final whatever
    /// follows; the whole length is final only at the end of the data or at `profile.max`.
    pub(crate) fn cut(&self, profile: Profile, window: &[u8]) -> usize {
        if profile.min == profile.max {
            return window.len().min(profile.max);
        }
        let (small, large) = select_masks(profile.avg, Normalization::Level1);
        let (small_shifted, large_shifted) = (small << 1, large << 1);
        let gear = &self.gear[..];
        let shifted = &self.gear_shifted[..];
        let Profile { min, avg, max } = profile;
        cut_gear(window, min, avg, max, small, large, small_shifted, large_shifted, gear, shifted).1
    }
}

/// A stretch of content as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One chunk.
    Chunk(Bytes),
    /// This many zero bytes that are not stored.
    Hole(u64),
}

/// Cuts one stream, piece by piece. Most chunks share the memory of the piece that they came in;
/// only what crosses from one piece to the next is copied.
#[derive(Debug)]
pub struct Chunker {
    cutter: Cutter,
    profile: Profile,
    /// Bytes of earlier pieces, in which no cut was found. Shorter than `profile.max`.
    pending: BytesMut,
    hole: u64,
    ready: VecDeque<Cut>,
}

impl Chunker {
    /// A chunker for one stream.
    #[must_use]
    pub fn new(cutter: Cutter, shape: Shape) -> Self {
        let profile = Profile::of(shape);
        Self { cutter, profile, pending: BytesMut::new(), hole: 0, ready: VecDeque::new() }
    }

    /// Takes the next piece. Take everything that [`Chunker::next_cut`] has before giving another,
    /// so that memory stays bounded.
    pub fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Hole(0) => {}
            Piece::Hole(bytes) => {
                self.end_of_data();
                self.hole = self.hole.saturating_add(bytes);
            }
            Piece::Data(bytes) => {
                if !bytes.is_empty() {
                    self.end_of_hole();
                    self.push_data(bytes);
                }
            }
        }
    }

    /// Says that the stream has ended: what remains is cut.
    pub fn finish(&mut self) {
        self.end_of_data();
        self.end_of_hole();
    }

    /// The next stretch that is ready.
    pub fn next_cut(&mut self) -> Option<Cut> {
        self.ready.pop_front()
    }

    fn end_of_hole(&mut self) {
        if self.hole > 0 {
            self.ready.push_back(Cut::Hole(std::mem::take(&mut self.hole)));
        }
    }

    fn end_of_data(&mut self) {
        let mut rest = std::mem::take(&mut self.pending).freeze();
        while !rest.is_empty() {
            let length = self.cutter.cut(self.profile, &rest);
            self.ready.push_back(Cut::Chunk(rest.split_to(length)));
        }
    }

    fn push_data(&mut self, mut piece: Bytes) {
        if !self.pending.is_empty() {
            match self.complete_pending(&piece) {
                Some(used) => drop(piece.split_to(used)),
                None => return,
            }
        }
        while !piece.is_empty() {
            let length = self.cutter.cut(self.profile, &piece);
            if length == piece.len() && length < self.profile.max {
                self.pending.extend_from_slice(&piece);
                return;
            }
            self.ready.push_back(Cut::Chunk(piece.split_to(length)));
        }
    }

    /// Looks for the end of the pending chunk in `piece` and says how many of its bytes it took;
    /// `None` where the chunk goes on behind the piece, which is then copied.
    fn complete_pending(&mut self, piece: &[u8]) -> Option<usize> {
        let before = self.pending.len();
        let mut copied = 0;
        // The end is seldom far, so the first step copies little.
        for step in [self.profile.avg, self.profile.max] {
            let upto = piece.len().min(step.min(self.profile.max - before));
            if upto <= copied {
                continue;
            }
            self.pending.extend_from_slice(&piece[copied..upto]);
            copied = upto;
            let length = self.cutter.cut(self.profile, &self.pending);
            if length < self.pending.len() || length == self.profile.max {
                let mut whole = std::mem::take(&mut self.pending);
                whole.truncate(length);
                self.ready.push_back(Cut::Chunk(whole.freeze()));
                return Some(length - before);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u8, length: usize) -> Bytes {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes.into()
    }

    fn cutter() -> Cutter {
        Cutter::new(&Secret([7; 32]))
    }

    fn cuts(shape: Shape, pieces: impl IntoIterator<Item = Piece>) -> Vec<Cut> {
        let mut chunker = Chunker::new(cutter(), shape);
        let mut out = Vec::new();
        for piece in pieces {
            chunker.push(piece);
            out.extend(std::iter::from_fn(|| chunker.next_cut()));
        }
        chunker.finish();
        out.extend(std::iter::from_fn(|| chunker.next_cut()));
        out
    }

    fn lengths(cuts: &[Cut]) -> Vec<u64> {
        cuts.iter()
            .map(|cut| match cut {
                Cut::Chunk(bytes) => bytes.len() as u64,
                Cut::Hole(bytes) => *bytes,
            })
            .collect()
    }

    /// `bytes` in pieces of these lengths, over and over.
    fn pieces(bytes: &Bytes, sizes: &[usize]) -> Vec<Piece> {
        let mut rest = bytes.clone();
        let mut out = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            out.push(Piece::Data(rest.split_to((*size).clamp(1, rest.len()))));
        }
        out
    }

    #[test]
    fn cut_points_never_change_from_one_release_to_the_next() {
        let data = noise(1, 2 << 20);
        let whole = |shape| lengths(&cuts(shape, [Piece::Data(data.clone())]));
        assert_eq!(whole(Shape::Stream), GOLDEN_STREAM);
        assert_eq!(whole(Shape::Rows)[..12], GOLDEN_ROWS);
    }

    const GOLDEN_STREAM: [u64; 8] = [284_909, 125_146, 494_052, 393_724, 155_412, 78_093, 403_590, 162_226];
    const GOLDEN_ROWS: [u64; 12] =
        [48_954, 116_612, 85_090, 34_253, 71_831, 23_007, 30_308, 47_738, 21_672, 78_783, 84_686, 96_772];

    #[test]
    fn another_key_cuts_elsewhere() {
        let data = noise(1, 4 << 20);
        let mut other = Chunker::new(Cutter::new(&Secret([8; 32])), Shape::Rows);
        other.push(Piece::Data(data.clone()));
        other.finish();
        let other: Vec<Cut> = std::iter::from_fn(|| other.next_cut()).collect();
        assert_ne!(lengths(&other), lengths(&cuts(Shape::Rows, [Piece::Data(data)])));
    }

    #[test]
    fn a_short_body_is_one_chunk_in_the_memory_it_came_in() {
        let data = noise(2, 60_000);
        assert_eq!(cuts(Shape::Stream, [Piece::Data(data.clone())]), [Cut::Chunk(data)]);
        assert_eq!(cuts(Shape::Stream, []), []);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(3, 8 << 20);
        let mut after = before.to_vec();
        after.splice((3 << 20)..(3 << 20), *b"one more row");
        let before = cuts(Shape::Rows, pieces(&before, &[1 << 20]));
        let after = cuts(Shape::Rows, pieces(&after.into(), &[1 << 20]));
        let fresh = after.iter().filter(|cut| !before.contains(cut)).count();
        assert!(before.len() > 80, "{} chunks", before.len());
        assert!((1..=3).contains(&fresh), "{fresh} new chunks");
    }

    #[test]
    fn holes_stay_holes_and_neighbouring_ones_become_one() {
        let data = noise(4, 100);
        let stream = [
            Piece::Hole(5),
            Piece::Hole(0),
            Piece::Data(Bytes::new()),
            Piece::Hole(6),
            Piece::Data(data.clone()),
            Piece::Hole(1 << 40),
        ];
        assert_eq!(cuts(Shape::Stream, stream), [Cut::Hole(11), Cut::Chunk(data), Cut::Hole(1 << 40)]);
    }

    #[test]
    fn chunks_keep_to_their_profile() {
        for shape in [Shape::Stream, Shape::Rows] {
            let Profile { min, avg, max } = Profile::of(shape);
            let zeros = lengths(&cuts(shape, pieces(&vec![0; 8 << 20].into(), &[700_001])));
            let random = lengths(&cuts(shape, pieces(&noise(5, 32 << 20), &[1 << 20])));
            for cuts in [&zeros, &random] {
                let (_, body) = cuts.split_last().expect("chunks");
                assert!(body.iter().all(|n| (min as u64..=max as u64).contains(n)));
            }
            let mean = (32 << 20) / random.len();
            assert!((avg * 3 / 4..avg * 3 / 2).contains(&mean), "{shape:?}: {mean}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn boundaries_do_not_depend_on_the_pieces(
            sizes in prop::collection::vec(1usize..1_500_000, 1..6),
            length in 0usize..3_000_000,
            repeat in any::<bool>(),
            rows in any::<bool>(),
        ) {
            let shape = if rows { Shape::Rows } else { Shape::Stream };
            let data = if repeat { noise(6, 50_021).repeat(length / 50_021 + 1).into() } else { noise(6, length) };
            let whole = cuts(shape, (!data.is_empty()).then(|| Piece::Data(data.clone())));
            let parts = cuts(shape, pieces(&data, &sizes));
            prop_assert_eq!(lengths(&whole), lengths(&parts));
            let mut joined = Vec::new();
            for cut in parts {
                if let Cut::Chunk(bytes) = cut {
                    joined.extend_from_slice(&bytes);
                }
            }
            prop_assert!(joined == data, "the chunks are not the input");
        }
    }
}

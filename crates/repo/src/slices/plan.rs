//! Which slices of a chunk are at hand, and whether it pays to refer to them.

use std::collections::{HashMap, VecDeque};
use std::io;

use lifeboat_model::ChunkId;

use super::{Place, Slice, SliceHash, SliceMap, Slicer};

/// Segments on each side of the place that was met last, in which slices are looked for: 16 MiB of
/// rows, 64 MiB of anything else.
const REACH: usize = 256;
/// What a further part costs in the manifest, in references and at each restore, in stored bytes.
const PART_COST: usize = 64;
/// Slices without a known part in a row, after which the rest of a chunk is not cut finely: it is new.
const MISSES_MAX: usize = 16;
/// Slices around the place that was met last at most, where they are fine, but for those of one segment:
/// some 60 MiB of memory.
pub(super) const LOADED_MAX: usize = 1 << 19;
/// Segments behind that place that stay all the same.
const BEHIND: usize = 32;

/// How a part of a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// As bytes of a chunk that is at hand.
    Old(Place),
    /// In the chunk's own new chunk, behind the fresh parts before it.
    Fresh(u32),
}

impl Part {
    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Old(place) => place.len,
            Self::Fresh(len) => *len,
        }
    }
}

/// How to store a chunk, and what to remember of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) parts: Vec<Part>,
    pub(crate) slices: Vec<Slice>,
}

impl Plan {
    fn add(&mut self, slice: Slice, known: Option<Place>) {
        match (known, self.parts.last_mut()) {
            (Some(place), Some(Part::Old(last)))
                if last.chunk == place.chunk && last.offset + last.len == place.offset =>
            {
                last.len += place.len;
            }
            (Some(place), _) => self.parts.push(Part::Old(place)),
            (None, Some(Part::Fresh(fresh))) => *fresh += slice.len,
            (None, _) => self.parts.push(Part::Fresh(slice.len)),
        }
        self.slices.push(slice);
    }
}

/// The stretch of a slice map around the place that a stream has come to.
///
/// Streams mostly keep their order from backup to backup, so a few hundred segments are enough; a
/// chunk that stands in the map moves the window to where it stands.
#[derive(Debug)]
pub(crate) struct Window {
    map: SliceMap,
    /// Number of the first loaded segment.
    first: usize,
    /// Hashes of each loaded segment.
    loaded: VecDeque<Vec<SliceHash>>,
    places: HashMap<SliceHash, (Place, usize)>,
}

impl Window {
    pub(crate) fn new(map: SliceMap) -> Self {
        Self { map, first: 0, loaded: VecDeque::new(), places: HashMap::new() }
    }

    /// Loads what lies around a segment.
    fn move_to(&mut self, segment: usize) -> io::Result<()> {
        let to = (segment + REACH).min(self.map.len());
        let mut from = segment.saturating_sub(REACH);
        if (self.first..self.first + self.loaded.len()).contains(&segment) {
            from = from.max(self.first);
        } else {
            self.loaded.clear();
            self.places.clear();
            self.first = from;
        }
        while self.first < from {
            self.drop_first();
        }
        while self.first + self.loaded.len() < to {
            if self.places.len() >= LOADED_MAX {
                if self.first + BEHIND >= segment {
                    break;
                }
                self.drop_first();
                continue;
            }
            let number = self.first + self.loaded.len();
            let segment = self.map.segment(number)?;
            let hashes = segment.located().map(|(slice, place)| {
                self.places.insert(slice.hash, (place, number));
                slice.hash
            });
            let hashes = hashes.collect();
            self.loaded.push_back(hashes);
        }
        Ok(())
    }

    fn drop_first(&mut self) {
        for hash in self.loaded.pop_front().into_iter().flatten() {
            if self.places.get(&hash).is_some_and(|(_, segment)| *segment == self.first) {
                self.places.remove(&hash);
            }
        }
        self.first += 1;
    }

    /// Moves to a chunk that is at hand as a whole, if the map has it.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn met(&mut self, chunk: &ChunkId) -> io::Result<()> {
        self.map.number(chunk).map_or(Ok(()), |number| self.move_to(number))
    }

    /// How to store a chunk that is not at hand as a whole, of which these are the bytes and the slices.
    /// `at_hand` says whether a chunk may be referred to.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn plan(
        &mut self,
        by: &Slicer,
        (chunk, bytes): (&ChunkId, &[u8]),
        slices: &[Slice],
        at_hand: impl Fn(&ChunkId) -> bool,
    ) -> io::Result<Plan> {
        if self.loaded.is_empty() {
            self.move_to(0)?;
        }
        self.met(chunk)?;
        let mut asked: HashMap<ChunkId, bool> = HashMap::new();
        let mut furthest = None;
        let mut find = |slice: &Slice| {
            let (place, segment) = self.places.get(&slice.hash)?;
            let fits = place.len == slice.len && *asked.entry(place.chunk).or_insert_with(|| at_hand(&place.chunk));
            furthest = furthest.max(fits.then_some(*segment));
            fits.then_some(*place)
        };
        let (mut plan, mut misses, mut rest) = (Plan::default(), 0, bytes);
        for slice in slices {
            let (bytes, after) = rest.split_at(slice.len as usize);
            rest = after;
            let known = find(slice);
            if known.is_some() {
                misses = 0;
            }
            if known.is_some() || misses == MISSES_MAX {
                plan.add(*slice, known);
                continue;
            }
            misses += 1;
            for fine in by.fine(bytes) {
                let known = find(&fine);
                if known.is_some() {
                    misses = 0;
                }
                plan.add(fine, known);
            }
        }
        if let Some(segment) = furthest {
            self.move_to(segment)?;
        }
        if !pays(&plan.parts) {
            plan.parts = vec![Part::Fresh(slices.iter().map(|slice| slice.len).sum())];
        }
        Ok(plan)
    }

    /// How many slices are at hand.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.places.len()
    }
}

/// Whether referring to old chunks saves enough.
fn pays(parts: &[Part]) -> bool {
    let whole: usize = parts.iter().map(|part| part.len() as usize).sum();
    let fresh: usize = parts.iter().filter(|part| matches!(part, Part::Fresh(_))).map(|part| part.len() as usize).sum();
    fresh + parts.len() * PART_COST <= whole / 4 * 3
}

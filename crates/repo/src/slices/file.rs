//! The file of a slice map.
//!
//! `magic (16) || binding (32)`, a segment for each chunk that the stream was cut into, in order, the
//! fences (`first eight bytes of the chunk's id || offset of its segment`, u64 each), their number
//! (u64), and keyed BLAKE3 of everything before. A segment is `chunk id (32) || number of places (u32) ||
//! number of slices (u32) || places || slices`; a place is `chunk id (32) || offset (u32) || length (u32)`
//! and together they hold the chunk's bytes; a slice is `hash (16) || length (u32)`. No slice crosses
//! from one place to the next.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lifeboat_model::{ChunkId, Digest};
use tempfile::{NamedTempFile, TempPath};

use super::{HASH_BYTES, Place, Slice};
use crate::cache::{self, BOUND_HEADER_BYTES};
use crate::crypt::Secret;

const MAGIC: &[u8; 16] = b"lifeboat slices0";
const SEGMENT_HEAD_BYTES: usize = 32 + 4 + 4;
const PLACE_BYTES: usize = 32 + 4 + 4;
const SLICE_BYTES: usize = HASH_BYTES + 4;
/// The most chunks of one map: 24 MiB of memory. What a longer stream has behind them has no slices.
const SEGMENTS_MAX: usize = 1 << 20;

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| damaged("a number is cut off"))?;
    Ok(u32::from_le_bytes(*four))
}

fn prefix(id: &ChunkId) -> u64 {
    u64::from_le_bytes(*id.bytes().first_chunk().expect("an id has 32 bytes"))
}

/// A chunk of the last backup's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The id that the chunk has or would have, were it stored whole.
    pub(crate) chunk: ChunkId,
    pub(crate) places: Vec<Place>,
    pub(crate) slices: Vec<Slice>,
}

impl Segment {
    /// Each slice with where it is stored.
    pub(crate) fn located(&self) -> impl Iterator<Item = (Slice, Place)> {
        let mut places = self.places.iter().copied();
        let mut rest = places.next();
        self.slices.iter().map_while(move |slice| {
            while rest.is_some_and(|place| place.len == 0) {
                rest = places.next();
            }
            let here = rest.as_mut().filter(|place| place.len >= slice.len)?;
            let place = Place { len: slice.len, ..*here };
            here.offset += slice.len;
            here.len -= slice.len;
            Some((*slice, place))
        })
    }
}

/// Writes the map of one stream.
#[derive(Debug)]
pub(crate) struct SliceMapWriter {
    out: BufWriter<NamedTempFile>,
    mac: blake3::Hasher,
    at: u64,
    fences: Vec<u8>,
}

impl SliceMapWriter {
    /// Starts a file without a name that lasts in `directory`.
    pub(crate) fn create(directory: &Path, key: &Secret, binding: &Digest) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix(".slices-").tempfile_in(directory)?;
        let out = BufWriter::with_capacity(64 << 10, file);
        let mut this = Self { out, mac: blake3::Hasher::new_keyed(&key.0), at: 0, fences: Vec::new() };
        this.bytes(MAGIC)?;
        this.bytes(&binding.0)?;
        Ok(this)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mac.update(bytes);
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Adds the next chunk of the stream.
    pub(crate) fn segment(&mut self, segment: &Segment) -> io::Result<()> {
        if self.fences.len() / 16 >= SEGMENTS_MAX {
            return Ok(());
        }
        self.fences.extend_from_slice(&prefix(&segment.chunk).to_le_bytes());
        self.fences.extend_from_slice(&self.at.to_le_bytes());
        let count = |length: usize| u32::try_from(length).map_err(io::Error::other).map(u32::to_le_bytes);
        let mut bytes = segment.chunk.bytes().to_vec();
        bytes.extend_from_slice(&count(segment.places.len())?);
        bytes.extend_from_slice(&count(segment.slices.len())?);
        for place in &segment.places {
            bytes.extend_from_slice(place.chunk.bytes());
            bytes.extend_from_slice(&place.offset.to_le_bytes());
            bytes.extend_from_slice(&place.len.to_le_bytes());
        }
        for slice in &segment.slices {
            bytes.extend_from_slice(&slice.hash);
            bytes.extend_from_slice(&slice.len.to_le_bytes());
        }
        self.bytes(&bytes)
    }

    /// Ends the file; it is removed unless it gets a lasting name.
    pub(crate) fn finish(mut self) -> io::Result<TempPath> {
        let fences = std::mem::take(&mut self.fences);
        self.bytes(&fences)?;
        self.bytes(&(fences.len() as u64 / 16).to_le_bytes())?;
        let mac = self.mac.finalize();
        self.out.write_all(mac.as_bytes())?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(file.into_temp_path())
    }
}

/// The map of a stream as the last backup left it, checked and open.
#[derive(Debug)]
pub(crate) struct SliceMap {
    file: File,
    /// Where each segment starts, and behind them the end of the last.
    starts: Vec<u64>,
    numbers: HashMap<u64, u32>,
}

impl SliceMap {
    /// Opens the file after all of it was checked.
    ///
    /// # Errors
    /// Where it is missing, damaged or of another source: the caller goes on without.
    pub(crate) fn open(path: &Path, key: &Secret, binding: &Digest) -> io::Result<Self> {
        let (file, signed) = cache::open_bound(path, MAGIC, key, binding)?;
        let mut count = [0; 8];
        file.read_exact_at(&mut count, signed - 8)?;
        let fences =
            u64::from_le_bytes(count).checked_mul(16).filter(|bytes| *bytes <= signed - 8 - BOUND_HEADER_BYTES);
        let fences = fences.ok_or_else(|| damaged("too many fences"))?;
        let mut bytes = vec![0; usize::try_from(fences).map_err(io::Error::other)?];
        let end = signed - 8 - fences;
        file.read_exact_at(&mut bytes, end)?;
        let (mut starts, mut numbers) = (Vec::new(), HashMap::new());
        for (number, fence) in (0..).zip(bytes.as_chunks::<16>().0) {
            let (id, start) = fence.split_at(8);
            let read = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
            numbers.insert(read(id), number);
            starts.push(read(start));
        }
        starts.push(end);
        Ok(Self { file, starts, numbers })
    }

    /// How many segments there are.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Which segment is of the chunk with this id, as far as its first bytes tell.
    pub(crate) fn number(&self, chunk: &ChunkId) -> Option<usize> {
        self.numbers.get(&prefix(chunk)).map(|number| *number as usize)
    }

    /// A segment.
    ///
    /// # Errors
    /// Of the disk, or where it was changed since it was opened.
    pub(crate) fn segment(&self, number: usize) -> io::Result<Segment> {
        let &[start, end] = self
            .starts
            .get(number..number + 2)
            .and_then(<[u64]>::first_chunk)
            .ok_or_else(|| damaged("no such segment"))?;
        let length = end.checked_sub(start).ok_or_else(|| damaged("segments do not ascend"))?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, start)?;
        let id = |bytes: &[u8]| {
            bytes.first_chunk::<32>().map(|id| ChunkId::from(*id)).ok_or_else(|| damaged("an id is cut off"))
        };
        let (places, slices) = (u32_at(&bytes, 32)? as usize, u32_at(&bytes, 36)? as usize);
        let rest = &bytes[SEGMENT_HEAD_BYTES..];
        let split = places.checked_mul(PLACE_BYTES).and_then(|at| rest.split_at_checked(at));
        let (places, rest) = split.ok_or_else(|| damaged("a segment is cut off"))?;
        if Some(rest.len()) != slices.checked_mul(SLICE_BYTES) {
            return Err(damaged("a segment is cut off"));
        }
        let place = |bytes: &[u8]| Ok(Place { chunk: id(bytes)?, offset: u32_at(bytes, 32)?, len: u32_at(bytes, 36)? });
        let slice = |bytes: &[u8]| {
            let hash = *bytes.first_chunk().ok_or_else(|| damaged("a slice is cut off"))?;
            Ok(Slice { hash, len: u32_at(bytes, HASH_BYTES)? })
        };
        Ok(Segment {
            chunk: id(&bytes)?,
            places: places.chunks_exact(PLACE_BYTES).map(place).collect::<io::Result<_>>()?,
            slices: rest.chunks_exact(SLICE_BYTES).map(slice).collect::<io::Result<_>>()?,
        })
    }
}

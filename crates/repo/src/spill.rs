//! Sorting what does not fit into memory: records by key, the newest of a key wins.
//!
//! What has no room goes to unnamed files of the scratch directory, encrypted under a key that only
//! this process has, since entries carry names. Nothing is left of them when the process ends, however
//! it ends.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BytesMut};
use lifeboat_model::flow::RunContext;

use crate::crypt::{Aead, Secret, TAG_BYTES};

/// The most plain bytes of one encrypted block of a run.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// The fewest.
const BLOCK_BYTES_MIN: usize = 4 << 10;
/// While runs are joined each has a block in memory: no more than this part of what is sorted there.
const BLOCK_SHARE: usize = 64;
/// The part of the memory budget that one sorter of upkeep takes. Three work at the same time.
const BUDGET_SHARE: u64 = 16;
/// Key length, value length, sequence.
const HEAD_BYTES: usize = 4 + 4 + 8;

/// Collects records in any order. Keys compare as bytes; of equal keys the one that was pushed last
/// counts.
#[derive(Debug)]
pub(crate) struct Sorter {
    scratch: PathBuf,
    limit_bytes: usize,
    arena: Vec<u8>,
    places: Vec<Place>,
    runs: Vec<Run>,
    sequence: u64,
}

/// Where a record lies in the arena.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    key_len: u32,
    value_len: u32,
    sequence: u64,
}

impl Place {
    fn key(self, arena: &[u8]) -> &[u8] {
        &arena[self.start..self.start + self.key_len as usize]
    }

    fn value(self, arena: &[u8]) -> &[u8] {
        let start = self.start + self.key_len as usize;
        &arena[start..start + self.value_len as usize]
    }
}

fn length_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a record to sort stays far below 4 GiB")
}

impl Sorter {
    /// For upkeep, which looks at everything: keeps its share of the memory budget in memory, the rest in
    /// the scratch directory.
    #[must_use]
    pub(crate) fn within(ctx: &RunContext) -> Self {
        Self::new(&ctx.scratch, usize::try_from(ctx.memory_budget_bytes / BUDGET_SHARE).unwrap_or(usize::MAX))
    }

    /// Keeps about `limit_bytes` in memory, the rest in `scratch`.
    #[must_use]
    pub(crate) fn new(scratch: &Path, limit_bytes: usize) -> Self {
        Self {
            scratch: scratch.to_owned(),
            limit_bytes,
            arena: Vec::new(),
            places: Vec::new(),
            runs: Vec::new(),
            sequence: 0,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Of the scratch directory, when memory is full.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if self.arena.is_empty() {
            self.arena.reserve_exact(self.limit_bytes.min(1 << 20));
        }
        let record = key.len() + value.len() + size_of::<Place>();
        if !self.places.is_empty() && self.memory_bytes() + record > self.limit_bytes {
            self.spill()?;
        }
        let place = Place {
            start: self.arena.len(),
            key_len: length_u32(key),
            value_len: length_u32(value),
            sequence: self.sequence,
        };
        self.sequence += 1;
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(value);
        self.places.push(place);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.arena.len() + self.places.len() * size_of::<Place>()
    }

    /// Whether a record of ordinary length may have to wait for the disk.
    #[must_use]
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.memory_bytes() + (8 << 10) > self.limit_bytes
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        self.places.sort_unstable_by(|a, b| a.key(arena).cmp(b.key(arena)).then(b.sequence.cmp(&a.sequence)));
        self.places.dedup_by(|later, kept| later.key(arena) == kept.key(arena));
    }

    /// Writes what is in memory to the disk.
    ///
    /// # Errors
    /// Of the scratch directory.
    pub(crate) fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let block_bytes = (self.limit_bytes / BLOCK_SHARE).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        let mut run = RunWriter::create(&self.scratch, block_bytes)?;
        for place in &self.places {
            run.record(place.key(&self.arena), place.value(&self.arena), place.sequence)?;
        }
        self.runs.push(run.finish()?);
        self.arena.clear();
        self.places.clear();
        Ok(())
    }

    /// Everything in the order of the keys, each key once.
    ///
    /// # Errors
    /// Of the scratch directory.
    pub(crate) fn finish(mut self) -> io::Result<Sorted> {
        if !self.runs.is_empty() && !self.places.is_empty() {
            self.spill()?;
        }
        if !self.runs.is_empty() {
            (self.arena, self.places) = (Vec::new(), Vec::new());
        }
        self.sort();
        let mut heap = BinaryHeap::with_capacity(self.runs.len());
        for run in std::mem::take(&mut self.runs) {
            heap.extend(RunReader::open(run)?);
        }
        Ok(Sorted { arena: self.arena, places: self.places.into_iter(), heap, last: None })
    }
}

/// Records in the order of their keys.
#[derive(Debug)]
pub(crate) struct Sorted {
    arena: Vec<u8>,
    places: std::vec::IntoIter<Place>,
    heap: BinaryHeap<RunReader>,
    last: Option<Vec<u8>>,
}

impl Sorted {
    /// Hands the next record's key and value to `take`; `None` at the end.
    ///
    /// # Errors
    /// Of the scratch directory.
    pub(crate) fn next<T>(&mut self, take: impl FnOnce(&[u8], &[u8]) -> T) -> io::Result<Option<T>> {
        if let Some(place) = self.places.next() {
            return Ok(Some(take(place.key(&self.arena), place.value(&self.arena))));
        }
        while let Some(run) = self.heap.peek() {
            if self.last.as_deref() != Some(run.key()) {
                break;
            }
            self.advance_first()?;
        }
        let Some(run) = self.heap.peek() else { return Ok(None) };
        let taken = take(run.key(), run.value());
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(run.key());
        self.advance_first()?;
        Ok(Some(taken))
    }

    fn advance_first(&mut self) -> io::Result<()> {
        if let Some(mut run) = self.heap.pop()
            && run.advance()?
        {
            self.heap.push(run);
        }
        Ok(())
    }
}

/// A sorted stretch of records in a scratch file.
#[derive(Debug)]
struct Run {
    file: File,
    key: Secret,
    block_bytes: usize,
    plain_bytes: u64,
}

struct RunWriter {
    out: BufWriter<File>,
    key: Secret,
    aead: Aead,
    block_bytes: usize,
    block: BytesMut,
    blocks: u64,
    plain_bytes: u64,
}

impl RunWriter {
    fn create(scratch: &Path, block_bytes: usize) -> io::Result<Self> {
        let key = Secret::random();
        let aead = Aead::new(&key);
        let out = BufWriter::with_capacity(block_bytes, tempfile::tempfile_in(scratch)?);
        let block = BytesMut::with_capacity(block_bytes + TAG_BYTES);
        Ok(Self { out, key, aead, block_bytes, block, blocks: 0, plain_bytes: 0 })
    }

    fn record(&mut self, key: &[u8], value: &[u8], sequence: u64) -> io::Result<()> {
        self.bytes(&length_u32(key).to_le_bytes())?;
        self.bytes(&length_u32(value).to_le_bytes())?;
        self.bytes(&sequence.to_le_bytes())?;
        self.bytes(key)?;
        self.bytes(value)
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.plain_bytes += bytes.len() as u64;
        while self.block.len() + bytes.len() >= self.block_bytes {
            let (now, later) = bytes.split_at(self.block_bytes - self.block.len());
            self.block.extend_from_slice(now);
            self.end_block()?;
            bytes = later;
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.aead.seal_tail(self.blocks, &[], &mut self.block, 0);
        self.out.write_all(&self.block)?;
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<Run> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Run { file, key: self.key, block_bytes: self.block_bytes, plain_bytes: self.plain_bytes })
    }
}

/// Reads a run; its current record orders it among other runs.
#[derive(Debug)]
struct RunReader {
    file: File,
    aead: Aead,
    block_bytes: usize,
    next_block: u64,
    left: u64,
    /// Decrypted and not read yet.
    ready: BytesMut,
    record: BytesMut,
    key_len: usize,
    sequence: u64,
}

impl RunReader {
    /// A reader at the first record; `None` for an empty run.
    fn open(run: Run) -> io::Result<Option<Self>> {
        let mut reader = Self {
            file: run.file,
            aead: Aead::new(&run.key),
            block_bytes: run.block_bytes,
            next_block: 0,
            left: run.plain_bytes,
            ready: BytesMut::new(),
            record: BytesMut::new(),
            key_len: 0,
            sequence: 0,
        };
        Ok(reader.advance()?.then_some(reader))
    }

    fn key(&self) -> &[u8] {
        &self.record[..self.key_len]
    }

    fn value(&self) -> &[u8] {
        &self.record[self.key_len..]
    }

    /// Goes to the next record; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        if self.ready.is_empty() && self.left == 0 {
            return Ok(false);
        }
        self.need(HEAD_BYTES)?;
        self.key_len = self.ready.get_u32_le() as usize;
        let value_len = self.ready.get_u32_le() as usize;
        self.sequence = self.ready.get_u64_le();
        self.need(self.key_len + value_len)?;
        self.record.clear();
        self.record.extend_from_slice(&self.ready[..self.key_len + value_len]);
        self.ready.advance(self.key_len + value_len);
        Ok(true)
    }

    fn need(&mut self, bytes: usize) -> io::Result<()> {
        while self.ready.len() < bytes {
            let plain = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.block_bytes);
            if plain == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a scratch file ends in a record"));
            }
            let mut block = vec![0; plain + TAG_BYTES];
            self.file.read_exact_at(&mut block, self.next_block * (self.block_bytes + TAG_BYTES) as u64)?;
            let plain = self.aead.open_in_place(self.next_block, &[], &mut block).map_err(io::Error::other)?;
            self.left -= plain.len() as u64;
            self.next_block += 1;
            self.ready.extend_from_slice(plain);
        }
        Ok(())
    }
}

/// The smallest key, and of equal keys the newest record, is the greatest: [`BinaryHeap`] pops it first.
impl Ord for RunReader {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(self.key()).then(self.sequence.cmp(&other.sequence))
    }
}

impl PartialOrd for RunReader {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for RunReader {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for RunReader {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn sorted(limit: usize, records: &[Pair]) -> Vec<Pair> {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut sorter = Sorter::new(scratch.path(), limit);
        for (key, value) in records {
            sorter.push(key, value).expect("pushed");
        }
        let mut records_in_order = sorter.finish().expect("sorted");
        std::iter::from_fn(|| records_in_order.next(|key, value| (key.to_vec(), value.to_vec())).expect("read"))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn records_come_out_in_order_and_the_last_of_a_key_wins(
            records in prop::collection::vec(
                (prop::collection::vec(0u8..4, 0..4), prop::collection::vec(any::<u8>(), 0..300)), 0..200),
            limit in 100usize..20_000,
        ) {
            let expected: Vec<Pair> = records.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect();
            prop_assert_eq!(sorted(limit, &records), expected);
        }
    }

    #[test]
    fn records_longer_than_a_block_survive_the_disk() {
        let records: Vec<Pair> =
            (0..7u8).rev().map(|n| (vec![n], vec![n; BLOCK_BYTES_MIN * 2 + usize::from(n)])).collect();
        let mut expected = records.clone();
        expected.reverse();
        assert_eq!(sorted(1000, &records), expected);
    }

    #[test]
    fn what_lies_on_disk_has_no_name_and_does_not_show_its_keys() {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut sorter = Sorter::new(scratch.path(), 10_000);
        for number in 0..2000 {
            sorter.push(format!("secret-name-{number}").as_bytes(), b"value").expect("pushed");
        }
        assert!(sorter.runs.len() > 3, "{} runs", sorter.runs.len());
        assert_eq!(std::fs::read_dir(scratch.path()).expect("listed").count(), 0);
        let mut on_disk = Vec::new();
        sorter.runs[0].file.read_to_end(&mut on_disk).expect("read");
        assert!(on_disk.len() > 5_000);
        assert!(!on_disk.windows(11).any(|bytes| bytes == b"secret-name"));
    }

    #[test]
    fn a_missing_scratch_directory_is_an_error_and_not_a_loss() {
        let mut sorter = Sorter::new(Path::new("/nonexistent/scratch"), 100);
        let mut results = (0..10u8).map(|n| sorter.push(&[n], &[0; 50]));
        assert!(results.any(|result| result.is_err()));
    }
}

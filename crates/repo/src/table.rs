//! Local files of sorted rows with keys of 32 bytes, looked up on disk.
//!
//! A table costs about 12 bits of memory for each row: a filter that tells most missing keys, and
//! the first eight bytes of every block. A look-up reads one block, seldom two. Keys must be hashes
//! (their bits are used as they are); a key may stand in several rows.
//!
//! A table is a cache. Every block and the rest carry checksums; a damaged table is an error that
//! tells the caller to throw the file away and build it anew.
//!
//! File: blocks of 4,096 bytes (rows, zeros, 16 bytes of checksum), the fences (first eight bytes of
//! each block's first key, big-endian as in the key), the filter, the caller's note, and 96 bytes
//! that hold the lengths and the checksum of all but the blocks.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::NamedTempFile;

use crate::crypt::random;

mod filter;
mod rows;

use filter::Filter;
pub use rows::{Merge, Row, Rows};

/// Length of a key.
pub const KEY_BYTES: usize = 32;
const BLOCK_BYTES: usize = 4096;
const CHECK_BYTES: usize = 16;
const TAIL_BYTES: usize = 96;
const MAGIC: &[u8; 8] = b"LBTABLE0";

/// The longest value of a row, so that some rows fit into a block.
pub const VALUE_BYTES_MAX: usize = 256;

/// Why a table cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The disk.
    #[error("{doing} the table {} failed", .path.display())]
    Io {
        /// `reading`, `writing`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its bytes are not what was written: remove it and build it anew.
    #[error("the table {} is damaged: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

impl TableError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::Damaged { path, .. } => path,
        }
    }
}

/// A key of a row.
pub type RowKey = [u8; KEY_BYTES];

fn rows_per_block(value_bytes: usize) -> usize {
    (BLOCK_BYTES - CHECK_BYTES) / (KEY_BYTES + value_bytes)
}

fn checksum(salt: &[u8; 16], number: u64, rows: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt).update(&number.to_le_bytes()).update(rows);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn fence_of(key: &RowKey) -> u64 {
    u64::from_be_bytes(*key.first_chunk().expect("a key has 32 bytes"))
}

/// Writes a table beside its place and renames it when it is whole and durable.
#[derive(Debug)]
pub struct TableWriter {
    out: BufWriter<NamedTempFile>,
    path: PathBuf,
    value_bytes: usize,
    salt: [u8; 16],
    block: Vec<u8>,
    last: Option<RowKey>,
    rows: u64,
    fences: Vec<u64>,
    filter: Filter,
}

impl TableWriter {
    /// Starts a table at `path`, whose directory is there. `expected_rows` sizes the filter: more
    /// rows make it less sharp, nothing else.
    ///
    /// # Errors
    /// [`TableError::Io`].
    ///
    /// # Panics
    /// For values longer than [`VALUE_BYTES_MAX`].
    pub fn create(path: &Path, value_bytes: usize, expected_rows: u64) -> Result<Self, TableError> {
        assert!(value_bytes <= VALUE_BYTES_MAX, "values of {value_bytes} bytes are too long for a table");
        let directory = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(".table-")
            .tempfile_in(directory)
            .map_err(TableError::io("writing", path))?;
        Ok(Self {
            out: BufWriter::with_capacity(64 << 10, file),
            path: path.to_owned(),
            value_bytes,
            salt: random(),
            block: Vec::with_capacity(BLOCK_BYTES),
            last: None,
            rows: 0,
            fences: Vec::new(),
            filter: Filter::for_rows(expected_rows),
        })
    }

    /// Adds a row. Rows of one key keep their order.
    ///
    /// # Errors
    /// [`TableError::Io`].
    ///
    /// # Panics
    /// Where `key` is lower than the one before, or `value` has another length than the table's: a
    /// mistake in the program.
    pub fn push(&mut self, key: &RowKey, value: &[u8]) -> Result<(), TableError> {
        assert!(self.last.is_none_or(|last| last <= *key), "rows of a table ascend");
        assert!(value.len() == self.value_bytes, "values of a table have one length");
        if self.block.is_empty() {
            self.fences.push(fence_of(key));
        }
        self.filter.insert(key);
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.rows += 1;
        self.last = Some(*key);
        if self.block.len() == rows_per_block(self.value_bytes) * (KEY_BYTES + self.value_bytes) {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), TableError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.block.resize(BLOCK_BYTES - CHECK_BYTES, 0);
        let check = checksum(&self.salt, self.fences.len() as u64 - 1, &self.block);
        self.block.extend_from_slice(&check);
        let written = self.out.write_all(&self.block);
        self.block.clear();
        written.map_err(TableError::io("writing", &self.path))
    }

    /// Makes the table durable under its path, with a note for the caller's own use.
    ///
    /// # Errors
    /// [`TableError::Io`]; what stood at the path before stays then.
    pub fn finish(mut self, note: &[u8]) -> Result<Table, TableError> {
        self.end_block()?;
        let Self { mut out, path, value_bytes, salt, rows, fences, filter, .. } = self;
        let head = Head { salt, value_bytes, rows, blocks: fences.len() as u64, filter: filter.bytes(), note };
        let fence_bytes: Vec<u8> = fences.iter().flat_map(|fence| fence.to_be_bytes()).collect();
        let mut hasher = blake3::Hasher::new();
        for section in [&fence_bytes[..], filter.bytes(), note, &head.encode()] {
            hasher.update(section);
            out.write_all(section).map_err(TableError::io("writing", &path))?;
        }
        let digest = *hasher.finalize().as_bytes();
        let file = persist(out, &digest, &path).map_err(TableError::io("writing", &path))?;
        let sound = unread(fences.len());
        Ok(Table { file, path, value_bytes, salt, rows, fences, filter, note: note.to_vec(), sound })
    }
}

fn persist(mut out: BufWriter<NamedTempFile>, digest: &[u8; 32], path: &Path) -> io::Result<File> {
    out.write_all(digest)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    let file = file.persist(path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

/// What the tail says besides the checksum.
struct Head<'a> {
    salt: [u8; 16],
    value_bytes: usize,
    rows: u64,
    blocks: u64,
    filter: &'a [u8],
    note: &'a [u8],
}

impl Head<'_> {
    fn encode(&self) -> Vec<u8> {
        let numbers =
            [self.value_bytes as u64, self.rows, self.blocks, self.filter.len() as u64, self.note.len() as u64];
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.salt);
        out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        out
    }
}

/// For each block a bit that is not set.
fn unread(blocks: usize) -> Vec<AtomicU64> {
    (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

/// A table that can be asked.
#[derive(Debug)]
pub struct Table {
    file: File,
    path: PathBuf,
    value_bytes: usize,
    salt: [u8; 16],
    rows: u64,
    fences: Vec<u64>,
    filter: Filter,
    note: Vec<u8>,
    /// A bit for each block that was read and has its checksum: only the first reading compares it.
    sound: Vec<AtomicU64>,
}

impl Table {
    /// Opens a table whose values have this length.
    ///
    /// # Errors
    /// [`TableError::Damaged`] for a file that is no whole table of such values; [`TableError::Io`],
    /// also where there is no file.
    pub fn open(path: &Path, value_bytes: usize) -> Result<Self, TableError> {
        let file = File::open(path).map_err(TableError::io("reading", path))?;
        Self::read(file, path, value_bytes)
            .map_err(TableError::io("reading", path))?
            .map_err(|why| TableError::Damaged { path: path.to_owned(), why })
    }

    fn read(file: File, path: &Path, value_bytes: usize) -> io::Result<Result<Self, &'static str>> {
        let bytes = file.metadata()?.len();
        let Some(tail_at) = bytes.checked_sub(TAIL_BYTES as u64) else { return Ok(Err("it is cut off")) };
        let mut tail = [0; TAIL_BYTES];
        file.read_exact_at(&mut tail, tail_at)?;
        let number = |place: usize| {
            u64::from_le_bytes(*tail[24 + place * 8..].first_chunk().expect("the tail has room for its numbers"))
        };
        let (rows, blocks, filter_bytes, note_bytes) = (number(1), number(2), number(3), number(4));
        if tail[..8] != MAGIC[..] || number(0) != value_bytes as u64 || value_bytes > VALUE_BYTES_MAX {
            return Ok(Err("it is no table of this kind"));
        }
        let lengths = [blocks.checked_mul(BLOCK_BYTES as u64 + 8), Some(filter_bytes), Some(note_bytes)];
        let total = lengths.into_iter().try_fold(0u64, |sum, length| sum.checked_add(length?));
        if total != Some(tail_at) || blocks != rows.div_ceil(rows_per_block(value_bytes) as u64) {
            return Ok(Err("its lengths do not fit"));
        }
        let start = blocks * BLOCK_BYTES as u64;
        let mut rest = vec![0; usize::try_from(tail_at - start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut rest, start)?;
        let digest = blake3::Hasher::new().update(&rest).update(&tail[..TAIL_BYTES - 32]).finalize();
        if digest.as_bytes()[..] != tail[TAIL_BYTES - 32..] {
            return Ok(Err("its checksum differs"));
        }
        let (fences, rest) = rest.split_at(rest.len() - to_usize(filter_bytes) - to_usize(note_bytes));
        let (filter, note) = rest.split_at(to_usize(filter_bytes));
        let Some(filter) = Filter::from_bytes(filter) else { return Ok(Err("its filter has no whole blocks")) };
        Ok(Ok(Self {
            path: path.to_owned(),
            value_bytes,
            salt: *tail[8..].first_chunk().expect("the tail has room for its salt"),
            rows,
            fences: fences.as_chunks().0.iter().map(|fence| u64::from_be_bytes(*fence)).collect(),
            filter,
            note: note.to_vec(),
            sound: unread(to_usize(blocks)),
            file,
        }))
    }

    /// Has the system read the file into its memory in one go, if it is no longer than `bytes_max`: look-ups of
    /// most rows would read it block by block. Returns its length.
    pub(crate) fn read_ahead(&self, bytes_max: u64) -> u64 {
        let bytes = self.file.metadata().map_or(u64::MAX, |meta| meta.len());
        if bytes <= bytes_max {
            // A file system that cannot costs time only.
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::WillNeed);
        }
        bytes
    }

    /// Calls `each` with the value of every row of `key`, in the order in which they were pushed.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn find(&self, key: &RowKey, mut each: impl FnMut(&[u8])) -> Result<(), TableError> {
        if !self.filter.may_hold(key) {
            return Ok(());
        }
        let fence = fence_of(key);
        let first = self.fences.partition_point(|known| *known < fence).saturating_sub(1);
        let mut block = [0; BLOCK_BYTES];
        for number in first..self.fences.len() {
            if self.fences[number] > fence {
                break;
            }
            let rows = self.block(number, &mut block)?;
            let width = KEY_BYTES + self.value_bytes;
            let (mut low, mut high) = (0, rows.len() / width);
            while low < high {
                let middle = usize::midpoint(low, high);
                if rows[middle * width..][..KEY_BYTES] < key[..] { low = middle + 1 } else { high = middle }
            }
            for row in rows[low * width..].chunks_exact(width).take_while(|row| row[..KEY_BYTES] == key[..]) {
                each(&row[KEY_BYTES..]);
            }
        }
        Ok(())
    }

    /// Whether any row has this key.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn contains(&self, key: &RowKey) -> Result<bool, TableError> {
        let mut found = false;
        self.find(key, |_| found = true)?;
        Ok(found)
    }

    /// The rows of a block, checked when it is read for the first time.
    fn block<'b>(&self, number: usize, buffer: &'b mut [u8; BLOCK_BYTES]) -> Result<&'b [u8], TableError> {
        let at = number as u64 * BLOCK_BYTES as u64;
        self.file.read_exact_at(buffer, at).map_err(TableError::io("reading", &self.path))?;
        let (rows, check) = buffer.split_at(BLOCK_BYTES - CHECK_BYTES);
        let (sound, bit) = (&self.sound[number / 64], 1 << (number % 64));
        if sound.load(Ordering::Relaxed) & bit == 0 {
            if checksum(&self.salt, number as u64, rows)[..] != *check {
                return Err(TableError::Damaged { path: self.path.clone(), why: "a block's checksum differs" });
            }
            sound.fetch_or(bit, Ordering::Relaxed);
        }
        let per_block = rows_per_block(self.value_bytes) as u64;
        let here = to_usize((self.rows - number as u64 * per_block).min(per_block));
        Ok(&rows[..here * (KEY_BYTES + self.value_bytes)])
    }

    /// All rows in their order.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows::new(self)
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What the caller noted down.
    #[must_use]
    pub fn note(&self) -> &[u8] {
        &self.note
    }

    /// What the caller noted down, for callers that keep it elsewhere from now on.
    #[must_use]
    pub fn take_note(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.note)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of memory that an open table takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.fences.len() * 8 + self.filter.bytes().len() + self.note.len()
    }
}

fn to_usize(length: u64) -> usize {
    usize::try_from(length).expect("lengths were compared with the file's")
}

#[cfg(test)]
mod tests;

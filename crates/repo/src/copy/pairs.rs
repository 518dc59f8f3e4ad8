//! Which chunk of the one repository is which of the other, so that the next copy reads only what is
//! new. A cache on the local disk: every pair is believed only while the other repository holds the
//! chunk, and losing it costs a read of everything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lifeboat_model::ChunkId;

use crate::cache::StateDir;
use crate::crypt::random;
use crate::error::RepoError;
use crate::index::blocking;
use crate::object::{DomainId, RepositoryId};
use crate::pipeline::stop::with_causes;
use crate::scan::scratch_error;
use crate::spill::Sorter;
use crate::table::{Merge, Table, TableError, TableWriter};

const EXTENSION: &str = "pairs";
/// Id and length.
const VALUE_BYTES: usize = 32 + 4;
/// Pairs of this command that are found again before it ends.
const RECENT_MAX: usize = 128 << 10;
/// Bytes of new pairs that are sorted in memory.
const FRESH_BYTES: usize = 8 << 20;
/// More tables than this are joined, so that a look-up asks few.
const TABLES_MAX: usize = 6;

/// A chunk of the other repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) id: ChunkId,
    /// Length of its plain bytes.
    pub(super) bytes: u32,
}

impl Pair {
    fn encode(self) -> [u8; VALUE_BYTES] {
        let mut out = [0; VALUE_BYTES];
        out[..32].copy_from_slice(self.id.bytes());
        out[32..].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (id, bytes) = value.split_first_chunk::<32>()?;
        Some(Self { id: (*id).into(), bytes: u32::from_le_bytes(bytes.try_into().ok()?) })
    }
}

/// Pairs of one repository and one domain of another.
#[derive(Debug)]
pub(super) struct Pairs {
    directory: PathBuf,
    scratch: PathBuf,
    tables: Vec<Table>,
    recent: HashMap<ChunkId, Pair>,
    fresh: Sorter,
    fresh_count: u64,
}

impl Pairs {
    /// Opens what is there; what is damaged is removed.
    pub(super) async fn open(
        cache: &Path,
        from: RepositoryId,
        to: DomainId,
        scratch: &Path,
    ) -> Result<Self, RepoError> {
        let directory = cache.join("copied").join(format!("{}-{}", hex::encode(from.0), hex::encode(to.0)));
        StateDir::new(cache).make_room_for(&directory.join(EXTENSION))?;
        let below = directory.clone();
        let tables = blocking(move || Ok(tables(&below))).await?;
        let fresh = Sorter::new(scratch, FRESH_BYTES);
        Ok(Self { directory, scratch: scratch.to_owned(), tables, recent: HashMap::new(), fresh, fresh_count: 0 })
    }

    /// The chunk that this one became. A table that turns out damaged is asked no longer.
    pub(super) fn find(&mut self, id: &ChunkId) -> Option<Pair> {
        if let Some(pair) = self.recent.get(id) {
            return Some(*pair);
        }
        let mut found = None;
        self.tables.retain(|table| {
            if found.is_some() {
                return true;
            }
            let looked = table.find(id.bytes(), |value| found = Pair::decode(value));
            looked.map_err(|error| dropped(&error)).is_ok()
        });
        found
    }

    /// Takes note of a pair.
    pub(super) fn add(&mut self, id: &ChunkId, pair: Pair) -> Result<(), RepoError> {
        if self.recent.len() >= RECENT_MAX {
            self.recent.clear();
        }
        self.recent.insert(*id, pair);
        self.fresh_count += 1;
        self.fresh.push(id.bytes(), &pair.encode()).map_err(scratch_error(&self.scratch))
    }

    /// Writes what is new into the cache. A failure costs the next copy time, nothing else.
    pub(super) async fn keep(&mut self) {
        if self.fresh_count == 0 {
            return;
        }
        let fresh = std::mem::replace(&mut self.fresh, Sorter::new(&self.scratch, FRESH_BYTES));
        let (count, directory) = (std::mem::take(&mut self.fresh_count), self.directory.clone());
        let tables = std::mem::take(&mut self.tables);
        match blocking(move || Ok(write(tables, fresh, count, &directory))).await {
            Ok((tables, result)) => {
                self.tables = tables;
                if let Err(error) = result {
                    tracing::warn!("the next copy will read everything: {}", with_causes(&error));
                }
            }
            Err(error) => tracing::warn!("the next copy will read everything: {}", with_causes(&error)),
        }
    }
}

fn tables(directory: &Path) -> Vec<Table> {
    let Ok(files) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = files.flatten().map(|file| file.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
        .filter_map(|path| Table::open(&path, VALUE_BYTES).map_err(|error| dropped(&error)).ok())
        .collect()
}

fn dropped(error: &TableError) {
    tracing::warn!(%error, "a table of copied chunks is dropped");
    if matches!(error, TableError::Damaged { .. }) {
        remove(error.path());
    }
}

fn remove(path: &Path) {
    // What stays is only looked at again.
    let _ = std::fs::remove_file(path);
}

fn new_path(directory: &Path) -> PathBuf {
    directory.join(format!("{}.{EXTENSION}", hex::encode(random::<8>())))
}

/// Adds a table of what is new; where there are many, joins all of them.
fn write(mut tables: Vec<Table>, fresh: Sorter, count: u64, directory: &Path) -> (Vec<Table>, Result<(), RepoError>) {
    match sorted(fresh, count, directory) {
        Ok(table) => tables.push(table),
        Err(error) => return (tables, Err(error)),
    }
    if tables.len() <= TABLES_MAX {
        return (tables, Ok(()));
    }
    match joined(&tables, directory) {
        Ok(table) => {
            for old in &tables {
                remove(old.path());
            }
            (vec![table], Ok(()))
        }
        Err(error) => {
            dropped(&error);
            tables.retain(|table| table.path() != error.path());
            (tables, Ok(()))
        }
    }
}

fn sorted(fresh: Sorter, count: u64, directory: &Path) -> Result<Table, RepoError> {
    let failed = || scratch_error(directory);
    let mut rows = fresh.finish().map_err(failed())?;
    let mut writer = TableWriter::create(&new_path(directory), VALUE_BYTES, count)?;
    while let Some(row) = rows.next(|key, value| (<[u8; 32]>::try_from(key), value.to_vec())).map_err(failed())? {
        if let (Ok(key), value) = row {
            writer.push(&key, &value)?;
        }
    }
    Ok(writer.finish(&[])?)
}

fn joined(tables: &[Table], directory: &Path) -> Result<Table, TableError> {
    let rows = tables.iter().map(Table::len).sum();
    let mut writer = TableWriter::create(&new_path(directory), VALUE_BYTES, rows)?;
    let mut last = None;
    for row in Merge::new(tables.iter().map(|table| Box::new(table.rows()) as _).collect()) {
        let (_, (key, value)) = row?;
        if last != Some(key) {
            writer.push(&key, &value)?;
            last = Some(key);
        }
    }
    writer.finish(&[])
}

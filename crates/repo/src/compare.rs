//! Comparing a snapshot with its copy in another repository: every entry, cut by cut. The ids of their
//! chunks differ, since each repository has keys of its own; with `read_data` the bytes of the one are
//! read and must have the ids that the other names.

use std::collections::HashSet;

use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, EntryPath, SnapshotId};

use crate::error::RepoError;
use crate::pack::PackKind;
use crate::page::{Extent, StoredEntry};
use crate::reader::extents::Extents;
use crate::reader::tree::Walk;
use crate::repository::Repository;
use crate::root::RootBody;

/// The most differences of a snapshot that are told one by one.
pub const DIFFERENCES_MAX: usize = 100;

/// Pairs of chunks that are remembered as equal: about 16 MiB.
const READ_MAX: usize = 1 << 17;

/// How a snapshot and its copy differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Entries that were compared.
    pub entries: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
    /// What differs: a part of the root, or `path: what`; at most [`DIFFERENCES_MAX`].
    pub differences: Vec<String>,
    /// How many there are.
    pub difference_count: u64,
}

impl Compared {
    fn differs(&mut self, what: String) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(what);
        }
    }
}

/// A snapshot in its repository.
#[derive(Clone, Copy, Debug)]
pub struct Side<'r> {
    /// Where it is.
    pub repository: &'r Repository,
    /// Which one.
    pub id: SnapshotId,
}

/// Compares two snapshots that should hold the same.
///
/// # Errors
/// [`RepoError::Read`] where either cannot be read, [`RepoError::KeyMissing`] without an identity of
/// both, and of the stores.
pub async fn compare(one: Side<'_>, other: Side<'_>, read_data: bool, ctx: &RunContext) -> Result<Compared, RepoError> {
    let (root, other_root) = (one.repository.root(&one.id).await?, other.repository.root(&other.id).await?);
    let (reader, other_reader) = (one.repository.reader_of(&root)?, other.repository.reader_of(&other_root)?);
    let mut compared = Compared::default();
    let mut both = Both { one: one.repository, other: other.repository, read_data, ctx, read: HashSet::new() };
    if let (Some(body), Some(other_body)) = (&root.body, &other_root.body) {
        for part in differing_parts(body, other_body) {
            compared.differs(format!("the {part} differs"));
        }
    }
    let mut ours = Entries::new(reader.stored_entries());
    let mut theirs = Entries::new(other_reader.stored_entries());
    let (mut next, mut other_next) = (ours.next().await?, theirs.next().await?);
    loop {
        let order = match (&next, &other_next) {
            (Some(entry), Some(other_entry)) => entry.path.cmp(&other_entry.path),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return Ok(compared),
        };
        compared.entries += 1;
        match order {
            std::cmp::Ordering::Less => {
                only(&mut compared, next.as_ref(), "only in", one.repository);
                next = ours.next().await?;
            }
            std::cmp::Ordering::Greater => {
                only(&mut compared, other_next.as_ref(), "only in", other.repository);
                other_next = theirs.next().await?;
            }
            std::cmp::Ordering::Equal => {
                if let (Some(entry), Some(other_entry)) = (next, other_next) {
                    both.entry(entry, other_entry, &mut compared).await?;
                }
                (next, other_next) = (ours.next().await?, theirs.next().await?);
            }
        }
    }
}

fn only(compared: &mut Compared, entry: Option<&StoredEntry>, what: &str, repository: &Repository) {
    if let Some(entry) = entry {
        compared.differs(format!("{}: {what} {}", entry.path, repository.store()));
    }
}

/// Parts of the bodies that a copy takes over and that differ. Counts of the copying itself may.
fn differing_parts(one: &RootBody, other: &RootBody) -> Vec<&'static str> {
    let pairs = [
        ("source", (&one.stack, &one.source, &one.kind) == (&other.stack, &other.source, &other.kind)),
        ("recovery point", one.recovery_point == other.recovery_point),
        ("label", one.label == other.label),
        ("configuration", one.config == other.config),
        ("list of problems", one.problems == other.problems),
    ];
    pairs.into_iter().filter(|(_, equal)| !equal).map(|(part, _)| part).collect()
}

/// Entries one by one.
struct Entries<'w> {
    walk: Walk<'w>,
    page: std::vec::IntoIter<StoredEntry>,
}

impl<'w> Entries<'w> {
    fn new(walk: Walk<'w>) -> Self {
        Self { walk, page: Vec::new().into_iter() }
    }

    async fn next(&mut self) -> Result<Option<StoredEntry>, RepoError> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            match self.walk.next_page().await? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

struct Both<'a> {
    one: &'a Repository,
    other: &'a Repository,
    read_data: bool,
    ctx: &'a RunContext,
    /// Pairs of chunks that were read and are equal: a changed stream has many parts of one chunk.
    read: HashSet<(ChunkId, ChunkId)>,
}

impl Both<'_> {
    async fn entry(&mut self, one: StoredEntry, other: StoredEntry, compared: &mut Compared) -> Result<(), RepoError> {
        let path = one.path;
        if one.meta != other.meta {
            compared.differs(format!("{path}: its metadata differ"));
        }
        let mut ours = Extents::new(self.one.fetcher(), &path, one.content);
        let mut theirs = Extents::new(self.other.fetcher(), &path, other.content);
        loop {
            let same = match (ours.next().await?, theirs.next().await?) {
                (None, None) => return Ok(()),
                (Some(Extent::Hole(bytes)), Some(Extent::Hole(other))) => bytes == other,
                (Some(Extent::Chunk { id, offset, len }), Some(Extent::Chunk { id: other, offset: at, len: long })) => {
                    (offset, len) == (at, long) && self.chunk(&path, (&id, &other), compared).await?
                }
                _ => false,
            };
            if !same {
                compared.differs(format!("{path}: its content differs"));
                return Ok(());
            }
        }
    }

    /// Whether the bytes of a chunk have the other id in the other repository.
    async fn chunk(
        &mut self,
        path: &EntryPath,
        (id, other): (&ChunkId, &ChunkId),
        compared: &mut Compared,
    ) -> Result<bool, RepoError> {
        if !self.read_data || self.read.contains(&(*id, *other)) {
            return Ok(true);
        }
        if self.ctx.cancel.is_cancelled() {
            return Err(RepoError::GivenUp { why: format!("stopped at {path}"), source: None });
        }
        let plain = self.one.fetcher().chunk(id).await?;
        compared.bytes += plain.len() as u64;
        self.ctx.monitor.bytes(plain.len() as u64);
        let has_id = |keys| PackKind::Data.id_of(keys, &plain).as_ref() == Some(other);
        if !self.other.access().domains.values().any(has_id) {
            return Ok(false);
        }
        // That the other one holds these bytes is known once they were read there too.
        let same = self.other.fetcher().chunk(other).await? == plain;
        compared.bytes += plain.len() as u64;
        if same && self.read.len() < READ_MAX {
            self.read.insert((*id, *other));
        }
        Ok(same)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_store::memory::MemoryStore;
    use lifeboat_testkit::context::FakeClock;

    use super::*;
    use crate::testing::TestRepository;
    use crate::tiny::{Chain, Files, backup, context, files, open};

    async fn differences(change: impl FnOnce(&mut Files), read_data: bool) -> Vec<String> {
        let clock = FakeClock::at(TestRepository::start());
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        let mut content = files(1, &["a", "b", "c"], 3);
        let mut sides = Vec::new();
        for _ in 0..2 {
            let test = TestRepository::create(Arc::new(MemoryStore::new(Arc::clone(&clock) as _))).await;
            let id = backup(&test.store, &test.writer, &content, &mut Chain::default(), &ctx).await.expect("a backup");
            sides.push((open(&test.store, &test.identity, &ctx).await, id));
        }
        change(&mut content);
        let test = TestRepository::create(Arc::new(MemoryStore::new(clock))).await;
        let id = backup(&test.store, &test.writer, &content, &mut Chain::default(), &ctx).await.expect("a backup");
        let other = open(&test.store, &test.identity, &ctx).await;
        let [one, same] = [&sides[0], &sides[1]].map(|(repository, id)| Side { repository, id: *id });
        let equal = compare(one, same, read_data, &ctx).await.expect("compared");
        assert_eq!((equal.entries, equal.difference_count, equal.bytes > 0), (3, 0, read_data));
        let found = compare(one, Side { repository: &other, id }, read_data, &ctx).await.expect("compared");
        assert_eq!(found.difference_count, found.differences.len() as u64);
        found.differences.iter().map(|what| what.split(" in ").next().unwrap_or_default().to_owned()).collect()
    }

    #[tokio::test]
    async fn what_differs_is_told_entry_by_entry() {
        let flip = |files: &mut Files| files.get_mut("b").expect("b")[5] ^= 1;
        assert_eq!(differences(flip, false).await, [""; 0], "the cuts are the same, the bytes were not read");
        assert_eq!(differences(flip, true).await, ["b: its content differs"]);
        let cut = |files: &mut Files| files.get_mut("c").expect("c").truncate(10);
        assert_eq!(differences(cut, false).await, ["c: its content differs"]);
        let other_names = |files: &mut Files| {
            let content = files.remove("a").expect("a");
            files.insert("d".to_owned(), content);
        };
        assert_eq!(differences(other_names, false).await, ["a: only", "d: only"]);
    }
}

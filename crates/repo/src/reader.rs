//! Reading a snapshot: its entries, and their content.

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_model::flow::{BodyError, ContentSink, Entry, EntryReader, EntryVisitor, Monitor, ReadError};
use lifeboat_model::{ChunkId, EntryPath};
use tokio::sync::Semaphore;

use crate::fetch::Fetcher;
use crate::object::ObjectError;
use crate::page::{Content, StoredEntry};

mod content;
pub(crate) mod extents;
mod preflight;
pub(crate) mod tree;

use tree::Tree;

/// Plain bytes that all reads of one reader together fetch ahead.
const AHEAD_BYTES: usize = 32 << 20;

/// Reads the entries of one snapshot. Holds a bounded number of bytes, however large the snapshot is.
#[derive(Debug)]
pub struct SnapshotReader {
    fetcher: Arc<Fetcher>,
    tree: Tree,
    ahead: Arc<Semaphore>,
    problems: Vec<(EntryPath, String)>,
}

impl SnapshotReader {
    /// Reads the snapshot whose manifest has this top page; none for an empty one.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>, top: Option<ChunkId>) -> Self {
        let tree = Tree::new(Arc::clone(&fetcher), top);
        Self { fetcher, tree, ahead: Arc::new(Semaphore::new(AHEAD_BYTES)), problems: Vec::new() }
    }

    /// The same reader, which knows what its root object records of entries. What stands there under
    /// no path that an entry can have is left out.
    #[must_use]
    pub fn recording(mut self, problems: &[(Vec<u8>, String)]) -> Self {
        let known = |(path, what): &(Vec<u8>, String)| Some((EntryPath::new(path.as_slice()).ok()?, what.clone()));
        self.problems = problems.iter().filter_map(known).collect();
        self
    }

    /// Goes through all entries as they are stored, one page in memory at a time.
    pub(crate) fn stored_entries(&self) -> tree::Walk<'_> {
        self.tree.walk(None)
    }

    /// The entry at exactly this path as it is stored.
    ///
    /// # Errors
    /// As [`EntryReader::entry`].
    pub async fn stored_entry(&self, path: &EntryPath) -> Result<Option<StoredEntry>, ReadError> {
        self.tree.entry(path).await
    }
}

fn listed(entry: &StoredEntry) -> Entry {
    Entry {
        path: entry.path.clone(),
        meta: entry.meta.clone(),
        bytes: entry.bytes(),
        content: entry.content.encode().into(),
    }
}

fn content_of(entry: &Entry) -> Result<Content, ReadError> {
    Content::decode(&entry.content).map_err(|why| damaged(&entry.path, why))
}

/// What hurts an entry.
fn hurt(path: &EntryPath, error: impl Into<BodyError>) -> ReadError {
    ReadError::Damaged { what: path.to_string(), source: error.into() }
}

/// An entry that contradicts itself.
fn damaged(path: &EntryPath, why: ObjectError) -> ReadError {
    ReadError::Damaged { what: path.to_string(), source: Box::new(why) }
}

#[async_trait]
impl EntryReader for SnapshotReader {
    async fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, ReadError> {
        Ok(self.tree.entry(path).await?.as_ref().map(listed))
    }

    async fn walk(&self, under: Option<&EntryPath>, visitor: &mut dyn EntryVisitor) -> Result<(), ReadError> {
        let mut walk = self.tree.walk(under);
        while let Some(page) = walk.next_page().await? {
            for entry in page {
                visitor.visit(listed(&entry)).await.map_err(ReadError::Receiver)?;
            }
        }
        Ok(())
    }

    async fn content(&self, entry: &Entry, sink: &mut dyn ContentSink) -> Result<u64, ReadError> {
        content::read(self, entry, sink).await
    }

    async fn preflight(&self, under: Option<&EntryPath>, monitor: &dyn Monitor) -> Result<(), ReadError> {
        preflight::check(self, under, monitor).await
    }

    fn problems(&self) -> &[(EntryPath, String)] {
        &self.problems
    }
}

#[cfg(test)]
mod tests;

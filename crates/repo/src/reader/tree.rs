//! The search tree of a manifest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::flow::ReadError;
use lifeboat_model::{ChunkId, EntryPath};

use crate::fetch::Fetcher;
use crate::object::ObjectError;
use crate::page::{ChildPage, ManifestPage, StoredEntry};

/// Inner pages that are kept, so that entries are found without fetching the way to them again.
const PAGES_MAX: usize = 16;

/// Finds entries by their paths.
#[derive(Debug)]
pub(super) struct Tree {
    fetcher: Arc<Fetcher>,
    top: Option<ChunkId>,
    kept: Mutex<VecDeque<(ChunkId, Arc<ManifestPage>)>>,
}

fn damaged(id: &ChunkId, source: impl std::error::Error + Send + Sync + 'static) -> ReadError {
    ReadError::Damaged { what: format!("the manifest page {}", id.short()), source: Box::new(source) }
}

impl Tree {
    pub(super) fn new(fetcher: Arc<Fetcher>, top: Option<ChunkId>) -> Self {
        Self { fetcher, top, kept: Mutex::default() }
    }

    /// The page; `level` is what the page above says, none for the top.
    async fn page(&self, id: &ChunkId, level: Option<u8>) -> Result<Arc<ManifestPage>, ReadError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|page| page.0 == *id).cloned();
        let page = if let Some((_, page)) = kept {
            page
        } else {
            let plain = self.fetcher.chunk(id).await.map_err(|error| damaged(id, error))?;
            let page = Arc::new(ManifestPage::decode(&plain).map_err(|error| damaged(id, error))?);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back((*id, Arc::clone(&page)));
            if kept.len() > PAGES_MAX {
                kept.pop_front();
            }
            page
        };
        if level.is_some_and(|level| level != page.level()) {
            return Err(damaged(id, ObjectError::malformed("a page of another level than the page above says")));
        }
        Ok(page)
    }

    /// The entry at exactly this path.
    pub(super) async fn entry(&self, path: &EntryPath) -> Result<Option<StoredEntry>, ReadError> {
        let (mut next, mut level) = (self.top, None);
        while let Some(id) = next {
            let page = self.page(&id, level).await?;
            match &*page {
                ManifestPage::Entries(entries) => {
                    let found = entries.binary_search_by(|entry| entry.path.cmp(path)).ok();
                    return Ok(found.map(|at| entries[at].clone()));
                }
                ManifestPage::Pages { level: own, children } => {
                    let after = children.partition_point(|child| child.first <= *path);
                    next = after.checked_sub(1).map(|at| children[at].id);
                    level = Some(own - 1);
                }
            }
        }
        Ok(None)
    }

    /// Goes through the entry at `under` and everything below it, all entries for `None`.
    pub(super) fn walk(&self, under: Option<&EntryPath>) -> Walk<'_> {
        let top = self.top.map(|id| Step { id, level: None });
        Walk { tree: self, under: under.cloned(), steps: top.into_iter().collect(), last: None }
    }
}

/// A page that is still to be visited.
#[derive(Debug)]
struct Step {
    id: ChunkId,
    level: Option<u8>,
}

/// Goes through entries in order, one page in memory at a time.
#[derive(Debug)]
pub(crate) struct Walk<'t> {
    tree: &'t Tree,
    under: Option<EntryPath>,
    /// The next one last. At most one page's children for each level.
    steps: Vec<Step>,
    last: Option<EntryPath>,
}

impl Walk<'_> {
    /// The wanted entries of the next page that has any.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<StoredEntry>>, ReadError> {
        while let Some(step) = self.steps.pop() {
            let page = self.tree.page(&step.id, step.level).await?;
            match &*page {
                ManifestPage::Entries(entries) => {
                    if let (Some(first), Some(last)) = (entries.first(), &self.last)
                        && first.path <= *last
                    {
                        return Err(damaged(&step.id, ObjectError::malformed("a page out of order")));
                    }
                    self.last = entries.last().map(|entry| entry.path.clone()).or_else(|| self.last.take());
                    let wanted: Vec<_> = entries.iter().filter(|entry| self.wants(&entry.path)).cloned().collect();
                    if !wanted.is_empty() {
                        return Ok(Some(wanted));
                    }
                }
                ManifestPage::Pages { level, children } => {
                    let wanted = self.wanted(children).iter().rev();
                    self.steps.extend(wanted.map(|child| Step { id: child.id, level: Some(level - 1) }));
                }
            }
        }
        Ok(None)
    }

    fn wants(&self, path: &EntryPath) -> bool {
        self.under.as_ref().is_none_or(|under| path.is_within(under))
    }

    /// Children that may hold wanted entries: these lie side by side in the order of paths.
    fn wanted<'c>(&self, children: &'c [ChildPage]) -> &'c [ChildPage] {
        let Some(under) = &self.under else { return children };
        let start = children.partition_point(|child| child.first <= *under).saturating_sub(1);
        let end = children.partition_point(|child| child.first <= *under || child.first.is_within(under));
        &children[start.min(end)..end]
    }
}

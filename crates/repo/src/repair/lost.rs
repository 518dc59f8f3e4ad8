//! Which entries of which snapshots are lost.

use std::collections::{BTreeSet, HashSet};

use lifeboat_model::{ChunkId, SnapshotId};

use crate::error::RepoError;
use crate::page::{Content, Extent, ManifestPage, ReferencePage, StoredEntry, decode_content_page};
use crate::repository::Repository;
use crate::root::Root;

/// The most paths that are told of a snapshot.
pub const PATHS_MAX: usize = 100;
/// The most pages that are remembered as whole.
const WHOLE_MAX: usize = 1 << 20;

/// A snapshot that lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostSnapshot {
    /// Which one.
    pub id: SnapshotId,
    /// Entries that cannot be restored whole, at most [`PATHS_MAX`].
    pub paths: Vec<String>,
    /// How many.
    pub count: u64,
    /// Whether pages are lost by which a prune knows what it needs; what it holds can be restored.
    pub references: bool,
}

/// Walks the manifests of all snapshots. Pages that they share and that are whole are walked once.
pub(super) async fn find(
    repository: &Repository,
    roots: &[Root],
    lost: &HashSet<ChunkId>,
) -> Result<Vec<LostSnapshot>, RepoError> {
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let mut walk = Walk { repository, lost, whole: HashSet::new() };
    let mut found = Vec::new();
    for root in roots {
        let mut snapshot = LostSnapshot { id: root.id, paths: Vec::new(), count: 0, references: false };
        if let Some(top) = root.body.as_ref().and_then(|body| body.top) {
            walk.manifest(top, &mut snapshot).await?;
        }
        if let Some(top) = root.refs.and_then(|refs| refs.top) {
            snapshot.references = walk.references(top).await?;
        }
        if snapshot.count > 0 || snapshot.references {
            found.push(snapshot);
        }
    }
    Ok(found)
}

struct Walk<'a> {
    repository: &'a Repository,
    lost: &'a HashSet<ChunkId>,
    whole: HashSet<ChunkId>,
}

impl LostSnapshot {
    fn add(&mut self, path: String) {
        self.count += 1;
        if self.paths.len() < PATHS_MAX {
            self.paths.push(path);
        }
    }
}

impl Walk<'_> {
    /// The page's bytes; `None` where it is lost.
    async fn page(&self, id: &ChunkId) -> Result<Option<bytes::Bytes>, RepoError> {
        if self.lost.contains(id) {
            return Ok(None);
        }
        match self.repository.fetcher().chunk(id).await {
            Ok(plain) => Ok(Some(plain)),
            Err(RepoError::Chunk { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn manifest(&mut self, top: ChunkId, snapshot: &mut LostSnapshot) -> Result<(), RepoError> {
        let mut open = vec![(top, String::new())];
        while let Some((id, first)) = open.pop() {
            if self.whole.contains(&id) {
                continue;
            }
            let page = self.page(&id).await?.and_then(|plain| ManifestPage::decode(&plain).ok());
            match page {
                None if first.is_empty() => snapshot.add("everything".to_owned()),
                None => snapshot.add(format!("{first} and what follows")),
                Some(ManifestPage::Pages { children, .. }) => {
                    let name = |path: &lifeboat_model::EntryPath| String::from_utf8_lossy(path.as_bytes()).into_owned();
                    open.extend(children.iter().rev().map(|child| (child.id, name(&child.first))));
                }
                Some(ManifestPage::Entries(entries)) => {
                    let before = snapshot.count;
                    for entry in &entries {
                        if self.hits(entry).await? {
                            snapshot.add(String::from_utf8_lossy(entry.path.as_bytes()).into_owned());
                        }
                    }
                    if snapshot.count == before && self.whole.len() < WHOLE_MAX {
                        self.whole.insert(id);
                    }
                }
            }
        }
        Ok(())
    }

    async fn hits(&self, entry: &StoredEntry) -> Result<bool, RepoError> {
        let lost = |extent: &Extent| matches!(extent, Extent::Chunk { id, .. } if self.lost.contains(id));
        match &entry.content {
            Content::Inline(extents) => Ok(extents.iter().any(lost)),
            Content::Pages(pages) => {
                for (id, _) in pages {
                    let extents = self.page(id).await?.and_then(|plain| decode_content_page(&plain).ok());
                    if extents.is_none_or(|extents| extents.iter().any(lost)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Whether a reference page is lost.
    async fn references(&mut self, top: ChunkId) -> Result<bool, RepoError> {
        let (mut open, mut seen) = (vec![top], BTreeSet::new());
        while let Some(id) = open.pop() {
            if self.whole.contains(&id) || !seen.insert(id) {
                continue;
            }
            match self.page(&id).await?.and_then(|plain| ReferencePage::decode(&plain).ok()) {
                None => return Ok(true),
                Some(page) => open.extend(page.pages),
            }
        }
        let room = WHOLE_MAX.saturating_sub(self.whole.len());
        self.whole.extend(seen.into_iter().take(room));
        Ok(false)
    }
}

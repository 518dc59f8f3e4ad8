//! Which entries of which snapshots cannot be restored whole. Takes an identity.

use std::collections::{BTreeSet, HashSet};

use lifeboat_model::ChunkId;

use super::CheckReport;
use super::needs::Hurt;
use crate::error::RepoError;
use crate::page::{Content, Extent, ManifestPage, StoredEntry, decode_content_page};
use crate::repository::Repository;
use crate::root::Root;

/// The most pages that are remembered as whole.
const WHOLE_MAX: usize = 1 << 20;

/// Walks the manifests of all snapshots and tells which entries use a lost chunk. Pages that snapshots
/// share and that hold nothing bad are walked once.
pub(super) async fn hit(
    repository: &Repository,
    roots: &[Root],
    hurt: &Hurt,
    report: &mut CheckReport,
) -> Result<(), RepoError> {
    let mut walk = Walk { repository, hurt, report, whole: HashSet::new() };
    for root in roots {
        let Some(body) = &root.body else { continue };
        let Some(top) = body.top else { continue };
        let label = format!("{}/{}@{}", body.stack, body.source, root.id.short());
        walk.snapshot(&label, top).await?;
    }
    Ok(())
}

struct Walk<'a> {
    repository: &'a Repository,
    hurt: &'a Hurt,
    report: &'a mut CheckReport,
    whole: HashSet<ChunkId>,
}

impl Walk<'_> {
    async fn snapshot(&mut self, label: &str, top: ChunkId) -> Result<(), RepoError> {
        let mut open = vec![(top, String::new())];
        while let Some((id, first)) = open.pop() {
            if self.whole.contains(&id) {
                continue;
            }
            if let Some(problems) = self.hurt.get(&id) {
                let lost = if first.is_empty() { "everything".to_owned() } else { format!("{first} and what follows") };
                self.tell(problems.iter().copied(), &format!("{label}:{lost}"));
                continue;
            }
            let page = match self.repository.fetcher().chunk(&id).await {
                Ok(plain) => ManifestPage::decode(&plain),
                Err(RepoError::Chunk { .. }) => continue,
                Err(error) => return Err(error),
            };
            match page {
                Ok(ManifestPage::Pages { children, .. }) => {
                    let below = children.iter().rev();
                    open.extend(
                        below.map(|child| (child.id, String::from_utf8_lossy(child.first.as_bytes()).into_owned())),
                    );
                }
                Ok(ManifestPage::Entries(entries)) => {
                    let mut is_whole = true;
                    for entry in &entries {
                        is_whole &= self.entry(label, entry).await?;
                    }
                    if is_whole && self.whole.len() < WHOLE_MAX {
                        self.whole.insert(id);
                    }
                }
                Err(why) => self.report.bad_object(format!("manifest page {id}"), &why),
            }
        }
        Ok(())
    }

    /// Whether an entry is whole; tells if it is not.
    async fn entry(&mut self, label: &str, entry: &StoredEntry) -> Result<bool, RepoError> {
        let mut problems = BTreeSet::new();
        match &entry.content {
            Content::Inline(extents) => self.extents(extents, &mut problems),
            Content::Pages(pages) => {
                for (id, _) in pages {
                    if let Some(numbers) = self.hurt.get(id) {
                        problems.extend(numbers);
                        continue;
                    }
                    match self.repository.fetcher().chunk(id).await {
                        Ok(plain) => match decode_content_page(&plain) {
                            Ok(extents) => self.extents(&extents, &mut problems),
                            Err(why) => self.report.bad_object(format!("content page {id}"), &why),
                        },
                        Err(RepoError::Chunk { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        let is_whole = problems.is_empty();
        if !is_whole {
            self.tell(problems, &format!("{label}:{}", String::from_utf8_lossy(entry.path.as_bytes())));
        }
        Ok(is_whole)
    }

    fn extents(&self, extents: &[Extent], problems: &mut BTreeSet<usize>) {
        for extent in extents {
            if let Extent::Chunk { id, .. } = extent {
                problems.extend(self.hurt.get(id).into_iter().flatten());
            }
        }
    }

    fn tell(&mut self, problems: impl IntoIterator<Item = usize>, entry: &str) {
        for problem in problems.into_iter().collect::<BTreeSet<_>>() {
            self.report.hit(problem, entry);
        }
    }
}

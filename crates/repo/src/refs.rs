//! From the roots of snapshots to every chunk that they need, by reference pages: without names and
//! without content. `docs/format.md`, section "References".

use std::collections::HashSet;

use futures::{StreamExt, stream};
use lifeboat_model::ChunkId;
use lifeboat_model::flow::RunContext;

use crate::error::RepoError;
use crate::page::ReferencePage;
use crate::repository::Repository;
use crate::scan::{id_key, scratch_error};
use crate::spill::{Sorted, Sorter};

/// The most reference pages that a walk remembers: about 100 MiB of memory at worst.
const PAGES_MAX: usize = 2 << 20;
/// How many pages are read at once.
const READS: usize = 8;
/// The most lost pages that are told one by one.
const LOST_MAX: usize = 1000;

/// A page by the domain's number and the first half of its id: half of a keyed hash tells pages
/// apart as well as the whole.
type Seen = (u16, [u8; 16]);

/// Where a walk came to.
#[derive(Debug)]
pub(crate) struct Walked {
    /// Every chunk that is needed: data chunks, manifest and content pages, reference pages.
    pub(crate) live: Sorted,
    /// Reference pages that no copy gives.
    pub(crate) lost: Vec<(u16, RepoError)>,
}

/// Follows reference pages from `tops`, each by its domain's number. Pages that cannot be read are
/// told, and the walk goes on.
///
/// # Errors
/// Of the store or of the scratch directory.
pub(crate) async fn walk(
    repository: &Repository,
    tops: Vec<(u16, ChunkId)>,
    ctx: &RunContext,
) -> Result<Walked, RepoError> {
    let mut live = Sorter::within(ctx);
    let mut lost = Vec::new();
    let mut seen: HashSet<Seen> = HashSet::new();
    let mut open: Vec<(u16, ChunkId)> = Vec::new();
    let mut meet = |page: (u16, ChunkId), open: &mut Vec<_>| -> Result<(), RepoError> {
        let (domain, id) = page;
        let half = *id.bytes().first_chunk().expect("an id has 32 bytes");
        if seen.insert((domain, half)) {
            open.push(page);
        }
        if seen.len() > PAGES_MAX {
            return Err(RepoError::TooMany {
                what: "reference pages",
                store: repository.store().to_string(),
                most: PAGES_MAX,
            });
        }
        Ok(())
    };
    for top in tops {
        meet(top, &mut open)?;
    }
    while !open.is_empty() {
        let batch = open.split_off(open.len().saturating_sub(READS));
        let reads = batch
            .into_iter()
            .map(|(domain, id)| async move { (domain, id, repository.fetcher().ahead(id).plain().await) });
        let read: Vec<_> = stream::iter(reads).buffer_unordered(READS).collect().await;
        for (domain, id, plain) in read {
            let page = plain.and_then(|plain| {
                ReferencePage::decode(&plain).map_err(|why| RepoError::Chunk { id, why: why.to_string() })
            });
            let page = match page {
                Ok(page) => page,
                Err(error @ RepoError::Chunk { .. }) => {
                    live.push(&id_key(domain, &id), &[]).map_err(scratch_error(&ctx.scratch))?;
                    if lost.len() < LOST_MAX {
                        lost.push((domain, error));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            for needed in page.chunks.iter().chain([&page.page, &id]) {
                live.push(&id_key(domain, needed), &[]).map_err(scratch_error(&ctx.scratch))?;
            }
            for child in page.pages {
                meet((domain, child), &mut open)?;
            }
        }
    }
    Ok(Walked { live: live.finish().map_err(scratch_error(&ctx.scratch))?, lost })
}

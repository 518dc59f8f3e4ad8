//! The second phase: deleting what a ripe mark names.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use lifeboat_model::SnapshotId;
use lifeboat_store::Key;

use super::gather::domain_in_header;
use super::plan::{Due, RootState};
use super::{Job, PruneReport};
use crate::error::RepoError;
use crate::forget::keeper;
use crate::inventory;
use crate::object::ObjectType;
use crate::small::{self, Deleting, Forget};

/// How many packs are deleted between two looks at the roots.
const BATCH: usize = 64;
/// How many objects are deleted at once.
const DELETES: usize = 8;

/// Deletes what is due. Names go before what they name (roots, indexes, packs), so that whoever finds
/// a name finds the rest; what explains the roots goes last.
pub(super) async fn due(job: &Job<'_>, due: &Due, report: &mut PruneReport) -> Result<(), RepoError> {
    if due.is_empty() {
        return Ok(());
    }
    let word = Deleting { mark: due.mark, time: job.ctx.clock.now(), kept: due.kept.clone() };
    let (name, bytes) = small::encode(&word, job.index_key(), keeper(job.access, "a prune")?);
    crate::forget::put(job.store, &name, bytes).await?;
    let ends = job.ctx.clock.monotonic() + Duration::from_secs(job.access.roster.grace_seconds) / 4;
    // Writers that seal later than this look at the word that was just put; the roots of earlier ones
    // are in the list after the wait.
    tokio::time::sleep(job.store.capabilities().list_staleness).await;
    if !roots_are_known(job).await? {
        report.problem("a snapshot was sealed before the deletion; the next prune goes on".into());
        return Ok(());
    }
    explain_void(job, due).await?;
    delete(job, due.roots.iter().map(|key| (key.clone(), job.bytes(key))), report).await?;
    let indexes = due.indexes.iter().map(|hash| (ObjectType::Index.key(*hash), job.index_bytes(hash)));
    delete(job, indexes, report).await?;
    for batch in due.packs.chunks(BATCH) {
        if job.ctx.clock.monotonic() > ends {
            report
                .problem("the deletion took longer than a quarter of the grace period; the next prune goes on".into());
            return Ok(());
        }
        if !roots_are_known(job).await? {
            report.problem("a snapshot was sealed during the deletion; the next prune goes on".into());
            return Ok(());
        }
        let mut own = Vec::with_capacity(batch.len());
        for (kind, hash) in batch {
            let Some(number) = job.gathered.scan.number_of(*kind, hash) else { continue };
            let pack = &job.gathered.scan.packs[number as usize];
            match domain_in_header(job.store, pack).await? {
                Some(domain) if domain == job.domain => own.push((pack.key(), pack.bytes)),
                Some(_) => report.problem(format!("{} belongs to another domain than its mark", pack.key())),
                None => own.push((pack.key(), pack.bytes)),
            }
        }
        delete(job, own.into_iter(), report).await?;
    }
    delete(job, due.verdicts.iter().map(|key| (key.clone(), job.bytes(key))), report).await
}

/// Later roots may name a void one as the one before them, and hosts remember it: a forget tells them
/// that nobody tore the chain. A writer's own void cannot, when its root is gone.
async fn explain_void(job: &Job<'_>, due: &Due) -> Result<(), RepoError> {
    let roots = job.gathered.views[&job.number].roots.iter();
    for root in roots.filter(|root| root.state == RootState::Void && due.roots.contains(&root.key)) {
        let (snapshot, time) = (SnapshotId(root.hash.0), job.ctx.clock.now());
        let word = Forget { snapshot, why: "it was void".into(), time };
        let (name, bytes) = small::encode(&word, job.index_key(), keeper(job.access, "a prune")?);
        crate::forget::put(job.store, &name, bytes).await?;
    }
    Ok(())
}

/// Whether no root came since everything was looked at.
async fn roots_are_known(job: &Job<'_>) -> Result<bool, RepoError> {
    let roots = inventory::list(job.store, "roots/").await?;
    Ok(roots.iter().all(|root| job.gathered.roots.contains(root.key.as_str())))
}

/// Deletes small objects that have done their duty, those of a group one after the other.
pub(super) async fn stale(job: &Job<'_>, groups: &[Vec<Key>], report: &mut PruneReport) -> Result<(), RepoError> {
    let each = |group| async move {
        for key in group {
            job.store.delete(key).await?;
        }
        Ok::<_, RepoError>(group)
    };
    let mut done = stream::iter(groups).map(each).buffer_unordered(DELETES);
    while let Some(group) = done.try_next().await? {
        report.deleted_objects += group.len() as u64;
        report.deleted_bytes += group.iter().map(|key| job.bytes(key)).sum::<u64>();
    }
    Ok(())
}

async fn delete(
    job: &Job<'_>,
    objects: impl Iterator<Item = (Key, u64)>,
    report: &mut PruneReport,
) -> Result<(), RepoError> {
    let mut done = stream::iter(objects)
        .map(|(key, bytes)| async move { job.store.delete(&key).await.map(|()| bytes) })
        .buffer_unordered(DELETES);
    while let Some(bytes) = done.try_next().await? {
        report.deleted_objects += 1;
        report.deleted_bytes += bytes;
    }
    Ok(())
}

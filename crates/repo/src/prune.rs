//! Freeing the space of what no snapshot needs, beside running backups and without locks: mark, wait
//! out the grace period, delete. `docs/format.md`, section "Prune", tells why this loses nothing.
//!
//! A prune needs a maintainer's keys only. It reads which chunks snapshots need, never what is in them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use lifeboat_model::flow::RunContext;
use lifeboat_model::{Digest, ObjectHash};
use lifeboat_store::{Key, Store};
use serde::{Serialize, Serializer};

use crate::access::Access;
use crate::error::RepoError;
use crate::forget::keeper;
use crate::object::{DomainId, ObjectType};
use crate::pack::PackKind;
use crate::repository::Repository;
use crate::small::{self, Mark};

mod delete;
mod gather;
mod live;
mod mend;
pub mod plan;
mod reindex;
mod repack;

pub use plan::{PruneOptions, Wait};

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Objects that were deleted; with `dry_run` those that would be.
    pub deleted_objects: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Objects that were marked by this prune, packs among them; with `dry_run` those that would be.
    pub marked_objects: u64,
    /// Packs among them.
    pub marked_packs: u64,
    /// The bytes of these objects: what a later prune frees.
    pub marked_bytes: u64,
    /// Packs that nobody needs and that are too young to be marked.
    pub young_packs: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// From when on a prune can mark them, by the store's clock, unless a run is open.
    #[serde(serialize_with = "lifeboat_model::snapshot::rfc3339_or_null")]
    pub can_be_marked_at: Option<Timestamp>,
    /// Packs that are partly needed and were packed anew; a dry run counts those that would be.
    pub repacked_packs: u64,
    /// Bytes of the new packs.
    pub written_bytes: u64,
    /// Packs that snapshots need and that were in no index: they are indexed again.
    pub indexed_packs: u64,
    /// From when on a prune can delete all that is marked, by the store's clock; with `dry_run` if
    /// the prune ran now.
    #[serde(serialize_with = "lifeboat_model::snapshot::rfc3339_or_null")]
    pub can_go_at: Option<Timestamp>,
    /// Why what was marked before is not deleted yet.
    pub waits: Vec<Wait>,
    /// Domains that were left alone, each with the reason.
    pub refused: Vec<Refusal>,
    /// Objects that are damaged or forged and were passed over, at most 1,000.
    pub problems: Vec<String>,
}

/// Why a domain was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub domain: DomainId,
    /// What is in the way.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the domain {}: {}", hex::encode(self.domain.0), self.why)
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The most problems that a report tells.
const PROBLEMS_MAX: usize = 1000;

impl PruneReport {
    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}

/// Deletes what an earlier prune marked and nobody claimed since, and marks what nobody needs now.
/// Killed at any time it leaves a repository in which every snapshot restores, and the next prune
/// goes on.
///
/// # Errors
/// [`RepoError::KeyMissing`] without a maintainer or identity key, or what the store said. A domain
/// whose state is unclear (an unknown kind of root, a missing chunk) is left alone and told in
/// [`PruneReport::refused`].
pub async fn prune(
    repository: &Repository,
    options: &PruneOptions,
    ctx: &RunContext,
) -> Result<PruneReport, RepoError> {
    let (store, access) = (repository.store(), repository.access());
    keeper(access, "a prune")?;
    ctx.monitor.begin("prune", None);
    let now = if options.dry_run { ctx.clock.now() } else { store_time(store, access, ctx).await? };
    let mut report = PruneReport::default();
    let mut gathered = gather::gather(store, access, now, &mut report, ctx).await?;
    let (mut live, missing) = live::find(repository, &mut gathered, &mut report, ctx).await?;
    let mut mended = PruneReport::default();
    if !options.dry_run {
        mend::index_again(repository, &gathered, &missing, &mut mended, ctx).await?;
    }
    if mended.indexed_packs > 0 {
        report = mended;
        gathered = gather::gather(store, access, now, &mut report, ctx).await?;
        (live, _) = live::find(repository, &mut gathered, &mut report, ctx).await?;
    } else {
        report.problems.extend(mended.problems);
    }
    for key in &gathered.spent {
        if !options.dry_run {
            store.delete(key).await?;
        }
        report.deleted_objects += 1;
        report.deleted_bytes += gathered.lengths.get(key).copied().unwrap_or(0);
    }
    let domains: Vec<u16> = gathered.views.keys().copied().collect();
    for number in domains {
        let domain = gathered.scan.domains[usize::from(number)];
        if let Some(why) = gathered.refusals.get(&number) {
            report.refused.push(Refusal { domain, why: why.clone() });
            continue;
        }
        let plan = plan::plan(&gathered.views[&number], options);
        report.waits.extend(plan.waits.iter().cloned());
        let job = Job { store, access, domain, number, gathered: &gathered, ctx };
        job.young(&plan, &mut report);
        if options.dry_run {
            job.tell(&plan, &mut report);
            continue;
        }
        for due in &plan.due {
            delete::due(&job, due, &mut report).await?;
        }
        delete::stale(&job, &plan.stale, &mut report).await?;
        if plan.marks() {
            let plan = repack::repack(&job, plan, &live, &mut report).await?;
            job.mark(&plan, &mut report).await?;
        }
    }
    report.can_go_at = report.waits.iter().map(Wait::until).chain(report.can_go_at).max();
    Ok(report)
}

/// What the steps of a prune share for one domain.
struct Job<'a> {
    store: &'a Arc<dyn Store>,
    access: &'a Access,
    domain: DomainId,
    number: u16,
    gathered: &'a gather::Gathered,
    ctx: &'a RunContext,
}

impl Job<'_> {
    fn index_key(&self) -> &crate::object::IndexKey {
        &self.access.domains[&self.domain].index
    }

    fn pack_bytes(&self, kind: PackKind, hash: &ObjectHash) -> u64 {
        let scan = &self.gathered.scan;
        scan.number_of(kind, hash).map_or(0, |number| scan.packs[number as usize].bytes)
    }

    fn index_bytes(&self, hash: &ObjectHash) -> u64 {
        self.gathered.scan.indexes.iter().find(|index| index.hash == *hash).map_or(0, |index| index.bytes)
    }

    /// The length of an object that is neither pack nor index.
    fn bytes(&self, key: &Key) -> u64 {
        self.gathered.lengths.get(key).copied().unwrap_or(0)
    }

    /// Adds to a report what a plan would do.
    fn tell(&self, plan: &plan::Plan, report: &mut PruneReport) {
        for due in &plan.due {
            let small = due.roots.iter().chain(&due.verdicts);
            report.deleted_objects +=
                (due.packs.len() + due.indexes.len() + due.roots.len() + due.verdicts.len()) as u64;
            report.deleted_bytes += due.packs.iter().map(|(kind, hash)| self.pack_bytes(*kind, hash)).sum::<u64>();
            report.deleted_bytes += due.indexes.iter().map(|hash| self.index_bytes(hash)).sum::<u64>();
            report.deleted_bytes += small.map(|key| self.bytes(key)).sum::<u64>();
        }
        report.deleted_objects += plan.stale.iter().flatten().count() as u64;
        report.deleted_bytes += plan.stale.iter().flatten().map(|key| self.bytes(key)).sum::<u64>();
        report.repacked_packs += plan.repack.len() as u64;
        if plan.marks() {
            self.marked(plan, report);
        }
    }

    /// Tells what nobody needs and no prune may mark yet.
    fn young(&self, plan: &plan::Plan, report: &mut PruneReport) {
        let view = &self.gathered.views[&self.number];
        for (kind, hash, stored_at) in &plan.young {
            report.young_packs += 1;
            report.young_bytes += self.pack_bytes(*kind, hash);
            report.can_be_marked_at = report.can_be_marked_at.max(Some(plan::later(*stored_at, view.grace)));
        }
    }

    /// Counts what the mark of a plan names, and when it ripens.
    fn marked(&self, plan: &plan::Plan, report: &mut PruneReport) {
        for (kind, hash) in plan.garbage.iter().chain(&plan.repack) {
            report.marked_packs += 1;
            report.marked_bytes += self.pack_bytes(*kind, hash);
        }
        let packs = plan.garbage.len() + plan.repack.len();
        report.marked_objects += (packs + plan.supersede.len() + plan.roots.len()) as u64;
        report.marked_bytes += plan.supersede.iter().map(|hash| self.index_bytes(hash)).sum::<u64>();
        report.marked_bytes += plan.roots.iter().map(|key| self.bytes(key)).sum::<u64>();
        let view = &self.gathered.views[&self.number];
        let ripe = plan::later(plan::later(view.now, view.grace), view.list_staleness);
        report.can_go_at = report.can_go_at.max(Some(ripe));
    }

    /// Tells every writer what is going to be deleted.
    async fn mark(&self, plan: &plan::Plan, report: &mut PruneReport) -> Result<(), RepoError> {
        let mark = Mark {
            time: self.ctx.clock.now(),
            packs: plan.garbage.iter().chain(&plan.repack).copied().collect(),
            indexes: plan.supersede.clone(),
            others: plan.roots.clone(),
        };
        if mark.packs.is_empty() && mark.indexes.is_empty() && mark.others.is_empty() {
            return Ok(());
        }
        let (name, bytes) = small::encode(&mark, self.index_key(), keeper(self.access, "a prune")?);
        crate::forget::put(self.store, &name, bytes).await?;
        self.marked(plan, report);
        Ok(())
    }
}

/// The time of the store, learned from an empty mark that is put and removed. Where the store's list
/// does not show it in time, the newest time that the list does show: too early is safe.
async fn store_time(store: &Arc<dyn Store>, access: &Access, ctx: &RunContext) -> Result<Timestamp, RepoError> {
    let keys = access.domains.values().next().ok_or(RepoError::KeyMissing {
        what: "a prune",
        needs: "the key of a domain; the keyring holds none for this key",
    })?;
    let probe = Mark { time: ctx.clock.now(), packs: Vec::new(), indexes: Vec::new(), others: Vec::new() };
    let (name, bytes) = small::encode(&probe, &keys.index, keeper(access, "a prune")?);
    crate::forget::put(store, &name, bytes).await?;
    let mut newest = Timestamp::UNIX_EPOCH;
    for wait in [Duration::ZERO, store.capabilities().list_staleness] {
        tokio::time::sleep(wait).await;
        let mut listed = store.list(ObjectType::Mark.prefix());
        let mut shown = false;
        while let Some(object) = listed.try_next().await? {
            newest = newest.max(object.stored_at);
            shown |= object.key == name;
        }
        if shown {
            break;
        }
    }
    store.delete(&name).await?;
    Ok(newest)
}

/// Writer and source of a root, as one value.
fn chain(root: &crate::root::Root) -> Vec<u8> {
    [&root.writer.0[..], &root.domain.0, &Digest(root.header.source_tag.0).0].concat()
}

#[cfg(test)]
mod tests;

//! Mending a repository: from what is left in it, from a second one, and by the next backup.

use std::collections::BTreeMap;

use lifeboat_model::config::RepositoryConfig;
use lifeboat_model::{SnapshotId, SnapshotSummary};
use lifeboat_repo::check::CheckScope;
use lifeboat_repo::copy::Copier;
use lifeboat_repo::format::Format;
use lifeboat_repo::object::ObjectError;
use lifeboat_repo::repair::{LostSnapshot, Plan, Repair};
use lifeboat_repo::{RepoError, RepoErrorKind};
use lifeboat_store::PutMode;
use serde::Serialize;

use crate::catalog::{Outcome, RunEnd};
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::{OpenRepository, find_repository, lost_format, open_repository};

/// How often what was refilled is looked at again: a lost page may hide that what it names is lost too.
const ROUNDS: usize = 4;

/// What is to be repaired, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairRequest {
    /// The repository; `None` = the only one besides `from`.
    pub repository: Option<String>,
    /// A second repository that holds copies.
    pub from: Option<String>,
    /// Whether to read every byte, as `check --read-data` does.
    pub read_data: bool,
    /// Whether snapshots that lost content for good are forgotten.
    pub forget_lost: bool,
    /// Whether to plan only.
    pub dry_run: bool,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// The repository's name in the configuration.
    pub repository: String,
    /// The second one's, where there is one.
    pub from: Option<String>,
    /// Whether only the plan was made.
    pub dry_run: bool,
    /// How many problems the look found.
    pub errors: u64,
    /// Damaged packs whose good records are packed anew.
    pub salvage: Vec<String>,
    /// Damaged packs of which nobody can tell what was in them; they stay while anything is lost.
    pub unknown: Vec<String>,
    /// Packs that no index names and that get one.
    pub index: Vec<String>,
    /// Damaged objects of no use that go, and roots whose loss a person accepted.
    pub drop: Vec<String>,
    /// Whether the object `format` is put back.
    pub format: bool,
    /// Copies of the keyring that are put back.
    pub keyrings: Vec<String>,
    /// Damaged roots that are put back.
    pub roots: Vec<String>,
    /// Damaged roots of which this machine keeps no copy.
    pub left: Vec<String>,
    /// Chunks of which no good copy was left.
    pub lost_chunks: u64,
    /// Records that were packed anew.
    pub salvaged: u64,
    /// Chunks that are there again.
    pub refilled: u64,
    /// Objects of no use that were deleted.
    pub removed: u64,
    /// Snapshots that lost something; after the work those that still do.
    pub lost: Vec<Lost>,
    /// Whether the snapshots of [`RepairReport::lost`] are about to be forgotten.
    pub forgets: bool,
    /// What could not be done, and why.
    pub notes: Vec<String>,
}

/// A snapshot that lost something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// Entries that cannot be restored whole, at most 100. All others can.
    pub entries: Vec<String>,
    /// How many.
    pub entry_count: u64,
    /// Whether pages are lost that a prune needs.
    pub references: bool,
    /// Whether the second repository has a copy.
    pub has_copy: bool,
    /// Whether it was forgotten.
    pub forgotten: bool,
}

impl RepairReport {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.format || self.finds_more()
    }

    fn finds_more(&self) -> bool {
        let lists = [&self.salvage, &self.unknown, &self.index, &self.drop, &self.keyrings, &self.roots];
        lists.iter().any(|list| !list.is_empty()) || self.lost_chunks > 0
    }

    /// 0, or 1 where something is lost (by a plan: where something is to be mended).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let left = self.lost.iter().any(|lost| !lost.forgotten);
        u8::from(left || !self.left.is_empty() || self.dry_run && self.errors > 0)
    }

    fn plan(&mut self, plan: Plan) {
        self.salvage = plan.salvage;
        self.unknown = plan.unknown;
        self.index = plan.index;
        self.drop = plan.drop;
        self.keyrings = plan.keyrings;
        self.roots = plan.roots;
        self.left = plan.left;
        self.lost_chunks = plan.lost_chunks;
    }
}

/// A second repository with its snapshots by their first ids.
struct Other {
    repository: OpenRepository,
    copies: BTreeMap<SnapshotId, SnapshotId>,
}

/// Repairs. `confirm` is shown the plan, and once more what is to be forgotten.
///
/// # Errors
/// [`JobError`]: no identity, no maintainer key, the stores; [`JobError::Declined`].
pub async fn repair(
    host: &Host<'_>,
    request: &RepairRequest,
    confirm: &(dyn Fn(&RepairReport) -> bool + Send + Sync),
) -> Result<RepairReport, JobError> {
    let name = which(host, request)?;
    let config = host.repository(Some(name))?;
    let mut report = RepairReport {
        repository: name.to_owned(),
        from: request.from.clone(),
        dry_run: request.dry_run,
        ..RepairReport::default()
    };
    if let Some(lost) = format_loss(config).await {
        let (store, format) = lost_format(host, config, lost)?;
        report.errors = 1;
        report.format = true;
        if request.dry_run {
            return Ok(report);
        }
        if !confirm(&report) {
            return Err(JobError::Declined);
        }
        store.put(&Format::key(), format, PutMode::Replace).await.map_err(RepoError::from)?;
    }
    let mut repository = open_repository(host, config, Need::List).await?;
    let known: BTreeMap<SnapshotId, SnapshotSummary> =
        repository.list(host).await?.snapshots.into_iter().map(|snapshot| (snapshot.id, snapshot)).collect();
    let other = match &request.from {
        Some(from) => Some(open_other(host, from, &repository).await?),
        None => None,
    };
    let scope = CheckScope { read_data: request.read_data };
    let found = Repair::look(repository.inner(), scope, repository.heads(), host.run).await?;
    report.errors += found.report().problem_count;
    report.plan(found.plan(repository.inner()));
    let job = Job { host, repository: &repository, other: other.as_ref(), known: &known };
    report.lost = job.lost(&found).await?;
    if request.dry_run || !report.finds_more() {
        return Ok(report);
    }
    if !confirm(&report) {
        return Err(JobError::Declined);
    }
    let run = host.begin("repair", None);
    let done = job.run(found, request.forget_lost, &mut report, confirm).await;
    let done = done.map_err(|error| host.stopped_or(error));
    let error = done.as_ref().err().map(JobError::chain);
    let outcome = match (&error, report.exit_code()) {
        (Some(_), _) => Outcome::Failed,
        (None, 0) => Outcome::Ok,
        (None, _) => Outcome::Problems,
    };
    host.end(run, outcome, &RunEnd { error, ..RunEnd::default() });
    done.map(|()| report)
}

/// Why the object `format` is of no use, where that is the trouble.
async fn format_loss(config: &RepositoryConfig) -> Option<RepoError> {
    let store = match find_repository(config).await {
        Err(JobError::Repository(lost @ RepoError::FormatMissing { .. })) => return Some(lost),
        found => found.ok()?,
    };
    match Format::open(&store.get(&Format::key(), None).await.ok()?) {
        Ok(_) | Err(ObjectError::NewerVersion(_)) => None,
        Err(source) => Some(RepoError::object(Format::key(), source)),
    }
}

/// The repository that is meant.
fn which<'a>(host: &Host<'a>, request: &'a RepairRequest) -> Result<&'a str, JobError> {
    if let Some(name) = &request.repository {
        return Ok(name);
    }
    let mut names = host.config.repositories.keys().filter(|name| Some(*name) != request.from.as_ref());
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(JobError::Usage {
            what: "it is not clear which repository to repair".to_owned(),
            hint: Some("say which one with --repository NAME".to_owned()),
        }),
    }
}

async fn open_other(host: &Host<'_>, from: &str, target: &OpenRepository) -> Result<Other, JobError> {
    let mut repository = open_repository(host, host.repository(Some(from))?, Need::Read).await?;
    if repository.id() == target.id() {
        let what = format!("{from} is the repository that is to be repaired");
        return Err(RepoError::Usage { what, hint: Some("name another repository that holds copies") }.into());
    }
    let listing = repository.list(host).await?;
    let copies = listing.snapshots.iter().map(|snapshot| (snapshot.first_id(), snapshot.id)).collect();
    Ok(Other { repository, copies })
}

struct Job<'a> {
    host: &'a Host<'a>,
    repository: &'a OpenRepository,
    other: Option<&'a Other>,
    known: &'a BTreeMap<SnapshotId, SnapshotSummary>,
}

impl Job<'_> {
    async fn run(
        &self,
        found: Repair,
        forget_lost: bool,
        report: &mut RepairReport,
        confirm: &(dyn Fn(&RepairReport) -> bool + Send + Sync),
    ) -> Result<(), JobError> {
        let (host, repository) = (self.host, self.repository.inner());
        let mended = found.mend(repository, host.run).await?;
        report.salvaged = mended.salvaged;
        report.notes.extend(mended.notes);
        let mut left = found.look_again(repository, host.run).await?;
        for _ in 0..ROUNDS {
            let lost_before = left.lost_chunks();
            if lost_before == 0 {
                break;
            }
            left.quarantine(repository, host.run).await?;
            let hit = left.lost(repository).await?;
            self.refill(&hit, report).await?;
            left = left.look_again(repository, host.run).await?;
            if left.lost_chunks() == lost_before {
                break;
            }
        }
        report.refilled = report.lost_chunks.saturating_sub(left.lost_chunks());
        report.removed = left.tidy(repository, host.run).await?;
        report.lost = self.lost(&left).await?;
        if forget_lost && report.lost.iter().any(|lost| lost.entry_count > 0) {
            report.forgets = true;
            if !confirm(report) {
                return Err(JobError::Declined);
            }
            for lost in report.lost.iter_mut().filter(|lost| lost.entry_count > 0) {
                let why = format!("{} of its entries are lost", lost.entry_count);
                self.repository.forget(host, &[lost.snapshot.id], &why).await?;
                host.remember(host.catalog.drop_snapshot(self.repository.id(), lost.snapshot.id));
                lost.forgotten = true;
            }
        }
        Ok(())
    }

    /// Brings back what hit snapshots hold: from their copies, or where only reference pages are lost
    /// from what is left of themselves.
    async fn refill(&self, hit: &[LostSnapshot], report: &mut RepairReport) -> Result<(), JobError> {
        for snapshot in hit {
            let done = if snapshot.count == 0 {
                self.refill_by_itself(&snapshot.id).await
            } else {
                match self.copy_of(&snapshot.id) {
                    Some((other, copy)) => self.refill_by_copy(other, &copy).await,
                    None => Ok(()),
                }
            };
            match done {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), RepoErrorKind::Damaged | RepoErrorKind::Key) => {
                    let chain = JobError::from(error).chain();
                    let note = format!("{} could not be refilled: {chain}", snapshot.id.short());
                    if !report.notes.contains(&note) {
                        report.notes.push(note);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn refill_by_itself(&self, id: &SnapshotId) -> Result<(), RepoError> {
        let mut copier = Copier::within(self.repository.shared(), self.host.run).await?;
        copier.refill(id, self.host.run).await
    }

    async fn refill_by_copy(&self, other: &Other, copy: &SnapshotId) -> Result<(), RepoError> {
        let mut copier = Copier::new(other.repository.shared(), self.repository.shared(), self.host.run).await?;
        copier.refill(copy, self.host.run).await
    }

    fn copy_of(&self, id: &SnapshotId) -> Option<(&Other, SnapshotId)> {
        let other = self.other?;
        let first = self.known.get(id).map_or(*id, SnapshotSummary::first_id);
        other.copies.get(&first).map(|copy| (other, *copy))
    }

    async fn lost(&self, found: &Repair) -> Result<Vec<Lost>, JobError> {
        let mut all = Vec::new();
        for lost in found.lost(self.repository.inner()).await? {
            let Some(snapshot) = self.known.get(&lost.id) else { continue };
            all.push(Lost {
                snapshot: snapshot.clone(),
                entries: lost.paths,
                entry_count: lost.count,
                references: lost.references,
                has_copy: self.copy_of(&lost.id).is_some(),
                forgotten: false,
            });
        }
        Ok(all)
    }
}

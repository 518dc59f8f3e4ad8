//! Keeping a repository in order: freeing space and looking for damage.

pub use lifeboat_repo::check::Budget;
use lifeboat_repo::check::{self, CheckScope, ProblemKind, ReadBefore};
use lifeboat_repo::prune::{self, PruneOptions};
use serde::Serialize;

use crate::catalog::{Outcome, RunEnd};
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::{OpenRepository, open_repository};

/// What a prune did, or would do, in one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// The repository's name in the configuration.
    pub repository: String,
    /// Whether only the plan was made.
    pub dry_run: bool,
    /// What the repository's side did.
    #[serde(flatten)]
    pub done: prune::PruneReport,
}

/// Frees what no snapshot needs.
///
/// # Errors
/// [`JobError`]: no maintainer key or identity, the store.
pub async fn prune(host: &Host<'_>, repository: Option<&str>, dry_run: bool) -> Result<Vec<PruneReport>, JobError> {
    let mut reports = Vec::new();
    for config in host.repositories(repository)? {
        let opened = open_repository(host, config, Need::Maintain).await?;
        let options = PruneOptions { dry_run, ..PruneOptions::default() };
        let run = if dry_run { None } else { host.begin("prune", None) };
        let done = prune::prune(opened.inner(), &options, host.run).await;
        let done = done.map_err(|error| host.stopped_or(error.into()));
        let outcome = if done.is_ok() { Outcome::Ok } else { Outcome::Failed };
        let error = done.as_ref().err().map(JobError::chain);
        host.end(run, outcome, &RunEnd { error, ..RunEnd::default() });
        reports.push(PruneReport { repository: config.name.clone(), dry_run, done: done? });
    }
    Ok(reports)
}

/// What a check found in one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The repository's name in the configuration.
    pub repository: String,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Snapshots whose needs were followed.
    pub snapshots: u64,
    /// What is damaged, missing or forged, each with the object's name; at most 1,000.
    pub errors: Vec<CheckFinding>,
    /// How many there are.
    pub error_count: u64,
    /// What is odd and hurts no snapshot.
    pub notes: Vec<String>,
    /// What hurts no snapshot and should be mended: packs that snapshots need are in no index.
    pub to_mend: Vec<String>,
    /// What [`check_since_last`] read and found sound; missing for other checks.
    pub since_last: Option<SinceLast>,
}

/// Packs that a check read because of when they were read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinceLast {
    /// Packs that this host had never read.
    pub first_read: u64,
    /// Packs that were due again.
    pub read_again: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// The object.
    pub object: String,
    /// `damaged`, `missing`, `forged`, `newer`, `chain`.
    pub kind: &'static str,
    /// What is wrong with it.
    pub what: String,
    /// The entries that it hits, `stack/source@id:path`, at most 100; only with an identity.
    pub entries: Vec<String>,
    /// How many are hit.
    pub entry_count: u64,
}

impl CheckReport {
    /// 0, or 1 where something is wrong, or 3 where all can be restored and something is to be mended.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.error_count, self.to_mend.as_slice()) {
            (0, []) => 0,
            (0, _) => 3,
            _ => 1,
        }
    }
}

/// Looks for damage. With `read_data` every byte of every object is read.
///
/// # Errors
/// [`JobError`] where the repository cannot be opened or the store fails. Damage is told in the
/// report.
pub async fn check(host: &Host<'_>, repository: Option<&str>, read_data: bool) -> Result<Vec<CheckReport>, JobError> {
    let reading = if read_data { Reading::All } else { Reading::Nothing };
    check_reading(host, repository, reading).await
}

/// Looks for damage, and reads of the packs those that this host never read, and a share of the others,
/// those first that were read longest ago.
///
/// # Errors
/// As [`check`].
pub async fn check_since_last(
    host: &Host<'_>,
    repository: Option<&str>,
    budget: Budget,
) -> Result<Vec<CheckReport>, JobError> {
    check_reading(host, repository, Reading::SinceLast(budget)).await
}

/// How much data is read.
#[derive(Clone, Copy)]
enum Reading {
    Nothing,
    All,
    SinceLast(Budget),
}

async fn look(host: &Host<'_>, opened: &OpenRepository, reading: Reading) -> Result<CheckReport, JobError> {
    let (before, budget) = match reading {
        Reading::Nothing => {
            let scope = CheckScope { read_data: false };
            let found = check::check(opened.inner(), scope, opened.heads(), host.run).await?;
            return Ok(found_in(opened.name(), found));
        }
        Reading::All => (ReadBefore::new(), Budget::default()),
        Reading::SinceLast(budget) => (host.remember(host.catalog.packs_read(opened.id())).unwrap_or_default(), budget),
    };
    let found = check::check_since(opened.inner(), &before, budget, opened.heads(), host.run).await?;
    host.remember(host.catalog.read_packs(opened.id(), &found.sound, &found.gone, host.now()));
    let mut report = found_in(opened.name(), found.report);
    if matches!(reading, Reading::SinceLast(_)) {
        let read_again = found.sound.len() as u64 - found.first_read;
        report.since_last = Some(SinceLast { first_read: found.first_read, read_again });
    }
    Ok(report)
}

async fn check_reading(
    host: &Host<'_>,
    repository: Option<&str>,
    reading: Reading,
) -> Result<Vec<CheckReport>, JobError> {
    let mut reports = Vec::new();
    for config in host.repositories(repository)? {
        let opened = open_repository(host, config, Need::List).await?;
        let run = host.begin("check", None);
        let report = look(host, &opened, reading).await.map_err(|error| host.stopped_or(error));
        let (outcome, error) = match &report {
            Ok(report) if report.exit_code() == 0 => (Outcome::Ok, None),
            Ok(report) if report.exit_code() == 3 => (Outcome::Problems, Some(report.to_mend.join("; "))),
            Ok(report) => (Outcome::Failed, Some(format!("{} findings", report.error_count))),
            Err(error) => (Outcome::Failed, Some(error.chain())),
        };
        host.end(run, outcome, &RunEnd { error, ..RunEnd::default() });
        reports.push(report?);
    }
    Ok(reports)
}

fn found_in(repository: &str, found: check::CheckReport) -> CheckReport {
    // A void snapshot is what a dead writer left of a run that a prune overtook, and packs without an
    // index are found by their trailers: nothing is lost by either.
    let harmless = |kind| matches!(kind, ProblemKind::Void | ProblemKind::Unindexed);
    let (odd, wrong): (Vec<_>, Vec<_>) = found.problems.into_iter().partition(|problem| harmless(problem.kind));
    let (unindexed, void): (Vec<_>, Vec<_>) = odd.iter().partition(|problem| problem.kind == ProblemKind::Unindexed);
    let told = |problem: &check::Problem| format!("{}: {}", problem.object, problem.what);
    let mut notes = found.notes;
    notes.extend(void.into_iter().map(told));
    CheckReport {
        repository: repository.to_owned(),
        objects: found.objects,
        bytes_read: found.bytes,
        snapshots: found.snapshots,
        error_count: found.problem_count.saturating_sub(odd.len() as u64),
        errors: wrong
            .into_iter()
            .map(|problem| CheckFinding {
                object: problem.object,
                kind: kind_word(problem.kind),
                what: problem.what,
                entries: problem.entries,
                entry_count: problem.entry_count,
            })
            .collect(),
        notes,
        to_mend: unindexed.into_iter().map(told).collect(),
        since_last: None,
    }
}

const fn kind_word(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::Damaged => "damaged",
        ProblemKind::Missing => "missing",
        ProblemKind::Forged => "forged",
        ProblemKind::Newer => "newer",
        ProblemKind::Void => "void",
        ProblemKind::Chain => "chain",
        ProblemKind::Unindexed => "unindexed",
    }
}

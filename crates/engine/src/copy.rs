//! Copying snapshots from one repository of the configuration to another, with other keys and another
//! retention.

use lifeboat_model::{SnapshotId, SnapshotRef, SnapshotSummary};
use lifeboat_repo::RepoError;
use lifeboat_repo::copy::Copier;
use lifeboat_repo::writer::Sealed;
use serde::Serialize;

use crate::catalog::{Outcome, RunEnd};
use crate::error::JobError;
use crate::host::{Host, lock_name};
use crate::keys::Need;
use crate::lock::Lock;
use crate::repository::{OpenRepository, open_repository};

pub(crate) mod plan;

use plan::{Destination, Plan, plan_copy};

/// What is to be copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyRequest {
    /// The repository that is read.
    pub from: String,
    /// The repository that is written.
    pub to: String,
    /// Which snapshots: a source means all of it that the other repository lacks; none means
    /// everything that it lacks.
    pub asked: Vec<SnapshotRef>,
    /// Whether to plan only.
    pub dry_run: bool,
}

/// What a copy did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CopyReport {
    /// Name of the repository that was read.
    pub from: String,
    /// Name of the repository that was written.
    pub to: String,
    /// Whether only the plan was made.
    pub dry_run: bool,
    /// Each snapshot in turn, oldest first.
    pub copies: Vec<Copied>,
    /// How many of those that were asked for are there already.
    pub there: u64,
    /// What was not copied, and why.
    pub left_out: Vec<LeftOut>,
}

/// A snapshot that was copied, or is to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copied {
    /// The snapshot that was read.
    pub snapshot: SnapshotSummary,
    /// Its copy; missing where there is none.
    pub copy: Option<SnapshotId>,
    /// Plain length of the chunks that the repository did not hold yet.
    pub new_bytes: u64,
    /// Length of the packs and indexes that were put for it.
    pub stored_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Why there is no copy, with all that caused it.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// 0, or that of the error.
    pub exit_code: u8,
}

/// A snapshot that was not copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// Why.
    pub why: String,
    /// Whether that is a problem: what retention would forget at once is none.
    pub problem: bool,
}

impl CopyReport {
    /// 0 where all is well; 3 where something was left out that should not be; where a copy failed 1,
    /// or the code that all failed with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let failed: std::collections::BTreeSet<u8> =
            self.copies.iter().map(|copy| copy.exit_code).filter(|code| *code != 0).collect();
        match failed.first() {
            Some(code) if failed.len() == 1 && self.copies.iter().all(|copy| copy.exit_code == *code) => *code,
            Some(_) => 1,
            None if self.left_out.iter().any(|left| left.problem) => 3,
            None => 0,
        }
    }
}

/// Copies snapshots one after the other, oldest first. One that fails does not stop the others.
///
/// # Errors
/// Before anything is written: [`JobError::Usage`] for one repository under two names, a missing key, a
/// snapshot that is not there, a source that the writer may not write. What fails later is told in the
/// report.
pub async fn copy(host: &Host<'_>, request: &CopyRequest) -> Result<CopyReport, JobError> {
    let (from, mut to) = open_both(host, &request.from, &request.to).await?;
    let (mut from, listing) = from;
    let there = to.list(host).await?;
    let tag = |stack: &_, source: &_| to.own_tag(stack, source);
    let place = Destination { name: &request.to, tag: &tag };
    let mut plan = plan_copy(host.config, &place, &request.asked, &listing.snapshots, &there.snapshots, host.now())?;
    refuse_unallowed(&to, &mut plan)?;
    let mut report = CopyReport {
        from: request.from.clone(),
        to: request.to.clone(),
        dry_run: request.dry_run,
        copies: plan.copies.into_iter().map(Copied::of).collect(),
        there: plan.there,
        left_out: plan.left_out,
    };
    if request.dry_run || report.copies.is_empty() {
        return Ok(report);
    }
    let mut copier = Copier::new(from.shared(), to.shared(), host.run).await?;
    for one in &mut report.copies {
        let began = host.run.clock.monotonic();
        let run = host.remember(host.catalog.begin_run("copy", Some(&one.snapshot.group()), host.now()));
        match copy_one(host, &mut copier, &to, &one.snapshot).await {
            Ok(sealed) => {
                to.sealed(host, &sealed);
                one.seal(&sealed);
            }
            Err(error) => one.fail(&error),
        }
        one.seconds = host.run.clock.monotonic().saturating_sub(began).as_secs_f64();
        let outcome = if one.error.is_none() { Outcome::Ok } else { Outcome::Failed };
        host.end(run, outcome, &one.run_end());
    }
    // What was sealed is listed, so that the catalog knows it.
    from.list(host).await?;
    to.list(host).await?;
    Ok(report)
}

/// An opened repository with what it lists.
type Listed = (OpenRepository, crate::listing::Listing);

/// Opens the one to read and the other to write. Both are told apart before a byte is read.
async fn open_both(host: &Host<'_>, from: &str, to: &str) -> Result<(Listed, OpenRepository), JobError> {
    let (one, other) = (host.repository(Some(from))?, host.repository(Some(to))?);
    let mut source = open_repository(host, one, Need::Read).await?;
    let target = open_repository(host, other, Need::Copy).await?;
    if source.id() == target.id() {
        return Err(RepoError::Usage {
            what: format!("{from} and {to} are the same repository"),
            hint: Some("a copy goes to a repository of its own: `lifeboat init --repository NAME` makes one"),
        }
        .into());
    }
    let listing = source.list(host).await?;
    Ok(((source, listing), target))
}

/// Leaves out what the writer may not write; refuses where that was asked for, or nothing else is left.
fn refuse_unallowed(to: &OpenRepository, plan: &mut Plan) -> Result<(), JobError> {
    let mut refusal = None;
    let mut allowed = Vec::new();
    for snapshot in std::mem::take(&mut plan.copies) {
        let (Some(stack), Some(source)) = (&snapshot.stack, &snapshot.source) else { continue };
        match to.access().check_may_write(stack, source) {
            Ok(()) => allowed.push(snapshot),
            Err(error) if plan.named.contains(&snapshot.id) => return Err(error.into()),
            Err(error) => {
                plan.left_out.push(LeftOut { snapshot, why: error.to_string(), problem: true });
                refusal = Some(error);
            }
        }
    }
    match refusal {
        Some(error) if allowed.is_empty() && plan.there == 0 => return Err(error.into()),
        _ => plan.copies = allowed,
    }
    Ok(())
}

async fn copy_one(
    host: &Host<'_>,
    copier: &mut Copier,
    to: &OpenRepository,
    snapshot: &SnapshotSummary,
) -> Result<Sealed, JobError> {
    if host.run.cancel.is_cancelled() {
        return Err(JobError::Cancelled);
    }
    let (Some(stack), Some(source)) = (&snapshot.stack, &snapshot.source) else {
        return Err(JobError::Usage {
            what: format!("the source of {} is not known", snapshot.id.short()),
            hint: None,
        });
    };
    // A backup and a copy would both take the next place in the source's chain.
    let _lock = Lock::take(&host.config.state_dir, &lock_name(stack, source))?;
    let options = to.write_options(stack, source);
    let time = snapshot.candidate(true).dated();
    copier.copy(&snapshot.id, time, options, host.run).await.map_err(|error| host.stopped_or(error.into()))
}

impl Copied {
    fn of(snapshot: SnapshotSummary) -> Self {
        Self {
            snapshot,
            copy: None,
            new_bytes: 0,
            stored_bytes: 0,
            seconds: 0.0,
            error: None,
            hint: None,
            exit_code: 0,
        }
    }

    fn seal(&mut self, sealed: &Sealed) {
        self.copy = Some(sealed.id);
        self.new_bytes = sealed.stats.new_bytes;
        self.stored_bytes = sealed.stats.stored_bytes;
    }

    fn fail(&mut self, error: &JobError) {
        self.error = Some(error.chain());
        self.hint = error.hint();
        self.exit_code = error.exit_code();
    }

    fn run_end(&self) -> RunEnd {
        RunEnd {
            snapshot: self.copy,
            bytes: self.copy.and(self.snapshot.bytes),
            new_bytes: self.copy.map(|_| self.new_bytes),
            error: self.error.clone(),
        }
    }
}

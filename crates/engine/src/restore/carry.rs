//! One restore from a reader into a target: look, plan, ask, check, apply, compare.
//!
//! # What is read before anything is destroyed
//! With `replace`, everything that the target is about to write is first read, decrypted and
//! checked in whole (the preflight); only then does the target begin. Without it nothing that
//! exists is touched, and the data are read once: every piece is checked before the target gets
//! it, and a damaged one ends the restore with what it had made so far beside the old.

use lifeboat_model::flow::{EntryReader, RunContext};
use lifeboat_model::restore::{Destination, Machine, RestorePlan, RestoreRequest, plan_restore};
use lifeboat_model::target::{Restored, Scope, Verified};
use lifeboat_source::Target;
use serde::Serialize;

use crate::error::JobError;
use crate::lock::Lock;

/// Shown the plan, says whether to go on. It may ask a person; a plan that destroys nothing needs
/// no question.
pub type Confirm<'a> = dyn Fn(&RestorePlan) -> Answer + Send + Sync + 'a;

/// What was said to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing may be done.
    No,
    /// Go on; nobody had to be asked, so that no time passed.
    Unasked,
    /// Go on, said a person who may have thought about it for hours.
    Yes,
}

/// Both sides of a restore, and what keeps others away from the target.
pub struct Sides<'a> {
    /// The snapshot.
    pub data: &'a dyn EntryReader,
    /// Where it goes.
    pub target: &'a dyn Target,
    /// Takes the lock of the source, where it is the source that is replaced.
    pub lock: &'a (dyn Fn() -> Result<Option<Lock>, JobError> + Send + Sync),
}

impl std::fmt::Debug for Sides<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sides").finish_non_exhaustive()
    }
}

/// How often a person is asked about a target that keeps changing.
const QUESTIONS_MAX: usize = 3;

/// How far a restore goes.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// The plan and nothing more.
    DryRun,
    /// All of it, where `Confirm` says yes.
    Run(&'a Confirm<'a>),
}

impl std::fmt::Debug for Mode<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DryRun => "DryRun",
            Self::Run(_) => "Run",
        })
    }
}

/// What came of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// What was planned.
    pub plan: RestorePlan,
    /// What is back; missing after a dry run.
    pub restored: Option<Restored>,
    /// How it compares with what the snapshot recorded, where the target can tell without reading
    /// everything again.
    pub verified: Option<Verified>,
}

impl RestoreReport {
    /// 0, 3 where something is not as it was, 1 where a count differs from the snapshot's.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.verified.as_ref().is_some_and(|verified| verified.difference_count > 0) {
            1
        } else if self.restored.as_ref().is_some_and(|restored| !restored.problems.is_empty())
            || self.verified.as_ref().is_some_and(|verified| !verified.problems.is_empty())
        {
            3
        } else {
            0
        }
    }
}

/// Plans the restore and, unless it is a dry run, carries it out. The lock is taken after the yes.
///
/// # Errors
/// [`JobError::Plan`] for what is refused, [`JobError::Declined`], what the lock said;
/// [`JobError::Changing`] for a target that keeps changing while a person is asked;
/// [`JobError::Read`] where the preflight finds damage, with the target untouched;
/// [`JobError::Source`] where the target failed.
pub async fn carry_out(
    Sides { data, target, lock }: Sides<'_>,
    request: &RestoreRequest<'_>,
    machine: &Machine,
    mode: Mode<'_>,
    run: &RunContext,
) -> Result<RestoreReport, JobError> {
    let (to, options) = (request.to, request.options);
    let plan_now = async || {
        let inventory = target.inventory(data, options).await.map_err(JobError::source(format!("looking at {to}")))?;
        let plan = plan_restore(request, &inventory, machine)?;
        Ok::<_, JobError>((inventory, plan))
    };
    let (mut inventory, mut plan) = plan_now().await?;
    let Mode::Run(confirm) = mode else { return Ok(RestoreReport { plan, restored: None, verified: None }) };
    let mut questions = 0;
    // Nothing is locked while a person thinks; what the plan relied on may have changed since.
    let _lock = loop {
        let answer = confirm(&plan);
        if answer == Answer::No {
            return Err(JobError::Declined);
        }
        let held = lock()?;
        if answer == Answer::Unasked {
            break held;
        }
        let shown = plan;
        (inventory, plan) = plan_now().await?;
        if plan.destroys_the_same(&shown) {
            break held;
        }
        questions += 1;
        if questions == QUESTIONS_MAX {
            return Err(JobError::Changing { to: to.to_string() });
        }
    };
    if options.replace {
        let bytes = request.snapshot.bytes.filter(|_| inventory.reads.is_empty());
        run.monitor.begin("reading and checking before anything is replaced", bytes);
        preflight(data, &inventory.reads, run).await?;
    }
    if run.cancel.is_cancelled() {
        return Err(JobError::Cancelled);
    }
    let bytes = request.snapshot.bytes.filter(|_| options.only.is_empty());
    run.monitor.begin("restoring", bytes);
    let restored = target.apply(data, options, run).await.map_err(JobError::source(format!("restoring to {to}")))?;
    // A directory was written from checked bytes and would only be read again.
    let verified = match to {
        Destination::Server(_) => true,
        Destination::Origin => request.snapshot.kind.as_deref() != Some("files"),
        Destination::Dir(_) => false,
    };
    let verified = if verified {
        run.monitor.begin("comparing content", None);
        let what = format!("comparing {to} with the snapshot");
        Some(target.verify(data, options, Scope::Content, run).await.map_err(JobError::source(what))?)
    } else {
        None
    };
    Ok(RestoreReport { plan, restored: Some(restored), verified })
}

async fn preflight(
    data: &dyn EntryReader,
    reads: &[lifeboat_model::EntryPath],
    run: &RunContext,
) -> Result<(), JobError> {
    let failed = || JobError::read("checking the snapshot before anything is replaced");
    let monitor = run.monitor.as_ref();
    if reads.is_empty() {
        return data.preflight(None, monitor).await.map_err(failed());
    }
    for path in reads {
        if run.cancel.is_cancelled() {
            return Err(JobError::Cancelled);
        }
        data.preflight(Some(path), monitor).await.map_err(failed())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

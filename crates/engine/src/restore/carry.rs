//! One restore from a reader into a target: look, plan, ask, check, apply, compare.
//!
//! # What is read before anything is destroyed
//! With `replace`, everything that the target is about to write is first read, decrypted and
//! checked in whole (the preflight); only then does the target begin. Without it nothing that
//! exists is touched, and the data are read once: every piece is checked before the target gets
//! it, and a damaged one ends the restore with what it had made so far beside the old.

use lifeboat_model::flow::{EntryReader, RunContext};
use lifeboat_model::restore::{Destination, Machine, RestorePlan, RestoreRequest, plan_restore};
use lifeboat_model::target::{Restored, Verified};
use lifeboat_source::Target;
use serde::Serialize;

use crate::error::JobError;

/// Shown the plan, says whether to go on. It may ask a person; a plan that destroys nothing needs
/// no question.
pub type Confirm<'a> = dyn Fn(&RestorePlan) -> bool + Send + Sync + 'a;

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
        } else if self.restored.as_ref().is_some_and(|restored| !restored.problems.is_empty()) {
            3
        } else {
            0
        }
    }
}

/// Plans the restore and, unless it is a dry run, carries it out.
///
/// # Errors
/// [`JobError::Plan`] for what is refused, [`JobError::Declined`]; [`JobError::Read`] where the
/// preflight finds damage, with the target untouched; [`JobError::Source`] where the target failed.
pub async fn carry_out(
    data: &dyn EntryReader,
    target: &dyn Target,
    request: &RestoreRequest<'_>,
    machine: &Machine,
    mode: Mode<'_>,
    run: &RunContext,
) -> Result<RestoreReport, JobError> {
    let (to, options) = (request.to, request.options);
    let inventory = target.inventory(data, options).await.map_err(JobError::source(format!("looking at {to}")))?;
    let plan = plan_restore(request, &inventory, machine)?;
    let Mode::Run(confirm) = mode else { return Ok(RestoreReport { plan, restored: None, verified: None }) };
    if !confirm(&plan) {
        return Err(JobError::Declined);
    }
    if options.replace {
        run.monitor.begin("reading and checking before anything is replaced", None);
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
        run.monitor.begin("comparing counts", None);
        let what = format!("comparing {to} with the snapshot");
        Some(target.verify(data, options, run).await.map_err(JobError::source(what))?)
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
    if reads.is_empty() {
        return data.preflight(None).await.map_err(failed());
    }
    for path in reads {
        if run.cancel.is_cancelled() {
            return Err(JobError::Cancelled);
        }
        data.preflight(Some(path)).await.map_err(failed())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

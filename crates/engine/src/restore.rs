//! Bringing a snapshot back, and comparing what is back with it.

use std::path::PathBuf;

use lifeboat_model::config::{SecretUrl, SourceConfig, SourceKind};
use lifeboat_model::flow::EntryReader;
use lifeboat_model::restore::{Destination, Machine, RestoreRequest, at_home, resolve};
use lifeboat_model::target::{RestoreOptions, Scope, Verified};
use lifeboat_model::{RecoveryPoint, SnapshotRef, SnapshotSummary};
use lifeboat_source::Target;
use serde::Serialize;

use crate::catalog::{Outcome, RestoreDone, RunEnd};
use crate::datastore::{ServerAccess, target_of};
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::lock::Lock;
use crate::repository::{OpenRepository, open_repository};

mod carry;

pub use carry::{Answer, Confirm, Mode, RestoreReport, Sides, carry_out};

/// Where a restore goes, with what is needed to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// An absolute directory.
    Dir(PathBuf),
    /// A server.
    Server(SecretUrl),
    /// Where it came from, by this machine's configuration.
    Origin,
}

impl To {
    /// The same for plans and messages.
    #[must_use]
    pub fn shown(&self) -> Destination {
        match self {
            Self::Dir(dir) => Destination::Dir(dir.clone()),
            Self::Server(url) => Destination::Server(url.to_string()),
            Self::Origin => Destination::Origin,
        }
    }
}

/// What is to be brought back or compared.
#[derive(Clone, Debug)]
pub struct RestoreAsk {
    /// Which snapshot.
    pub snapshot: SnapshotRef,
    /// The repository, where that does not follow from the source.
    pub from: Option<String>,
    /// Where to.
    pub to: To,
    /// What of it and how.
    pub options: RestoreOptions,
    /// How to log in where `to` is a server.
    pub access: ServerAccess,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// What it was compared with.
    pub to: Destination,
    /// What came of it.
    pub verified: Verified,
}

impl VerifyReport {
    /// 0, 1 where something differs, 3 where something could not be compared.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.verified.difference_count, self.verified.problems.is_empty()) {
            (0, true) => 0,
            (0, false) => 3,
            _ => 1,
        }
    }
}

/// A snapshot that was found and opened, with the target it goes to.
struct Opened<'a> {
    repository: OpenRepository,
    snapshot: SnapshotSummary,
    point: RecoveryPoint,
    data: Box<dyn EntryReader>,
    target: Box<dyn Target>,
    origin: Option<&'a SourceConfig>,
}

/// Plans a restore and, unless `mode` is a dry run, carries it out.
///
/// # Errors
/// [`JobError`], as [`carry_out`]; a wrong or missing identity before anything is looked at.
pub async fn restore(host: &Host<'_>, ask: &RestoreAsk, mode: Mode<'_>) -> Result<RestoreReport, JobError> {
    let opened = open(host, ask).await?;
    // No backup reads what is just being replaced.
    let lock = || match (&ask.to, opened.origin) {
        (To::Origin, Some(source)) => Ok(Some(Lock::take(&host.config.state_dir, &host.lock_name(&source.name))?)),
        _ => Ok(None),
    };
    if let Mode::Run(_) = mode {
        // A backup that runs now is told before anybody is asked.
        drop(lock()?);
    }
    let to = absolute(ask.to.shown());
    let request = RestoreRequest {
        snapshot: &opened.snapshot,
        point: &opened.point,
        problems: opened.data.problems(),
        to: &to,
        options: &ask.options,
    };
    let machine = machine(host, &opened.repository);
    let run = match mode {
        Mode::DryRun => None,
        Mode::Run(_) => host.begin("restore", opened.snapshot.source.as_ref()),
    };
    let sides = Sides { data: opened.data.as_ref(), target: opened.target.as_ref(), lock: &lock };
    let result = carry_out(sides, &request, &machine, mode, host.run).await;
    let result = result.map_err(|error| host.stopped_or(error));
    if let Ok(report) = &result
        && report.restored.is_some()
    {
        record(host, &opened.snapshot, report);
    }
    end(host, run, &opened.snapshot, &result);
    result
}

/// Compares what is at `ask.to` with the snapshot and changes nothing.
///
/// # Errors
/// [`JobError`] where the snapshot or the place cannot be read. Differences are told in the report.
pub async fn verify(host: &Host<'_>, ask: &RestoreAsk) -> Result<VerifyReport, JobError> {
    let opened = open(host, ask).await?;
    let to = ask.to.shown();
    host.run.monitor.begin(&format!("comparing {to} with the snapshot"), opened.snapshot.bytes);
    let verified = opened.target.verify(opened.data.as_ref(), &ask.options, Scope::Whole, host.run).await;
    let verified = verified
        .map_err(JobError::source(format!("comparing {to} with the snapshot")))
        .map_err(|error| host.stopped_or(error))?;
    Ok(VerifyReport { snapshot: opened.snapshot, to, verified })
}

async fn open<'a>(host: &Host<'a>, ask: &RestoreAsk) -> Result<Opened<'a>, JobError> {
    let asked = &ask.snapshot;
    let config = host.repository_for(asked, ask.from.as_deref())?;
    let mut repository = open_repository(host, config, Need::Read).await?;
    let listing = repository.list(host).await?;
    let snapshot =
        resolve(&at_home(asked, &host.config.stack, &listing.snapshots), &listing.snapshots, &host.config.time_zone)?
            .clone();
    let (data, root) = repository.read(snapshot.id).await?;
    let origin = snapshot
        .source
        .as_ref()
        .filter(|_| snapshot.stack.as_ref() == Some(host.stack()))
        .and_then(|name| host.config.sources.get(name));
    let target = target_of(&root.kind, &ask.to, origin, &ask.access).map_err(JobError::source(format!(
        "restoring {} to {}",
        snapshot.group(),
        ask.to.shown()
    )))?;
    Ok(Opened { repository, snapshot, point: root.recovery_point, data, target, origin })
}

/// A directory as the file system knows it, so that no link hides that it is the live data.
fn absolute(to: Destination) -> Destination {
    match to {
        Destination::Dir(dir) => {
            let existing = dir.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
            match existing {
                Some((above, real)) => match dir.strip_prefix(above) {
                    Ok(rest) if !rest.as_os_str().is_empty() => Destination::Dir(real.join(rest)),
                    _ => Destination::Dir(real),
                },
                None => Destination::Dir(dir),
            }
        }
        other => other,
    }
}

fn machine(host: &Host<'_>, repository: &OpenRepository) -> Machine {
    let mut own = host.remember(host.catalog.facts_of(host.stack())).unwrap_or_default();
    for (key, values) in repository.own_facts() {
        own.entry(key.clone()).or_default().extend(values.iter().cloned());
    }
    let paths = host.config.sources.values().filter_map(|source| match &source.kind {
        SourceKind::Files(files) => Some(files.paths.clone()),
        SourceKind::Postgres(_) => None,
    });
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    Machine {
        role: host.config.role,
        stack: Some(host.stack().clone()),
        own,
        own_paths: paths.flatten().map(real).collect(),
    }
}

fn record(host: &Host<'_>, snapshot: &SnapshotSummary, report: &RestoreReport) {
    let (Some(stack), Some(source)) = (snapshot.stack.clone(), snapshot.source.clone()) else { return };
    let done = RestoreDone {
        time: host.now(),
        snapshot: snapshot.id,
        stack,
        source,
        destination: report.plan.to.to_string(),
        identity: report.plan.identity.clone(),
        clone: report.plan.clone,
    };
    host.remember(host.catalog.restored(&done));
}

fn end(host: &Host<'_>, run: Option<i64>, snapshot: &SnapshotSummary, result: &Result<RestoreReport, JobError>) {
    let (outcome, bytes, error) = match result {
        Ok(report) => {
            let outcome = match report.exit_code() {
                0 => Outcome::Ok,
                3 => Outcome::Problems,
                _ => Outcome::Failed,
            };
            (outcome, report.restored.as_ref().map(|restored| restored.bytes), None)
        }
        Err(error) => (Outcome::Failed, None, Some(error.chain())),
    };
    host.end(run, outcome, &RunEnd { snapshot: Some(snapshot.id), bytes, new_bytes: None, error });
}

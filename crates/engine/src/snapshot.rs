//! What is done with one snapshot: open it to look into it, hold it, release it.

use lifeboat_model::flow::EntryReader;
use lifeboat_model::restore::{at_home, resolve};
use lifeboat_model::{RecoveryPoint, SnapshotRef, SnapshotSummary};
use serde::Serialize;

use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::open_repository;

/// A snapshot that was found and can be read.
pub struct OpenSnapshot {
    /// What is told of it.
    pub snapshot: SnapshotSummary,
    /// Kind of its source.
    pub kind: String,
    /// What it captured.
    pub point: RecoveryPoint,
    /// Its entries.
    pub data: Box<dyn EntryReader>,
}

impl std::fmt::Debug for OpenSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSnapshot").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// Finds and opens a snapshot for [`crate::browse`].
///
/// # Errors
/// [`JobError`]: no identity, no such snapshot, or more than one.
pub async fn open_snapshot(host: &Host<'_>, asked: &SnapshotRef, from: Option<&str>) -> Result<OpenSnapshot, JobError> {
    let config = host.repository_for(asked, from)?;
    let mut repository = open_repository(host, config, Need::Read).await?;
    let listing = repository.list(host).await?;
    let snapshot =
        resolve(&at_home(asked, &host.config.stack, &listing.snapshots), &listing.snapshots, &host.config.time_zone)?
            .clone();
    let (data, body) = repository.read(snapshot.id).await?;
    Ok(OpenSnapshot { snapshot, kind: body.kind, point: body.recovery_point, data })
}

/// What is said of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Retention may not forget it, for this reason.
    Hold(String),
    /// It may again, for this reason.
    Release(String),
}

/// A snapshot that was held or released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldReport {
    /// The snapshot as it is now.
    pub snapshot: SnapshotSummary,
}

/// Holds snapshots or releases them. All of them are found before the first word is said.
///
/// # Errors
/// [`JobError`]: no maintainer key or identity, no such snapshot, or more than one.
pub async fn hold(
    host: &Host<'_>,
    asked: &[SnapshotRef],
    from: Option<&str>,
    word: &Word,
) -> Result<Vec<HoldReport>, JobError> {
    let Some(first) = asked.first() else { return Ok(Vec::new()) };
    let mut repository = open_repository(host, host.repository_for(first, from)?, Need::Maintain).await?;
    let listing = repository.list(host).await?;
    let mut found = Vec::new();
    for asked in asked {
        found.push(
            resolve(
                &at_home(asked, &host.config.stack, &listing.snapshots),
                &listing.snapshots,
                &host.config.time_zone,
            )?
            .clone(),
        );
    }
    let mut reports = Vec::new();
    for mut snapshot in found {
        repository.say(host, snapshot.id, word).await?;
        snapshot.held = match word {
            Word::Hold(why) => Some(why.clone()),
            Word::Release(_) => None,
        };
        reports.push(HoldReport { snapshot });
    }
    Ok(reports)
}

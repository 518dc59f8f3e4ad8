//! The snapshots of a repository as they are listed: from their headers, from their bodies where
//! an identity opens them, and from the catalog where not.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_model::config::StackConfig;
use lifeboat_model::retention::TOLERANCE;
use lifeboat_model::{Digest, SnapshotId, SnapshotSummary, SourceName, StackName};
use lifeboat_repo::Access;
use lifeboat_repo::snapshots::SnapshotInfo;
use serde::Serialize;

use crate::catalog::SeenSnapshot;
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::open_repository;

/// Snapshots of one repository, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The repository's name in the configuration.
    pub repository: String,
    /// The snapshots.
    pub snapshots: Vec<SnapshotSummary>,
    /// Root objects that do not count, and why: damaged, forged, not allowed.
    pub refused: Vec<String>,
    /// Signs that the history was shortened or forked.
    pub findings: Vec<String>,
}

impl Listing {
    /// 0, or 1 where objects were refused or the history is not whole.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.refused.is_empty() || !self.findings.is_empty())
    }
}

/// Lists the snapshots of one repository, or of all of the configuration. Works with any key:
/// without an identity the columns that only a body tells come from the catalog or are missing.
///
/// # Errors
/// [`JobError`] where a repository cannot be opened or listed.
pub async fn snapshots(host: &Host<'_>, repository: Option<&str>) -> Result<Vec<Listing>, JobError> {
    let mut listings = Vec::new();
    for config in host.repositories(repository)? {
        let mut repository = open_repository(host, config, Need::List).await?;
        listings.push(repository.list(host).await?);
    }
    Ok(listings)
}

/// Names of the stack and sources of a configuration by their tags, in every domain whose keys are
/// at hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    stacks: BTreeMap<Digest, StackName>,
    sources: BTreeMap<Digest, (StackName, SourceName)>,
}

impl Names {
    /// `more` are sources that the configuration no longer has and that are known from elsewhere.
    pub(crate) fn of(access: &Access, config: &StackConfig, more: &BTreeSet<(StackName, SourceName)>) -> Self {
        let mut names = Self::default();
        for keys in access.domains.values() {
            names.stacks.insert(keys.stack_tag(&config.stack), config.stack.clone());
            for source in config.sources.keys() {
                let both = (config.stack.clone(), source.clone());
                names.sources.insert(keys.source_tag(&both.0, &both.1), both);
            }
            for (stack, source) in more {
                names.stacks.insert(keys.stack_tag(stack), stack.clone());
                names.sources.insert(keys.source_tag(stack, source), (stack.clone(), source.clone()));
            }
        }
        names
    }
}

/// What is told of a snapshot by its root object.
pub(crate) fn summary_of(info: &SnapshotInfo, names: &Names) -> SnapshotSummary {
    let header = &info.header;
    let by_tag = names.sources.get(&header.source_tag).cloned();
    let (stack, source) = match &info.summary {
        Some(body) => (Some(body.stack.clone()), Some(body.source.clone())),
        None => (
            by_tag.as_ref().map(|(stack, _)| stack.clone()).or_else(|| names.stacks.get(&header.stack_tag).cloned()),
            by_tag.map(|(_, source)| source),
        ),
    };
    let body = seen_of(info).unwrap_or_default();
    let drift = header.countersigned.is_none() && info.stored_at.duration_since(header.time).abs() > TOLERANCE;
    SnapshotSummary {
        id: info.id,
        original: header.copied_from(),
        stack,
        source,
        kind: body.kind,
        time: header.time,
        recovery_point: body.recovery_point,
        stored_at: info.stored_at,
        label: body.label,
        bytes: body.bytes,
        new_bytes: body.new_bytes,
        entries: body.entries,
        problems: body.problems,
        held: info.held.clone(),
        sequence: header.sequence,
        countersigned_time: header.countersigned.as_ref().map(|countersign| countersign.time),
        writer: hex::encode(info.writer.0),
        clock_drift: drift,
        stack_tag: header.stack_tag,
        source_tag: header.source_tag,
    }
}

/// What the catalog should remember of a body that was read.
pub(crate) fn seen_of(info: &SnapshotInfo) -> Option<SeenSnapshot> {
    let body = info.summary.as_ref()?;
    let stat = |name: &str| body.stats.get(name).copied();
    Some(SeenSnapshot {
        names: Some((body.stack.clone(), body.source.clone())),
        kind: Some(body.kind.clone()),
        recovery_point: Some(body.recovery_point.time),
        label: body.label.clone(),
        bytes: stat("bytes"),
        new_bytes: stat("new_bytes"),
        entries: stat("entries"),
        problems: Some(stat("skips").unwrap_or(0) + stat("problems").unwrap_or(0)),
        facts: body.recovery_point.facts.clone(),
    })
}

/// Completes what headers alone tell by what the catalog remembers, and sorts: oldest first.
pub(crate) fn complete(snapshots: &mut [SnapshotSummary], seen: &BTreeMap<SnapshotId, SeenSnapshot>) {
    for snapshot in snapshots.iter_mut() {
        if let Some(seen) = seen.get(&snapshot.id) {
            seen.complete(snapshot);
        }
    }
    snapshots.sort_by_key(|snapshot| (snapshot.instant(), snapshot.sequence, snapshot.id));
}

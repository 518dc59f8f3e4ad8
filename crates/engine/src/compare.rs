//! Comparing two repositories: which snapshots the one has that the other lacks, and whether those that
//! are in both hold the same.

use std::collections::BTreeMap;

use lifeboat_model::{SnapshotId, SnapshotSummary, SourceName, StackName};
use lifeboat_repo::RepoError;
use lifeboat_repo::compare::{self, Side};
use serde::Serialize;

use crate::catalog::{Outcome, RunEnd};
use crate::copy::plan::{Destination, plan_copy};
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::open_repository;

/// How two repositories differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Name of the one.
    pub repository: String,
    /// Name of the other.
    pub against: String,
    /// Snapshots that are in both and were compared.
    pub compared: u64,
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// Snapshots that one of them lacks.
    pub lacks: Vec<Lack>,
    /// Snapshots that differ.
    pub differs: Vec<Differs>,
}

/// A snapshot that a repository lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The repository that lacks it.
    pub repository: String,
    /// The snapshot, as the other has it.
    pub snapshot: SnapshotSummary,
    /// Why that is as it should be, where it is.
    pub why: Option<String>,
    /// Whether `lifeboat copy` would bring it.
    pub problem: bool,
}

/// A snapshot that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Differs {
    /// The snapshot of the one.
    pub snapshot: SnapshotSummary,
    /// That of the other.
    pub copy: SnapshotId,
    /// What differs, `path: what`, at most a hundred.
    pub what: Vec<String>,
    /// In how many places.
    pub count: u64,
}

impl Comparison {
    /// 0; 3 where either lacks what a copy would bring; 1 where snapshots differ.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if !self.differs.is_empty() {
            1
        } else if self.lacks.iter().any(|lack| lack.problem) {
            3
        } else {
            0
        }
    }
}

/// Compares `repository` (or the only one besides) with `against`. With `read_data` every byte of both
/// is read.
///
/// # Errors
/// [`JobError`]: one repository under two names, no identity of either, the stores. What cannot be read
/// in a snapshot is a difference.
pub async fn compare(
    host: &Host<'_>,
    repository: Option<&str>,
    against: &str,
    read_data: bool,
) -> Result<Comparison, JobError> {
    let mut others = host.config.repositories.keys().filter(|name| *name != against);
    let repository = match (repository, others.next(), others.next()) {
        (Some(name), ..) => name,
        (None, Some(only), None) => only,
        _ => {
            return Err(JobError::Usage {
                what: format!("it is not clear what to compare with {against}"),
                hint: Some("say which repository with --from REPOSITORY".to_owned()),
            });
        }
    };
    let mut one = open_repository(host, host.repository(Some(repository))?, Need::Read).await?;
    let mut other = open_repository(host, host.repository(Some(against))?, Need::Read).await?;
    if one.id() == other.id() {
        let what = format!("{repository} and {against} are the same repository");
        return Err(RepoError::Usage { what, hint: Some("name two repositories of the configuration") }.into());
    }
    let run = host.begin("check", None);
    let (listing, other_listing) = (one.list(host).await?.snapshots, other.list(host).await?.snapshots);
    let mut report =
        Comparison { repository: repository.to_owned(), against: against.to_owned(), ..Comparison::default() };
    report.lacks = lacking(host, against, &listing, &other_listing)?;
    report.lacks.extend(lacking(host, repository, &other_listing, &listing)?);
    let firsts: BTreeMap<SnapshotId, &SnapshotSummary> = listing.iter().map(|s| (s.first_id(), s)).collect();
    for copy in &other_listing {
        let Some(snapshot) = firsts.get(&copy.first_id()) else { continue };
        report.compared += 1;
        let sides = [(one.inner(), snapshot.id), (other.inner(), copy.id)];
        let [left, right] = sides.map(|(repository, id)| Side { repository, id });
        let (what, count) = match compare::compare(left, right, read_data, host.run).await {
            Ok(found) => {
                report.bytes_read += found.bytes;
                (found.differences, found.difference_count)
            }
            Err(error) if is_damage(&error) => (vec![JobError::from(error).chain()], 1),
            Err(error) => return Err(error.into()),
        };
        if count > 0 {
            report.differs.push(Differs { snapshot: (*snapshot).clone(), copy: copy.id, what, count });
        }
    }
    let outcome = if report.exit_code() == 0 { Outcome::Ok } else { Outcome::Failed };
    host.end(run, outcome, &RunEnd::default());
    Ok(report)
}

/// What the repository of this name, with the snapshots `there`, lacks of `here`: the same whichever of the
/// two a person names first.
fn lacking(
    host: &Host<'_>,
    name: &str,
    here: &[SnapshotSummary],
    there: &[SnapshotSummary],
) -> Result<Vec<Lack>, JobError> {
    let tag = |stack: &StackName, source: &SourceName| {
        let of_it = |s: &&SnapshotSummary| s.stack.as_ref() == Some(stack) && s.source.as_ref() == Some(source);
        let copies = there.iter().filter(|snapshot| snapshot.original.is_some());
        copies.chain(there).find(of_it).map(|snapshot| snapshot.source_tag)
    };
    let plan = plan_copy(host.config, &Destination { name, tag: &tag }, &[], here, there, host.now())?;
    let lack = |snapshot, why, problem| Lack { repository: name.to_owned(), snapshot, why, problem };
    let missing = plan.copies.into_iter().map(|snapshot| lack(snapshot, None, true));
    let left_out = plan.left_out.into_iter().map(|left| lack(left.snapshot, Some(left.why), left.problem));
    Ok(missing.chain(left_out).collect())
}

fn is_damage(error: &RepoError) -> bool {
    error.kind() == lifeboat_repo::RepoErrorKind::Damaged
}

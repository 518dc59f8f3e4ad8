//! Keeping a repository in order: freeing space and looking for damage.

use serde::Serialize;

use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::open_repository;

/// What a prune did, or would do, in one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// The repository's name in the configuration.
    pub repository: String,
    /// Whether only the plan was made.
    pub dry_run: bool,
    /// Objects that were deleted.
    pub deleted_objects: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Packs that this prune marked: a later one frees them.
    pub marked_packs: u64,
    /// Their bytes.
    pub marked_bytes: u64,
    /// Packs that were partly needed and packed anew.
    pub repacked_packs: u64,
    /// Bytes of the new packs.
    pub written_bytes: u64,
    /// When what is marked may go, RFC 3339 UTC.
    pub can_go_at: Option<String>,
    /// Why what was marked before is still there.
    pub waits: Vec<String>,
    /// Domains that were left alone, and why.
    pub refused: Vec<String>,
    /// Damaged or forged objects that were passed over.
    pub problems: Vec<String>,
}

/// Frees what no snapshot needs.
///
/// # Errors
/// [`JobError`]: no maintainer key or identity, the store.
pub async fn prune(host: &Host<'_>, repository: Option<&str>, dry_run: bool) -> Result<Vec<PruneReport>, JobError> {
    let mut reports = Vec::new();
    for config in host.repositories(repository)? {
        let _opened = open_repository(host, config, Need::Maintain).await?;
        let _ = dry_run;
        reports.push(PruneReport::default());
        return Err(crate::pending::not_yet());
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
    /// What is damaged, missing or forged, each with the object's name.
    pub errors: Vec<CheckFinding>,
    /// What is odd and hurts no snapshot.
    pub notes: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The entries that it hits, `stack/source@id:path`, at most 100; only with an identity.
    pub entries: Vec<String>,
}

impl CheckReport {
    /// 0, or 1 where something is wrong.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.errors.is_empty())
    }
}

/// Looks for damage. With `read_data` every byte of every object is read.
///
/// # Errors
/// [`JobError`] where the repository cannot be opened or the store fails. Damage is told in the
/// report.
pub async fn check(host: &Host<'_>, repository: Option<&str>, read_data: bool) -> Result<Vec<CheckReport>, JobError> {
    let mut reports = Vec::new();
    for config in host.repositories(repository)? {
        let _opened = open_repository(host, config, Need::List).await?;
        let _ = read_data;
        reports.push(CheckReport::default());
        return Err(crate::pending::not_yet());
    }
    Ok(reports)
}

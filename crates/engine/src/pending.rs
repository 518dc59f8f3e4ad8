//! Stands in for parts of other crates until they land; goes away with them.
use lifeboat_model::flow::{Body, EntrySink, EntryStats, Kept, SinkError};
use lifeboat_model::*;
use lifeboat_repo::RememberedHead;
use lifeboat_repo::small::RunId;
use lifeboat_source::{SourceError, Target};

pub(crate) struct SnapshotHead {
    pub stack: StackName,
    pub source: SourceName,
    pub kind: String,
    pub label: Option<String>,
    pub config: String,
    pub stack_run: Option<RunId>,
}
pub(crate) struct Sealed {
    pub id: SnapshotId,
    pub head: RememberedHead,
    pub stats: Stats,
    pub problems: Vec<(EntryPath, String)>,
}
#[derive(Clone, Copy)]
pub(crate) struct Stats {
    pub entries: u64,
    pub bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    pub kept: u64,
    pub skips: u64,
    pub problems: u64,
}
pub(crate) struct SnapshotWriter;
fn no() -> SinkError {
    SinkError::Poisoned("not built yet".to_owned())
}
#[async_trait::async_trait]
impl EntrySink for SnapshotWriter {
    async fn keep(&self, _: &EntryPath, _: &EntryMeta, _: &Fingerprint) -> Result<Kept, SinkError> {
        Err(no())
    }
    async fn put(
        &self,
        _: &EntryPath,
        _: &EntryMeta,
        _: Option<Fingerprint>,
        _: Body,
    ) -> Result<EntryStats, SinkError> {
        Err(no())
    }
    async fn skip(&self, _: &EntryPath, _: &str) -> Result<(), SinkError> {
        Err(no())
    }
    async fn problem(&self, _: &EntryPath, _: &str) -> Result<(), SinkError> {
        Err(no())
    }
}
impl SnapshotWriter {
    pub(crate) async fn seal(self, _: RecoveryPoint) -> Result<Sealed, crate::JobError> {
        Err(not_yet())
    }
}
pub(crate) fn not_yet() -> crate::JobError {
    crate::JobError::Usage { what: "not built yet".to_owned(), hint: None }
}
pub(crate) fn target() -> Result<Box<dyn Target>, SourceError> {
    Err(SourceError::Config { what: "not built yet".to_owned(), hint: None })
}

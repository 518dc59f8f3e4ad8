//! One folder per datastore: how to read it, how to restore it, how to compare it.
//!
//! A source knows of the repository only [`EntrySink`] and [`EntryReader`]. The files of every
//! folder bear the same names: `mod.rs` (what is captured, what is not, which consistency),
//! `backup.rs`, `restore.rs`, `client.rs` or `tool.rs`, `version.rs`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lifeboat_model::flow::{EntryReader, EntrySink, ReadError, RunContext, SinkError};
use lifeboat_model::{EntryPath, RecoveryPoint};

/// One datastore instance that is backed up.
#[async_trait]
pub trait Source: Send + Sync {
    /// The value of `kind:` in the configuration (`files`, `postgres`).
    fn kind(&self) -> &'static str;

    /// Writes one consistent view into `sink`. Only success yields a recovery point, and it is
    /// made last. What is left out is told to [`EntrySink::skip`].
    ///
    /// # Errors
    /// Anything that means that the view is not whole: no snapshot may come of it.
    async fn backup(&self, sink: &dyn EntrySink, ctx: &RunContext) -> Result<RecoveryPoint, SourceError>;

    /// Connects and looks, without reading data: one line for each thing checked.
    ///
    /// # Errors
    /// Only where the check itself could not be made; a bad finding is not an error.
    async fn doctor(&self, ctx: &RunContext) -> Result<Vec<Finding>, SourceError>;
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// What was looked at and what was seen.
    pub what: String,
    /// What to do, where something is wrong.
    pub hint: Option<String>,
}

/// How a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but the person should know.
    Warning,
    /// A backup or restore would fail.
    Bad,
}

/// Where data goes back, in the same folder as its source. A drill uses the same one.
///
/// # Contract
/// `inventory` changes nothing. `apply` destroys nothing before it has made what takes its place:
/// it restores beside and then renames. It never asks the reader for what `inventory` refused.
#[async_trait]
pub trait Target: Send + Sync {
    /// What stands where the restore would write: input of the planner.
    ///
    /// # Errors
    /// Where the target cannot be reached or looked at.
    async fn inventory(&self, data: &dyn EntryReader, options: &RestoreOptions)
    -> Result<TargetInventory, SourceError>;

    /// Brings the data back. The planner has run [`EntryReader::preflight`] before.
    ///
    /// # Errors
    /// Where anything that was asked for is not back, naming the first object that failed.
    async fn apply(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        ctx: &RunContext,
    ) -> Result<Restored, SourceError>;

    /// Compares what is there with the snapshot; changes nothing.
    ///
    /// # Errors
    /// Where the comparison could not be made. Differences are not errors.
    async fn verify(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        ctx: &RunContext,
    ) -> Result<Verified, SourceError>;
}

/// What of a snapshot is restored, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Parts to restore, in the source's own words: paths and globs of files, `table`,
    /// `schema.table`, `schema.*` or `database/schema.table` of a database. Empty = everything.
    pub only: Vec<String>,
    /// Whether what stands in the way may be replaced.
    pub replace: bool,
    /// New names of databases by their names in the snapshot.
    pub rename: BTreeMap<String, String>,
    /// How much is done at the same time; 0 = as many as there are cores.
    pub jobs: usize,
}

/// What a target holds already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetInventory {
    /// Version of the server, where there is one.
    pub version: Option<String>,
    /// Identity facts by the same keys as in the recovery point (`postgres.system_identifier`,
    /// `machine.id`): they tell whether this is the stack that the snapshot came from.
    pub identity: BTreeMap<String, String>,
    /// What the restore would write over, at most 100 examples: refused without `replace`.
    pub occupied: Vec<String>,
    /// How many there are in all.
    pub occupied_count: u64,
    /// Room for new data, where it can be told.
    pub free_bytes: Option<u64>,
    /// Room that the restore needs, the copy beside the old data included.
    pub needed_bytes: u64,
    /// What makes the restore impossible whatever the person allows, such as an older server.
    pub refusals: Vec<Finding>,
    /// The steps that `apply` would do, one line each, for the plan.
    pub steps: Vec<String>,
}

/// What a restore brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries or objects.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What is back but not as it was (an owner that is not known here, say). The restore ends
    /// with exit 3.
    pub problems: Vec<String>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many entries, tables or objects were compared.
    pub compared: u64,
    /// What differs, at most 1,000.
    pub differences: Vec<String>,
    /// How many differ in all.
    pub difference_count: u64,
}

/// Why a source or target gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The repository's side failed while the source wrote.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The repository's side failed while the target read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The configuration asks for what cannot be.
    #[error("{what}")]
    Config {
        /// What is wrong.
        what: String,
        /// What to change.
        hint: Option<String>,
    },
    /// The datastore, one of its tools or the file system refused or failed.
    #[error("{what}")]
    Failed {
        /// What was being done, on which object.
        what: String,
        /// What to try next.
        hint: Option<String>,
        /// What the system said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Someone asked to stop.
    #[error("stopped by request")]
    Cancelled,
}

impl SourceError {
    /// What the person could try next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Config { hint, .. } | Self::Failed { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    /// A failure at an entry, without a hint.
    pub fn at(path: &EntryPath, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed { what: format!("{path} failed"), hint: None, source: Some(source.into()) }
    }
}

//! One folder per datastore: how to read it, how to restore it, how to compare it.
//!
//! A source knows of the repository only [`EntrySink`] and [`EntryReader`]. The files of every
//! folder bear the same names: `mod.rs` (what is captured, what is not, which consistency),
//! `backup.rs`, `restore.rs`, `client.rs` or `tool.rs`, `version.rs`.

pub mod files;

pub mod postgres;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_model::flow::{EntryReader, EntrySink, ReadError, RunContext, SinkError};
pub use lifeboat_model::target::{Finding, RestoreOptions, Restored, Scope, TargetInventory, Verdict, Verified};
use lifeboat_model::{EntryPath, RecoveryPoint};

/// One datastore instance that is backed up.
#[async_trait]
pub trait Source: Send + Sync {
    /// The value of `kind:` in the configuration (`files`, `postgres`).
    fn kind(&self) -> &'static str;

    /// Writes one consistent view into `sink`. Only success yields a recovery point, and it is
    /// made last. What is left out is told to [`EntrySink::skip`]. Tasks of its own have ended when it
    /// returns, whatever came of it: nobody holds `sink` any more.
    ///
    /// # Errors
    /// Anything that means that the view is not whole: no snapshot may come of it.
    async fn backup(&self, sink: Arc<dyn EntrySink>, ctx: &RunContext) -> Result<RecoveryPoint, SourceError>;

    /// Who the datastore is, by the keys of the recovery point's identity facts
    /// (`postgres.system_identifier`, `machine.id`), told before any data is read. Empty where the
    /// datastore has no identity of its own.
    ///
    /// # Errors
    /// Where the datastore cannot be reached.
    async fn identity(&self, ctx: &RunContext) -> Result<BTreeMap<String, String>, SourceError>;

    /// Connects and looks, without reading data: one line for each thing checked.
    ///
    /// # Errors
    /// Only where the check itself could not be made; a bad finding is not an error.
    async fn doctor(&self, ctx: &RunContext) -> Result<Vec<Finding>, SourceError>;
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

    /// Brings the data back. With [`RestoreOptions::replace`] the engine has run
    /// [`EntryReader::preflight`] over [`TargetInventory::reads`] before; without it nothing that
    /// exists may be touched.
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
        scope: Scope,
        ctx: &RunContext,
    ) -> Result<Verified, SourceError>;
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

//! What every job is given: this machine's configuration, its catalog and the run's context.

use jiff::Timestamp;
use lifeboat_model::config::{SourceConfig, StackConfig};
use lifeboat_model::flow::RunContext;
use lifeboat_model::{SourceName, StackName};

use crate::catalog::{Catalog, CatalogError, Outcome, RunEnd};
use crate::error::JobError;

/// This machine, for the length of a command.
#[derive(Debug)]
pub struct Host<'a> {
    /// The checked configuration.
    pub config: &'a StackConfig,
    /// What the machine remembers.
    pub catalog: &'a Catalog,
    /// Clock, monitor, scratch directory and the wish to stop.
    pub run: &'a RunContext,
}

impl Host<'_> {
    pub(crate) fn now(&self) -> Timestamp {
        self.run.clock.now()
    }

    pub(crate) fn stack(&self) -> &StackName {
        &self.config.stack
    }

    /// The configured source of this name.
    pub(crate) fn source(&self, name: &SourceName) -> Result<&SourceConfig, JobError> {
        let known = || self.config.sources.keys().map(ToString::to_string);
        self.config.sources.get(name).ok_or_else(|| JobError::no_source(name, known()))
    }

    /// `stack/source`, as it is shown and recorded.
    pub(crate) fn label_of(&self, source: &SourceName) -> String {
        format!("{}/{source}", self.config.stack)
    }

    /// Does something with the catalog. That it failed is told and costs nothing else.
    pub(crate) fn remember<T>(&self, done: Result<T, CatalogError>) -> Option<T> {
        done.map_err(|error| {
            self.run.monitor.note(&format!("{error}: {}; the run goes on without it", error.source));
        })
        .ok()
    }

    /// Records that a run begins.
    pub(crate) fn begin(&self, kind: &str, source: Option<&SourceName>) -> Option<i64> {
        let source = source.map(|source| self.label_of(source));
        self.remember(self.catalog.begin_run(kind, source.as_deref(), self.now()))
    }

    /// Records how a run ended.
    pub(crate) fn end(&self, run: Option<i64>, outcome: Outcome, end: &RunEnd) {
        if let Some(run) = run {
            self.remember(self.catalog.end_run(run, self.now(), outcome, end));
        }
    }
}

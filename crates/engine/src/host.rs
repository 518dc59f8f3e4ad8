//! What every job is given: this machine's configuration, its catalog and the run's context.

use std::fmt;

use jiff::Timestamp;
use lifeboat_model::config::{RepositoryConfig, SourceConfig, StackConfig};
use lifeboat_model::flow::RunContext;
use lifeboat_model::{SnapshotRef, SourceName, StackName};

use crate::catalog::{Catalog, CatalogError, Outcome, RunEnd};
use crate::error::JobError;
use crate::keys::AskPassphrase;

/// This machine, for the length of a command.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// The checked configuration.
    pub config: &'a StackConfig,
    /// What the machine remembers.
    pub catalog: &'a Catalog,
    /// Clock, monitor, scratch directory and the wish to stop.
    pub run: &'a RunContext,
    /// Asks for the passphrase of a key file.
    pub passphrase: &'a AskPassphrase<'a>,
}

impl fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("stack", &self.config.stack).finish_non_exhaustive()
    }
}

/// The lock of a source of any stack. No name holds a `+`.
pub(crate) fn lock_name(stack: &StackName, source: &SourceName) -> String {
    format!("source-{stack}+{source}")
}

impl<'a> Host<'a> {
    pub(crate) fn now(&self) -> Timestamp {
        self.run.clock.now()
    }

    pub(crate) fn stack(&self) -> &'a StackName {
        &self.config.stack
    }

    /// The configured source of this name.
    pub(crate) fn source(&self, name: &SourceName) -> Result<&'a SourceConfig, JobError> {
        self.config.sources.get(name).ok_or_else(|| JobError::no_source(name.as_str(), self.config.sources.keys()))
    }

    /// The repository of this name, or all of the configuration.
    pub(crate) fn repositories(&self, name: Option<&str>) -> Result<Vec<&'a RepositoryConfig>, JobError> {
        let Some(name) = name else { return Ok(self.config.repositories.values().collect()) };
        if let Some(repository) = self.config.repositories.get(name) {
            return Ok(vec![repository]);
        }
        let known: Vec<&str> = self.config.repositories.keys().map(String::as_str).collect();
        Err(JobError::unknown(format!("the configuration has no repository {name}"), name, &known))
    }

    /// The repository of this name, or the only one.
    pub(crate) fn repository(&self, name: Option<&str>) -> Result<&'a RepositoryConfig, JobError> {
        match self.repositories(name)?.as_slice() {
            [one] => Ok(one),
            [] => Err(JobError::Usage { what: "the configuration has no repository".to_owned(), hint: None }),
            _ => Err(JobError::Usage {
                what: "the configuration has several repositories".to_owned(),
                hint: Some("say which one with --from REPOSITORY".to_owned()),
            }),
        }
    }

    /// The repository in which to look for a snapshot: the named one, else that of the source, else
    /// the only one.
    pub(crate) fn repository_for(
        &self,
        asked: &SnapshotRef,
        name: Option<&str>,
    ) -> Result<&'a RepositoryConfig, JobError> {
        let own = asked.stack.as_ref().is_none_or(|stack| stack == self.stack());
        let source = asked.source.as_ref().filter(|_| own).and_then(|source| self.config.sources.get(source));
        match (name, source.and_then(|source| self.config.repository_of(source))) {
            (None, Some(repository)) => Ok(repository),
            _ => self.repository(name),
        }
    }

    /// The lock of a source of this machine's stack.
    pub(crate) fn lock_name(&self, source: &SourceName) -> String {
        lock_name(&self.config.stack, source)
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

    /// A run that was asked to stop fails in many words, and they mean one thing.
    pub(crate) fn stopped_or(&self, error: JobError) -> JobError {
        if self.run.cancel.is_cancelled() { JobError::Cancelled } else { error }
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

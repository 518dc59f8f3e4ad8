//! Why a job failed, and what a person can do about it.

use std::path::{Path, PathBuf};

use lifeboat_model::flow::ReadError;
use lifeboat_model::nearest::nearest;
use lifeboat_model::restore::{PlanError, ResolveError};
use lifeboat_model::snapshot::BadRef;
use lifeboat_model::{Role, SourceName};
use lifeboat_repo::error::{RepoError, RepoErrorKind};
use lifeboat_source::SourceError;
use lifeboat_store::url::OpenError;

use crate::catalog::CatalogError;
use crate::lock::LockError;

/// A job that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The repository refused or failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// There is no repository where the configuration says.
    #[error("the repository {repository} is not initialised: {}", absent(url, key.as_deref()))]
    NotInitialised {
        /// Its name in the configuration.
        repository: String,
        /// Where it should be.
        url: String,
        /// A key file that is not there either.
        key: Option<PathBuf>,
    },
    /// There is a repository, and this machine lacks the key for what was asked.
    #[error("this machine is not initialised for the repository {repository}: the key file {} is not there", key.display())]
    NoKeyFile {
        /// Its name in the configuration.
        repository: String,
        /// The file.
        key: PathBuf,
        /// Whether a further host may ask for such a key.
        writer: bool,
    },
    /// The URL leads to no store.
    #[error("the store of the repository {repository:?} cannot be opened")]
    Store {
        /// Name of the repository in the configuration.
        repository: String,
        /// What the store said.
        #[source]
        source: OpenError,
    },
    /// The datastore or its target refused or failed.
    #[error("{what} failed")]
    Source {
        /// What was being done with which source.
        what: String,
        /// What the datastore's side said.
        #[source]
        source: SourceError,
    },
    /// An entry of a snapshot cannot be read.
    #[error("{what} failed")]
    Read {
        /// What was being done.
        what: String,
        /// What the repository's side said.
        #[source]
        source: ReadError,
    },
    /// The restore was refused before anything was touched.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No snapshot, or more than one, fits.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The text names no snapshot.
    #[error(transparent)]
    Ref(#[from] BadRef),
    /// Another run has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The catalog is needed for the answer and cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Promise 7: the machine's role, or what it was restored from, forbids it.
    #[error("{what}")]
    Forbidden {
        /// What is forbidden and why.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// What was asked for does not fit the configuration.
    #[error("{what}")]
    Usage {
        /// What does not fit.
        what: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A file of this machine.
    #[error("{what} failed")]
    Io {
        /// What was being done with which file.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The person said no.
    #[error("nothing was done: the plan was declined")]
    Declined,
    /// A target that is written to while a person is asked.
    #[error("what stands at {to} keeps changing: nothing was done")]
    Changing {
        /// Where.
        to: String,
    },
    /// Somebody asked to stop.
    #[error("stopped by request")]
    Cancelled,
}

fn absent(url: &str, key: Option<&Path>) -> String {
    match key {
        Some(key) => format!("there is neither a repository in {url} nor the key file {}", key.display()),
        None => format!("there is no repository in {url}"),
    }
}

impl JobError {
    /// The exit code of a command that ends with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Repository(error) => error.kind().exit_code(),
            Self::NotInitialised { .. } => RepoErrorKind::NoRepository.exit_code(),
            Self::NoKeyFile { .. } => RepoErrorKind::Key.exit_code(),
            Self::Lock(LockError::Busy { .. }) => RepoErrorKind::Busy.exit_code(),
            Self::Store { source: OpenError::Url { .. }, .. }
            | Self::Usage { .. }
            | Self::Ref(_)
            | Self::Resolve(_)
            | Self::Forbidden { .. }
            | Self::Read { source: ReadError::NoEntry { .. }, .. }
            | Self::Source { source: SourceError::Config { .. }, .. } => RepoErrorKind::Usage.exit_code(),
            _ => 1,
        }
    }

    /// What a person can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Repository(error) => error.hint().map(str::to_owned),
            Self::NotInitialised { key: Some(_), .. } => Some("`lifeboat init` makes both".to_owned()),
            Self::NotInitialised { key: None, .. } => {
                Some("is its disk mounted? `lifeboat init` makes a repository where there never was one".to_owned())
            }
            Self::NoKeyFile { writer: true, .. } => {
                Some("put it back, or let `lifeboat init` ask the owner for a new one".to_owned())
            }
            Self::NoKeyFile { writer: false, .. } => {
                Some("is the medium that holds it mounted? `lifeboat init` tells which keys are missing".to_owned())
            }
            Self::Store { source, .. } => source.hint().map(str::to_owned),
            Self::Source { source, .. } => source.hint().map(str::to_owned),
            Self::Read { source: ReadError::NoEntry { .. }, .. } => {
                Some("`lifeboat ls -R SNAPSHOT` lists the paths of a snapshot".to_owned())
            }
            Self::Read { source: ReadError::Damaged { .. }, .. } => {
                Some("nothing was replaced; `lifeboat check --read-data` names what is damaged, and other snapshots may be whole".to_owned())
            }
            Self::Plan(error) => error.hint(),
            Self::Resolve(error) => Some(error.hint().to_owned()),
            Self::Lock(LockError::Busy { .. }) => Some("try again when it has ended".to_owned()),
            Self::Forbidden { hint, .. } => Some(hint.clone()),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Changing { .. } => Some("stop what writes there, or add --yes".to_owned()),
            _ => None,
        }
    }

    /// The machine's role forbids to back up.
    pub(crate) fn role(role: Role) -> Self {
        Self::Forbidden {
            what: format!("a machine with the role {role} does not back up"),
            hint: "set `role: backup` on the machine where the live data is, and only there".to_owned(),
        }
    }

    /// A name that leads to nothing, with the nearest of those that do.
    #[must_use]
    pub fn unknown(what: String, name: &str, known: &[&str]) -> Self {
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean {near}?")),
            None if known.is_empty() => None,
            None => Some(format!("there is {}", known.join(", "))),
        };
        Self::Usage { what, hint }
    }

    /// A source that the configuration does not know.
    pub(crate) fn no_source<'a>(name: &str, known: impl Iterator<Item = &'a SourceName>) -> Self {
        let known: Vec<&str> = known.map(SourceName::as_str).collect();
        Self::unknown(format!("the configuration has no source {name}"), name, &known)
    }

    /// Makes a closure for `map_err` out of what was being done.
    pub(crate) fn source(what: impl Into<String>) -> impl FnOnce(SourceError) -> Self {
        let what = what.into();
        move |source| match source {
            SourceError::Cancelled => Self::Cancelled,
            source => Self::Source { what, source },
        }
    }

    /// Makes a closure for `map_err` out of what was being done.
    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(ReadError) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source }
    }

    /// The message with all that caused it, in one line, for the catalog.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

//! The first failure of a run, after which nothing more is taken.

use std::fmt;
use std::sync::{Arc, OnceLock};

use lifeboat_model::EntryPath;
use lifeboat_model::flow::SinkError;

use crate::error::RepoError;

/// Why a run was given up.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The repository, its store or this machine failed.
    Repo(Arc<RepoError>),
    /// A body could not be read to its end, or a caller went away before it was.
    Body(String),
    /// Somebody asked to stop.
    Cancelled,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repo(error) => f.write_str(&with_causes(error.as_ref())),
            Self::Body(what) => f.write_str(what),
            Self::Cancelled => f.write_str("the run was cancelled"),
        }
    }
}

/// An error and everything behind it in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl Cause {
    /// For the call during which it happened.
    pub(crate) fn for_entry(&self, path: &EntryPath) -> SinkError {
        match self {
            Self::Repo(error) => SinkError::Repository { path: path.clone(), source: Box::new(Arc::clone(error)) },
            other => SinkError::Poisoned(other.to_string()),
        }
    }

    /// For the seal that can no longer be.
    pub(crate) fn into_error(self) -> RepoError {
        match self {
            Self::Repo(error) => RepoError::GivenUp { why: String::new(), source: Some(error) },
            other => RepoError::GivenUp { why: other.to_string(), source: None },
        }
    }
}

/// Where every part of a run looks before it goes on. The first cause stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<OnceLock<Cause>>);

impl Stop {
    /// Gives the run up; returns the cause that counts, which is the first.
    pub(crate) fn give_up(&self, cause: Cause) -> Cause {
        self.0.get_or_init(|| cause).clone()
    }

    pub(crate) fn repo(&self, error: RepoError) -> Cause {
        self.give_up(Cause::Repo(Arc::new(error)))
    }

    pub(crate) fn cause(&self) -> Option<&Cause> {
        self.0.get()
    }

    /// # Errors
    /// The cause, once there is one.
    pub(crate) fn check(&self) -> Result<(), Cause> {
        self.0.get().map_or(Ok(()), |cause| Err(cause.clone()))
    }
}

//! Why a command failed, in the form in which a person or a script is told.

use std::error::Error;
use std::fmt;

use lifeboat_engine::JobError;
use lifeboat_repo::error::RepoError;

use crate::config::ConfigError;
use crate::exit::Exit;

/// An error on its way to the person: what failed, all that caused it, what to try next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The message and its causes, outermost first.
    pub(crate) chain: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, chain: vec![what.into()], hint: None }
    }

    /// Wrong usage.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// A failure with all that caused it.
    pub(crate) fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        let mut chain: Vec<String> = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Transparent errors repeat their cause's words.
            if chain.last().is_none_or(|last| !last.contains(&text)) {
                chain.push(text);
            }
            next = error.source();
        }
        Self { exit, chain, hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was being done before the causes.
    pub(crate) fn while_doing(mut self, what: impl Into<String>) -> Self {
        self.chain.insert(0, what.into());
        self
    }

    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint();
        Self::of(Exit::Usage, &error).maybe_hint(hint)
    }
}

impl From<RepoError> for Failure {
    fn from(error: RepoError) -> Self {
        Self::from(JobError::from(error))
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        let hint = error.hint();
        Self::of(Exit::from_code(error.exit_code()), &error).maybe_hint(hint)
    }
}

//! What a restore did and what came back otherwise.

use super::client::{ServerError, may_not};
use crate::Restored;

/// How many things are named that the role may not do.
const NAMES_SHOWN: usize = 5;

/// What a restore has done so far.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// What is back but not as it was.
    pub(super) problems: Vec<String>,
    /// What is not as it was since the role that restores may not make it so.
    denied: Vec<String>,
}

impl Done {
    /// Notes that something is not as it was. What is refused for lack of rights has one cause however
    /// often it happens, and is told once.
    pub(super) fn failed(&mut self, what: &str, error: tokio_postgres::Error) {
        if may_not(&error) {
            self.denied.push(what.to_owned());
        } else {
            self.problems.push(format!("{what} is not as it was: {}", ServerError::from(error)));
        }
    }

    /// All of it, as restored by the role `own`.
    pub(super) fn restored(mut self, own: &str) -> Restored {
        let names = self.denied.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = self.denied.len().saturating_sub(NAMES_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        if !self.denied.is_empty() {
            self.problems.push(format!(
                "role {own:?} may not restore {} things, which are not as they were: {names}{more}; a superuser may",
                self.denied.len()
            ));
        }
        Restored { entries: self.entries, bytes: self.bytes, problems: self.problems, ..Restored::default() }
    }
}

//! What was left out or is not sound.

use std::sync::{Mutex, MutexGuard};

use lifeboat_model::EntryPath;

/// The most problems that are listed one by one; all are counted.
const LISTED_MAX: usize = 1000;
/// Longer reasons are cut.
const REASON_BYTES_MAX: usize = 1000;

#[derive(Debug, Default)]
struct State {
    listed: Vec<(EntryPath, String)>,
    skips: u64,
    problems: u64,
}

/// A bounded list with counts.
#[derive(Debug, Default)]
pub(super) struct Problems(Mutex<State>);

impl Problems {
    fn list(&self, path: &EntryPath, what: &str) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().expect("no holder panics");
        if state.listed.len() < LISTED_MAX {
            let mut end = what.len().min(REASON_BYTES_MAX);
            while !what.is_char_boundary(end) {
                end -= 1;
            }
            state.listed.push((path.clone(), what[..end].to_owned()));
        }
        state
    }

    pub(super) fn skip(&self, path: &EntryPath, why: &str) {
        self.list(path, why).skips += 1;
    }

    pub(super) fn problem(&self, path: &EntryPath, what: &str) {
        self.list(path, what).problems += 1;
    }

    /// The list, the number of skips and of other problems.
    pub(super) fn all(&self) -> (Vec<(EntryPath, String)>, u64, u64) {
        let state = self.0.lock().expect("no holder panics");
        (state.listed.clone(), state.skips, state.problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_a_thousand_listed() {
        let problems = Problems::default();
        let path = EntryPath::new("a").expect("a path");
        for _ in 0..1500 {
            problems.skip(&path, &"ä".repeat(600));
            problems.problem(&path, "changed");
        }
        let (listed, skips, others) = problems.all();
        assert_eq!((listed.len(), skips, others), (1000, 1500, 1500));
        assert_eq!(listed[0].1, "ä".repeat(500));
    }
}

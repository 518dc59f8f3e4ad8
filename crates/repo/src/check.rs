//! Whether the repository is whole: every object against its name and its signature, every chunk that a
//! snapshot needs against the packs that are there.
//!
//! What a check can see hangs on its keys. Names, signatures, indexes and sizes need a domain's index
//! key; what snapshots need wants a maintainer's; what is in a record, and which entries are hit, an
//! identity's. It never stops at the first problem, and changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::TryStreamExt;
use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, ObjectHash};

use crate::error::RepoError;
use crate::object::{ObjectError, ObjectType};
use crate::remember::RememberedHead;
use crate::repository::Repository;
use crate::root::Root;
use crate::roster::KeyringCopy;
use crate::scan::Scan;

mod entries;
mod needs;
mod objects;
pub(crate) mod packs;
mod since;

pub(crate) use packs::{BadPacks, BadPart};
pub use since::{Budget, ReadBefore, Since, check_since};

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckScope {
    /// Read every byte of every pack, and with an identity open every record.
    pub read_data: bool,
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Its bytes are not what was written.
    Damaged,
    /// It is needed and not there.
    Missing,
    /// Somebody made it who may not.
    Forged,
    /// It is of a newer version than this program.
    Newer,
    /// It was deleted by a prune while a run that needed it was silent: the run's snapshot is void.
    Void,
    /// A chain has a hole or two ends.
    Chain,
    /// Packs that snapshots need are in no index. Nothing is lost: what reads finds them by their
    /// trailers, and a prune with an identity indexes them again.
    Unindexed,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object's name in the store, or what else is hurt.
    pub object: String,
    /// What kind of thing.
    pub kind: ProblemKind,
    /// What is wrong, for people.
    pub what: String,
    /// Entries that cannot be restored whole because of it, as `stack/source@id:path`; at most
    /// [`ENTRIES_MAX`]. Empty without an identity.
    pub entries: Vec<String>,
    /// How many entries are hit.
    pub entry_count: u64,
}

/// The most problems that are told one by one.
pub const PROBLEMS_MAX: usize = 1000;
/// The most entries that one problem names.
pub const ENTRIES_MAX: usize = 100;
/// The most notes.
const NOTES_MAX: usize = 100;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Objects that are in the store.
    pub objects: u64,
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// Snapshots whose needs were followed.
    pub snapshots: u64,
    /// What is wrong, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
    /// What is odd and hurts no snapshot, at most a hundred.
    pub notes: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(text);
        }
    }

    fn problem(&mut self, kind: ProblemKind, object: impl std::fmt::Display, what: impl std::fmt::Display) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let (object, what) = (object.to_string(), what.to_string());
            self.problems.push(Problem { object, kind, what, entries: Vec::new(), entry_count: 0 });
        }
    }

    /// An object that could not be read. What is of a domain that is not ours is no problem of ours.
    fn bad_object(&mut self, object: impl std::fmt::Display, why: &ObjectError) {
        let kind = match why {
            ObjectError::ForeignDomain => return,
            ObjectError::NewerVersion(_) => ProblemKind::Newer,
            ObjectError::Stranger(_) | ObjectError::NotAllowed(_) => ProblemKind::Forged,
            _ => ProblemKind::Damaged,
        };
        self.problem(kind, object, why);
    }

    /// An entry that is hit by the problem of that number.
    fn hit(&mut self, problem: usize, entry: &str) {
        let Some(problem) = self.problems.get_mut(problem) else { return };
        problem.entry_count += 1;
        if problem.entries.len() < ENTRIES_MAX {
            problem.entries.push(entry.to_owned());
        }
    }
}

/// Looks at everything. `remembered` are newest roots that were seen before: from the store alone nobody
/// can tell that the newest ones were taken away.
///
/// # Errors
/// Where the store or the scratch directory fails. Damage is in the report.
pub async fn check(
    repository: &Repository,
    scope: CheckScope,
    remembered: &[RememberedHead],
    ctx: &RunContext,
) -> Result<CheckReport, RepoError> {
    let reading = if scope.read_data { Reading::All } else { Reading::Nothing };
    Ok(survey(repository, &reading, remembered, ctx).await?.report)
}

/// Which packs are read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading<'a> {
    /// None: their sizes are compared.
    Nothing,
    /// Every one.
    All,
    /// Those that were not read before, and a share of the others.
    Since(&'a ReadBefore, Budget),
    /// None: what an earlier look found bad still is.
    Known(&'a HashMap<ObjectHash, BadPart>),
}

/// What a look at everything found, for those who mend it.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) report: CheckReport,
    /// Packs and index objects.
    pub(crate) scan: Scan,
    /// Bad packs by their numbers in the scan.
    pub(crate) bad: BadPacks,
    /// Snapshots.
    pub(crate) roots: Vec<Root>,
    /// Snapshot roots whose bytes in the store are not those that their names seal.
    pub(crate) damaged_roots: BTreeSet<ObjectHash>,
    /// Chunks that snapshots need and of which no good copy is left.
    pub(crate) lost: HashSet<ChunkId>,
    /// Packs that were read and are sound.
    pub(crate) sound: Vec<ObjectHash>,
}

pub(crate) async fn survey(
    repository: &Repository,
    reading: &Reading<'_>,
    remembered: &[RememberedHead],
    ctx: &RunContext,
) -> Result<Survey, RepoError> {
    let mut report = CheckReport::default();
    ctx.monitor.begin("check", None);
    count_all(repository, &mut report).await?;
    objects::keys(repository, &mut report).await?;
    objects::small(repository, &mut report).await?;
    let (roots, damaged_roots) = objects::roots(repository, remembered, &mut report).await?;
    let mut scan = Scan::read(repository.store(), repository.access(), ctx).await?;
    for (object, why) in &scan.bad {
        report.bad_object(object, why);
    }
    report.bytes += scan.indexes.iter().map(|index| index.bytes).sum::<u64>();
    let mut bad = packs::sizes(&scan, &mut report);
    let sound = match reading {
        Reading::Nothing => Vec::new(),
        Reading::All => {
            let all: Vec<u32> = (0u32..).take(scan.packs.len()).collect();
            packs::read(repository, &scan, &all, &mut bad, &mut report, ctx).await?
        }
        Reading::Since(before, budget) => {
            since::read(repository, &scan, (before, *budget), &mut bad, &mut report, ctx).await?
        }
        Reading::Known(known) => {
            let known = (0u32..).zip(&scan.packs).filter_map(|(n, pack)| Some((n, known.get(&pack.hash)?.clone())));
            bad.extend(known);
            Vec::new()
        }
    };
    let hurt = needs::follow(repository, &mut scan, &roots, &bad, &mut report, ctx).await?;
    if !hurt.is_empty() && repository.access().can_read() {
        entries::hit(repository, &roots, &hurt, &mut report).await?;
    }
    let lost = hurt.into_keys().collect();
    Ok(Survey { report, scan, bad, roots, damaged_roots, lost, sound })
}

/// Counts what is in the store and notes names that mean nothing.
async fn count_all(repository: &Repository, report: &mut CheckReport) -> Result<(), RepoError> {
    let mut known: Vec<&str> = ObjectType::ALL.iter().map(|kind| kind.prefix()).collect();
    known.extend(KeyringCopy::ALL.iter().map(|copy| copy.prefix()));
    let mut listed = repository.store().list("");
    let mut strange: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(object) = listed.try_next().await? {
        report.objects += 1;
        let name = object.key.as_str();
        let is_known =
            known.iter().any(|prefix| if prefix.ends_with('/') { name.starts_with(prefix) } else { name == *prefix });
        if !is_known && strange.len() < NOTES_MAX {
            strange.insert(name.to_owned(), object.bytes);
        }
    }
    for (name, bytes) in strange {
        report.note(format!("{name} ({bytes} bytes) is of no kind that this program knows"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

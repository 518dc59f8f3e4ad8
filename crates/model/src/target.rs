//! What goes into a restore and what comes out of it, as data: the planner decides by it, targets
//! fill it in.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::EntryPath;

/// What of a snapshot is restored, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreOptions {
    /// Parts to restore, in the source's own words: paths and globs of files, `database`,
    /// `database/schema`, `database/table` or `database/schema.table`. Empty = everything.
    pub only: Vec<String>,
    /// Whether what stands in the way may be replaced.
    pub replace: bool,
    /// New names of databases by their names in the snapshot. Where `only` is empty and this is not,
    /// just the databases that it names are restored.
    pub rename: BTreeMap<String, String>,
    /// How much is done at the same time; 0 = as many as there are cores.
    pub jobs: usize,
}

/// What a target holds already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// What is there and would be altered where it stands, such as a role, with what would be other: at
    /// most 100 examples.
    pub alters: Vec<String>,
    /// How many there are in all.
    pub alters_count: u64,
    /// Room for new data, where it can be told.
    pub free_bytes: Option<u64>,
    /// Room that the restore needs, the copy beside the old data included.
    pub needed_bytes: u64,
    /// What makes the restore impossible whatever the person allows, such as an older server.
    pub refusals: Vec<Finding>,
    /// The steps that `apply` would do, one line each, for the plan.
    pub steps: Vec<String>,
    /// The entries that `apply` would read, each with everything below it. Empty = the whole
    /// snapshot. Where something is replaced they are all read and checked first.
    #[serde(skip)]
    pub reads: Vec<EntryPath>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// What was looked at and what was seen.
    pub what: String,
    /// What to do, where something is wrong.
    pub hint: Option<String>,
}

/// How a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but the person should know.
    Warning,
    /// A backup or restore would fail.
    Bad,
}

/// What a restore brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Entries or objects that are back.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Entries that were there already, compared and equal; directories that were there.
    pub unchanged: u64,
    /// What is back but not as it was (an owner that is not known here, say), and what was kept
    /// though it differs. The restore ends with exit 3.
    pub problems: Vec<String>,
}

/// How much a comparison looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What content there is: rows and large objects of a server. A restore looks at it, which tells by
    /// itself what else is not as it was.
    Content,
    /// Also what the content is kept in: schema, sequences, rights, roles.
    Whole,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// How many entries, tables or objects were compared.
    pub compared: u64,
    /// The same by kind, in words: `rows of 12 tables`.
    pub of: Vec<String>,
    /// What was not compared or only in part, and what differs and may.
    pub notes: Vec<String>,
    /// What differs, at most 1,000.
    pub differences: Vec<String>,
    /// How many differ in all.
    pub difference_count: u64,
    /// What could not be compared, or differs as it has to for whoever compares: owners where they
    /// are not root. The comparison ends with exit 3.
    pub problems: Vec<String>,
}

//! What this machine remembers: runs, snapshots seen, restores done, and the newest roster and
//! roots of each repository, so that a replayed or shortened history is noticed.
//!
//! Deleting it loses this history and never a backup. A catalog that is damaged is set aside and
//! begun anew; one that cannot be used at all is kept in memory for this command. Both are told by
//! a note. No job fails for the catalog's sake.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use lifeboat_model::{SnapshotId, SnapshotSummary, SourceName, StackName};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

mod packs;
mod schema;

/// The name of the catalog in the state directory.
pub const FILE: &str = "catalog.sqlite3";

/// The opened catalog. Cheap calls: each is one small transaction.
#[derive(Debug)]
pub struct Catalog {
    connection: Mutex<Connection>,
    note: Option<String>,
}

/// The catalog refused.
#[derive(Debug, thiserror::Error)]
#[error("{action} in the catalog failed")]
pub struct CatalogError {
    /// What was being done.
    pub action: &'static str,
    /// What SQLite said.
    #[source]
    pub source: rusqlite::Error,
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> CatalogError {
    move |source| CatalogError { action, source }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// Done, but something was skipped or is not as it was.
    Problems,
    /// Not done.
    Failed,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Problems => "problems",
            Self::Failed => "failed",
        }
    }
}

/// What a run did, told at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunEnd {
    /// The snapshot that it made or restored.
    pub snapshot: Option<SnapshotId>,
    /// Length of the content.
    pub bytes: Option<u64>,
    /// Plain length of what the repository did not hold yet.
    pub new_bytes: Option<u64>,
    /// The error with all that caused it.
    pub error: Option<String>,
}

/// A run as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Counts up on this machine.
    pub id: i64,
    /// The command: `backup`, `restore`, `forget`, ...
    pub kind: String,
    /// `stack/source`, where it is about one.
    pub source: Option<String>,
    /// When it began, RFC 3339 UTC.
    pub started: String,
    /// When it ended; missing while it runs, or where it was killed.
    pub ended: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
    /// The snapshot that it made or restored.
    pub snapshot: Option<String>,
    /// Length of the content.
    pub bytes: Option<u64>,
    /// Plain length of what the repository did not hold yet.
    pub new_bytes: Option<u64>,
    /// The error with all that caused it.
    pub error: Option<String>,
}

/// What the body of a snapshot tells and its header does not: kept for hosts that cannot read
/// bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSnapshot {
    /// Stack and source.
    pub names: Option<(StackName, SourceName)>,
    /// Kind of the source.
    pub kind: Option<String>,
    /// The instant of its view.
    pub recovery_point: Option<Timestamp>,
    /// Its label.
    pub label: Option<String>,
    /// Length of all content.
    pub bytes: Option<u64>,
    /// Plain length of the chunks that it added.
    pub new_bytes: Option<u64>,
    /// How many entries it has.
    pub entries: Option<u64>,
    /// How many skips and problems it records.
    pub problems: Option<u64>,
    /// What the source told of itself.
    pub facts: BTreeMap<String, String>,
}

/// A restore into a server or into the place of origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreDone {
    /// When.
    pub time: Timestamp,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its stack.
    pub stack: StackName,
    /// Its source.
    pub source: SourceName,
    /// Where to, without secrets.
    pub destination: String,
    /// What the target told of itself.
    pub identity: BTreeMap<String, String>,
    /// Whether the target is a system other than the snapshot's origin.
    pub clone: bool,
}

impl Catalog {
    /// Opens the catalog below `state_dir`, or makes it. Never fails: see the module.
    #[must_use]
    pub fn open(state_dir: &Path, now: Timestamp) -> Self {
        let path = state_dir.join(FILE);
        let aside = |what: &str| match set_aside(&path, now) {
            Ok(kept) => format!("{what}; it was kept as {} and a new one begun", kept.display()),
            Err(error) => format!("{what} and cannot be set aside ({error})"),
        };
        let (opened, note) = match schema::open(&path) {
            Ok(connection) => (Ok(connection), None),
            Err(schema::OpenError::Newer(version)) => {
                (Err(()), Some(format!("the catalog {} is of the newer version {version}", path.display())))
            }
            Err(schema::OpenError::Damaged(why)) => {
                let note = aside(&format!("the catalog {} is damaged ({why})", path.display()));
                (schema::open(&path).map_err(|_| ()), Some(note))
            }
            Err(schema::OpenError::Unusable(why)) => {
                (Err(()), Some(format!("the catalog {} cannot be opened ({why})", path.display())))
            }
        };
        let (connection, note) = if let Ok(connection) = opened {
            (connection, note)
        } else {
            let why = note.unwrap_or_default();
            (schema::in_memory(), Some(format!("{why}; this command remembers nothing")))
        };
        Self { connection: Mutex::new(connection), note }
    }

    /// What the person should know about how it was opened.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic between two statements leaves nothing half done: each call is one transaction.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records that a run begins; its id ends it.
    ///
    /// # Errors
    /// [`CatalogError`]; the run goes on without a record.
    pub fn begin_run(&self, kind: &str, source: Option<&str>, now: Timestamp) -> Result<i64, CatalogError> {
        let connection = self.lock();
        connection
            .execute("INSERT INTO runs (kind, source, started) VALUES (?1, ?2, ?3)", params![kind, source, text(now)])
            .map_err(failed("recording the begin of a run"))?;
        Ok(connection.last_insert_rowid())
    }

    /// Records how a run ended.
    ///
    /// # Errors
    /// [`CatalogError`]; the outcome of the run stands.
    pub fn end_run(&self, id: i64, now: Timestamp, outcome: Outcome, end: &RunEnd) -> Result<(), CatalogError> {
        let values = params![
            id,
            text(now),
            outcome.as_str(),
            end.snapshot.map(|id| id.to_string()),
            end.bytes.map(u64::cast_signed),
            end.new_bytes.map(u64::cast_signed),
            end.error
        ];
        self.lock()
            .execute(
                "UPDATE runs SET ended = ?2, outcome = ?3, snapshot = ?4, bytes = ?5, new_bytes = ?6, error = ?7 \
                 WHERE id = ?1",
                values,
            )
            .map_err(failed("recording the end of a run"))?;
        Ok(())
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// [`CatalogError`] where they cannot be read.
    pub fn runs(&self, at_most: u32) -> Result<Vec<Run>, CatalogError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Run>> {
            let mut query = connection.prepare(
                "SELECT id, kind, source, started, ended, outcome, snapshot, bytes, new_bytes, error FROM runs \
                 ORDER BY id DESC LIMIT ?1",
            )?;
            query.query_map([at_most], run_of)?.collect()
        };
        read().map_err(failed("listing runs"))
    }

    /// Remembers what the body of a snapshot told.
    ///
    /// # Errors
    /// [`CatalogError`]; the snapshot is as good as without.
    pub fn saw_snapshot(&self, repository: &str, id: SnapshotId, seen: &SeenSnapshot) -> Result<(), CatalogError> {
        let (stack, source) = seen.names.as_ref().map_or((None, None), |(a, b)| (Some(a.as_str()), Some(b.as_str())));
        let values = params![
            repository,
            id.to_string(),
            stack,
            source,
            seen.kind,
            seen.recovery_point.map(text),
            seen.label,
            seen.bytes.map(u64::cast_signed),
            seen.new_bytes.map(u64::cast_signed),
            seen.entries.map(u64::cast_signed),
            seen.problems.map(u64::cast_signed),
            json(&seen.facts)
        ];
        self.lock()
            .execute("INSERT OR REPLACE INTO snapshots VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)", values)
            .map_err(failed("remembering a snapshot"))?;
        Ok(())
    }

    /// What is remembered of the snapshots of a repository.
    ///
    /// # Errors
    /// [`CatalogError`] where it cannot be read.
    pub fn seen(&self, repository: &str) -> Result<BTreeMap<SnapshotId, SeenSnapshot>, CatalogError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<BTreeMap<_, _>> {
            let mut query = connection.prepare("SELECT * FROM snapshots WHERE repository = ?1")?;
            let rows = query.query_map([repository], |row| Ok((row.get::<_, String>(1)?, seen_of(row)?)))?;
            // An id that is none was not written by this program: nothing refers to it.
            let named = |(id, seen): (String, SeenSnapshot)| Some((SnapshotId::from_hex(&id).ok()?, seen));
            rows.filter_map(|row| row.map(named).transpose()).collect()
        };
        read().map_err(failed("reading snapshots"))
    }

    /// What is remembered of the snapshots of one source in all repositories, oldest first.
    ///
    /// # Errors
    /// [`CatalogError`] where it cannot be read.
    pub fn seen_of(&self, stack: &StackName, source: &SourceName) -> Result<Vec<SeenSnapshot>, CatalogError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<SeenSnapshot>> {
            let mut query = connection
                .prepare("SELECT * FROM snapshots WHERE stack = ?1 AND source = ?2 ORDER BY recovery_point, id")?;
            query.query_map([stack.as_str(), source.as_str()], seen_of)?.collect()
        };
        read().map_err(failed("reading snapshots"))
    }

    /// Every identity fact that snapshots of `stack` recorded, by its key.
    ///
    /// # Errors
    /// [`CatalogError`] where it cannot be read.
    pub fn facts_of(&self, stack: &StackName) -> Result<BTreeMap<String, BTreeSet<String>>, CatalogError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<BTreeMap<String, BTreeSet<String>>> {
            let mut query = connection.prepare("SELECT DISTINCT facts FROM snapshots WHERE stack = ?1")?;
            let mut facts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for row in query.query_map([stack.as_str()], |row| facts_at(row, 0))? {
                for (key, value) in row? {
                    facts.entry(key).or_default().insert(value);
                }
            }
            Ok(facts)
        };
        read().map_err(failed("reading snapshots"))
    }

    /// Forgets what was remembered of a snapshot that the repository forgot.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn drop_snapshot(&self, repository: &str, id: SnapshotId) -> Result<(), CatalogError> {
        self.lock()
            .execute("DELETE FROM snapshots WHERE repository = ?1 AND id = ?2", params![repository, id.to_string()])
            .map_err(failed("dropping a snapshot"))?;
        Ok(())
    }

    /// Text that this machine keeps for a repository under a name: its memory against replay.
    ///
    /// # Errors
    /// [`CatalogError`] where it cannot be read.
    pub fn memory(&self, repository: &str, name: &str) -> Result<Option<String>, CatalogError> {
        self.lock()
            .query_row(
                "SELECT value FROM memory WHERE repository = ?1 AND name = ?2",
                params![repository, name],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed("reading what is remembered of a repository"))
    }

    /// Keeps a text for a repository under a name.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remember(&self, repository: &str, name: &str, value: &str) -> Result<(), CatalogError> {
        self.lock()
            .execute("INSERT OR REPLACE INTO memory VALUES (?1, ?2, ?3)", params![repository, name, value])
            .map_err(failed("remembering a repository"))?;
        Ok(())
    }

    /// Records a restore.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn restored(&self, done: &RestoreDone) -> Result<(), CatalogError> {
        let values = params![
            text(done.time),
            done.snapshot.to_string(),
            done.stack.as_str(),
            done.source.as_str(),
            done.destination,
            json(&done.identity),
            done.clone
        ];
        self.lock()
            .execute("INSERT INTO restores VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", values)
            .map_err(failed("recording a restore"))?;
        Ok(())
    }

    /// A system that a snapshot of `stack` was restored into is no clone any more: a person said that it took
    /// the place of the other.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn adopted(&self, stack: &StackName, identity: &BTreeMap<String, String>) -> Result<(), CatalogError> {
        let clones = self.clones_of(stack)?;
        let same =
            |clone: &&BTreeMap<String, String>| clone.iter().any(|(key, value)| identity.get(key) == Some(value));
        for clone in clones.iter().filter(same) {
            self.lock()
                .execute(
                    "UPDATE restores SET clone = 0 WHERE stack = ?1 AND identity = ?2",
                    params![stack.as_str(), json(clone)],
                )
                .map_err(failed("recording that a system took the place of another"))?;
        }
        Ok(())
    }

    /// What the systems told of themselves into which snapshots of `stack` were restored as clones.
    ///
    /// # Errors
    /// [`CatalogError`] where it cannot be read.
    pub fn clones_of(&self, stack: &StackName) -> Result<Vec<BTreeMap<String, String>>, CatalogError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut query = connection.prepare("SELECT DISTINCT identity FROM restores WHERE clone AND stack = ?1")?;
            query.query_map([stack.as_str()], |row| facts_at(row, 0))?.collect()
        };
        read().map_err(failed("reading restores"))
    }
}

impl SeenSnapshot {
    /// Fills what `summary` lacks with what is remembered.
    pub fn complete(&self, summary: &mut SnapshotSummary) {
        if let (None, Some((stack, source))) = (&summary.source, &self.names) {
            summary.stack = Some(stack.clone());
            summary.source = Some(source.clone());
        }
        summary.kind = summary.kind.take().or_else(|| self.kind.clone());
        summary.recovery_point = summary.recovery_point.or(self.recovery_point);
        summary.label = summary.label.take().or_else(|| self.label.clone());
        summary.bytes = summary.bytes.or(self.bytes);
        summary.new_bytes = summary.new_bytes.or(self.new_bytes);
        summary.entries = summary.entries.or(self.entries);
        summary.problems = summary.problems.or(self.problems);
    }
}

fn run_of(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get(0)?,
        kind: row.get(1)?,
        source: row.get(2)?,
        started: row.get(3)?,
        ended: row.get(4)?,
        outcome: row.get(5)?,
        snapshot: row.get(6)?,
        bytes: row.get::<_, Option<i64>>(7)?.map(i64::cast_unsigned),
        new_bytes: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
        error: row.get(9)?,
    })
}

fn seen_of(row: &Row<'_>) -> rusqlite::Result<SeenSnapshot> {
    let count = |at: usize| row.get::<_, Option<i64>>(at).map(|count| count.map(i64::cast_unsigned));
    let name = |at: usize| row.get::<_, Option<String>>(at);
    let stack = name(2)?.and_then(|text| StackName::new(&text).ok());
    let source = name(3)?.and_then(|text| SourceName::new(&text).ok());
    Ok(SeenSnapshot {
        names: stack.zip(source),
        kind: name(4)?,
        recovery_point: name(5)?.and_then(|text| text.parse().ok()),
        label: name(6)?,
        bytes: count(7)?,
        new_bytes: count(8)?,
        entries: count(9)?,
        problems: count(10)?,
        facts: facts_at(row, 11)?,
    })
}

/// A time that sorts as text.
fn text(time: Timestamp) -> String {
    format!("{time:.9}")
}

fn json(facts: &BTreeMap<String, String>) -> String {
    serde_json::to_string(facts).expect("a map of texts is always JSON")
}

fn facts_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<BTreeMap<String, String>> {
    serde_json::from_str(&row.get::<_, String>(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into()))
}

/// Renames a catalog that cannot be used, with its journal.
fn set_aside(path: &Path, now: Timestamp) -> std::io::Result<PathBuf> {
    let aside = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{}", now.as_second()));
        PathBuf::from(name)
    };
    for suffix in ["-wal", "-shm"] {
        let mut journal = path.as_os_str().to_owned();
        journal.push(suffix);
        let journal = PathBuf::from(journal);
        if journal.exists() {
            std::fs::rename(&journal, aside(&journal))?;
        }
    }
    std::fs::rename(path, aside(path))?;
    Ok(aside(path))
}

#[cfg(test)]
mod tests;

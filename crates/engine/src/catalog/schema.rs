//! The tables and how an older catalog becomes a newer one.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

/// The version that this program writes, in SQLite's `user_version`.
const VERSION: u32 = 2;

/// One step for each version: step n makes version n + 1 of version n. Steps are never changed
/// once they are released.
const MIGRATIONS: [&str; VERSION as usize] = [
    "
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    source TEXT,
    started TEXT NOT NULL,
    ended TEXT,
    outcome TEXT,
    snapshot TEXT,
    bytes INTEGER,
    new_bytes INTEGER,
    error TEXT
);
CREATE TABLE snapshots (
    repository TEXT NOT NULL,
    id TEXT NOT NULL,
    stack TEXT,
    source TEXT,
    kind TEXT,
    recovery_point TEXT,
    label TEXT,
    bytes INTEGER,
    new_bytes INTEGER,
    entries INTEGER,
    problems INTEGER,
    facts TEXT NOT NULL,
    PRIMARY KEY (repository, id)
) WITHOUT ROWID;
CREATE TABLE memory (
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (repository, name)
) WITHOUT ROWID;
CREATE TABLE restores (
    time TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    stack TEXT NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    identity TEXT NOT NULL,
    clone INTEGER NOT NULL
);
CREATE INDEX restores_by_stack ON restores (stack);
",
    "
CREATE TABLE packs_read (
    repository TEXT NOT NULL,
    pack BLOB NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (repository, pack)
) WITHOUT ROWID;
",
];

/// Why a catalog was not opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// A later program wrote it.
    Newer(u32),
    /// Its bytes are no catalog.
    Damaged(String),
    /// It cannot be reached: no rights, a full disk, held by another program.
    Unusable(String),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // "Unknown" is an SQL error: a table that should be there is not.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Unusable(error.to_string()),
        }
    }
}

/// Opens the catalog, looks it through and brings it to this version.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    if let Some(dir) = path.parent() {
        crate::lock::make_private_dir(dir).map_err(|error| OpenError::Unusable(error.to_string()))?;
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    let findings: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if findings != "ok" {
        return Err(OpenError::Damaged(findings));
    }
    migrate(&mut connection)?;
    // A query over all tables: a file with the right version and the wrong tables is damaged too.
    connection.prepare("SELECT id FROM runs, (SELECT facts FROM snapshots), (SELECT value FROM memory), (SELECT pack FROM packs_read), restores")?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let change = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: u32 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(OpenError::Newer(version));
    }
    for step in &MIGRATIONS[version as usize..] {
        change.execute_batch(step)?;
    }
    if version < VERSION {
        change.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(change.commit()?)
}

/// A catalog that ends with this command.
pub(super) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().expect("SQLite opens a database in memory");
    for step in MIGRATIONS {
        connection.execute_batch(step).expect("the tables are made in an empty database");
    }
    connection
}

//! PostgreSQL 13 to 18, dumped.
//!
//! Captured: every database that allows connections (or those that are named), each as one
//! consistent view, in the entries of `pg_dump`'s uncompressed directory format below a directory
//! of the database's name, and everything that belongs to the whole server as `globals.sql`. What
//! is restored to a directory is therefore what plain `pg_restore` and `psql` take. Beside them
//! `lifeboat.json` tells how many rows each table had.
//!
//! Not captured: replication slots, statistics, `pg_hba.conf` and other files of the server, the
//! content of foreign tables and of temporary ones.
//!
//! Consistency: one exported snapshot per database; two databases are read at different times.
//! `pg_dump` writes only the table of contents; the data is read by parallel `COPY` under the same
//! snapshot, so that nothing is written to a disk on the way.

mod archive;
mod backup;
pub mod client;
mod data;
mod doctor;
mod done;
mod fill;
mod globals;
mod layout;
mod load;
mod only;
mod parts;
mod replace;
mod restore;
mod rights;
mod roles;
mod rows;
mod schema;
pub mod sql;
mod structure;
mod swap;
pub mod toc;
pub mod tool;
pub mod url;
mod verify;
pub mod version;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_model::RecoveryPoint;
use lifeboat_model::flow::{EntrySink, RunContext};
pub use restore::PostgresTarget;
use zeroize::Zeroizing;

use self::client::Server;
use crate::{Finding, Source, SourceError};

/// The entry of what belongs to the whole server.
pub const GLOBALS: &str = "globals.sql";
/// How many connections read at the same time unless told otherwise.
pub const JOBS_DEFAULT: usize = 2;

/// What the configuration says of a PostgreSQL source or target.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/database?sslmode=...`; the database is only the first to connect
    /// to.
    pub url: String,
    /// The password that came by the environment (`PGPASSWORD`), if any.
    pub password: Option<Zeroizing<String>>,
    /// File whose first line is the password; goes before all others.
    pub password_file: Option<PathBuf>,
    /// File of passwords in `libpq`'s form (`~/.pgpass`), looked at last.
    pub passfile: Option<PathBuf>,
    /// Which databases; `None` = every one that allows connections.
    pub databases: Option<Vec<String>>,
    /// How many tables are read at the same time.
    pub jobs: usize,
    /// Whether the passwords of roles are part of the backup.
    pub role_passwords: RolePasswords,
    /// Directories that PostgreSQL's tools are taken from; empty = found where packages put them.
    pub tool_dirs: Vec<PathBuf>,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: "postgres:///".to_owned(),
            password: None,
            password_file: None,
            passfile: None,
            databases: None,
            jobs: JOBS_DEFAULT,
            role_passwords: RolePasswords::Keep,
            tool_dirs: Vec::new(),
        }
    }
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresConfig").field("databases", &self.databases).finish_non_exhaustive()
    }
}

/// Whether the (hashed) passwords of roles are part of the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolePasswords {
    /// They are; restored roles can log in as before.
    Keep,
    /// They are not; restored roles cannot log in by password until they get one.
    Omit,
}

/// A server that is backed up by dumps.
#[derive(Debug)]
pub struct PostgresSource {
    config: PostgresConfig,
    server: Server,
}

impl PostgresSource {
    /// Reads url, password and certificates; connects to nothing yet.
    ///
    /// # Errors
    /// [`SourceError::Config`] where one of them is no good.
    pub fn new(config: PostgresConfig) -> Result<Self, SourceError> {
        let server = Server::new(&config)?;
        Ok(Self { config, server })
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn backup(&self, sink: Arc<dyn EntrySink>, ctx: &RunContext) -> Result<RecoveryPoint, SourceError> {
        let done = backup::run(&self.config, &self.server, &sink, ctx).await;
        done.map_err(|error| if ctx.cancel.is_cancelled() { SourceError::Cancelled } else { error })
    }

    async fn identity(&self, _ctx: &RunContext) -> Result<BTreeMap<String, String>, SourceError> {
        let session = self.server.connect(&self.server.url.database).await?;
        let facts = backup::Facts::of(&session).await?;
        session.close().await;
        Ok(facts.identity())
    }

    async fn doctor(&self, ctx: &RunContext) -> Result<Vec<Finding>, SourceError> {
        Ok(doctor::look(&self.config, &self.server, ctx).await)
    }
}

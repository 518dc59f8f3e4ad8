//! What a database is made of, as `pg_dump` tells it: for a backup, and to compare with one.

use lifeboat_model::flow::RunContext;

use super::client::{MAY_READ_ALL, Server, Session, database_argument};
use super::toc::{Toc, TocReader};
use super::tool::Tools;
use crate::SourceError;

/// The table of contents of the database that `leader` is connected to, from the beginning of what
/// `pg_dump` writes under the snapshot that `leader` exported.
///
/// # Errors
/// [`SourceError::Failed`] with what `pg_dump` complained of.
pub(super) async fn read(
    server: &Server,
    tools: &Tools,
    leader: &Session,
    snapshot: &str,
    ctx: &RunContext,
) -> Result<Toc, SourceError> {
    let database = leader.database();
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| SourceError::Failed {
        what: format!("reading the structure of database {database:?} failed"),
        hint: Some(hint_of_dump(&error.to_string()).to_owned()),
        source: Some(error),
    };
    // Everything in UTF-8, so that names mean the same everywhere; SQL_ASCII has no meaning to keep.
    let encoding = leader.text("SHOW server_encoding", "asking for the encoding").await?;
    let encoding = if encoding == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" };
    let mut command = server.tool(&tools.path("pg_dump"), database);
    command = command.args(["--format=custom", "--compress=0", "--no-password"]);
    command = command.arg(format!("--snapshot={snapshot}")).arg(format!("--encoding={encoding}"));
    command = command.arg("-d").arg(database_argument(database));
    let mut dump = command.start().map_err(|error| failed(Box::new(error)))?;
    let mut reader = TocReader::default();
    loop {
        if ctx.cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        let chunk = dump.chunk().await.map_err(|error| failed(Box::new(error)))?;
        let Some(chunk) = chunk else { return Err(failed("pg_dump ended before its table of contents".into())) };
        if let Some(toc) = reader.feed(&chunk).map_err(|error| failed(Box::new(error)))? {
            // What follows is data, which is read otherwise.
            dump.kill().await;
            return Ok(toc);
        }
    }
}

/// What to do about what `pg_dump` complained of.
fn hint_of_dump(complaint: &str) -> &'static str {
    if complaint.contains("permission denied") {
        MAY_READ_ALL
    } else if complaint.contains("signal: ") {
        "pg_dump was ended from outside, perhaps for lack of memory: the system's log tells; run the backup again"
    } else {
        "`lifeboat doctor` looks at the tools and the role's rights"
    }
}

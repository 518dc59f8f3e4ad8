//! What belongs to a whole server: roles, memberships, settings of roles, tablespaces.
//!
//! `pg_dumpall --globals-only` writes them as a script, which is the entry `globals.sql`. A restore
//! runs its statements one by one and decides for each by what is there already.

use lifeboat_model::flow::{EntrySink, RunContext};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};

use super::backup::shaped;
use super::client::{Server, Session, database_argument};
use super::tool::Tools;
use super::{GLOBALS, RolePasswords};
use crate::SourceError;

/// The largest script that is read: a hundred thousand roles.
pub(super) const GLOBALS_BYTES_MAX: usize = 32 << 20;

/// Puts `globals.sql`.
///
/// # Errors
/// [`SourceError::Failed`] where `pg_dumpall` fails.
pub(super) async fn back_up(
    server: &Server,
    session: &Session,
    tools: &Tools,
    passwords: RolePasswords,
    sink: &dyn EntrySink,
    ctx: &RunContext,
) -> Result<(), SourceError> {
    let path = EntryPath::new(GLOBALS).expect("a good path");
    let readable = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')::text";
    let readable = session.text(readable, "looking at the rights on pg_authid").await? == "true";
    let mut command = server.tool(&tools.path("pg_dumpall"), session.database());
    command = command.args(["--globals-only", "--no-password"]);
    command = command.arg("-d").arg(database_argument(session.database()));
    if passwords == RolePasswords::Omit || !readable {
        command = command.arg("--no-role-passwords");
    }
    let script = command.run(GLOBALS_BYTES_MAX, &ctx.cancel).await.map_err(|error| SourceError::Failed {
        what: format!("reading roles and tablespaces of {} failed", server.url),
        hint: None,
        source: Some(Box::new(error)),
    })?;
    let mut meta = EntryMeta::new(EntryKind::File);
    meta.mode = Some(0o600);
    sink.put(&path, &meta, None, shaped(script)).await?;
    if passwords == RolePasswords::Keep && !readable {
        let what = format!(
            "passwords of roles are not in the backup: role {:?} may not read pg_authid (only superusers may); \
             set rolePasswords: omit if this is meant",
            server.url.user
        );
        sink.problem(&path, &what).await?;
    }
    ctx.monitor.entries(1);
    Ok(())
}

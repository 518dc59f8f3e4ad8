//! What belongs to a whole server: roles, memberships, settings of roles, tablespaces.
//!
//! `pg_dumpall --globals-only` writes them as a script, which is the entry `globals.sql`. A restore
//! runs its statements one by one and decides for each by what is there already.

use bytes::Bytes;
use lifeboat_model::flow::{Cancel, EntrySink, RunContext};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};

use super::client::{Server, Session, database_argument};
use super::data::shaped;
use super::sql::{self, Token};
use super::tool::Tools;
use super::{GLOBALS, RolePasswords};
use crate::SourceError;

pub(super) mod restore;
pub(super) mod roles;

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
    let readable = passwords_readable(session).await?;
    let script = read(server, session, tools, passwords == RolePasswords::Keep && readable, &ctx.cancel).await?;
    let script = match std::str::from_utf8(&script) {
        Ok(text) => repeatable(text).into(),
        Err(_) => script,
    };
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

/// Whether the role that is connected may read the passwords of roles.
pub(super) async fn passwords_readable(session: &Session) -> Result<bool, SourceError> {
    let readable = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')::text";
    Ok(session.text(readable, "looking at the rights on pg_authid").await? == "true")
}

/// The script of what the server has now.
///
/// # Errors
/// [`SourceError::Failed`] where `pg_dumpall` fails.
pub(super) async fn read(
    server: &Server,
    session: &Session,
    tools: &Tools,
    passwords: bool,
    cancel: &Cancel,
) -> Result<Bytes, SourceError> {
    let mut command = server.tool(&tools.path("pg_dumpall"), session.database());
    command = command.args(["--globals-only", "--no-password"]);
    command = command.arg("-d").arg(database_argument(session.database()));
    if !passwords {
        command = command.arg("--no-role-passwords");
    }
    command.run(GLOBALS_BYTES_MAX, cancel).await.map_err(|error| SourceError::Failed {
        what: format!("reading roles and tablespaces of {} failed", server.url),
        hint: None,
        source: Some(Box::new(error)),
    })
}

/// The script with a `CREATE ROLE` that does not fail where the role is there, as the first superuser
/// always is: `psql` takes it with `ON_ERROR_STOP`, and more than once.
fn repeatable(script: &str) -> String {
    let mut out = String::with_capacity(script.len() * 2);
    let (mut statement, mut in_command) = (String::new(), false);
    for token in sql::tokens(script) {
        let raw = token.raw();
        in_command = if in_command { !raw.contains('\n') } else { statement.is_empty() && raw == "\\" };
        if in_command || statement.is_empty() && matches!(token, Token::Gap(_)) {
            out.push_str(raw);
        } else if raw == ";" {
            out.push_str(&unless_there(&statement));
            out.push_str(raw);
            statement.clear();
        } else {
            statement.push_str(raw);
        }
    }
    out + &statement
}

fn unless_there(statement: &str) -> String {
    let words = sql::words(statement);
    let is = |at: usize, word: &str| words.get(at).is_some_and(|token| token.raw() == word);
    if !(is(0, "CREATE") && is(1, "ROLE")) {
        return statement.to_owned();
    }
    let mut tag = "lifeboat".to_owned();
    while statement.contains(&tag) {
        tag.push('_');
    }
    format!("DO ${tag}$BEGIN {statement}; EXCEPTION WHEN duplicate_object THEN NULL; END${tag}$")
}

/// The statement that [`unless_there`] was given.
fn made_unless_there(words: &[Token<'_>]) -> Option<String> {
    let [Token::Word("DO"), Token::Text(block)] = words else { return None };
    let (statement, _) = block.split_once("$BEGIN ")?.1.rsplit_once("; EXCEPTION WHEN duplicate_object")?;
    statement.starts_with("CREATE ROLE ").then(|| statement.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_made_unless_they_are_there_and_everything_else_stays_as_it_was() {
        let script = "--\n-- it's; a cluster\n--\n\n\\restrict a;b\n\nSET x = 'a;b';\nCREATE ROLE postgres;\n\
                      ALTER ROLE postgres WITH SUPERUSER;\nCREATE ROLE \"$lifeboat$; odd\";\n\n\\unrestrict a;b\n";
        let made = repeatable(script);
        let odd = "DO $lifeboat_$BEGIN CREATE ROLE \"$lifeboat$; odd\"; EXCEPTION WHEN duplicate_object THEN NULL; END$lifeboat_$;";
        assert!(made.contains(odd), "{made}");
        let all = sql::statements(&made);
        let back: Vec<String> =
            all.iter().map(|s| made_unless_there(&sql::words(s)).unwrap_or_else(|| s.clone())).collect();
        assert_eq!(back, sql::statements(script));
        assert_eq!(made.lines().next_back(), script.lines().next_back());
        assert!(
            made.starts_with("--\n-- it's; a cluster\n--\n\n\\restrict a;b\n\nSET x = 'a;b';\nDO $lifeboat$BEGIN"),
            "{made}"
        );
    }
}

//! What belongs to a whole server: roles, memberships, settings of roles, tablespaces.
//!
//! `pg_dumpall --globals-only` writes them as a script, which is the entry `globals.sql`. A restore
//! runs its statements one by one and decides for each by what is there already.

use std::collections::BTreeSet;

use lifeboat_model::flow::{EntrySink, RunContext};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};

use super::client::{Server, ServerError, Session, database_argument};
use super::data::shaped;
use super::sql::{self, Token};
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

/// What a restore of the script did.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// What is not as it was.
    pub(super) problems: Vec<String>,
    /// Tablespaces that the server does not have after it; their tables go to the default one.
    pub(super) missing_tablespaces: BTreeSet<String>,
}

/// Runs the script, statement by statement.
///
/// A role that is not there is made with everything that belongs to it. One that is there stays as
/// it is unless `replace`; the role that restores is never altered, so that it cannot lock itself
/// out. No role is ever removed.
///
/// # Errors
/// [`SourceError::Failed`] where a role cannot be made.
pub(super) async fn restore(session: &Session, script: &str, replace: bool) -> Result<Applied, SourceError> {
    let names = async |query: &str| -> Result<BTreeSet<String>, SourceError> {
        let rows = session.rows(query, "listing roles and tablespaces").await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let mut applying = Applying {
        session,
        replace,
        roles: names("SELECT rolname::text FROM pg_catalog.pg_roles").await?,
        tablespaces: names("SELECT spcname::text FROM pg_catalog.pg_tablespace").await?,
        own: session.text("SELECT current_user::text", "asking who I am").await?,
        made: BTreeSet::new(),
        applied: Applied::default(),
    };
    for statement in sql::statements(script) {
        applying.statement(&statement).await?;
    }
    Ok(applying.applied)
}

struct Applying<'a> {
    session: &'a Session,
    replace: bool,
    roles: BTreeSet<String>,
    tablespaces: BTreeSet<String>,
    own: String,
    /// Roles and tablespaces that this restore made.
    made: BTreeSet<(Kind, String)>,
    applied: Applied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Role,
    Tablespace,
}

impl Applying<'_> {
    async fn statement(&mut self, statement: &str) -> Result<(), SourceError> {
        let words = sql::words(statement);
        if let Some(made) = made_unless_there(&words) {
            return Box::pin(self.statement(&made)).await;
        }
        let word = |at: usize| words.get(at).map(|word| word.raw().to_ascii_uppercase()).unwrap_or_default();
        let name = |at: usize| words.get(at).and_then(|word| word.name()).unwrap_or_default();
        match (word(0).as_str(), word(1).as_str()) {
            ("SET" | "SELECT", _) => Ok(()),
            ("CREATE", "ROLE") => self.create_role(statement, name(2)).await,
            ("CREATE", "TABLESPACE") => self.create_tablespace(statement, name(2)).await,
            ("ALTER", "ROLE") => {
                let role = name(2);
                let wanted = role != self.own && (self.replace || self.is_made(Kind::Role, &role));
                self.run_if(wanted, statement, &format!("role {role:?}")).await
            }
            ("ALTER", "TABLESPACE") => {
                let wanted = self.is_made(Kind::Tablespace, &name(2));
                self.run_if(wanted, statement, &format!("tablespace {:?}", name(2))).await
            }
            ("COMMENT" | "SECURITY", _) => {
                let at = words.iter().position(|word| word.raw().eq_ignore_ascii_case("ON")).unwrap_or(0);
                let kind = if word(at + 1) == "TABLESPACE" { Kind::Tablespace } else { Kind::Role };
                let wanted = self.is_made(kind, &name(at + 2)) || self.replace && kind == Kind::Role;
                self.run_if(wanted, statement, &format!("comment or label of {:?}", name(at + 2))).await
            }
            ("GRANT" | "REVOKE", _) => self.grant(statement, &words).await,
            _ => self.run_if(true, statement, &format!("{} {}", word(0), word(1))).await,
        }
    }

    fn is_made(&self, kind: Kind, name: &str) -> bool {
        self.made.contains(&(kind, name.to_owned()))
    }

    async fn create_role(&mut self, statement: &str, role: String) -> Result<(), SourceError> {
        if self.roles.contains(&role) {
            return Ok(());
        }
        self.session.run(statement, &format!("making role {role:?}")).await?;
        self.roles.insert(role.clone());
        self.made.insert((Kind::Role, role));
        Ok(())
    }

    async fn create_tablespace(&mut self, statement: &str, tablespace: String) -> Result<(), SourceError> {
        if self.tablespaces.contains(&tablespace) {
            return Ok(());
        }
        if let Err(error) = self.session.client().batch_execute(statement).await {
            let why = ServerError::from(error);
            let text = format!("tablespace {tablespace:?} could not be made, the default one is used: {why}");
            self.applied.problems.push(text);
            self.applied.missing_tablespaces.insert(tablespace);
        } else {
            self.made.insert((Kind::Tablespace, tablespace));
        }
        Ok(())
    }

    /// A membership, or a right on a tablespace or a parameter.
    async fn grant(&mut self, statement: &str, words: &[Token<'_>]) -> Result<(), SourceError> {
        let find = |wanted: &str| words.iter().position(|word| word.raw().eq_ignore_ascii_case(wanted));
        let name = |at: usize| words.get(at).and_then(|word| word.name()).unwrap_or_default();
        if let Some(on) = find("ON") {
            let tablespace = words.get(on + 1).is_some_and(|word| word.raw().eq_ignore_ascii_case("TABLESPACE"));
            let wanted = !tablespace || self.is_made(Kind::Tablespace, &name(on + 2));
            return self.run_if(wanted, statement, &format!("rights on {:?}", name(on + 2))).await;
        }
        let (role, member) = (name(1), find("TO").map(|to| name(to + 1)).unwrap_or_default());
        let made = self.is_made(Kind::Role, &role) || self.is_made(Kind::Role, &member);
        if !(made || self.replace) {
            return Ok(());
        }
        if self.session.client().batch_execute(statement).await.is_ok() {
            return Ok(());
        }
        // The grantor may have no such right here, as where the first superuser has another name.
        let granted = statement.rfind(" GRANTED BY ").map_or(statement, |at| &statement[..at]);
        self.run_if(true, granted, &format!("membership of {member:?} in {role:?}")).await
    }

    /// Runs a statement whose failure is a problem and no error. The statement may hold a password
    /// and is never shown.
    async fn run_if(&mut self, wanted: bool, statement: &str, what: &str) -> Result<(), SourceError> {
        if wanted && let Err(error) = self.session.client().batch_execute(statement).await {
            self.applied.problems.push(format!("{what} is not as it was: {}", ServerError::from(error)));
        }
        Ok(())
    }
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

//! Brings roles and tablespaces back, statement by statement.

use std::collections::BTreeSet;

use super::made_unless_there;
use super::roles::{Leave, Roles, Trait, said};
use crate::SourceError;
use crate::postgres::client::{ServerError, Session, failure, may_not};
use crate::postgres::done::Done;
use crate::postgres::sql::{self, Token, ident};

/// Runs the script on a server that has `now`; answers with the tablespaces that it does not have
/// afterwards, whose tables go to the default one.
///
/// A role that is not there is made with everything that belongs to it. Of one that is there only
/// what `leave` lets be set is set, and only where it differs. No role is ever removed.
///
/// # Errors
/// [`SourceError::Failed`] where a role cannot be made.
pub(in crate::postgres) async fn restore(
    session: &Session,
    script: &str,
    now: Roles,
    leave: &Leave,
    done: &mut Done,
) -> Result<BTreeSet<String>, SourceError> {
    let names = async |query: &str| -> Result<BTreeSet<String>, SourceError> {
        let rows = session.rows(query, "listing roles and tablespaces").await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let mut applying = Applying {
        session,
        now,
        leave,
        done,
        roles: names("SELECT rolname::text FROM pg_catalog.pg_roles").await?,
        tablespaces: names("SELECT spcname::text FROM pg_catalog.pg_tablespace").await?,
        made: BTreeSet::new(),
        missing_tablespaces: BTreeSet::new(),
    };
    for statement in sql::statements(script) {
        applying.statement(&statement).await?;
    }
    Ok(applying.missing_tablespaces)
}

struct Applying<'a> {
    session: &'a Session,
    now: Roles,
    leave: &'a Leave,
    done: &'a mut Done,
    roles: BTreeSet<String>,
    tablespaces: BTreeSet<String>,
    /// Roles and tablespaces that this restore made.
    made: BTreeSet<(Kind, String)>,
    missing_tablespaces: BTreeSet<String>,
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
            ("SET" | "SELECT", _) => {}
            ("CREATE", "ROLE") => self.create_role(statement, name(2)).await?,
            ("CREATE", "TABLESPACE") => self.create_tablespace(statement, name(2)).await,
            _ => match said(&words).split_first() {
                Some((first, others)) => self.of_role(statement, &words, first, others).await,
                None => self.of_tablespace(statement, &words).await,
            },
        }
        Ok(())
    }

    fn is_made(&self, kind: Kind, name: &str) -> bool {
        self.made.contains(&(kind, name.to_owned()))
    }

    async fn create_role(&mut self, statement: &str, role: String) -> Result<(), SourceError> {
        if self.roles.contains(&role) {
            return Ok(());
        }
        if let Err(error) = self.session.client().batch_execute(statement).await {
            if may_not(&error) {
                self.done.failed(&format!("role {role:?}"), error);
                return Ok(());
            }
            return Err(failure(format!("making role {role:?} failed"), None, error));
        }
        self.now.made(&role);
        self.roles.insert(role.clone());
        self.made.insert((Kind::Role, role));
        Ok(())
    }

    async fn create_tablespace(&mut self, statement: &str, tablespace: String) {
        if self.tablespaces.contains(&tablespace) {
            return;
        }
        if let Err(error) = self.session.client().batch_execute(statement).await {
            let why = ServerError::from(error);
            let text = format!("tablespace {tablespace:?} could not be made, the default one is used: {why}");
            self.done.problems.push(text);
            self.missing_tablespaces.insert(tablespace);
        } else {
            self.made.insert((Kind::Tablespace, tablespace));
        }
    }

    /// Runs what the statement says of a role as far as it may be set and is otherwise now.
    async fn of_role(
        &mut self,
        statement: &str,
        words: &[Token<'_>],
        first: &(String, Trait, String),
        others: &[(String, Trait, String)],
    ) {
        let role = first.0.as_str();
        let wanted = |(role, of_it, value): &&(String, Trait, String)| {
            self.roles.contains(role)
                && self.now.differs(role, of_it, value)
                && self.leave.sets(role, of_it, |name| self.is_made(Kind::Role, name))
        };
        let set: Vec<&(String, Trait, String)> = std::iter::once(first).chain(others).filter(wanted).collect();
        if set.is_empty() {
            return;
        }
        match &first.1 {
            Trait::Attribute(_) | Trait::Password => {
                // What is so already is not said again: who is no superuser may not even say NOSUPERUSER.
                let clauses: Vec<&str> = set.iter().map(|(_, _, clause)| clause.as_str()).collect();
                let alter = format!("ALTER ROLE {} WITH {}", ident(role), clauses.join(" "));
                self.run(&alter, &format!("role {role:?}")).await;
            }
            Trait::Member(of) => {
                if self.session.client().batch_execute(statement).await.is_err() {
                    // The grantor may have no such right here, as where the first superuser has another name.
                    let granted = statement.rfind(" GRANTED BY ").map_or(statement, |at| &statement[..at]);
                    self.run(granted, &format!("membership of {role:?} in {of:?}")).await;
                }
            }
            Trait::Setting(name) => self.run(statement, &format!("setting {name} of role {role:?}")).await,
            _ => {
                let what = words.first().map(|word| word.raw().to_lowercase()).unwrap_or_default();
                self.run(statement, &format!("{what} of role {role:?}")).await;
            }
        }
    }

    /// A property of a tablespace or rights on it: set where the restore made it.
    async fn of_tablespace(&mut self, statement: &str, words: &[Token<'_>]) {
        let of = words.iter().position(|word| word.raw().eq_ignore_ascii_case("TABLESPACE"));
        let name = of.and_then(|at| words.get(at + 1)).and_then(|word| word.name()).unwrap_or_default();
        if self.is_made(Kind::Tablespace, &name) {
            self.run(statement, &format!("a property of tablespace {name:?}")).await;
        }
    }

    /// Runs a statement whose failure is a problem and no error. It may hold a password and is never
    /// shown.
    async fn run(&mut self, statement: &str, what: &str) {
        if let Err(error) = self.session.client().batch_execute(statement).await {
            self.done.failed(what, error);
        }
    }
}

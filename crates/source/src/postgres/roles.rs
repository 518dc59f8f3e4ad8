//! Roles and tablespaces that a server lacks: what belongs to them comes back without them.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Session;
use super::sql::{self, Token, ident};
use super::toc::{Toc, TocEntry, text};
use crate::SourceError;

/// The roles and tablespaces of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    roles: BTreeSet<String>,
    tablespaces: BTreeSet<String>,
}

/// What a missing role costs.
#[derive(Clone, Copy, Default)]
struct Cost {
    owned: usize,
    rights: usize,
    policies: usize,
}

impl Known {
    pub(super) async fn of(session: &Session) -> Result<Self, SourceError> {
        let names = async |query: &str| -> Result<BTreeSet<String>, SourceError> {
            let rows = session.rows(query, "listing roles and tablespaces").await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        };
        Ok(Self {
            roles: names("SELECT rolname::text FROM pg_catalog.pg_roles").await?,
            tablespaces: names("SELECT spcname::text FROM pg_catalog.pg_tablespace").await?,
        })
    }

    pub(super) fn lacks(&self, role: &str) -> bool {
        role != "public" && !self.roles.contains(role)
    }

    /// Takes out of the entries what the server has no role or tablespace for; `told` gets a line for
    /// each of them.
    pub(super) fn fit(&self, toc: &mut Toc, told: &mut Vec<String>) {
        let (mut roles, mut tablespaces) = (BTreeMap::<String, Cost>::new(), BTreeMap::<String, usize>::new());
        toc.entries.retain_mut(|entry| self.fit_entry(entry, &mut roles, &mut tablespaces));
        for (role, cost) in roles {
            let mut lost = Vec::new();
            for (count, what) in [
                (cost.owned, "objects belong to the role that restores"),
                (cost.rights, "grants are left out"),
                (cost.policies, "policies are without it"),
            ] {
                if count > 0 {
                    lost.push(format!("{count} {what}"));
                }
            }
            told.push(format!("role {role:?} is not on the server: {}", lost.join(", ")));
        }
        for (tablespace, count) in tablespaces {
            told.push(format!("tablespace {tablespace:?} is not on the server: {count} objects go to the default one"));
        }
    }

    /// Whether anything of the entry stays.
    fn fit_entry(
        &self,
        entry: &mut TocEntry,
        roles: &mut BTreeMap<String, Cost>,
        tablespaces: &mut BTreeMap<String, usize>,
    ) -> bool {
        let mut cost = |role: String, count: fn(&mut Cost) -> &mut usize| *count(roles.entry(role).or_default()) += 1;
        let tablespace = text(&entry.tablespace).unwrap_or_default();
        if !tablespace.is_empty() && !self.tablespaces.contains(tablespace) {
            *tablespaces.entry(tablespace.to_owned()).or_default() += 1;
            entry.tablespace = Some(Box::default());
        }
        let owner = text(&entry.owner).unwrap_or_default();
        if !owner.is_empty() && self.lacks(owner) {
            if entry.drop.as_deref().is_some_and(|drop| !drop.is_empty()) {
                cost(owner.to_owned(), |cost| &mut cost.owned);
            }
            entry.owner = Some(Box::default());
        }
        let Ok(definition) = entry.definition_text() else { return true };
        if entry.is("ACL") || entry.is("DEFAULT ACL") || entry.is("USER MAPPING") {
            let statements = sql::statements(definition);
            let mut kept = Vec::with_capacity(statements.len());
            for statement in &statements {
                let absent: Vec<String> = roles_of(statement).into_iter().filter(|role| self.lacks(role)).collect();
                if absent.is_empty() {
                    kept.push(statement.as_str());
                } else if !statement.starts_with("REVOKE") && !statement.starts_with("SET ") {
                    for role in absent {
                        cost(role, |cost| &mut cost.rights);
                    }
                }
            }
            if kept.len() < statements.len() {
                entry.definition = Some((kept.join(";\n") + ";\n").into_bytes().into());
                return !kept.is_empty();
            }
        } else if entry.is("POLICY") {
            let (list, others): (Vec<String>, _) = policy_roles(definition);
            let absent: Vec<String> = list.iter().filter(|role| self.lacks(role)).cloned().collect();
            if !absent.is_empty() {
                let present: Vec<String> =
                    list.iter().filter(|role| !self.lacks(role)).map(|role| ident(role)).collect();
                for role in absent {
                    cost(role, |cost| &mut cost.policies);
                }
                let (before, after) = others;
                let rewritten = format!("{before} {} {after}", present.join(", "));
                // A policy for nobody who is there changes nothing.
                let kept = !present.is_empty();
                entry.definition = Some(rewritten.into_bytes().into());
                return kept;
            }
        }
        true
    }
}

/// The roles that a grant, a revocation, default privileges or a user mapping names.
fn roles_of(statement: &str) -> Vec<String> {
    let words = sql::words(statement);
    let is = |at: usize, word: &str| matches!(words.get(at), Some(Token::Word(raw)) if raw.eq_ignore_ascii_case(word));
    let name = |at: usize| words.get(at).and_then(|token| token.name());
    let mut found = Vec::new();
    if is(0, "SET") && is(2, "AUTHORIZATION") {
        // As pg_dump writes it: a name, or a text.
        let text = words.get(3).map(|token| token.raw().trim_matches('\'').replace("''", "'"));
        return name(3).or(text).into_iter().collect();
    }
    if is(0, "CREATE") && is(1, "USER") && is(2, "MAPPING") {
        return name(4).into_iter().collect();
    }
    if let Some(at) = (0..words.len()).find(|&at| is(at, "FOR") && is(at + 1, "ROLE")) {
        found.extend(name(at + 2));
    }
    if let Some(at) = (0..words.len()).rev().find(|&at| is(at, "TO") || is(at, "FROM")) {
        found.extend(name(at + 1));
    }
    found
}

/// The roles of `CREATE POLICY ... TO a, b USING ...`, with what stands before and behind them.
fn policy_roles(definition: &str) -> (Vec<String>, (&str, &str)) {
    let (mut roles, mut begin, mut position) = (Vec::new(), None, 0);
    for token in sql::tokens(definition) {
        let raw = token.raw();
        match token {
            Token::Word(word) if begin.is_none() && word.eq_ignore_ascii_case("TO") => {
                begin = Some(position + raw.len());
            }
            Token::Word(word)
                if begin.is_some() && ["USING", "WITH"].iter().any(|end| word.eq_ignore_ascii_case(end)) =>
            {
                break;
            }
            Token::Symbol("(" | ";") => break,
            Token::Word(_) | Token::Quoted(_) if begin.is_some() => roles.extend(token.name()),
            _ => {}
        }
        position += raw.len();
    }
    let before = &definition[..begin.unwrap_or(position)];
    (roles, (before, &definition[position..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_of_every_statement_that_pg_dump_writes_are_found() {
        for (statement, roles) in [
            ("GRANT SELECT(name),UPDATE(age) ON TABLE public.people TO reader WITH GRANT OPTION", vec!["reader"]),
            ("REVOKE ALL ON TABLE public.\"to\" FROM \"Odd \"\"x\"", vec!["Odd \"x"]),
            ("GRANT USAGE ON SCHEMA app TO PUBLIC", vec!["public"]),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES  TO reader",
                vec!["app", "reader"],
            ),
            ("SET SESSION AUTHORIZATION app", vec!["app"]),
            ("SET SESSION AUTHORIZATION 'it''s'", vec!["it's"]),
            ("RESET SESSION AUTHORIZATION", vec![]),
            ("CREATE USER MAPPING FOR app SERVER far OPTIONS (\"user\" 'to nobody')", vec!["app"]),
        ] {
            assert_eq!(roles_of(statement), roles, "{statement}");
        }
    }

    #[test]
    fn the_roles_of_a_policy_stand_between_to_and_its_conditions() {
        let sql = "CREATE POLICY \"to\" ON public.secret FOR SELECT TO reader, \"Odd\" USING ((owner = 'to x'));\n";
        let (roles, (before, after)) = policy_roles(sql);
        assert_eq!(roles, ["reader", "Odd"]);
        assert_eq!((before.rsplit(' ').next(), after), (Some("TO"), "USING ((owner = 'to x'));\n"));
        assert!(policy_roles("CREATE POLICY own ON public.secret USING (to_x(a));").0.is_empty());
    }
}

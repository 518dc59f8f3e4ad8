//! What the role that restores may do, looked at before anything is touched.

use std::collections::BTreeSet;

use super::client::Session;
use super::globals::roles::Roles;
use super::only::{is_attached, kind_in};
use super::roles::Known;
use super::sql::{ident, literal};
use super::toc::{Toc, text};
use crate::{Finding, SourceError, Verdict};

/// How many roles a refusal names.
const NAMES_SHOWN: usize = 20;
/// Kinds that have no owner of their own.
const OF_NOBODY: [&str; 3] = ["CAST", "USER MAPPING", "DATABASE"];

/// The rights of the role that is connected.
#[expect(clippy::struct_excessive_bools, reason = "attributes of a role, as the server has them")]
#[derive(Clone, Debug)]
pub(super) struct Rights {
    own: String,
    superuser: bool,
    makes_roles: bool,
    makes_databases: bool,
    /// Whether it may give objects to roles that it makes.
    gives_to_made: bool,
    /// Roles that it may give objects to.
    gives_to: BTreeSet<String>,
    /// Roles that it may alter; a superuser may alter all of them.
    alters: BTreeSet<String>,
}

impl Rights {
    pub(super) async fn of(session: &Session, major: u32) -> Result<Self, SourceError> {
        let what = "looking at the role's rights";
        let query = "SELECT rolname::text, rolsuper, rolcreaterole, rolcreatedb, \
              coalesce(pg_catalog.current_setting('createrole_self_grant', true), '') ~ 'set' \
            FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let rows = session.rows(query, what).await?;
        let flag = |at: usize| rows.first().is_some_and(|row| row.get(at));
        // From 16 on membership alone is not enough, in either direction.
        let (give, alter) = if major >= 16 {
            ("SET", "pg_catalog.pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')")
        } else {
            ("MEMBER", "true")
        };
        let names = async |test: &str| -> Result<BTreeSet<String>, SourceError> {
            let rows =
                session.rows(&format!("SELECT rolname::text FROM pg_catalog.pg_roles WHERE {test}"), what).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        };
        let makes_roles = flag(1) || flag(2);
        Ok(Self {
            own: rows.first().map(|row| row.get(0)).unwrap_or_default(),
            superuser: flag(1),
            makes_roles,
            makes_databases: flag(1) || flag(3),
            gives_to_made: flag(1) || flag(4),
            gives_to: names(&format!("pg_catalog.pg_has_role(oid, '{give}')")).await?,
            alters: if makes_roles { names(&format!("NOT rolsuper AND {alter}")).await? } else { BTreeSet::new() },
        })
    }

    /// Whether it may alter a role that is there.
    pub(super) fn may_alter(&self, role: &str) -> bool {
        self.superuser || self.alters.contains(role)
    }

    /// What it may not make of `toc` in `database`. Roles that are missing are made where `globals` tells of
    /// them; without it what belongs to them goes to the role that restores.
    pub(super) fn lacking(&self, toc: &Toc, database: &str, known: &Known, globals: Option<&Roles>) -> Vec<Finding> {
        let owned = toc.entries.iter().filter(|entry| {
            entry.drop.as_deref().is_some_and(|drop| !drop.is_empty())
                && !is_attached(entry)
                && !kind_in(entry, &OF_NOBODY)
        });
        let owners: BTreeSet<&str> =
            owned.filter_map(|entry| text(&entry.owner).ok()).filter(|o| !o.is_empty()).collect();
        let lacks = |owner: &&&str| {
            if known.lacks(owner) {
                let made = globals.filter(|_| self.makes_roles);
                return made.is_some_and(|globals| !self.gives_to_made && !globals.has_member(owner, &self.own));
            }
            !self.gives_to.contains(**owner)
        };
        let lacking: Vec<&&str> = owners.iter().filter(lacks).collect();
        if self.superuser || lacking.is_empty() {
            return Vec::new();
        }
        let list = |quote: &dyn Fn(&str) -> String| {
            let shown: Vec<String> = lacking.iter().take(NAMES_SHOWN).map(|role| quote(role)).collect();
            format!("{}{}", shown.join(", "), if lacking.len() > NAMES_SHOWN { ", ..." } else { "" })
        };
        let roles = list(&|role| format!("{role:?}"));
        let what = format!(
            "role {:?} may not restore database {database:?}: objects of it belong to {roles}, of which it is no member",
            self.own
        );
        let hint = format!(
            "restore as a superuser; or make those of them that are missing and GRANT {} TO {}",
            list(&ident),
            ident(&self.own)
        );
        vec![Finding { verdict: Verdict::Bad, what, hint: Some(hint) }]
    }

    /// What keeps it from making a database or taking the place of one that is there.
    pub(super) async fn place(&self, admin: &Session, to: &str, there: bool) -> Result<Option<Finding>, SourceError> {
        let refusal = |what: String, hint: String| Some(Finding { verdict: Verdict::Bad, what, hint: Some(hint) });
        if !self.makes_databases {
            let what = format!("role {:?} may not make databases, which a restore does", self.own);
            return Ok(refusal(
                what,
                format!("as superuser: ALTER ROLE {} CREATEDB, or restore as one", ident(&self.own)),
            ));
        }
        if !there || self.superuser {
            return Ok(None);
        }
        let query = format!(
            "SELECT rolname::text FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba \
             WHERE datname = {} AND NOT pg_catalog.pg_has_role(d.datdba, 'USAGE')",
            literal(to)
        );
        let rows = admin.rows(&query, "looking at the owner of a database").await?;
        let owner = rows.first().map(|row| row.get::<_, String>(0));
        Ok(owner.and_then(|owner| {
            let what = format!("role {:?} may not replace database {to:?}, which belongs to {owner:?}", self.own);
            refusal(what, "restore as its owner or a superuser, or beside it by --rename".to_owned())
        }))
    }
}

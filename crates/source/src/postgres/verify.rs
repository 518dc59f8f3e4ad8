//! Compares a server with a snapshot: content, what the databases are made of, roles.

use std::collections::BTreeSet;

use lifeboat_model::flow::{EntryReader, RunContext};
use lifeboat_model::words::counted;

use super::archive::{self, Archive};
use super::backup::Facts;
use super::client::Session;
use super::globals::roles::{self, Roles};
use super::only::{self, name_of};
use super::restore::{Aim, PostgresTarget, is_whole, own_role};
use super::roles::Known;
use super::rows::{compare_large_object, compare_rows, groups};
use super::schema::{self, By};
use super::structure;
use super::toc::Toc;
use super::tool::Tools;
use crate::{RestoreOptions, Scope, SourceError, Verified};

/// How many differences are named.
const DIFFERENCES_MAX: usize = 1000;

/// How many things of each kind were compared.
#[derive(Default)]
struct Counts {
    tables: u64,
    large_objects: u64,
    objects: u64,
    roles: Option<u64>,
}

pub(super) async fn run(
    target: &PostgresTarget,
    data: &dyn EntryReader,
    options: &RestoreOptions,
    scope: Scope,
    ctx: &RunContext,
) -> Result<Verified, SourceError> {
    let mut run = Run { target, data, ctx, counts: Counts::default(), out: Verified::default() };
    let aims = target.aims(data, options).await?;
    for aim in &aims {
        let archive = Archive::open(data, &aim.from).await?;
        let session = match target.server.connect(&aim.to).await {
            Ok(session) => session,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                if cause.contains("3D000") {
                    differ(&mut run.out, format!("database {:?} is not there", aim.to));
                    continue;
                }
                return Err(error);
            }
        };
        session.prepare_reading().await?;
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "starting a transaction").await?;
        ctx.monitor.begin(&format!("database {}", aim.to), None);
        let mut toc = selected(aim, &archive.toc)?;
        if scope == Scope::Whole {
            let now = run.schema(&session, aim, &toc).await?;
            // A table that is not there was told.
            toc.entries.retain(|entry| !entry.is("TABLE DATA") || now.contains(&owned(name_of(entry))));
        }
        for group in groups(&session, &toc).await? {
            if ctx.cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            compare_rows(&archive, &session, &group, &mut run.out).await?;
            run.counts.tables += group.files.len() as u64;
            ctx.monitor.entries(group.files.len() as u64);
        }
        for blobs in toc.entries.iter().filter(|entry| entry.has_data && entry.is("BLOBS")) {
            for (oid, file) in archive.large_objects(blobs).await? {
                compare_large_object(&archive, &session, oid, &file, &mut run.out).await?;
                run.counts.large_objects += 1;
            }
        }
        session.close().await;
    }
    if scope == Scope::Whole {
        if is_whole(options) {
            run.roles(&aims).await?;
        } else {
            run.out.notes.push("roles were not compared: they belong to the whole server".to_owned());
        }
    }
    let Run { counts, mut out, .. } = run;
    out.compared = counts.tables + counts.large_objects + counts.objects + counts.roles.unwrap_or_default();
    out.of =
        vec![format!("rows of {}", counted(counts.tables, "table")), counted(counts.large_objects, "large object")];
    if scope == Scope::Whole {
        out.of.push(format!("{} of the schema", counted(counts.objects, "object")));
        out.of.extend(counts.roles.map(|count| counted(count, "role")));
    }
    Ok(out)
}

fn owned((schema, name): (&str, &str)) -> (String, String) {
    (schema.to_owned(), name.to_owned())
}

fn selected(aim: &Aim, toc: &Toc) -> Result<Toc, SourceError> {
    match &aim.parts {
        Some(selection) => only::select(toc, selection),
        None => Ok(toc.clone()),
    }
}

/// A comparison under way.
struct Run<'a> {
    target: &'a PostgresTarget,
    data: &'a dyn EntryReader,
    ctx: &'a RunContext,
    counts: Counts,
    out: Verified,
}

impl Run<'_> {
    /// Compares what the database is made of, under the snapshot of `session`; answers with its tables.
    async fn schema(
        &mut self,
        session: &Session,
        aim: &Aim,
        wanted: &Toc,
    ) -> Result<BTreeSet<(String, String)>, SourceError> {
        let facts = Facts::of(session).await?;
        let (server, dump) = (wanted.server_major().unwrap_or_default(), wanted.dump_major().unwrap_or_default());
        let tools = Tools::find(facts.major.max(dump), &self.target.config.tool_dirs, &self.ctx.cancel).await?;
        let snapshot = session.text("SELECT pg_catalog.pg_export_snapshot()", "exporting a snapshot").await?;
        let now = structure::read(&self.target.server, &tools, session, &snapshot, self.ctx).await?;
        let tables = now.entries.iter().filter(|entry| entry.is("TABLE")).map(|entry| owned(name_of(entry))).collect();
        let by = if (server, dump) == (facts.major, tools.major) { By::Definition } else { By::Name };
        if by == By::Name {
            self.out.notes.push(format!(
            "the schema of database {:?} was compared by names of objects alone: the snapshot is of PostgreSQL {server}, \
             read by pg_dump {dump}, and the server is {}, read by pg_dump {}",
            aim.to, facts.version, tools.major
        ));
        }
        // What was selected and is not there at all is no selection.
        let none = || Toc { entries: Vec::new(), ..now.clone() };
        let compared = schema::compare(wanted, &selected(aim, &now).unwrap_or_else(|_| none()), by);
        self.counts.objects += compared.count;
        for what in compared.differences {
            differ(&mut self.out, format!("database {:?}: {what}", aim.to));
        }
        Ok(tables)
    }

    async fn roles(&mut self, aims: &[Aim]) -> Result<(), SourceError> {
        let admin = self.target.admin(aims).await?;
        let facts = Facts::of(&admin).await?;
        let tools = Tools::find(facts.major, &self.target.config.tool_dirs, &self.ctx.cancel).await?;
        let now = self.target.roles(&admin, &tools, &self.ctx.cancel).await?;
        let (known, own) = (Known::of(&admin).await?, own_role(&admin).await?);
        admin.close().await;
        let wanted = Roles::parse(&archive::globals(self.data).await?, true);
        let compared = roles::compare(&wanted, &now, &own, |role| !known.lacks(role));
        self.counts.roles = Some(compared.count);
        for what in compared.differences {
            differ(&mut self.out, what);
        }
        self.out.notes.extend(compared.notes);
        Ok(())
    }
}

/// Notes a difference.
pub(super) fn differ(out: &mut Verified, what: String) {
    out.difference_count += 1;
    if out.differences.len() < DIFFERENCES_MAX {
        out.differences.push(what);
    }
}

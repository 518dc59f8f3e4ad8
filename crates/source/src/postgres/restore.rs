//! Brings databases back: beside what is there, then in its place.
//!
//! Each database is restored under a temporary name: `pg_restore` makes the structure from the
//! table of contents alone, our own sessions put the data in straight from the repository, and
//! `pg_restore` builds indexes and constraints. Only when every row is back does the database get
//! its name, in one transaction with the one that it replaces losing it. So a restore that fails
//! leaves what was there as it was, and nothing is written to a disk on the way but the table of
//! contents.

use std::collections::BTreeSet;

use async_trait::async_trait;
use lifeboat_model::flow::{Cancel, EntryReader, RunContext};
use lifeboat_model::words::counted;

use super::archive::{self, Archive};
use super::backup::Facts;
use super::client::{Server, Session};
use super::done::Done;
use super::globals::roles::{self, Leave, Roles, RolesPlan};
use super::only::{self, Selection};
use super::rights::Rights;
use super::roles::Known;
use super::toc::{Toc, text};
use super::tool::Tools;
use super::{PostgresConfig, globals, layout, parts, replace, swap, verify};
use crate::{Finding, RestoreOptions, Restored, Scope, SourceError, Target, TargetInventory, Verdict, Verified};

/// The most that `pg_restore` may print where its output is read.
pub(super) const SCRIPT_BYTES_MAX: usize = 64 << 20;
/// How many things in the way are named.
const EXAMPLES_MAX: usize = 100;
/// How many roles of a kind a plan names.
const ROLES_SHOWN: usize = 20;

/// A server that databases go back to.
#[derive(Debug)]
pub struct PostgresTarget {
    pub(super) config: PostgresConfig,
    pub(super) server: Server,
}

/// One database of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aim {
    /// Its name in the snapshot.
    pub(super) from: String,
    /// Its name on the server.
    pub(super) to: String,
    /// Which parts of it; `None` = all.
    pub(super) parts: Option<Selection>,
}

/// What a restore of one database works with.
pub(super) struct Work<'a> {
    pub(super) server: &'a Server,
    /// A session on a database that is not touched.
    pub(super) admin: &'a Session,
    pub(super) tools: &'a Tools,
    pub(super) major: u32,
    pub(super) jobs: usize,
    pub(super) replace: bool,
    pub(super) no_tablespaces: bool,
    /// What the server has, after the missing roles were made.
    pub(super) known: &'a Known,
    pub(super) ctx: &'a RunContext,
}

impl PostgresTarget {
    /// Reads url, password and certificates; connects to nothing yet.
    ///
    /// # Errors
    /// [`SourceError::Config`] where one of them is no good.
    pub fn new(config: PostgresConfig) -> Result<Self, SourceError> {
        let server = Server::new(&config)?;
        Ok(Self { config, server })
    }

    /// Which databases become which: those that `only` selects; without it those that `rename` names;
    /// without both all of them.
    pub(super) async fn aims(&self, data: &dyn EntryReader, options: &RestoreOptions) -> Result<Vec<Aim>, SourceError> {
        let present = archive::databases(data).await?;
        let config = |what: String| SourceError::Config { what, hint: Some(format!("it has {}", present.join(", "))) };
        if let Some(unknown) = options.rename.keys().find(|name| !present.contains(name)) {
            return Err(config(format!("the snapshot has no database {unknown:?} to rename")));
        }
        let mut chosen = only::choose(&options.only, &present)?;
        if let Some((old, new)) = options.rename.iter().find(|(old, _)| !chosen.contains_key(*old)) {
            let what = format!("--rename {old}={new} has nothing to rename: --only does not select database {old:?}");
            return Err(SourceError::Config { what, hint: Some(format!("add --only {old:?}, or leave --only out")) });
        }
        if renames_only(options) {
            chosen.retain(|name, _| options.rename.contains_key(name));
        }
        let aims: Vec<Aim> = present
            .iter()
            .filter_map(|name| {
                let parts = chosen.remove(name)?;
                let to = options.rename.get(name).unwrap_or(name).clone();
                Some(Aim { from: name.clone(), to, parts })
            })
            .collect();
        let mut names: Vec<&str> = aims.iter().map(|aim| aim.to.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.iter().zip(names.iter().skip(1)).find(|(name, next)| name == next) {
            return Err(config(format!("two databases would become {:?}", twice.0)));
        }
        Ok(aims)
    }

    /// A session on a database that the restore does not touch.
    pub(super) async fn admin(&self, aims: &[Aim]) -> Result<Session, SourceError> {
        let own = &self.server.url.database;
        let touched = |name: &str| aims.iter().any(|aim| aim.to == name);
        let candidates = [own.as_str(), "postgres", "template1"];
        let database = candidates.into_iter().find(|name| !touched(name)).unwrap_or("template1");
        let session = self.server.connect(database).await?;
        session.prepare_exact_values().await?;
        Ok(session)
    }

    fn jobs(&self, options: &RestoreOptions) -> usize {
        match options.jobs {
            0 => self.config.jobs.max(std::thread::available_parallelism().map_or(1, usize::from)),
            jobs => jobs,
        }
    }

    /// The tools that bring back what `pg_dump` of one version wrote of a server of another. A dump goes
    /// into servers of its own version and newer ones.
    async fn tools(&self, (server, dump): (u32, u32), facts: &Facts, cancel: &Cancel) -> Result<Tools, SourceError> {
        if facts.major < server {
            let what = format!("the backup is of PostgreSQL {server}, the server is {}, which is older", facts.version);
            return Err(SourceError::Config { what, hint: Some(format!("restore into PostgreSQL {server} or newer")) });
        }
        Tools::find(facts.major.max(dump), &self.config.tool_dirs, cancel).await
    }

    /// The roles of the server as they are now.
    pub(super) async fn roles(&self, admin: &Session, tools: &Tools, cancel: &Cancel) -> Result<Roles, SourceError> {
        let passwords = globals::passwords_readable(admin).await?;
        let script = globals::read(&self.server, admin, tools, passwords, cancel).await?;
        Ok(Roles::parse(&String::from_utf8_lossy(&script), passwords))
    }

    /// A session on the database that is aimed at, where it is there.
    async fn session(&self, aim: &Aim, there: bool) -> Result<Option<Session>, SourceError> {
        if !there {
            return Ok(None);
        }
        let session = self.server.connect(&aim.to).await?;
        session.prepare_exact_values().await?;
        Ok(Some(session))
    }
}

/// Whether `rename` alone says which databases are meant.
fn renames_only(options: &RestoreOptions) -> bool {
    options.only.is_empty() && !options.rename.is_empty()
}

fn occupied(out: &mut TargetInventory, database: &str, found: Vec<String>) {
    out.occupied_count += found.len() as u64;
    let room = EXAMPLES_MAX.saturating_sub(out.occupied.len());
    out.occupied.extend(found.into_iter().take(room).map(|name| format!("{database}: {name}")));
}

/// What of a database is on the server already, and what keeps it from being restored.
#[expect(clippy::too_many_arguments, reason = "called twice; a struct of these would have no other use")]
async fn look(
    server: &Server,
    aim: &Aim,
    archive: &Archive<'_>,
    session: Option<&Session>,
    known: &Known,
    options: &RestoreOptions,
    out: &mut TargetInventory,
) -> Result<(), SourceError> {
    let Some(selection) = &aim.parts else {
        out.needed_bytes += archive.counts.database_bytes;
        if let Some(session) = session {
            occupied(out, &aim.to, swap::tables(session).await?);
            occupied(out, &aim.to, swap::others(server, session).await?);
        }
        let beside = format!(
            "restore database {:?} beside {:?}, end all connections to the old one, then replace and drop it",
            aim.from, aim.to
        );
        let new = format!("restore database {:?} as {:?}", aim.from, aim.to);
        out.steps.push(if session.is_some() { beside } else { new });
        return Ok(());
    };
    let parts = parts::complete(session, &archive.toc, selection, known, options.replace).await?;
    out.steps.push(format!("restore {selection} of {:?} into {:?} in one transaction", aim.from, aim.to));
    out.steps.extend(parts.taken_along.iter().map(|what| format!("take along {what}, which is needed")));
    out.steps.extend(parts.stays.iter().map(|what| format!("leave {what} as it is there")));
    out.steps.extend(parts.left_out.iter().cloned());
    out.refusals.extend(parts.refusals);
    if let Some(session) = session {
        occupied(out, &aim.to, replace::existing(session, &parts.toc).await?);
        if options.replace {
            out.refusals.extend(replace::in_use(session, &parts.toc).await?);
        }
    }
    Ok(())
}

#[async_trait]
impl Target for PostgresTarget {
    async fn inventory(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
    ) -> Result<TargetInventory, SourceError> {
        let aims = self.aims(data, options).await?;
        let admin = self.admin(&aims).await?;
        let facts = Facts::of(&admin).await?;
        let mut out = TargetInventory { version: Some(facts.version.clone()), ..TargetInventory::default() };
        out.identity = facts.identity();
        out.free_bytes = swap::free_bytes(&admin, &self.server).await;
        let known = Known::of(&admin).await?;
        let leave = leave(&admin, facts.major, options).await?;
        let whole = aims.iter().any(|aim| aim.parts.is_none());
        let globals = if whole { Some(Roles::parse(&archive::globals(data).await?, true)) } else { None };
        match (self.tools(newest(data, &aims).await?, &facts, &Cancel::default()).await, &globals) {
            (Ok(tools), Some(globals)) => {
                let now = self.roles(&admin, &tools, &Cancel::default()).await?;
                tell_roles(roles::plan(globals, &now, &leave, |role| !known.lacks(role)), &mut out);
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                let hint = error.hint().map(str::to_owned);
                out.refusals.push(Finding { verdict: Verdict::Bad, what: error.to_string(), hint });
            }
        }
        if !options.only.is_empty() || renames_only(options) {
            let globals = std::iter::once(super::GLOBALS).map(lifeboat_model::EntryPath::new);
            out.reads =
                globals.chain(aims.iter().map(|aim| layout::directory(&aim.from))).filter_map(Result::ok).collect();
        }
        if renames_only(options) {
            let others = archive::databases(data).await?;
            let others: Vec<String> = others.into_iter().filter(|name| !options.rename.contains_key(name)).collect();
            if !others.is_empty() {
                let what = "--rename without --only restores just what it renames";
                out.steps.push(format!("leave out {}: {what}", others.join(", ")));
            }
        }
        for swap::Leftover { name, marked } in swap::leftovers(&admin).await? {
            out.steps.push(if marked {
                format!("remove database {name:?}, which a restore that was ended in the middle left")
            } else {
                format!("leave database {name:?}: named like one that a restore makes, it bears no mark of it")
            });
        }
        let extensions = swap::extensions(&admin).await?;
        let present = swap::databases(&admin).await?;
        for aim in &aims {
            let archive = Archive::open(data, &aim.from).await?;
            let session = self.session(aim, present.contains(&aim.to)).await?;
            look(&self.server, aim, &archive, session.as_ref(), &known, options, &mut out).await?;
            if let Some(session) = session {
                session.close().await;
            }
            let there = present.contains(&aim.to);
            if aim.parts.is_none() || !there {
                out.refusals.extend(leave.rights.place(&admin, &aim.to, there).await?);
            }
            if aim.parts.is_none() {
                out.refusals.extend(missing_extensions(&archive.toc, &extensions));
            }
            let (made, globals) = match &aim.parts {
                None => (archive.toc, globals.as_ref()),
                // Of what is no relation much stays as it is there.
                Some(selection) => (only::relations(&archive.toc, selection)?, None),
            };
            out.refusals.extend(leave.rights.lacking(&made, &aim.to, &known, globals));
        }
        admin.close().await;
        Ok(out)
    }

    async fn apply(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        ctx: &RunContext,
    ) -> Result<Restored, SourceError> {
        let aims = self.aims(data, options).await?;
        let admin = self.admin(&aims).await?;
        let facts = Facts::of(&admin).await?;
        let tools = self.tools(newest(data, &aims).await?, &facts, &ctx.cancel).await?;
        swap::begin(&admin).await?;
        let leave = leave(&admin, facts.major, options).await?;
        let mut out = Done::default();
        let mut missing_tablespaces = false;
        if aims.iter().any(|aim| aim.parts.is_none()) {
            let script = archive::globals(data).await?;
            let now = self.roles(&admin, &tools, &ctx.cancel).await?;
            if is_whole(options) {
                let known = Known::of(&admin).await?;
                let plan = roles::plan(&Roles::parse(&script, true), &now, &leave, |role| !known.lacks(role));
                out.problems.extend(plan.keep);
            }
            let missing = globals::restore::restore(&admin, &script, now, &leave, &mut out).await?;
            missing_tablespaces = !missing.is_empty();
            out.entries += 1;
            out.bytes += script.len() as u64;
        }
        let known = Known::of(&admin).await?;
        for aim in &aims {
            if ctx.cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            let archive = Archive::open(data, &aim.from).await?;
            let work = Work {
                server: &self.server,
                admin: &admin,
                tools: &tools,
                major: facts.major,
                jobs: self.jobs(options),
                replace: options.replace,
                no_tablespaces: missing_tablespaces,
                known: &known,
                ctx,
            };
            let there = swap::databases(&admin).await?.contains(&aim.to);
            if there && !options.replace {
                let mut found = TargetInventory::default();
                let session = self.session(aim, there).await?;
                look(&self.server, aim, &archive, session.as_ref(), &known, options, &mut found).await?;
                if let Some(session) = session {
                    session.close().await;
                }
                if let Some(example) = found.occupied.first() {
                    let what = format!("{} in the way, such as {example}", counted(found.occupied_count, "thing"));
                    let hint =
                        Some("--replace restores beside and then replaces; --rename gives another name".to_owned());
                    return Err(SourceError::Config { what, hint });
                }
            }
            ctx.monitor.begin(&format!("database {}", aim.to), None);
            let done = match &aim.parts {
                None => work.whole(&archive, &aim.to, there, &mut out).await,
                Some(selection) => parts::restore(&work, &archive, &aim.to, there, selection, &mut out).await,
            };
            done.map_err(|error| if ctx.cancel.is_cancelled() { SourceError::Cancelled } else { error })?;
        }
        admin.close().await;
        Ok(out.restored(&leave.own))
    }

    async fn verify(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        scope: Scope,
        ctx: &RunContext,
    ) -> Result<Verified, SourceError> {
        verify::run(self, data, options, scope, ctx).await
    }
}

/// The extensions of a database that the server does not have.
fn missing_extensions<'a>(toc: &'a Toc, available: &'a BTreeSet<String>) -> impl Iterator<Item = Finding> + 'a {
    let extensions = toc.entries.iter().filter(|entry| entry.is("EXTENSION"));
    let missing = extensions.filter_map(|entry| text(&entry.tag).ok()).filter(|name| !available.contains(*name));
    missing.map(|name| Finding {
        verdict: Verdict::Bad,
        what: format!("extension {name:?} is not installed on the server"),
        hint: Some("install its package on the server's machine, or restore tables without it by --only".to_owned()),
    })
}

/// Whether everything of the snapshot is meant.
pub(super) fn is_whole(options: &RestoreOptions) -> bool {
    options.only.is_empty() && options.rename.is_empty()
}

pub(super) async fn own_role(session: &Session) -> Result<String, SourceError> {
    session.text("SELECT current_user::text", "asking who I am").await
}

/// Who asked for one database does not mean to change the roles of the others.
async fn leave(admin: &Session, major: u32, options: &RestoreOptions) -> Result<Leave, SourceError> {
    let (own, rights) = (own_role(admin).await?, Rights::of(admin, major).await?);
    Ok(Leave { own, rights, alter: options.replace && options.only.is_empty() && !renames_only(options) })
}

/// The newest versions of the server and of `pg_dump` among the databases of a snapshot.
async fn newest(data: &dyn EntryReader, aims: &[Aim]) -> Result<(u32, u32), SourceError> {
    let mut newest = (0, 0);
    for aim in aims {
        let toc = Archive::open(data, &aim.from).await?.toc;
        newest.0 = newest.0.max(toc.server_major().unwrap_or_default());
        newest.1 = newest.1.max(toc.dump_major().unwrap_or_default());
    }
    Ok(newest)
}

/// Says in the plan what happens to which role.
fn tell_roles(plan: RolesPlan, out: &mut TargetInventory) {
    let mut step = |lines: Vec<String>| {
        let more = lines.len().saturating_sub(ROLES_SHOWN);
        out.steps.extend(lines.into_iter().take(ROLES_SHOWN));
        if more > 0 {
            out.steps.push(format!("... and {more} more roles like these"));
        }
    };
    if plan.make.is_empty() {
        step(vec!["make the tablespaces that are missing; every role is there".to_owned()]);
    } else {
        let names: Vec<String> = plan.make.iter().take(ROLES_SHOWN).map(|role| format!("{role:?}")).collect();
        let more = if plan.make.len() > ROLES_SHOWN { ", ..." } else { "" };
        let roles = format!("make {} ({}{more})", counted(plan.make.len() as u64, "missing role"), names.join(", "));
        step(vec![format!("{roles} and the tablespaces that are missing")]);
    }
    step(plan.join);
    step(plan.keep);
    step(plan.own.into_iter().collect());
    out.alters_count = plan.alter.len() as u64;
    out.alters = plan.alter.into_iter().take(EXAMPLES_MAX).collect();
}

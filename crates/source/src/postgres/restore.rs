//! Brings databases back: beside what is there, then in its place.
//!
//! Each database is restored under a temporary name: `pg_restore` makes the structure from the
//! table of contents alone, our own sessions put the data in straight from the repository, and
//! `pg_restore` builds indexes and constraints. Only when every row is back does the database get
//! its name, in one transaction with the one that it replaces losing it. So a restore that fails
//! leaves what was there as it was, and nothing is written to a disk on the way but the table of
//! contents.

use std::path::Path;

use async_trait::async_trait;
use lifeboat_model::flow::{EntryReader, RunContext};

use super::archive::{self, Archive};
use super::backup::Facts;
use super::client::{Server, ServerError, Session, database_argument};
use super::only::{self, Selection};
use super::toc::Toc;
use super::tool::Tools;
use super::{PostgresConfig, globals, layout, load, sql, swap, verify};
use crate::{Finding, RestoreOptions, Restored, SourceError, Target, TargetInventory, Verdict, Verified};

/// The most that `pg_restore` may print where its output is read.
pub(super) const SCRIPT_BYTES_MAX: usize = 64 << 20;
/// How many things in the way are named.
const EXAMPLES_MAX: usize = 100;

/// A server that databases go back to.
#[derive(Debug)]
pub struct PostgresTarget {
    config: PostgresConfig,
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
    pub(super) tools: Tools,
    pub(super) major: u32,
    pub(super) jobs: usize,
    pub(super) replace: bool,
    pub(super) no_tablespaces: bool,
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

    /// Which databases become which.
    pub(super) async fn aims(&self, data: &dyn EntryReader, options: &RestoreOptions) -> Result<Vec<Aim>, SourceError> {
        let present = archive::databases(data).await?;
        let config = |what: String| SourceError::Config { what, hint: Some(format!("it has {}", present.join(", "))) };
        if let Some(unknown) = options.rename.keys().find(|name| !present.contains(name)) {
            return Err(config(format!("the snapshot has no database {unknown:?} to rename")));
        }
        let mut chosen = only::choose(&options.only, &present).map_err(config)?;
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
    async fn admin(&self, aims: &[Aim]) -> Result<Session, SourceError> {
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

    /// What of `aim` is on the server already, empty databases left out.
    async fn in_the_way(&self, aim: &Aim, archive: &Archive<'_>) -> Result<Vec<String>, SourceError> {
        let session = self.server.connect(&aim.to).await?;
        session.prepare_exact_values().await?;
        let found = match &aim.parts {
            Some(selection) => only::existing(&session, &only::select(&archive.toc, selection)?).await?,
            None => swap::tables(&session).await?,
        };
        session.close().await;
        Ok(found.into_iter().map(|name| format!("{}: {name}", aim.to)).collect())
    }
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
        if options.only.is_empty() {
            out.steps.push("make the roles and tablespaces that are missing".to_owned());
        } else {
            out.reads = aims.iter().filter_map(|aim| layout::directory(&aim.from).ok()).collect();
        }
        let present = swap::databases(&admin).await?;
        for aim in &aims {
            let archive = Archive::open(data, &aim.from).await?;
            if aim.parts.is_none() {
                out.needed_bytes += archive.counts.database_bytes;
            }
            if let Err(finding) = version_fits(&archive.toc, &facts) {
                out.refusals.push(finding);
            }
            let there = present.contains(&aim.to);
            if there {
                let found = self.in_the_way(aim, &archive).await?;
                out.occupied_count += found.len() as u64;
                let room = EXAMPLES_MAX.saturating_sub(out.occupied.len());
                out.occupied.extend(found.into_iter().take(room));
            }
            out.steps.push(match (&aim.parts, there) {
                (None, false) => format!("restore database {:?} as {:?}", aim.from, aim.to),
                (None, true) => {
                    format!("restore database {:?} beside {:?}, then replace and drop the old one", aim.from, aim.to)
                }
                (Some(selection), _) => {
                    format!("restore {selection} of {:?} into {:?} in one transaction", aim.from, aim.to)
                }
            });
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
        swap::begin(&admin).await?;
        let mut out = Restored::default();
        let mut missing_tablespaces = false;
        if options.only.is_empty() {
            let script = archive::globals(data).await?;
            let applied = globals::restore(&admin, &script, options.replace).await?;
            missing_tablespaces = !applied.missing_tablespaces.is_empty();
            out.problems.extend(applied.problems);
            out.entries += 1;
            out.bytes += script.len() as u64;
        }
        for aim in &aims {
            if ctx.cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            let archive = Archive::open(data, &aim.from).await?;
            if let Err(finding) = version_fits(&archive.toc, &facts) {
                return Err(SourceError::Config { what: finding.what, hint: finding.hint });
            }
            let major = facts.major.max(archive.toc.dump_major().unwrap_or_default());
            let work = Work {
                server: &self.server,
                admin: &admin,
                tools: Tools::find(major, &self.config.tool_dirs, &ctx.cancel).await?,
                major: facts.major,
                jobs: self.jobs(options),
                replace: options.replace,
                no_tablespaces: missing_tablespaces,
                ctx,
            };
            let there = swap::databases(&admin).await?.contains(&aim.to);
            if there && !options.replace {
                let found = self.in_the_way(aim, &archive).await?;
                if let Some(example) = found.first() {
                    let what = format!("{} tables are in the way, such as {example}", found.len());
                    let hint =
                        Some("--replace restores beside and then replaces; --rename gives another name".to_owned());
                    return Err(SourceError::Config { what, hint });
                }
            }
            ctx.monitor.begin(&format!("database {}", aim.to), None);
            let done = match &aim.parts {
                None => work.whole(&archive, &aim.to, there, &mut out).await,
                Some(selection) => only::restore(&work, &archive, &aim.to, there, selection, &mut out).await,
            };
            done.map_err(|error| if ctx.cancel.is_cancelled() { SourceError::Cancelled } else { error })?;
        }
        admin.close().await;
        Ok(out)
    }

    async fn verify(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        ctx: &RunContext,
    ) -> Result<Verified, SourceError> {
        verify::run(self, data, options, ctx).await
    }
}

/// A dump goes into servers of its own version and newer ones.
fn version_fits(toc: &Toc, facts: &Facts) -> Result<(), Finding> {
    let from = toc.server_major().unwrap_or_default();
    if facts.major >= from {
        return Ok(());
    }
    let what = format!("the backup is of PostgreSQL {from}, the server is {}, which is older", facts.version);
    let hint = Some(format!("restore into PostgreSQL {from} or newer"));
    Err(Finding { verdict: Verdict::Bad, what, hint })
}

impl Work<'_> {
    /// Restores a whole database under a temporary name and then gives it its place.
    async fn whole(&self, archive: &Archive<'_>, to: &str, there: bool, out: &mut Restored) -> Result<(), SourceError> {
        let temporary = swap::temporary_name(to)?;
        self.create(archive, &temporary, out).await?;
        let filled = self.fill(archive, &temporary, out).await;
        let placed = match filled {
            Ok(()) => {
                let comment = comment(&archive.toc, &archive.database, to);
                swap::place(self, &temporary, there.then_some(to), to, comment.as_deref(), out).await
            }
            Err(error) => Err(error),
        };
        if placed.is_err() {
            // What was there is untouched; what cannot be removed now the next restore removes.
            swap::drop_database(self.admin, &temporary).await.ok();
        }
        placed
    }

    /// Makes an empty database of this name with the encoding, locale and owner of the archive's.
    pub(super) async fn create(
        &self,
        archive: &Archive<'_>,
        name: &str,
        out: &mut Restored,
    ) -> Result<(), SourceError> {
        let entry = archive.toc.entries.iter().find(|entry| entry.is("DATABASE"));
        let definition = entry.map(|entry| entry.definition_text()).transpose();
        let definition = definition.map_err(|error| SourceError::at(&archive.root, error))?.unwrap_or_default();
        let definition = sql::rename_database(definition, &archive.database, name);
        let mut create = sql::statements(&definition).into_iter().find(|statement| statement.starts_with("CREATE"));
        let create = create.get_or_insert_with(|| format!("CREATE DATABASE {} TEMPLATE template0", sql::ident(name)));
        if self.major < 15 {
            // Tools of 15 and newer write what older servers mean anyway.
            *create = create.replace(" LOCALE_PROVIDER = libc", "");
        }
        if self.no_tablespaces
            && let Some(at) = create.find(" TABLESPACE = ")
        {
            create.truncate(at);
        }
        self.admin.run(create, &format!("making database {name:?}")).await?;
        swap::mark(self.admin, name, &format!("restore of {} under way", archive.database)).await?;
        let owner = entry.and_then(|entry| entry.owner.as_deref()).and_then(|owner| std::str::from_utf8(owner).ok());
        if let Some(owner) = owner.filter(|owner| !owner.is_empty()) {
            let statement = format!("ALTER DATABASE {} OWNER TO {}", sql::ident(name), sql::ident(owner));
            if let Err(error) = self.admin.client().batch_execute(&statement).await {
                let why = ServerError::from(error);
                out.problems.push(format!("database {:?} does not belong to {owner:?}: {why}", archive.database));
            }
        }
        Ok(())
    }

    async fn fill(&self, archive: &Archive<'_>, database: &str, out: &mut Restored) -> Result<(), SourceError> {
        let scratch = self.write_toc(&archive.toc)?;
        let what = format!("restoring the structure of database {:?} failed", archive.database);
        self.pg_restore(scratch.path(), database, &["--section=pre-data", "--section=data"], &what).await?;
        let loaded = load::all(self.server, archive, database, self.jobs, self.ctx).await?;
        out.entries += loaded.entries.into_inner() + 1;
        out.bytes += loaded.bytes.into_inner();
        let what = format!("restoring indexes and constraints of database {:?} failed", archive.database);
        // One job: the parallel one orders locks by the data section, which it does not see here, and
        // then deadlocks on indexes of partitions.
        self.pg_restore(scratch.path(), database, &["--section=post-data"], &what).await?;
        self.properties(archive, database, out).await
    }

    /// Writes the table of contents into a directory of its own, without the entries whose data
    /// does not go through `pg_restore`.
    pub(super) fn write_toc(&self, toc: &Toc) -> Result<tempfile::TempDir, SourceError> {
        let failed = |error: std::io::Error| SourceError::Failed {
            what: format!("writing a table of contents to {} failed", self.ctx.scratch.display()),
            hint: Some("the scratch directory needs room for it".to_owned()),
            source: Some(Box::new(error)),
        };
        let dir = tempfile::Builder::new().prefix("pg-").tempdir_in(&self.ctx.scratch).map_err(failed)?;
        let mut structure = toc.clone();
        structure.entries.retain(|entry| !entry.has_data);
        let mut file = std::fs::File::create(dir.path().join(layout::TOC)).map_err(failed)?;
        std::io::Write::write_all(&mut file, &structure.to_directory()).map_err(failed)?;
        Ok(dir)
    }

    async fn pg_restore(&self, dir: &Path, database: &str, args: &[&str], what: &str) -> Result<(), SourceError> {
        let mut command = self.server.tool(&self.tools.path("pg_restore"), database);
        command = command.args(["--format=directory", "--exit-on-error", "--no-password"]).args(args);
        if self.no_tablespaces {
            command = command.arg("--no-tablespaces");
        }
        command = command.arg("-d").arg(database_argument(database)).arg(dir);
        let ran = command.run(SCRIPT_BYTES_MAX, &self.ctx.cancel).await;
        ran.map(drop).map_err(|error| SourceError::Failed {
            what: what.to_owned(),
            hint: None,
            source: Some(Box::new(error)),
        })
    }

    /// Settings, rights and comment of the database itself, which `pg_restore` leaves out where it
    /// does not make the database.
    async fn properties(&self, archive: &Archive<'_>, name: &str, out: &mut Restored) -> Result<(), SourceError> {
        let of_database = |tag: &str| tag.starts_with("DATABASE ");
        for entry in &archive.toc.entries {
            let tag = super::toc::text(&entry.tag).unwrap_or_default();
            let attached = (entry.is("ACL") || entry.is("SECURITY LABEL")) && of_database(tag);
            if !(entry.is("DATABASE PROPERTIES") || attached) {
                continue;
            }
            let definition = entry.definition_text().map_err(|error| SourceError::at(&archive.root, error))?;
            for statement in sql::statements(&sql::rename_database(definition, &archive.database, name)) {
                if let Err(error) = self.admin.client().batch_execute(&statement).await {
                    let why = ServerError::from(error);
                    out.problems.push(format!("a setting or right of database {:?}: {why}", archive.database));
                }
            }
        }
        Ok(())
    }
}

/// The comment of the database, as a statement for the name that it has in the end.
pub(super) fn comment(archive_toc: &Toc, from: &str, to: &str) -> Option<String> {
    let entry = archive_toc.entries.iter().find(|entry| {
        entry.is("COMMENT") && super::toc::text(&entry.tag).is_ok_and(|tag| tag.starts_with("DATABASE "))
    })?;
    Some(sql::rename_database(entry.definition_text().ok()?, from, to))
}

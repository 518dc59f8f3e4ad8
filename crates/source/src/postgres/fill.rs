//! Fills a database that is made for it: structure, data, indexes and constraints.

use std::collections::HashSet;
use std::path::Path;

use super::archive::Archive;
use super::client::database_argument;
use super::done::Done;
use super::restore::{SCRIPT_BYTES_MAX, Work};
use super::toc::{Section, Toc, TocEntry, text};
use super::{layout, load, sql, swap};
use crate::SourceError;

impl Work<'_> {
    /// Restores a whole database under a temporary name and then gives it its place.
    pub(super) async fn whole(
        &self,
        archive: &Archive<'_>,
        to: &str,
        there: bool,
        out: &mut Done,
    ) -> Result<(), SourceError> {
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
    pub(super) async fn create(&self, archive: &Archive<'_>, name: &str, out: &mut Done) -> Result<(), SourceError> {
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
                out.failed(&format!("owner {owner:?} of database {:?}", archive.database), error);
            }
        }
        Ok(())
    }

    async fn fill(&self, archive: &Archive<'_>, database: &str, out: &mut Done) -> Result<(), SourceError> {
        let mut toc = archive.toc.clone();
        self.known.fit(&mut toc, &mut out.problems);
        let scratch = self.write_toc(&toc)?;
        let what = format!("restoring the structure of database {:?} failed", archive.database);
        self.pg_restore(scratch.path(), database, &["--section=pre-data", "--section=data"], &what).await?;
        let loaded = load::all(self.server, archive, database, self.jobs, self.ctx).await?;
        out.entries += loaded.entries.into_inner() + 1;
        out.bytes += loaded.bytes.into_inner();
        let what = format!("restoring indexes and constraints of database {:?} failed", archive.database);
        let jobs = format!("--jobs={}", self.jobs);
        for (phase, jobs) in phases(&toc).into_iter().zip([jobs.as_str(), jobs.as_str(), "--jobs=1"]) {
            let scratch = self.write_toc(&phase)?;
            self.pg_restore(scratch.path(), database, &["--section=post-data", jobs], &what).await?;
        }
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
    async fn properties(&self, archive: &Archive<'_>, name: &str, out: &mut Done) -> Result<(), SourceError> {
        let of_database = |tag: &str| tag.starts_with("DATABASE ");
        for entry in &archive.toc.entries {
            let tag = text(&entry.tag).unwrap_or_default();
            let attached = (entry.is("ACL") || entry.is("SECURITY LABEL")) && of_database(tag);
            if !(entry.is("DATABASE PROPERTIES") || attached) {
                continue;
            }
            let definition = entry.definition_text().map_err(|error| SourceError::at(&archive.root, error))?;
            for statement in sql::statements(&sql::rename_database(definition, &archive.database, name)) {
                if let Err(error) = self.admin.client().batch_execute(&statement).await {
                    out.failed(&format!("a setting or right of database {:?}", archive.database), error);
                }
            }
        }
        Ok(())
    }
}

/// The comment of the database, as a statement for the name that it has in the end.
pub(super) fn comment(archive_toc: &Toc, from: &str, to: &str) -> Option<String> {
    let entry = archive_toc
        .entries
        .iter()
        .find(|entry| entry.is("COMMENT") && text(&entry.tag).is_ok_and(|tag| tag.starts_with("DATABASE ")))?;
    Some(sql::rename_database(entry.definition_text().ok()?, from, to))
}

/// Divides what comes after the data so that nothing that runs at the same time can wait for each other
/// in a circle. First indexes, keys and uniqueness of tables that have no partitions: each locks its
/// own table alone. Then foreign keys of tables that are in no tree of partitions; `pg_restore` runs
/// none of them beside another on the same table. Last, one after the other, what locks whole trees:
/// indexes of their roots, attaching, their foreign keys; and everything else, quick as it is.
fn phases(toc: &Toc) -> [Toc; 3] {
    let (mut roots, mut members) = (HashSet::new(), HashSet::new());
    for entry in toc.entries.iter().filter(|entry| entry.is("TABLE ATTACH")) {
        // The partition, then what it is part of.
        roots.extend(entry.dependencies.get(1));
        members.extend(&entry.dependencies);
    }
    let alters = |entry: &TocEntry| sql::statements(entry.definition_text().unwrap_or_default()).len() > 1;
    let of = |entry: &TocEntry, trees: &HashSet<i32>| entry.dependencies.iter().any(|number| trees.contains(number));
    let mut out = [0, 1, 2].map(|_| Toc { entries: Vec::new(), ..toc.clone() });
    let (mut section, mut phase) = (Section::NONE, 0);
    for entry in &toc.entries {
        if entry.section != Section::NONE {
            section = entry.section;
            phase = match () {
                () if entry.is("CONSTRAINT") && !of(entry, &roots) => 0,
                // One that goes on to alter its table takes a second, stronger lock.
                () if entry.is("INDEX") && !of(entry, &roots) && !alters(entry) => 0,
                () if entry.is("FK CONSTRAINT") && !of(entry, &members) => 1,
                () => 2,
            };
        }
        if section == Section::POST_DATA {
            // What has no section of its own goes with the entry before it.
            out[phase].entries.push(TocEntry { section, ..entry.clone() });
        } else {
            // Tables are there to be known as what is locked.
            for toc in &mut out {
                toc.entries.push(entry.clone());
            }
        }
    }
    out
}

//! The restore of parts of a database.
//!
//! Parts go back into the database itself, in one transaction on one session: either all of them
//! are back with every row, or nothing has changed. What they need and the database lacks is taken
//! along where that adds something and changes nothing; what would need another table is found
//! before anything is touched. With `replace` the relations that are in the way are dropped first in
//! the same transaction; one that others depend on is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::archive::Archive;
use super::client::{Session, failure};
use super::done::Done;
use super::load::{self, Loaded};
use super::only::{self, RELATIONS, Selection, kind_in, name_of};
use super::replace::{drop_existing, in_use, quoted};
use super::restore::{SCRIPT_BYTES_MAX, Work};
use super::roles::Known;
use super::sql::{self, ident, literal};
use super::swap;
use super::toc::{Section, Toc, TocEntry, text};
use crate::{Finding, SourceError, Verdict};

/// Needed first; taken along where they are missing.
const NEEDED: [&str; 18] = [
    "SCHEMA",
    "EXTENSION",
    "TYPE",
    "SHELL TYPE",
    "DOMAIN",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "COLLATION",
    "SEQUENCE",
    "PROCEDURAL LANGUAGE",
    "OPERATOR",
    "OPERATOR FAMILY",
    "OPERATOR CLASS",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH CONFIGURATION",
    "FOREIGN DATA WRAPPER",
    "SERVER",
];
/// Left out where the other side that they tie a table to is missing.
const TIES: [&str; 4] = ["FK CONSTRAINT", "TABLE ATTACH", "SEQUENCE OWNED BY", "PUBLICATION TABLE"];

/// Parts with what they need.
#[derive(Debug)]
pub(super) struct Parts {
    /// What is restored.
    pub(super) toc: Toc,
    /// What was not asked for, and is needed and missing.
    pub(super) taken_along: Vec<String>,
    /// What was asked for, is there and stays, since it cannot be replaced beside its users.
    pub(super) stays: Vec<String>,
    /// What is left out and why.
    pub(super) left_out: Vec<String>,
    /// What makes the restore impossible.
    pub(super) refusals: Vec<Finding>,
}

/// Looks for what a selection needs in the database, or nowhere where there is none yet.
///
/// # Errors
/// [`SourceError::Config`] names a part that is not in the snapshot.
pub(super) async fn complete(
    session: Option<&Session>,
    toc: &Toc,
    selection: &Selection,
    known: &Known,
    replace: bool,
) -> Result<Parts, SourceError> {
    let by_number: HashMap<i32, &TocEntry> = toc.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    let asked: BTreeSet<i32> = only::select(toc, selection)?.entries.iter().map(|entry| entry.dump_id).collect();
    let mut there = There { session, known: BTreeMap::new() };
    let mut chosen = asked.clone();
    let mut open: Vec<i32> = chosen.iter().copied().collect();
    while let Some(number) = open.pop() {
        let Some(entry) = by_number.get(&number) else { continue };
        for needed in entry.dependencies.iter().filter_map(|number| by_number.get(number)) {
            let tie = kind_in(entry, &TIES);
            if !tie && kind_in(needed, &NEEDED) && !chosen.contains(&needed.dump_id) && !there.has(needed).await? {
                let mut along = BTreeSet::from([needed.dump_id]);
                only::grow(toc, &mut along);
                open.extend(along.difference(&chosen));
                chosen.extend(along);
            }
        }
    }
    let mut parts = Parts {
        toc: toc.clone(),
        taken_along: Vec::new(),
        stays: Vec::new(),
        left_out: Vec::new(),
        refusals: Vec::new(),
    };
    let attached: BTreeSet<(i32, i32)> =
        toc.entries.iter().filter(|entry| entry.is("TABLE ATTACH")).filter_map(pair_of).collect();
    let mut missing: BTreeMap<i32, &TocEntry> = BTreeMap::new();
    for entry in toc.entries.iter().filter(|entry| chosen.contains(&entry.dump_id)) {
        let needs = entry.dependencies.iter().filter_map(|number| by_number.get(number));
        for needed in needs.filter(|needed| kind_in(needed, &RELATIONS) || needed.is("PUBLICATION")) {
            let partition = attached.contains(&(entry.dump_id, needed.dump_id));
            if partition || chosen.contains(&needed.dump_id) || there.has(needed).await? {
                continue;
            }
            if kind_in(entry, &TIES) {
                parts.left_out.push(format!("{} is left out: {} is not there", shown(entry), shown(needed)));
                missing.insert(entry.dump_id, entry);
            } else if missing.insert(needed.dump_id, needed).is_none() {
                parts.refusals.push(lacking(toc, entry, needed));
            }
        }
    }
    chosen.retain(|number| !missing.contains_key(number));
    let along = toc.entries.iter().filter(|entry| chosen.contains(&entry.dump_id) && !asked.contains(&entry.dump_id));
    parts.taken_along = along.filter(|entry| kind_in(entry, &NEEDED)).map(shown).collect();
    let replaceable = stay(&mut there, toc, &asked, replace, &mut chosen, &mut parts.stays).await?;
    parts.toc = only::of(toc, &chosen);
    for entry in parts.toc.entries.iter_mut().filter(|entry| replaceable.contains(&entry.dump_id)) {
        let definition = entry.definition_text().unwrap_or_default().replacen("CREATE ", "CREATE OR REPLACE ", 1);
        entry.definition = Some(definition.into_bytes().into());
    }
    attach_last(&mut parts.toc, &asked);
    known.fit(&mut parts.toc, &mut parts.left_out);
    Ok(parts)
}

/// Partition and what it is part of.
fn pair_of(attach: &TocEntry) -> Option<(i32, i32)> {
    Some((*attach.dependencies.first()?, *attach.dependencies.get(1)?))
}

/// Takes out of `chosen` what was asked for, is no relation and is there already: schemas, types and
/// the like stay as they are, with their rights. Answers with the functions, which are replaced where
/// they stand if that is allowed.
async fn stay(
    there: &mut There<'_>,
    toc: &Toc,
    asked: &BTreeSet<i32>,
    replace: bool,
    chosen: &mut BTreeSet<i32>,
    stays: &mut Vec<String>,
) -> Result<BTreeSet<i32>, SourceError> {
    let (mut kept, mut replaceable) = (BTreeSet::new(), BTreeSet::new());
    for entry in toc.entries.iter().filter(|entry| asked.contains(&entry.dump_id) && kind_in(entry, &NEEDED)) {
        if entry.is("SEQUENCE") || !there.has(entry).await? {
            continue;
        }
        if replace && kind_in(entry, &["FUNCTION", "PROCEDURE", "AGGREGATE"]) {
            replaceable.insert(entry.dump_id);
        } else {
            kept.insert(entry.dump_id);
            stays.push(shown(entry));
        }
    }
    let attached = toc.entries.iter().filter(|entry| kind_in(entry, &["ACL", "COMMENT", "SECURITY LABEL"]));
    let attached = attached.filter(|entry| entry.dependencies.iter().any(|number| kept.contains(number)));
    let attached: Vec<i32> = attached.map(|entry| entry.dump_id).collect();
    chosen.retain(|number| !kept.contains(number) && !attached.contains(number));
    Ok(replaceable)
}

/// A partition whose root stays is attached once it has its own indexes; otherwise it would get those
/// of the root first and its own in vain.
fn attach_last(toc: &mut Toc, asked: &BTreeSet<i32>) {
    let alone =
        |entry: &TocEntry| entry.is("TABLE ATTACH") && entry.dependencies.iter().any(|number| !asked.contains(number));
    let (mut last, mut entries): (Vec<TocEntry>, Vec<TocEntry>) = toc.entries.drain(..).partition(alone);
    for entry in &mut last {
        entry.section = Section::POST_DATA;
    }
    entries.append(&mut last);
    toc.entries = entries;
}

/// Kind and name, for people.
pub(super) fn shown(entry: &TocEntry) -> String {
    let kind = match text(&entry.desc).unwrap_or_default() {
        "FK CONSTRAINT" => "foreign key".to_owned(),
        "TABLE ATTACH" => "partition's place".to_owned(),
        "SEQUENCE OWNED BY" => "owner of sequence".to_owned(),
        "PUBLICATION TABLE" => "publication of".to_owned(),
        other => other.to_lowercase(),
    };
    format!("{kind} {}", entry.label())
}

fn lacking(toc: &Toc, entry: &TocEntry, needed: &TocEntry) -> Finding {
    let database = text(&toc.database).unwrap_or_default();
    Finding {
        verdict: Verdict::Bad,
        what: format!("{} needs {}, which is neither selected nor on the server", shown(entry), shown(needed)),
        hint: Some(format!("take it along: add --only '{database}/{}'", pattern_of(needed))),
    }
}

/// How `--only` names a relation.
fn pattern_of(entry: &TocEntry) -> String {
    let (schema, tag) = name_of(entry);
    let part = |name: &str| {
        let plain = matches!(sql::tokens(name).collect::<Vec<_>>()[..], [sql::Token::Word(_)]);
        if plain { name.to_owned() } else { ident(name) }
    };
    format!("{}.{}", part(schema), part(tag))
}

/// What is in a database, asked once for each thing.
struct There<'a> {
    /// `None` = a database that is still to be made.
    session: Option<&'a Session>,
    known: BTreeMap<i32, bool>,
}

impl There<'_> {
    async fn has(&mut self, entry: &TocEntry) -> Result<bool, SourceError> {
        if let Some(known) = self.known.get(&entry.dump_id) {
            return Ok(*known);
        }
        let found = match self.session {
            Some(session) => session.text(&test_for(entry), "looking for what a part needs").await? == "true",
            None => entry.is("SCHEMA") && name_of(entry).1 == "public",
        };
        self.known.insert(entry.dump_id, found);
        Ok(found)
    }
}

fn test_for(entry: &TocEntry) -> String {
    let (schema, tag) = name_of(entry);
    let name = literal(&quoted(entry));
    let in_catalog = |catalog: &str, column: &str| {
        let named = format!("SELECT FROM pg_catalog.pg_{catalog} WHERE {column}name = {}", literal(tag));
        let schema = literal(&ident(schema));
        match entry.schema.as_deref() {
            None | Some([]) => format!("EXISTS ({named})"),
            Some(_) => format!("EXISTS ({named} AND {column}namespace = pg_catalog.to_regnamespace({schema}))"),
        }
    };
    let test = match text(&entry.desc).unwrap_or_default() {
        "SCHEMA" => format!("pg_catalog.to_regnamespace({}) IS NOT NULL", literal(&ident(tag))),
        "EXTENSION" => in_catalog("extension", "ext"),
        "TYPE" | "SHELL TYPE" | "DOMAIN" => format!("pg_catalog.to_regtype({name}) IS NOT NULL"),
        "COLLATION" => in_catalog("collation", "coll"),
        "PROCEDURAL LANGUAGE" => in_catalog("language", "lan"),
        "OPERATOR" => in_catalog("operator", "opr"),
        "OPERATOR FAMILY" => in_catalog("opfamily", "opf"),
        "OPERATOR CLASS" => in_catalog("opclass", "opc"),
        "TEXT SEARCH DICTIONARY" => in_catalog("ts_dict", "dict"),
        "TEXT SEARCH CONFIGURATION" => in_catalog("ts_config", "cfg"),
        "FOREIGN DATA WRAPPER" => in_catalog("foreign_data_wrapper", "fdw"),
        "SERVER" => in_catalog("foreign_server", "srv"),
        "PUBLICATION" => in_catalog("publication", "pub"),
        "FUNCTION" | "PROCEDURE" | "AGGREGATE" => {
            // name(types), the name not quoted
            let (function, arguments) = tag.split_once('(').unwrap_or((tag, ")"));
            let signature = format!("{}.{}({arguments}", ident(schema), ident(function));
            format!("pg_catalog.to_regprocedure({}) IS NOT NULL", literal(&signature))
        }
        _ => format!("pg_catalog.to_regclass({name}) IS NOT NULL"),
    };
    format!("SELECT ({test})::text")
}

/// Restores the parts; see the module. A database that is not there is made first under a
/// temporary name.
pub(super) async fn restore(
    work: &Work<'_>,
    archive: &Archive<'_>,
    to: &str,
    there: bool,
    selection: &Selection,
    out: &mut Done,
) -> Result<(), SourceError> {
    if there {
        return in_one_transaction(work, archive, to, selection, out).await;
    }
    let temporary = swap::temporary_name(to)?;
    work.create(archive, &temporary, out).await?;
    let placed = match in_one_transaction(work, archive, &temporary, selection, out).await {
        Ok(()) => {
            let comment = super::fill::comment(&archive.toc, &archive.database, to);
            swap::place(work, &temporary, None, to, comment.as_deref(), out).await
        }
        Err(error) => Err(error),
    };
    if placed.is_err() {
        swap::drop_database(work.admin, &temporary).await.ok();
    }
    placed
}

async fn in_one_transaction(
    work: &Work<'_>,
    archive: &Archive<'_>,
    database: &str,
    selection: &Selection,
    out: &mut Done,
) -> Result<(), SourceError> {
    let session = work.server.connect(database).await?;
    session.prepare_exact_values().await?;
    let mut parts = complete(Some(&session), &archive.toc, selection, work.known, work.replace).await?;
    if work.replace {
        parts.refusals.extend(in_use(&session, &parts.toc).await?);
    }
    if let Some(Finding { what, hint, .. }) = parts.refusals.into_iter().next() {
        return Err(SourceError::Config { what, hint });
    }
    out.problems.append(&mut parts.left_out);
    let scratch = work.write_toc(&parts.toc)?;
    let before = script(work, database, scratch.path(), &["--section=pre-data", "--section=data"]).await?;
    let after = script(work, database, scratch.path(), &["--section=post-data"]).await?;
    session.run("BEGIN", "starting a transaction").await?;
    if work.replace {
        drop_existing(&session, &parts.toc).await?;
    }
    run_script(&session, &before).await?;
    let loaded = Loaded::default();
    for entry in parts.toc.entries.iter().filter(|entry| entry.has_data && entry.is("TABLE DATA")) {
        load::table(&session, archive, entry, &loaded, work.ctx).await?;
    }
    run_script(&session, &after).await?;
    session.run("COMMIT", "ending the transaction").await?;
    session.close().await;
    out.entries += loaded.entries.into_inner();
    out.bytes += loaded.bytes.into_inner();
    Ok(())
}

/// What `pg_restore` would run.
async fn script(
    work: &Work<'_>,
    database: &str,
    dir: &std::path::Path,
    sections: &[&str],
) -> Result<String, SourceError> {
    let mut command = work.server.tool(&work.tools.path("pg_restore"), database);
    command = command.args(["--format=directory", "--file=-"]).args(sections).arg(dir);
    let script = command.run(SCRIPT_BYTES_MAX, &work.ctx.cancel).await.map_err(|error| SourceError::Failed {
        what: "reading the statements of the parts failed".to_owned(),
        hint: None,
        source: Some(Box::new(error)),
    })?;
    String::from_utf8(script.to_vec()).map_err(|error| SourceError::Failed {
        what: format!("a definition of the parts holds what is no UTF-8, in database {database:?}"),
        hint: Some("restore the whole database, beside another one: --only DATABASE --rename DATABASE=COPY".to_owned()),
        source: Some(Box::new(error.utf8_error())),
    })
}

/// Runs it inside of our transaction.
async fn run_script(session: &Session, script: &str) -> Result<(), SourceError> {
    for (object, statement) in sql::objects(script) {
        // Older servers do not know it, and it is off in our sessions.
        if statement.starts_with("SET transaction_timeout") {
            continue;
        }
        let ran = session.client().batch_execute(&statement).await;
        ran.map_err(|error| {
            let what = format!("restoring {object} failed in database {:?}; nothing was changed", session.database());
            let hint = "if another object is missing there, take it along with a further --only, or restore the \
                        whole database beside: --only DATABASE --rename DATABASE=COPY";
            failure(what, Some(hint), error)
        })?;
    }
    Ok(())
}

//! Parts of a database: which entries belong to a table or a schema, and their restore.
//!
//! Parts go back into the database itself, in one transaction on one session: either all of them
//! are back with every row, or nothing has changed. With `replace` the relations that are in the
//! way are dropped first in the same transaction; one that others depend on is refused by the
//! server, and so everything stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::archive::Archive;
use super::client::Session;
use super::load::{self, Loaded};
use super::restore::{SCRIPT_BYTES_MAX, Work, comment};
use super::sql::{self, Token, ident, literal};
use super::swap;
use super::toc::{Toc, TocEntry, text};
use crate::{Restored, SourceError};

/// Which parts of a database are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// `None` = any.
    schema: Option<String>,
    /// `None` = any.
    table: Option<String>,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pattern) in self.0.iter().enumerate() {
            let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "*".to_owned());
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}.{}", part(&pattern.schema), part(&pattern.table))?;
        }
        Ok(())
    }
}

/// Divides the words of the person among the databases: `table`, `schema.table`, `schema.*`, each
/// perhaps behind `database/`; `database/*` is all of it. Names that hold dots or capital letters
/// are put in double quotes, as in SQL. No words mean everything.
///
/// # Errors
/// What is wrong with which word.
pub(super) fn choose(only: &[String], databases: &[String]) -> Result<BTreeMap<String, Option<Selection>>, String> {
    if only.is_empty() {
        return Ok(databases.iter().map(|name| (name.clone(), None)).collect());
    }
    let mut chosen: BTreeMap<String, Option<Selection>> = BTreeMap::new();
    for word in only {
        let longest =
            databases.iter().filter_map(|name| Some((name, word.strip_prefix(name.as_str())?.strip_prefix('/')?)));
        let (database, rest) = match longest.max_by_key(|(name, _)| name.len()) {
            Some(found) => found,
            None => match databases {
                [one] => (one, word.as_str()),
                _ => return Err(format!("{word:?} does not say which database: write DATABASE/{word}")),
            },
        };
        if rest == "*" {
            chosen.insert(database.clone(), None);
            continue;
        }
        let pattern = pattern(rest).ok_or_else(|| format!("{rest:?} is neither table, schema.table nor schema.*"))?;
        // What is wanted whole stays whole.
        if let Some(selection) = chosen.entry(database.clone()).or_insert_with(|| Some(Selection(Vec::new()))) {
            selection.0.push(pattern);
        }
    }
    Ok(chosen)
}

fn pattern(text: &str) -> Option<Pattern> {
    let name = |token: Token<'_>| match token {
        Token::Symbol("*") => Some(None),
        // As it is written: a person means the table as it is called.
        Token::Word(raw) => Some(Some(raw.to_owned())),
        quoted @ Token::Quoted(_) => Some(quoted.name()),
        _ => None,
    };
    let tokens: Vec<Token<'_>> = sql::tokens(text).collect();
    match tokens[..] {
        [table] => Some(Pattern { schema: None, table: Some(name(table)??) }),
        [schema, Token::Symbol("."), table] => Some(Pattern { schema: Some(name(schema)??), table: name(table)? }),
        _ => None,
    }
}

const RELATIONS: [&str; 5] = ["TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE"];
/// Belong to whatever they depend on.
const ATTACHED: [&str; 9] = [
    "TABLE DATA",
    "SEQUENCE SET",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
    "STATISTICS",
    "SEQUENCE OWNED BY",
    "INDEX",
    "MATERIALIZED VIEW DATA",
];
/// Bear the name of their table before their own.
const OF_TABLE: [&str; 8] =
    ["DEFAULT", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"];
/// Needed first; taken along where they are missing.
const NEEDED: [&str; 10] = [
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
];

fn kind_in(entry: &TocEntry, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| entry.is(kind))
}

fn name_of(entry: &TocEntry) -> (&str, &str) {
    (text(&entry.schema).unwrap_or_default(), text(&entry.tag).unwrap_or_default())
}

/// The table of contents of the parts alone, with everything that belongs to them.
///
/// # Errors
/// [`SourceError::Config`] names a part that is not there.
pub(super) fn select(toc: &Toc, selection: &Selection) -> Result<Toc, SourceError> {
    let mut chosen = BTreeSet::new();
    for pattern in &selection.0 {
        let before = chosen.len();
        for entry in &toc.entries {
            let (schema, tag) = name_of(entry);
            let in_schema = pattern.schema.as_deref().is_none_or(|wanted| wanted == schema);
            let fits = match &pattern.table {
                Some(table) => in_schema && tag == table && kind_in(entry, &RELATIONS),
                None => in_schema || entry.is("SCHEMA") && pattern.schema.as_deref() == Some(tag),
            };
            if fits && !is_frame(entry) {
                chosen.insert(entry.dump_id);
            }
        }
        if chosen.len() == before {
            let what = format!("the snapshot has no {}", Selection(vec![pattern.clone()]));
            return Err(SourceError::Config { what, hint: Some("names are written as in the database".to_owned()) });
        }
    }
    let by_number: HashMap<i32, &TocEntry> = toc.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    loop {
        let before = chosen.len();
        for entry in &toc.entries {
            let belongs = belongs(entry, &chosen, &by_number);
            if belongs {
                chosen.insert(entry.dump_id);
            }
            if entry.is("TABLE ATTACH") && (belongs || chosen.contains(&entry.dump_id)) {
                chosen.extend(entry.dependencies.first());
            }
            // A column's default needs its sequence.
            if entry.is("DEFAULT") && chosen.contains(&entry.dump_id) {
                let sequence = |number: &&i32| by_number.get(*number).is_some_and(|entry| entry.is("SEQUENCE"));
                chosen.extend(entry.dependencies.iter().filter(sequence));
            }
        }
        if chosen.len() == before {
            break;
        }
    }
    let mut selected = toc.clone();
    selected.entries.retain(|entry| is_frame(entry) || chosen.contains(&entry.dump_id));
    Ok(selected)
}

/// Settings that hold for every entry.
fn is_frame(entry: &TocEntry) -> bool {
    kind_in(entry, &["ENCODING", "STDSTRINGS", "SEARCHPATH"])
}

fn belongs(entry: &TocEntry, chosen: &BTreeSet<i32>, by_number: &HashMap<i32, &TocEntry>) -> bool {
    let mut owners = entry.dependencies.iter().filter(|number| chosen.contains(number));
    if kind_in(entry, &ATTACHED) {
        return owners.any(|number| {
            let owner = by_number.get(number);
            // The content of a view depends on the tables that it reads too.
            !entry.is("MATERIALIZED VIEW DATA") || owner.is_some_and(|owner| name_of(owner) == name_of(entry))
        });
    }
    if kind_in(entry, &OF_TABLE) {
        let (schema, tag) = name_of(entry);
        return owners.any(|number| {
            by_number.get(number).filter(|owner| kind_in(owner, &RELATIONS)).is_some_and(|owner| {
                let (owner_schema, table) = name_of(owner);
                let rest = tag.strip_prefix(table);
                owner_schema == schema && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            })
        });
    }
    match () {
        () if entry.is("TABLE ATTACH") => owners.next().is_some(),
        () if entry.is("INDEX ATTACH") => entry.dependencies.iter().all(|number| chosen.contains(number)),
        // The sequence of an identity column depends on its table.
        () if entry.is("SEQUENCE") => owners.any(|number| by_number.get(number).is_some_and(|owner| owner.is("TABLE"))),
        () => false,
    }
}

/// The relations of a selection that are in the database already.
pub(super) async fn existing(session: &Session, selected: &Toc) -> Result<Vec<String>, SourceError> {
    let relations = selected.entries.iter().filter(|entry| kind_in(entry, &RELATIONS));
    let mut found = Vec::new();
    for entry in relations {
        let name = quoted(entry);
        let query = format!("SELECT (pg_catalog.to_regclass({}) IS NOT NULL)::text", literal(&name));
        if session.text(&query, "looking for a table").await? == "true" {
            found.push(name);
        }
    }
    Ok(found)
}

fn quoted(entry: &TocEntry) -> String {
    let (schema, tag) = name_of(entry);
    if schema.is_empty() { ident(tag) } else { format!("{}.{}", ident(schema), ident(tag)) }
}

/// Adds what the selection needs and the database lacks; leaves out foreign keys to tables that are
/// neither there nor restored.
async fn complete(session: &Session, toc: &Toc, mut selected: Toc, out: &mut Restored) -> Result<Toc, SourceError> {
    let by_number: HashMap<i32, &TocEntry> = toc.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    let mut chosen: BTreeSet<i32> = selected.entries.iter().map(|entry| entry.dump_id).collect();
    let mut open: Vec<i32> = chosen.iter().copied().collect();
    while let Some(number) = open.pop() {
        let Some(entry) = by_number.get(&number) else { continue };
        for needed in entry.dependencies.iter().filter_map(|number| by_number.get(number)) {
            if kind_in(needed, &NEEDED) && !chosen.contains(&needed.dump_id) && !is_there(session, needed).await? {
                chosen.insert(needed.dump_id);
                open.push(needed.dump_id);
            }
        }
    }
    let mut dropped = BTreeSet::new();
    for entry in toc.entries.iter().filter(|entry| chosen.contains(&entry.dump_id) && entry.is("FK CONSTRAINT")) {
        for table in entry.dependencies.iter().filter_map(|number| by_number.get(number)) {
            if table.is("TABLE") && !chosen.contains(&table.dump_id) && !is_there(session, table).await? {
                out.problems.push(format!("foreign key {} is left out: {} is not there", entry.label(), table.label()));
                dropped.insert(entry.dump_id);
            }
        }
    }
    chosen.retain(|number| !dropped.contains(number));
    selected.entries = toc.entries.iter().filter(|entry| chosen.contains(&entry.dump_id)).cloned().collect();
    Ok(selected)
}

async fn is_there(session: &Session, entry: &TocEntry) -> Result<bool, SourceError> {
    let (_, tag) = name_of(entry);
    let name = literal(&quoted(entry));
    let test = match text(&entry.desc).unwrap_or_default() {
        "SCHEMA" => format!("pg_catalog.to_regnamespace({}) IS NOT NULL", literal(&ident(tag))),
        "EXTENSION" => format!("EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = {})", literal(tag)),
        "TYPE" | "SHELL TYPE" | "DOMAIN" => format!("pg_catalog.to_regtype({name}) IS NOT NULL"),
        "COLLATION" => format!("EXISTS (SELECT FROM pg_catalog.pg_collation WHERE collname = {})", literal(tag)),
        "TABLE" | "SEQUENCE" => format!("pg_catalog.to_regclass({name}) IS NOT NULL"),
        // name(types), the name not quoted
        _ => {
            let (function, arguments) = tag.split_once('(').unwrap_or((tag, ")"));
            let (schema, _) = name_of(entry);
            let signature = format!("{}.{}({arguments}", ident(schema), ident(function));
            format!("pg_catalog.to_regprocedure({}) IS NOT NULL", literal(&signature))
        }
    };
    Ok(session.text(&format!("SELECT ({test})::text"), "looking for what a part needs").await? == "true")
}

/// Restores the parts; see the module. A database that is not there is made first under a
/// temporary name.
pub(super) async fn restore(
    work: &Work<'_>,
    archive: &Archive<'_>,
    to: &str,
    there: bool,
    selection: &Selection,
    out: &mut Restored,
) -> Result<(), SourceError> {
    let selected = select(&archive.toc, selection)?;
    if there {
        return in_one_transaction(work, archive, to, selected, out).await;
    }
    let temporary = swap::temporary_name(to)?;
    work.create(archive, &temporary, out).await?;
    let placed = match in_one_transaction(work, archive, &temporary, selected, out).await {
        Ok(()) => {
            let comment = comment(&archive.toc, &archive.database, to);
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
    selected: Toc,
    out: &mut Restored,
) -> Result<(), SourceError> {
    let session = work.server.connect(database).await?;
    session.prepare_exact_values().await?;
    let selected = complete(&session, &archive.toc, selected, out).await?;
    let scratch = work.write_toc(&selected)?;
    session.run("BEGIN", "starting a transaction").await?;
    if work.replace {
        drop_existing(&session, &selected).await?;
    }
    run_script(work, &session, scratch.path(), &["--section=pre-data", "--section=data"]).await?;
    let loaded = Loaded::default();
    for entry in selected.entries.iter().filter(|entry| entry.has_data && entry.is("TABLE DATA")) {
        load::table(&session, archive, entry, &loaded, work.ctx).await?;
    }
    run_script(work, &session, scratch.path(), &["--section=post-data"]).await?;
    session.run("COMMIT", "ending the transaction").await?;
    session.close().await;
    out.entries += loaded.entries.into_inner();
    out.bytes += loaded.bytes.into_inner();
    Ok(())
}

/// Drops the relations in the way, the last made first.
async fn drop_existing(session: &Session, selected: &Toc) -> Result<(), SourceError> {
    for entry in selected.entries.iter().rev().filter(|entry| kind_in(entry, &RELATIONS)) {
        let name = quoted(entry);
        let query = format!(
            "SELECT coalesce((SELECT relkind::text FROM pg_catalog.pg_class \
             WHERE oid = pg_catalog.to_regclass({})), '')",
            literal(&name)
        );
        let kind = match session.text(&query, "looking for a table").await?.as_str() {
            "r" | "p" => "TABLE",
            "v" => "VIEW",
            "m" => "MATERIALIZED VIEW",
            "f" => "FOREIGN TABLE",
            // Nothing, or the sequence of a column, which goes with its table.
            _ => continue,
        };
        session.run(&format!("DROP {kind} {name}"), &format!("dropping {name}, which is to be replaced,")).await?;
    }
    for entry in selected.entries.iter().filter(|entry| entry.is("SEQUENCE")) {
        let name = quoted(entry);
        session.run(&format!("DROP SEQUENCE IF EXISTS {name}"), &format!("dropping sequence {name}")).await?;
    }
    Ok(())
}

/// Runs what `pg_restore` would, inside of our transaction.
async fn run_script(
    work: &Work<'_>,
    session: &Session,
    dir: &std::path::Path,
    sections: &[&str],
) -> Result<(), SourceError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| SourceError::Failed {
        what: "reading the statements of the parts failed".to_owned(),
        hint: None,
        source: Some(error),
    };
    let mut command = work.server.tool(&work.tools.path("pg_restore"), session.database());
    command = command.args(["--format=directory", "--file=-"]).args(sections).arg(dir);
    let script = command.run(SCRIPT_BYTES_MAX, &work.ctx.cancel).await.map_err(|error| failed(Box::new(error)))?;
    let script = String::from_utf8(script.to_vec()).map_err(|error| failed(Box::new(error)))?;
    for statement in sql::statements(&script) {
        // Older servers do not know it, and it is off in our sessions.
        if statement.starts_with("SET transaction_timeout") {
            continue;
        }
        let words: Vec<&str> = sql::words(&statement).iter().take(6).map(|word| word.raw()).collect();
        session.run(&statement, &format!("running {}", words.join(" "))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(only: &[&str], databases: &[&str]) -> Result<String, String> {
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let chosen = choose(&own(only), &own(databases))?;
        let show = |(name, parts): (String, Option<Selection>)| match parts {
            None => name,
            Some(parts) => format!("{name}: {parts}"),
        };
        Ok(chosen.into_iter().map(show).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn parts_are_divided_among_the_databases() {
        assert_eq!(chosen(&[], &["a", "b"]), Ok("a; b".into()));
        assert_eq!(chosen(&["t", "s.*", "s.\"T.x\""], &["a"]), Ok("a: *.t, s.*, s.T.x".into()));
        assert_eq!(chosen(&["b/s.t", "a/*"], &["a", "b"]), Ok("a; b: s.t".into()));
        assert_eq!(chosen(&["a/b/t"], &["a", "a/b"]), Ok("a/b: *.t".into()));
    }

    #[test]
    fn words_that_mean_nothing_or_too_much_are_refused() {
        for (word, complaint) in [("t", "which database"), ("a/", "is neither"), ("a/x.y.z", "is neither")] {
            assert!(chosen(&[word], &["a", "b"]).expect_err(word).contains(complaint), "{word}");
        }
    }
}

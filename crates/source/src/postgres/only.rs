//! Which parts of a database are meant, and which entries belong to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::sql::{self, Token};
use super::toc::{Toc, TocEntry, text};
use crate::SourceError;

/// What `--only` takes, for hints.
const FORMS: &str = "write DATABASE, DATABASE/SCHEMA, DATABASE/TABLE, DATABASE/SCHEMA.TABLE or DATABASE/SCHEMA.*, \
                     names as in the database and in double quotes where they hold dots";
/// How many names a hint lists.
const NAMES_SHOWN: usize = 20;

/// Which parts of a database are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// A schema or a table, whichever there is.
    Named(String),
    /// `schema.table`, each of them perhaps any.
    Qualified(Option<String>, Option<String>),
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = |part: &Option<String>| part.clone().unwrap_or_else(|| "*".to_owned());
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Qualified(schema, table) => write!(f, "{}.{}", any(schema), any(table)),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Divides the words of the person among the databases: `database`, or `database/` before a schema, a
/// table, `schema.table`, `schema.*`, or `*` for all of it; without `database/` where there is only
/// one. Names that hold dots are put in double quotes, as in SQL. No words mean everything.
///
/// # Errors
/// [`SourceError::Config`] says which word means nothing, and what the words look like.
pub(super) fn choose(
    only: &[String],
    databases: &[String],
) -> Result<BTreeMap<String, Option<Selection>>, SourceError> {
    if only.is_empty() {
        return Ok(databases.iter().map(|name| (name.clone(), None)).collect());
    }
    let mut chosen: BTreeMap<String, Option<Selection>> = BTreeMap::new();
    for word in only {
        let bad = |why: &str| SourceError::Config {
            what: format!("--only {word:?} {why}"),
            hint: Some(format!("{FORMS}; the snapshot has {}", named("the database", databases))),
        };
        let rest = |name: &str| match word.strip_prefix(name)? {
            "" => Some("*"),
            rest => rest.strip_prefix('/'),
        };
        let longest = databases.iter().filter_map(|name| Some((name, rest(name)?))).max_by_key(|(name, _)| name.len());
        let (database, rest) = match (longest, databases) {
            (Some(found), _) => found,
            (None, [one]) => (one, word.as_str()),
            (None, _) => return Err(bad("names no database of the snapshot")),
        };
        if matches!(rest, "*" | "") {
            chosen.insert(database.clone(), None);
            continue;
        }
        let pattern = pattern(rest).ok_or_else(|| bad("names no part of a database"))?;
        // What is wanted whole stays whole.
        if let Some(selection) = chosen.entry(database.clone()).or_insert_with(|| Some(Selection(Vec::new()))) {
            selection.0.push(pattern);
        }
    }
    Ok(chosen)
}

/// `the schema a` or `the schemas a, b`.
fn named(what: &str, names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    let more = if names.len() > NAMES_SHOWN { ", ..." } else { "" };
    let many = if names.len() == 1 { "" } else { "s" };
    format!("{what}{many} {}{more}", shown.join(", "))
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
        [table] => Some(Pattern::Named(name(table)??)),
        [schema, Token::Symbol("."), table] => Some(Pattern::Qualified(name(schema)?, name(table)?)),
        _ => None,
    }
}

pub(super) const RELATIONS: [&str; 5] = ["TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE"];
/// Belong to whatever they depend on.
const ATTACHED: [&str; 10] = [
    "TABLE DATA",
    "SEQUENCE SET",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
    "STATISTICS",
    "SEQUENCE OWNED BY",
    "INDEX",
    "MATERIALIZED VIEW DATA",
    "PUBLICATION TABLE",
];
/// Bear the name of their table before their own.
const OF_TABLE: [&str; 8] =
    ["DEFAULT", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"];

/// Whether it belongs to another object and has no owner of its own.
pub(super) fn is_attached(entry: &TocEntry) -> bool {
    let others = ["TABLE ATTACH", "INDEX ATTACH", "DEFAULT ACL", "DATABASE PROPERTIES"];
    kind_in(entry, &ATTACHED) || kind_in(entry, &OF_TABLE) || kind_in(entry, &others)
}

pub(super) fn kind_in(entry: &TocEntry, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| entry.is(kind))
}

pub(super) fn name_of(entry: &TocEntry) -> (&str, &str) {
    (text(&entry.schema).unwrap_or_default(), text(&entry.tag).unwrap_or_default())
}

/// The table of contents of the parts alone, with everything that belongs to them.
///
/// # Errors
/// [`SourceError::Config`] names a part that is not there.
pub(super) fn select(toc: &Toc, selection: &Selection) -> Result<Toc, SourceError> {
    let mut chosen = BTreeSet::new();
    for pattern in &selection.0 {
        let (schema, table) = resolve(toc, pattern)?;
        let fitting = toc.entries.iter().filter(|entry| {
            let (of, tag) = name_of(entry);
            let in_schema = schema.is_none_or(|wanted| wanted == of);
            let fits = match table {
                Some(table) => in_schema && tag == table && kind_in(entry, &RELATIONS),
                None => in_schema || entry.is("SCHEMA") && schema == Some(tag),
            };
            fits && !is_frame(entry)
        });
        let numbers: Vec<i32> = fitting.map(|entry| entry.dump_id).collect();
        if numbers.is_empty() {
            return Err(no_part(toc, pattern));
        }
        chosen.extend(numbers);
    }
    grow(toc, &mut chosen);
    Ok(of(toc, &chosen))
}

/// The relations of the parts alone.
///
/// # Errors
/// As [`select`].
pub(super) fn relations(toc: &Toc, selection: &Selection) -> Result<Toc, SourceError> {
    let mut selected = select(toc, selection)?;
    selected.entries.retain(|entry| kind_in(entry, &RELATIONS));
    Ok(selected)
}

/// Schema and table of a pattern; a plain name is that of a table or, where there is none, a schema.
fn resolve<'a>(toc: &Toc, pattern: &'a Pattern) -> Result<(Option<&'a str>, Option<&'a str>), SourceError> {
    let name = match pattern {
        Pattern::Qualified(schema, table) => return Ok((schema.as_deref(), table.as_deref())),
        Pattern::Named(name) => name.as_str(),
    };
    let mut relations = toc.entries.iter().filter(|entry| kind_in(entry, &RELATIONS));
    let is_schema = schemas(toc).iter().any(|schema| schema == name);
    match (relations.find(|entry| name_of(entry).1 == name), is_schema) {
        (Some(table), true) => {
            let database = database(toc);
            Err(SourceError::Config {
                what: format!("--only {:?} is a schema and a table", format!("{database}/{name}")),
                hint: Some(format!(
                    "write {database}/{name}.* for the schema, {database}/{} for the table",
                    table.label()
                )),
            })
        }
        (None, true) => Ok((Some(name), None)),
        (_, false) => Ok((None, Some(name))),
    }
}

fn no_part(toc: &Toc, pattern: &Pattern) -> SourceError {
    let what = match pattern {
        Pattern::Named(_) => "schema or table",
        Pattern::Qualified(_, None) => "schema",
        Pattern::Qualified(..) => "table",
    };
    let database = database(toc);
    SourceError::Config {
        what: format!("--only {:?}: the snapshot has no such {what}", format!("{database}/{pattern}")),
        hint: Some(format!("{FORMS}; {database} has {}", named("the schema", &schemas(toc)))),
    }
}

fn database(toc: &Toc) -> String {
    text(&toc.database).unwrap_or("DATABASE").to_owned()
}

/// The schemas that have a relation or an entry of their own.
fn schemas(toc: &Toc) -> Vec<String> {
    let names = toc.entries.iter().filter_map(|entry| {
        let (schema, tag) = name_of(entry);
        if entry.is("SCHEMA") { Some(tag) } else { kind_in(entry, &RELATIONS).then_some(schema) }
    });
    names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The table of contents of these entries, with what holds for every one of them.
pub(super) fn of(toc: &Toc, chosen: &BTreeSet<i32>) -> Toc {
    let mut selected = toc.clone();
    selected.entries.retain(|entry| is_frame(entry) || chosen.contains(&entry.dump_id));
    selected
}

/// Adds all that belongs to what is chosen.
pub(super) fn grow(toc: &Toc, chosen: &mut BTreeSet<i32>) {
    let by_number: HashMap<i32, &TocEntry> = toc.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    loop {
        let before = chosen.len();
        for entry in &toc.entries {
            let belongs = belongs(entry, chosen, &by_number);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(only: &[&str], databases: &[&str]) -> Result<String, SourceError> {
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
        for (only, databases, meant) in [
            (&[][..], &["a", "b"][..], "a; b"),
            (&["t", "s.*", "s.\"T.x\"", "*.u"], &["a"], "a: t, s.*, s.T.x, *.u"),
            (&["b/s.t", "a/*"], &["a", "b"], "a; b: s.t"),
            (&["a/b/t"], &["a", "a/b"], "a/b: t"),
            (&["a", "b/s"], &["a", "b"], "a; b: s"),
            (&["a/"], &["a", "ab"], "a"),
            (&["a/t", "a"], &["a"], "a"),
            (&["a/b"], &["a", "a/b"], "a/b"),
        ] {
            assert_eq!(chosen(only, databases).expect("good"), meant, "{only:?}");
        }
    }

    #[test]
    fn words_that_mean_nothing_are_named_with_the_forms_that_work() {
        for (word, complaint) in [
            ("t", "names no database of the snapshot"),
            ("nosuch*", "names no database"),
            ("ab", "names no database"),
            ("a/nosuch*", "names no part of a database"),
            ("a/x.y.z", "names no part"),
        ] {
            let error = chosen(&[word], &["a", "b"]).expect_err(word);
            let hint = error.hint().expect("a hint");
            assert!(
                error.to_string().contains(complaint) && error.to_string().contains(&format!("{word:?}")),
                "{error}"
            );
            assert!(hint.contains("DATABASE/SCHEMA.TABLE") && hint.ends_with("the databases a, b"), "{hint}");
        }
    }
}

//! Compares what a database is made of with a snapshot, object by object.

use std::collections::BTreeMap;

use super::only::{is_attached, kind_in, name_of};
use super::parts::shown;
use super::sql;
use super::toc::{Toc, TocEntry, text};

/// Compared by their content, or holding for every entry.
const NO_OBJECTS: [&str; 6] = ["TABLE DATA", "BLOBS", "ENCODING", "STDSTRINGS", "SEARCHPATH", "STATISTICS DATA"];
/// What versions of `pg_dump` write about in other ways or divide otherwise.
const BY_VERSION: [&str; 8] =
    ["ACL", "DEFAULT ACL", "COMMENT", "SECURITY LABEL", "DATABASE", "DATABASE PROPERTIES", "BLOB", "BLOB METADATA"];
/// Lists of statements whose order means nothing.
const UNORDERED: [&str; 4] = ["ACL", "DEFAULT ACL", "DATABASE", "DATABASE PROPERTIES"];

/// What of objects is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Definition, owner, rights, comment, place.
    Definition,
    /// Only that they are there: another version writes the same otherwise. Sequences by their values.
    Name,
}

/// One object: kind, schema, name.
type Key<'a> = (&'a str, &'a str, &'a str);

/// What of an object is compared.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object<'a> {
    definition: Vec<String>,
    owner: &'a str,
    /// Tablespace and access method.
    place: (&'a str, &'a str),
}

/// The objects that both sides have the name of, and what differs.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) count: u64,
    pub(super) differences: Vec<String>,
}

/// Compares the table of contents of a snapshot with the one of what is there now.
pub(super) fn compare(wanted: &Toc, now: &Toc, by: By) -> Compared {
    let (wanted, mut now) = (objects(wanted, by), objects(now, by));
    let mut out = Compared::default();
    for (key, mut entries) in wanted {
        out.count += entries.len() as u64;
        let mut here = now.remove(&key).unwrap_or_default();
        // Kinds whose names do not tell them apart, such as operators, are told apart by the rest.
        entries.retain(|(_, object)| match here.iter().position(|(_, other)| other == object) {
            Some(at) => {
                here.swap_remove(at);
                false
            }
            None => true,
        });
        let mut here = here.into_iter();
        for (entry, object) in entries {
            out.differences.push(match here.next() {
                None => alone(entry, "not there"),
                Some((_, other)) => difference(entry, &object, &other),
            });
        }
        out.differences.extend(here.map(|(entry, _)| alone(entry, "not in the snapshot")));
    }
    out.differences.extend(now.into_values().flatten().map(|(entry, _)| alone(entry, "not in the snapshot")));
    out
}

fn objects(toc: &Toc, by: By) -> BTreeMap<Key<'_>, Vec<(&TocEntry, Object<'_>)>> {
    let database = text(&toc.database).unwrap_or_default();
    let mut out = BTreeMap::<_, Vec<_>>::new();
    for entry in toc.entries.iter().filter(|entry| !kind_in(entry, &NO_OBJECTS)) {
        let (schema, tag) = name_of(entry);
        // It is not the same in all versions whether there is an entry for it.
        let public = entry.is("SCHEMA") && tag == "public";
        if by == By::Name && (public || kind_in(entry, &BY_VERSION)) {
            continue;
        }
        let kind = text(&entry.desc).unwrap_or_default();
        let of_database = kind.starts_with("DATABASE") || schema.is_empty() && tag.starts_with("DATABASE ");
        let tag = if of_database { "DATABASE" } else { tag };
        out.entry((kind, schema, tag)).or_default().push((entry, object(entry, by, of_database.then_some(database))));
    }
    out
}

/// `database` is the name that stands in what belongs to the database itself: it may have another now.
fn object<'a>(entry: &'a TocEntry, by: By, database: Option<&str>) -> Object<'a> {
    let raw = String::from_utf8_lossy(entry.definition.as_deref().unwrap_or_default());
    let raw = raw.as_ref();
    let renamed = database.map(|database| sql::rename_database(raw, database, "DATABASE"));
    let definition = renamed.as_deref().unwrap_or(raw);
    let definition = if kind_in(entry, &UNORDERED) {
        let mut statements = sql::statements(definition);
        statements.sort_unstable();
        statements
    } else {
        vec![definition.to_owned()]
    };
    let of = |part| text(part).unwrap_or_default();
    match by {
        By::Name if !entry.is("SEQUENCE SET") => Object { definition: Vec::new(), owner: "", place: ("", "") },
        // What is attached to another object belongs to whom that belongs to.
        _ => Object {
            definition,
            owner: if is_attached(entry) { "" } else { of(&entry.owner) },
            place: (of(&entry.tablespace), of(&entry.access_method)),
        },
    }
}

fn difference(entry: &TocEntry, wanted: &Object<'_>, now: &Object<'_>) -> String {
    let title = title(entry);
    if wanted.definition != now.definition {
        return match (value_of(wanted), value_of(now)) {
            (Some(wanted), Some(now)) if entry.is("SEQUENCE SET") => {
                format!("sequence {}: at {now}, {wanted} in the snapshot", entry.label())
            }
            _ => format!("{title}: the definition differs"),
        };
    }
    if wanted.owner != now.owner {
        return format!("{title}: belongs to {:?}, {:?} in the snapshot", now.owner, wanted.owner);
    }
    format!("{title}: tablespace or access method differ")
}

fn alone(entry: &TocEntry, how: &str) -> String {
    let many = ["ACL", "DEFAULT ACL", "DATABASE PROPERTIES"];
    format!("{} {} {how}", title(entry), if kind_in(entry, &many) { "are" } else { "is" })
}

/// What `setval` sets: the number, and whether it was given out.
fn value_of(object: &Object<'_>) -> Option<String> {
    let words = sql::words(object.definition.first()?);
    let comma = words.iter().position(|word| word.raw() == ",")?;
    let end = words.iter().rposition(|word| word.raw() == ",").filter(|end| *end > comma)?;
    let number: String = words[comma + 1..end].iter().map(|word| word.raw()).collect();
    let unused = words.get(end + 1).is_some_and(|word| word.raw() == "false");
    Some(if unused { format!("{number} (not given out yet)") } else { number })
}

/// Kind and name, for people.
fn title(entry: &TocEntry) -> String {
    let (schema, tag) = name_of(entry);
    let within = if schema.is_empty() { String::new() } else { format!(" (schema {schema})") };
    match text(&entry.desc).unwrap_or_default() {
        "ACL" => format!("rights on {tag}{within}"),
        "COMMENT" => format!("comment on {tag}{within}"),
        "SECURITY LABEL" => format!("security label of {tag}{within}"),
        "DEFAULT ACL" => format!("{}{within}", tag.to_lowercase()),
        "SEQUENCE SET" => format!("value of sequence {}", entry.label()),
        "ROW SECURITY" => format!("row-level security of {}", entry.label()),
        "DATABASE PROPERTIES" => format!("settings of database {tag}"),
        _ => shown(entry),
    }
}

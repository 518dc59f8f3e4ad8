//! Where things are in a snapshot of a server.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lifeboat_model::EntryPath;
use lifeboat_model::path::BadPath;
use serde::{Deserialize, Serialize};

use super::GLOBALS;

/// The table of contents of a database, beside its data files.
pub(super) const TOC: &str = "toc.dat";
/// What `pg_dump` does not record; ignored by its tools.
pub(super) const COUNTS: &str = "lifeboat.json";

/// The directory of a database: its name, with `%`, `/`, and names that would mean something else
/// percent-encoded.
pub(super) fn directory(database: &str) -> Result<EntryPath, BadPath> {
    let special = matches!(database, "." | ".." | GLOBALS);
    let mut out = String::with_capacity(database.len());
    for (at, c) in database.chars().enumerate() {
        if c == '%' || c == '/' || special && at == 0 {
            write!(out, "%{:02X}", u32::from(c)).expect("a string takes everything");
        } else {
            out.push(c);
        }
    }
    EntryPath::new(out)
}

/// The name of the database that a directory belongs to.
pub(super) fn database(directory: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(directory.len());
    let mut rest = directory;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    String::from_utf8(out).ok()
}

/// What the names of databases hold that a restore makes before it gives them their place.
pub(super) const TEMPORARY: &str = "_lifeboat_";

/// Whether a restore made this database and did not live to rename or remove it.
pub(super) fn is_temporary(database: &str) -> bool {
    let number = database.rsplit_once(TEMPORARY).map(|(_, number)| number);
    number.is_some_and(|number| number.len() == 12 && number.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What was counted while a database was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// 1.
    pub version: u32,
    /// The database's name.
    pub database: String,
    /// Its size on the server's disks, indexes included.
    pub database_bytes: u64,
    /// The tables by the names of their files.
    pub tables: BTreeMap<String, TableCount>,
    /// How many large objects there are.
    pub large_objects: u64,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableCount {
    /// Its schema and name, quoted where SQL needs it.
    pub table: String,
    /// How many rows were read.
    pub rows: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_of_a_database_has_a_directory_of_its_own(name in "[^\0]{1,20}") {
            let path = directory(&name).expect("a path");
            prop_assert_eq!(path.components().count(), 1);
            prop_assert_eq!(database(path.as_bytes()), Some(name));
        }
    }

    #[test]
    fn plain_names_stay_readable_and_special_ones_cannot_leave_or_collide() {
        let of = |name: &str| directory(name).expect("a path").to_string();
        assert_eq!(of("Odd \"db\" ä"), "Odd \"db\" ä");
        assert_eq!(of("a/b%"), "a%2Fb%25");
        assert_eq!((of("."), of(".."), of("globals.sql")), ("%2E".into(), "%2E.".into(), "%67lobals.sql".into()));
    }
}

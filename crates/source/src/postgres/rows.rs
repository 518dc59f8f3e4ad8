//! Compares content with a snapshot's: the rows of every table in any order, and large objects.

use std::collections::BTreeMap;
use std::pin::pin;

use async_trait::async_trait;
use futures::StreamExt;
use lifeboat_model::flow::{BodyError, ContentSink, Piece};

use super::archive::Archive;
use super::client::{ServerError, Session};
use super::data::{LARGE_OBJECT_PIECE, TABLE_END, copy_in, large_object_piece};
use super::sql;
use super::toc::{Toc, text};
use super::verify::differ;
use crate::{SourceError, Verified};

/// Rows as a multiset: their number and the sum of their hashes, so that order does not matter and
/// memory does not grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    count: u64,
    sum: u128,
}

impl Rows {
    fn add(&mut self, row: &[u8]) {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(row).as_bytes()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
        self.count += 1;
    }

    fn merge(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.count += other.count;
    }
}

/// Cuts content into rows; one row is in memory at a time.
#[derive(Default)]
struct RowReader {
    rows: Rows,
    part: Vec<u8>,
    ended: bool,
}

impl RowReader {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (row, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.part.is_empty() {
                self.row(row);
            } else {
                self.part.extend_from_slice(row);
                let row = std::mem::take(&mut self.part);
                self.row(&row);
            }
        }
        self.part.extend_from_slice(bytes);
    }

    fn row(&mut self, row: &[u8]) {
        // Behind the end mark there are only empty lines.
        self.ended |= row == &TABLE_END[..3];
        if !self.ended {
            self.rows.add(row);
        }
    }
}

#[async_trait]
impl ContentSink for RowReader {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        let Piece::Data(bytes) = piece else { return Err("there is a hole in the rows of a table".into()) };
        self.feed(&bytes);
        Ok(())
    }
}

#[derive(Default)]
struct Hash(blake3::Hasher);

#[async_trait]
impl ContentSink for Hash {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        match piece {
            Piece::Data(bytes) => drop(self.0.update(&bytes)),
            Piece::Hole(length) => {
                for _ in 0..length {
                    self.0.update(&[0]);
                }
            }
        }
        Ok(())
    }
}

/// Tables that are compared together: those whose rows a restore may have put into another
/// partition of the same root.
#[derive(Default)]
pub(super) struct Group<'a> {
    pub(super) files: Vec<&'a str>,
    /// Reads the rows that are on the server.
    query: String,
    label: String,
}

/// The table data of an archive by what has to be read to compare it.
pub(super) async fn groups<'a>(session: &Session, toc: &'a Toc) -> Result<Vec<Group<'a>>, SourceError> {
    let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
    for entry in toc.entries.iter().filter(|entry| entry.has_data && entry.is("TABLE DATA")) {
        let copy = text(&entry.copy).map_err(|error| SourceError::Failed {
            what: format!("the name of table {} cannot be read", entry.label()),
            hint: None,
            source: Some(Box::new(error)),
        })?;
        let Some(of) = copy.trim_end().strip_suffix(" FROM stdin;").and_then(|copy| copy.strip_prefix("COPY ")) else {
            continue;
        };
        let through_root =
            entry.definition_text().is_ok_and(|definition| definition.starts_with("-- load via partition root"));
        let (table, columns) = divide(of);
        let (table, columns) = (table.trim_end(), columns.trim().trim_start_matches('(').trim_end_matches(')'));
        let condition = condition(session, table).await?;
        let query = match (&condition, through_root) {
            (None, false) => format!("COPY {of} TO STDOUT"),
            (None, true) => format!("COPY (SELECT {columns} FROM {table}) TO STDOUT"),
            (Some(condition), _) => format!("COPY (SELECT {columns} FROM {table} {condition}) TO STDOUT"),
        };
        let query = copy_in(query, toc.encoding());
        let group = groups.entry(query.clone()).or_default();
        group.files.push(entry.file.as_deref().unwrap_or_default());
        group.query = query;
        table.clone_into(&mut group.label);
    }
    Ok(groups.into_values().collect())
}

/// Divides `schema.table (columns)` before the columns.
fn divide(of: &str) -> (&str, &str) {
    let mut at = 0;
    for token in sql::tokens(of) {
        if matches!(token, sql::Token::Symbol("(")) {
            break;
        }
        at += token.raw().len();
    }
    of.split_at(at)
}

/// The condition under which an extension lets rows of this table be dumped.
async fn condition(session: &Session, table: &str) -> Result<Option<String>, SourceError> {
    let query = "SELECT condition FROM (SELECT pg_catalog.unnest(extconfig) AS oid, \
        pg_catalog.unnest(extcondition) AS condition FROM pg_catalog.pg_extension) x \
        WHERE oid = pg_catalog.to_regclass($1) AND condition <> ''";
    let row = session.client().query_opt(query, &[&table]).await;
    let row = row.map_err(|error| super::client::failure(format!("looking for table {table} failed"), None, error))?;
    Ok(row.map(|row| row.get(0)))
}

pub(super) async fn compare_rows(
    archive: &Archive<'_>,
    session: &Session,
    group: &Group<'_>,
    out: &mut Verified,
) -> Result<(), SourceError> {
    let mut stored = Rows::default();
    for file in &group.files {
        let mut reader = RowReader::default();
        archive.content(file, &mut reader).await?;
        stored.merge(reader.rows);
    }
    session.run("SAVEPOINT table_", "setting a savepoint").await?;
    match live_rows(session, &group.query).await {
        Ok(live) if live == stored => {}
        Ok(live) if live.count == stored.count => {
            differ(
                out,
                format!(
                    "database {:?}: table {}: some of the {} rows differ",
                    session.database(),
                    group.label,
                    live.count
                ),
            );
        }
        Ok(live) => {
            differ(
                out,
                format!(
                    "database {:?}: table {}: {} rows, {} in the snapshot",
                    session.database(),
                    group.label,
                    live.count,
                    stored.count
                ),
            );
        }
        Err(error) => {
            differ(out, format!("database {:?}: table {}: {error}", session.database(), group.label));
            session.run("ROLLBACK TO SAVEPOINT table_", "going back to a savepoint").await?;
        }
    }
    Ok(())
}

async fn live_rows(session: &Session, query: &str) -> Result<Rows, ServerError> {
    let mut rows = pin!(session.client().copy_out(query).await?);
    let mut reader = RowReader::default();
    while let Some(row) = rows.next().await {
        reader.feed(&row?);
    }
    Ok(reader.rows)
}

pub(super) async fn compare_large_object(
    archive: &Archive<'_>,
    session: &Session,
    oid: u32,
    file: &str,
    out: &mut Verified,
) -> Result<(), SourceError> {
    let mut stored = Hash::default();
    archive.content(file, &mut stored).await?;
    session.run("SAVEPOINT object_", "setting a savepoint").await?;
    let (mut live, mut offset) = (blake3::Hasher::new(), 0);
    loop {
        match large_object_piece(session.client(), oid, offset, "a large object").await {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => {
                live.update(&piece);
                offset += i64::from(LARGE_OBJECT_PIECE);
            }
            Err(error) => {
                differ(out, format!("database {:?}: large object {oid}: {}", session.database(), error.source));
                return session.run("ROLLBACK TO SAVEPOINT object_", "going back to a savepoint").await;
            }
        }
    }
    if live.finalize() != stored.0.finalize() {
        differ(out, format!("database {:?}: large object {oid}: the content differs", session.database()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows_of(text: &str, piece: usize) -> Rows {
        let mut reader = RowReader::default();
        for part in text.as_bytes().chunks(piece) {
            reader.feed(part);
        }
        reader.rows
    }

    proptest! {
        #[test]
        fn neither_order_nor_pieces_matter_but_every_row_does(
            mut rows in proptest::collection::vec("[ab\\\\.]{0,5}", 1..8),
            piece in 1_usize..9,
        ) {
            rows.retain(|row| row != "\\.");
            rows.push("last".to_owned());
            let text = rows.join("\n") + "\n";
            rows.reverse();
            let backwards = rows.join("\n") + "\n";
            prop_assert_eq!(rows_of(&text, piece), rows_of(&format!("{backwards}\\.\n\n\n"), 3));
            prop_assert_ne!(rows_of(&text, piece), rows_of(&format!("{text}x\n"), piece));
        }
    }

    #[test]
    fn a_table_is_divided_from_its_columns() {
        assert_eq!(divide("public.\"a (b\" (c, \"d(\")"), ("public.\"a (b\" ", "(c, \"d(\")"));
        assert_eq!(divide("public.t "), ("public.t ", ""));
    }
}

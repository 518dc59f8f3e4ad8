//! Rows of one table or of several, in the order of their keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{BLOCK_BYTES, KEY_BYTES, RowKey, Table, TableError};

/// A row: key and value.
pub type Row = (RowKey, Vec<u8>);

/// All rows of a table, read block by block.
#[derive(Debug)]
pub struct Rows<'t> {
    table: &'t Table,
    next_block: usize,
    block: Vec<u8>,
    at: usize,
}

impl<'t> Rows<'t> {
    pub(super) fn new(table: &'t Table) -> Self {
        Self { table, next_block: 0, block: Vec::new(), at: 0 }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.block.len() {
            if self.next_block == self.table.fences.len() {
                return None;
            }
            let mut block = [0; BLOCK_BYTES];
            match self.table.block(self.next_block, &mut block) {
                Ok(rows) => self.block = rows.to_vec(),
                Err(error) => {
                    self.next_block = self.table.fences.len();
                    return Some(Err(error));
                }
            }
            self.next_block += 1;
            self.at = 0;
        }
        let row = &self.block[self.at..self.at + KEY_BYTES + self.table.value_bytes];
        self.at += row.len();
        let (key, value) = row.split_first_chunk::<KEY_BYTES>().expect("a row starts with its key");
        Some(Ok((*key, value.to_vec())))
    }
}

/// Joins sorted rows; of equal keys those of the earlier source come first.
pub struct Merge<'t> {
    sources: Vec<Box<dyn Iterator<Item = Result<Row, TableError>> + 't>>,
    heads: BinaryHeap<Reverse<(RowKey, usize, Vec<u8>)>>,
    failed: Option<TableError>,
}

impl std::fmt::Debug for Merge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Merge({} sources)", self.sources.len())
    }
}

impl<'t> Merge<'t> {
    /// Joins these.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Iterator<Item = Result<Row, TableError>> + 't>>) -> Self {
        let mut merge = Self { heads: BinaryHeap::with_capacity(sources.len()), sources, failed: None };
        for number in 0..merge.sources.len() {
            merge.refill(number);
        }
        merge
    }

    fn refill(&mut self, number: usize) {
        match self.sources[number].next() {
            Some(Ok((key, value))) => self.heads.push(Reverse((key, number, value))),
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }
}

impl Iterator for Merge<'_> {
    /// A row, with the number of its source.
    type Item = Result<(usize, Row), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heads.clear();
            return Some(Err(error));
        }
        let Reverse((key, number, value)) = self.heads.pop()?;
        self.refill(number);
        Some(Ok((number, (key, value))))
    }
}

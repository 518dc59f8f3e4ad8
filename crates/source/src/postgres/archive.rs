//! Reads what a backup of a server put into a snapshot.

use async_trait::async_trait;
use lifeboat_model::EntryPath;
use lifeboat_model::flow::{BodyError, ContentSink, Entry, EntryReader, EntryVisitor, Piece, ReadError};

use super::GLOBALS;
use super::globals::GLOBALS_BYTES_MAX;
use super::layout::{self, Counts};
use super::toc::{TOC_BYTES_MAX, Toc, TocEntry};
use crate::SourceError;

/// The largest list of large objects that is read: three million of them.
const LIST_BYTES_MAX: usize = 64 << 20;
/// The largest file of counts.
const COUNTS_BYTES_MAX: usize = 64 << 20;

/// One database of a snapshot.
pub(super) struct Archive<'a> {
    data: &'a dyn EntryReader,
    /// The directory of its entries.
    pub(super) root: EntryPath,
    /// Its name when it was backed up.
    pub(super) database: String,
    /// Its table of contents.
    pub(super) toc: Toc,
    /// What was counted when it was read.
    pub(super) counts: Counts,
}

impl<'a> Archive<'a> {
    /// Reads the table of contents and the counts of a database.
    pub(super) async fn open(data: &'a dyn EntryReader, database: &str) -> Result<Self, SourceError> {
        let root = layout::directory(database).map_err(|error| SourceError::Config {
            what: format!("{database:?} is no name of a database: {error}"),
            hint: None,
        })?;
        let path = below(&root, layout::TOC)?;
        let toc = bytes_of(data, &path, TOC_BYTES_MAX).await?;
        let toc = Toc::parse(&toc).map_err(|error| SourceError::at(&path, error))?;
        let path = below(&root, layout::COUNTS)?;
        let counts = bytes_of(data, &path, COUNTS_BYTES_MAX).await?;
        let counts = serde_json::from_slice(&counts).map_err(|error| SourceError::at(&path, error))?;
        Ok(Self { data, root, database: database.to_owned(), toc, counts })
    }

    /// The entry of one of its files.
    pub(super) async fn file(&self, name: &str) -> Result<Entry, SourceError> {
        let path = below(&self.root, name)?;
        found(self.data, &path).await
    }

    /// Hands the content of one of its files to `sink`.
    pub(super) async fn content(&self, name: &str, sink: &mut dyn ContentSink) -> Result<u64, SourceError> {
        let entry = self.file(name).await?;
        Ok(self.data.content(&entry, sink).await?)
    }

    /// The large objects of a `BLOBS` entry, with their files.
    pub(super) async fn large_objects(&self, blobs: &TocEntry) -> Result<Vec<(u32, String)>, SourceError> {
        let Some(list) = &blobs.file else { return Ok(Vec::new()) };
        let path = below(&self.root, list)?;
        let text = bytes_of(self.data, &path, LIST_BYTES_MAX).await?;
        let text = String::from_utf8(text).map_err(|error| SourceError::at(&path, error))?;
        let parse = |line: &str| {
            let (oid, file) = line.split_once(' ')?;
            Some((oid.parse().ok()?, file.to_owned()))
        };
        let bad = |line: &str| SourceError::at(&path, format!("{line:?} is no line of a list of large objects"));
        text.lines().map(|line| parse(line).ok_or_else(|| bad(line))).collect()
    }
}

/// The databases of a snapshot, in the order of their directories.
pub(super) async fn databases(data: &dyn EntryReader) -> Result<Vec<String>, ReadError> {
    let mut found = Tables(Vec::new());
    data.walk(None, &mut found).await?;
    Ok(found.0)
}

/// The script of roles and tablespaces.
pub(super) async fn globals(data: &dyn EntryReader) -> Result<String, SourceError> {
    let path = EntryPath::new(GLOBALS).map_err(|error| SourceError::Config { what: error.to_string(), hint: None })?;
    let bytes = bytes_of(data, &path, GLOBALS_BYTES_MAX).await?;
    String::from_utf8(bytes).map_err(|error| SourceError::at(&path, error))
}

fn below(root: &EntryPath, name: &str) -> Result<EntryPath, SourceError> {
    root.join(name.as_bytes()).map_err(|error| SourceError::at(root, error))
}

async fn found(data: &dyn EntryReader, path: &EntryPath) -> Result<Entry, SourceError> {
    let entry = data.entry(path).await?;
    entry.ok_or_else(|| ReadError::NoEntry { path: path.clone() }.into())
}

async fn bytes_of(data: &dyn EntryReader, path: &EntryPath, max: usize) -> Result<Vec<u8>, SourceError> {
    let entry = found(data, path).await?;
    let mut collected = Collect { bytes: Vec::new(), max };
    data.content(&entry, &mut collected).await?;
    Ok(collected.bytes)
}

struct Collect {
    bytes: Vec<u8>,
    max: usize,
}

#[async_trait]
impl ContentSink for Collect {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        let Piece::Data(bytes) = piece else { return Err("there is a hole in it".into()) };
        if self.bytes.len() + bytes.len() > self.max {
            return Err(format!("it is larger than {} bytes", self.max).into());
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }
}

/// Collects the databases that have a table of contents.
struct Tables(Vec<String>);

#[async_trait]
impl EntryVisitor for Tables {
    async fn visit(&mut self, entry: Entry) -> Result<(), BodyError> {
        let parts: Vec<&[u8]> = entry.path.components().collect();
        if let [directory, name] = parts[..]
            && name == layout::TOC.as_bytes()
        {
            let name = layout::database(directory);
            self.0.push(name.ok_or_else(|| format!("{} is no directory of a database", entry.path))?);
        }
        Ok(())
    }
}

//! Looking into a snapshot: `ls` and `cat`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use lifeboat_model::flow::{BodyError, ContentSink, Entry, EntryReader, EntryVisitor, Piece};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::error::JobError;

/// One line of `ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Where it is; bytes that are not UTF-8 are shown as the replacement character.
    pub path: String,
    /// `file`, `directory`, `symlink`, ...
    pub kind: &'static str,
    /// Length of the content, holes included.
    pub bytes: u64,
    /// Permission bits, where the source has such.
    pub mode: Option<u32>,
    /// Owner's name, else number.
    pub owner: Option<String>,
    /// Group's name, else number.
    pub group: Option<String>,
    /// Last change of content.
    #[serde(serialize_with = "lifeboat_model::snapshot::rfc3339_or_null")]
    pub mtime: Option<Timestamp>,
    /// Target of a link, or why it was left out.
    pub note: Option<String>,
    /// What the backup recorded of it.
    pub problems: Vec<String>,
}

/// How far down `ls` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What lies directly in a directory.
    Children,
    /// Everything below it.
    All,
}

/// Calls `show` for each entry at or below `under`, in path order, as it is read: a snapshot may
/// have more entries than fit in memory. An entry that is no directory is shown itself. Returns what
/// the backup recorded of entries there that were not shown.
///
/// # Errors
/// [`JobError::Read`] where nothing is there or it cannot be read; [`JobError::Io`] where `show`
/// could not print.
pub async fn ls(
    data: &dyn EntryReader,
    under: Option<&EntryPath>,
    depth: Depth,
    show: &mut (dyn FnMut(Listed) -> std::io::Result<()> + Send),
) -> Result<Vec<(EntryPath, String)>, JobError> {
    let mut problems: BTreeMap<EntryPath, Vec<String>> = BTreeMap::new();
    for (path, what) in data.problems().iter().filter(|(path, _)| under.is_none_or(|under| path.is_within(under))) {
        problems.entry(path.clone()).or_default().push(what.clone());
    }
    let mut lister = Lister { under, depth, show, problems, last: None, any: false };
    let what = || under.map_or_else(|| "listing the snapshot".to_owned(), |path| format!("listing {path}"));
    data.walk(under, &mut lister).await.map_err(JobError::read(what()))?;
    match under {
        Some(path) if !lister.any => {
            Err(JobError::read(what())(lifeboat_model::flow::ReadError::NoEntry { path: path.clone() }))
        }
        _ => {
            let left = lister.problems.into_iter();
            Ok(left.flat_map(|(path, all)| all.into_iter().map(move |what| (path.clone(), what))).collect())
        }
    }
}

struct Lister<'a> {
    under: Option<&'a EntryPath>,
    depth: Depth,
    show: &'a mut (dyn FnMut(Listed) -> std::io::Result<()> + Send),
    /// What the backup recorded, by entry, and was not shown yet.
    problems: BTreeMap<EntryPath, Vec<String>>,
    /// The child shown last: what lies in it implies it no more.
    last: Option<EntryPath>,
    any: bool,
}

impl Lister<'_> {
    /// The child of `under` in which `path` lies, itself included.
    fn child(&self, path: &EntryPath) -> Option<EntryPath> {
        let above = self.under.map_or(0, |under| under.components().count());
        let parts: Vec<&[u8]> = path.components().take(above + 1).collect();
        (parts.len() > above).then(|| EntryPath::new(parts.join(&b'/')).expect("a part of a path is a path"))
    }

    fn show(&mut self, path: &EntryPath, meta: &EntryMeta, bytes: u64) -> Result<(), BodyError> {
        let problems = self.problems.remove(path).unwrap_or_default();
        Ok((self.show)(Listed { problems, ..listed(path, meta, bytes) })?)
    }
}

#[async_trait]
impl EntryVisitor for Lister<'_> {
    async fn visit(&mut self, entry: Entry) -> Result<(), BodyError> {
        self.any = true;
        let itself = self.under == Some(&entry.path);
        if itself && entry.meta.kind == EntryKind::Dir {
            return Ok(());
        }
        if self.depth == Depth::All || itself {
            return self.show(&entry.path, &entry.meta, entry.bytes);
        }
        let Some(child) = self.child(&entry.path) else { return Ok(()) };
        if child == entry.path {
            self.last = Some(child);
            return self.show(&entry.path, &entry.meta, entry.bytes);
        }
        // A dump records no directories: `events/toc.dat` alone implies `events`.
        if self.last.as_ref() != Some(&child) {
            self.show(&child, &EntryMeta::new(EntryKind::Dir), 0)?;
            self.last = Some(child);
        }
        Ok(())
    }
}

fn listed(path: &EntryPath, meta: &EntryMeta, bytes: u64) -> Listed {
    let name = |who: &Option<lifeboat_model::entry::Principal>| {
        who.as_ref().map(|who| who.name.clone().unwrap_or_else(|| who.id.to_string()))
    };
    let time = |(seconds, nanoseconds): (i64, u32)| Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok();
    let link = meta.link.as_ref().map(|link| String::from_utf8_lossy(link).into_owned());
    Listed {
        path: path.to_string(),
        kind: meta.kind.word(),
        bytes,
        mode: meta.mode,
        owner: name(&meta.owner),
        group: name(&meta.group),
        mtime: meta.mtime.and_then(time),
        note: link.or_else(|| meta.why.clone()),
        problems: Vec::new(),
    }
}

/// Writes the content of the entry at `path` to `out`; holes become zeros. Follows a hard link.
/// Returns how many bytes were written.
///
/// # Errors
/// [`JobError::Read`] where there is no such entry or it cannot be read; [`JobError::Usage`] for
/// one that has no content.
pub async fn cat<W: AsyncWrite + Unpin + Send>(
    data: &dyn EntryReader,
    path: &EntryPath,
    out: &mut W,
) -> Result<u64, JobError> {
    let what = || format!("reading {path}");
    let missing = |path: &EntryPath| lifeboat_model::flow::ReadError::NoEntry { path: path.clone() };
    let mut entry =
        data.entry(path).await.map_err(JobError::read(what()))?.ok_or_else(|| JobError::read(what())(missing(path)))?;
    if entry.meta.kind == EntryKind::Hardlink {
        let link =
            entry.meta.link.as_deref().and_then(|link| EntryPath::new(link).ok()).unwrap_or_else(|| path.clone());
        entry = data
            .entry(&link)
            .await
            .map_err(JobError::read(what()))?
            .ok_or_else(|| JobError::read(what())(missing(&link)))?;
    }
    if entry.meta.kind != EntryKind::File {
        if entry.meta.kind == EntryKind::Skipped {
            let why = entry.meta.why.as_deref().unwrap_or("nobody wrote down why");
            let what = format!("{path} was left out of the backup: {why}");
            return Err(JobError::Usage { what, hint: Some("an older snapshot may have it".to_owned()) });
        }
        let what = format!("{path} is a {} and has no content", entry.meta.kind.word());
        return Err(JobError::Usage { what, hint: Some("`lifeboat ls` lists what lies in it".to_owned()) });
    }
    let mut writer = Writer(out);
    let bytes = data.content(&entry, &mut writer).await.map_err(JobError::read(what()))?;
    out.flush().await.map_err(|source| JobError::Io { what: "writing the content".to_owned(), source })?;
    Ok(bytes)
}

struct Writer<'a, W>(&'a mut W);

#[async_trait]
impl<W: AsyncWrite + Unpin + Send> ContentSink for Writer<'_, W> {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        match piece {
            Piece::Data(bytes) => self.0.write_all(&bytes).await?,
            Piece::Hole(mut length) => {
                let zeros = [0; 4 << 10];
                while length > 0 {
                    let part = usize::try_from(length).unwrap_or(usize::MAX).min(zeros.len());
                    self.0.write_all(&zeros[..part]).await?;
                    length -= part as u64;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lifeboat_testkit::snapshot::{FakeEntry, FakeSnapshot};

    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).expect("a path")
    }

    fn snapshot() -> FakeSnapshot {
        let mut snapshot = FakeSnapshot::default();
        snapshot.insert("events/1.dat", EntryMeta::new(EntryKind::File), b"rows");
        snapshot.insert("events/toc.dat", EntryMeta::new(EntryKind::File), b"toc");
        snapshot.insert("globals.sql", EntryMeta::new(EntryKind::File), b"roles");
        snapshot.insert("srv", EntryMeta::new(EntryKind::Dir), b"");
        snapshot.insert("srv/a", EntryMeta::new(EntryKind::File), b"1");
        let mut link = EntryMeta::new(EntryKind::Hardlink);
        link.link = Some(b"srv/a".to_vec());
        snapshot.insert("srv/b", link, b"");
        snapshot
    }

    async fn list(under: Option<&str>, depth: Depth) -> Result<Vec<String>, JobError> {
        Ok(list_of(&snapshot(), under, depth).await?.0)
    }

    /// What is shown, and how many problems are not.
    async fn list_of(data: &FakeSnapshot, under: Option<&str>, depth: Depth) -> Result<(Vec<String>, usize), JobError> {
        let mut out = Vec::new();
        let under = under.map(path);
        let mut show = |listed: Listed| {
            out.push(format!("{} {} {}", listed.kind, listed.path, listed.problems.join(", ")).trim_end().to_owned());
            Ok(())
        };
        let hidden = ls(data, under.as_ref(), depth, &mut show).await?;
        Ok((out, hidden.len()))
    }

    #[tokio::test]
    async fn ls_marks_what_the_backup_recorded_and_tells_what_it_does_not_show() {
        let mut data = snapshot();
        for (at, what) in [("srv/a", "torn"), ("srv/a", "no attributes"), ("events", "a table"), ("gone", "unlisted")] {
            data.problems.push((path(at), what.to_owned()));
        }
        let (all, hidden) = list_of(&data, None, Depth::All).await.expect("listed");
        assert!(all.contains(&"file srv/a torn, no attributes".to_owned()), "{all:?}");
        assert_eq!(hidden, 2, "no entry of these names is listed");
        let (top, hidden) = list_of(&data, None, Depth::Children).await.expect("listed");
        assert_eq!((top[0].as_str(), hidden), ("directory events a table", 3));
        assert_eq!(list_of(&data, Some("srv"), Depth::Children).await.expect("listed").1, 0, "elsewhere");
    }

    #[tokio::test]
    async fn ls_shows_children_and_directories_that_no_entry_records() {
        let top = list(None, Depth::Children).await.expect("listed");
        assert_eq!(top, ["directory events", "file globals.sql", "directory srv"]);
        let events = list(Some("events"), Depth::Children).await.expect("listed");
        assert_eq!(events, ["file events/1.dat", "file events/toc.dat"]);
        assert_eq!(list(Some("srv"), Depth::Children).await.expect("listed"), ["file srv/a", "hardlink srv/b"]);
        assert_eq!(list(Some("srv/a"), Depth::Children).await.expect("listed"), ["file srv/a"]);
        assert_eq!(list(None, Depth::All).await.expect("listed").len(), 6);
    }

    #[tokio::test]
    async fn ls_of_what_is_not_there_says_so() {
        let error = list(Some("nowhere"), Depth::All).await.expect_err("nothing");
        assert_eq!(error.chain(), "listing nowhere failed: nowhere is not in the snapshot");
    }

    #[tokio::test]
    async fn cat_writes_holes_as_zeros_and_follows_hard_links() {
        let mut data = snapshot();
        let pieces =
            vec![Piece::Data(Bytes::from_static(b"a")), Piece::Hole(100_000), Piece::Data(Bytes::from_static(b"z"))];
        let meta = EntryMeta::new(EntryKind::File);
        data.entries.insert(path("sparse"), FakeEntry { meta, fingerprint: None, pieces, kept: false });
        let mut out = Vec::new();
        assert_eq!(cat(&data, &path("sparse"), &mut out).await.expect("read"), 100_002);
        assert_eq!((out.len(), out[0], out[50_000], out[100_001]), (100_002, b'a', 0, b'z'));
        let mut out = Vec::new();
        cat(&data, &path("srv/b"), &mut out).await.expect("read");
        assert_eq!(out, b"1");
        assert_eq!(cat(&data, &path("srv"), &mut Vec::new()).await.expect_err("a directory").exit_code(), 2);
    }
}

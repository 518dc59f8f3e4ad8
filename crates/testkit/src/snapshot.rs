//! A snapshot in memory: the two sides of `model::flow` without a repository between them.
//!
//! [`FakeSink`] takes what a source pushes and holds it to the contract; [`FakeSink::seal`] makes
//! a [`FakeSnapshot`] of it, from which a target restores and which can be the parent of the next
//! backup. Both can be told to fail at a chosen place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::flow::{
    Body, ContentSink, Entry, EntryReader, EntrySink, EntryStats, EntryVisitor, Kept, Monitor, PIECE_BYTES_MAX, Piece,
    ReadError, SinkError,
};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, Fingerprint, RecoveryPoint};

/// Called with an entry's path and how many bytes of its content were handed over so far.
pub type ContentHook = Box<dyn Fn(&EntryPath, u64) + Send + Sync>;

/// One entry with its content.
#[derive(Clone, Debug)]
pub struct FakeEntry {
    /// All but the bytes.
    pub meta: EntryMeta,
    /// Given by the source, compared by `keep` of the next run.
    pub fingerprint: Option<Fingerprint>,
    /// The content as it was cut by the source.
    pub pieces: Vec<Piece>,
    /// Whether the content was taken over from the parent.
    pub kept: bool,
}

impl FakeEntry {
    /// Length of the content, holes included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(Piece::length).sum()
    }

    /// The content with its holes as zeros.
    ///
    /// # Panics
    /// Where a hole is longer than the memory is wide.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Data(bytes) => out.extend_from_slice(bytes),
                Piece::Hole(length) => {
                    out.resize(out.len() + usize::try_from(*length).expect("a hole that fits in memory"), 0);
                }
            }
        }
        out
    }
}

/// Where a [`FakeSink`] fails.
#[derive(Clone, Debug, Default)]
pub struct SinkFaults {
    /// A `put` of one of these paths fails as if the repository had refused it.
    pub put_of: BTreeSet<EntryPath>,
    /// Content beyond this many bytes in all does not fit.
    pub after_bytes: Option<u64>,
    /// The call with this number (from 0, of any kind) and all later ones fail.
    pub from_call: Option<u64>,
}

/// What was called how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// `keep` that answered yes.
    pub kept: u64,
    /// `keep` that answered no.
    pub not_kept: u64,
    /// `put` that took an entry.
    pub put: u64,
    /// `skip`.
    pub skip: u64,
    /// `problem`.
    pub problem: u64,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<EntryPath, FakeEntry>,
    problems: Vec<(EntryPath, String)>,
    calls: Calls,
    call_number: u64,
    bytes: u64,
    poisoned: Option<String>,
}

/// An [`EntrySink`] in memory.
#[derive(Default)]
pub struct FakeSink {
    state: Mutex<State>,
    parent: Option<Arc<FakeSnapshot>>,
    faults: SinkFaults,
    on_content: Option<ContentHook>,
}

impl fmt::Debug for FakeSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSink").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl FakeSink {
    /// A sink without a parent that never fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink whose `keep` looks into `parent`.
    #[must_use]
    pub fn with_parent(parent: Arc<FakeSnapshot>) -> Self {
        Self { parent: Some(parent), ..Self::default() }
    }

    /// The same sink, failing where `faults` says.
    #[must_use]
    pub fn failing(mut self, faults: SinkFaults) -> Self {
        self.faults = faults;
        self
    }

    /// The same sink, calling `hook` before it asks a body for each piece. A test changes the
    /// source there.
    #[must_use]
    pub fn on_content(mut self, hook: ContentHook) -> Self {
        self.on_content = Some(hook);
        self
    }

    /// What was called so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    /// What [`EntrySink::problem`] and [`EntrySink::skip`] were told so far.
    #[must_use]
    pub fn problems(&self) -> Vec<(EntryPath, String)> {
        self.state().problems.clone()
    }

    /// Makes a snapshot of what was put.
    ///
    /// # Panics
    /// Where a call failed before: a poisoned writer cannot be sealed.
    #[must_use]
    pub fn seal(self, point: RecoveryPoint) -> FakeSnapshot {
        let state = self.state.into_inner().expect("no call panicked");
        assert_eq!(state.poisoned, None, "a poisoned writer cannot be sealed");
        FakeSnapshot { entries: state.entries, problems: state.problems, point: Some(point), ..FakeSnapshot::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no call panicked")
    }

    /// Counts a call and fails it where that is due.
    fn enter(&self, path: &EntryPath) -> Result<(), SinkError> {
        let mut state = self.state();
        if let Some(why) = &state.poisoned {
            return Err(SinkError::Poisoned(why.clone()));
        }
        let number = state.call_number;
        state.call_number += 1;
        if self.faults.from_call.is_some_and(|from| number >= from) {
            return Err(refuse(&mut state, path, "told to fail from this call on"));
        }
        Ok(())
    }

    async fn read(&self, path: &EntryPath, body: Body) -> Result<Vec<Piece>, SinkError> {
        let (mut pieces, mut offset) = (Vec::new(), 0);
        let mut from = match body {
            Body::Empty => return Ok(pieces),
            Body::Bytes(bytes) => {
                self.tell(path, 0);
                self.take(path, Piece::Data(bytes), &mut pieces)?;
                return Ok(pieces);
            }
            Body::Stream { from, .. } => from,
        };
        loop {
            self.tell(path, offset);
            match from.next().await {
                Ok(None) => return Ok(pieces),
                Ok(Some(piece)) => {
                    offset += piece.length();
                    self.take(path, piece, &mut pieces)?;
                }
                Err(source) => {
                    self.state().poisoned = Some(format!("reading {path} failed"));
                    return Err(SinkError::Body { path: path.clone(), source });
                }
            }
        }
    }

    fn tell(&self, path: &EntryPath, offset: u64) {
        if let Some(hook) = &self.on_content {
            hook(path, offset);
        }
    }

    fn take(&self, path: &EntryPath, piece: Piece, pieces: &mut Vec<Piece>) -> Result<(), SinkError> {
        let mut state = self.state();
        if matches!(&piece, Piece::Data(bytes) if bytes.len() > PIECE_BYTES_MAX || bytes.is_empty()) {
            return Err(refuse(&mut state, path, "a piece of data is empty or longer than PIECE_BYTES_MAX"));
        }
        if let Piece::Data(bytes) = &piece {
            state.bytes += bytes.len() as u64;
        }
        if self.faults.after_bytes.is_some_and(|limit| state.bytes > limit) {
            return Err(refuse(&mut state, path, "told to be full"));
        }
        pieces.push(piece);
        Ok(())
    }
}

fn refuse(state: &mut State, path: &EntryPath, why: &str) -> SinkError {
    state.poisoned = Some(format!("storing {path} failed"));
    SinkError::Repository { path: path.clone(), source: why.into() }
}

#[async_trait]
impl EntrySink for FakeSink {
    async fn keep(&self, path: &EntryPath, meta: &EntryMeta, fingerprint: &Fingerprint) -> Result<Kept, SinkError> {
        self.enter(path)?;
        let found = self.parent.as_ref().and_then(|parent| parent.entries.get(path));
        let same = found.filter(|entry| entry.fingerprint == Some(*fingerprint));
        let mut state = self.state();
        let Some(entry) = same else {
            state.calls.not_kept += 1;
            return Ok(Kept::No);
        };
        let bytes = entry.bytes();
        state.calls.kept += 1;
        let kept = FakeEntry { meta: meta.clone(), kept: true, ..entry.clone() };
        state.entries.insert(path.clone(), kept);
        Ok(Kept::Yes { bytes })
    }

    async fn put(
        &self,
        path: &EntryPath,
        meta: &EntryMeta,
        fingerprint: Option<Fingerprint>,
        body: Body,
    ) -> Result<EntryStats, SinkError> {
        self.enter(path)?;
        if self.faults.put_of.contains(path) {
            return Err(refuse(&mut self.state(), path, "told to refuse this path"));
        }
        let pieces = self.read(path, body).await?;
        let entry = FakeEntry { meta: meta.clone(), fingerprint, pieces, kept: false };
        let bytes = entry.bytes();
        let mut state = self.state();
        state.calls.put += 1;
        state.entries.insert(path.clone(), entry);
        Ok(EntryStats { bytes, new_bytes: bytes })
    }

    async fn skip(&self, path: &EntryPath, why: &str) -> Result<(), SinkError> {
        self.enter(path)?;
        let mut meta = EntryMeta::new(EntryKind::Skipped);
        meta.why = Some(why.to_owned());
        let mut state = self.state();
        state.calls.skip += 1;
        state.problems.push((path.clone(), why.to_owned()));
        let entry = FakeEntry { meta, fingerprint: None, pieces: Vec::new(), kept: false };
        state.entries.insert(path.clone(), entry);
        Ok(())
    }

    async fn problem(&self, path: &EntryPath, what: &str) -> Result<(), SinkError> {
        self.enter(path)?;
        let mut state = self.state();
        state.calls.problem += 1;
        state.problems.push((path.clone(), what.to_owned()));
        Ok(())
    }
}

/// An [`EntryReader`] in memory. Its parts are public: a test may put in what no source writes.
#[derive(Default)]
pub struct FakeSnapshot {
    /// The entries with their content.
    pub entries: BTreeMap<EntryPath, FakeEntry>,
    /// What was left out or is not as it should be.
    pub problems: Vec<(EntryPath, String)>,
    /// As the source made it; `None` for a snapshot that a test put together.
    pub point: Option<RecoveryPoint>,
    /// Entries whose content is damaged from its middle on.
    pub damaged: BTreeSet<EntryPath>,
    /// Called before each piece that [`EntryReader::content`] hands out.
    pub on_content: Option<ContentHook>,
}

impl fmt::Debug for FakeSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSnapshot").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl FakeSnapshot {
    /// Puts an entry in, with all of its content in one piece.
    ///
    /// # Panics
    /// Where `path` is no entry path.
    pub fn insert(&mut self, path: &str, meta: EntryMeta, content: &[u8]) {
        let pieces = content.chunks(PIECE_BYTES_MAX).map(|c| Piece::Data(Bytes::copy_from_slice(c))).collect();
        let path = EntryPath::new(path).expect("an entry path");
        self.entries.insert(path, FakeEntry { meta, fingerprint: None, pieces, kept: false });
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&FakeEntry> {
        self.entries.get(&EntryPath::new(path).ok()?)
    }

    fn listed(path: &EntryPath, entry: &FakeEntry) -> Entry {
        Entry { path: path.clone(), meta: entry.meta.clone(), bytes: entry.bytes(), content: Bytes::new() }
    }

    fn damage(path: &EntryPath) -> ReadError {
        ReadError::Damaged { what: path.to_string(), source: "told to be damaged".into() }
    }
}

#[async_trait]
impl EntryReader for FakeSnapshot {
    async fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, ReadError> {
        Ok(self.entries.get(path).map(|entry| Self::listed(path, entry)))
    }

    async fn walk(&self, under: Option<&EntryPath>, visitor: &mut dyn EntryVisitor) -> Result<(), ReadError> {
        for (path, entry) in &self.entries {
            if under.is_none_or(|under| path.is_within(under)) {
                visitor.visit(Self::listed(path, entry)).await.map_err(ReadError::Receiver)?;
            }
        }
        Ok(())
    }

    async fn content(&self, entry: &Entry, sink: &mut dyn ContentSink) -> Result<u64, ReadError> {
        let path = &entry.path;
        let found = self.entries.get(path).ok_or_else(|| ReadError::NoEntry { path: path.clone() })?;
        let mut offset = 0;
        for (number, piece) in found.pieces.iter().enumerate() {
            if self.damaged.contains(path) && number >= found.pieces.len() / 2 {
                return Err(Self::damage(path));
            }
            if let Some(hook) = &self.on_content {
                hook(path, offset);
            }
            offset += piece.length();
            sink.piece(piece.clone()).await.map_err(ReadError::Receiver)?;
        }
        Ok(offset)
    }

    async fn preflight(&self, under: Option<&EntryPath>, monitor: &dyn Monitor) -> Result<(), ReadError> {
        let meant = self.entries.iter().filter(|(path, _)| under.is_none_or(|under| path.is_within(under)));
        monitor.bytes(meant.map(|(_, entry)| entry.bytes()).sum());
        let hurt = self.damaged.iter().find(|path| under.is_none_or(|under| path.is_within(under)));
        hurt.map_or(Ok(()), |path| Err(Self::damage(path)))
    }

    fn problems(&self) -> &[(EntryPath, String)] {
        &self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).expect("an entry path")
    }

    fn point() -> RecoveryPoint {
        RecoveryPoint { time: jiff::Timestamp::UNIX_EPOCH, consistency: String::new(), facts: BTreeMap::new() }
    }

    #[tokio::test]
    async fn an_unchanged_entry_is_kept_from_the_parent_and_a_changed_one_is_not() {
        let meta = EntryMeta::new(EntryKind::File);
        let (old, new) = (Fingerprint([1; 16]), Fingerprint([2; 16]));
        let sink = FakeSink::new();
        sink.put(&path("a"), &meta, Some(old), Body::Bytes(Bytes::from_static(b"abc"))).await.expect("put");
        let sink = FakeSink::with_parent(Arc::new(sink.seal(point())));
        assert_eq!(sink.keep(&path("a"), &meta, &new).await.expect("keep"), Kept::No);
        assert_eq!(sink.keep(&path("a"), &meta, &old).await.expect("keep"), Kept::Yes { bytes: 3 });
        assert_eq!(sink.seal(point()).get("a").expect("the entry").content(), b"abc");
    }

    #[tokio::test]
    async fn a_failed_put_poisons_the_sink() {
        let faults = SinkFaults { put_of: BTreeSet::from([path("bad")]), ..SinkFaults::default() };
        let sink = FakeSink::new().failing(faults);
        let meta = EntryMeta::new(EntryKind::File);
        sink.put(&path("good"), &meta, None, Body::Empty).await.expect("put");
        assert!(matches!(sink.put(&path("bad"), &meta, None, Body::Empty).await, Err(SinkError::Repository { .. })));
        assert!(matches!(sink.skip(&path("good"), "why").await, Err(SinkError::Poisoned(_))));
    }
}

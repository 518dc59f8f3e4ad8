//! The contracts between the side that knows datastores and the side that knows repositories.
//!
//! A source pushes entries into an [`EntrySink`]; a restore pulls them from an [`EntryReader`].
//! Neither side knows more of the other than this module says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{EntryMeta, EntryPath, Fingerprint};

/// One step of an entry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes. At most [`PIECE_BYTES_MAX`].
    Data(Bytes),
    /// The next this many bytes are zero and were not stored by the file system.
    Hole(u64),
}

impl Piece {
    /// How many bytes of the content it is.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(length) => *length,
        }
    }
}

/// The largest [`Piece::Data`]: 1 MiB.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// The content of an entry, read piece by piece from the source.
#[async_trait]
pub trait BodyRead: Send {
    /// The next piece; `None` at the end of a complete body.
    ///
    /// # Errors
    /// Anything that means that the body is not whole: a read error, a child process that ended
    /// with a status other than zero. After an error the body is dead.
    async fn next(&mut self) -> Result<Option<Piece>, BodyError>;
}

/// A source's error on the way through the sink.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The content of an entry on its way into the repository.
pub enum Body {
    /// Nothing: directories, links, devices, empty files.
    Empty,
    /// All of it in memory; for small files the cheapest way. At most [`PIECE_BYTES_MAX`].
    Bytes(Bytes),
    /// A stream of unknown length.
    Stream {
        /// Where the pieces come from.
        from: Box<dyn BodyRead>,
        /// What the bytes are like.
        shape: Shape,
    },
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Stream { shape, .. } => write!(f, "Stream({shape:?})"),
        }
    }
}

/// What a stream is like, so that it is cut where it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything: large content-defined chunks.
    Stream,
    /// Rows of a dump: small content-defined chunks, so that a changed row costs little.
    Rows,
    /// A file of pages of 8 KiB, or of lengths that divide it, that are changed in place: a database's
    /// own file, the disk of a virtual machine. Chunks of one length, so that a changed page costs its
    /// own size.
    Pages,
}

/// What became of a [`EntrySink::put`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryStats {
    /// Length of the content, holes included.
    pub bytes: u64,
    /// Plain length of the chunks that the repository did not hold yet.
    pub new_bytes: u64,
}

/// Whether [`EntrySink::keep`] could reuse the parent's chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The entry is in the snapshot with the parent's content; this many bytes.
    Yes {
        /// Length of the content, holes included.
        bytes: u64,
    },
    /// The caller has to read and [`EntrySink::put`] it.
    No,
}

/// All that a source knows of a repository. Calls may come from many tasks at once and in any
/// order of paths; the last call for a path wins, so that a file that changed while it was read
/// can be put again.
#[async_trait]
pub trait EntrySink: Send + Sync {
    /// Takes the entry over from the parent snapshot if its fingerprint there is equal and all of
    /// its chunks are still at hand. `meta` is stored as given: only content is reused.
    ///
    /// # Errors
    /// [`SinkError`] where the writer is dead; the source should pass it on at once.
    async fn keep(&self, path: &EntryPath, meta: &EntryMeta, fingerprint: &Fingerprint) -> Result<Kept, SinkError>;

    /// Stores an entry. When it returns, the content was read to its end.
    ///
    /// # Errors
    /// A failed put (the body failed, or the store) poisons the writer: it can no longer be sealed.
    /// What may fail for one entry alone must be read before `put`, or be reported with
    /// [`EntrySink::skip`] instead.
    async fn put(
        &self,
        path: &EntryPath,
        meta: &EntryMeta,
        fingerprint: Option<Fingerprint>,
        body: Body,
    ) -> Result<EntryStats, SinkError>;

    /// Records that something was left out and why. The run ends with problems (exit 3).
    ///
    /// # Errors
    /// [`SinkError`] where the writer is dead.
    async fn skip(&self, path: &EntryPath, why: &str) -> Result<(), SinkError>;

    /// Records a problem of an entry that is in the snapshot, such as a file that kept changing
    /// while it was read. The run ends with problems (exit 3).
    ///
    /// # Errors
    /// [`SinkError`] where the writer is dead.
    async fn problem(&self, path: &EntryPath, what: &str) -> Result<(), SinkError>;
}

/// Why a sink refuses further work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The content of this entry could not be read to its end.
    #[error("reading {path} failed")]
    Body {
        /// Which entry.
        path: EntryPath,
        /// What the source said.
        #[source]
        source: BodyError,
    },
    /// The repository could not take it.
    #[error("storing {path} failed")]
    Repository {
        /// Which entry.
        path: EntryPath,
        /// What the repository said.
        #[source]
        source: BodyError,
    },
    /// An earlier call failed; nothing more is taken.
    #[error("the snapshot was given up after an earlier failure: {0}")]
    Poisoned(String),
}

/// An entry as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: EntryPath,
    /// All but the bytes.
    pub meta: EntryMeta,
    /// Length of the content, holes included.
    pub bytes: u64,
    /// Where the reader finds the content; meaningful only to the reader that made it.
    pub content: Bytes,
}

/// Visits entries in the order of their paths.
#[async_trait]
pub trait EntryVisitor: Send {
    /// Takes the next entry.
    ///
    /// # Errors
    /// An error ends the walk.
    async fn visit(&mut self, entry: Entry) -> Result<(), BodyError>;
}

/// Receives an entry's content in order.
#[async_trait]
pub trait ContentSink: Send {
    /// Takes the next piece.
    ///
    /// # Errors
    /// An error ends the read.
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError>;
}

/// All that a restore knows of a snapshot. Every byte that it hands out was decrypted and checked
/// against its chunk id before.
#[async_trait]
pub trait EntryReader: Send + Sync {
    /// The entry at exactly this path.
    ///
    /// # Errors
    /// [`ReadError`] where a manifest page is missing or damaged.
    async fn entry(&self, path: &EntryPath) -> Result<Option<Entry>, ReadError>;

    /// Walks the entry at `under` and everything below it (all entries for `None`) in path order.
    ///
    /// # Errors
    /// [`ReadError`] where a manifest page is missing or damaged, or what the visitor said.
    async fn walk(&self, under: Option<&EntryPath>, visitor: &mut dyn EntryVisitor) -> Result<(), ReadError>;

    /// Reads an entry's content to its end. May be called for several entries at once; what lies
    /// close together in the repository is fetched once.
    ///
    /// # Errors
    /// [`ReadError`] where a chunk is missing or damaged in every copy, or what the sink said. What
    /// the sink got until then is true, but not whole.
    async fn content(&self, entry: &Entry, sink: &mut dyn ContentSink) -> Result<u64, ReadError>;

    /// Reads and checks every chunk that these entries need, without handing anything out. A
    /// restore that is about to destroy something calls it first. `monitor` is told of the content as
    /// it is checked.
    ///
    /// # Errors
    /// As [`EntryReader::content`], for the first entry that is hurt.
    async fn preflight(&self, under: Option<&EntryPath>, monitor: &dyn Monitor) -> Result<(), ReadError>;

    /// What the backup recorded of entries that are left out or not sound, as far as it lists them.
    fn problems(&self) -> &[(EntryPath, String)];
}

/// Why an entry could not be read from a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing of this name is in the snapshot.
    #[error("{path} is not in the snapshot")]
    NoEntry {
        /// What was asked for.
        path: EntryPath,
    },
    /// The repository lost or damaged a part of it.
    #[error("{what} cannot be read from the repository")]
    Damaged {
        /// Entry or manifest page, and the object that is hurt.
        what: String,
        /// What the repository said.
        #[source]
        source: BodyError,
    },
    /// The receiver gave up.
    #[error("the restore's side failed")]
    Receiver(#[source] BodyError),
}

/// A stretch of a log on its way into the repository. Exercised by the repository's tests only
/// until the first datastore with point-in-time recovery arrives.
#[async_trait]
pub trait LogSink: Send + Sync {
    /// Stores one segment of the log under its name (`000000010000000000000042`).
    ///
    /// # Errors
    /// [`SinkError`] where it could not be stored durably.
    async fn segment(&self, name: &str, facts: &BTreeMap<String, String>, body: Body) -> Result<EntryStats, SinkError>;
}

/// Where code learns what time it is. Only `wire::clock` reads the real one.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time of the wall.
    fn now(&self) -> Timestamp;
    /// A clock that never jumps, for durations; counted from an arbitrary start.
    fn monotonic(&self) -> Duration;
}

/// Where library code tells how far it is. Implementations must be cheap: they are called for each
/// piece.
pub trait Monitor: Send + Sync {
    /// What is being worked on; `total_bytes` if it is known.
    fn begin(&self, what: &str, total_bytes: Option<u64>);
    /// How long what was begun takes at least before it is worth learning how much there is in all; `None`
    /// where nobody wants to know.
    fn total_after(&self) -> Option<Duration> {
        None
    }
    /// How much there is in all of what was begun, learned on the way.
    fn total(&self, _bytes: u64) {}
    /// This many more bytes were read from the source or written to the target.
    fn bytes(&self, count: u64);
    /// This many more entries are done.
    fn entries(&self, count: u64);
    /// Something for the person that is not an error of the run: a note such as a new database.
    fn note(&self, text: &str);
}

/// A monitor that tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Monitor for Silent {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn bytes(&self, _count: u64) {}
    fn entries(&self, _count: u64) {}
    fn note(&self, _text: &str) {}
}

/// Says whether a run should end early. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks everybody who holds a clone to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether someone asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What every long piece of work is given, always as its last parameter.
#[derive(Clone)]
pub struct RunContext {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub monitor: Arc<dyn Monitor>,
    /// Whether to stop.
    pub cancel: Cancel,
    /// A directory for scratch files of this machine's runs, mode 0700. Whoever uses it removes
    /// what it made; what a killed run left is removed by the next command.
    pub scratch: PathBuf,
    /// Bytes of memory that buffers may take in all: 256 MiB by default, whole process.
    pub memory_budget_bytes: u64,
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

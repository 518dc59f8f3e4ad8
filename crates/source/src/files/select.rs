//! Which entries of a snapshot a restore is about.

use async_trait::async_trait;
use lifeboat_model::flow::{BodyError, Entry, EntryReader, EntryVisitor, ReadError};
use lifeboat_model::target::RestoreOptions;
use lifeboat_model::{EntryKind, EntryPath};
use tokio::sync::{Mutex, mpsc};

use super::meta::ABOVE;
use super::patterns::Patterns;
use crate::SourceError;

/// Entries that are handed over at once.
const BATCH_ENTRIES: usize = 64;
/// Content that a batch holds at most, unless a single entry is larger.
const BATCH_BYTES: u64 = 4 << 20;
/// Batches that wait.
const BATCHES: usize = 4;

/// Everything, or what paths and patterns name.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Sorted; none lies within another.
    pub(super) paths: Vec<EntryPath>,
    patterns: Option<Patterns>,
    all: bool,
}

/// An entry that the walk met.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) entry: Entry,
    /// Whether it was asked for. Directories come that were not: they may hold what was. So do those
    /// that are only the way to a configured path, whatever was asked for.
    pub(super) selected: bool,
}

impl Selection {
    /// Reads what a person wrote: a path of the snapshot with or without its leading slash, or a
    /// pattern as in [`Patterns`]. What is met is meant with all below it.
    ///
    /// # Errors
    /// [`SourceError::Config`] for a part that is not in the snapshot, and for new names: files keep
    /// their paths.
    pub(super) async fn new(options: &RestoreOptions, data: &dyn EntryReader) -> Result<Self, SourceError> {
        if let Some((old, new)) = options.rename.first_key_value() {
            return Err(SourceError::Config {
                what: format!("--rename {old}={new} renames a database of a server; files keep their paths"),
                hint: Some("leave it out: --to DIR puts the files elsewhere".to_owned()),
            });
        }
        if options.only.is_empty() {
            return Ok(Self { all: true, ..Self::default() });
        }
        let (mut paths, mut patterns) = (Vec::new(), Vec::new());
        for text in &options.only {
            let path = EntryPath::new(text.trim_matches('/')).ok();
            let found = match &path {
                Some(path) => data.entry(path).await?,
                None => None,
            };
            match found {
                Some(entry) => paths.push(entry.path),
                None if text.contains(['*', '?', '[', '{']) => patterns.push(text.clone()),
                None => return Err(nothing(text)),
            }
        }
        paths.sort();
        let mut outer: Vec<EntryPath> = Vec::new();
        for path in paths {
            if !outer.last().is_some_and(|last| path.is_within(last)) {
                outer.push(path);
            }
        }
        let patterns = if patterns.is_empty() { None } else { Some(Patterns::new(&patterns)?) };
        Ok(Self { paths: outer, patterns, all: false })
    }

    /// Whether an entry at this path is asked for, itself or by what lies above it.
    pub(super) fn holds(&self, path: &EntryPath, kind: EntryKind) -> bool {
        if self.all || self.paths.iter().any(|wanted| path.is_within(wanted)) {
            return true;
        }
        let Some(patterns) = &self.patterns else { return false };
        let bytes = path.as_bytes();
        let above = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &bytes[..at]);
        patterns.hit(path)
            || (kind == EntryKind::Dir && patterns.hit_dir(path))
            || above
                .filter_map(|above| EntryPath::new(above).ok())
                .any(|above| patterns.hit(&above) || patterns.hit_dir(&above))
    }

    /// The entries whose content will be read; empty for everything.
    pub(super) fn reads(&self) -> Vec<EntryPath> {
        if self.patterns.is_some() { Vec::new() } else { self.paths.clone() }
    }

    /// Walks what is selected, in order, into a bounded channel.
    pub(super) async fn walk(&self, data: &dyn EntryReader, out: mpsc::Sender<Vec<Item>>) -> Result<(), SourceError> {
        let mut feed = Feed { selection: self, out, batch: Vec::new(), bytes: 0, any: false };
        let walked = if self.all || self.patterns.is_some() {
            data.walk(None, &mut feed).await
        } else {
            let mut walked = Ok(());
            for path in &self.paths {
                walked = data.walk(Some(path), &mut feed).await;
                if walked.is_err() {
                    break;
                }
            }
            walked
        };
        match walked {
            // Whoever listened has an error of its own.
            Err(ReadError::Receiver(_)) if feed.out.is_closed() => return Ok(()),
            other => other?,
        }
        // As above.
        let _ = feed.flush().await;
        if !feed.any && self.patterns.is_some() {
            return Err(nothing("the pattern"));
        }
        Ok(())
    }
}

/// A channel for [`Selection::walk`].
pub(super) fn channel() -> (mpsc::Sender<Vec<Item>>, mpsc::Receiver<Vec<Item>>) {
    mpsc::channel(BATCHES)
}

/// What is done with each batch.
#[async_trait]
pub(super) trait BatchWork: Sync {
    /// Works on one batch; several are worked on at once.
    async fn batch(&self, batch: Vec<Item>) -> Result<(), SourceError>;

    /// Told when a batch has failed: the others should end soon.
    fn give_up(&self);
}

/// Works on `jobs` batches at once until there are no more, or one fails. It returns when nothing is
/// being worked on any more: whoever tries again meets no left-over writer.
pub(super) async fn in_parallel(
    jobs: usize,
    batches: mpsc::Receiver<Vec<Item>>,
    work: &dyn BatchWork,
) -> Result<(), SourceError> {
    let batches = Mutex::new(batches);
    let workers: Vec<_> = (0..jobs).map(|_| one_by_one(&batches, work)).collect();
    let outcomes = futures::future::join_all(workers).await;
    let mut errors: Vec<SourceError> = outcomes.into_iter().filter_map(Result::err).collect();
    // Those that gave up because another failed say that they were stopped.
    let first = errors.iter().position(|error| !matches!(error, SourceError::Cancelled)).unwrap_or(0);
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(first)) }
}

async fn one_by_one(batches: &Mutex<mpsc::Receiver<Vec<Item>>>, work: &dyn BatchWork) -> Result<(), SourceError> {
    loop {
        let batch = batches.lock().await.recv().await;
        let Some(batch) = batch else { return Ok(()) };
        if let Err(error) = work.batch(batch).await {
            work.give_up();
            batches.lock().await.close();
            return Err(error);
        }
    }
}

struct Feed<'a> {
    selection: &'a Selection,
    out: mpsc::Sender<Vec<Item>>,
    batch: Vec<Item>,
    bytes: u64,
    any: bool,
}

impl Feed<'_> {
    async fn flush(&mut self) -> Result<(), BodyError> {
        self.bytes = 0;
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_ENTRIES));
        if batch.is_empty() {
            return Ok(());
        }
        self.out.send(batch).await.map_err(|_| "nobody listens any more".into())
    }
}

#[async_trait]
impl EntryVisitor for Feed<'_> {
    async fn visit(&mut self, entry: Entry) -> Result<(), BodyError> {
        let selected = self.selection.holds(&entry.path, entry.meta.kind);
        if !selected && entry.meta.kind != EntryKind::Dir {
            return Ok(());
        }
        self.any |= selected;
        let selected = selected && !entry.meta.extra.contains_key(ABOVE);
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.batch.push(Item { entry, selected });
        if self.batch.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }
}

fn nothing(what: &str) -> SourceError {
    SourceError::Config {
        what: format!("{what} names nothing in the snapshot"),
        hint: Some(
            "in a directory a part is a path or a pattern of what `lifeboat ls -R` shows, quoted against the shell: of a \
             dump a database is the directory of its name, and its tables are parts of a restore to a server only"
                .to_owned(),
        ),
    }
}

//! A snapshot in the making: takes entries in any order, and exists only once it is sealed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use lifeboat_model::flow::{Body, EntrySink, EntryStats, Kept, RunContext, SinkError};
use lifeboat_model::{Digest, EntryKind, EntryMeta, EntryPath, Fingerprint, SnapshotId, SourceName, StackName};
use lifeboat_store::Store;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::access::{Access, DomainKeys};
use crate::cache::StateDir;
use crate::chunker::Cutter;
use crate::content::{IdFile, StoredContent};
use crate::crypt::CryptError;
use crate::error::RepoError;
use crate::page::{Content, Extent};
use crate::parent::{Parent, ParentKey};
use crate::pipeline::known::Known;
use crate::pipeline::stop::{Cause, Stop};
use crate::pipeline::{Limits, Pipeline, RunSecrets, Setup};
use crate::remember::RememberedHead;
use crate::repository::Repository;
use crate::run::{Link, OpenRun};
use crate::slices::SliceMaps;
use crate::small::RunId;
use crate::tree::EntrySorter;

mod body;
mod chain;
pub(crate) mod copied;
mod problems;
mod seal;
mod sliced;

use chain::Chain;
use copied::CopyOf;
use problems::Problems;

/// What a snapshot says of itself besides its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The stack.
    pub stack: StackName,
    /// The source; the writer must be allowed it.
    pub source: SourceName,
    /// What kind of source: `files`, `postgres`.
    pub kind: String,
    /// What the person calls it.
    pub label: Option<String>,
    /// The configuration without its secrets, as YAML.
    pub config: String,
    /// Joins the snapshots that one command makes of a stack.
    pub stack_run: Option<RunId>,
    /// What the source tells of its system; empty where it tells nothing.
    pub system: BTreeMap<String, String>,
}

/// How to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Level of zstd, 1 by default: higher ones cost far more time than they save.
    pub zstd_level: i32,
    /// Threads that hash, compress and encrypt; by default as many as there are cores.
    pub threads: Option<usize>,
    /// The newest root that this host remembers of the source's chain.
    pub remembered: Option<RememberedHead>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { zstd_level: 1, threads: None, remembered: None }
    }
}

/// A snapshot that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its id.
    pub id: SnapshotId,
    /// The new end of the source's chain, to be remembered.
    pub head: RememberedHead,
    /// When the root was made.
    pub time: Timestamp,
    /// Counts.
    pub stats: SnapshotStats,
    /// The first thousand of what was skipped or is not sound: path and reason. The counts in
    /// `stats` are of all.
    pub problems: Vec<(EntryPath, String)>,
}

/// Counts of a sealed snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Entries.
    pub entries: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
    /// Plain length of data chunks that the repository did not hold yet.
    pub new_bytes: u64,
    /// What was put for it: packs and indexes.
    pub stored_bytes: u64,
    /// Packs that were put.
    pub packs: u64,
    /// Entries whose content was taken over without reading.
    pub kept: u64,
    /// Entries that were left out.
    pub skips: u64,
    /// Problems of entries that are there.
    pub problems: u64,
}

impl SnapshotStats {
    fn by_name(&self) -> BTreeMap<String, u64> {
        let Self { entries, bytes, new_bytes, stored_bytes, packs, kept, skips, problems } = *self;
        [
            ("entries", entries),
            ("bytes", bytes),
            ("new_bytes", new_bytes),
            ("stored_bytes", stored_bytes),
            ("packs", packs),
            ("kept", kept),
            ("skips", skips),
            ("problems", problems),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
    }
}

#[derive(Debug, Default)]
struct Counters {
    new_bytes: AtomicU64,
    kept: AtomicU64,
}

/// Takes the entries of one snapshot. A failed call poisons it; dropped unsealed, nothing happened.
pub struct SnapshotWriter {
    store: Arc<dyn Store>,
    access: Arc<Access>,
    state: StateDir,
    head: SnapshotHead,
    context: RunContext,
    keys: DomainKeys,
    source_tag: Digest,
    parent_key: ParentKey,
    chain: Chain,
    secrets: Arc<RunSecrets>,
    cutter: Cutter,
    stop: Stop,
    pipeline: Option<Pipeline>,
    known: Arc<Known>,
    run: Arc<OpenRun>,
    _renewing: AbortOnDropHandle<()>,
    parent: Option<Parent>,
    maps: Arc<SliceMaps>,
    ids: Arc<IdFile>,
    limits: Limits,
    sorter: Mutex<EntrySorter>,
    counters: Counters,
    problems: Problems,
    copy_of: Option<CopyOf>,
    sealed: bool,
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter").field("head", &self.head).finish_non_exhaustive()
    }
}

fn scratch_error(context: &RunContext) -> impl Fn(std::io::Error) -> RepoError {
    let path = context.scratch.clone();
    move |source| RepoError::Io { doing: "using the scratch directory", path: path.clone(), source }
}

impl Repository {
    /// Opens a run that makes one snapshot (W1): announces it, then reads what is there.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] without a writer key, [`RepoError::NotAllowed`] where the roster gives
    /// the source to others; of the store, the cache and the scratch directory.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn writer(
        &self,
        head: SnapshotHead,
        options: WriteOptions,
        context: RunContext,
    ) -> Result<SnapshotWriter, RepoError> {
        let missing = || RepoError::KeyMissing { what: "writing a snapshot", needs: "a writer key" };
        let (store, access) = (Arc::clone(self.store()), Arc::clone(self.access()));
        let writer = access.writer.as_ref().ok_or_else(missing)?;
        access.check_may_write(&head.stack, &head.source)?;
        let keys = access.domains.get(&writer.domain).cloned().ok_or_else(missing)?;
        let chunker_key = keys.content.as_ref().map(|content| content.chunker.clone()).ok_or_else(missing)?;
        let source_tag = keys.source_tag(&head.stack, &head.source);
        let ids = IdFile::create(&context.scratch).map_err(scratch_error(&context))?;
        let link = Link {
            store: Arc::clone(&store),
            access: Arc::clone(&access),
            key: keys.index.clone(),
            sign: writer.sign.clone(),
        };
        let run_id = OpenRun::announce(&link, source_tag, context.clock.as_ref()).await?;
        self.index().refresh(store.as_ref()).await?;
        let own = writer.sign.verify_key();
        let known = Arc::new(Known::new(Arc::clone(self.index()), (own, writer.domain)));
        let shown = self.snapshots(&[]).await?.heads();
        let mut chain = Chain::end(own, source_tag, shown.iter().chain(&options.remembered));
        if chain.root.is_some_and(|root| self.accepts(&root)) {
            // It is gone for good: the next root names the newest that is there.
            chain.root = Chain::end(own, source_tag, &shown).root;
        }
        let grace = Duration::from_secs(access.roster.grace_seconds);
        let clock = Arc::clone(&context.clock);
        let run = Arc::new(OpenRun::begin(run_id, link, Arc::clone(&known), clock, grace).await?);
        let sealed_to = |error: CryptError| RepoError::object("roster", error.into());
        let secrets = Arc::new(RunSecrets::random(&access).map_err(sealed_to)?);
        let (stop, limits) = (Stop::default(), Limits::of(context.memory_budget_bytes));
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pipeline = Pipeline::start(Setup {
            store: Arc::clone(&store),
            keys: keys.clone(),
            sign: writer.sign.clone(),
            secrets: Arc::clone(&secrets),
            known: Arc::clone(&known),
            stop: stop.clone(),
            limits,
            zstd_level: options.zstd_level,
            threads: options.threads.unwrap_or_else(cores),
        })?;
        let parent_key = ParentKey::new(&keys, &source_tag);
        let state = StateDir::new(self.cache());
        let parent = open_parent(&state, &source_tag, &parent_key).await;
        if let Some(parent) = &parent {
            // About as many rows as it has chunks will be asked for.
            self.index().read_ahead(parent.bytes().saturating_mul(2));
        }
        let renewing = tokio::spawn(Arc::clone(&run).keep_renewing(stop.clone()));
        Ok(SnapshotWriter {
            parent,
            maps: Arc::new(SliceMaps::open(state.slices(&source_tag), parent_key.clone())),
            sorter: Mutex::new(EntrySorter::new(&context.scratch, limits.entries_bytes)),
            cutter: Cutter::new(&chunker_key),
            _renewing: AbortOnDropHandle::new(renewing),
            pipeline: Some(pipeline),
            ids: Arc::new(ids),
            counters: Counters::default(),
            problems: Problems::default(),
            copy_of: None,
            sealed: false,
            store,
            access,
            state,
            head,
            context,
            keys,
            source_tag,
            parent_key,
            chain,
            secrets,
            stop,
            known,
            run,
            limits,
        })
    }
}

impl SnapshotWriter {
    /// The id of the run, by which a prune knows it.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.run.id
    }

    fn pipeline(&self) -> &Pipeline {
        self.pipeline.as_ref().expect("it is taken only by seal")
    }

    /// Whether another call makes sense.
    fn ready(&self) -> Result<(), SinkError> {
        if self.context.cancel.is_cancelled() {
            self.stop.give_up(Cause::Cancelled);
        }
        self.stop.check().map_err(|cause| SinkError::Poisoned(cause.to_string()))
    }

    async fn insert(
        &self,
        path: &EntryPath,
        meta: &EntryMeta,
        fingerprint: Option<Fingerprint>,
        stored: StoredContent,
    ) -> Result<(), Cause> {
        let scratch = |error| self.stop.repo(scratch_error(&self.context)(error));
        let mut sorter = self.sorter.lock().await;
        if sorter.is_nearly_full() {
            let full = std::mem::replace(&mut *sorter, EntrySorter::new(&self.context.scratch, 0));
            let spilled = tokio::task::spawn_blocking(move || full.spill()).await;
            *sorter = spilled.map_err(|error| scratch(std::io::Error::other(error)))?.map_err(scratch)?;
        }
        sorter.push(path, meta, fingerprint, stored).map_err(scratch)
    }

    /// The parent's content of an entry, if everything of it is at hand.
    fn parent_content(&self, path: &EntryPath, fingerprint: &Fingerprint) -> Result<Option<StoredContent>, RepoError> {
        let Some(parent) = &self.parent else { return Ok(None) };
        let unreadable = |error: std::io::Error| {
            tracing::warn!("the local cache of the last backup cannot be read: {error}");
        };
        let Ok(found) = parent.lookup(path, fingerprint).map_err(unreadable) else { return Ok(None) };
        let Some(entry) = found else { return Ok(None) };
        let mut pages = entry.pages;
        match &entry.content {
            Content::Inline(extents) => {
                let ids = extents.iter().filter_map(|extent| match extent {
                    Extent::Chunk { id, .. } => Some(id),
                    Extent::Hole(_) => None,
                });
                if !self.known.has_all(ids) {
                    return Ok(None);
                }
            }
            Content::Pages(list) => {
                let ids = list.iter().map(|(id, _)| id).chain(pages.iter().map(|page| &page.refs));
                if list.len() != pages.len() || !self.known.has_all(ids) {
                    return Ok(None);
                }
                for page in &mut pages {
                    let Ok(ids) = parent.ids(page.ids).map_err(unreadable) else { return Ok(None) };
                    if !self.known.has_all(&ids) {
                        return Ok(None);
                    }
                    page.ids = self.ids.append(&ids).map_err(scratch_error(&self.context))?;
                }
            }
        }
        Ok(Some(StoredContent { content: entry.content, pages, new_bytes: 0 }))
    }
}

/// The file of the last backup; none where it is missing or of no use.
async fn open_parent(state: &StateDir, source_tag: &Digest, key: &ParentKey) -> Option<Parent> {
    let (path, key) = (state.parent(source_tag), key.clone());
    match tokio::task::spawn_blocking(move || Parent::open(&path, key)).await {
        Ok(Ok(parent)) => Some(parent),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Ok(Err(error)) => {
            tracing::warn!("the local cache of the last backup is of no use, every file is read: {error}");
            None
        }
        Err(_) => None,
    }
}

/// Poisons the writer where a call goes away before it is done: its entry would be missing.
struct Unfinished<'a> {
    stop: &'a Stop,
    path: &'a EntryPath,
    done: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.stop.give_up(Cause::Body(format!("storing {} was given up half-way", self.path)));
        }
    }
}

#[async_trait]
impl EntrySink for SnapshotWriter {
    async fn keep(&self, path: &EntryPath, meta: &EntryMeta, fingerprint: &Fingerprint) -> Result<Kept, SinkError> {
        self.ready()?;
        let repo = |error| self.stop.repo(error).for_entry(path);
        let Some(stored) = self.parent_content(path, fingerprint).map_err(repo)? else { return Ok(Kept::No) };
        let bytes = stored.content.bytes().unwrap_or(u64::MAX);
        self.maps.keep(path);
        self.insert(path, meta, Some(*fingerprint), stored).await.map_err(|cause| cause.for_entry(path))?;
        self.counters.kept.fetch_add(1, Ordering::Relaxed);
        Ok(Kept::Yes { bytes })
    }

    async fn put(
        &self,
        path: &EntryPath,
        meta: &EntryMeta,
        fingerprint: Option<Fingerprint>,
        body: Body,
    ) -> Result<EntryStats, SinkError> {
        self.ready()?;
        let mut unfinished = Unfinished { stop: &self.stop, path, done: false };
        let stored = self.store_body(path, body).await?;
        let new_bytes = stored.new_bytes;
        let bytes = stored.content.bytes().unwrap_or(u64::MAX);
        self.insert(path, meta, fingerprint, stored).await.map_err(|cause| cause.for_entry(path))?;
        self.counters.new_bytes.fetch_add(new_bytes, Ordering::Relaxed);
        unfinished.done = true;
        Ok(EntryStats { bytes, new_bytes })
    }

    async fn skip(&self, path: &EntryPath, why: &str) -> Result<(), SinkError> {
        self.ready()?;
        let meta = EntryMeta { why: Some(why.to_owned()), ..EntryMeta::new(EntryKind::Skipped) };
        self.insert(path, &meta, None, StoredContent::empty()).await.map_err(|cause| cause.for_entry(path))?;
        self.problems.skip(path, why);
        Ok(())
    }

    async fn problem(&self, path: &EntryPath, what: &str) -> Result<(), SinkError> {
        self.ready()?;
        self.problems.problem(path, what);
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if self.sealed {
            return;
        }
        self.stop.give_up(Cause::Cancelled);
        if let Some(pipeline) = &self.pipeline {
            pipeline.abort();
        }
        // A prune need not wait for a run that is known to be over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let run = Arc::clone(&self.run);
            runtime.spawn(async move {
                if let Err(error) = run.renew(true).await {
                    tracing::debug!("the end of the run could not be told: {error}");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;

//! Copying a snapshot into another repository: read with an identity of the one, written with a writer
//! key of the other, encrypted anew and cut as it was.
//!
//! Every chunk is fetched, opened and compared with its id before it is stored; what the other
//! repository holds already is not stored again. The root of the copy carries the original's id and
//! time, for which an identity of the other repository vouches.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use lifeboat_model::flow::{ReadError, RunContext};
use lifeboat_model::{ChunkId, EntryPath, SnapshotId};

use crate::content::{ContentBuilder, StoredContent};
use crate::error::RepoError;
use crate::object::ObjectError;
use crate::page::{Content, Extent, StoredEntry};
use crate::pipeline::stop::Cause;
use crate::reader::SnapshotReader;
use crate::reader::extents::Extents;
use crate::repository::Repository;
use crate::root::RootBody;
use crate::writer::copied::CopyOf;
use crate::writer::{Sealed, SnapshotHead, SnapshotWriter, WriteOptions};

mod pairs;

use pairs::{Pair, Pairs};

/// Chunks that are on their way from one repository to the other at once: each may have 8 MiB, most
/// are far shorter.
const CHUNKS: usize = 4;
/// Extents of a long entry that are looked at together.
const EXTENTS: usize = 4096;
/// Eighths of the memory budget that are the writing side's.
const WRITERS_EIGHTHS: u64 = 3;

/// Copies snapshots from one repository to another, one after the other.
#[derive(Debug)]
pub struct Copier {
    from: Arc<Repository>,
    to: Arc<Repository>,
    pairs: Pairs,
}

type Brought = HashMap<ChunkId, Pair>;

impl Copier {
    /// Both repositories, opened: `from` with an identity, `to` with a writer key and an identity.
    ///
    /// # Errors
    /// [`RepoError::Usage`] where both are one repository; [`RepoError::KeyMissing`]; [`RepoError::Io`]
    /// where the scratch directory of `ctx` cannot be used.
    pub async fn new(from: Arc<Repository>, to: Arc<Repository>, ctx: &RunContext) -> Result<Self, RepoError> {
        let (one, other) = (from.access(), to.access());
        if one.repository == other.repository {
            return Err(RepoError::Usage {
                what: format!("{} and {} hold the same repository", from.store(), to.store()),
                hint: Some("a copy goes to a repository of its own: `lifeboat init --repository NAME` makes one"),
            });
        }
        let missing = |what, needs| RepoError::KeyMissing { what, needs };
        if !one.can_read() {
            return Err(missing("copying a snapshot", "an identity of the repository that it comes from"));
        }
        if other.identity.is_none() {
            return Err(missing("copying a snapshot", "an identity of the repository that it goes to"));
        }
        let writer = other.writer.as_ref();
        let writer = writer.ok_or(missing("copying a snapshot", "a writer key of the repository that it goes to"))?;
        let pairs = Pairs::open(to.cache(), one.repository, writer.domain, &ctx.scratch).await?;
        Ok(Self { from, to, pairs })
    }

    /// A copier that brings nothing from elsewhere: [`Copier::refill`] then makes the pages of a snapshot
    /// again that other pages tell.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] without an identity and a writer key.
    pub async fn within(repository: Arc<Repository>, ctx: &RunContext) -> Result<Self, RepoError> {
        let access = repository.access();
        let missing = || RepoError::KeyMissing { what: "refilling a snapshot", needs: "a writer key and an identity" };
        let writer = access.writer.as_ref().filter(|_| access.can_read()).ok_or_else(missing)?;
        let pairs = Pairs::open(repository.cache(), access.repository, writer.domain, &ctx.scratch).await?;
        Ok(Self { from: Arc::clone(&repository), to: repository, pairs })
    }

    /// Stores all that a snapshot of the one repository holds in the other, chunks and pages, and makes no
    /// snapshot: what the original of that copy lost is there again. Equal entries make equal pages, so
    /// that what is there is not stored again.
    ///
    /// # Errors
    /// As [`Copier::copy`].
    pub async fn refill(&mut self, id: &SnapshotId, ctx: &RunContext) -> Result<(), RepoError> {
        let root = self.from.root(id).await?;
        let reader = self.from.reader_of(&root)?;
        let missing = || RepoError::KeyMissing { what: "refilling a snapshot", needs: "an identity" };
        let body = root.body.ok_or_else(missing)?;
        self.to.access().check_may_write(&body.stack, &body.source)?;
        ctx.monitor.begin(&format!("refilling {} of {}/{}", id.short(), body.stack, body.source), None);
        let writer = self.writer(body, BTreeMap::new(), WriteOptions::default(), ctx).await?;
        let brought = self.entries(&reader, &writer, ctx).await;
        self.pairs.keep().await;
        brought?;
        writer.close().await
    }

    /// A run in the other repository. It gets the greater part of the memory.
    async fn writer(
        &self,
        body: RootBody,
        system: BTreeMap<String, String>,
        options: WriteOptions,
        ctx: &RunContext,
    ) -> Result<SnapshotWriter, RepoError> {
        let head = SnapshotHead {
            stack: body.stack,
            source: body.source,
            kind: body.kind,
            label: body.label,
            config: body.config,
            stack_run: body.stack_run,
            system,
        };
        let budget = RunContext { memory_budget_bytes: ctx.memory_budget_bytes / 8 * WRITERS_EIGHTHS, ..ctx.clone() };
        self.to.writer(head, options, budget).await
    }

    /// Copies one snapshot. `time` is how old it is by what the repository that it comes from says.
    /// Given up at any point it leaves no snapshot; what was stored until then is found by the next try.
    ///
    /// # Errors
    /// [`RepoError::NotAllowed`] where the writer may not write that source; [`RepoError::Read`] where
    /// the original is hurt, with the entry; of both stores.
    pub async fn copy(
        &mut self,
        id: &SnapshotId,
        time: Timestamp,
        options: WriteOptions,
        ctx: &RunContext,
    ) -> Result<Sealed, RepoError> {
        let missing = || RepoError::KeyMissing { what: "copying a snapshot", needs: "an identity" };
        let root = self.from.root(id).await?;
        let reader = self.from.reader_of(&root)?;
        let body = root.body.ok_or_else(missing)?;
        let access = Arc::clone(self.to.access());
        access.check_may_write(&body.stack, &body.source)?;
        let vouches = access.identity.clone().ok_or_else(missing)?;
        let total = body.stats.get("bytes").copied();
        ctx.monitor.begin(&format!("copying {} of {}/{}", id.short(), body.stack, body.source), total);
        let copy_of = CopyOf {
            original: root.header.copied_from().unwrap_or(*id),
            time,
            vouches,
            stats: body.stats.clone(),
            problems: body.problems.clone(),
        };
        let point = body.recovery_point.clone();
        // Those facts by which the original tells its system; the copy tells it by tags of its own domain.
        let keys = self.from.access().domains.get(&root.domain).cloned();
        let told = |key: &str, value: &str| {
            keys.as_ref().is_some_and(|keys| root.header.systems.contains(&keys.system_tag(key, value)))
        };
        let system = point.facts.iter().filter(|(key, value)| told(key, value));
        let system = system.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut writer = self.writer(body, system, options, ctx).await?;
        writer.copies(copy_of);
        let brought = self.entries(&reader, &writer, ctx).await;
        self.pairs.keep().await;
        brought?;
        writer.seal(point).await
    }

    async fn entries(
        &mut self,
        reader: &SnapshotReader,
        writer: &SnapshotWriter,
        ctx: &RunContext,
    ) -> Result<(), RepoError> {
        let mut walk = reader.stored_entries();
        while let Some(page) = walk.next_page().await? {
            let brought = self.bring(writer, page.iter().flat_map(inline)).await;
            let brought = brought.map_err(|error| named(error, &page))?;
            for entry in page {
                let bytes = entry.bytes();
                let stored = match entry.content {
                    Content::Inline(extents) => {
                        let mut content = writer.content();
                        add(&mut content, &entry.path, extents, &brought).await?;
                        content.finish().await.map_err(Cause::into_error)?
                    }
                    pages @ Content::Pages(_) => self.long(writer, &entry.path, pages).await?,
                };
                writer.add_entry(&entry.path, &entry.meta, stored).await?;
                ctx.monitor.entries(1);
                ctx.monitor.bytes(bytes);
            }
        }
        Ok(())
    }

    /// An entry of more extents than fit into the entry.
    async fn long(
        &mut self,
        writer: &SnapshotWriter,
        path: &EntryPath,
        content: Content,
    ) -> Result<StoredContent, RepoError> {
        let mut extents = Extents::new(&Arc::clone(self.from.fetcher()), path, content);
        let mut stored = writer.content();
        loop {
            let mut some = Vec::with_capacity(EXTENTS);
            while some.len() < EXTENTS
                && let Some(extent) = extents.next().await?
            {
                some.push(extent);
            }
            if some.is_empty() {
                return stored.finish().await.map_err(Cause::into_error);
            }
            let brought = self.bring(writer, some.iter()).await.map_err(|error| hurt(path, error))?;
            add(&mut stored, path, some, &brought).await?;
        }
    }

    /// Sees to it that the other repository holds all chunks of these extents.
    async fn bring<'e>(
        &mut self,
        writer: &SnapshotWriter,
        extents: impl Iterator<Item = &'e Extent>,
    ) -> Result<Brought, RepoError> {
        writer.check_open()?;
        // In one repository a chunk is its own pair.
        let within = Arc::ptr_eq(&self.from, &self.to);
        let (mut brought, mut seen, mut wanted) = (Brought::new(), HashSet::new(), Vec::new());
        for extent in extents {
            let Extent::Chunk { id, .. } = extent else { continue };
            if !seen.insert(*id) {
                continue;
            }
            let known = if within { Some(Pair { id: *id, bytes: u32::MAX }) } else { self.pairs.find(id) };
            match known.filter(|pair| writer.holds(&pair.id)) {
                Some(pair) => drop(brought.insert(*id, pair)),
                None => wanted.push(*id),
            }
        }
        // In the order of the packs, so that each stretch of a pack is fetched once.
        let index = Arc::clone(self.from.index());
        wanted.sort_by_cached_key(|id| index.locate(id).first().map(|copy| (copy.pack, copy.record.offset)));
        let fetcher = Arc::clone(self.from.fetcher());
        let fetcher = &fetcher;
        let mut chunks = stream::iter(wanted)
            .map(|id| async move {
                let plain = fetcher.ahead(id).plain().await?;
                let bytes = u32::try_from(plain.len()).map_err(|_| RepoError::Chunk { id, why: "too long".into() })?;
                writer.check_open()?;
                let stored = writer.store_chunk(plain).await?;
                Ok::<_, RepoError>((id, Pair { id: stored.id, bytes }))
            })
            .buffer_unordered(CHUNKS);
        while let Some(done) = chunks.next().await {
            let (id, pair) = done?;
            self.pairs.add(&id, pair)?;
            brought.insert(id, pair);
        }
        Ok(brought)
    }
}

fn inline(entry: &StoredEntry) -> &[Extent] {
    match &entry.content {
        Content::Inline(extents) => extents,
        Content::Pages(_) => &[],
    }
}

/// Adds the extents with the ids of the other repository.
async fn add(
    content: &mut ContentBuilder<'_>,
    path: &EntryPath,
    extents: Vec<Extent>,
    brought: &Brought,
) -> Result<(), RepoError> {
    for extent in extents {
        let extent = match extent {
            Extent::Hole(bytes) => Extent::Hole(bytes),
            Extent::Chunk { id, offset, len } => {
                let pair = brought.get(&id).filter(|pair| u64::from(offset) + u64::from(len) <= u64::from(pair.bytes));
                let outside = || ObjectError::malformed("an extent outside of its chunk");
                let pair = pair.ok_or_else(|| damaged(path, outside()))?;
                Extent::Chunk { id: pair.id, offset, len }
            }
        };
        content.push(extent).await.map_err(Cause::into_error)?;
    }
    Ok(())
}

fn damaged(path: &EntryPath, source: impl std::error::Error + Send + Sync + 'static) -> RepoError {
    RepoError::Read(ReadError::Damaged { what: path.to_string(), source: Box::new(source) })
}

/// Names the entry where a chunk of it is lost.
fn hurt(path: &EntryPath, error: RepoError) -> RepoError {
    if matches!(error, RepoError::Chunk { .. }) { damaged(path, error) } else { error }
}

/// Names the first of these entries that needs the lost chunk.
fn named(error: RepoError, page: &[StoredEntry]) -> RepoError {
    let RepoError::Chunk { id: lost, .. } = &error else { return error };
    let needs = |extent: &Extent| matches!(extent, Extent::Chunk { id, .. } if id == lost);
    match page.iter().find(|entry| inline(entry).iter().any(needs)) {
        Some(entry) => damaged(&entry.path, error),
        None => error,
    }
}

#[cfg(test)]
mod tests;

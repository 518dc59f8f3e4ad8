//! From entries to a root: the only commit point.

use std::sync::Arc;

use lifeboat_model::{ChunkId, ObjectHash, RecoveryPoint};

use super::{Chain, Sealed, SnapshotStats, SnapshotWriter, scratch_error};
use crate::content::IdFile;
use crate::crypt::Secret;
use crate::error::RepoError;
use crate::local::LocalObjects;
use crate::object::ObjectType;
use crate::pack::PackKind;
use crate::parent::ParentWriter;
use crate::pipeline::Pipeline;
use crate::pipeline::stop::{Cause, Stop, with_causes};
use crate::pipeline::upload::{Uploaded, put_object, worker_died};
use crate::remember::RememberedHead;
use crate::root::{self, RootBody, RootHeader, RootKeys, RootRefs};
use crate::tree::{EntrySorter, PageStore, Tree, TreeBuilder};

struct Pages<'a>(&'a Pipeline);

impl PageStore for Pages<'_> {
    type Error = Cause;

    fn page(&mut self, plain: &[u8]) -> Result<ChunkId, Cause> {
        Ok(self.0.store_blocking(PackKind::Meta, plain)?.id)
    }

    fn refs(&mut self, plain: &[u8]) -> Result<ChunkId, Cause> {
        Ok(self.0.store_blocking(PackKind::Refs, plain)?.id)
    }
}

/// What the thread that builds the tree needs.
struct Build {
    sorter: EntrySorter,
    pipeline: Pipeline,
    boundaries: Secret,
    parent: ParentWriter,
    stop: Stop,
}

impl Build {
    /// Sorts, builds pages, and remembers fingerprints for the next run.
    fn run(mut self) -> (Pipeline, Result<(Tree, ParentWriter), Cause>) {
        let result = self.tree();
        (self.pipeline, result.map(|tree| (tree, self.parent)))
    }

    fn tree(&mut self) -> Result<Tree, Cause> {
        let scratch = |source| RepoError::Io { doing: "using", path: "the scratch directory".into(), source };
        let empty = EntrySorter::new(std::path::Path::new("."), 0);
        let sorter = std::mem::replace(&mut self.sorter, empty);
        let mut entries = sorter.finish().map_err(|error| self.stop.repo(scratch(error)))?;
        let mut pages = Pages(&self.pipeline);
        let mut tree = TreeBuilder::new(&mut pages, &self.boundaries);
        while let Some(entry) = entries.next().map_err(|error| self.stop.repo(scratch(error)))? {
            self.stop.check()?;
            if let Some(fingerprint) = &entry.fingerprint {
                let added = self.parent.add(&entry.path, fingerprint, &entry.content, &entry.pages);
                added.map_err(|error| self.stop.repo(scratch(error)))?;
            }
            tree.push(entry)?;
        }
        tree.finish()
    }
}

impl SnapshotWriter {
    /// Makes the snapshot: everything that it refers to is put before its root.
    ///
    /// # Errors
    /// [`RepoError::GivenUp`] where an earlier call failed, or a prune deletes what the run relies
    /// on; of the store. There is no snapshot then.
    ///
    /// # Panics
    /// Never: what it takes is there until it is sealed.
    pub async fn seal(mut self, point: RecoveryPoint) -> Result<Sealed, RepoError> {
        self.ready().map_err(|_| self.given_up())?;
        let (tree, parent) = self.build_tree().await?;
        let pipeline = self.pipeline.take().expect("it is taken once");
        let uploaded = pipeline.finish().await.map_err(Cause::into_error)?;
        self.run.confirm().await?;
        self.ready().map_err(|_| self.given_up())?;
        let sealed = self.put_root(point, tree, uploaded).await?;
        self.run.second_look(sealed.id).await?;
        self.sealed = true;
        if self.copy_of.is_none() {
            self.remember(parent).await;
        }
        if let Err(error) = self.run.renew(true).await {
            tracing::warn!("the end of the run could not be told, a prune will wait for it: {}", with_causes(&error));
        }
        Ok(sealed)
    }

    fn given_up(&self) -> RepoError {
        let cause = self.stop.cause().cloned().unwrap_or(Cause::Cancelled);
        cause.into_error()
    }

    pub(super) async fn build_tree(&mut self) -> Result<(Tree, ParentWriter), RepoError> {
        let empty = EntrySorter::new(&self.context.scratch, 0);
        let content = self.keys.content.as_ref();
        let build = Build {
            sorter: std::mem::replace(self.sorter.get_mut(), empty),
            pipeline: self.pipeline.take().expect("it is taken once"),
            boundaries: content.map(|keys| keys.chunker.clone()).expect("a writer has content keys"),
            parent: ParentWriter::new(self.parent_key.clone(), &self.context.scratch, self.limits.entries_bytes),
            stop: self.stop.clone(),
        };
        let (pipeline, result) = tokio::task::spawn_blocking(move || build.run()).await.map_err(worker_died)?;
        self.pipeline = Some(pipeline);
        result.map_err(Cause::into_error)
    }

    async fn put_root(&self, point: RecoveryPoint, tree: Tree, uploaded: Uploaded) -> Result<Sealed, RepoError> {
        let access = &self.access;
        let (problems, skips, other_problems) = self.problems.all();
        let stats = self.stats(tree, uploaded, (skips, other_problems));
        let Chain { sequence, root: previous } = self.chain;
        // The store dates the root as well; a run that took long must not look like a clock gone wrong.
        let time = self.context.clock.now();
        let mut header = RootHeader {
            stack_tag: self.keys.stack_tag(&self.head.stack),
            source_tag: self.source_tag,
            sequence: sequence + 1,
            previous,
            time,
            roster_number: access.roster.number,
            roster_hash: access.roster.hash,
            run: self.run.id,
            original: None,
            countersigned: None,
            systems: self.keys.system_tags(&self.head.system),
        };
        let (top, refs) = tree.top.unzip();
        let mut body = RootBody {
            stack: self.head.stack.clone(),
            source: self.head.source.clone(),
            kind: self.head.kind.clone(),
            recovery_point: point,
            top,
            stats: stats.by_name(),
            config: self.head.config.clone(),
            label: self.head.label.clone(),
            problems: problems.iter().map(|(path, what)| (path.as_bytes().to_vec(), what.clone())).collect(),
            stack_run: self.head.stack_run,
        };
        if let Some(copy_of) = &self.copy_of {
            copy_of.tell(access.repository, &self.secrets, &mut header, &mut body);
        }
        let sign = self.run.sign();
        let keys = RootKeys {
            index: &self.keys.index,
            content: &self.secrets.content,
            references: &self.secrets.references,
            sign,
        };
        let (id, bytes) = root::encode(&header, &RootRefs { top: refs }, &body, &keys);
        let hash = ObjectHash(id.0);
        put_object(self.store.as_ref(), &ObjectType::SnapshotRoot.key(hash), bytes.clone()).await?;
        // Until a list tells when the store took it. Should it be damaged there, a repair has it here.
        let kept = LocalObjects::new(&self.state.objects());
        kept.keep(ObjectType::SnapshotRoot, (hash, bytes), time).await?;
        let head =
            RememberedHead { writer: sign.verify_key(), source: self.source_tag, sequence: sequence + 1, root: hash };
        Ok(Sealed { id, head, time, stats, problems })
    }

    fn stats(&self, tree: Tree, uploaded: Uploaded, (skips, problems): (u64, u64)) -> SnapshotStats {
        SnapshotStats {
            entries: tree.entries,
            bytes: tree.bytes,
            new_bytes: self.counters.new_bytes.load(std::sync::atomic::Ordering::Relaxed),
            stored_bytes: uploaded.bytes,
            packs: uploaded.packs,
            kept: self.counters.kept.load(std::sync::atomic::Ordering::Relaxed),
            skips,
            problems,
        }
    }

    /// Writes the local cache for the next run. A failure costs that one time, nothing else.
    async fn remember(&self, parent: ParentWriter) {
        let state = self.state.clone();
        let (path, ids): (_, Arc<IdFile>) = (state.parent(&self.source_tag), Arc::clone(&self.ids));
        let (maps, scratch) = (Arc::clone(&self.maps), scratch_error(&self.context));
        let written = tokio::task::spawn_blocking(move || {
            state.make_room_for(&path)?;
            maps.finish().map_err(|source| RepoError::Io { doing: "keeping", path: "slice maps".into(), source })?;
            parent.finish(&path, &ids).map_err(|source| RepoError::Io { doing: "writing", path, source })
        });
        let result = written.await.unwrap_or_else(|error| Err(scratch(std::io::Error::other(error))));
        if let Err(error) = result {
            tracing::warn!("the next backup will read every file: {}", with_causes(&error));
        }
    }
}

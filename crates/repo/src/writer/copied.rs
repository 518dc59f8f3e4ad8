//! Writing a copy: entries come with chunks that another repository cut, and the root says of which
//! snapshot it is a copy.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_model::{ChunkId, EntryMeta, EntryPath, SnapshotId};

use super::SnapshotWriter;
use crate::content::{ContentBuilder, StoredContent};
use crate::crypt::SignKey;
use crate::error::RepoError;
use crate::object::RepositoryId;
use crate::pack::PackKind;
use crate::pipeline::stop::Cause;
use crate::pipeline::{RunSecrets, Stored};
use crate::root::{Countersign, RootBody, RootHeader};

/// What a copy takes over from the snapshot that it is a copy of.
#[derive(Clone, Debug)]
pub(crate) struct CopyOf {
    /// The id under which it was first sealed.
    pub(crate) original: SnapshotId,
    /// How old it is.
    pub(crate) time: Timestamp,
    /// Who vouches for both.
    pub(crate) vouches: SignKey,
    /// What it counted; what the copy counts itself goes before.
    pub(crate) stats: BTreeMap<String, u64>,
    /// What was left out or is not sound.
    pub(crate) problems: Vec<(Vec<u8>, String)>,
}

/// Counts that tell of the backup, not of the copy.
const STATS_OF_THE_BACKUP: [&str; 3] = ["kept", "skips", "problems"];

impl CopyOf {
    /// Completes the root of a copy.
    pub(super) fn tell(
        &self,
        repository: RepositoryId,
        secrets: &RunSecrets,
        header: &mut RootHeader,
        body: &mut RootBody,
    ) {
        header.original = Some(self.original);
        let envelopes = [&secrets.references.envelope, &secrets.content.envelope];
        header.countersigned = Some(Countersign::make(repository, header, envelopes, self.time, &self.vouches));
        body.problems.clone_from(&self.problems);
        for (name, count) in &self.stats {
            if STATS_OF_THE_BACKUP.contains(&name.as_str()) || !body.stats.contains_key(name) {
                body.stats.insert(name.clone(), *count);
            }
        }
    }
}

impl SnapshotWriter {
    /// What is sealed will be a copy of this snapshot.
    pub(crate) fn copies(&mut self, copy_of: CopyOf) {
        self.copy_of = Some(copy_of);
    }

    /// Whether it still makes sense to go on.
    ///
    /// # Errors
    /// [`RepoError::GivenUp`] with the cause.
    pub(crate) fn check_open(&self) -> Result<(), RepoError> {
        if self.context.cancel.is_cancelled() {
            self.stop.give_up(Cause::Cancelled);
        }
        self.stop.check().map_err(Cause::into_error)
    }

    /// Whether the chunk is at hand; if so it counts as used.
    pub(crate) fn holds(&self, id: &ChunkId) -> bool {
        self.known.has_all([id])
    }

    /// Stores a chunk as it is.
    ///
    /// # Errors
    /// [`RepoError::GivenUp`] with the cause.
    pub(crate) async fn store_chunk(&self, plain: Bytes) -> Result<Stored, RepoError> {
        let bytes = plain.len() as u64;
        let stored = async { self.pipeline().submit(PackKind::Data, plain).await?.wait().await };
        let stored = stored.await.map_err(Cause::into_error)?;
        if stored.new {
            self.counters.new_bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(stored)
    }

    /// Takes the extents of one entry.
    pub(crate) fn content(&self) -> ContentBuilder<'_> {
        ContentBuilder::new(self.pipeline(), &self.ids)
    }

    /// Puts all that was stored, with its manifest, and makes no snapshot.
    ///
    /// # Errors
    /// [`RepoError::GivenUp`] with the cause, or of the store.
    pub(crate) async fn close(mut self) -> Result<(), RepoError> {
        self.check_open()?;
        self.build_tree().await?;
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.finish().await.map_err(Cause::into_error)?;
        }
        self.sealed = true;
        self.run.renew(true).await
    }

    /// Adds an entry whose content is stored.
    ///
    /// # Errors
    /// [`RepoError::GivenUp`] with the cause.
    pub(crate) async fn add_entry(
        &self,
        path: &EntryPath,
        meta: &EntryMeta,
        stored: StoredContent,
    ) -> Result<(), RepoError> {
        self.insert(path, meta, None, stored).await.map_err(Cause::into_error)
    }
}

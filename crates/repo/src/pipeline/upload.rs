//! Brings full packs to the store, and tells where their chunks lie once they are there.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lifeboat_store::{Key, PutMode, Store, StoreErrorKind};
use tokio::sync::{Semaphore, mpsc};

use super::known::Known;
use super::packer::FullPack;
use super::stop::{Cause, Stop};
use crate::crypt::SignKey;
use crate::error::RepoError;
use crate::index::IndexBuilder;
use crate::object::{IndexKey, ObjectType};
use crate::pack::FinishedPack;

/// Puts at the same time. Memory bounds them more tightly where packs are large.
const PUTS_MAX: usize = 4;
/// Records after which an index object is put, so that a run does not hold all of its own.
const FLUSH_RECORDS: usize = 131_072;

/// Packs after which a run puts its first index object: what is indexed need not be brought again
/// where the run dies.
const FIRST_INDEX_PACKS: u64 = 4;
/// Later ones follow when this share of all that was put is in no index, so that they stay few.
const INDEX_SHARE: u64 = 16;

/// What was put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uploaded {
    /// Packs.
    pub(crate) packs: u64,
    /// Bytes of packs and indexes.
    pub(crate) bytes: u64,
}

/// Puts an object whose name is the hash of its bytes: that it is there already is as good.
///
/// # Errors
/// Of the store.
pub(crate) async fn put_object(store: &dyn Store, key: &Key, bytes: Bytes) -> Result<(), RepoError> {
    match store.put(key, bytes, PutMode::CreateNew).await {
        Err(error) if error.kind == StoreErrorKind::Exists => Ok(()),
        other => Ok(other?),
    }
}

pub(super) struct Uploader {
    pub(super) store: Arc<dyn Store>,
    pub(super) index_key: IndexKey,
    pub(super) sign: SignKey,
    pub(super) known: Arc<Known>,
    pub(super) alive: Arc<Semaphore>,
    pub(super) stop: Stop,
    pub(super) pack_bytes: u64,
}

impl Uploader {
    /// Runs until the last sender is gone or something fails. After a failure nobody waits for
    /// permits any more.
    pub(super) async fn run(self, full: mpsc::UnboundedReceiver<FullPack>) -> Result<Uploaded, Cause> {
        let result = self.upload_all(full).await;
        result.map_err(|error| {
            let cause = self.stop.repo(error);
            self.alive.close();
            cause
        })
    }

    async fn upload_all(&self, mut full: mpsc::UnboundedReceiver<FullPack>) -> Result<Uploaded, RepoError> {
        let mut puts = FuturesUnordered::new();
        let mut index = IndexBuilder::new();
        let mut uploaded = Uploaded::default();
        let (mut open, mut unindexed_bytes) = (true, 0);
        while open || !puts.is_empty() {
            tokio::select! {
                pack = full.recv(), if open && puts.len() < PUTS_MAX => match pack {
                    Some(pack) => puts.push(self.upload(pack)),
                    None => open = false,
                },
                Some(done) = puts.next() => {
                    let pack: FinishedPack = done?;
                    uploaded.packs += 1;
                    uploaded.bytes += pack.bytes.len() as u64;
                    unindexed_bytes += pack.bytes.len() as u64;
                    if index.is_full_for(&pack) {
                        uploaded.bytes += self.flush(std::mem::take(&mut index)).await?;
                    }
                    index.add(&pack);
                    drop(pack);
                    let many_bytes = (self.pack_bytes * FIRST_INDEX_PACKS).max(uploaded.bytes / INDEX_SHARE);
                    if index.records() >= FLUSH_RECORDS || unindexed_bytes >= many_bytes {
                        uploaded.bytes += self.flush(std::mem::take(&mut index)).await?;
                        unindexed_bytes = 0;
                    }
                }
            }
        }
        if !index.is_empty() {
            uploaded.bytes += self.flush(index).await?;
        }
        Ok(uploaded)
    }

    async fn upload(&self, full: FullPack) -> Result<FinishedPack, RepoError> {
        let FullPack { builder, charged } = full;
        let key = self.index_key.clone();
        let pack = tokio::task::spawn_blocking(move || builder.finish(&key)).await.map_err(worker_died)?;
        let name = pack.kind.object_type().key(pack.hash);
        put_object(self.store.as_ref(), &name, pack.bytes.clone()).await?;
        self.alive.add_permits(charged);
        self.known.uses(pack.hash);
        Ok(pack)
    }

    /// Puts an index object; from then on its chunks are found there and no longer held in memory.
    async fn flush(&self, index: IndexBuilder) -> Result<u64, RepoError> {
        let (key, sign) = (self.index_key.clone(), self.sign.clone());
        let made = tokio::task::spawn_blocking(move || {
            let object = index.finish();
            let (hash, bytes) = object.encode(&key, &sign);
            (object, hash, bytes)
        });
        let (object, hash, bytes) = made.await.map_err(worker_died)?;
        let length = bytes.len() as u64;
        put_object(self.store.as_ref(), &ObjectType::Index.key(hash), bytes).await?;
        let known = Arc::clone(&self.known);
        tokio::task::spawn_blocking(move || known.indexed(hash, &object)).await.map_err(worker_died)??;
        Ok(length)
    }
}

/// A thread that should have computed something panicked.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub(crate) fn worker_died(error: tokio::task::JoinError) -> RepoError {
    RepoError::GivenUp { why: format!("a worker ended early: {error}"), source: None }
}

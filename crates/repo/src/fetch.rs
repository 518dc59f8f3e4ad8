//! Reading chunks: find a copy, fetch it, decrypt, decompress, check the id; try other copies.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lifeboat_model::{ChunkId, Digest, ObjectHash};
use lifeboat_store::{Store, StoreError, StoreErrorKind};

use crate::access::Access;
use crate::crypt::Secret;
use crate::error::RepoError;
use crate::index::{IndexSet, Location, blocking};
use crate::object::{Envelope, ObjectError};
use crate::pack::{PackKey, PackKind};

mod blocks;

use blocks::Blocks;

/// Run secrets that are remembered. Opening an envelope costs as much as decrypting 100 KiB.
const SECRETS_MAX: usize = 4096;

/// Reads chunks of one repository. Calls may come from many tasks at once; what lies close together
/// is fetched once.
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<dyn Store>,
    access: Arc<Access>,
    index: Arc<IndexSet>,
    blocks: Blocks,
    secrets: Mutex<HashMap<Digest, Secret>>,
    /// Packs that are missing or damaged.
    bad: Mutex<HashSet<ObjectHash>>,
    opened: AtomicU64,
}

/// Why one copy of a chunk is no good.
enum BadCopy {
    /// The store did not give it, and may later.
    Store(StoreError),
    /// Its pack is not in the store.
    Gone,
    /// It is damaged.
    Lost(String),
}

impl Fetcher {
    /// Reads from `store` what `index` finds there.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, access: Arc<Access>, index: Arc<IndexSet>) -> Self {
        let blocks = Blocks::new(Arc::clone(&store));
        Self {
            store,
            access,
            index,
            blocks,
            secrets: Mutex::default(),
            bad: Mutex::default(),
            opened: AtomicU64::new(0),
        }
    }

    /// The plain bytes of a chunk, checked against its id.
    ///
    /// # Errors
    /// [`RepoError::Chunk`] where every copy is missing or damaged; it names the packs.
    /// [`RepoError::Store`] where a copy may be good but the store does not give it.
    pub async fn chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        let mut tried: Vec<Location> = Vec::new();
        let (mut lost, mut failed) = (Vec::new(), None);
        let mut found = self.index.locate(id);
        for last_round in [false, true] {
            self.put_bad_last(&mut found);
            for location in found {
                if tried.iter().any(|known| known.pack == location.pack && known.record == location.record) {
                    continue;
                }
                match self.copy(&location).await {
                    Ok(plain) => return Ok(plain),
                    Err(BadCopy::Store(error)) => failed = Some(error),
                    Err(BadCopy::Gone) => {
                        if self.is_news(&location) {
                            tracing::debug!(pack = %location.pack_key(), "a pack is missing, other copies are tried");
                        }
                        lost.push(format!("{}: the pack is missing", location.pack_key()));
                    }
                    Err(BadCopy::Lost(why)) => {
                        if self.is_news(&location) {
                            tracing::warn!(chunk = %id, pack = %location.pack_key(), why, "a pack is damaged, other copies are tried");
                        }
                        lost.push(format!("{}: {why}", location.pack_key()));
                    }
                }
                tried.push(location);
            }
            if last_round || failed.is_some() {
                break;
            }
            found = self.index.search(self.store.as_ref(), id).await?;
        }
        match failed {
            Some(error) => Err(error.into()),
            None if lost.is_empty() => Err(RepoError::Chunk { id: *id, why: "no pack is known to hold it".into() }),
            None => Err(RepoError::Chunk { id: *id, why: lost.join("; ") }),
        }
    }

    /// Copies in packs that were found bad are tried when there is no other: an index may name a pack
    /// long after a prune or a repair deleted it.
    fn put_bad_last(&self, copies: &mut [Location]) {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        copies.sort_by_key(|copy| bad.contains(&copy.pack));
    }

    /// Takes note of a bad pack; whether it was not known yet, so that each is told once.
    fn is_news(&self, location: &Location) -> bool {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(location.pack)
    }

    async fn copy(&self, location: &Location) -> Result<Bytes, BadCopy> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let range = u64::from(location.record.offset)..location.record.end();
        let ciphertext = self.blocks.read(location, range).await.map_err(|error| match error.kind {
            StoreErrorKind::NotFound => BadCopy::Gone,
            StoreErrorKind::BadRange => BadCopy::Lost("the pack is cut off".into()),
            _ => BadCopy::Store(error),
        })?;
        if ciphertext.len() != location.record.stored_len as usize {
            return Err(BadCopy::Lost("the pack is cut off".into()));
        }
        let secret = self.secret(&location.origin.envelope).await.map_err(|why| BadCopy::Lost(why.to_string()))?;
        open(&self.access, location, &secret, ciphertext).map_err(|why| BadCopy::Lost(why.to_string()))
    }

    /// The run secret in an envelope; each is opened once.
    async fn secret(&self, envelope: &Envelope) -> Result<Secret, ObjectError> {
        let commitment = envelope.commitment();
        let known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner).get(&commitment).cloned();
        if let Some(secret) = known {
            return Ok(secret);
        }
        let (access, envelope) = (Arc::clone(&self.access), envelope.clone());
        let opened = blocking(move || Ok(access.secret_of(&envelope))).await.map_err(ObjectError::malformed)?;
        let secret =
            opened?.ok_or_else(|| ObjectError::malformed("its envelope is sealed to a key that we do not have"))?;
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.len() >= SECRETS_MAX {
            secrets.clear();
        }
        secrets.insert(commitment, secret.clone());
        Ok(secret)
    }

    /// The same in a task of its own, so that several are fetched and opened at once.
    pub(crate) fn ahead(self: &Arc<Self>, id: ChunkId) -> Ahead {
        let fetcher = Arc::clone(self);
        Ahead(tokio::spawn(async move { fetcher.chunk(&id).await }))
    }

    /// How many copies of chunks were read so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The index that it reads by.
    #[must_use]
    pub fn index(&self) -> &Arc<IndexSet> {
        &self.index
    }
}

/// A chunk on its way. It is given up when nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Ahead(tokio::task::JoinHandle<Result<Bytes, RepoError>>);

impl Ahead {
    pub(crate) async fn plain(mut self) -> Result<Bytes, RepoError> {
        match (&mut self.0).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Decrypts, decompresses, and checks the id: about a millisecond for each MiB (a restore of 1 GiB took 1.0 s of
/// CPU outside of the kernel, all told), so it is done in the task that fetched it.
fn open(access: &Access, location: &Location, secret: &Secret, ciphertext: Vec<u8>) -> Result<Bytes, ObjectError> {
    let kind: PackKind = location.record.kind;
    let key = PackKey::new(access.repository, secret, kind, location.origin.pack);
    let plain = key.open(&location.record, ciphertext)?;
    let keys = access.domains.get(&location.domain).ok_or(ObjectError::ForeignDomain)?;
    match kind.id_of(keys, &plain) {
        Some(id) if id == location.record.id => Ok(plain),
        Some(_) => Err(ObjectError::malformed("its bytes do not have the id of the chunk")),
        None => Err(ObjectError::malformed("we do not have the key of its ids")),
    }
}

#[cfg(test)]
mod tests;

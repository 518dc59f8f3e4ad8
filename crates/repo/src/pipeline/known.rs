//! Which chunks need not be stored, and which packs a run relies on.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};

use lifeboat_model::{ChunkId, ObjectHash};

use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::index::{IndexObject, IndexSet};
use crate::object::DomainId;

/// Ids are keyed hashes: their own bytes serve as the hash.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(eight) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*eight);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

type IdSet<T> = HashSet<T, BuildHasherDefault<IdHasher>>;

#[derive(Default)]
struct State {
    /// Stored or being stored by this run, and not in an index yet.
    claimed: IdSet<ChunkId>,
    /// Packs that the snapshot relies on.
    used: IdSet<ObjectHash>,
    /// Packs of marks that were seen.
    marked: IdSet<ObjectHash>,
    /// Bad in every copy that was there when somebody checked.
    distrusted: IdSet<ChunkId>,
}

/// What a run knows of chunks and packs. One lock orders "this pack is used" and "this pack is
/// marked": a renewal pins every pack that was used before its mark was seen, and none is used
/// afterwards.
pub(crate) struct Known {
    index: Arc<IndexSet>,
    /// Who signs the index objects of this run, and for which domain.
    writer: (VerifyKey, DomainId),
    state: Mutex<State>,
}

impl Known {
    /// `index` was refreshed after the run was announced.
    pub(crate) fn new(index: Arc<IndexSet>, writer: (VerifyKey, DomainId)) -> Self {
        Self { index, writer, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Whether the caller has to store this chunk. Only one caller is told so.
    pub(crate) fn claim(&self, id: &ChunkId) -> bool {
        !self.has(id) && self.state().claimed.insert(*id)
    }

    /// Whether all of these chunks are at hand. Those that are count as used.
    pub(crate) fn has_all<'a>(&self, ids: impl IntoIterator<Item = &'a ChunkId>) -> bool {
        ids.into_iter().all(|id| self.has(id))
    }

    fn has(&self, id: &ChunkId) -> bool {
        {
            let state = self.state();
            if state.claimed.contains(id) {
                return true;
            }
            if state.distrusted.contains(id) {
                return false;
            }
        }
        // The disk is read without the lock; a pack that was marked meanwhile is not used.
        while let Some(pack) = self.index.known_in(id, |pack| !self.state().marked.contains(pack)) {
            let mut state = self.state();
            if !state.marked.contains(&pack) {
                state.used.insert(pack);
                return true;
            }
        }
        false
    }

    /// Treats these chunks as absent until this run has stored them.
    pub(crate) fn distrust(&self, ids: &[ChunkId]) {
        self.state().distrusted.extend(ids);
    }

    /// These packs are marked: none is used from now on that was not before.
    pub(crate) fn avoid(&self, packs: &[ObjectHash]) {
        self.state().marked.extend(packs);
    }

    /// Packs that are both used and marked.
    pub(crate) fn pins(&self) -> Vec<ObjectHash> {
        let state = self.state();
        let mut pins: Vec<ObjectHash> = state.used.intersection(&state.marked).copied().collect();
        pins.sort_unstable();
        pins
    }

    /// Packs that the snapshot relies on.
    pub(crate) fn used(&self) -> Vec<ObjectHash> {
        self.state().used.iter().copied().collect()
    }

    /// This run made the pack, and it is in the store.
    pub(crate) fn uses(&self, pack: ObjectHash) {
        self.state().used.insert(pack);
    }

    /// An index object of this run is in the store: its chunks are found in the index from now on
    /// and need no room in memory.
    pub(crate) fn indexed(&self, hash: ObjectHash, object: &IndexObject) -> Result<(), RepoError> {
        let (signer, domain) = self.writer;
        self.index.add_object(hash, signer, domain, object)?;
        let mut state = self.state();
        for record in &object.records {
            state.claimed.remove(&record.id);
            state.distrusted.remove(&record.id);
        }
        Ok(())
    }
}

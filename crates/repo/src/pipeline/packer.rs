//! Open packs: two for data, one each for pages and for references.

use std::sync::{Arc, Mutex, MutexGuard};

use lifeboat_model::ChunkId;
use tokio::sync::{Semaphore, mpsc};

use super::Limits;
use crate::access::Access;
use crate::crypt::{CryptError, Secret, TAG_BYTES};
use crate::object::{DomainId, Envelope, Recipient, RepositoryId};
use crate::pack::{Codec, PackBuilder, PackKind, RECORD_BYTES};
use crate::root::RunSecret;

/// The most records of one pack, so that an index object takes several of them.
const PACK_RECORDS_MAX: usize = 32_768;

/// A pack that takes no more records, with the bytes that it counts for.
#[derive(Debug)]
pub(super) struct FullPack {
    pub(super) builder: PackBuilder,
    pub(super) charged: usize,
}

/// Secrets of one run, and to whom they are sealed.
#[derive(Debug)]
pub(crate) struct RunSecrets {
    /// S, content and pages, sealed to the epoch.
    pub(crate) content: RunSecret,
    /// R, references, sealed to the maintenance key.
    pub(crate) references: RunSecret,
}

impl RunSecrets {
    /// New ones.
    ///
    /// # Errors
    /// [`CryptError`] where a recipient's key is none.
    pub(crate) fn random(access: &Access) -> Result<Self, CryptError> {
        let sealed = |recipient: &Recipient| {
            let secret = Secret::random();
            Ok(RunSecret { envelope: Envelope::seal(access.repository, recipient, &secret)?, secret })
        };
        Ok(Self { content: sealed(&access.epoch_recipient())?, references: sealed(&access.maintenance_recipient())? })
    }
}

/// Puts chunks into open packs.
///
/// Bytes of packs that are open or on their way to the store are permits of one semaphore, taken
/// before a record is added and given back when the store has the pack. Open packs together never
/// hold all permits, so a full pack is always under way to free some.
pub(super) struct Packer {
    repository: RepositoryId,
    domain: DomainId,
    secrets: Arc<RunSecrets>,
    limits: Limits,
    slots: [Mutex<Slot>; 4],
    alive: Arc<Semaphore>,
    full: mpsc::UnboundedSender<FullPack>,
}

#[derive(Default)]
struct Slot {
    open: Option<PackBuilder>,
    charged: usize,
}

impl Slot {
    fn take(&mut self) -> Option<FullPack> {
        let charged = std::mem::take(&mut self.charged);
        self.open.take().map(|builder| FullPack { builder, charged })
    }
}

/// The pack cannot be added to because the run was given up.
#[derive(Debug)]
pub(super) struct Closed;

impl Packer {
    pub(super) fn new(
        (repository, domain): (RepositoryId, DomainId),
        secrets: Arc<RunSecrets>,
        limits: Limits,
        alive: Arc<Semaphore>,
        full: mpsc::UnboundedSender<FullPack>,
    ) -> Self {
        Self { repository, domain, secrets, limits, slots: Default::default(), alive, full }
    }

    fn lock(&self, number: usize) -> MutexGuard<'_, Slot> {
        self.slots[number].lock().expect("no holder panics")
    }

    /// Which slot takes a chunk. The second data pack opens when the first is half full, so that a
    /// small run makes one pack, and the two do not become full at the same time. From then on the
    /// id, which nobody can foretell without the key, picks one of them: neighbours in a file are
    /// seldom neighbours in a pack.
    fn slot_of(&self, kind: PackKind, id: &ChunkId) -> usize {
        match kind {
            PackKind::Meta => 2,
            PackKind::Refs => 3,
            PackKind::Data if id.bytes()[31] & 1 == 0 => 0,
            PackKind::Data => {
                let second_open = self.lock(1).open.is_some();
                let half = self.limits.data_pack_bytes / 2;
                let first = || self.lock(0).open.as_ref().map_or(0, PackBuilder::bytes);
                usize::from(second_open || first() >= half)
            }
        }
    }

    fn target(&self, kind: PackKind) -> usize {
        if kind == PackKind::Data { self.limits.data_pack_bytes } else { self.limits.small_pack_bytes }
    }

    fn open(&self, kind: PackKind) -> PackBuilder {
        let RunSecret { secret, envelope } = match kind {
            PackKind::Data | PackKind::Meta => &self.secrets.content,
            PackKind::Refs => &self.secrets.references,
        };
        // With room for one chunk and the trailer above the target the buffer seldom moves.
        let capacity = self.target(kind) + (2 << 20);
        PackBuilder::new(kind, self.repository, self.domain, secret, envelope.clone(), capacity)
    }

    /// Bytes that a record adds to what is alive.
    pub(super) fn charge(stored: &[u8]) -> u32 {
        u32::try_from(stored.len() + TAG_BYTES + 2 * RECORD_BYTES).expect("chunks are short")
    }

    /// Adds a record; waits while too many bytes are alive. Must not be called where tasks run.
    pub(super) fn add_blocking(
        &self,
        kind: PackKind,
        id: ChunkId,
        (codec, stored): (Codec, &[u8]),
        plain_len: usize,
    ) -> Result<(), Closed> {
        let charge = Self::charge(stored);
        let permit = futures::executor::block_on(self.alive.acquire_many(charge)).map_err(|_| Closed)?;
        permit.forget();
        self.push(kind, id, (codec, stored), plain_len)
    }

    /// Adds a record if that needs no waiting; says whether it did.
    pub(super) fn try_add(
        &self,
        kind: PackKind,
        id: ChunkId,
        (codec, stored): (Codec, &[u8]),
        plain_len: usize,
    ) -> Result<bool, Closed> {
        match self.alive.try_acquire_many(Self::charge(stored)) {
            Ok(permit) => permit.forget(),
            Err(tokio::sync::TryAcquireError::NoPermits) => return Ok(false),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(Closed),
        }
        self.push(kind, id, (codec, stored), plain_len).map(|()| true)
    }

    fn push(
        &self,
        kind: PackKind,
        id: ChunkId,
        (codec, stored): (Codec, &[u8]),
        plain_len: usize,
    ) -> Result<(), Closed> {
        let mut slot = self.lock(self.slot_of(kind, &id));
        let builder = slot.open.get_or_insert_with(|| self.open(kind));
        builder.push(id, stored, plain_len, codec);
        let is_full = builder.bytes() >= self.target(kind) || builder.records() >= PACK_RECORDS_MAX;
        slot.charged += Self::charge(stored) as usize;
        let full = if is_full { slot.take() } else { None };
        drop(slot);
        full.map_or(Ok(()), |pack| self.full.send(pack).map_err(|_| Closed))
    }

    /// Hands over what is open.
    pub(super) fn flush(&self) -> Result<(), Closed> {
        for number in 0..self.slots.len() {
            let open = self.lock(number).take();
            if let Some(pack) = open {
                self.full.send(pack).map_err(|_| Closed)?;
            }
        }
        Ok(())
    }
}

//! One pass over all index objects: which chunk lies in which packs. For upkeep (prune, check), which
//! looks at everything; what restores and backups look up goes through the index's tables.
//!
//! Memory stays bounded whatever the size of the repository: pairs of chunk and pack are sorted
//! outside of memory.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, ObjectHash};
use lifeboat_store::{Key, ObjectMeta, Store, StoreErrorKind};

use crate::access::Access;
use crate::error::RepoError;
use crate::index::{IndexObject, IndexPack};
use crate::inventory::{self, hash_of};
use crate::object::{DomainId, ObjectError, ObjectType};
use crate::pack::PackKind;
use crate::spill::{Sorted, Sorter};

/// The most packs that are taken from a list: 64 TiB in packs of 32 MiB.
const PACKS_MAX: usize = 2 << 20;
/// How often a scan starts again because index objects vanished under it.
const TRIES: usize = 3;

/// A pack that is in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackSeen {
    pub(crate) kind: PackKind,
    pub(crate) hash: ObjectHash,
    pub(crate) bytes: u64,
    pub(crate) stored_at: Timestamp,
    pub(crate) claim: Claim,
}

impl PackSeen {
    pub(crate) fn key(&self) -> Key {
        self.kind.object_type().key(self.hash)
    }
}

/// Whose indexes name a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody's.
    None,
    /// One domain's, by its number in [`Scan::domains`].
    Domain(u16),
    /// Those of several domains; only the pack's own header tells whose it is.
    Several,
}

/// An index object that was read.
#[derive(Clone, Debug)]
pub(crate) struct IndexSeen {
    pub(crate) domain: u16,
    pub(crate) hash: ObjectHash,
    pub(crate) bytes: u64,
    pub(crate) stored_at: Timestamp,
    /// Packs that it names, with the number of its records in them.
    pub(crate) packs: Vec<(IndexPack, u32)>,
}

/// What the pass found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Domains whose keys we have.
    pub(crate) domains: Vec<DomainId>,
    /// Packs in the order of their times; numbers of packs count in this list.
    pub(crate) packs: Vec<PackSeen>,
    by_name: HashMap<(PackKind, ObjectHash), u32>,
    /// Index objects that could be read.
    pub(crate) indexes: Vec<IndexSeen>,
    /// Index objects that could not.
    pub(crate) bad: Vec<(Key, ObjectError)>,
    /// Pairs of chunk and present pack, to be joined once.
    pub(crate) records: Sorter,
}

pub(crate) fn scratch_error(scratch: &Path) -> impl FnOnce(io::Error) -> RepoError {
    let path = scratch.to_owned();
    move |source| RepoError::Io { doing: "sorting in", path, source }
}

impl Scan {
    /// Reads every index object. Call it after the roots were listed: what they need is indexed then.
    pub(crate) async fn read(store: &Arc<dyn Store>, access: &Access, ctx: &RunContext) -> Result<Self, RepoError> {
        for _ in 1..TRIES {
            if let Some(scan) = Self::try_read(store, access, ctx).await? {
                return Ok(scan);
            }
            // What is gone may stay in the list for a while.
            tokio::time::sleep(store.capabilities().list_staleness).await;
        }
        let again = Self::try_read(store, access, ctx).await?;
        again.ok_or_else(|| RepoError::Busy { what: "the index".to_owned() })
    }

    /// `None` where an index object was replaced by another since it was listed.
    async fn try_read(store: &Arc<dyn Store>, access: &Access, ctx: &RunContext) -> Result<Option<Self>, RepoError> {
        // Indexes before packs: what an index names is there then.
        let listed = inventory::list(store, ObjectType::Index.prefix()).await?;
        let packs = list_packs(store).await?;
        let by_name = (0u32..).zip(&packs).map(|(n, pack)| ((pack.kind, pack.hash), n)).collect();
        let mut scan = Self {
            domains: access.domains.keys().copied().collect(),
            packs,
            by_name,
            indexes: Vec::new(),
            bad: Vec::new(),
            records: Sorter::within(ctx),
        };
        let mut reads =
            stream::iter(listed).map(|object| async move { (store.get(&object.key, None).await, object) }).buffered(2);
        while let Some((bytes, object)) = reads.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            scan.add(access, &object, &bytes).map_err(scratch_error(&ctx.scratch))?;
        }
        Ok(Some(scan))
    }

    fn add(&mut self, access: &Access, object: &ObjectMeta, bytes: &Bytes) -> io::Result<()> {
        let read = hash_of(ObjectType::Index, object).and_then(|hash| IndexObject::decode(access, hash, bytes));
        let index = match read {
            Ok(index) => index,
            Err(error) => {
                self.bad.push((object.key.clone(), error));
                return Ok(());
            }
        };
        let domain = self.domain_number(index.domain).expect("an index that opened is of a domain that we know");
        let value = &index.value;
        let mut counts = vec![0u32; value.packs.len()];
        let numbers: Vec<Option<u32>> = value
            .packs
            .iter()
            .map(|pack| {
                let number = self.number_of(pack.kind, &pack.hash)?;
                // A pack of another length is damaged: nothing in it counts as a copy.
                (self.packs[number as usize].bytes == pack.bytes).then_some(number)
            })
            .collect();
        for number in numbers.iter().flatten() {
            let claim = &mut self.packs[*number as usize].claim;
            *claim = match *claim {
                Claim::None => Claim::Domain(domain),
                Claim::Domain(other) if other == domain => Claim::Domain(domain),
                _ => Claim::Several,
            };
        }
        for record in &value.records {
            counts[usize::from(record.pack)] += 1;
            let Some(number) = numbers[usize::from(record.pack)] else { continue };
            self.records.push(&record_key(domain, &record.id, number), &record.stored_len.to_le_bytes())?;
        }
        let packs = value.packs.iter().copied().zip(counts).collect();
        let (hash, stored_at) = (index.hash, object.stored_at);
        self.indexes.push(IndexSeen { domain, hash, bytes: object.bytes, stored_at, packs });
        Ok(())
    }

    /// The number of a domain whose keys we have.
    pub(crate) fn domain_number(&self, domain: DomainId) -> Option<u16> {
        self.domains.iter().position(|known| *known == domain).and_then(|n| u16::try_from(n).ok())
    }

    /// The number of a pack that is in the store.
    pub(crate) fn number_of(&self, kind: PackKind, hash: &ObjectHash) -> Option<u32> {
        self.by_name.get(&(kind, *hash)).copied()
    }
}

async fn list_packs(store: &Arc<dyn Store>) -> Result<Vec<PackSeen>, RepoError> {
    let mut packs = Vec::new();
    for kind in PackKind::ALL {
        let mut listed = store.list(kind.object_type().prefix());
        while let Some(object) = listed.try_next().await? {
            // What has no hash for a name is no pack; check names it.
            let Ok(hash) = hash_of(kind.object_type(), &object) else { continue };
            if packs.len() == PACKS_MAX {
                return Err(RepoError::TooMany { what: "packs", store: store.to_string(), most: PACKS_MAX });
            }
            let (bytes, stored_at) = (object.bytes, object.stored_at);
            packs.push(PackSeen { kind, hash, bytes, stored_at, claim: Claim::None });
        }
    }
    packs.sort_unstable_by_key(|pack| (pack.stored_at, pack.hash, pack.kind));
    Ok(packs)
}

const ID_KEY_BYTES: usize = 2 + 32;

/// How sorters know a chunk of a domain.
pub(crate) fn id_key(domain: u16, id: &ChunkId) -> [u8; ID_KEY_BYTES] {
    let mut key = [0; ID_KEY_BYTES];
    key[..2].copy_from_slice(&domain.to_be_bytes());
    key[2..].copy_from_slice(id.bytes());
    key
}

fn record_key(domain: u16, id: &ChunkId, pack: u32) -> [u8; ID_KEY_BYTES + 4] {
    let mut key = [0; ID_KEY_BYTES + 4];
    key[..ID_KEY_BYTES].copy_from_slice(&id_key(domain, id));
    key[ID_KEY_BYTES..].copy_from_slice(&pack.to_be_bytes());
    key
}

fn split_id_key(key: &[u8; ID_KEY_BYTES]) -> (u16, ChunkId) {
    let id: [u8; 32] = key[2..].try_into().expect("32 bytes");
    (u16::from_be_bytes([key[0], key[1]]), id.into())
}

/// A chunk with its copies and whether a snapshot needs it.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    pub(crate) domain: u16,
    pub(crate) id: ChunkId,
    pub(crate) live: bool,
    /// Packs and stored lengths, oldest pack first; none where no index leads to a present pack.
    pub(crate) copies: &'a [(u32, u32)],
}

/// Joins the records with the chunks that snapshots need, in the order of domain and id.
pub(crate) fn join(
    mut records: Sorted,
    mut live: Sorted,
    mut each: impl FnMut(&Joined<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut next_record = read_record(&mut records)?;
    let mut next_live = read_live(&mut live)?;
    let mut copies = Vec::new();
    loop {
        let key = match (&next_record, &next_live) {
            (Some((record, ..)), Some(needed)) => *record.min(needed),
            (Some((key, ..)), None) | (None, Some(key)) => *key,
            (None, None) => return Ok(()),
        };
        copies.clear();
        while let Some((_, pack, length)) = next_record.filter(|(other, ..)| *other == key) {
            copies.push((pack, length));
            next_record = read_record(&mut records)?;
        }
        let is_live = next_live == Some(key);
        if is_live {
            next_live = read_live(&mut live)?;
        }
        let (domain, id) = split_id_key(&key);
        each(&Joined { domain, id, live: is_live, copies: &copies })?;
    }
}

type RecordRow = ([u8; ID_KEY_BYTES], u32, u32);

fn read_record(records: &mut Sorted) -> io::Result<Option<RecordRow>> {
    let row = |key: &[u8], value: &[u8]| {
        let (id, pack) = key.split_first_chunk::<ID_KEY_BYTES>()?;
        Some((*id, u32::from_be_bytes(pack.try_into().ok()?), u32::from_le_bytes(value.try_into().ok()?)))
    };
    records.next(row)?.map(|row| row.ok_or_else(cut)).transpose()
}

fn read_live(live: &mut Sorted) -> io::Result<Option<[u8; ID_KEY_BYTES]>> {
    live.next(|key, _| key.try_into().ok())?.map(|key| key.ok_or_else(cut)).transpose()
}

fn cut() -> io::Error {
    io::Error::other("a sorted row has another length than it was given")
}

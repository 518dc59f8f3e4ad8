//! The work on packs: good records out of damaged ones, indexes for those that have none.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, Digest, ObjectHash};
use lifeboat_store::StoreErrorKind;

use super::Mended;
use crate::crypt::{Secret, SignKey};
use crate::error::RepoError;
use crate::forget::{keeper, put};
use crate::index::{IndexBuilder, IndexObject, IndexPack};
use crate::object::{DomainId, ObjectType};
use crate::pack::{Origin, PackContents, PackKey, PackKind, Record, Repacker};
use crate::repository::Repository;
use crate::scan::{PackSeen, Scan};
use crate::sealed::check_hash;

/// The length at which a new pack is closed.
const PACK_BYTES: usize = 32 << 20;
/// The most notes.
const NOTES_MAX: usize = 100;

/// What is being put together.
pub(super) struct Bench<'a> {
    repository: &'a Repository,
    scan: &'a Scan,
    ctx: &'a RunContext,
    signer: &'a SignKey,
    open: BTreeMap<(DomainId, PackKind), Repacker>,
    indexes: BTreeMap<DomainId, IndexBuilder>,
    secrets: HashMap<Digest, Option<Secret>>,
    moved: HashSet<ChunkId>,
    done: Mended,
}

/// Records of a pack with their origins, and the pack's domain.
struct Described {
    domain: DomainId,
    records: Vec<(Record, Origin)>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(repository: &'a Repository, scan: &'a Scan, ctx: &'a RunContext) -> Result<Self, RepoError> {
        Ok(Self {
            repository,
            scan,
            ctx,
            signer: keeper(repository.access(), "a repair")?,
            open: BTreeMap::new(),
            indexes: BTreeMap::new(),
            secrets: HashMap::new(),
            moved: HashSet::new(),
            done: Mended::default(),
        })
    }

    fn note(&mut self, text: String) {
        if self.done.notes.len() < NOTES_MAX {
            self.done.notes.push(text);
        }
    }

    async fn get(&self, pack: &PackSeen) -> Result<Option<Bytes>, RepoError> {
        match self.repository.store().get(&pack.key(), None).await {
            Ok(bytes) => {
                self.ctx.monitor.bytes(bytes.len() as u64);
                Ok(Some(bytes))
            }
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Failed) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Packs the records that still open anew.
    pub(super) async fn salvage(&mut self, pack: &PackSeen) -> Result<(), RepoError> {
        let Some(bytes) = self.get(pack).await? else {
            self.note(format!("{} cannot be read", pack.key()));
            return Ok(());
        };
        let Some(described) = self.describe(pack, &bytes).await? else {
            self.note(format!("{}: nobody knows what was in it", pack.key()));
            return Ok(());
        };
        for (record, origin) in &described.records {
            let end = usize::try_from(record.end()).unwrap_or(usize::MAX);
            let Some(ciphertext) = bytes.get(record.offset as usize..end) else { continue };
            if self.moved.contains(&record.id) || !self.opens(described.domain, record, origin, ciphertext) {
                continue;
            }
            self.moved.insert(record.id);
            self.done.salvaged += 1;
            let slot = (described.domain, record.kind);
            if self.open.get(&slot).is_some_and(|open| open.bytes() + ciphertext.len() > PACK_BYTES) {
                self.close(slot).await?;
            }
            let new = || Repacker::new(record.kind, described.domain, PACK_BYTES + (1 << 20));
            let pushed = self.open.entry(slot).or_insert_with(new).push_foreign(record, ciphertext, origin);
            pushed.map_err(|source| RepoError::object(pack.key(), source))?;
        }
        Ok(())
    }

    /// What an index object says of a pack, or else its own trailer.
    async fn describe(&self, pack: &PackSeen, bytes: &Bytes) -> Result<Option<Described>, RepoError> {
        let named = |index: &&crate::scan::IndexSeen| index.packs.iter().any(|(named, _)| named.hash == pack.hash);
        for index in self.scan.indexes.iter().filter(named) {
            let key = ObjectType::Index.key(index.hash);
            let object = match self.repository.store().get(&key, None).await {
                // A prune replaced it since: another one tells the same, or the trailer does.
                Err(error) if error.kind == StoreErrorKind::NotFound => continue,
                got => got?,
            };
            let signed = IndexObject::decode(self.repository.access(), index.hash, &object);
            let signed = signed.map_err(|why| RepoError::object(&key, why))?;
            return Ok(Some(Described { domain: signed.domain, records: records_of(&signed.value, &pack.hash) }));
        }
        let key_of = |domain| self.repository.access().domains.get(&domain).map(|keys| &keys.index);
        let Ok(contents) = PackContents::parse(pack.kind, bytes, key_of) else { return Ok(None) };
        let trailer = contents.trailer;
        let origin = |record: &Record| trailer.origins[record.origin as usize].clone();
        let records = trailer.records.iter().map(|record| (*record, origin(record))).collect();
        Ok(Some(Described { domain: trailer.domain, records }))
    }

    /// Whether a record opens to the bytes of its id.
    fn opens(&mut self, domain: DomainId, record: &Record, origin: &Origin, ciphertext: &[u8]) -> bool {
        let access = self.repository.access();
        let secret = self
            .secrets
            .entry(origin.envelope.commitment())
            .or_insert_with(|| access.secret_of(&origin.envelope).ok().flatten());
        let (Some(secret), Some(keys)) = (secret, access.domains.get(&domain)) else { return false };
        let key = PackKey::new(access.repository, secret, record.kind, origin.pack);
        let plain = key.open(record, ciphertext.to_vec());
        plain.is_ok_and(|plain| record.kind.id_of(keys, &plain) == Some(record.id))
    }

    async fn close(&mut self, slot: (DomainId, PackKind)) -> Result<(), RepoError> {
        let Some(repacker) = self.open.remove(&slot) else { return Ok(()) };
        let Some(keys) = self.repository.access().domains.get(&slot.0) else { return Ok(()) };
        let pack = repacker.finish(&keys.index);
        put(self.repository.store(), &slot.1.object_type().key(pack.hash), pack.bytes.clone()).await?;
        if self.indexes.get(&slot.0).is_some_and(|index| index.is_full_for(&pack)) {
            self.put_index(slot.0).await?;
        }
        self.indexes.entry(slot.0).or_default().add(&pack);
        Ok(())
    }

    /// Gives a whole pack an index. What is not as its writer made it gets none: others would build on it.
    pub(super) async fn index(&mut self, pack: &PackSeen) -> Result<(), RepoError> {
        let Some(bytes) = self.get(pack).await? else { return Ok(()) };
        let access = self.repository.access();
        let key_of = |domain| access.domains.get(&domain).map(|keys| &keys.index);
        let whole = check_hash(pack.hash, &bytes).and_then(|()| PackContents::parse(pack.kind, &bytes, key_of));
        let trailer = match whole {
            Ok(contents) => contents.trailer,
            Err(crate::object::ObjectError::ForeignDomain) => return Ok(()),
            Err(why) => {
                self.note(format!("{}: {why}", pack.key()));
                return Ok(());
            }
        };
        for record in &trailer.records {
            let ciphertext = &bytes[record.offset as usize..][..record.stored_len as usize];
            if !self.opens(trailer.domain, record, &trailer.origins[record.origin as usize], ciphertext) {
                self.note(format!("{}: a record in it does not open", pack.key()));
                return Ok(());
            }
        }
        if !self.indexes.entry(trailer.domain).or_default().has_room_for(trailer.records.len()) {
            self.put_index(trailer.domain).await?;
        }
        let named = IndexPack { hash: pack.hash, bytes: pack.bytes, kind: pack.kind };
        self.indexes.entry(trailer.domain).or_default().add_pack(named, &trailer.origins, &trailer.records);
        self.done.indexed += 1;
        Ok(())
    }

    async fn put_index(&mut self, domain: DomainId) -> Result<(), RepoError> {
        let Some(index) = self.indexes.remove(&domain).filter(|index| !index.is_empty()) else { return Ok(()) };
        let Some(keys) = self.repository.access().domains.get(&domain) else { return Ok(()) };
        let (hash, bytes) = index.finish().encode(&keys.index, self.signer);
        put(self.repository.store(), &ObjectType::Index.key(hash), bytes).await
    }

    /// Puts what is open.
    pub(super) async fn finish(mut self) -> Result<Mended, RepoError> {
        for slot in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(slot).await?;
        }
        for domain in self.indexes.keys().copied().collect::<Vec<_>>() {
            self.put_index(domain).await?;
        }
        Ok(self.done)
    }
}

/// Records that an index object has of a pack.
fn records_of(index: &IndexObject, pack: &ObjectHash) -> Vec<(Record, Origin)> {
    let place = index.packs.iter().position(|named| named.hash == *pack);
    let ours = |record: &&Record| Some(usize::from(record.pack)) == place;
    let origin = |record: &Record| {
        let (pack, envelope) = index.origins[record.origin as usize];
        Origin { pack, envelope: index.envelopes[envelope as usize].clone() }
    };
    index.records.iter().filter(ours).map(|record| (*record, origin(record))).collect()
}

//! Packing anew what snapshots need of packs that are mostly waste. Records stay encrypted as they
//! are: their keys hang on the packs that they came from.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::ChunkId;
use lifeboat_store::StoreErrorKind;

use super::live::{LiveRecord, LiveRecords};
use super::plan::Plan;
use super::reindex::Reindex;
use super::{Job, PruneReport};
use crate::error::RepoError;
use crate::index::{IndexPack, blocking};
use crate::object::{IndexKey, ObjectError};
use crate::pack::{PackContents, PackKind, Repacker};
use crate::scan::{PackSeen, scratch_error};
use crate::sealed::check_hash;

/// The length at which a pack is closed.
const PACK_BYTES: usize = 32 << 20;
/// How many packs are read at once: each is hashed on a core of its own.
const PACKS_AHEAD: usize = 2;
/// What a new pack sets aside: all that it may come to hold, so that it never grows by a copy.
const CAPACITY_BYTES: usize = PACK_BYTES + (1 << 20);

/// Puts new packs and their index, and returns the plan without the packs and index objects that
/// could not be replaced.
pub(super) async fn repack(
    job: &Job<'_>,
    mut plan: Plan,
    live: &LiveRecords,
    report: &mut PruneReport,
) -> Result<Plan, RepoError> {
    let wanted: BTreeSet<u32> =
        plan.repack.iter().filter_map(|(kind, hash)| job.gathered.scan.number_of(*kind, hash)).collect();
    let mut work = Work { job, open: None, index: Reindex::new(job), failed: BTreeSet::new(), report };
    let mut groups = Groups { job, live, wanted, next: None };
    let mut reading = VecDeque::new();
    loop {
        while reading.len() < PACKS_AHEAD
            && let Some((number, ids)) = groups.next()?
        {
            reading.push_back(work.read(number, ids));
        }
        let Some(read) = reading.pop_front() else { break };
        work.pack(read).await?;
    }
    work.close().await?;
    let Work { mut index, failed, .. } = work;
    let scan = &job.gathered.scan;
    plan.repack.retain(|(kind, hash)| scan.number_of(*kind, hash).is_some_and(|number| !failed.contains(&number)));
    index.rewrite(&plan).await?;
    index.put().await?;
    Ok(plan)
}

/// The packs that are wanted, each with the records of it that snapshots need.
struct Groups<'j, 'a> {
    job: &'j Job<'a>,
    live: &'j LiveRecords,
    wanted: BTreeSet<u32>,
    /// The first record of the pack after the last one.
    next: Option<LiveRecord>,
}

impl Groups<'_, '_> {
    fn next(&mut self) -> Result<Option<(u32, HashSet<ChunkId>)>, RepoError> {
        if self.wanted.is_empty() {
            return Ok(None);
        }
        let mut group: Option<(u32, HashSet<ChunkId>)> = None;
        loop {
            let next = match self.next.take() {
                Some(record) => Some(record),
                None => self.live.next_of(self.job.number).map_err(scratch_error(&self.job.ctx.scratch))?,
            };
            let Some(record) = next else { return Ok(group) };
            match &mut group {
                Some((pack, _)) if *pack != record.pack => {
                    self.next = Some(record);
                    return Ok(group);
                }
                Some((_, ids)) => drop(ids.insert(record.id)),
                None if self.wanted.contains(&record.pack) => group = Some((record.pack, HashSet::from([record.id]))),
                None => {}
            }
        }
    }
}

/// A pack that is being read. It is given up when nobody waits for it any more.
struct Reading {
    number: u32,
    pack: PackSeen,
    read: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::JoinHandle<Result<Found, RepoError>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Found {
    Whole { bytes: Bytes, contents: PackContents, ids: HashSet<ChunkId> },
    Damaged(ObjectError),
    Gone,
}

/// The pack's contents, when it is whole and holds every record that it must.
fn contents(
    pack: &PackSeen,
    bytes: &Bytes,
    key: &IndexKey,
    ids: &HashSet<ChunkId>,
) -> Result<PackContents, ObjectError> {
    check_hash(pack.hash, bytes)?;
    let contents = PackContents::parse(pack.kind, bytes, |domain| (domain == key.domain).then_some(key))?;
    let held: HashSet<_> = contents.trailer.records.iter().map(|record| record.id).collect();
    if ids.is_subset(&held) {
        Ok(contents)
    } else {
        Err(ObjectError::malformed("an index names a record in it that it does not hold"))
    }
}

struct Work<'j, 'a, 'r> {
    job: &'j Job<'a>,
    open: Option<(PackKind, Repacker)>,
    index: Reindex<'j, 'a>,
    failed: BTreeSet<u32>,
    report: &'r mut PruneReport,
}

impl Work<'_, '_, '_> {
    /// Begins to read a pack and to check that it is whole and holds every record that it must.
    fn read(&self, number: u32, ids: HashSet<ChunkId>) -> Reading {
        let pack = self.job.gathered.scan.packs[number as usize];
        let (store, key) = (Arc::clone(self.job.store), self.job.index_key().clone());
        let read = tokio::spawn(async move {
            let bytes = match store.get(&pack.key(), None).await {
                Ok(bytes) => bytes,
                Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Found::Gone),
                Err(error) => return Err(error.into()),
            };
            let found = move || match contents(&pack, &bytes, &key, &ids) {
                Ok(contents) => Ok(Found::Whole { bytes, contents, ids }),
                Err(error) => Ok(Found::Damaged(error)),
            };
            blocking(found).await
        });
        Reading { number, pack, read: AbortOnDrop(read) }
    }

    /// Moves the needed records of one pack.
    async fn pack(&mut self, mut reading: Reading) -> Result<(), RepoError> {
        if self.job.ctx.cancel.is_cancelled() {
            return Err(RepoError::Busy { what: "the repository, by a prune that was asked to stop,".to_owned() });
        }
        let found =
            (&mut reading.read.0).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        match found {
            Found::Whole { bytes, contents, ids } => {
                self.report.repacked_packs += 1;
                return self.move_records(&reading.pack, &bytes, &contents, &ids).await;
            }
            // It stays as it is.
            Found::Damaged(error) => self.report.problem(format!("{}: {error}", reading.pack.key())),
            Found::Gone => {}
        }
        self.failed.insert(reading.number);
        Ok(())
    }

    async fn move_records(
        &mut self,
        pack: &PackSeen,
        bytes: &Bytes,
        contents: &PackContents,
        ids: &HashSet<ChunkId>,
    ) -> Result<(), RepoError> {
        let mut moved = HashSet::new();
        for record in &contents.trailer.records {
            if !ids.contains(&record.id) || !moved.insert(record.id) {
                continue;
            }
            let full = |open: &(PackKind, Repacker)| {
                open.0 != pack.kind || open.1.bytes() + record.stored_len as usize > PACK_BYTES
            };
            if self.open.as_ref().is_some_and(full) {
                self.close().await?;
            }
            let (_, repacker) =
                self.open.get_or_insert_with(|| (pack.kind, Repacker::new(pack.kind, self.job.domain, CAPACITY_BYTES)));
            let ciphertext = &bytes[record.offset as usize..][..record.stored_len as usize];
            let origin = &contents.trailer.origins[record.origin as usize];
            repacker
                .push_foreign(record, ciphertext, origin)
                .map_err(|source| RepoError::object(pack.key(), source))?;
        }
        Ok(())
    }

    /// Puts the open pack, and tells the index of it.
    async fn close(&mut self) -> Result<(), RepoError> {
        let Some((kind, repacker)) = self.open.take() else { return Ok(()) };
        let pack = repacker.finish(self.job.index_key());
        crate::forget::put(self.job.store, &kind.object_type().key(pack.hash), pack.bytes.clone()).await?;
        self.report.written_bytes += pack.bytes.len() as u64;
        self.job.ctx.monitor.bytes(pack.bytes.len() as u64);
        let named = IndexPack { hash: pack.hash, bytes: pack.bytes.len() as u64, kind };
        self.index.add_pack(named, &pack.origins, &pack.records).await
    }
}

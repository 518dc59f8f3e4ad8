//! Packing anew what snapshots need of packs that are mostly waste. Records stay encrypted as they
//! are: their keys hang on the packs that they came from.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use lifeboat_model::ChunkId;
use lifeboat_store::StoreErrorKind;

use super::live::LiveRecords;
use super::plan::Plan;
use super::reindex::Reindex;
use super::{Job, PruneReport};
use crate::error::RepoError;
use crate::index::IndexPack;
use crate::object::ObjectError;
use crate::pack::{PackContents, PackKind, Repacker};
use crate::scan::{PackSeen, scratch_error};
use crate::sealed::check_hash;

/// The length at which a pack is closed.
const PACK_BYTES: usize = 32 << 20;
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
    let mut group: Option<(u32, HashSet<ChunkId>)> = None;
    while !wanted.is_empty() {
        let next = live.next_of(job.number).map_err(scratch_error(&job.ctx.scratch))?;
        if let Some((pack, ids)) = group.take_if(|(pack, _)| next.is_none_or(|record| record.pack != *pack)) {
            work.pack(pack, &ids).await?;
        }
        match next {
            Some(record) if wanted.contains(&record.pack) => {
                group.get_or_insert_with(|| (record.pack, HashSet::new())).1.insert(record.id);
            }
            Some(_) => {}
            None => break,
        }
    }
    work.close().await?;
    let Work { mut index, failed, .. } = work;
    let scan = &job.gathered.scan;
    plan.repack.retain(|(kind, hash)| scan.number_of(*kind, hash).is_some_and(|number| !failed.contains(&number)));
    index.rewrite(&plan).await?;
    index.put().await?;
    Ok(plan)
}

struct Work<'j, 'a, 'r> {
    job: &'j Job<'a>,
    open: Option<(PackKind, Repacker)>,
    index: Reindex<'j, 'a>,
    failed: BTreeSet<u32>,
    report: &'r mut PruneReport,
}

impl Work<'_, '_, '_> {
    /// Moves the needed records of one pack.
    async fn pack(&mut self, number: u32, ids: &HashSet<ChunkId>) -> Result<(), RepoError> {
        if self.job.ctx.cancel.is_cancelled() {
            return Err(RepoError::Busy { what: "the repository, by a prune that was asked to stop,".to_owned() });
        }
        let pack = self.job.gathered.scan.packs[number as usize];
        let bytes = match self.job.store.get(&pack.key(), None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                self.failed.insert(number);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match self.contents(&pack, &bytes, ids) {
            Ok(contents) => {
                self.report.repacked_packs += 1;
                self.move_records(&pack, &bytes, &contents, ids).await
            }
            Err(error) => {
                // The pack stays as it is.
                self.failed.insert(number);
                self.report.problem(format!("{}: {error}", pack.key()));
                Ok(())
            }
        }
    }

    /// The pack's contents, when it is whole and holds every record that it must.
    fn contents(&self, pack: &PackSeen, bytes: &Bytes, ids: &HashSet<ChunkId>) -> Result<PackContents, ObjectError> {
        check_hash(pack.hash, bytes)?;
        let key = self.job.index_key();
        let contents = PackContents::parse(pack.kind, bytes, |domain| (domain == key.domain).then_some(key))?;
        let held: HashSet<_> = contents.trailer.records.iter().map(|record| record.id).collect();
        if ids.is_subset(&held) {
            Ok(contents)
        } else {
            Err(ObjectError::malformed("an index names a record in it that it does not hold"))
        }
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

//! Writing index objects anew: without packs that go, many small ones as one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lifeboat_model::ObjectHash;
use lifeboat_store::StoreErrorKind;

use super::Job;
use super::plan::Plan;
use crate::error::RepoError;
use crate::forget::keeper;
use crate::index::{IndexBuilder, IndexObject, IndexPack};
use crate::object::ObjectType;
use crate::pack::{Origin, Record};

/// Collects packs and puts an index object whenever one is full.
pub(super) struct Reindex<'j, 'a> {
    job: &'j Job<'a>,
    builder: IndexBuilder,
}

impl<'j, 'a> Reindex<'j, 'a> {
    pub(super) fn new(job: &'j Job<'a>) -> Self {
        Self { job, builder: IndexBuilder::new() }
    }

    /// Adds what the index objects of `plan.supersede` say of packs that stay.
    pub(super) async fn rewrite(&mut self, plan: &Plan) -> Result<(), RepoError> {
        let going: BTreeSet<_> = plan.garbage.iter().chain(&plan.repack).map(|(_, hash)| *hash).collect();
        let superseded: BTreeSet<_> = plan.supersede.iter().copied().collect();
        let view = &self.job.gathered.views[&self.job.number];
        // Where a pack is described best: by an index object that stays if one of them says as much.
        let mut best: BTreeMap<ObjectHash, (u32, bool)> = BTreeMap::new();
        for index in &view.indexes {
            for (pack, records) in &index.packs {
                let known = best.entry(*pack).or_default();
                *known = (*known).max((*records, !superseded.contains(&index.hash)));
            }
        }
        let present: BTreeSet<_> = view.packs.iter().map(|pack| pack.hash).collect();
        let mut written = BTreeSet::new();
        for hash in &plan.supersede {
            let Some(index) = self.read(*hash).await? else { continue };
            let mut records: HashMap<u16, Vec<Record>> = HashMap::new();
            for record in &index.records {
                records.entry(record.pack).or_default().push(*record);
            }
            for (number, pack) in index.packs.iter().enumerate() {
                let records = u16::try_from(number).ok().and_then(|number| records.remove(&number)).unwrap_or_default();
                let stays = present.contains(&pack.hash)
                    && !going.contains(&pack.hash)
                    && !self.job.gathered.marked.contains(&pack.hash);
                let here_best = best.get(&pack.hash).is_some_and(|(n, kept)| !kept && *n as usize == records.len());
                if stays && here_best && written.insert(pack.hash) {
                    self.add_described(*pack, &index, records).await?;
                }
            }
        }
        Ok(())
    }

    async fn add_described(
        &mut self,
        pack: IndexPack,
        index: &IndexObject,
        mut records: Vec<Record>,
    ) -> Result<(), RepoError> {
        let mut origins: Vec<Origin> = Vec::new();
        let mut places: HashMap<u32, u32> = HashMap::new();
        for record in &mut records {
            record.origin = *places.entry(record.origin).or_insert_with(|| {
                let (pack, envelope) = index.origins[record.origin as usize];
                origins.push(Origin { pack, envelope: index.envelopes[envelope as usize].clone() });
                u32::try_from(origins.len() - 1).expect("an index holds far fewer than 2^32 origins")
            });
        }
        self.add_pack(pack, &origins, &records).await
    }

    /// Adds a pack that is in the store.
    pub(super) async fn add_pack(
        &mut self,
        pack: IndexPack,
        origins: &[Origin],
        records: &[Record],
    ) -> Result<(), RepoError> {
        if !self.builder.has_room_for(records.len()) {
            self.put().await?;
        }
        self.builder.add_pack(pack, origins, records);
        Ok(())
    }

    async fn read(&self, hash: ObjectHash) -> Result<Option<IndexObject>, RepoError> {
        let name = ObjectType::Index.key(hash);
        match self.job.store.get(&name, None).await {
            Ok(bytes) => {
                let index = IndexObject::decode(self.job.access, hash, &bytes);
                Ok(Some(index.map_err(|source| RepoError::object(&name, source))?.value))
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts what was collected.
    pub(super) async fn put(&mut self) -> Result<(), RepoError> {
        let builder = std::mem::take(&mut self.builder);
        if builder.is_empty() {
            return Ok(());
        }
        let (hash, bytes) = builder.finish().encode(self.job.index_key(), keeper(self.job.access, "a prune")?);
        crate::forget::put(self.job.store, &ObjectType::Index.key(hash), bytes).await
    }
}

//! What the packs themselves tell, where no index does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use lifeboat_model::ObjectHash;
use lifeboat_store::{Store, StoreErrorKind};

use super::INDEX_RECORDS_MAX;
use super::segment::{Collector, PackFacts, Segment};
use super::set::{DamagedObject, IndexSet, OBJECT_BYTES_MAX, blocking, list_objects};
use crate::error::RepoError;
use crate::object::{DomainId, IndexKey, ObjectError};
use crate::pack::{PackKind, Trailer};

/// Bytes that are read from the end of a pack at first: enough for most trailers.
const GUESS_BYTES: u64 = 64 << 10;
/// Packs whose ends are read at once.
const FETCHES: usize = 8;

impl IndexSet {
    /// Reads the trailers of all packs but `named`. The tables live as long as the process.
    pub(super) async fn read_trailers(
        &self,
        store: &dyn Store,
        named: &BTreeSet<ObjectHash>,
    ) -> Result<(Vec<Arc<Segment>>, Vec<DamagedObject>), RepoError> {
        let (mut segments, mut damaged, mut collector) = (Vec::new(), Vec::new(), Collector::default());
        for kind in PackKind::ALL {
            let packs = list_objects(store, kind.object_type()).await?;
            let mut trailers = futures::stream::iter(packs.into_iter().filter(|(hash, _)| !named.contains(hash)))
                .map(|(hash, bytes)| async move { (hash, bytes, self.read_trailer(store, kind, hash, bytes).await) })
                .buffer_unordered(FETCHES);
            while let Some((hash, bytes, trailer)) = trailers.next().await {
                let trailer = match trailer? {
                    None | Some(Err(ObjectError::ForeignDomain)) => continue,
                    Some(Err(why)) => {
                        damaged.push(DamagedObject { object: kind.object_type().key(hash).to_string(), why });
                        continue;
                    }
                    Some(Ok(trailer)) => trailer,
                };
                if collector.rows() + trailer.records.len() > INDEX_RECORDS_MAX {
                    segments.push(self.write_unnamed(std::mem::take(&mut collector)).await?);
                }
                let facts = PackFacts { hash, bytes, kind, domain: trailer.domain };
                collector.trailer(&facts, &trailer.origins, &trailer.records);
            }
        }
        if collector.rows() > 0 {
            segments.push(self.write_unnamed(collector).await?);
        }
        Ok((segments, damaged))
    }

    /// Writes a table whose file is gone from the directory at once.
    async fn write_unnamed(&self, collector: Collector) -> Result<Arc<Segment>, RepoError> {
        let (directory, repository) = (self.directory().to_owned(), self.access().repository);
        blocking(move || {
            let path = directory.clone();
            let scratch = tempfile::tempdir_in(&directory).map_err(|source| RepoError::Io {
                doing: "making a directory in",
                path,
                source,
            })?;
            Ok(Arc::new(collector.write(scratch.path(), repository)?))
        })
        .await
    }

    /// `None` where the pack is gone.
    async fn read_trailer(
        &self,
        store: &dyn Store,
        kind: PackKind,
        hash: ObjectHash,
        bytes: u64,
    ) -> Result<Option<Result<Trailer, ObjectError>>, RepoError> {
        if bytes > OBJECT_BYTES_MAX {
            return Ok(Some(Err(ObjectError::malformed("it is longer than any object may be"))));
        }
        let Some(mut tail) = self.read_tail(store, kind, hash, bytes, GUESS_BYTES).await? else { return Ok(None) };
        let wanted = tail.last_chunk().map(Trailer::tail_bytes);
        if let Some(Ok(wanted)) = wanted
            && wanted > tail.len() as u64
            && wanted <= bytes
        {
            let Some(more) = self.read_tail(store, kind, hash, bytes, wanted).await? else { return Ok(None) };
            tail = more;
        }
        let access = Arc::clone(self.access());
        blocking(move || {
            let key_of =
                |domain: DomainId| -> Option<&IndexKey> { access.domains.get(&domain).map(|keys| &keys.index) };
            Ok(Some(Trailer::parse(kind, bytes, &tail, key_of)))
        })
        .await
    }

    async fn read_tail(
        &self,
        store: &dyn Store,
        kind: PackKind,
        hash: ObjectHash,
        bytes: u64,
        length: u64,
    ) -> Result<Option<Bytes>, RepoError> {
        match store.get(&kind.object_type().key(hash), Some(bytes.saturating_sub(length)..bytes)).await {
            Ok(tail) => Ok(Some(tail)),
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::BadRange) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

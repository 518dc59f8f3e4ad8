//! Indexing packs again that snapshots need and that no index names: their index object is missing or
//! damaged.
//!
//! Writers build on what an index says, so a trailer's word is not enough: each pack is read whole and
//! every record is opened. That takes an identity; a maintainer can only do it with references.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lifeboat_model::flow::RunContext;
use lifeboat_store::StoreErrorKind;

use super::gather::Gathered;
use super::live::Missing;
use super::reindex::Reindex;
use super::{Job, PruneReport};
use crate::access::Access;
use crate::check::packs::{Secrets, bad_records};
use crate::error::RepoError;
use crate::index::{IndexPack, blocking};
use crate::object::{DomainId, ObjectError};
use crate::pack::PackContents;
use crate::repository::Repository;
use crate::scan::PackSeen;
use crate::sealed::check_hash;

/// Puts index objects for the packs that hold missing chunks.
pub(super) async fn index_again(
    repository: &Repository,
    gathered: &Gathered,
    missing: &Missing,
    report: &mut PruneReport,
    ctx: &RunContext,
) -> Result<(), RepoError> {
    let (store, access) = (repository.store(), repository.access());
    let mut packs: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
    for (domain, ids) in missing {
        for id in ids {
            let found = repository.index().search(store.as_ref(), id).await?;
            let numbers = found.iter().filter_map(|at| gathered.scan.number_of(at.record.kind, &at.pack));
            packs.entry(*domain).or_default().extend(numbers);
        }
    }
    for (number, packs) in packs {
        let domain = gathered.scan.domains[usize::from(number)];
        let job = Job { store, access, domain, number, gathered, ctx };
        let mut index = Reindex::new(&job);
        let mut indexed = 0;
        for pack in packs {
            let pack = gathered.scan.packs[pack as usize];
            match examine(repository, pack, domain).await? {
                Ok(contents) => {
                    let named = IndexPack { hash: pack.hash, bytes: pack.bytes, kind: pack.kind };
                    index.add_pack(named, &contents.trailer.origins, &contents.trailer.records).await?;
                    indexed += 1;
                }
                Err(why) => report.problem(format!("{} is in no index and stays so: {why}", pack.key())),
            }
        }
        index.put().await?;
        report.indexed_packs += indexed;
    }
    Ok(())
}

/// What is in a pack whose every record is sound; else what is wrong.
async fn examine(
    repository: &Repository,
    pack: PackSeen,
    domain: DomainId,
) -> Result<Result<PackContents, String>, RepoError> {
    let bytes = match repository.store().get(&pack.key(), None).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Err("it is gone".to_owned())),
        Err(error) => return Err(error.into()),
    };
    let access = Arc::clone(repository.access());
    blocking(move || Ok(sound(&access, pack, domain, &bytes))).await
}

fn sound(access: &Access, pack: PackSeen, domain: DomainId, bytes: &bytes::Bytes) -> Result<PackContents, String> {
    let text = |why: ObjectError| why.to_string();
    check_hash(pack.hash, bytes).map_err(text)?;
    let index_key = |of| access.domains.get(&of).filter(|_| of == domain).map(|keys| &keys.index);
    let contents = PackContents::parse(pack.kind, bytes, index_key).map_err(text)?;
    match bad_records(access, &pack, bytes, &contents, &mut Secrets::new()) {
        Some(bad) if bad.is_empty() => Ok(contents),
        Some(bad) => Err(format!("{} of its records do not open", bad.len())),
        None => Err("only an identity can tell what is in it; run `lifeboat prune --identity FILE`".to_owned()),
    }
}

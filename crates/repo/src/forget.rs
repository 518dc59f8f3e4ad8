//! Forget, hold and release: signed words about snapshots. Nothing is deleted here.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::SnapshotId;
use lifeboat_model::flow::RunContext;
use lifeboat_store::{Key, PutMode, Store, StoreErrorKind};

use crate::access::Access;
use crate::crypt::SignKey;
use crate::error::RepoError;
use crate::object::{IndexKey, ObjectType};
use crate::repository::Repository;
use crate::small::{self, Forget, Hold};
use crate::snapshots::SnapshotList;

/// Drops snapshots: from now on nobody lists them, and the next prune may free their space. All of
/// them are looked at before the first is forgotten; those that are forgotten already are passed
/// over.
///
/// # Errors
/// [`RepoError::KeyMissing`] without a maintainer or identity key; [`RepoError::Missing`] where
/// there is no such snapshot; [`RepoError::Usage`] where one is held. Nothing is forgotten then.
pub async fn forget(repository: &Repository, ids: &[SnapshotId], why: &str, ctx: &RunContext) -> Result<(), RepoError> {
    let signer = keeper(repository.access(), "forgetting a snapshot")?;
    let list = repository.snapshots(&[]).await?;
    let mut puts = Vec::new();
    for id in ids.iter().collect::<BTreeSet<_>>() {
        let known = list.snapshots.iter().find(|info| info.id == *id);
        if known.is_some_and(|info| info.forgotten.is_some()) {
            continue;
        }
        if let Some(reason) = known.and_then(|info| info.held.as_ref()) {
            return Err(RepoError::Usage {
                what: format!("the snapshot {} is held: {reason}", id.short()),
                hint: Some("`lifeboat hold --release` ends the hold"),
            });
        }
        let key = match known {
            Some(_) => index_key(repository.access(), &list, *id)?,
            None => any_key(repository, *id).await?,
        };
        let word = Forget { snapshot: *id, why: why.to_owned(), time: ctx.clock.now() };
        puts.push(small::encode(&word, key, signer));
    }
    for (name, bytes) in puts {
        put(repository.store(), &name, bytes).await?;
    }
    Ok(())
}

/// Keeps a snapshot whatever the retention policy says, until [`release`].
///
/// # Errors
/// [`RepoError::KeyMissing`] without a maintainer or identity key; [`RepoError::Missing`] where
/// there is no such snapshot; [`RepoError::Usage`] where it is forgotten.
pub async fn hold(repository: &Repository, id: SnapshotId, why: &str, ctx: &RunContext) -> Result<(), RepoError> {
    put_hold(repository, Hold { snapshot: id, why: why.to_owned(), time: ctx.clock.now(), release: false }).await
}

/// Ends every hold of a snapshot.
///
/// # Errors
/// As [`hold`].
pub async fn release(repository: &Repository, id: SnapshotId, why: &str, ctx: &RunContext) -> Result<(), RepoError> {
    put_hold(repository, Hold { snapshot: id, why: why.to_owned(), time: ctx.clock.now(), release: true }).await
}

async fn put_hold(repository: &Repository, word: Hold) -> Result<(), RepoError> {
    let signer = keeper(repository.access(), "holding a snapshot")?;
    let list = repository.snapshots(&[]).await?;
    let key = index_key(repository.access(), &list, word.snapshot)?;
    if list.snapshots.iter().any(|info| info.id == word.snapshot && info.forgotten.is_some()) {
        return Err(RepoError::Usage {
            what: format!("the snapshot {} is forgotten", word.snapshot.short()),
            hint: Some("`lifeboat snapshots` lists those that are there"),
        });
    }
    let (name, bytes) = small::encode(&word, key, signer);
    put(repository.store(), &name, bytes).await
}

/// The key that signs for maintainers and identities.
pub(crate) fn keeper<'a>(access: &'a Access, what: &'static str) -> Result<&'a SignKey, RepoError> {
    if let Some(feature) = access.read_only.clone() {
        return Err(RepoError::UnknownFeature { feature, to_read: false });
    }
    access.maintain.as_ref().ok_or(RepoError::KeyMissing { what, needs: "a maintainer or identity key" })
}

/// Objects are named by their hash: one that is there already is the same.
pub(crate) async fn put(store: &Arc<dyn Store>, name: &Key, bytes: Bytes) -> Result<(), RepoError> {
    match store.put(name, bytes, PutMode::CreateNew).await {
        Err(error) if error.kind == StoreErrorKind::Exists => Ok(()),
        done => Ok(done?),
    }
}

/// The key of the domain to which a snapshot belongs.
fn index_key<'a>(access: &'a Access, list: &SnapshotList, id: SnapshotId) -> Result<&'a IndexKey, RepoError> {
    let info = list.snapshots.iter().find(|info| info.id == id);
    let info = info.ok_or_else(|| RepoError::Missing { object: name_of(id).to_string() })?;
    let keys = access.domains.get(&info.domain);
    Ok(&keys.ok_or_else(|| RepoError::Missing { object: name_of(id).to_string() })?.index)
}

/// A key for the word about a root that is forged or damaged, and so belongs to no domain.
async fn any_key(repository: &Repository, id: SnapshotId) -> Result<&IndexKey, RepoError> {
    let name = name_of(id);
    repository.store().get(&name, None).await.map_err(|error| match error.kind {
        StoreErrorKind::NotFound => RepoError::Missing { object: name.to_string() },
        _ => error.into(),
    })?;
    let keys = repository.access().domains.values().next();
    Ok(&keys.ok_or_else(|| RepoError::Missing { object: name.to_string() })?.index)
}

fn name_of(id: SnapshotId) -> Key {
    ObjectType::SnapshotRoot.key(lifeboat_model::ObjectHash(id.0))
}

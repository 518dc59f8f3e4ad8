//! What is in the store, by type, and how objects of a type are read in bulk.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lifeboat_model::ObjectHash;
use lifeboat_store::{ObjectMeta, Store, StoreErrorKind};

use crate::access::Access;
use crate::error::RepoError;
use crate::object::{ObjectError, ObjectType};
use crate::sealed::Signed;
use crate::small::{self, Small};

/// The most objects of one type, packs apart, that are taken from a list.
pub(crate) const SMALL_OBJECTS_MAX: usize = 1 << 20;
/// How many objects are read at once.
const READS: usize = 8;

/// Names, sizes and times of all objects of a type.
pub(crate) async fn list(store: &Arc<dyn Store>, prefix: &str) -> Result<Vec<ObjectMeta>, RepoError> {
    let mut objects = Vec::new();
    let mut listed = store.list(prefix);
    while let Some(object) = listed.try_next().await? {
        if objects.len() == SMALL_OBJECTS_MAX {
            return Err(RepoError::TooMany {
                what: "objects of one type",
                store: store.to_string(),
                most: SMALL_OBJECTS_MAX,
            });
        }
        objects.push(object);
    }
    Ok(objects)
}

/// The hash in the name of an object of that type.
pub(crate) fn hash_of(kind: ObjectType, object: &ObjectMeta) -> Result<ObjectHash, ObjectError> {
    let text = object.key.as_str().strip_prefix(kind.prefix()).unwrap_or_default();
    let hash = ObjectHash::from_hex(text).map_err(|_| ObjectError::malformed("its name is no hash"))?;
    // Upper-case digits are no key, so that a hash has one name only.
    Ok(hash)
}

/// An object that was listed and read, or what is wrong with it.
pub(crate) type Found<T> = (ObjectMeta, Result<T, ObjectError>);

/// Reads objects, several at once. Those that are gone since they were listed are left out.
pub(crate) async fn read_all<T: Send>(
    store: &Arc<dyn Store>,
    kind: ObjectType,
    objects: Vec<ObjectMeta>,
    decode: impl Fn(ObjectHash, &Bytes) -> Result<T, ObjectError> + Sync,
) -> Result<Vec<Found<T>>, RepoError> {
    let decode = &decode;
    stream::iter(objects)
        .map(|object| async move {
            match store.get(&object.key, None).await {
                Ok(bytes) => {
                    let value = hash_of(kind, &object).and_then(|hash| decode(hash, &bytes));
                    Ok(Some((object, value)))
                }
                Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
                Err(error) => Err(RepoError::from(error)),
            }
        })
        .buffered(READS)
        .try_filter_map(|found| std::future::ready(Ok(found)))
        .try_collect()
        .await
}

/// Lists and reads all small objects of a type.
pub(crate) async fn small<T: Small + Send>(
    store: &Arc<dyn Store>,
    access: &Access,
) -> Result<Vec<Found<Signed<T>>>, RepoError> {
    let objects = list(store, T::TYPE.prefix()).await?;
    read_all(store, T::TYPE, objects, |hash, bytes| small::decode::<T>(access, hash, bytes)).await
}

//! Small immutable objects kept on the local disk, so that a list of snapshots fetches only new ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use lifeboat_model::ObjectHash;
use lifeboat_store::{Store, StoreErrorKind};

use crate::error::RepoError;
use crate::index::{OBJECT_BYTES_MAX, blocking, hash_of};
use crate::object::{ObjectError, ObjectType};
use crate::sealed::check_hash;

/// Objects that are fetched at once.
const FETCHES: usize = 8;

/// An object as a list shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) hash: ObjectHash,
    pub(crate) bytes: u64,
    pub(crate) stored_at: Timestamp,
}

/// Files named by hash, in a directory for each type. Their bytes are believed only if they hash to
/// their name.
#[derive(Debug)]
pub(crate) struct LocalObjects {
    directory: PathBuf,
}

/// An object with its bytes, or why it has none that can be used.
pub(crate) type Loaded = (Listed, Result<Bytes, ObjectError>);

impl LocalObjects {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn folder(&self, kind: ObjectType) -> PathBuf {
        self.directory.join(kind.prefix().trim_end_matches('/').replace('/', "-"))
    }

    /// Calls `each` with every object of a type in the store, in the order of their hashes, and
    /// drops local files that are gone from the store.
    pub(crate) async fn each(
        &self,
        store: &dyn Store,
        kind: ObjectType,
        mut each: impl FnMut(Loaded),
    ) -> Result<(), RepoError> {
        let listed: BTreeMap<ObjectHash, Listed> = store
            .list(kind.prefix())
            .try_fold(BTreeMap::new(), async |mut all, meta| {
                if let Some(hash) = hash_of(&meta.key, kind) {
                    all.insert(hash, Listed { hash, bytes: meta.bytes, stored_at: meta.stored_at });
                }
                Ok(all)
            })
            .await?;
        self.drop_others(kind, listed.keys().copied().collect()).await?;
        let mut objects = futures::stream::iter(listed.into_values())
            .map(|listed| async move { Ok::<_, RepoError>((listed, self.get(store, kind, listed).await?)) })
            .buffered(FETCHES);
        while let Some((listed, bytes)) = objects.try_next().await? {
            if let Some(bytes) = bytes {
                each((listed, bytes));
            }
        }
        Ok(())
    }

    /// The object's bytes; `None` where it went since it was listed.
    async fn get(
        &self,
        store: &dyn Store,
        kind: ObjectType,
        listed: Listed,
    ) -> Result<Option<Result<Bytes, ObjectError>>, RepoError> {
        let path = self.folder(kind).join(listed.hash.to_string());
        let local = blocking({
            let path = path.clone();
            move || Ok(std::fs::read(path).ok().filter(|bytes| check_hash(listed.hash, bytes).is_ok()))
        });
        if let Some(bytes) = local.await? {
            return Ok(Some(Ok(bytes.into())));
        }
        if listed.bytes > OBJECT_BYTES_MAX {
            return Ok(Some(Err(ObjectError::malformed("it is longer than any object may be"))));
        }
        let bytes = match store.get(&kind.key(listed.hash), None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Err(why) = check_hash(listed.hash, &bytes) {
            return Ok(Some(Err(why)));
        }
        let kept = bytes.clone();
        // A file that cannot be kept costs another fetch next time, nothing else.
        blocking(move || Ok(keep(&path, &kept))).await?.unwrap_or_else(|error| {
            tracing::debug!(%error, "an object is not kept on the local disk");
        });
        Ok(Some(Ok(bytes)))
    }

    async fn drop_others(
        &self,
        kind: ObjectType,
        live: std::collections::HashSet<ObjectHash>,
    ) -> Result<(), RepoError> {
        let folder = self.folder(kind);
        blocking(move || {
            let Ok(files) = std::fs::read_dir(&folder) else { return Ok(()) };
            for file in files.flatten() {
                let hash = file.file_name().to_str().and_then(|name| ObjectHash::from_hex(name).ok());
                if hash.is_none_or(|hash| !live.contains(&hash)) {
                    // Another process may have been first.
                    let _ = std::fs::remove_file(file.path());
                }
            }
            Ok(())
        })
        .await
    }
}

fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

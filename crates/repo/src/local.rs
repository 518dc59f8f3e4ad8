//! Small immutable objects kept on the local disk, so that a list of snapshots fetches only new ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    /// Of an object that is damaged in the store: when the store took it whole.
    pub(crate) stored_at: Timestamp,
}

/// Files named by hash, in a directory for each type. Their bytes are believed only if they hash to
/// their name; a file has the time at which the store took the object, so that one which changed there
/// since is read again.
#[derive(Debug)]
pub(crate) struct LocalObjects {
    directory: PathBuf,
}

/// An object that was listed.
pub(crate) struct Loaded {
    pub(crate) listed: Listed,
    /// Its bytes, or why it has none that can be used.
    pub(crate) bytes: Result<Bytes, ObjectError>,
    /// What is wrong with it in the store although it is whole here.
    pub(crate) damage: Option<ObjectError>,
}

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
        let mut objects =
            futures::stream::iter(listed.into_values()).map(|listed| self.get(store, kind, listed)).buffered(FETCHES);
        while let Some(loaded) = objects.try_next().await? {
            loaded.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// The bytes of an object that are kept here, where they are whole.
    pub(crate) async fn kept(&self, kind: ObjectType, hash: ObjectHash) -> Result<Option<Bytes>, RepoError> {
        Ok(self.read(kind, hash).await?.map(|(bytes, _)| bytes))
    }

    /// The same with the time at which the store took it.
    async fn read(&self, kind: ObjectType, hash: ObjectHash) -> Result<Option<(Bytes, Timestamp)>, RepoError> {
        let path = self.folder(kind).join(hash.to_string());
        blocking(move || {
            let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
            let time = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
            let time = time.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
            Ok(check_hash(hash, &bytes).is_ok().then(|| (bytes.into(), time)))
        })
        .await
    }

    /// The object; `None` where it went since it was listed.
    async fn get(&self, store: &dyn Store, kind: ObjectType, listed: Listed) -> Result<Option<Loaded>, RepoError> {
        let local = self.read(kind, listed.hash).await?;
        let here = |bytes, stored_at, damage| {
            Some(Loaded { listed: Listed { stored_at, ..listed }, bytes: Ok(bytes), damage })
        };
        let local = match local {
            Some((bytes, time)) if time == listed.stored_at && bytes.len() as u64 == listed.bytes => {
                return Ok(here(bytes, time, None));
            }
            local => local,
        };
        let bad = |why| match local {
            Some((bytes, time)) => here(bytes, time, Some(why)),
            None => Some(Loaded { listed, bytes: Err(why), damage: None }),
        };
        if listed.bytes > OBJECT_BYTES_MAX {
            return Ok(bad(ObjectError::malformed("it is longer than any object may be")));
        }
        let bytes = match store.get(&kind.key(listed.hash), None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Err(why) = check_hash(listed.hash, &bytes) {
            return Ok(bad(why));
        }
        self.keep(kind, (listed.hash, bytes.clone()), listed.stored_at).await?;
        Ok(here(bytes, listed.stored_at, None))
    }

    /// Keeps an object that the store took at that time, as far as it is known.
    pub(crate) async fn keep(
        &self,
        kind: ObjectType,
        (hash, bytes): (ObjectHash, Bytes),
        stored_at: Timestamp,
    ) -> Result<(), RepoError> {
        let path = self.folder(kind).join(hash.to_string());
        // A file that cannot be kept costs another fetch next time, nothing else.
        blocking(move || Ok(keep(&path, &bytes, stored_at))).await?.unwrap_or_else(|error| {
            tracing::debug!(%error, "an object is not kept on the local disk");
        });
        Ok(())
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

fn keep(path: &Path, bytes: &[u8], stored_at: Timestamp) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_modified(SystemTime::from(stored_at))?;
    file.persist(path)?;
    Ok(())
}

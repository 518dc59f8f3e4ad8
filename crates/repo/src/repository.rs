//! An opened repository.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_model::{ObjectHash, SnapshotId};
use lifeboat_store::{Store, StoreErrorKind};

use crate::access::Access;
use crate::cache::StateDir;
use crate::error::RepoError;
use crate::fetch::Fetcher;
use crate::index::IndexSet;
use crate::local::LocalObjects;
use crate::object::ObjectType;
use crate::reader::SnapshotReader;
use crate::remember::{AcceptedLoss, RememberedHead};
use crate::root::{Root, decode};
use crate::snapshots::{SnapshotList, list};

/// A repository whose keys were opened and whose index is at hand.
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn Store>,
    access: Arc<Access>,
    index: Arc<IndexSet>,
    fetcher: Arc<Fetcher>,
    local: LocalObjects,
    cache: PathBuf,
    accepted: BTreeSet<ObjectHash>,
}

impl Repository {
    /// Opens what `access` reaches in `store`. `cache` is a directory for this repository and
    /// nothing else, made if it is not there; losing it costs time only.
    ///
    /// # Errors
    /// [`RepoError`] where the store or the local disk fails. Damaged index objects are no errors:
    /// see [`IndexSet::damaged`].
    pub async fn open(store: Arc<dyn Store>, access: Access, cache: &Path) -> Result<Self, RepoError> {
        let access = Arc::new(access);
        let index = Arc::new(IndexSet::open(Arc::clone(&access), &cache.join("index"))?);
        index.refresh(store.as_ref()).await?;
        let fetcher = Arc::new(Fetcher::new(Arc::clone(&store), Arc::clone(&access), Arc::clone(&index)));
        Ok(Self {
            local: LocalObjects::new(&StateDir::new(cache).objects()),
            cache: cache.to_owned(),
            accepted: BTreeSet::new(),
            store,
            access,
            index,
            fetcher,
        })
    }

    /// The same, with roots of whose loss a person took note: it is told no more.
    #[must_use]
    pub fn accepting(mut self, losses: &[AcceptedLoss]) -> Self {
        self.accepted = losses.iter().map(|loss| loss.root).collect();
        self
    }

    /// Whether a person took note that this root is gone.
    pub(crate) fn accepts(&self, root: &ObjectHash) -> bool {
        self.accepted.contains(root)
    }

    /// The bytes of a root that this machine keeps, where they are whole.
    pub(crate) async fn kept_root(&self, root: ObjectHash) -> Result<Option<bytes::Bytes>, RepoError> {
        self.local.kept(ObjectType::SnapshotRoot, root).await
    }

    /// Lists the snapshots of the domains that we know, oldest first. `remembered` are newest roots
    /// that were seen before: what is missing of them is told.
    ///
    /// # Errors
    /// [`RepoError::Store`]. Forged and damaged objects are in the list, not errors.
    pub async fn snapshots(&self, remembered: &[RememberedHead]) -> Result<SnapshotList, RepoError> {
        list(self.store.as_ref(), &self.access, &self.local, (remembered, &self.accepted)).await
    }

    /// The root object of a snapshot, checked and opened as far as our keys reach.
    ///
    /// # Errors
    /// [`RepoError::Missing`] where there is none, [`RepoError::Object`] where it is forged or damaged.
    pub async fn root(&self, id: &SnapshotId) -> Result<Root, RepoError> {
        let key = ObjectType::SnapshotRoot.key(ObjectHash(id.0));
        let bytes = match self.store.get(&key, None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(RepoError::Missing { object: key.to_string() });
            }
            Err(error) => return Err(error.into()),
        };
        let root = decode(&self.access, *id, &bytes).map_err(|why| RepoError::object(&key, why))?;
        if !root.writer_stands {
            // Whether a removed writer's root counts is told by its place among all of them.
            let all = self.snapshots(&[]).await?;
            if let Some(refused) = all.refused.into_iter().find(|refused| refused.object == key.as_str()) {
                return Err(RepoError::object(&key, refused.why));
            }
        }
        Ok(root)
    }

    /// A reader of a snapshot's entries. Whether the snapshot is void is for the caller to see.
    ///
    /// # Errors
    /// As [`Repository::root`]; [`RepoError::KeyMissing`] without an identity that opens it.
    pub async fn reader(&self, id: &SnapshotId) -> Result<SnapshotReader, RepoError> {
        let root = self.root(id).await?;
        self.reader_of(&root)
    }

    /// A reader of the entries of a snapshot whose root is at hand.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] where the root's body is not open.
    pub fn reader_of(&self, root: &Root) -> Result<SnapshotReader, RepoError> {
        let body = root.body.as_ref();
        let body = body.ok_or(RepoError::KeyMissing { what: "reading a snapshot", needs: "an identity" })?;
        Ok(SnapshotReader::new(Arc::clone(&self.fetcher), body.top).recording(&body.problems))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What the keys open.
    #[must_use]
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Where chunks lie.
    #[must_use]
    pub fn index(&self) -> &Arc<IndexSet> {
        &self.index
    }

    /// Reads chunks.
    #[must_use]
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// The directory of what can be lost.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }
}

//! All index objects of a repository together, kept on the local disk.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use futures::{StreamExt, TryStreamExt};
use lifeboat_model::{ChunkId, ObjectHash};
use lifeboat_store::{Key, Store, StoreErrorKind};

use super::segment::{self, Collector, Segment, Source};
use super::{INDEX_RECORDS_MAX, IndexObject, IndexPack, Location};
use crate::access::Access;
use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::object::{DomainId, ObjectError, ObjectType};
use crate::sealed::{Role, Signed, role_of};
use crate::table::TableError;

/// The longest object that a store takes.
pub(crate) const OBJECT_BYTES_MAX: u64 = 64 << 20;
/// Index objects that are fetched at once: each may have 15 MiB.
const FETCHES: usize = 2;

/// An object in the store that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedObject {
    /// Its name.
    pub object: String,
    /// What is wrong with it.
    pub why: ObjectError,
}

/// Where chunks lie, by all index objects of the domains whose keys we have.
///
/// Records lie in tables in the cache directory. Losing them costs time only: they are made of the
/// index objects again. Several processes may share the directory.
#[derive(Debug)]
pub struct IndexSet {
    directory: PathBuf,
    access: Arc<Access>,
    state: RwLock<Arc<State>>,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// From index objects.
    segments: Vec<Arc<Segment>>,
    /// From trailers of packs that no index names.
    trailers: Vec<Arc<Segment>>,
    damaged: Vec<DamagedObject>,
    /// Whether [`IndexSet::search`] already did what it can.
    searched: bool,
}

impl IndexSet {
    /// An index that knows nothing until it is refreshed. Makes `directory` if it is not there; it
    /// belongs to one repository and to nothing else.
    ///
    /// # Errors
    /// [`RepoError::Io`].
    pub fn open(access: Arc<Access>, directory: &Path) -> Result<Self, RepoError> {
        std::fs::create_dir_all(directory).map_err(|source| RepoError::Io {
            doing: "making",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            access,
            state: RwLock::default(),
            refreshing: tokio::sync::Mutex::new(()),
        })
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut state));
    }

    /// Fetches the index objects that are not on the local disk yet, and leaves out those that are
    /// gone from the store. An index object that is damaged or forged is left out too and told by
    /// [`IndexSet::damaged`].
    ///
    /// # Errors
    /// [`RepoError::Store`] where the store fails, [`RepoError::Io`] and [`RepoError::Cache`] where
    /// the local disk does.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), RepoError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let next = self.load(store).await?;
        self.change(|state| *state = next);
        Ok(())
    }

    async fn load(&self, store: &dyn Store) -> Result<State, RepoError> {
        let listed = list_objects(store, ObjectType::Index).await?;
        let live: Arc<BTreeSet<ObjectHash>> = Arc::new(listed.keys().copied().collect());
        let mut segments = self.on_disk(&live).await?;
        let mut missing = listed;
        for segment in &segments {
            for source in &segment.lists.sources {
                missing.remove(&source.hash);
            }
            for (hash, domain) in &segment.lists.foreign {
                if !self.access.domains.contains_key(domain) {
                    missing.remove(hash);
                }
            }
        }
        let damaged = self.fetch(store, missing, &mut segments).await?;
        let segments = self.compact(segments, live).await?;
        Ok(State { segments, damaged, ..State::default() })
    }

    /// Segments whose files are whole and tell something that the others do not.
    async fn on_disk(&self, live: &Arc<BTreeSet<ObjectHash>>) -> Result<Vec<Segment>, RepoError> {
        let (directory, repository, live) = (self.directory.clone(), self.access.repository, Arc::clone(live));
        blocking(move || {
            let paths = segment::files(&directory).map_err(|source| RepoError::Io {
                doing: "listing",
                path: directory.clone(),
                source,
            })?;
            let mut segments = Vec::new();
            for path in paths {
                match Segment::open(&path, repository) {
                    Ok(segment) => segments.push(segment),
                    Err(error) => drop_damaged(&error),
                }
            }
            // The largest first: a segment that was joined into another and not removed adds nothing.
            segments.sort_by_key(|segment| std::cmp::Reverse(segment.lists.sources.len()));
            let mut covered: HashSet<ObjectHash> = HashSet::new();
            segments.retain(|segment| {
                let mut hashes = segment.lists.sources.iter().map(|source| source.hash);
                let mut foreign = segment.lists.foreign.iter().map(|foreign| foreign.0);
                let useful = |hash: ObjectHash| live.contains(&hash) && !covered.contains(&hash);
                let keep = hashes.any(useful) || foreign.any(useful);
                covered.extend(segment.lists.sources.iter().map(|source| source.hash));
                covered.extend(segment.lists.foreign.iter().map(|foreign| foreign.0));
                if !keep {
                    remove(segment.table.path());
                }
                keep
            });
            Ok(segments)
        })
        .await
    }

    /// Fetches and checks index objects and writes them into new segments.
    async fn fetch(
        &self,
        store: &dyn Store,
        missing: BTreeMap<ObjectHash, u64>,
        segments: &mut Vec<Segment>,
    ) -> Result<Vec<DamagedObject>, RepoError> {
        let mut damaged = Vec::new();
        let mut collector = Collector::default();
        let mut objects = futures::stream::iter(missing)
            .map(|(hash, bytes)| async move { (hash, self.fetch_one(store, hash, bytes).await) })
            .buffer_unordered(FETCHES);
        while let Some((hash, fetched)) = objects.next().await {
            match fetched? {
                Fetched::Gone => {}
                Fetched::Foreign(domain) => collector.lists.foreign.push((hash, domain)),
                Fetched::Bad(why) => {
                    let object = ObjectType::Index.key(hash).to_string();
                    tracing::warn!(object, %why, "an index object cannot be used");
                    damaged.push(DamagedObject { object, why });
                }
                Fetched::Good(signed) => {
                    if collector.rows() + signed.value.records.len() > INDEX_RECORDS_MAX {
                        segments.push(self.write(std::mem::take(&mut collector)).await?);
                    }
                    let Signed { hash, domain, signer, value, .. } = *signed;
                    collector.object(Source { hash, domain, signer }, &value);
                }
            }
        }
        if !collector.is_empty() {
            segments.push(self.write(collector).await?);
        }
        Ok(damaged)
    }

    async fn fetch_one(&self, store: &dyn Store, hash: ObjectHash, bytes: u64) -> Result<Fetched, RepoError> {
        if bytes > OBJECT_BYTES_MAX {
            return Ok(Fetched::Bad(ObjectError::malformed("it is longer than any object may be")));
        }
        let bytes = match store.get(&ObjectType::Index.key(hash), None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Fetched::Gone),
            Err(error) => return Err(error.into()),
        };
        let access = Arc::clone(&self.access);
        blocking(move || {
            Ok(match IndexObject::decode(&access, hash, &bytes) {
                Ok(signed) => Fetched::Good(Box::new(signed)),
                Err(ObjectError::ForeignDomain) => {
                    let domain =
                        bytes[crate::object::HEADER_BYTES..].first_chunk().expect("a signed object has a body");
                    Fetched::Foreign(DomainId(*domain))
                }
                Err(why) => Fetched::Bad(why),
            })
        })
        .await
    }

    async fn write(&self, collector: Collector) -> Result<Segment, RepoError> {
        let (directory, repository) = (self.directory.clone(), self.access.repository);
        blocking(move || Ok(collector.write(&directory, repository)?)).await
    }

    /// Joins segments until each is more than twice as large as the next, so that a look-up asks few
    /// of them, and decides which packs count.
    async fn compact(
        &self,
        mut segments: Vec<Segment>,
        live: Arc<BTreeSet<ObjectHash>>,
    ) -> Result<Vec<Arc<Segment>>, RepoError> {
        let (directory, access) = (self.directory.clone(), Arc::clone(&self.access));
        blocking(move || {
            let stands = |source: &Source| {
                let role = role_of(&access.roster, &source.signer, source.domain);
                role.is_some_and(|role| role != Role::RemovedWriter)
            };
            for segment in &mut segments {
                segment.judge(&live, stands);
            }
            segments.sort_by_key(|segment| std::cmp::Reverse(segment.table.len()));
            if let Some(from) = first_to_join(&segments) {
                let old = segments.split_off(from);
                match segment::merge(&old.iter().collect::<Vec<_>>(), &directory, access.repository, &live) {
                    Ok(mut joined) => {
                        joined.judge(&live, stands);
                        segments.push(joined);
                        for segment in &old {
                            remove(segment.table.path());
                        }
                    }
                    // What is damaged goes; the next refresh fetches it again. A full disk only
                    // leaves the segments apart.
                    Err(error) => {
                        drop_damaged(&error);
                        let whole = |segment: &Segment| segment.table.path() != error.path();
                        segments.extend(old.into_iter().filter(whole));
                    }
                }
            }
            Ok(segments.into_iter().map(Arc::new).collect())
        })
        .await
    }

    /// Takes over an index object that the caller just put: its chunks are found from now on.
    ///
    /// # Errors
    /// [`RepoError::Cache`] where the local disk fails.
    pub fn add_object(
        &self,
        hash: ObjectHash,
        signer: VerifyKey,
        domain: DomainId,
        object: &IndexObject,
    ) -> Result<(), RepoError> {
        let mut collector = Collector::default();
        collector.object(Source { hash, domain, signer }, object);
        let mut segment = collector.write(&self.directory, self.access.repository)?;
        segment.judge(&BTreeSet::from([hash]), |_| true);
        self.change(|state| state.segments.push(Arc::new(segment)));
        Ok(())
    }

    /// All copies of a chunk that are known. Where a table on the local disk turns out damaged it is
    /// dropped: [`IndexSet::search`] finds again what was in it.
    #[must_use]
    pub fn locate(&self, id: &ChunkId) -> Vec<Location> {
        let state = self.state();
        let mut found = Vec::new();
        for segment in state.segments.iter().chain(&state.trailers) {
            if let Err(error) = segment.find(id, &mut found) {
                drop_damaged(&error);
                self.change(|state| {
                    state.segments.retain(|known| !Arc::ptr_eq(known, segment));
                    state.trailers.retain(|known| !Arc::ptr_eq(known, segment));
                    state.searched = false;
                });
            }
        }
        found
    }

    /// Has the system read tables of at most `bytes_max` in all, the largest first, for one who is about to ask
    /// for most of what is in them.
    pub(crate) fn read_ahead(&self, mut bytes_max: u64) {
        for segment in &self.state().segments {
            bytes_max = bytes_max.saturating_sub(segment.table.read_ahead(bytes_max));
        }
    }

    /// A pack that holds the chunk and that a writer may build on, if `usable` agrees.
    #[must_use]
    pub fn known_in(&self, id: &ChunkId, usable: impl Fn(&ObjectHash) -> bool) -> Option<ObjectHash> {
        self.locate(id)
            .into_iter()
            .find(|location| location.sure && usable(&location.pack))
            .map(|location| location.pack)
    }

    /// Looks harder for a chunk that [`IndexSet::locate`] does not find, or finds only in bad copies:
    /// reads the indexes again, then the trailers of packs that no index names. What was looked for
    /// once is not looked for again until the next [`IndexSet::refresh`].
    ///
    /// # Errors
    /// As [`IndexSet::refresh`].
    pub async fn search(&self, store: &dyn Store, id: &ChunkId) -> Result<Vec<Location>, RepoError> {
        {
            let _one_at_a_time = self.refreshing.lock().await;
            if !self.state().searched {
                let mut next = self.load(store).await?;
                let named = next.segments.iter().flat_map(|segment| &segment.lists.packs);
                let named = named.filter(|pack| pack.live).map(|pack| pack.hash).collect();
                let (trailers, damaged) = self.read_trailers(store, &named).await?;
                next.trailers = trailers;
                next.damaged.extend(damaged);
                next.searched = true;
                self.change(|state| *state = next);
            }
        }
        Ok(self.locate(id))
    }

    /// Objects that had to be left out.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedObject> {
        self.state().damaged.clone()
    }

    /// Every pack that an index object names, each once.
    #[must_use]
    pub fn packs(&self) -> Vec<IndexPack> {
        let state = self.state();
        let packs = state.segments.iter().flat_map(|segment| &segment.lists.packs).filter(|pack| pack.live);
        let once: BTreeMap<ObjectHash, IndexPack> = packs.map(|pack| (pack.hash, pack.facts())).collect();
        once.into_values().collect()
    }

    /// Where the tables lie.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The keys.
    pub(super) fn access(&self) -> &Arc<Access> {
        &self.access
    }
}

enum Fetched {
    Good(Box<Signed<IndexObject>>),
    Foreign(DomainId),
    Bad(ObjectError),
    Gone,
}

/// The place in a list, largest first, from which on segments are to be joined.
fn first_to_join(segments: &[Segment]) -> Option<usize> {
    let mostly_gone = |segment: &Segment| segment.live_rows() * 2 < segment.table.len();
    let too_close = |pair: &[Segment]| pair[1].table.len() * 2 >= pair[0].table.len();
    let gone = segments.iter().position(mostly_gone);
    let close = segments.windows(2).position(too_close);
    [gone, close].into_iter().flatten().min()
}

fn drop_damaged(error: &TableError) {
    tracing::warn!(%error, "a table of the local index is dropped");
    if matches!(error, TableError::Damaged { .. }) {
        remove(error.path());
    }
}

fn remove(path: &Path) {
    // Another process may have been first; a file that stays is only looked at again.
    let _ = std::fs::remove_file(path);
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RepoError> + Send + 'static,
) -> Result<T, RepoError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Names and sizes of all objects of a type. What is named otherwise is none of ours.
pub(crate) async fn list_objects(store: &dyn Store, kind: ObjectType) -> Result<BTreeMap<ObjectHash, u64>, RepoError> {
    let listed = store.list(kind.prefix()).try_fold(BTreeMap::new(), async |mut all, meta| {
        if let Some(hash) = hash_of(&meta.key, kind) {
            all.insert(hash, meta.bytes);
        }
        Ok(all)
    });
    Ok(listed.await?)
}

/// The hash in an object's name.
pub(crate) fn hash_of(key: &Key, kind: ObjectType) -> Option<ObjectHash> {
    key.as_str().strip_prefix(kind.prefix()).and_then(|name| ObjectHash::from_hex(name).ok())
}

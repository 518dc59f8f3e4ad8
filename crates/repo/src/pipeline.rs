//! From plain chunks to packs in the store, on all cores.
//!
//! A chunk is hashed under the domain's key; what the repository does not hold yet is compressed,
//! encrypted into an open pack, and the full pack is put. Queues are bounded by bytes: plain chunks
//! that wait for a worker, and packs that are open or on their way.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use lifeboat_model::ChunkId;
use lifeboat_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::access::DomainKeys;
use crate::crypt::SignKey;
use crate::error::RepoError;
use crate::pack::PackKind;
use crate::slices::{Slice, Slicer};

pub(crate) mod known;
pub mod lane;
mod packer;
pub(crate) mod stop;
pub(crate) mod upload;

use known::Known;
use lane::Lanes;
pub(crate) use packer::RunSecrets;
use packer::{Closed, Packer};
use stop::{Cause, Stop};
use upload::{Uploaded, Uploader};

/// Bodies up to this many bytes are stored by the task that brings them: handing them to a worker
/// would cost more than it saves.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// What a waiting chunk counts for at least, so that tiny ones do not pile up.
const WAITING_BYTES_MIN: usize = 4 << 10;

/// How much memory the parts of a pipeline may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A data pack is full at this length.
    pub data_pack_bytes: usize,
    /// A pack of pages or references is full at this length.
    pub small_pack_bytes: usize,
    /// All packs that are open, on their way, or tried again.
    pub alive_bytes: usize,
    /// Plain chunks that wait for a worker.
    pub waiting_bytes: usize,
    /// Entries that are sorted in memory.
    pub entries_bytes: usize,
}

impl Limits {
    /// Shares out a budget for the whole process. Budgets under 64 MiB count as 64 MiB.
    #[must_use]
    pub fn of(memory_budget_bytes: u64) -> Self {
        let budget = usize::try_from(memory_budget_bytes).unwrap_or(usize::MAX).clamp(64 << 20, 256 << 20);
        Self {
            data_pack_bytes: budget / 8,
            small_pack_bytes: budget / 32,
            alive_bytes: budget / 8 * 3,
            waiting_bytes: budget / 8,
            entries_bytes: budget / 16,
        }
    }
}

/// What a pipeline needs to know.
pub(crate) struct Setup {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: DomainKeys,
    pub(crate) sign: SignKey,
    pub(crate) secrets: Arc<RunSecrets>,
    pub(crate) known: Arc<Known>,
    pub(crate) stop: Stop,
    pub(crate) limits: Limits,
    pub(crate) zstd_level: i32,
    pub(crate) threads: usize,
}

/// A chunk that is in the repository, or will be when the run ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: ChunkId,
    /// Whether this call brought it.
    pub(crate) new: bool,
}

/// What was found out about a chunk that is not stored yet.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) id: ChunkId,
    /// Whether it is at hand as a whole; it then counts as used.
    pub(crate) at_hand: bool,
    pub(crate) slices: Vec<Slice>,
}

enum Task {
    Store(PackKind, oneshot::Sender<Stored>),
    Look(Slicer, oneshot::Sender<Looked>),
}

struct Job {
    task: Task,
    plain: Bytes,
    _waiting: OwnedSemaphorePermit,
}

/// What a worker works with.
struct Shared {
    keys: DomainKeys,
    known: Arc<Known>,
    packer: Packer,
    lanes: Lanes,
    zstd_level: i32,
    stop: Stop,
}

/// A running pipeline. Dropped without [`Pipeline::finish`], it stops where it is.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    jobs: crossbeam_channel::Sender<Job>,
    waiting: Arc<Semaphore>,
    waiting_bytes: usize,
    alive: Arc<Semaphore>,
    workers: Vec<JoinHandle<()>>,
    uploader: tokio::task::JoinHandle<Result<Uploaded, Cause>>,
}

/// The result of a chunk that was handed to a worker.
pub(crate) struct Pending<T = Stored> {
    done: oneshot::Receiver<T>,
    stop: Stop,
}

impl<T> Pending<T> {
    /// Waits for the worker.
    ///
    /// # Errors
    /// The cause for which the run was given up.
    pub(crate) async fn wait(self) -> Result<T, Cause> {
        self.done.await.map_err(|_| self.stop.give_up(Cause::Body("a worker ended early".into())))
    }
}

impl Shared {
    fn id_of(&self, kind: PackKind, plain: &[u8]) -> Result<ChunkId, RepoError> {
        kind.id_of(&self.keys, plain)
            .ok_or(RepoError::KeyMissing { what: "storing content", needs: "the domain's writer key" })
    }

    /// Stores a chunk, waiting where packs wait for the store.
    fn store_blocking(&self, kind: PackKind, plain: &[u8]) -> Result<Stored, Cause> {
        self.stop.check()?;
        let id = self.id_of(kind, plain).map_err(|error| self.stop.repo(error))?;
        let new = self.known.claim(&id);
        if new {
            self.add(kind, id, plain)?;
        }
        Ok(Stored { id, new })
    }

    fn lane(&self) -> Result<lane::Lane, Cause> {
        self.lanes.take(self.zstd_level).map_err(|source| {
            self.stop.repo(RepoError::Io { doing: "making a compressor for", path: "zstd".into(), source })
        })
    }

    fn add(&self, kind: PackKind, id: ChunkId, plain: &[u8]) -> Result<(), Cause> {
        let mut lane = self.lane()?;
        let stored = lane.compress(plain);
        let added = self.packer.add_blocking(kind, id, stored, plain.len());
        self.lanes.give_back(lane);
        added.map_err(|Closed| self.closed())
    }

    fn closed(&self) -> Cause {
        self.stop.give_up(Cause::Body("the uploads ended early".into()))
    }

    fn work(&self, jobs: &crossbeam_channel::Receiver<Job>) {
        for job in jobs {
            // Where it fails the sender is dropped, and who waits asks `stop` for the cause. Nobody may
            // be waiting any more: the body was dropped.
            match job.task {
                Task::Store(kind, done) => {
                    if let Ok(stored) = self.store_blocking(kind, &job.plain) {
                        let _ = done.send(stored);
                    }
                }
                Task::Look(slicer, done) => {
                    if let Ok(looked) = self.look(&slicer, &job.plain) {
                        let _ = done.send(looked);
                    }
                }
            }
        }
    }

    fn look(&self, slicer: &Slicer, plain: &[u8]) -> Result<Looked, Cause> {
        self.stop.check()?;
        let id = self.id_of(PackKind::Data, plain).map_err(|error| self.stop.repo(error))?;
        Ok(Looked { id, at_hand: self.known.has_all([&id]), slices: slicer.slices(plain) })
    }
}

impl Pipeline {
    /// Starts workers and uploads.
    ///
    /// # Errors
    /// [`RepoError`] where no thread can be started.
    pub(crate) fn start(setup: Setup) -> Result<Self, RepoError> {
        let Setup { store, keys, sign, secrets, known, stop, limits, zstd_level, threads: thread_count } = setup;
        let alive = Arc::new(Semaphore::new(limits.alive_bytes));
        let (full, full_packs) = mpsc::unbounded_channel();
        let index_key = keys.index.clone();
        let domain = (index_key.repository, index_key.domain);
        let packer = Packer::new(domain, secrets, limits, Arc::clone(&alive), full);
        let uploader = Uploader {
            store,
            index_key,
            sign,
            known: Arc::clone(&known),
            alive: Arc::clone(&alive),
            stop: stop.clone(),
            pack_bytes: limits.data_pack_bytes as u64,
        };
        let shared = Arc::new(Shared { keys, known, packer, lanes: Lanes::default(), zstd_level, stop });
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        let worker = |number| {
            let (shared, queue) = (Arc::clone(&shared), queue.clone());
            std::thread::Builder::new()
                .name(format!("pack-{number}"))
                .spawn(move || shared.work(&queue))
                .map_err(|source| RepoError::Io { doing: "starting a thread for", path: "packing".into(), source })
        };
        let workers = (0..thread_count.max(1)).map(worker).collect::<Result<_, _>>()?;
        Ok(Self {
            jobs,
            waiting: Arc::new(Semaphore::new(limits.waiting_bytes)),
            waiting_bytes: limits.waiting_bytes,
            alive,
            workers,
            uploader: tokio::spawn(uploader.run(full_packs)),
            shared,
        })
    }

    /// Stores a chunk. Small ones are done when this returns without another thread's help.
    ///
    /// # Errors
    /// The cause for which the run was given up.
    pub(crate) async fn store(&self, kind: PackKind, plain: Bytes) -> Result<Stored, Cause> {
        if plain.len() > INLINE_BYTES_MAX {
            return self.submit(kind, plain).await?.wait().await;
        }
        let shared = &self.shared;
        shared.stop.check()?;
        let id = shared.id_of(kind, &plain).map_err(|error| shared.stop.repo(error))?;
        if !shared.known.claim(&id) {
            return Ok(Stored { id, new: false });
        }
        let mut lane = shared.lane()?;
        let stored = lane.compress(&plain);
        let added = shared.packer.try_add(kind, id, stored, plain.len());
        shared.lanes.give_back(lane);
        if !added.map_err(|Closed| shared.closed())? {
            // Memory is full of packs. The claim stands, so another thread adds it when there is room.
            let shared = Arc::clone(shared);
            let adding = tokio::task::spawn_blocking(move || shared.add(kind, id, &plain));
            adding.await.map_err(|error| self.shared.stop.repo(upload::worker_died(error)))??;
        }
        Ok(Stored { id, new: true })
    }

    /// Hands a chunk to a worker; waits while too many wait already.
    ///
    /// # Errors
    /// The cause for which the run was given up.
    pub(crate) async fn submit(&self, kind: PackKind, plain: Bytes) -> Result<Pending, Cause> {
        self.hand_over(plain, |done| Task::Store(kind, done)).await
    }

    /// Has a worker look at a data chunk without storing it; waits while too many wait already.
    ///
    /// # Errors
    /// The cause for which the run was given up.
    pub(crate) async fn look(&self, slicer: &Slicer, plain: Bytes) -> Result<Pending<Looked>, Cause> {
        self.hand_over(plain, |done| Task::Look(slicer.clone(), done)).await
    }

    async fn hand_over<T>(
        &self,
        plain: Bytes,
        task: impl FnOnce(oneshot::Sender<T>) -> Task,
    ) -> Result<Pending<T>, Cause> {
        self.shared.stop.check()?;
        let bytes = plain.len().clamp(WAITING_BYTES_MIN, self.waiting_bytes);
        let bytes = u32::try_from(bytes).expect("the budget is below 4 GiB");
        let permit = Arc::clone(&self.waiting).acquire_many_owned(bytes).await.map_err(|_| self.shared.closed())?;
        let (done, receiver) = oneshot::channel();
        let job = Job { task: task(done), plain, _waiting: permit };
        self.jobs.send(job).map_err(|_| self.shared.closed())?;
        Ok(Pending { done: receiver, stop: self.shared.stop.clone() })
    }

    /// Stores a chunk from a thread that may wait.
    ///
    /// # Errors
    /// The cause for which the run was given up.
    pub(crate) fn store_blocking(&self, kind: PackKind, plain: &[u8]) -> Result<Stored, Cause> {
        self.shared.store_blocking(kind, plain)
    }

    /// Puts everything that is still open, and the last index. All chunks that were stored are in
    /// the store when this returns.
    ///
    /// # Errors
    /// The cause for which the run was given up.
    pub(crate) async fn finish(self) -> Result<Uploaded, Cause> {
        let Self { shared, jobs, workers, uploader, .. } = self;
        drop(jobs);
        let stop = shared.stop.clone();
        let joined = tokio::task::spawn_blocking(move || {
            let panicked = workers.into_iter().any(|worker| worker.join().is_err());
            // The last holder of the packer: the uploads end when it is gone.
            let flushed = shared.packer.flush();
            (panicked, flushed)
        });
        let (panicked, flushed) = joined.await.map_err(|error| stop.repo(upload::worker_died(error)))?;
        if panicked {
            return Err(stop.give_up(Cause::Body("a worker ended early".into())));
        }
        let uploaded = uploader.await.map_err(|error| stop.repo(upload::worker_died(error)))?;
        flushed.map_err(|Closed| stop.give_up(Cause::Body("the uploads ended early".into())))?;
        stop.check()?;
        uploaded
    }

    /// A failed scratch file ends the run.
    pub(crate) fn scratch_failed(&self, source: std::io::Error) -> Cause {
        self.shared.stop.repo(RepoError::Io { doing: "using", path: "the scratch directory".into(), source })
    }

    /// Ends without putting what is open. Nobody waits any longer.
    pub(crate) fn abort(&self) {
        self.shared.stop.give_up(Cause::Cancelled);
        self.alive.close();
        self.waiting.close();
        self.uploader.abort();
    }
}

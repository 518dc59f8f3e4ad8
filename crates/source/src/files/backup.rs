//! Brings a tree into a snapshot.
//!
//! One thread walks and tells what it meets in batches; several batches are worked on at once.
//! What the parent snapshot holds unchanged is kept without opening it. Small files are read whole
//! before they are put, several in one go; large ones are streamed.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use lifeboat_model::flow::{
    Body, BodyError, BodyRead, Cancel, EntrySink, Kept, PIECE_BYTES_MAX, Piece, RunContext, Shape,
};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, Fingerprint, RecoveryPoint};
use rustix::fs::Stat;
use tokio::sync::mpsc;

use super::attributes;
use super::broke;
use super::content::{Failure, FileBody, Opened, Told, Unread, open};
use super::meta::{At, Names, ctime_ns, fingerprint, links_of, size_of, unchanged};
use super::walk::{Event, Found, Inode, Plan, Purpose, Walker};
use crate::SourceError;
use crate::workers::Workers;

/// Batches that are worked on at once, and as many wait.
const IN_FLIGHT: usize = 8;
/// Content of small files that one batch reads in one go.
const GROUP_BYTES: u64 = 2 << 20;
/// How often a file is read that changes while it is read.
const READS_MAX: u32 = 3;
/// Problems that are recorded one by one; of those above only the number is.
const PROBLEMS_MAX: u64 = 1_000;
/// A file whose last change is younger than this when it is read gets no fingerprint: a change
/// within the same tick of the file system's clock (at most 10 ms) would leave no trace.
const TICK_NS: i128 = 20_000_000;

/// What was met, for the recovery point.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    dirs: AtomicU64,
    others: AtomicU64,
    skipped: AtomicU64,
    sockets: AtomicU64,
    problems: AtomicU64,
    bytes: AtomicU64,
}

/// One backup.
struct Run {
    sink: Arc<dyn EntrySink>,
    ctx: RunContext,
    plan: Arc<Plan>,
    names: Arc<Names>,
    counts: Counts,
    /// Files with several names whose first name vanished before it was read.
    lost: Mutex<HashSet<Inode>>,
    last_problem: Mutex<Option<EntryPath>>,
}

/// The second walk; it ends with the backup.
struct Counting {
    ended: Cancel,
    task: tokio::task::JoinHandle<()>,
}

impl Counting {
    fn begin(plan: Arc<Plan>, ctx: &RunContext, after: Duration) -> Self {
        let ended = Cancel::default();
        let (cancel, monitor) = (ended.clone(), Arc::clone(&ctx.monitor));
        let task = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // What cannot be walked is told by the backup itself.
            if let Ok(Ok(bytes)) = tokio::task::spawn_blocking(move || lengths(plan, cancel)).await {
                monitor.total(bytes);
            }
        });
        Self { ended, task }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.ended.cancel();
        self.task.abort();
    }
}

/// The length of all content that a backup would read.
fn lengths(plan: Arc<Plan>, cancel: Cancel) -> Result<u64, SourceError> {
    let sum = Arc::new(AtomicU64::new(0));
    // Nothing is told but the sum.
    let (out, _) = mpsc::channel(1);
    let mut walk = Walker::new(plan, Arc::new(Names::default()), out, cancel);
    walk.purpose = Purpose::Lengths(Arc::clone(&sum));
    walk.run()?;
    Ok(sum.load(Ordering::Relaxed))
}

/// Backs up all of `plan`. Where somebody watches, one that takes long is worth a second walk, which tells
/// how much there is.
pub(super) async fn run(
    plan: Arc<Plan>,
    machine_id: Option<String>,
    sink: Arc<dyn EntrySink>,
    ctx: &RunContext,
) -> Result<RecoveryPoint, SourceError> {
    let begin = ctx.clock.now();
    let _counting = ctx.monitor.total_after().map(|after| Counting::begin(Arc::clone(&plan), ctx, after));
    let run = Arc::new(Run {
        sink,
        ctx: ctx.clone(),
        plan,
        names: Arc::new(Names::default()),
        counts: Counts::default(),
        lost: Mutex::default(),
        last_problem: Mutex::default(),
    });
    run.pass(None).await?;
    let lost = std::mem::take(&mut *lock(&run.lost));
    if !lost.is_empty() {
        // Further names were recorded as links to a first name that vanished before it was read.
        run.pass(Some(lost)).await?;
    }
    run.tell_rest_of_problems().await?;
    Ok(run.point(begin, machine_id))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    async fn pass(self: &Arc<Self>, only: Option<HashSet<Inode>>) -> Result<(), SourceError> {
        let (out, batches) = mpsc::channel(IN_FLIGHT);
        let mut walk = Walker::new(Arc::clone(&self.plan), Arc::clone(&self.names), out, self.ctx.cancel.clone());
        if let Some(files) = only {
            walk.purpose = Purpose::NamesOf(files);
        }
        let walk = tokio::task::spawn_blocking(move || walk.run());
        let worked = self.work(batches).await;
        let walked = walk.await.map_err(|error| broke("the walk over the files", error))?;
        worked.and(walked)
    }

    /// Works on the batches in tasks of their own. All have ended when this returns, and after a failure
    /// nobody listens to the walk.
    async fn work(self: &Arc<Self>, mut batches: mpsc::Receiver<Vec<Event>>) -> Result<(), SourceError> {
        let (mut workers, mut listening) = (Workers::default(), true);
        while listening && !workers.is_refused() {
            tokio::select! {
                batch = batches.recv(), if workers.len() < IN_FLIGHT => match batch {
                    Some(batch) => {
                        let run = Arc::clone(self);
                        workers.spawn(async move { run.batch(batch).await });
                    }
                    None => listening = false,
                },
                Some(ended) = workers.ended() => workers.judge(ended).await?,
            }
        }
        workers.all().await
    }

    async fn batch(&self, batch: Vec<Event>) -> Result<(), SourceError> {
        let now = self.ctx.clock.now();
        let (mut group, mut group_bytes) = (Vec::new(), 0);
        let mut rest = Vec::new();
        for event in batch {
            match event {
                Event::Found(found)
                    if found.bare && found.meta.kind == EntryKind::File && self.keep(&found).await? => {}
                event => rest.push(event),
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        let filled = tokio::task::spawn_blocking(move || attributes::fill_in(rest)).await;
        for event in filled.map_err(|error| broke("reading extended attributes", error))? {
            if self.ctx.cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            match event {
                Event::Skip(path, why) => self.skip(&path, &why).await?,
                Event::Socket => {
                    self.counts.sockets.fetch_add(1, Ordering::Relaxed);
                }
                Event::Problem(path, what) => self.problem(&path, &what).await?,
                Event::Found(found) if found.meta.kind == EntryKind::File => {
                    // One that is bare was asked for.
                    if !found.bare && self.keep(&found).await? {
                        continue;
                    }
                    let size = size_of(&found.stat);
                    if size > PIECE_BYTES_MAX as u64 {
                        self.large(*found, now).await?;
                        continue;
                    }
                    group_bytes += size;
                    group.push(*found);
                    if group_bytes >= GROUP_BYTES {
                        self.small(std::mem::take(&mut group), now).await?;
                        group_bytes = 0;
                    }
                }
                Event::Found(found) => self.empty(&found).await?,
            }
        }
        self.small(group, now).await
    }

    /// Whether the parent snapshot has the content.
    async fn keep(&self, found: &Found) -> Result<bool, SourceError> {
        match self.sink.keep(&found.path, &found.meta, &fingerprint(&found.stat, found.bare)).await? {
            Kept::No => Ok(false),
            Kept::Yes { bytes } => {
                self.count(&self.counts.files, bytes);
                Ok(true)
            }
        }
    }

    /// Puts what has no content.
    async fn empty(&self, found: &Found) -> Result<(), SourceError> {
        self.sink.put(&found.path, &found.meta, None, Body::Empty).await?;
        let is_dir = found.meta.kind == EntryKind::Dir;
        self.count(if is_dir { &self.counts.dirs } else { &self.counts.others }, 0);
        Ok(())
    }

    /// Reads a group of small files on a thread for that, then puts them.
    async fn small(&self, group: Vec<Found>, now: Timestamp) -> Result<(), SourceError> {
        if group.is_empty() {
            return Ok(());
        }
        let names = Arc::clone(&self.names);
        let read = tokio::task::spawn_blocking(move || {
            let read = |found: Found| {
                let outcome = read_small(&found, &names);
                (found, outcome)
            };
            group.into_iter().map(read).collect::<Vec<_>>()
        });
        let read = read.await.map_err(|error| SourceError::Failed {
            what: "reading small files broke".to_owned(),
            hint: None,
            source: Some(Box::new(error)),
        })?;
        for (found, outcome) in read {
            match outcome {
                Err(unread) => self.unread(&found, &unread).await?,
                Ok(Small::Outgrown) => self.large(found, now).await?,
                Ok(Small::Read(small)) => {
                    for what in &small.complaints {
                        self.problem(&found.path, what).await?;
                    }
                    let fingerprint = fresh_fingerprint(&small.stat, small.bare, now);
                    let stats = self.sink.put(&found.path, &small.meta, fingerprint, body_of(small.pieces)).await?;
                    self.count(&self.counts.files, stats.bytes);
                }
            }
        }
        Ok(())
    }

    /// Streams a large file, again if it changes meanwhile.
    async fn large(&self, found: Found, now: Timestamp) -> Result<(), SourceError> {
        let told = Told::new(&self.ctx.monitor);
        for read in 1..=READS_MAX {
            let (found_here, names) = (clone(&found), Arc::clone(&self.names));
            let opened = tokio::task::spawn_blocking(move || {
                let opened = open(&found_here)?;
                let (meta, complaints) = meta_now(&found_here, &opened, &names);
                Ok((opened, meta, complaints))
            });
            let (opened, meta, complaints) = match opened.await.map_err(|error| SourceError::at(&found.path, error))? {
                Ok(all) => all,
                Err(unread) => return self.unread(&found, &unread).await,
            };
            let failure = Failure::default();
            let from = Box::new(FileBody::new(&opened, Arc::clone(&failure), self.ctx.cancel.clone(), told.clone()));
            let shape = if self.plan.paged.hit(&found.path) { Shape::Pages } else { Shape::Stream };
            let body = Body::Stream { from, shape };
            let bare = is_bare(&found, &meta, &complaints);
            let fingerprint = fresh_fingerprint(&opened.stat, bare, now);
            let stats = self.sink.put(&found.path, &meta, fingerprint, body).await?;
            let failed = lock(&failure).take();
            let unchanged = opened.is_unchanged().unwrap_or(false);
            let last = read == READS_MAX;
            match failed {
                Some(unread) if last => return self.unread(&found, &unread).await,
                None if unchanged || last => {
                    self.count_told(&self.counts.files, stats.bytes, told.bytes());
                    for what in complaints {
                        self.problem(&found.path, &what).await?;
                    }
                    return if unchanged { Ok(()) } else { self.problem(&found.path, CHANGED).await };
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn unread(&self, found: &Found, unread: &Unread) -> Result<(), SourceError> {
        if unread.gone && links_of(&found.stat) > 1 {
            lock(&self.lost).insert((found.stat.st_dev, found.stat.st_ino));
        }
        self.skip(&found.path, &unread.why).await
    }

    async fn skip(&self, path: &EntryPath, why: &str) -> Result<(), SourceError> {
        self.counts.skipped.fetch_add(1, Ordering::Relaxed);
        Ok(self.sink.skip(path, why).await?)
    }

    async fn problem(&self, path: &EntryPath, what: &str) -> Result<(), SourceError> {
        if self.counts.problems.fetch_add(1, Ordering::Relaxed) < PROBLEMS_MAX {
            return Ok(self.sink.problem(path, what).await?);
        }
        *lock(&self.last_problem) = Some(path.clone());
        Ok(())
    }

    async fn tell_rest_of_problems(&self) -> Result<(), SourceError> {
        let last = lock(&self.last_problem).take();
        if let Some(path) = last {
            let more = self.counts.problems.load(Ordering::Relaxed).saturating_sub(PROBLEMS_MAX);
            self.sink.problem(&path, &format!("the last of {more} further problems that are not listed")).await?;
        }
        Ok(())
    }

    fn count(&self, kind: &AtomicU64, bytes: u64) {
        self.count_told(kind, bytes, 0);
    }

    /// Counts an entry of whose content whoever watches knows `told` bytes.
    fn count_told(&self, kind: &AtomicU64, bytes: u64, told: u64) {
        kind.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.ctx.monitor.entries(1);
        self.ctx.monitor.bytes(bytes.saturating_sub(told));
    }

    fn point(&self, begin: Timestamp, machine_id: Option<String>) -> RecoveryPoint {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed).to_string();
        let mut facts = BTreeMap::from([
            ("files.files".to_owned(), count(&self.counts.files)),
            ("files.directories".to_owned(), count(&self.counts.dirs)),
            ("files.others".to_owned(), count(&self.counts.others)),
            ("files.skipped".to_owned(), count(&self.counts.skipped)),
            ("files.sockets".to_owned(), count(&self.counts.sockets)),
            ("files.bytes".to_owned(), count(&self.counts.bytes)),
        ]);
        facts.extend(machine_id.map(|id| ("machine.id".to_owned(), id)));
        let end = self.ctx.clock.now();
        let consistency = format!("each file as it was at some time from {begin:.0} to {end:.0}");
        RecoveryPoint { time: begin, consistency, facts }
    }
}

const CHANGED: &str = "it changed each of the three times that it was read; stored as it was read last, which may be half \
                       old and half new";

/// What became of a small file.
enum Small {
    Read(Box<SmallFile>),
    /// No longer small.
    Outgrown,
}

struct SmallFile {
    stat: Stat,
    meta: EntryMeta,
    bare: bool,
    pieces: Vec<Piece>,
    complaints: Vec<String>,
}

fn read_small(found: &Found, names: &Names) -> Result<Small, Unread> {
    let mut read = 1;
    loop {
        let opened = open(found)?;
        if size_of(&opened.stat) > PIECE_BYTES_MAX as u64 {
            return Ok(Small::Outgrown);
        }
        let (meta, mut complaints) = meta_now(found, &opened, names);
        let bare = is_bare(found, &meta, &complaints);
        let pieces = opened.read_all();
        let unchanged = opened.is_unchanged().unwrap_or(false);
        match pieces {
            Ok(pieces) if unchanged || read == READS_MAX => {
                if !unchanged {
                    complaints.push(CHANGED.to_owned());
                }
                return Ok(Small::Read(Box::new(SmallFile { stat: opened.stat, meta, bare, pieces, complaints })));
            }
            Err(error) if read == READS_MAX => return Err(Unread::from_io(&error)),
            _ => read += 1,
        }
    }
}

/// The metadata that the walk saw, or new one where the file changed since.
fn meta_now(found: &Found, opened: &Opened, names: &Names) -> (EntryMeta, Vec<String>) {
    let mut complaints = Vec::new();
    if unchanged(&found.stat, &opened.stat) {
        return (found.meta.clone(), complaints);
    }
    let fresh = names.meta(&opened.stat, At::Open(opened.file.as_fd()), &mut complaints);
    (fresh.unwrap_or_else(|_| found.meta.clone()), complaints)
}

/// Whether what was read now says so too.
fn is_bare(found: &Found, meta: &EntryMeta, complaints: &[String]) -> bool {
    found.bare && meta.xattrs.is_empty() && complaints.is_empty()
}

fn fresh_fingerprint(stat: &Stat, bare: bool, now: Timestamp) -> Option<Fingerprint> {
    let age = now.as_nanosecond() - ctime_ns(stat);
    (age.abs() > TICK_NS).then(|| fingerprint(stat, bare))
}

fn clone(found: &Found) -> Found {
    let Found { path, stat, meta, dir, bare } = found;
    Found { path: path.clone(), stat: *stat, meta: meta.clone(), dir: dir.clone(), bare: *bare }
}

fn body_of(mut pieces: Vec<Piece>) -> Body {
    match pieces.pop() {
        None => Body::Empty,
        Some(Piece::Data(bytes)) if pieces.is_empty() => Body::Bytes(bytes),
        Some(last) => {
            pieces.push(last);
            Body::Stream { from: Box::new(Ready(pieces.into_iter())), shape: Shape::Stream }
        }
    }
}

/// Pieces that are in memory already.
struct Ready(std::vec::IntoIter<Piece>);

#[async_trait]
impl BodyRead for Ready {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        Ok(self.0.next())
    }
}

/// The identity of this machine where it has one.
pub(super) fn machine_id() -> io::Result<Option<String>> {
    match std::fs::read_to_string("/etc/machine-id") {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|id| !id.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

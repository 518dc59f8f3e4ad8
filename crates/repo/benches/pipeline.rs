//! How fast plain bytes become packs: the bare steps on every core against the writer, and how much
//! memory the writer takes. `cargo bench -p lifeboat-repo --bench pipeline --features testing`.
//!
//! `TREE=DIR LEVEL=3` takes the files of a directory instead (1 GiB of them at most, in memory before the clock
//! starts), and tells what the machine could do at best with a first backup of it.
//!
//! Packs are dropped as soon as they are put, so that neither disk nor memory of a store counts.
//!
//! Measured on 2 virtual cores under a load of 12, development profile (this crate at opt-level 1), so
//! only ratios mean something: rows 89 MB/s as a stream and 122 as rows, as fast as the bare steps; noise
//! 176, 61 % of them; 300,000 small files 54,320 puts/s, 35,140/s with seal, 18,785/s kept unchanged with
//! begin and seal, at a peak of 127 MiB. Rows compress 3.52 times in chunks of 256 KiB and 3.49 times in
//! chunks of 64 KiB: the short chunks of dumps cost 1 %.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::cast_precision_loss, reason = "rates for people")]

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use lifeboat_model::flow::{Body, BodyError, BodyRead, Cancel, Clock, EntrySink, Piece, RunContext, Shape, Silent};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, Fingerprint, RecoveryPoint, SourceName};
use lifeboat_repo::chunker::{Chunker, Cut, Cutter};
use lifeboat_repo::crypt::{Aead, Secret};
use lifeboat_repo::pipeline::lane::Lane;
use lifeboat_repo::testing::TestRepository;
use lifeboat_repo::{Repository, Sealed, SnapshotHead, WriteOptions};
use lifeboat_store::memory::MemoryStore;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};
use lifeboat_wire::clock::SystemClock;

const SAMPLE_BYTES: usize = 96 << 20;
const TREE_BYTES_MAX: usize = 1 << 30;
const ROUNDS: usize = 5;

/// zstd's level, `LEVEL` or the default.
fn level() -> i32 {
    std::env::var("LEVEL").map_or(1, |level| level.parse().expect("a number"))
}

/// Rows as `COPY` writes them: numbers, names, a date, a text with words that repeat.
fn rows() -> Bytes {
    let mut random = blake3::Hasher::new().finalize_xof();
    let words = ["birth", "declared", "registered", "health", "facility", "district", "mother", "father", "pending"];
    let mut out = Vec::with_capacity(SAMPLE_BYTES + 500);
    let mut number = 0u64;
    while out.len() < SAMPLE_BYTES {
        let mut bytes = [0; 24];
        random.fill(&mut bytes);
        number += u64::from(bytes[0] % 3) + 1;
        let uuid = hex::encode(&bytes[..16]);
        let day = bytes[16] % 28 + 1;
        out.extend_from_slice(
            format!("{number}\t{uuid}\t2026-{:02}-{day:02} 03:{:02}:11+00\t", day % 12 + 1, bytes[17] % 60).as_bytes(),
        );
        for byte in &bytes[18..] {
            out.extend_from_slice(words[usize::from(*byte) % words.len()].as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(b"\t\\N\tt\n");
    }
    out.truncate(SAMPLE_BYTES);
    out.into()
}

/// The time since `began` of the same clock.
fn since(began: Duration) -> Duration {
    SystemClock.monotonic().saturating_sub(began)
}

fn noise(seed: u8) -> Bytes {
    let mut bytes = vec![0; SAMPLE_BYTES];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Takes packs and forgets them.
#[derive(Debug, Default)]
struct Forgetful(MemoryStore);

impl std::fmt::Display for Forgetful {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("forgetful")
    }
}

#[async_trait]
impl Store for Forgetful {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if ["data/", "meta/", "refs/"].iter().any(|prefix| key.as_str().starts_with(prefix)) {
            return Ok(());
        }
        self.0.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.0.get(key, range).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.0.list(prefix)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

struct Pieces(VecDeque<Bytes>);

#[async_trait]
impl BodyRead for Pieces {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        Ok(self.0.pop_front().map(Piece::Data))
    }
}

fn pieces(sample: &Bytes) -> VecDeque<Bytes> {
    let mut rest = sample.clone();
    let mut out = VecDeque::new();
    while !rest.is_empty() {
        out.push_back(rest.split_to(rest.len().min(1 << 20)));
    }
    out
}

/// What has to be computed for each byte, on one thread, without queue and pack.
struct Bare {
    cutter: Cutter,
    key: Secret,
    aead: Aead,
    lane: Lane,
    number: u32,
    buffer: BytesMut,
}

impl Bare {
    fn new() -> Self {
        let key = Secret([2; 32]);
        Self {
            cutter: Cutter::new(&Secret([1; 32])),
            aead: Aead::new(&key),
            key,
            lane: Lane::new(level()).expect("a compressor"),
            number: 0,
            buffer: BytesMut::new(),
        }
    }

    /// Stored bytes of a sample.
    fn run(&mut self, sample: &Bytes, shape: Shape) -> usize {
        let mut chunker = Chunker::new(self.cutter.clone(), shape);
        let mut stored = 0;
        for piece in pieces(sample) {
            chunker.push(Piece::Data(piece));
            stored += self.take(&mut chunker);
        }
        chunker.finish();
        stored + self.take(&mut chunker)
    }

    fn take(&mut self, chunker: &mut Chunker) -> usize {
        let mut stored = 0;
        while let Some(cut) = chunker.next_cut() {
            let Cut::Chunk(chunk) = cut else { continue };
            std::hint::black_box(self.key.chunk_id(&chunk));
            self.buffer.clear();
            self.buffer.extend_from_slice(self.lane.compress(&chunk).1);
            self.aead.seal_tail(self.number, &[], &mut self.buffer, 0);
            self.number += 1;
            stored += self.buffer.len();
        }
        stored
    }
}

/// One stream for each core.
fn bare(sample: &Bytes, shape: Shape, threads: usize) -> (Duration, usize) {
    let began = SystemClock.monotonic();
    let stored = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| Bare::new().run(sample, shape))).collect();
        running.into_iter().map(|thread| thread.join().expect("joined")).sum::<usize>()
    });
    (since(began), stored / threads)
}

/// The files of a directory, up to `TREE_BYTES_MAX`.
fn files_below(directory: &Path, files: &mut Vec<Bytes>) {
    let mut held: usize = files.iter().map(Bytes::len).sum();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, files);
            held = files.iter().map(Bytes::len).sum();
        } else if held < TREE_BYTES_MAX {
            let bytes = Bytes::from(std::fs::read(&path).expect("read"));
            held += bytes.len();
            files.push(bytes);
        }
    }
}

/// What the bare steps do with a tree of files, each core taking the next one.
fn bare_tree(directory: &Path, cores: usize) {
    let mut files = Vec::new();
    files_below(directory, &mut files);
    let bytes: usize = files.iter().map(Bytes::len).sum();
    let round = || {
        let (next, began) = (AtomicUsize::new(0), SystemClock.monotonic());
        let work = || {
            let (mut bare, mut stored) = (Bare::new(), 0);
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                stored += bare.run(file, Shape::Stream);
            }
            stored
        };
        let stored: usize = std::thread::scope(|scope| {
            let running: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
            running.into_iter().map(|thread| thread.join().expect("joined")).sum()
        });
        (since(began), stored)
    };
    let rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    let stored = rounds[0].1;
    let time = median(rounds.into_iter().map(|round| round.0).collect());
    let rate = bytes as f64 / 1e6 / time.as_secs_f64();
    println!(
        "{} files, {} MB, level {}: bare {rate:.0} MB/s, {} MB stored",
        files.len(),
        bytes / 1_000_000,
        level(),
        stored / 1_000_000
    );
}

struct Host {
    repository: TestRepository,
    directory: tempfile::TempDir,
}

impl Host {
    async fn new() -> Self {
        let repository = TestRepository::create(Arc::new(Forgetful::default())).await;
        Self { repository, directory: tempfile::tempdir().expect("a directory") }
    }

    async fn writer(&self) -> lifeboat_repo::SnapshotWriter {
        let store = Arc::clone(&self.repository.store);
        let cache = self.directory.path().join("cache");
        let opened = Repository::open(store, self.repository.writer.clone(), &cache).await.expect("opened");
        let context = RunContext {
            clock: Arc::new(SystemClock),
            monitor: Arc::new(Silent),
            cancel: Cancel::default(),
            scratch: self.directory.path().to_owned(),
            memory_budget_bytes: 256 << 20,
        };
        let head = SnapshotHead {
            stack: TestRepository::stack(),
            source: SourceName::new("bench").expect("a name"),
            kind: "files".into(),
            label: None,
            config: String::new(),
            stack_run: None,
            system: BTreeMap::new(),
        };
        opened
            .writer(head, WriteOptions { zstd_level: level(), ..WriteOptions::default() }, context)
            .await
            .expect("a run")
    }
}

fn point() -> RecoveryPoint {
    RecoveryPoint { time: SystemClock.now(), consistency: String::new(), facts: BTreeMap::new() }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).expect("a path")
}

/// The same sample as one stream for each core. A few bytes of the first piece differ, which changes
/// few chunks: the others would be deduplicated, so each stream is salted in every piece.
async fn written(sample: &Bytes, shape: Shape, streams: usize) -> (Duration, Sealed) {
    let host = Host::new().await;
    let salted = |salt: usize| {
        let salt_piece = |piece: Bytes| {
            let mut piece = BytesMut::from(&piece[..]);
            for at in (0..piece.len()).step_by(8 << 10) {
                piece[at] = piece[at].wrapping_add(u8::try_from(salt).unwrap_or(0));
            }
            piece.freeze()
        };
        pieces(sample).into_iter().map(salt_piece).collect::<VecDeque<_>>()
    };
    let bodies: Vec<_> = (0..streams).map(salted).collect();
    let began = SystemClock.monotonic();
    let writer = Arc::new(host.writer().await);
    let puts = bodies.into_iter().enumerate().map(|(number, pieces)| {
        let writer = Arc::clone(&writer);
        tokio::spawn(async move {
            let body = Body::Stream { from: Box::new(Pieces(pieces)), shape };
            let meta = EntryMeta::new(EntryKind::File);
            writer.put(&path(&format!("stream-{number}")), &meta, None, body).await.expect("stored");
        })
    });
    futures::stream::iter(puts).for_each_concurrent(None, |put| async { put.await.expect("put") }).await;
    let writer = Arc::into_inner(writer).expect("the only one");
    let sealed = writer.seal(point()).await.expect("sealed");
    (since(began), sealed)
}

/// Small files, each with content of its own, from several tasks.
async fn small_files(count: usize, tasks: usize) {
    let host = Host::new().await;
    let began = SystemClock.monotonic();
    let writer = Arc::new(host.writer().await);
    let work = (0..tasks).map(|task| {
        let writer = Arc::clone(&writer);
        tokio::spawn(async move {
            let meta = EntryMeta { mode: Some(0o644), mtime: Some((1, 2)), ..EntryMeta::new(EntryKind::File) };
            for number in (task..count).step_by(tasks) {
                let name = format!("srv/documents/{:03}/record-{number}.json", number % 997);
                let body = Body::Bytes(Bytes::from(name.repeat(8)));
                let fingerprint = Fingerprint::of(name.as_bytes());
                writer.put(&path(&name), &meta, Some(fingerprint), body).await.expect("stored");
            }
        })
    });
    for task in work.collect::<Vec<_>>() {
        task.await.expect("done");
    }
    let put = since(began);
    let sealed = Arc::into_inner(writer).expect("the only one").seal(point()).await.expect("sealed");
    let all = since(began);
    let each = |time: Duration| count as f64 / time.as_secs_f64();
    println!(
        "{count} small files, {tasks} tasks: put {:.0}/s, with seal {:.0}/s, {} packs",
        each(put),
        each(all),
        sealed.stats.packs
    );

    let began = SystemClock.monotonic();
    let writer = host.writer().await;
    let meta = EntryMeta { mode: Some(0o644), mtime: Some((1, 2)), ..EntryMeta::new(EntryKind::File) };
    let mut kept = 0;
    for number in 0..count {
        let name = format!("srv/documents/{:03}/record-{number}.json", number % 997);
        let answer = writer.keep(&path(&name), &meta, &Fingerprint::of(name.as_bytes())).await.expect("asked");
        kept += usize::from(answer != lifeboat_model::flow::Kept::No);
    }
    let sealed = writer.seal(point()).await.expect("sealed");
    let all = since(began);
    println!("again unchanged: {kept} kept, with begin and seal {:.0}/s, {} packs", each(all), sealed.stats.packs);
}

/// The peak of this process's memory in MiB.
fn peak_mib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown");
    let kib: Option<u64> = line.split_whitespace().next().and_then(|number| number.parse().ok());
    kib.map_or_else(|| line.to_owned(), |kib| format!("{} MiB", kib / 1024))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let Some(tree) = std::env::var_os("TREE") {
        bare_tree(Path::new(&tree), cores);
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{cores} cores; small files first, so that the peak of memory is theirs");
    runtime.block_on(small_files(300_000, 8));
    println!("peak of memory so far: {}", peak_mib());
    let rate = |time: Duration| (SAMPLE_BYTES * cores) as f64 / 1e6 / time.as_secs_f64();
    for (name, sample, shape) in [
        ("rows as a stream", rows(), Shape::Stream),
        ("rows as rows", rows(), Shape::Rows),
        ("noise", noise(1), Shape::Stream),
    ] {
        let bare: Vec<_> = (0..ROUNDS).map(|_| bare(&sample, shape, cores)).collect();
        let ratio = SAMPLE_BYTES as f64 / bare[0].1 as f64;
        let bare = median(bare.into_iter().map(|round| round.0).collect());
        let written: Vec<_> = (0..ROUNDS).map(|_| runtime.block_on(written(&sample, shape, cores))).collect();
        let share = written[0].1.stats.new_bytes as f64 / written[0].1.stats.bytes as f64;
        let writer = median(written.into_iter().map(|round| round.0).collect());
        println!(
            "{name}: bare {:.0} MB/s, writer {:.0} MB/s ({:.0} % of bare), ratio {ratio:.2}, {:.0} % new",
            rate(bare),
            rate(writer),
            100.0 * bare.as_secs_f64() / writer.as_secs_f64(),
            share * 100.0,
        );
    }
    println!(
        "peak of memory: {} ({} MiB of it are the bench's own samples)",
        peak_mib(),
        ((cores + 3) * SAMPLE_BYTES) >> 20
    );
}

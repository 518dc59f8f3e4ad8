//! Parsers of stored bytes get what an attacker or a failing disk would give them: valid bytes,
//! changed at random, sealed and signed again where that is needed to reach the parser. None may
//! panic, loop, or take more memory than its input accounts for.
//!
//! `corpus/PARSER/` holds the bytes that are changed: `valid-*` must be taken as they are, `hostile-*`
//! once did harm. `LIFEBOAT_SEEDS` and `LIFEBOAT_LONG` make the test try more.

mod corpus;
mod mutate;
mod parsers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use lifeboat_repo::cbor::Parse;
use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::effort;
use parsers::{Parser, World};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Inputs for each parser and seed.
const ROUNDS: u64 = 300;
/// A parser that takes longer for one input loops.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of memory that one byte of input may cost: an extent of 2 bytes takes 48 in memory, lists
/// grow by doubling, and the tests themselves seal and sign copies.
const MEMORY_FACTOR: usize = 200;

pub(crate) fn corpus_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hostile_bytes/corpus")
}

/// What is being parsed, for the message that it hangs.
#[derive(Default)]
struct Watch {
    count: AtomicU64,
    now: Mutex<(String, Vec<u8>)>,
}

impl Watch {
    fn parse(&self, parser: &Parser, input: &[u8]) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        let told = || format!("{} given {}", parser.name, hex::encode(input));
        *self.now.lock().expect("nobody panicked") = (parser.name.to_owned(), input.to_vec());
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let taken = catch_unwind(AssertUnwindSafe(|| (parser.parse)(input)));
        let used = HEAP.peak_usage().saturating_sub(before);
        let taken = taken.unwrap_or_else(|_| panic!("a panic of {}", told()));
        let allowed = parser.slack_bytes + input.len() * MEMORY_FACTOR;
        assert!(used <= allowed, "{used} bytes of memory, of {allowed} allowed, are taken by {}", told());
        taken
    }

    fn attack(&self, parser: &Parser, seeds: std::ops::Range<u64>) {
        let files = corpus::files(parser.name);
        assert!(files.iter().any(|file| file.valid), "nothing valid in the corpus of {}", parser.name);
        for file in &files {
            let taken = self.parse(parser, &file.bytes);
            assert!(taken || !file.valid, "{} refuses {}", parser.name, file.name);
            if let Some(later) = with_unknown_field(&file.bytes).filter(|_| file.valid) {
                assert!(self.parse(parser, &later), "{} refuses {} with an unknown field", parser.name, file.name);
            }
            for length in (0..file.bytes.len()).rev().take(600) {
                self.parse(parser, &file.bytes[..length]);
            }
        }
        let (mut taken, mut refused) = (0, 0);
        for seed in seeds {
            let mut random = Numbers::new(seed);
            for _ in 0..ROUNDS {
                let input = mutate::mutate(&files, &mut random);
                *if self.parse(parser, &input) { &mut taken } else { &mut refused } += 1;
            }
        }
        assert!(refused > 0, "{} takes everything", parser.name);
        println(&format!("{}: {taken} inputs taken, {refused} refused", parser.name));
    }
}

/// The same record with one more field, as a later version of the program may write it; `None` for what is
/// no record.
fn with_unknown_field(record: &[u8]) -> Option<Vec<u8>> {
    Parse::whole(record, Parse::skip).ok()?;
    let (head @ 0xa0..0xb7, fields) = record.split_first()? else { return None };
    Some([&[head + 1][..], fields, &[23, 0x82, 0x63, b'n', b'e', b'w', 0xf5]].concat())
}

#[expect(clippy::print_stdout, reason = "a test that shows that it did something")]
fn println(line: &str) {
    println!("{line}");
}

// The only test that runs here by default: memory is counted for the whole process.
#[test]
fn no_stored_bytes_make_a_parser_panic_loop_or_take_much_memory() {
    let watch = Arc::new(Watch::default());
    let (done, wait) = mpsc::channel::<()>();
    let worker = std::thread::spawn({
        let watch = Arc::clone(&watch);
        move || {
            let _tells_the_end = done;
            for parser in parsers::all(&Arc::new(World::new())) {
                watch.attack(&parser, effort::seeds(4));
            }
        }
    });
    let mut last = u64::MAX;
    while wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        let count = watch.count.load(Ordering::Relaxed);
        let (parser, input) = watch.now.lock().expect("nobody panicked").clone();
        assert_ne!(count, last, "{parser} does not come to an end with {}", hex::encode(input));
        last = count;
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
#[ignore = "writes tests/hostile_bytes/corpus anew, after a change of the format"]
fn make_the_corpus() {
    corpus::make(&World::new());
}

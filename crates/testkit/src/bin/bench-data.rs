//! The data of the benches:
//! `bench-data mixed DIR MEGABYTES SEED` · `bench-data change DIR PERMILLE SEED` ·
//! `bench-data code DIR FILES SEED` · `bench-data pages FILE MEGABYTES SEED` ·
//! `bench-data rows FILE MEGABYTES SEED` · `bench-data newest|anywhere FILE DAY SEED`, which prints
//! changed rows, their bytes, and their bytes compressed.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use lifeboat_testkit::bench_data::{self, Day};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [verb, path, amount, seed] = args.as_slice() else {
        return ExitCode::from(2);
    };
    let (Ok(amount), Ok(seed)) = (amount.parse::<u64>(), seed.parse::<u64>()) else {
        return ExitCode::from(2);
    };
    let path = Path::new(path);
    let done = match verb.as_str() {
        "mixed" => bench_data::write_tree(path, amount << 20, seed),
        "change" => bench_data::change_tree(path, amount, seed),
        "code" => bench_data::write_code_tree(path, amount, seed),
        "pages" => bench_data::write_pages(path, amount << 20, seed),
        "rows" => bench_data::write_rows(path, amount << 20, seed),
        "newest" => day(path, Day::Newest, amount, seed),
        "anywhere" => day(path, Day::Anywhere, amount, seed),
        _ => return ExitCode::from(2),
    };
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn day(path: &Path, day: Day, number: u64, seed: u64) -> io::Result<u64> {
    let change = bench_data::change_rows(path, day, seed.wrapping_mul(1000).wrapping_add(number))?;
    writeln!(io::stdout(), "{} {} {}", change.rows, change.bytes, change.compressed_bytes)?;
    Ok(change.rows)
}

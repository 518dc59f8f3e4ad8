//! `mixed-files write DIR MEGABYTES SEED` and `mixed-files change DIR PERMILLE SEED`: the data of
//! the benches.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [verb, dir, amount, seed] = args.as_slice() else {
        return ExitCode::from(2);
    };
    let (Ok(amount), Ok(seed)) = (amount.parse::<u64>(), seed.parse::<u64>()) else {
        return ExitCode::from(2);
    };
    let done = match verb.as_str() {
        "write" => lifeboat_testkit::mixed::write_tree(Path::new(dir), amount << 20, seed),
        "change" => lifeboat_testkit::mixed::change_tree(Path::new(dir), amount, seed),
        _ => return ExitCode::from(2),
    };
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

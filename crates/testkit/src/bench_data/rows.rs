//! A table as a plain dump shows it, and the same table a day later.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use super::{Numbers, vocabulary, word};

/// What happens to the table in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// A tenth of the newest fiftieth of the rows is updated, and as many new rows come as a
    /// five-hundredth of the table: work on recent records.
    Newest,
    /// One row in a thousand is updated, anywhere.
    Anywhere,
}

/// Rows that differ from the day before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsChange {
    /// How many.
    pub rows: u64,
    /// Their length.
    pub bytes: u64,
    /// Their length compressed by zstd at level 3, all in one frame.
    pub compressed_bytes: u64,
}

/// Writes about `bytes` of rows, oldest first, in the text format of `COPY`.
///
/// # Errors
/// What the file system says.
pub fn write_rows(path: &Path, bytes: u64, seed: u64) -> io::Result<u64> {
    let mut numbers = Numbers::new(seed);
    let words = vocabulary(&mut Numbers::new(0));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut written, mut rows, mut line) = (0, 0, Vec::new());
    while written < bytes {
        rows += 1;
        row(&mut line, rows, &words, &mut numbers)?;
        out.write_all(&line)?;
        written += line.len() as u64;
    }
    out.flush()?;
    Ok(rows)
}

fn row(line: &mut Vec<u8>, id: u64, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    line.clear();
    let (high, low) = (numbers.next(), numbers.next());
    let (day, hour) = (1 + numbers.below(28), numbers.below(24));
    write!(
        line,
        "{id}\t{high:016x}{low:016x}\t2026-{:02}-{day:02} {hour:02}:{:02}:{:02}+00\t",
        1 + numbers.below(12),
        numbers.below(60),
        numbers.below(60)
    )?;
    let state = *numbers.pick(&["REGISTERED", "DECLARED", "VALIDATED", "CERTIFIED", "ISSUED"]);
    write!(line, "{state}\t{} {}\t", word(words, numbers), word(words, numbers))?;
    write!(line, "{{\"place\": \"{}\", \"weight\": {}, \"note\": \"", word(words, numbers), numbers.below(6000))?;
    for _ in 0..2 + numbers.below(9) {
        write!(line, "{} ", word(words, numbers))?;
    }
    writeln!(line, "\"}}\t\\N")
}

/// Rewrites the table as it stands a day later.
///
/// # Errors
/// What the file system says.
pub fn change_rows(path: &Path, day: Day, seed: u64) -> io::Result<RowsChange> {
    let mut numbers = Numbers::new(seed);
    let words = vocabulary(&mut Numbers::new(0));
    let rows = BufReader::with_capacity(1 << 20, File::open(path)?).lines().count() as u64;
    let fresh = path.with_extension("new");
    let mut old = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&fresh)?);
    let mut zstd = zstd::Encoder::new(Counted(0), 3)?;
    let (mut change, mut line) = (RowsChange::default(), Vec::new());
    let mut tell = |line: &[u8]| -> io::Result<()> {
        change.rows += 1;
        change.bytes += line.len() as u64;
        zstd.write_all(line)
    };
    for id in 1..=rows {
        line.clear();
        old.read_until(b'\n', &mut line)?;
        let changes = match day {
            Day::Newest => id > rows - rows / 50 && numbers.below(10) == 0,
            Day::Anywhere => numbers.below(1000) == 0,
        };
        if changes {
            row(&mut line, id, &words, &mut numbers)?;
            tell(&line)?;
        }
        out.write_all(&line)?;
    }
    if day == Day::Newest {
        for id in rows + 1..=rows + rows / 500 {
            row(&mut line, id, &words, &mut numbers)?;
            tell(&line)?;
            out.write_all(&line)?;
        }
    }
    out.flush()?;
    change.compressed_bytes = zstd.finish()?.0;
    std::fs::rename(fresh, path)?;
    Ok(change)
}

struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many lines differ, those that only one side has among them.
    fn differing(before: &str, after: &str) -> usize {
        let lines = before.lines().count().max(after.lines().count());
        let (mut before, mut after) = (before.lines(), after.lines());
        (0..lines).filter(|_| before.next() != after.next()).count()
    }

    #[test]
    fn a_day_changes_the_rows_that_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.sql");
        let rows = write_rows(&path, 2 << 20, 1).unwrap();
        for (day, least, most) in [(Day::Anywhere, rows / 3000, rows / 300), (Day::Newest, rows / 500, rows / 100)] {
            let before = std::fs::read_to_string(&path).unwrap();
            let change = change_rows(&path, day, 9).unwrap();
            let after = std::fs::read_to_string(&path).unwrap();
            assert_eq!(differing(&before, &after) as u64, change.rows, "{day:?}");
            assert!((least..=most).contains(&change.rows), "{day:?}: {} of {rows}", change.rows);
            assert!(change.compressed_bytes < change.bytes && change.compressed_bytes > 0);
        }
    }
}

//! Files of a host: prose, JSON records, database pages, and media that is already compressed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::{Numbers, prose, vocabulary, word};

/// Share of each kind of file in a hundred bytes.
const SHARES: [(Kind, u64); 4] = [(Kind::Prose, 30), (Kind::Json, 20), (Kind::Pages, 25), (Kind::Media, 25)];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Prose,
    Json,
    Pages,
    Media,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Prose => "txt",
            Self::Json => "json",
            Self::Pages => "db",
            Self::Media => "jpg",
        }
    }
}

/// Writes about `total_bytes` of mixed files below `root`: nine in ten files are small (2 to 64
/// KiB), the others hold most of the bytes (1 to 64 MiB).
///
/// # Errors
/// What the file system says.
pub fn write_tree(root: &Path, total_bytes: u64, seed: u64) -> io::Result<u64> {
    let mut numbers = Numbers::new(seed);
    let words = vocabulary(&mut numbers);
    let mut files = 0;
    for (kind, share) in SHARES {
        let mut left = total_bytes / 100 * share;
        while left > 0 {
            let size = if numbers.below(10) < 9 {
                2048 + numbers.below(62 << 10)
            } else {
                (1 << 20) + numbers.below(if matches!(kind, Kind::Pages) { 63 << 20 } else { 7 << 20 })
            }
            .min(left);
            let dir = root.join(kind.name()).join(format!("{:03}", files / 200));
            fs::create_dir_all(&dir)?;
            let file = File::create(dir.join(format!("{files:06}.{}", kind.name())))?;
            write_file(BufWriter::with_capacity(1 << 20, file), kind, size, &words, &mut numbers)?;
            left -= size;
            files += 1;
        }
    }
    Ok(files)
}

/// Writes one file of database pages.
///
/// # Errors
/// What the file system says.
pub fn write_pages(path: &Path, bytes: u64, seed: u64) -> io::Result<u64> {
    let mut numbers = Numbers::new(seed);
    let words = vocabulary(&mut numbers);
    write_file(BufWriter::with_capacity(1 << 20, File::create(path)?), Kind::Pages, bytes, &words, &mut numbers)?;
    Ok(1)
}

/// Changes about `share_permille` in a thousand of the bytes of `root`, a tree or a file, in place: whole 8 KiB
/// blocks at random places of random files, as databases and editors do.
///
/// # Errors
/// What the file system says.
///
/// # Panics
/// Never: a place below the sum of the lengths lies in one of the files.
pub fn change_tree(root: &Path, share_permille: u64, seed: u64) -> io::Result<u64> {
    let mut numbers = Numbers::new(seed);
    let mut files = Vec::new();
    let mut dirs = Vec::new();
    let meta = fs::metadata(root)?;
    if meta.is_dir() {
        dirs.push(root.to_path_buf());
    } else {
        files.push((root.to_path_buf(), meta.len()));
    }
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                files.push((entry.path(), entry.metadata()?.len()));
            }
        }
    }
    files.sort();
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let mut left = total / 1000 * share_permille;
    let changed = left;
    while left > 0 {
        // A place among all bytes, so that large files change more often than small ones.
        let mut place = numbers.below(total);
        let (path, bytes) = files
            .iter()
            .find(|(_, bytes)| {
                let here = place < *bytes;
                if !here {
                    place -= bytes;
                }
                here
            })
            .expect("the place lies in one of the files");
        let at = place / 8192 * 8192;
        let length = 8192.min(bytes - at);
        let mut block = vec![0; usize::try_from(length).expect("a block is small")];
        numbers.fill(&mut block);
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&block)?;
        left = left.saturating_sub(length);
    }
    Ok(changed)
}

fn write_file(mut out: impl Write, kind: Kind, size: u64, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    let mut block = Vec::with_capacity(1 << 16);
    while left > 0 {
        block.clear();
        match kind {
            Kind::Prose => prose(&mut block, words, numbers)?,
            Kind::Json => record(&mut block, words, numbers)?,
            Kind::Pages => page(&mut block, words, numbers)?,
            Kind::Media => {
                block.resize(1 << 16, 0);
                numbers.fill(&mut block);
            }
        }
        let take = block.len().min(left);
        out.write_all(&block[..take])?;
        left -= take;
    }
    out.flush()
}

fn record(block: &mut Vec<u8>, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    let (high, low) = (numbers.next(), numbers.next());
    writeln!(
        block,
        r#"{{"id":"{high:016x}{low:016x}","name":"{} {}","born":"{}-{:02}-{:02}","place":"{}","weight":{},"token":"{:016x}","note":"{} {} {}"}}"#,
        word(words, numbers),
        word(words, numbers),
        1950 + numbers.below(76),
        1 + numbers.below(12),
        1 + numbers.below(28),
        word(words, numbers),
        numbers.below(100_000),
        numbers.next(),
        word(words, numbers),
        word(words, numbers),
        word(words, numbers),
    )
}

/// A page of 8 KiB: a header, line pointers, a hole of zeros, rows of numbers and text.
fn page(block: &mut Vec<u8>, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    let mut rows = Vec::with_capacity(8192);
    let rows_wanted = 20 + numbers.below(20);
    for row in 0..rows_wanted {
        rows.extend_from_slice(&numbers.below(1 << 32).to_le_bytes());
        rows.extend_from_slice(&[0x02, 0x00, 0x18, 0x09]);
        rows.extend_from_slice(&row.to_le_bytes()[..4]);
        rows.extend_from_slice(&numbers.next().to_le_bytes());
        for _ in 0..6 {
            write!(rows, "{} ", word(words, numbers))?;
        }
        write!(rows, "{:032x}", u128::from(numbers.next()) << 64 | u128::from(numbers.next()))?;
    }
    rows.truncate(8192 - 24 - 160);
    block.extend_from_slice(&numbers.next().to_le_bytes());
    block.extend_from_slice(&[0; 16]);
    for row in 0..40_u32 {
        block.extend_from_slice(&(row * 190).to_le_bytes());
    }
    block.resize(8192 - rows.len(), 0);
    block.extend_from_slice(&rows);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(root: &Path) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let mut dirs = vec![root.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
            entries.sort();
            for path in entries {
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    hasher.update(&fs::read(path).unwrap());
                }
            }
        }
        hasher.finalize()
    }

    #[test]
    fn the_same_seed_makes_the_same_tree_and_the_same_change() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [a.path(), b.path()] {
            write_tree(root, 8 << 20, 7).unwrap();
        }
        let before = digest(a.path());
        assert_eq!(before, digest(b.path()));
        for root in [a.path(), b.path()] {
            assert!(change_tree(root, 10, 3).unwrap() > 0);
        }
        assert_ne!(before, digest(a.path()));
        assert_eq!(digest(a.path()), digest(b.path()));
    }
}

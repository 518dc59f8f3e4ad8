//! Compares two trees.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Differences that are named.
const DIFFERENCES_MAX: usize = 200;

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// How many paths both have.
    pub compared: u64,
    /// What differs, at most 200, and how many in all.
    pub differences: Vec<String>,
    /// How many differ in all.
    pub difference_count: u64,
}

impl Comparison {
    /// Fails the test with the differences, or where nothing was compared.
    ///
    /// # Panics
    /// Where the trees are not equal.
    pub fn assert_equal(&self) {
        assert_eq!(self.differences, Vec::<String>::new(), "{} differences", self.difference_count);
        assert!(self.compared > 0, "nothing was compared");
    }

    fn add(&mut self, path: &Path, what: &str) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(format!("{}: {what}", path.display()));
        }
    }
}

/// Compares everything below two directories and the directories themselves: names, kinds,
/// permissions, owners, mtimes in nanoseconds, link targets, which names are the same file,
/// devices, extended attributes, content and where its holes are. Sockets are left out.
///
/// # Errors
/// Where one of the trees cannot be read.
pub fn compare(left: &Path, right: &Path) -> io::Result<Comparison> {
    let mut found = Comparison::default();
    let mut waiting = vec![PathBuf::new()];
    let (mut left_links, mut right_links) = (HashMap::new(), HashMap::new());
    while let Some(path) = waiting.pop() {
        let (a, b) = (left.join(&path), right.join(&path));
        let (meta_a, meta_b) = (fs::symlink_metadata(&a)?, fs::symlink_metadata(&b)?);
        found.compared += 1;
        metadata(&path, (&meta_a, &meta_b), &mut found);
        if attributes(&a)? != attributes(&b)? {
            found.add(&path, "extended attributes differ");
        }
        if meta_a.file_type() != meta_b.file_type() {
            continue;
        }
        if meta_a.is_symlink() && fs::read_link(&a)? != fs::read_link(&b)? {
            found.add(&path, "leads elsewhere");
        }
        if !meta_a.is_dir() {
            let first = |links: &mut HashMap<(u64, u64), PathBuf>, meta: &fs::Metadata| {
                links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone()).clone()
            };
            if first(&mut left_links, &meta_a) != first(&mut right_links, &meta_b) {
                found.add(&path, "is linked with other names");
            }
        }
        if meta_a.is_file() {
            content(&path, &File::open(&a)?, &File::open(&b)?, &mut found)?;
        }
        if meta_a.is_dir() {
            children(&path, (&a, &b), &mut waiting, &mut found)?;
        }
    }
    Ok(found)
}

fn metadata(path: &Path, (a, b): (&fs::Metadata, &fs::Metadata), found: &mut Comparison) {
    if a.file_type() != b.file_type() {
        found.add(path, &format!("is {:?} and {:?}", a.file_type(), b.file_type()));
        return;
    }
    if a.mode() != b.mode() {
        found.add(path, &format!("permissions {:o} and {:o}", a.mode(), b.mode()));
    }
    if (a.uid(), a.gid()) != (b.uid(), b.gid()) {
        found.add(path, &format!("belongs to {}:{} and {}:{}", a.uid(), a.gid(), b.uid(), b.gid()));
    }
    if (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()) {
        let times = (a.mtime(), a.mtime_nsec(), b.mtime(), b.mtime_nsec());
        found.add(path, &format!("mtime {}.{:09} and {}.{:09}", times.0, times.1, times.2, times.3));
    }
    if !a.is_dir() && a.len() != b.len() {
        found.add(path, &format!("{} and {} bytes", a.len(), b.len()));
    }
    if a.rdev() != b.rdev() {
        found.add(path, "another device");
    }
}

/// Names and values in order.
fn attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use std::os::unix::ffi::OsStringExt;
    let names = match xattr::list(path) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for name in names {
        let value = xattr::get(path, &name)?.unwrap_or_default();
        all.push((name.into_vec(), value));
    }
    all.sort();
    Ok(all)
}

fn children(path: &Path, (a, b): (&Path, &Path), waiting: &mut Vec<PathBuf>, found: &mut Comparison) -> io::Result<()> {
    let names = |dir: &Path| {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_socket() {
                names.push(entry.file_name());
            }
        }
        names.sort();
        Ok::<_, io::Error>(names)
    };
    let (left, right) = (names(a)?, names(b)?);
    for name in &left {
        if right.binary_search(name).is_err() {
            found.add(&path.join(name), "is only in the first");
        }
    }
    for name in &right {
        if left.binary_search(name).is_err() {
            found.add(&path.join(name), "is only in the second");
        }
    }
    // Backwards, since the last is taken first: the first name of a linked file is the same in both.
    waiting.extend(left.iter().rev().filter(|name| right.binary_search(name).is_ok()).map(|name| path.join(name)));
    Ok(())
}

fn content(path: &Path, a: &File, b: &File, found: &mut Comparison) -> io::Result<()> {
    let length = a.metadata()?.len();
    if length != b.metadata()?.len() {
        return Ok(());
    }
    let (data_a, data_b) = (data(a, length)?, data(b, length)?);
    if data_a != data_b {
        found.add(path, &format!("data lies at {data_a:?} and {data_b:?}"));
    }
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for (start, end) in data_a.into_iter().chain(data_b) {
        let mut at = start;
        while at < end {
            let step = usize::try_from((end - at).min(1 << 20)).unwrap_or(1 << 20);
            a.read_exact_at(&mut here[..step], at)?;
            b.read_exact_at(&mut there[..step], at)?;
            if here[..step] != there[..step] {
                found.add(path, "content differs");
                return Ok(());
            }
            at += step as u64;
        }
    }
    Ok(())
}

/// Where a file has data: start and end of each stretch.
fn data(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(length);
        all.push((start, at));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::{TreeOptions, make};
    use super::*;

    #[test]
    fn trees_of_one_seed_are_equal_and_every_kind_of_change_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let options = TreeOptions { small_files: 20, ..TreeOptions::default() };
        let made = make(&a, options).expect("make");
        make(&b, options).expect("make");
        assert!(made.entries > 100 && made.bytes > 3_000_000, "{made:?}");
        compare(&a, &b).expect("compare").assert_equal();

        let note = b.join("attributes/user");
        xattr::set(&note, "user.note", b"changed").expect("set");
        fs::hard_link(b.join("links/first"), b.join("links/fourth")).expect("link");
        fs::remove_file(b.join("links/second")).expect("remove");
        let whole = File::options().write(true).open(b.join("large/whole.bin")).expect("open");
        let before = whole.metadata().expect("look").modified().expect("a time");
        whole.write_all_at(b"x", 1_000_000).expect("write");
        whole.set_modified(before).expect("set");
        let hole = File::options().write(true).open(b.join("large/all-hole")).expect("open");
        hole.write_all_at(&[0; 4096], 1 << 20).expect("write");

        let seen = compare(&a, &b).expect("compare").differences.join("\n");
        for expected in [
            "attributes/user: extended attributes differ",
            "links/fourth: is only in the second",
            "links/second: is only in the first",
            "large/whole.bin: content differs",
            "large/all-hole: data lies at",
            "large/all-hole: mtime",
        ] {
            assert!(seen.contains(expected), "{expected} is not in\n{seen}");
        }
    }
}

//! Makes a tree from a seed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::bench_data::Numbers;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

/// What a tree consists of.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Equal seeds make equal trees, inode numbers and change times aside.
    pub seed: u64,
    /// How many small files there are, of up to 12,000 bytes; 50 to a directory.
    pub small_files: usize,
    /// Apparent length of the sparse file, of which about 1 MiB is data.
    pub sparse_bytes: u64,
    /// Length of one file without holes.
    pub large_bytes: u64,
    /// How many directories lie in each other in the deepest place.
    pub depth: usize,
}

impl Default for TreeOptions {
    /// 300 files and 3 MiB: quick enough for any test.
    fn default() -> Self {
        Self { seed: 1, small_files: 300, sparse_bytes: 64 << 20, large_bytes: 2_500_000, depth: 40 }
    }
}

/// What was made.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Files, directories, links and all else.
    pub entries: u64,
    /// Bytes of content, holes left out.
    pub bytes: u64,
    /// What this machine or file system does not allow. A test prints it.
    pub lacking: Vec<String>,
}

/// Half text that compresses, half noise.
fn content(random: &mut Numbers, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 64);
    while out.len() < length {
        let number = random.next();
        if number.is_multiple_of(2) {
            out.extend_from_slice(
                format!("{} born {} at {}\n", random.below(999), random.below(9999), number % 77).as_bytes(),
            );
        } else {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    out.truncate(length);
    out
}

struct Maker<'a> {
    root: &'a Path,
    random: Numbers,
    made: Made,
    root_user: bool,
}

/// Makes a tree in `root`, which is made too. Waits until its youngest change is older than the
/// tick of the file system's clock, so that a backup may trust its times.
///
/// # Errors
/// What the system said, but for what is listed in [`Made::lacking`].
pub fn make(root: &Path, options: TreeOptions) -> io::Result<Made> {
    fs::create_dir_all(root)?;
    let root_user = rustix::process::geteuid().is_root();
    let mut maker = Maker { root, random: Numbers::new(options.seed), made: Made::default(), root_user };
    maker.small_files(options.small_files)?;
    maker.large_files(options)?;
    maker.odd_names()?;
    maker.links()?;
    maker.special()?;
    maker.deep(options.depth)?;
    maker.attributes()?;
    maker.owners_and_modes()?;
    maker.times()?;
    settle(root)?;
    Ok(maker.made)
}

impl Maker<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn dir(&mut self, path: &str) -> io::Result<()> {
        self.made.entries += 1;
        fs::create_dir_all(self.at(path))
    }

    fn file(&mut self, path: impl AsRef<Path>, length: usize) -> io::Result<()> {
        let bytes = content(&mut self.random, length);
        self.made.entries += 1;
        self.made.bytes += length as u64;
        File::create(self.root.join(path))?.write_all_at(&bytes, 0)
    }

    fn small_files(&mut self, count: usize) -> io::Result<()> {
        for number in 0..count {
            let dir = format!("small/{:03}/{}", number / 500, number / 50 % 10);
            if number % 50 == 0 {
                self.dir(&dir)?;
            }
            let length = match self.random.below(10) {
                0 => 0,
                1..=7 => self.random.below(2_000),
                _ => self.random.below(12_000),
            };
            self.file(format!("{dir}/record-{number:06}.xml"), usize::try_from(length).unwrap_or(0))?;
        }
        Ok(())
    }

    fn large_files(&mut self, options: TreeOptions) -> io::Result<()> {
        self.dir("large")?;
        self.file("large/whole.bin", usize::try_from(options.large_bytes).unwrap_or(0))?;
        let blocks = options.sparse_bytes / 8;
        let sparse = File::create(self.at("large/sparse.img"))?;
        sparse.set_len(options.sparse_bytes)?;
        for part in 0..8 {
            // Whole blocks of most file systems, so that holes are where they are expected.
            let offset = (part * blocks + self.random.below(blocks / 2)) / 65_536 * 65_536;
            sparse.write_all_at(&content(&mut self.random, 131_072), offset)?;
        }
        self.made.entries += 2;
        self.made.bytes += 1 << 20;
        File::create(self.at("large/all-hole"))?.set_len(3 << 20)?;
        self.made.entries += 1;
        let small = File::create(self.at("large/small-sparse"))?;
        small.write_all_at(b"start", 0)?;
        small.write_all_at(b"end", 300_000)?;
        small.set_len(400_000)
    }

    fn odd_names(&mut self) -> io::Result<()> {
        self.dir("odd")?;
        let long = "n".repeat(255);
        let names: [&[u8]; 12] = [
            b"with space",
            b"-rf",
            b"new\nline",
            b"tab\tand\x1bescape",
            b"caf\xe9 latin1",
            "na\u{ef}ve \u{1f6df}".as_bytes(),
            b"\xff\xfe\x80",
            b"quote'\"`$(x)",
            b"back\\slash",
            b"*?[a]{b}",
            b"...",
            long.as_bytes(),
        ];
        for name in names {
            self.file(Path::new("odd").join(OsStr::from_bytes(name)), 10)?;
        }
        fs::create_dir_all(self.root.join("odd").join(OsStr::from_bytes(b"dir\xc3\x28/empty below")))?;
        self.made.entries += 2;
        // Neighbours whose order differs between bytes and components.
        for path in ["odd/a", "odd/a-b", "odd/a!"] {
            self.dir(path)?;
        }
        self.file("odd/a/b", 5)
    }

    fn links(&mut self) -> io::Result<()> {
        self.dir("links/other")?;
        self.file("links/first", 3_000)?;
        fs::hard_link(self.at("links/first"), self.at("links/second"))?;
        fs::hard_link(self.at("links/first"), self.at("links/other/third"))?;
        symlink("first", self.at("links/to-first"))?;
        symlink("../../nowhere/at all", self.at("links/broken"))?;
        symlink("/etc", self.at("links/absolute"))?;
        symlink(OsStr::from_bytes(b"caf\xe9"), self.at("links/latin1"))?;
        fs::hard_link(self.at("links/to-first"), self.at("links/second-link"))?;
        self.made.entries += 7;
        Ok(())
    }

    fn special(&mut self) -> io::Result<()> {
        self.dir("special/empty")?;
        let node = |name: &str, kind, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(CWD, self.root.join("special").join(name), kind, Mode::from_raw_mode(0o640), device)
        };
        node("pipe", FileType::Fifo, 0, 0)?;
        let devices =
            node("null", FileType::CharacterDevice, 1, 3).and_then(|()| node("block", FileType::BlockDevice, 7, 250));
        self.made.entries += 1;
        match devices {
            Ok(()) => self.made.entries += 2,
            Err(error) => self.made.lacking.push(format!("devices: {error}")),
        }
        Ok(())
    }

    fn deep(&mut self, depth: usize) -> io::Result<()> {
        let mut path = PathBuf::from("deep");
        for level in 0..depth {
            path.push(format!("d{level}"));
        }
        fs::create_dir_all(self.root.join(&path))?;
        self.made.entries += depth as u64 + 1;
        self.file(path.join("bottom"), 100)
    }

    fn attributes(&mut self) -> io::Result<()> {
        self.dir("attributes/dir")?;
        self.file("attributes/user", 10)?;
        self.file("attributes/acl", 10)?;
        self.file("attributes/capability", 10)?;
        // linux/posix_acl_xattr.h: version 2, then tag, permissions and id of each entry.
        let acl = |user: u16| {
            let entries: [(u16, u16, u32); 5] =
                [(1, 6, u32::MAX), (2, user, 12_345), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)];
            let mut bytes = 2_u32.to_le_bytes().to_vec();
            for (tag, permissions, id) in entries {
                bytes.extend_from_slice(&tag.to_le_bytes());
                bytes.extend_from_slice(&permissions.to_le_bytes());
                bytes.extend_from_slice(&id.to_le_bytes());
            }
            bytes
        };
        // linux/capability.h: revision 2 with CAP_NET_BIND_SERVICE permitted and effective.
        let mut capability = vec![1, 0, 0, 2];
        capability.extend_from_slice(&[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (path, name, value) in [
            ("attributes/user", "user.note", b"a value with \0 in it".to_vec()),
            ("attributes/user", "user.empty", Vec::new()),
            ("attributes/user", "user.long", vec![7; 2_000]),
            ("attributes/dir", "user.note", b"of a directory".to_vec()),
            ("attributes/acl", "system.posix_acl_access", acl(4)),
            ("attributes/dir", "system.posix_acl_default", acl(7)),
            ("attributes/dir", "system.posix_acl_access", acl(6)),
            ("attributes/capability", "security.capability", capability),
            ("links/to-first", "trusted.note", b"of a symbolic link".to_vec()),
        ] {
            if let Err(error) = xattr::set(self.at(path), name, &value) {
                self.made.lacking.push(format!("{name} on {path}: {error}"));
            }
        }
        Ok(())
    }

    fn owners_and_modes(&mut self) -> io::Result<()> {
        self.dir("modes/sticky")?;
        self.dir("modes/set-gid")?;
        self.dir("modes/closed")?;
        self.file("modes/closed/inside", 4)?;
        for (name, mode) in
            [("set-uid", 0o4755), ("set-gid-file", 0o2711), ("none", 0o000), ("all", 0o777), ("read", 0o444)]
        {
            self.file(format!("modes/{name}"), 20)?;
            if self.root_user {
                let (user, group) = (rustix::fs::Uid::from_raw(1), rustix::fs::Gid::from_raw(12_346));
                rustix::fs::chownat(CWD, self.at(&format!("modes/{name}")), Some(user), Some(group), AtFlags::empty())?;
            }
            let mode = if name == "none" && !self.root_user { 0o400 } else { mode };
            fs::set_permissions(self.at(&format!("modes/{name}")), fs::Permissions::from_mode(mode))?;
        }
        if self.root_user {
            let user = Some(rustix::fs::Uid::from_raw(12_345));
            rustix::fs::chownat(CWD, self.at("links/to-first"), user, None, AtFlags::SYMLINK_NOFOLLOW)?;
        } else {
            self.made.lacking.push("owners other than one's own".to_owned());
        }
        for (name, mode) in [("sticky", 0o1777), ("set-gid", 0o2775), ("closed", 0o500)] {
            fs::set_permissions(self.at(&format!("modes/{name}")), fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Gives everything a time of its own, the deepest first.
    fn times(&mut self) -> io::Result<()> {
        let mut all = vec![self.root.to_owned()];
        let mut next = 0;
        while next < all.len() {
            let path = all[next].clone();
            if fs::symlink_metadata(&path)?.is_dir() {
                let mut below: Vec<PathBuf> =
                    fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
                below.sort();
                all.append(&mut below);
            }
            next += 1;
        }
        for path in all.iter().rev() {
            // From before 1970 to beyond 2038, with every nanosecond.
            let seconds = i64::try_from(self.random.below(5_000_000_000)).unwrap_or(0) - 1_000_000_000;
            let nanoseconds = i64::try_from(self.random.below(1_000_000_000)).unwrap_or(0);
            let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

/// Waits until the clock of the file system has moved on by more than a tick since the last change.
fn settle(root: &Path) -> io::Result<()> {
    let probe = root.with_extension("settling");
    let changed = |meta: &fs::Metadata| i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    let last = changed(&fs::metadata(root)?);
    loop {
        let file = File::create(&probe)?;
        file.set_len(1)?;
        if changed(&file.metadata()?) > last + 30_000_000 {
            return fs::remove_file(&probe);
        }
        std::thread::yield_now();
    }
}

//! From what the kernel tells of a file to an entry's metadata, and back to who owns it.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use lifeboat_model::entry::Principal;
use lifeboat_model::{EntryKind, EntryMeta, Fingerprint, Xattr};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// Key of [`EntryMeta::extra`] of a sparse file: how many bytes the file system stored for it.
pub(super) const ALLOCATED: &str = "files.allocated_bytes";

/// Key of [`EntryMeta::extra`] of a directory that is only the way to a configured path: it is made
/// where it is missing, and otherwise none of our business. Snapshots of before the key have none.
pub(super) const ABOVE: &str = "files.above";

/// The longest list of names and the longest value of extended attributes on Linux.
const XATTR_BYTES_MAX: usize = 65_536;

/// File systems on which a change of extended attributes changes the ctime: `f_type` of ext2 to ext4,
/// XFS, Btrfs, F2FS, ZFS. Of others that is not known.
const DATES_ATTRIBUTES: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1];

/// Whether the file system of an open directory changes the ctime with extended attributes.
pub(super) fn dates_attributes(dir: BorrowedFd<'_>) -> bool {
    let kind = rustix::fs::fstatfs(dir).ok().and_then(|found| u64::try_from(found.f_type).ok());
    kind.is_some_and(|kind| DATES_ATTRIBUTES.contains(&kind))
}

/// Where the kernel finds what is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A name in a directory, never followed if it is a symbolic link.
    Name(BorrowedFd<'a>, &'a [u8]),
}

/// The kind of what has this `st_mode`.
pub(super) fn kind_of(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryKind::Dir,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Socket => EntryKind::Socket,
        _ => EntryKind::File,
    }
}

/// How many names a file has.
pub(super) fn links_of(stat: &Stat) -> u64 {
    // The field's width differs between architectures.
    fn wide(number: impl Into<u64>) -> u64 {
        number.into()
    }
    wide(stat.st_nlink)
}

/// Length in bytes; a length below zero does not occur.
pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Bytes that the file system stored: `st_blocks` counts 512 bytes whatever the block size.
pub(super) fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

/// The time of the last change of content: seconds and nanoseconds.
pub(super) fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

fn ctime(stat: &Stat) -> (i64, u32) {
    (stat.st_ctime, u32::try_from(stat.st_ctime_nsec).unwrap_or(0))
}

/// Whether two looks at the same path saw the same file with the same content and metadata.
pub(super) fn unchanged(before: &Stat, after: &Stat) -> bool {
    let key = |s: &Stat| (s.st_dev, s.st_ino, s.st_mode, s.st_size, mtime(s), ctime(s));
    key(before) == key(after)
}

/// Size, mtime, ctime and inode, and whether the file is `bare`: it has no extended attributes, and one
/// would change its ctime. Device numbers are left out: they change when a machine starts
/// or a network file system is mounted anew, and an inode does not keep its ctime by chance.
pub(super) fn fingerprint(stat: &Stat, bare: bool) -> Fingerprint {
    let mut encoded = [0; 48];
    let (mtime, ctime) = (mtime(stat), ctime(stat));
    encoded[..8].copy_from_slice(&size_of(stat).to_le_bytes());
    encoded[8..16].copy_from_slice(&mtime.0.to_le_bytes());
    encoded[16..20].copy_from_slice(&mtime.1.to_le_bytes());
    encoded[20..28].copy_from_slice(&ctime.0.to_le_bytes());
    encoded[28..32].copy_from_slice(&ctime.1.to_le_bytes());
    encoded[32..40].copy_from_slice(&stat.st_ino.to_le_bytes());
    encoded[40] = u8::from(bare);
    Fingerprint::of(&encoded)
}

/// Nanoseconds since 1970 of the last change of any kind.
pub(super) fn ctime_ns(stat: &Stat) -> i128 {
    let (seconds, nanoseconds) = ctime(stat);
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// Names of users and groups by number and back, each asked for once: the answer may come over
/// the network.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
    user_ids: Mutex<HashMap<String, Option<u32>>>,
    group_ids: Mutex<HashMap<String, Option<u32>>>,
}

/// How many answers are remembered; a tree with more owners than that asks again.
const NAMES_MAX: usize = 10_000;

fn cached<K, V>(map: &Mutex<HashMap<K, V>>, key: &K, ask: impl FnOnce() -> V) -> V
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone,
{
    // A poisoned map holds whole answers only.
    let mut map = map.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = map.get(key) {
        return known.clone();
    }
    if map.len() >= NAMES_MAX {
        map.clear();
    }
    let answer = ask();
    map.insert(key.clone(), answer.clone());
    answer
}

impl Names {
    fn user(&self, id: u32) -> Principal {
        let ask = || uzers::get_user_by_uid(id).and_then(|user| user.name().to_str().map(str::to_owned));
        Principal { id, name: cached(&self.users, &id, ask) }
    }

    fn group(&self, id: u32) -> Principal {
        let ask = || uzers::get_group_by_gid(id).and_then(|group| group.name().to_str().map(str::to_owned));
        Principal { id, name: cached(&self.groups, &id, ask) }
    }

    /// The number here of a user of a snapshot, and whether the name is known here.
    pub(super) fn user_id(&self, user: &Principal) -> (u32, bool) {
        let Some(name) = &user.name else { return (user.id, true) };
        let here = cached(&self.user_ids, name, || uzers::get_user_by_name(name).map(|found| found.uid()));
        here.map_or((user.id, false), |id| (id, true))
    }

    /// The number here of a group of a snapshot, and whether the name is known here.
    pub(super) fn group_id(&self, group: &Principal) -> (u32, bool) {
        let Some(name) = &group.name else { return (group.id, true) };
        let here = cached(&self.group_ids, name, || uzers::get_group_by_name(name).map(|found| found.gid()));
        here.map_or((group.id, false), |id| (id, true))
    }

    /// The metadata of what `stat` and `at` show. What cannot be read is told in `complaints`.
    ///
    /// # Errors
    /// Where a symbolic link cannot be read.
    pub(super) fn meta(&self, stat: &Stat, at: At<'_>, complaints: &mut Vec<String>) -> Result<EntryMeta, Errno> {
        Ok(EntryMeta { xattrs: xattrs(at, complaints), ..self.meta_alone(stat, at)? })
    }

    /// The metadata without extended attributes.
    ///
    /// # Errors
    /// Where a symbolic link cannot be read.
    pub(super) fn meta_alone(&self, stat: &Stat, at: At<'_>) -> Result<EntryMeta, Errno> {
        let kind = kind_of(stat);
        let mut meta = EntryMeta::new(kind);
        meta.mode = Some(stat.st_mode & 0o7777);
        meta.owner = Some(self.user(stat.st_uid));
        meta.group = Some(self.group(stat.st_gid));
        meta.mtime = Some(mtime(stat));
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            meta.device = Some((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
        }
        if let (EntryKind::Symlink, At::Name(dir, name)) = (kind, at) {
            meta.link = Some(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes());
        }
        if kind == EntryKind::File && allocated(stat) < size_of(stat) {
            meta.extra.insert(ALLOCATED.to_owned(), allocated(stat).to_string());
        }
        Ok(meta)
    }
}

/// A path that leads to `name` in an open directory without following it, for the system calls
/// that know no directory descriptors.
pub(super) fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(24 + name.len());
    // Writing into a vector does not fail.
    let _ = write!(path, "/proc/self/fd/{}/", dir.as_raw_fd());
    path.extend_from_slice(name);
    path
}

/// All extended attributes in the order of their names. What cannot be read is told in
/// `complaints`; a file system without attributes has none.
pub(super) fn xattrs(at: At<'_>, complaints: &mut Vec<String>) -> Vec<Xattr> {
    let path = match at {
        At::Open(_) => Vec::new(),
        At::Name(dir, name) => proc_path(dir, name),
    };
    let list = grow(|buffer| match at {
        At::Open(fd) => rustix::fs::flistxattr(fd, buffer),
        At::Name(..) => rustix::fs::llistxattr(path.as_slice(), buffer),
    });
    let list = match list {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP | Errno::NODATA) => return Vec::new(),
        Err(error) => {
            complaints.push(format!("its extended attributes cannot be listed: {}", said(error)));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let value = grow(|buffer| match at {
            At::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            At::Name(..) => rustix::fs::lgetxattr(path.as_slice(), name, buffer),
        });
        match value {
            Ok(value) => found.push(Xattr { name: name.to_vec(), value }),
            // Gone since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => {
                let name = String::from_utf8_lossy(name);
                complaints.push(format!("its extended attribute {name} cannot be read: {}", said(error)));
            }
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Asks with a small buffer, and again with the largest that Linux knows.
fn grow(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match ask(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let length = ask(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

/// What the system says about an error, without Rust's number behind it.
pub(super) fn said(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Opens without following a link and without leaving a trace in the access time where the kernel
/// allows that: it does for owners and root only.
pub(super) fn open_quietly(dir: BorrowedFd<'_>, name: &[u8], flags: rustix::fs::OFlags) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let name = std::ffi::OsStr::from_bytes(name);
    match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

//! What a snapshot remembers of an entry beside its bytes.

use std::collections::BTreeMap;

/// What kind of thing an entry is. The numbers are those of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// Bytes: a regular file, or one stream of a dump.
    File = 0,
    /// A directory.
    Dir = 1,
    /// A symbolic link; its target is [`EntryMeta::link`].
    Symlink = 2,
    /// A further name of the file whose entry path is [`EntryMeta::link`].
    Hardlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A character device.
    CharDevice = 5,
    /// A block device.
    BlockDevice = 6,
    /// A socket: no longer recorded, and never restored.
    Socket = 7,
    /// Something that was left out; [`EntryMeta::why`] tells the reason.
    Skipped = 8,
}

impl EntryKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        use EntryKind::{BlockDevice, CharDevice, Dir, Fifo, File, Hardlink, Skipped, Socket, Symlink};
        [File, Dir, Symlink, Hardlink, Fifo, CharDevice, BlockDevice, Socket, Skipped]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    /// The word for it, for people and scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symlink",
            Self::Hardlink => "hardlink",
            Self::Fifo => "fifo",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
            Self::Socket => "socket",
            Self::Skipped => "skipped",
        }
    }
}

/// One extended attribute. POSIX ACLs are the attributes `system.posix_acl_access` and
/// `system.posix_acl_default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Full name with its namespace, such as `user.note`.
    pub name: Vec<u8>,
    /// Raw value.
    pub value: Vec<u8>,
}

/// Everything about an entry but its path and its bytes. A dump stream leaves what it lacks empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-uid, set-gid and sticky (`st_mode & 0o7777`).
    pub mode: Option<u32>,
    /// Owner's number and, where the host knew it, name.
    pub owner: Option<Principal>,
    /// Group's number and, where the host knew it, name.
    pub group: Option<Principal>,
    /// Last change of content: seconds since 1970 UTC and nanoseconds (0..1e9).
    pub mtime: Option<(i64, u32)>,
    /// Target of a symbolic link, or the entry path that a hard link shares its file with.
    pub link: Option<Vec<u8>>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Extended attributes in the order of their names.
    pub xattrs: Vec<Xattr>,
    /// Why it was left out, for [`EntryKind::Skipped`].
    pub why: Option<String>,
    /// What only one kind of source needs (row counts of a table, say), by a key that names it
    /// (`postgres.rows`). Readers keep and show keys that they do not know.
    pub extra: BTreeMap<String, String>,
}

impl EntryMeta {
    /// Metadata with nothing but a kind.
    #[must_use]
    pub const fn new(kind: EntryKind) -> Self {
        Self {
            kind,
            mode: None,
            owner: None,
            group: None,
            mtime: None,
            link: None,
            device: None,
            xattrs: Vec::new(),
            why: None,
            extra: BTreeMap::new(),
        }
    }
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The number on the host that was backed up.
    pub id: u32,
    /// The name there; a restore prefers it to the number.
    pub name: Option<String>,
}

/// What a source would see change if an entry's bytes changed: for a file its size, mtime, ctime
/// and inode. Compared for equality, stored only in the writer's local cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of an encoding of everything that matters.
    #[must_use]
    pub fn of(encoded: &[u8]) -> Self {
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::hash(encoded).as_bytes()[..16]);
        Self(out)
    }
}

//! Gives what was restored its owner, attributes, times and permissions.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use lifeboat_model::flow::Entry;
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::meta::{At, proc_path, said, xattrs};
use super::place::Place;

impl Place {
    /// Gives an open file or directory its metadata: attributes after the owner, since a new owner
    /// takes capabilities away; times after attributes; permissions last, since a new owner takes
    /// set-uid away and they mark an unfinished directory.
    pub(super) fn dress(&self, fd: BorrowedFd<'_>, meta: &EntryMeta, path: &EntryPath) {
        let (user, group) = self.owner(meta, path);
        let mut owned = true;
        if (user.is_some() || group.is_some())
            && let Err(error) = rustix::fs::fchown(fd, user, group)
        {
            owned = self.is_owned_anyway(fd, (user, group), path, error);
        }
        for old in xattrs(At::Open(fd), &mut Vec::new()) {
            let wanted = meta.xattrs.iter().any(|xattr| xattr.name == old.name);
            if !wanted && !old.name.starts_with(b"security.") {
                let _ = rustix::fs::fremovexattr(fd, OsStr::from_bytes(&old.name));
            }
        }
        for xattr in &meta.xattrs {
            let name = OsStr::from_bytes(&xattr.name);
            if let Err(error) = rustix::fs::fsetxattr(fd, name, &xattr.value, XattrFlags::empty()) {
                self.no_xattr(&xattr.name, path, error);
            }
        }
        if let Some(times) = times(meta)
            && let Err(error) = rustix::fs::futimens(fd, &times)
        {
            self.shortfalls.add(&format!("the time of change could not be set ({})", said(error)), path);
        }
        // Set-uid of another owner than the snapshot's would hand out that owner's rights.
        let allowed = if owned { 0o7777 } else { 0o1777 };
        if let Some(mode) = meta.mode
            && let Err(error) = rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & allowed))
        {
            self.shortfalls.add(&format!("permissions could not be set ({})", said(error)), path);
        }
    }

    /// The same for what cannot be opened.
    pub(super) fn dress_special(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) {
        let (meta, path) = (&entry.meta, &entry.path);
        let shown = OsStr::from_bytes(name);
        let (user, group) = self.owner(meta, path);
        if (user.is_some() || group.is_some())
            && let Err(error) = rustix::fs::chownat(dir, shown, user, group, AtFlags::SYMLINK_NOFOLLOW)
            && self.is_root
        {
            self.shortfalls.add(&format!("the owner could not be set ({})", said(error)), path);
        }
        for xattr in &meta.xattrs {
            let at = proc_path(dir, name);
            let set = rustix::fs::lsetxattr(at, OsStr::from_bytes(&xattr.name), &xattr.value, XattrFlags::empty());
            if let Err(error) = set {
                self.no_xattr(&xattr.name, path, error);
            }
        }
        if let (Some(mode), true) = (meta.mode, meta.kind != EntryKind::Symlink) {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let set = rustix::fs::openat(dir, shown, flags, Mode::empty()).and_then(|fd| {
                rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode & 0o7777))
            });
            if let Err(error) = set {
                self.shortfalls.add(&format!("permissions could not be set ({})", said(error)), path);
            }
        }
        if let Some(times) = times(meta)
            && let Err(error) = rustix::fs::utimensat(dir, shown, &times, AtFlags::SYMLINK_NOFOLLOW)
        {
            self.shortfalls.add(&format!("the time of change could not be set ({})", said(error)), path);
        }
    }

    fn owner(&self, meta: &EntryMeta, path: &EntryPath) -> (Option<Uid>, Option<Gid>) {
        let user = meta.owner.as_ref().map(|owner| {
            let (id, known) = self.names.user_id(owner);
            if !known {
                let name = owner.name.as_deref().unwrap_or_default();
                self.shortfalls.add(&format!("the user {name} is not known here; the number {id} was used"), path);
            }
            Uid::from_raw_unchecked(id)
        });
        let group = meta.group.as_ref().map(|group| {
            let (id, known) = self.names.group_id(group);
            if !known {
                let name = group.name.as_deref().unwrap_or_default();
                self.shortfalls.add(&format!("the group {name} is not known here; the number {id} was used"), path);
            }
            Gid::from_raw_unchecked(id)
        });
        // The numbers that mean "leave it" to the system call.
        (user.filter(|id| id.as_raw() != u32::MAX), group.filter(|id| id.as_raw() != u32::MAX))
    }

    fn is_owned_anyway(
        &self,
        fd: BorrowedFd<'_>,
        wanted: (Option<Uid>, Option<Gid>),
        path: &EntryPath,
        error: Errno,
    ) -> bool {
        // Not root: the group alone may be possible, and the owner right as it is.
        let group = rustix::fs::fchown(fd, None, wanted.1).is_ok();
        let user = rustix::fs::fstat(fd).is_ok_and(|stat| wanted.0.is_none_or(|user| user.as_raw() == stat.st_uid));
        if !(group && user) {
            self.shortfalls.add(&format!("the owner could not be set ({}): not root?", said(error)), path);
        }
        group && user
    }

    fn no_xattr(&self, name: &[u8], path: &EntryPath, error: Errno) {
        let name = String::from_utf8_lossy(name);
        let space = name.split('.').next().unwrap_or_default();
        self.shortfalls.add(&format!("attributes {space}.* could not be set ({})", said(error)), path);
    }
}

fn times(meta: &EntryMeta) -> Option<Timestamps> {
    let (seconds, nanoseconds) = meta.mtime?;
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    // A stored number of nanoseconds may be anything; the kernel takes less than a second.
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds.min(999_999_999)) };
    Some(Timestamps { last_access: omit, last_modification })
}

//! Extended attributes of what the walk met, read batch by batch beside the walk: listing them costs
//! more than looking at the file, by name through `/proc`, and one thread would do both in turn. Files
//! that the last backup knew as bare are not asked for them.

use std::os::fd::AsFd;

use lifeboat_model::EntryKind;
use rustix::fs::AtFlags;

use super::meta::{At, xattrs};
use super::walk::{Event, gone_or};

/// Fills in the attributes of all entries of a batch but directories, which the walk has open itself.
/// What vanished since the walk met it becomes a skip.
pub(super) fn fill_in(batch: Vec<Event>) -> Vec<Event> {
    let mut filled = Vec::with_capacity(batch.len());
    for event in batch {
        let Event::Found(mut found) = event else {
            filled.push(event);
            continue;
        };
        let mut complaints = Vec::new();
        if let Some(dir) = &found.dir {
            found.meta.xattrs = xattrs(At::Name(dir.as_fd(), found.path.name()), &mut complaints);
            if !complaints.is_empty()
                && let Err(error) = rustix::fs::statat(dir, found.path.name(), AtFlags::SYMLINK_NOFOLLOW)
            {
                filled.push(Event::Skip(found.path.clone(), gone_or(error, "cannot be looked at")));
                continue;
            }
            found.bare &= found.meta.xattrs.is_empty() && complaints.is_empty();
        }
        // A further name tells nothing that the first one did not.
        let tells = found.meta.kind != EntryKind::Hardlink;
        let path = found.path.clone();
        filled.push(Event::Found(found));
        filled.extend(complaints.into_iter().filter(|_| tells).map(|what| Event::Problem(path.clone(), what)));
    }
    filled
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use lifeboat_model::{EntryMeta, EntryPath};
    use rustix::fs::XattrFlags;

    use super::super::tests::skipped;
    use super::super::walk::Found;
    use super::*;

    #[test]
    fn what_vanished_since_it_was_met_is_a_skip_and_no_complaint() {
        let tree = tempfile::tempdir().expect("a directory");
        let dir = Arc::new(OwnedFd::from(File::open(tree.path()).expect("opened")));
        let met = |name: &str| {
            File::create(tree.path().join(name)).expect("made");
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).expect("looked at");
            let path = EntryPath::new(name.as_bytes()).expect("a path");
            let meta = EntryMeta::new(EntryKind::File);
            Event::Found(Box::new(Found { path, stat, meta, dir: Some(Arc::clone(&dir)), bare: true }))
        };
        let batch = vec![met("stays"), met("goes"), Event::Socket];
        std::fs::remove_file(tree.path().join("goes")).expect("removed");
        let filled = fill_in(batch);
        assert!(matches!(&filled[0], Event::Found(found) if found.path.name() == b"stays"), "{filled:?}");
        assert!(
            matches!(&filled[1], Event::Skip(path, why) if path.name() == b"goes" && why.contains("vanished")),
            "{filled:?}"
        );
        assert!(matches!(filled[2], Event::Socket), "{filled:?}");
    }

    #[test]
    fn an_attribute_that_cannot_be_read_is_told_beside_its_entry() {
        use std::os::unix::fs::PermissionsExt;
        let tree = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(tree.path(), std::fs::Permissions::from_mode(0o755)).expect("opened to all");
        let file = File::create(tree.path().join("secret")).expect("made");
        if let Err(error) = rustix::fs::fsetxattr(&file, "user.note", b"x", XattrFlags::empty()) {
            let why = format!("no extended attributes here [cannot be had]: {error}");
            return skipped("an_attribute_that_cannot_be_read", &why);
        }
        file.set_permissions(std::fs::Permissions::from_mode(0o0)).expect("closed to all");
        let dir = Arc::new(OwnedFd::from(File::open(tree.path()).expect("opened")));
        let stat = rustix::fs::statat(&dir, "secret", AtFlags::SYMLINK_NOFOLLOW).expect("looked at");
        let path = EntryPath::new(&b"secret"[..]).expect("a path");
        let meta = EntryMeta::new(EntryKind::File);
        let found = Event::Found(Box::new(Found { path, stat, meta, dir: Some(dir), bare: true }));
        // Of root nothing is hidden, so a thread of its own becomes nobody.
        let become_nobody_and_ask = move || {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("another user");
            }
            fill_in(vec![found])
        };
        let filled = std::thread::spawn(become_nobody_and_ask).join().expect("joined");
        let [Event::Found(found), Event::Problem(path, what)] = &filled[..] else { panic!("{filled:?}") };
        assert!(!found.bare && found.meta.xattrs.is_empty(), "{found:?}");
        assert!(path.name() == b"secret" && what.contains("user.note cannot be read"), "{what}");
    }
}

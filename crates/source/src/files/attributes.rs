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
}

//! Looks at directories before the walk is there, several at once. Each waits for its own blocks of a
//! disk that is not in memory, and one thread would wait for one after the other: of a walk over 3,000
//! folders of 100 files that took a third of its time.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};

use rustix::fs::{AtFlags, OFlags, Stat};
use tokio::runtime::Handle;

use super::names::{NameList, list};
use crate::files::meta::open_quietly;

/// Directories that are looked at ahead of the walk in one, and in all on the way down: each is open.
const SIBLINGS: usize = 8;
const ALL: usize = 64;
/// Names that are kept for the walk; a directory with more is listed when the walk is there.
const NAMES_MAX: usize = 4096;
/// Names of a directory that are looked at.
const LOOKS_MAX: usize = 512;

/// An open directory.
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
    /// None where the walk has to list it.
    pub(super) listed: Option<Listed>,
}

/// What a directory holds.
pub(super) struct Listed {
    pub(super) names: NameList,
    /// Of the first names those that are no directories and could be looked at.
    pub(super) looks: Vec<Option<Stat>>,
}

/// Looks ahead; as many as there are clones of `running` are under way or wait for the walk.
#[derive(Default)]
pub(super) struct Scout {
    running: Arc<()>,
}

/// What was looked at ahead in one directory, by the places of names, in their order.
#[derive(Default)]
pub(super) struct Ahead {
    waiting: VecDeque<(usize, mpsc::Receiver<Option<Opened>>)>,
    /// The first place that was not considered yet.
    next: usize,
}

impl Scout {
    /// Looks at the next directories among `names` that are `wanted`, from the place `from` on. `dir` lies on
    /// `device`; what does not is opened and left to the walk.
    pub(super) fn look_ahead(
        &self,
        ahead: &mut Ahead,
        (dir, device): (&Arc<OwnedFd>, u64),
        (names, from): (&NameList, usize),
        wanted: impl Fn(&[u8]) -> bool,
    ) {
        // Without a runtime the walk does it all itself.
        let Ok(runtime) = Handle::try_current() else { return };
        ahead.next = ahead.next.max(from);
        while ahead.waiting.len() < SIBLINGS && Arc::strong_count(&self.running) <= ALL {
            let Some(name) = names.get(ahead.next) else { return };
            let place = ahead.next;
            ahead.next += 1;
            if !names.is_dir(place) || !wanted(name) {
                continue;
            }
            let (out, opened) = mpsc::sync_channel(1);
            let (dir, name, running) = (Arc::clone(dir), name.to_vec(), Arc::clone(&self.running));
            runtime.spawn_blocking(move || {
                // The walk may have ended.
                let _ = out.send(look(&dir, &name, device));
                drop(running);
            });
            ahead.waiting.push_back((place, opened));
        }
    }
}

impl Ahead {
    /// The directory whose name stands at `place`, if it was opened ahead. What failed is tried again by the
    /// walk, which tells why.
    pub(super) fn take(&mut self, place: usize) -> Option<Opened> {
        let (_, opened) =
            self.waiting.pop_front_if(|(first, _)| *first <= place).filter(|(first, _)| *first == place)?;
        opened.recv().ok().flatten()
    }
}

fn look(dir: &OwnedFd, name: &[u8], device: u64) -> Option<Opened> {
    let fd = open_quietly(dir.as_fd(), name, OFlags::DIRECTORY).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    let listed = (stat.st_dev == device).then(|| list(&fd));
    let listed = listed.filter(|(names, broken)| broken.is_none() && names.len() <= NAMES_MAX).map(|(names, _)| {
        let look = |place| {
            let name = names.get(place).filter(|_| !names.is_dir(place))?;
            rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()
        };
        let looks = (0..names.len().min(LOOKS_MAX)).map(look).collect();
        Listed { names, looks }
    });
    Some(Opened { fd, stat, listed })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    fn opened(path: &Path) -> (Arc<OwnedFd>, u64) {
        let dir = File::open(path).expect("open");
        let device = dir.metadata().expect("look").dev();
        (Arc::new(dir.into()), device)
    }

    #[tokio::test]
    async fn each_directory_is_taken_at_its_place_and_what_is_not_wanted_or_gone_is_left_to_the_walk() {
        let tree = tempfile::tempdir().expect("a directory");
        for number in 0..30 {
            let inner = tree.path().join(format!("d{number:02}"));
            fs::create_dir_all(inner.join("deeper")).expect("make");
            File::create(inner.join("file")).expect("make").set_len(number).expect("set");
        }
        File::create(tree.path().join("d05.txt")).expect("make");
        let (dir, device) = opened(tree.path());
        let (names, _) = list(&dir);
        fs::remove_dir_all(tree.path().join("d07")).expect("remove");
        let (scout, mut ahead) = (Scout::default(), Ahead::default());
        let mut found = Vec::new();
        for place in 0..names.len() {
            scout.look_ahead(&mut ahead, (&dir, device), (&names, place), |name| name != b"d03");
            assert!(ahead.waiting.len() <= SIBLINGS);
            let name = String::from_utf8(names.get(place).expect("a name").to_vec()).expect("text");
            let Some(opened) = ahead.take(place) else { continue };
            let listed = opened.listed.expect("it was listed");
            let looks: Vec<Option<i64>> =
                listed.looks.iter().map(|look| look.as_ref().map(|stat| stat.st_size)).collect();
            assert_eq!(looks, [None, Some(name[1..].parse().expect("a number"))], "{name}: a directory and a file");
            assert_eq!(opened.stat.st_ino, fs::metadata(tree.path().join(&name)).expect("look").ino());
            found.push(name);
        }
        let wanted: Vec<String> =
            (0..30).filter(|number| ![3, 7].contains(number)).map(|number| format!("d{number:02}")).collect();
        assert_eq!(found, wanted);
    }

    #[tokio::test]
    async fn many_names_and_other_devices_are_left_to_the_walk() {
        let tree = tempfile::tempdir().expect("a directory");
        let first = tree.path().join("first");
        File::create(&first).expect("make");
        for (name, count) in [("some", LOOKS_MAX + 1), ("many", NAMES_MAX + 1)] {
            fs::create_dir(tree.path().join(name)).expect("make");
            for number in 0..count {
                fs::hard_link(&first, tree.path().join(format!("{name}/{number}"))).expect("a name");
            }
        }
        let (dir, device) = opened(tree.path());
        let listed = |name: &[u8], device| look(&dir, name, device).expect("opened").listed;
        assert!(listed(b"many", device).is_none());
        assert!(listed(b"some", device + 1).is_none());
        let some = listed(b"some", device).expect("listed");
        assert!(some.names.len() > LOOKS_MAX && some.looks.len() == LOOKS_MAX);
        assert!(some.looks.iter().all(Option::is_some));
        assert!(look(&dir, b"first", device).is_none(), "no directory");
    }
}

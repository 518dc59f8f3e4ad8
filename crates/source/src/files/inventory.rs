//! Looks at what stands where a restore would write, and at the room that there is.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lifeboat_model::flow::{Entry, EntryReader};
use lifeboat_model::target::{Finding, RestoreOptions, TargetInventory, Verdict};
use lifeboat_model::{EntryKind, EntryPath};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::below::{Below, parent};
use super::meta::{ALLOCATED, allocated, kind_of};
use super::place::{Place, Standing, failed};
use super::select::{Item, Selection, channel};
use super::{broke, restore};
use crate::SourceError;

/// Examples that are named.
const EXAMPLES_MAX: usize = 100;
/// What file systems hand out at least for a file.
const BLOCK_BYTES: u64 = 4_096;

/// What is needed of one file system.
#[derive(Debug, Default)]
struct Need {
    bytes: u64,
    inodes: u64,
    /// The largest file that is written beside one that it replaces.
    beside: u64,
}

/// Counts on the way.
#[derive(Debug, Default)]
struct Count {
    occupied: Vec<String>,
    in_the_way: u64,
    same: u64,
    dirs: u64,
    files: u64,
    links: u64,
    others: u64,
    bytes: u64,
    needs: HashMap<u64, Need>,
}

/// The look, moved from batch to batch.
struct Look {
    /// `None` where the target does not exist yet.
    place: Option<Place>,
    /// Device of the target or of what stands nearest above it.
    device: u64,
    count: Count,
    /// The directory of the last entry: its path, itself where it exists, and its device.
    last: Option<(Vec<u8>, Option<OwnedFd>, u64)>,
}

pub(super) async fn take(
    root: &Path,
    data: &dyn EntryReader,
    options: &RestoreOptions,
) -> Result<TargetInventory, SourceError> {
    let selection = Selection::new(&options.only, data).await?;
    let nearest = nearest(root);
    let unreachable = |error: Errno| SourceError::Failed {
        what: format!("the target directory {} cannot be looked at", root.display()),
        hint: None,
        source: Some(Box::new(std::io::Error::from(error))),
    };
    let device = rustix::fs::stat(nearest).map_err(unreachable)?.st_dev;
    let place = match Below::open(root) {
        Ok(below) => Some(Place::new(below, false)),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(unreachable(error)),
    };
    let mut look = Look { place, device, count: Count::default(), last: None };
    for path in &selection.paths {
        look.above(path);
    }
    let (out, mut batches) = channel();
    let work = async move {
        while let Some(batch) = batches.recv().await {
            let looked = tokio::task::spawn_blocking(move || {
                let seen = batch.iter().filter(|item| item.selected).try_for_each(|item| look.entry(item));
                (look, seen)
            });
            let (back, seen) = looked.await.map_err(|error| broke("looking at the target", error))?;
            look = back;
            seen?;
        }
        Ok::<_, SourceError>(look)
    };
    let (walk, work) = tokio::join!(selection.walk(data, out), work);
    let look = work?;
    walk?;
    Ok(look.inventory(root, options, selection.reads()))
}

/// The path itself or what stands nearest above it.
fn nearest(root: &Path) -> &Path {
    root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

impl Look {
    /// What stands above a path that was asked for and is no directory.
    fn above(&mut self, path: &EntryPath) {
        let Some(place) = &self.place else { return };
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let obstacle = ends
            .map(|end| &bytes[..end])
            .find(|above| matches!(place.below.dir(above), Err(Errno::NOTDIR | Errno::LOOP)));
        if let Some(above) = obstacle {
            self.count.occupied(&String::from_utf8_lossy(above), "is no directory");
        }
    }

    fn entry(&mut self, item: &Item) -> Result<(), SourceError> {
        let entry = &item.entry;
        let say = |error| failed("looking at", &entry.path, error);
        let device = self.reach(&entry.path).map_err(say)?;
        let dir = self.last.as_ref().and_then(|(_, dir, _)| dir.as_ref());
        let count = &mut self.count;
        match entry.meta.kind {
            EntryKind::Dir => count.dirs += 1,
            EntryKind::File => count.files += 1,
            EntryKind::Hardlink => count.links += 1,
            EntryKind::Socket | EntryKind::Skipped => return Ok(()),
            _ => count.others += 1,
        }
        count.bytes = count.bytes.saturating_add(entry.bytes);
        let (Some(place), Some(dir)) = (&self.place, dir) else {
            count.new_entry(entry, device);
            return Ok(());
        };
        let name = OsStr::from_bytes(entry.path.name());
        let here = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                count.new_entry(entry, device);
                return Ok(());
            }
            other => other.map_err(say)?,
        };
        if entry.meta.kind == EntryKind::Dir {
            if kind_of(&here) != EntryKind::Dir {
                count.occupied(&entry.path.to_string(), "is no directory");
                count.new_entry(entry, device);
            }
            return Ok(());
        }
        if entry.meta.kind == EntryKind::Hardlink {
            if is_linked(place, entry, (here.st_dev, here.st_ino)) {
                count.same += 1;
            } else {
                count.occupied(&entry.path.to_string(), "is another file");
            }
            return Ok(());
        }
        match place.standing(dir.as_fd(), entry).map_err(say)? {
            Standing::Same => count.same += 1,
            Standing::Dir => {
                count.occupied(&entry.path.to_string(), "is a directory");
                count.new_entry(entry, device);
            }
            Standing::Nothing => count.new_entry(entry, device),
            Standing::Other => {
                count.occupied(&entry.path.to_string(), "differs");
                let (new, old) = (room(entry), allocated(&here));
                let need = count.needs.entry(device).or_default();
                need.bytes = need.bytes.saturating_add(new.saturating_sub(old));
                need.beside = need.beside.max(new);
            }
        }
        Ok(())
    }

    /// Opens the directory of an entry unless it is that of the last one; its device.
    fn reach(&mut self, path: &EntryPath) -> Result<u64, Errno> {
        let wanted = parent(path);
        if let Some((last, _, device)) = &self.last
            && last == wanted
        {
            return Ok(*device);
        }
        let Some(place) = &self.place else { return Ok(self.device) };
        let mut at = wanted;
        let (dir, device) = loop {
            match place.below.dir(at) {
                Ok(dir) => {
                    let device = rustix::fs::fstat(&dir)?.st_dev;
                    break ((at == wanted).then_some(dir), device);
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !at.is_empty() => {
                    at = &at[..at.iter().rposition(|b| *b == b'/').unwrap_or(0)];
                }
                Err(error) => return Err(error),
            }
        };
        self.last = Some((wanted.to_vec(), dir, device));
        Ok(device)
    }

    fn inventory(self, root: &Path, options: &RestoreOptions, reads: Vec<EntryPath>) -> TargetInventory {
        let count = self.count;
        let mut inventory = TargetInventory {
            occupied: count.occupied,
            occupied_count: count.in_the_way,
            reads,
            ..TargetInventory::default()
        };
        // Room on the file system of the target itself stands for all where nothing is needed.
        let mut tightest: Option<i128> = None;
        for (device, need) in &count.needs {
            let beside = need.beside.saturating_mul(restore::jobs(options) as u64);
            let needed = need.bytes.saturating_add(beside);
            inventory.needed_bytes = inventory.needed_bytes.saturating_add(needed);
            let Some((free, inodes)) = self.place.as_ref().map_or_else(
                || free(nearest(root)),
                |place| {
                    if *device == self.device {
                        rustix::fs::fstatvfs(place.below.root()).ok().as_ref().map(room_of)
                    } else {
                        free_of(*device)
                    }
                },
            ) else {
                continue;
            };
            let margin = i128::from(free) - i128::from(needed);
            if tightest.is_none_or(|least| margin < least) {
                tightest = Some(margin);
                inventory.free_bytes = Some(free);
            }
            if margin < 0 {
                let what = format!("the restore needs {needed} bytes below {}, but {free} are free", root.display());
                inventory.refusals.push(refusal(what, "make room, or restore a part with --only"));
            }
            if inodes.is_some_and(|inodes| inodes < need.inodes) {
                let what = format!(
                    "the restore makes {} files below {}: the file system has room for fewer",
                    need.inodes,
                    root.display()
                );
                inventory.refusals.push(refusal(what, "restore to a file system with more inodes: df -i"));
            }
        }
        if rustix::fs::access(nearest(root), rustix::fs::Access::WRITE_OK).is_err() {
            let what = format!("{} cannot be written to", nearest(root).display());
            inventory.refusals.push(refusal(what, "run the restore as root, or mount the target writable"));
        }
        inventory.steps = vec![format!(
            "write {} files ({} bytes), {} directories, {} hard links and {} links, pipes and devices below {}",
            count.files,
            count.bytes,
            count.dirs,
            count.links,
            count.others,
            root.display()
        )];
        if count.same > 0 {
            let what = if options.replace { "write again" } else { "leave alone" };
            inventory.steps.push(format!("{what} {} of them that are there already, with equal metadata", count.same));
        }
        if options.replace && count.in_the_way > 0 {
            let step = format!("replace {}, each by one that is written beside it first", count.in_the_way);
            inventory.steps.push(step);
        }
        inventory
    }
}

impl Count {
    fn occupied(&mut self, path: &str, how: &str) {
        self.in_the_way += 1;
        if self.occupied.len() < EXAMPLES_MAX {
            self.occupied.push(format!("/{path} {how}"));
        }
    }

    fn new_entry(&mut self, entry: &Entry, device: u64) {
        let need = self.needs.entry(device).or_default();
        if entry.meta.kind == EntryKind::Hardlink {
            return;
        }
        need.inodes += 1;
        need.bytes = need.bytes.saturating_add(room(entry));
    }
}

/// What an entry takes on disk.
fn room(entry: &Entry) -> u64 {
    let stored = entry.meta.extra.get(ALLOCATED).and_then(|text| text.parse().ok());
    let bytes = match entry.meta.kind {
        EntryKind::File => stored.unwrap_or(u64::MAX).min(entry.bytes),
        EntryKind::Dir => BLOCK_BYTES,
        _ => 0,
    };
    bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

fn is_linked(place: &Place, entry: &Entry, here: (u64, u64)) -> bool {
    let Some(Ok(origin)) = entry.meta.link.clone().map(EntryPath::new) else { return false };
    place
        .below
        .dir(parent(&origin))
        .and_then(|dir| rustix::fs::statat(dir, OsStr::from_bytes(origin.name()), AtFlags::SYMLINK_NOFOLLOW))
        .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == here)
}

fn refusal(what: String, hint: &str) -> Finding {
    Finding { verdict: Verdict::Bad, what, hint: Some(hint.to_owned()) }
}

fn free(path: &Path) -> Option<(u64, Option<u64>)> {
    rustix::fs::statvfs(path).ok().as_ref().map(room_of)
}

/// Bytes and, where the file system counts them, inodes that are free.
fn room_of(stat: &rustix::fs::StatVfs) -> (u64, Option<u64>) {
    let blocks = if rustix::process::geteuid().is_root() { stat.f_bfree } else { stat.f_bavail };
    (blocks.saturating_mul(stat.f_frsize), (stat.f_files > 0).then_some(stat.f_favail))
}

/// Room on another file system below the target, found by its mount point.
fn free_of(device: u64) -> Option<(u64, Option<u64>)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(super::doctor::unescape).find_map(|point| {
        let is_it = rustix::fs::stat(point.as_str()).is_ok_and(|stat| stat.st_dev == device);
        if is_it { free(Path::new(&point)) } else { None }
    })
}

//! Looks at what stands where a restore would write, and at the room that there is.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lifeboat_model::flow::{Entry, EntryReader};
use lifeboat_model::target::{Finding, RestoreOptions, TargetInventory, Verdict};
use lifeboat_model::words::counted;
use lifeboat_model::{EntryKind, EntryPath};
use lifeboat_wire::fs::room_of;
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::below::{Below, parent};
use super::meta::{ALLOCATED, allocated, kind_of, said};
use super::place::{Place, Standing, failed};
use super::select::{Item, Selection, channel};
use super::waiting::GROUP_BYTES;
use super::{broke, restore};
use crate::SourceError;

/// Examples that are named.
const EXAMPLES_MAX: usize = 100;
/// Directories that are named where they may not be written to.
const CLOSED_MAX: usize = 5;
/// What has to be allowed in a directory in which something is made or replaced.
const WRITE: Access = Access::WRITE_OK.union(Access::EXEC_OK);
/// What file systems hand out at least for a file.
const BLOCK_BYTES: u64 = 4_096;

/// What is needed of one file system.
#[derive(Debug, Default)]
struct Need {
    bytes: u64,
    inodes: u64,
    /// The largest file that is written beside what it replaces.
    beside: u64,
    /// All of them.
    replaced: u64,
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
    sockets: u64,
    bytes: u64,
    needs: HashMap<u64, Need>,
    /// Directories that may not be written to, with the reason: some, and how many.
    closed: Vec<(String, Errno)>,
    closed_dirs: u64,
}

/// The look, moved from batch to batch.
struct Look {
    /// `None` where the target does not exist yet.
    place: Option<Place>,
    /// Device of the target or of what stands nearest above it.
    device: u64,
    root: PathBuf,
    replace: bool,
    count: Count,
    last: Option<Reached>,
    /// The last path above an entry that was no directory.
    obstacle: Option<Vec<u8>>,
}

/// The directory of an entry, or what stands nearest above its place.
struct Reached {
    /// The directory of the entry.
    wanted: Vec<u8>,
    /// The directory that is open: `wanted` where that exists.
    at: Vec<u8>,
    dir: OwnedFd,
    device: u64,
    /// Whether it was asked if it may be written to.
    is_asked: bool,
}

pub(super) async fn take(
    root: &Path,
    data: &dyn EntryReader,
    options: &RestoreOptions,
) -> Result<TargetInventory, SourceError> {
    let selection = Selection::new(options, data).await?;
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
    let (root_path, replace) = (root.to_owned(), options.replace);
    let mut look =
        Look { place, device, root: root_path, replace, count: Count::default(), last: None, obstacle: None };
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
    Ok(look.inventory(options, selection.reads()))
}

/// The path itself or what stands nearest above it.
fn nearest(root: &Path) -> &Path {
    root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

impl Look {
    fn entry(&mut self, item: &Item) -> Result<(), SourceError> {
        let entry = &item.entry;
        match entry.meta.kind {
            EntryKind::Dir => self.count.dirs += 1,
            EntryKind::File => self.count.files += 1,
            EntryKind::Hardlink => self.count.links += 1,
            EntryKind::Socket => {
                self.count.sockets += 1;
                return Ok(());
            }
            EntryKind::Skipped => return Ok(()),
            _ => self.count.others += 1,
        }
        self.count.bytes = self.count.bytes.saturating_add(entry.bytes);
        if self.writes(entry).map_err(|error| failed("looking at", &entry.path, error))? {
            self.ask();
        }
        Ok(())
    }

    /// Compares an entry with what stands in its place; whether the restore would write there.
    fn writes(&mut self, entry: &Entry) -> Result<bool, Errno> {
        let device = self.reach(&entry.path)?;
        let count = &mut self.count;
        let dir = self.last.as_ref().filter(|last| last.at == last.wanted).map(|last| &last.dir);
        let (Some(place), Some(dir)) = (&self.place, dir) else {
            count.new_entry(entry, device);
            return Ok(true);
        };
        let name = OsStr::from_bytes(entry.path.name());
        let here = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                count.new_entry(entry, device);
                return Ok(true);
            }
            other => other?,
        };
        match entry.meta.kind {
            EntryKind::Dir if kind_of(&here) == EntryKind::Dir => return Ok(false),
            EntryKind::Dir => {
                self.obstacle = Some(entry.path.as_bytes().to_vec());
                count.occupied(&entry.path.to_string(), "is no directory");
                count.new_entry(entry, device);
                return Ok(self.replace);
            }
            EntryKind::Hardlink if is_linked(place, entry, (here.st_dev, here.st_ino)) => {
                count.same += 1;
                return Ok(false);
            }
            EntryKind::Hardlink => {
                count.occupied(&entry.path.to_string(), "is another file");
                return Ok(self.replace);
            }
            _ => {}
        }
        match place.standing(dir.as_fd(), entry)? {
            Standing::Same => count.same += 1,
            Standing::Dir => {
                count.occupied(&entry.path.to_string(), "is a directory");
                count.new_entry(entry, device);
            }
            Standing::Nothing => {
                count.new_entry(entry, device);
                return Ok(true);
            }
            Standing::Other => {
                count.occupied(&entry.path.to_string(), "differs");
                let need = count.needs.entry(device).or_default();
                let new = room(entry);
                need.bytes = need.bytes.saturating_add(new.saturating_sub(allocated(&here)));
                need.replaced = need.replaced.saturating_add(new);
                need.beside = need.beside.max(new);
            }
        }
        Ok(self.replace)
    }

    /// Asks once of each directory that something will be written to whether it may be.
    fn ask(&mut self) {
        let Some(last) = self.last.as_mut().filter(|last| !last.is_asked) else { return };
        last.is_asked = true;
        if let Err(error) = rustix::fs::accessat(&last.dir, ".", WRITE, AtFlags::EACCESS) {
            self.count.closed(self.root.join(OsStr::from_bytes(&last.at)).display().to_string(), error);
        }
    }

    /// Opens the directory of an entry, or the nearest above it, unless it is that of the last one;
    /// its device.
    fn reach(&mut self, path: &EntryPath) -> Result<u64, Errno> {
        let wanted = parent(path);
        if let Some(last) = &self.last
            && last.wanted == wanted
        {
            return Ok(last.device);
        }
        let Some(place) = &self.place else { return Ok(self.device) };
        let (mut at, mut obstacle) = (wanted, None);
        let dir = loop {
            match place.below.dir(at) {
                Ok(dir) => break dir,
                Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) if !at.is_empty() => {
                    obstacle = (error != Errno::NOENT).then_some(at);
                    at = &at[..at.iter().rposition(|b| *b == b'/').unwrap_or(0)];
                }
                Err(error) => return Err(error),
            }
        };
        if let Some(obstacle) = obstacle
            && self.obstacle.as_deref() != Some(obstacle)
        {
            self.count.occupied(&String::from_utf8_lossy(obstacle), "is no directory");
            self.obstacle = Some(obstacle.to_vec());
        }
        let device = rustix::fs::fstat(&dir)?.st_dev;
        self.last = Some(Reached { wanted: wanted.to_vec(), at: at.to_vec(), dir, device, is_asked: false });
        Ok(device)
    }

    fn inventory(self, options: &RestoreOptions, reads: Vec<EntryPath>) -> TargetInventory {
        let (mut count, root) = (self.count, self.root.as_path());
        if self.place.is_none()
            && let Err(error) = rustix::fs::access(nearest(root), WRITE)
        {
            count.closed(nearest(root).display().to_string(), error);
        }
        let mut inventory = TargetInventory {
            occupied: count.occupied,
            occupied_count: count.in_the_way,
            reads,
            ..TargetInventory::default()
        };
        // Room on the file system of the target itself stands for all where nothing is needed.
        let mut tightest: Option<i128> = None;
        for (device, need) in &count.needs {
            let beside = need.beside.saturating_mul(restore::jobs(options) as u64).saturating_add(GROUP_BYTES);
            let needed = need.bytes.saturating_add(beside.min(need.replaced));
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
        inventory.refusals.extend(closed(&count.closed, count.closed_dirs));
        inventory.steps = vec![format!(
            "write {} ({}), {}, {} and {} (links, pipes, devices) below {}",
            counted(count.files, "file"),
            counted(count.bytes, "byte"),
            counted(count.dirs, "directory"),
            counted(count.links, "hard link"),
            counted(count.others, "other"),
            root.display()
        )];
        if count.same > 0 {
            let what = if options.replace { "write again" } else { "tell and keep" };
            let same = count.same;
            inventory.steps.push(format!(
                "compare the content of {same} of them that are there with equal metadata, and {what} what differs"
            ));
        }
        if count.sockets > 0 {
            inventory
                .steps
                .push(format!("leave out {}: who listens there makes them anew", counted(count.sockets, "socket")));
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

    fn closed(&mut self, dir: String, error: Errno) {
        // Many directories that are to be made have the same one above them.
        if self.closed.last().is_none_or(|known| known.0 != dir) {
            self.closed_dirs += 1;
            if self.closed.len() < CLOSED_MAX {
                self.closed.push((dir, error));
            }
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

fn closed(dirs: &[(String, Errno)], count: u64) -> Option<Finding> {
    let (_, first) = dirs.first()?;
    let named: Vec<String> = dirs.iter().map(|(dir, error)| format!("{dir} ({})", said(*error))).collect();
    let more = count - dirs.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let hint = match *first {
        Errno::ROFS => "mount the target writable",
        _ => "run the restore as root, or as a user that may write there",
    };
    Some(refusal(format!("the restore writes to {}{more}, which it may not", named.join(", ")), hint))
}

fn refusal(what: String, hint: &str) -> Finding {
    Finding { verdict: Verdict::Bad, what, hint: Some(hint.to_owned()) }
}

fn free(path: &Path) -> Option<(u64, Option<u64>)> {
    lifeboat_wire::fs::room(path).ok()
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

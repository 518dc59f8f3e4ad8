//! Walks the configured paths in the order of entries.
//!
//! Every step goes from an open directory to a name in it, never through a path: a directory that
//! becomes a symbolic link during the walk leads nowhere. Runs on a thread of its own.
//!
//! # Bounds
//! Names of the directories on the way down (their bytes and 8 bytes each; a million names take
//! about 30 MB), [`OPEN_DIRS`] open directories and 64 that were looked at ahead, 32 MiB for hard links that
//! wait for their further names, and the batches in the channel.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_model::flow::Cancel;
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::sync::mpsc::Sender;

use super::below::is_temp_name;
use super::meta::{ABOVE, At, Names, dates_attributes, kind_of, links_of, open_quietly, said, size_of};
use super::patterns::{CACHE_SIGNATURE, CACHE_TAG, Patterns};
use crate::SourceError;

mod ahead;
mod links;
mod names;
mod refused;
mod way;

use ahead::{Ahead, Listed, Opened, Scout};
use links::Links;
use names::{NameList, list};
use refused::{is_socket, root_failed, through_a_link};
use way::{reach, reopen};

/// A device and an inode on it.
pub(super) type Inode = (u64, u64);

/// Events that go to a worker at once.
const BATCH_EVENTS: usize = 128;
/// Directories that a batch may keep open.
const BATCH_DIRS: usize = 16;
/// Directories that the walk keeps open on its way down; above that it opens them again.
const OPEN_DIRS: usize = 64;

/// File systems that hold no data: `f_type` of proc, sysfs, devpts, cgroup, cgroup2, debugfs,
/// tracefs, securityfs, bpf, mqueue (linux/magic.h).
const PSEUDO: [u64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x1980_0202,
];

/// Something that the walk met.
#[derive(Debug)]
pub(super) enum Event {
    /// An entry.
    Found(Box<Found>),
    /// A socket, which is left out: it holds no data, and who listens on it makes it anew.
    Socket,
    /// Something that is left out because it cannot be read.
    Skip(EntryPath, String),
    /// Something that is not as it should be with an entry that is there.
    Problem(EntryPath, String),
}

/// An entry that the walk met.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: EntryPath,
    pub(super) stat: Stat,
    pub(super) meta: EntryMeta,
    /// The directory that holds it; none for a directory, whose extended attributes `meta` has. Those of
    /// others are read by [`super::attributes`].
    pub(super) dir: Option<Arc<OwnedFd>>,
    /// Whether an unchanged ctime means no extended attributes where there were none. The walk says it of
    /// the file system, [`super::attributes`] then of the file.
    pub(super) bare: bool,
}

/// What is walked.
#[derive(Debug)]
pub(super) struct Plan {
    /// Sorted; none lies within another. Empty for the root of the file system.
    pub(super) roots: Vec<Option<EntryPath>>,
    pub(super) excludes: Patterns,
    pub(super) paged: Patterns,
    pub(super) one_file_system: bool,
    pub(super) exclude_caches: bool,
}

/// One directory on the way down.
struct Frame {
    path: Option<EntryPath>,
    fd: Option<Arc<OwnedFd>>,
    inode: Inode,
    names: NameList,
    next: usize,
    /// Of the first names those that were looked at ahead.
    looks: Vec<Option<Stat>>,
    ahead: Ahead,
}

/// What is known of a name before the walk is there.
enum Seen {
    /// It is no directory.
    Looked(Stat),
    Opened(Opened),
}

/// What a walk is for.
pub(super) enum Purpose {
    /// To tell everything.
    Entries,
    /// To tell the names of these files and nothing else.
    NamesOf(HashSet<Inode>),
    /// To add up the lengths of files and tell nothing.
    Lengths(Arc<AtomicU64>),
}

/// The walk.
pub(super) struct Walker {
    pub(super) plan: Arc<Plan>,
    pub(super) names: Arc<Names>,
    pub(super) out: Sender<Vec<Event>>,
    pub(super) cancel: Cancel,
    pub(super) purpose: Purpose,
    batch: Vec<Event>,
    batch_dirs: usize,
    links: Links,
    /// Devices of directories, and whether their file systems date extended attributes.
    dating: HashMap<u64, bool>,
    scout: Scout,
}

/// Why a directory is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// A configured path, or below one.
    Wanted,
    /// It is the way to a configured path.
    Above,
}

/// How a walk ended before its end.
enum Stop {
    /// The receiver is gone; its own error tells why.
    NobodyListens,
    Failed(SourceError),
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

impl Walker {
    pub(super) fn new(plan: Arc<Plan>, names: Arc<Names>, out: Sender<Vec<Event>>, cancel: Cancel) -> Self {
        Self {
            plan,
            names,
            out,
            cancel,
            purpose: Purpose::Entries,
            batch: Vec::new(),
            batch_dirs: 0,
            links: Links::default(),
            dating: HashMap::new(),
            scout: Scout::default(),
        }
    }

    /// Walks all paths to their end.
    pub(super) fn run(mut self) -> Result<(), SourceError> {
        match self.all() {
            Ok(()) | Err(Stop::NobodyListens) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn all(&mut self) -> Result<(), Stop> {
        let plan = Arc::clone(&self.plan);
        let mut told = HashSet::new();
        for root in &plan.roots {
            self.root(root.as_ref(), &mut told)?;
        }
        self.flush()
    }

    /// Goes down to a configured path, telling the directories above it, and walks it.
    fn root(&mut self, root: Option<&EntryPath>, told: &mut HashSet<EntryPath>) -> Result<(), Stop> {
        let slash = |flags| rustix::fs::open("/", flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let Some(root) = root else {
            let slash = slash(OFlags::RDONLY).map_err(|error| root_failed("/", error))?;
            let stat = rustix::fs::fstat(&slash).map_err(|error| root_failed("/", error))?;
            return self.tree(None, Arc::new(slash), &stat);
        };
        // What is above need not be readable: the way through it is enough.
        let mut dir = Arc::new(slash(OFlags::PATH).map_err(|error| root_failed("/", error))?);
        let shown = format!("/{root}");
        let mut path: Option<EntryPath> = None;
        for name in root.components() {
            let here = join(path.as_ref(), name).map_err(|error| root_failed(&shown, error))?;
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| root_failed(&shown, error))?;
            let kind = kind_of(&stat);
            if kind == EntryKind::Symlink {
                return Err(through_a_link(root, &here).into());
            }
            if kind == EntryKind::Socket && here == *root {
                return Err(is_socket(root).into());
            }
            if kind != EntryKind::Dir {
                if here != *root {
                    return Err(root_failed(&shown, Errno::NOTDIR).into());
                }
                return self.entry(here, &dir, &stat);
            }
            let is_root = here == *root;
            let next = if is_root { open_quietly(dir.as_fd(), name, OFlags::DIRECTORY) } else { reach(&dir, name) };
            let next = Arc::new(next.map_err(|error| root_failed(&shown, error))?);
            let stat = rustix::fs::fstat(&next).map_err(|error| root_failed(&shown, error))?;
            if is_root {
                return self.tree(Some(here), next, &stat);
            }
            if told.insert(here.clone()) {
                self.directory(&here, At::Name(dir.as_fd(), name), &stat, Why::Above)?;
            }
            (dir, path) = (next, Some(here));
        }
        Ok(())
    }

    /// Walks a directory and all below it.
    fn tree(&mut self, path: Option<EntryPath>, fd: Arc<OwnedFd>, stat: &Stat) -> Result<(), Stop> {
        if let Some(path) = &path {
            self.directory(path, At::Open(fd.as_fd()), stat, Why::Wanted)?;
        }
        let device = stat.st_dev;
        let top = self.frame(path, fd, stat, None)?;
        if let (Some(path), true) = (&top.path, top.names.is_empty()) {
            let what = "the directory is empty: is its disk mounted?".to_owned();
            self.tell(Event::Problem(path.clone(), what))?;
        }
        let mut frames = vec![top];
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.names.get(frame.next) else {
                frames.pop();
                continue;
            };
            let path = join(frame.path.as_ref(), name);
            let place = frame.next;
            frame.next += 1;
            let path = match (path, frame.path.clone()) {
                (Ok(path), _) => path,
                (Err(_), at) => {
                    let what = "it holds a name whose path is longer than 8192 bytes".to_owned();
                    if let Some(at) = at {
                        self.tell(Event::Problem(at, what))?;
                    }
                    continue;
                }
            };
            if self.plan.excludes.hit(&path) || is_temp_name(path.name()) {
                continue;
            }
            if let Err(error) = reopen(&mut frames) {
                // The directory was moved or removed under us.
                let what = format!("the rest of its directory could not be read: {}", said(error));
                self.tell(Event::Skip(path, what))?;
                frames.pop();
                continue;
            }
            let seen = frames.last_mut().and_then(|frame| self.look(frame, place));
            if let Some((dir, seen)) = seen
                && let Some(below) = self.visit(path, &dir, device, seen)?
            {
                frames.push(below);
                let closed = frames.len().saturating_sub(OPEN_DIRS);
                if closed > 0 {
                    frames[closed - 1].fd = None;
                }
            }
        }
        Ok(())
    }

    /// What is known of a name of an open directory; looks ahead at the directories that follow.
    fn look(&self, frame: &mut Frame, place: usize) -> Option<(Arc<OwnedFd>, Option<Seen>)> {
        let dir = frame.fd.clone()?;
        let wanted = |name: &[u8]| {
            join(frame.path.as_ref(), name).is_ok_and(|path| {
                let excludes = &self.plan.excludes;
                !(excludes.hit(&path) || excludes.hit_dir(&path) || is_temp_name(name))
            })
        };
        self.scout.look_ahead(&mut frame.ahead, (&dir, frame.inode.0), (&frame.names, place + 1), wanted);
        let looked = frame.looks.get_mut(place).and_then(Option::take).map(Seen::Looked);
        let seen = looked.or_else(|| frame.ahead.take(place).map(Seen::Opened));
        Some((dir, seen))
    }

    /// Tells one name of a directory; a frame where the walk goes down.
    fn visit(
        &mut self,
        path: EntryPath,
        dir: &Arc<OwnedFd>,
        device: u64,
        seen: Option<Seen>,
    ) -> Result<Option<Frame>, Stop> {
        if self.cancel.is_cancelled() {
            return Err(SourceError::Cancelled.into());
        }
        let looked = match seen {
            Some(Seen::Opened(opened)) => return self.enter(path, device, opened),
            Some(Seen::Looked(stat)) => Ok(stat),
            None => rustix::fs::statat(dir, path.name(), AtFlags::SYMLINK_NOFOLLOW),
        };
        let stat = match looked {
            Ok(stat) => stat,
            Err(error) => {
                self.tell(Event::Skip(path, gone_or(error, "cannot be looked at")))?;
                return Ok(None);
            }
        };
        let other_file_system = stat.st_dev != device;
        if kind_of(&stat) != EntryKind::Dir {
            if !(other_file_system && self.plan.one_file_system) {
                self.entry(path, dir, &stat)?;
            }
            return Ok(None);
        }
        if self.plan.excludes.hit_dir(&path) {
            return Ok(None);
        }
        let opened = open_quietly(dir.as_fd(), path.name(), OFlags::DIRECTORY);
        match opened.and_then(|fd| rustix::fs::fstat(&fd).map(|stat| Opened { fd, stat, listed: None })) {
            Ok(opened) => self.enter(path, device, opened),
            Err(error) => {
                self.tell(Event::Skip(path, gone_or(error, "cannot be opened")))?;
                Ok(None)
            }
        }
    }

    /// Tells a directory; a frame where the walk goes down.
    fn enter(&mut self, path: EntryPath, device: u64, opened: Opened) -> Result<Option<Frame>, Stop> {
        let Opened { fd, stat, listed } = opened;
        let fd = Arc::new(fd);
        self.directory(&path, At::Open(fd.as_fd()), &stat, Why::Wanted)?;
        let stay_out = stat.st_dev != device && (self.plan.one_file_system || is_pseudo(&fd));
        if stay_out { Ok(None) } else { self.frame(Some(path), fd, &stat, listed).map(Some) }
    }

    /// Lists a directory that was not listed yet.
    fn frame(
        &mut self,
        path: Option<EntryPath>,
        fd: Arc<OwnedFd>,
        stat: &Stat,
        listed: Option<Listed>,
    ) -> Result<Frame, Stop> {
        self.dating.entry(stat.st_dev).or_insert_with(|| dates_attributes(fd.as_fd()));
        let (Listed { mut names, mut looks }, broken) = listed.map_or_else(
            || {
                let (names, broken) = list(&fd);
                (Listed { names, looks: Vec::new() }, broken)
            },
            |listed| (listed, None),
        );
        if let (Some(error), Some(path)) = (broken, &path) {
            let what = format!("its names could not all be listed: {}", said(error));
            self.tell(Event::Problem(path.clone(), what))?;
        }
        if self.plan.exclude_caches && is_cache(&fd, &names) {
            (names, looks) = (NameList::default(), Vec::new());
            // Its name fits a list of one.
            let _ = names.push(CACHE_TAG, false);
        }
        let (inode, ahead) = ((stat.st_dev, stat.st_ino), Ahead::default());
        Ok(Frame { path, fd: Some(fd), inode, names, next: 0, looks, ahead })
    }

    fn directory(&mut self, path: &EntryPath, at: At<'_>, stat: &Stat, why: Why) -> Result<(), Stop> {
        if !matches!(self.purpose, Purpose::Entries) {
            return Ok(());
        }
        let mut complaints = Vec::new();
        match self.names.meta(stat, at, &mut complaints) {
            Ok(mut meta) => {
                if why == Why::Above {
                    // It tells of what else lies there, and every backup would have a manifest of its own.
                    meta.mtime = None;
                    meta.extra.insert(ABOVE.to_owned(), "true".to_owned());
                }
                self.found(Found { path: path.clone(), stat: *stat, meta, dir: None, bare: false }, complaints)
            }
            Err(error) => self.tell(Event::Skip(path.clone(), gone_or(error, "cannot be read"))),
        }
    }

    /// Tells anything but a directory.
    fn entry(&mut self, path: EntryPath, dir: &Arc<OwnedFd>, stat: &Stat) -> Result<(), Stop> {
        let inode = (stat.st_dev, stat.st_ino);
        let links = links_of(stat);
        match &self.purpose {
            Purpose::NamesOf(files) if !files.contains(&inode) => return Ok(()),
            Purpose::Lengths(sum) => {
                let sum = Arc::clone(sum);
                if kind_of(stat) == EntryKind::File && (links == 1 || self.first_name(inode, links, &path)?.is_none()) {
                    sum.fetch_add(size_of(stat), Ordering::Relaxed);
                }
                return Ok(());
            }
            _ => {}
        }
        if kind_of(stat) == EntryKind::Socket {
            return if matches!(self.purpose, Purpose::Entries) { self.tell(Event::Socket) } else { Ok(()) };
        }
        let mut meta = match self.names.meta_alone(stat, At::Name(dir.as_fd(), path.name())) {
            Ok(meta) => meta,
            Err(error) => return self.tell(Event::Skip(path, gone_or(error, "cannot be read"))),
        };
        if links > 1
            && let Some(first) = self.first_name(inode, links, &path)?
        {
            meta.kind = EntryKind::Hardlink;
            meta.link = Some(first.as_bytes().to_vec());
        }
        if !self.batch.last().is_some_and(|last| same_dir(last, dir)) {
            self.batch_dirs += 1;
        }
        let bare = self.dating.get(&stat.st_dev).is_some_and(|dating| *dating);
        self.tell(Event::Found(Box::new(Found { path, stat: *stat, meta, dir: Some(Arc::clone(dir)), bare })))
    }

    /// The path under which a file with several names was met first, if this is not the first.
    fn first_name(&mut self, inode: Inode, names: u64, path: &EntryPath) -> Result<Option<EntryPath>, Stop> {
        let was_full = self.links.is_full();
        let first = self.links.first_name(inode, names, path);
        if self.links.is_full() && !was_full {
            let what = "more files with several names than can be remembered: from here on some hard links are stored \
                        as files of their own";
            self.tell(Event::Problem(path.clone(), what.to_owned()))?;
        }
        Ok(first)
    }

    fn found(&mut self, found: Found, complaints: Vec<String>) -> Result<(), Stop> {
        let path = (!complaints.is_empty()).then(|| found.path.clone());
        self.tell(Event::Found(Box::new(found)))?;
        for what in complaints {
            if let Some(path) = &path {
                self.tell(Event::Problem(path.clone(), what))?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) -> Result<(), Stop> {
        if matches!(self.purpose, Purpose::Lengths(_)) {
            return Ok(());
        }
        self.batch.push(event);
        if self.batch.len() >= BATCH_EVENTS || self.batch_dirs >= BATCH_DIRS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.batch_dirs = 0;
        let batch = std::mem::take(&mut self.batch);
        self.out.blocking_send(batch).map_err(|_| Stop::NobodyListens)
    }
}

fn same_dir(event: &Event, dir: &Arc<OwnedFd>) -> bool {
    matches!(event, Event::Found(found) if found.dir.as_ref().is_some_and(|other| Arc::ptr_eq(other, dir)))
}

fn join(path: Option<&EntryPath>, name: &[u8]) -> Result<EntryPath, Errno> {
    match path {
        None => EntryPath::new(name),
        Some(path) => path.join(name),
    }
    .map_err(|_| Errno::NAMETOOLONG)
}

fn is_cache(fd: &OwnedFd, names: &NameList) -> bool {
    let mut start = [0; CACHE_SIGNATURE.len()];
    names.contains(CACHE_TAG)
        && open_quietly(fd.as_fd(), CACHE_TAG, OFlags::empty())
            .map(std::fs::File::from)
            .is_ok_and(|mut tag| tag.read_exact(&mut start).is_ok() && start == CACHE_SIGNATURE)
}

fn is_pseudo(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| PSEUDO.contains(&kind)))
}

/// The reason of a skip, in words.
pub(super) fn gone_or(error: Errno, what: &str) -> String {
    match error {
        Errno::NOENT => "it vanished during the backup".to_owned(),
        Errno::LOOP | Errno::NOTDIR => "it was replaced by something else during the backup".to_owned(),
        error => format!("it {what}: {}", said(error)),
    }
}

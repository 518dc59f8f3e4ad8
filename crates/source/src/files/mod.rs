//! Files and directories of this machine.
//!
//! # What is captured
//! Under the absolute path without its leading slash: regular files with their holes, directories,
//! symbolic links, hard links, named pipes, devices; of each its permissions with set-uid, set-gid
//! and sticky, owner and group by number and name, mtime in nanoseconds and all extended
//! attributes with POSIX ACLs and capabilities. The directories above a configured path are
//! recorded too, so that they can be made as they were where they are missing; those that exist are
//! not changed by a restore and not compared, and their mtime, which changes with what else lies there, is not recorded.
//!
//! # What is not
//! Access times and creation times. Sockets, which hold no data: their number is told. File
//! attributes (`chattr`), quotas and reflinks. What is on file systems that hold no data (proc, sysfs, ...).
//! Content of directories with a valid `CACHEDIR.TAG`, what the patterns of [`FilesConfig::exclude`]
//! match, other file systems below a path where [`FilesConfig::one_file_system`] is set.
//!
//! Temporary files of a restore that is under way.
//!
//! # Consistency
//! Each file is whole as it was when it was read: one that changes meanwhile is read again, three
//! times at most, and then recorded as a problem. Two files may be from different instants of the
//! run. Whoever needs one instant backs up a snapshot of the file system.
//!
//! # What is refused
//! A configured path that does not exist, is a socket, or leads through a symbolic link: a backup of
//! nothing must not look good. A configured directory that is empty is recorded as a problem, since that
//! is how a disk looks that is not mounted.

mod attributes;
mod backup;
mod below;
mod content;
mod doctor;
mod dress;
mod inventory;
mod meta;
mod patterns;
mod place;
mod restore;
mod select;
mod steps;
mod verify;
mod waiting;
mod walk;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_model::flow::{EntryReader, EntrySink, RunContext};
use lifeboat_model::{EntryPath, RecoveryPoint};

use lifeboat_model::target::{Finding, RestoreOptions, Restored, Scope, TargetInventory, Verified};

use crate::{Source, SourceError, Target};
use patterns::Patterns;
use walk::Plan;

/// What a source of kind `files` is told by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// Absolute paths without symbolic links in them. One that lies within another is backed up
    /// once.
    pub paths: Vec<PathBuf>,
    /// Patterns in the manner of `.gitignore`: without a slash they match a name at any depth,
    /// with a leading one an absolute path, with one inside the end of a path; a trailing one
    /// limits them to directories.
    pub exclude: Vec<String>,
    /// Patterns in the same manner: files of pages of 8 KiB that are changed in place.
    pub paged: Vec<String>,
    /// Whether to leave out other file systems that are mounted below a path; the mount points
    /// themselves are recorded. Default: no.
    pub one_file_system: bool,
    /// Whether to leave out what directories hold that bear a valid `CACHEDIR.TAG`. Default: yes.
    pub exclude_caches: bool,
    /// The machine's identity; `None` takes that of `/etc/machine-id`.
    pub machine_id: Option<String>,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            exclude: Vec::new(),
            paged: Vec::new(),
            one_file_system: false,
            exclude_caches: true,
            machine_id: None,
        }
    }
}

/// Files and directories that are backed up.
#[derive(Debug)]
pub struct FilesSource {
    plan: Arc<Plan>,
    machine_id: Option<String>,
}

impl FilesSource {
    /// Checks the configuration; looks at nothing on disk.
    ///
    /// # Errors
    /// [`SourceError::Config`] for no paths, a path that is not absolute or holds `..`, and a
    /// pattern that cannot be used.
    pub fn new(config: &FilesConfig) -> Result<Self, SourceError> {
        let plan = Plan {
            roots: roots(&config.paths)?,
            excludes: Patterns::new(&config.exclude)?,
            paged: Patterns::new(&config.paged)?,
            one_file_system: config.one_file_system,
            exclude_caches: config.exclude_caches,
        };
        Ok(Self { plan: Arc::new(plan), machine_id: config.machine_id.clone() })
    }

    fn machine_id(&self) -> Option<String> {
        self.machine_id.clone().or_else(|| backup::machine_id().ok().flatten())
    }
}

#[async_trait]
impl Source for FilesSource {
    fn kind(&self) -> &'static str {
        "files"
    }

    async fn identity(&self, _ctx: &RunContext) -> Result<BTreeMap<String, String>, SourceError> {
        Ok(self.machine_id().map(|id| ("machine.id".to_owned(), id)).into_iter().collect())
    }

    async fn backup(&self, sink: Arc<dyn EntrySink>, ctx: &RunContext) -> Result<RecoveryPoint, SourceError> {
        backup::run(Arc::clone(&self.plan), self.machine_id(), sink, ctx).await
    }

    async fn doctor(&self, _ctx: &RunContext) -> Result<Vec<Finding>, SourceError> {
        let plan = Arc::clone(&self.plan);
        tokio::task::spawn_blocking(move || doctor::look(&plan)).await.map_err(|error| SourceError::Failed {
            what: "looking at the paths broke".to_owned(),
            hint: None,
            source: Some(Box::new(error)),
        })
    }
}

/// Where a snapshot of files goes back.
///
/// # Contract
/// Nothing is followed out of the target: each step goes from an open directory to a name in it,
/// and a symbolic link that stands where the snapshot has a directory is never walked through.
///
/// Each file is written beside its place under a temporary name, given its metadata and renamed;
/// a run that was killed leaves only such names, which the next run in that directory removes.
/// Files that replace others are flushed to disk before they are renamed, a group at a time;
/// everything else once at the end (both by `syncfs`). A directory is made with mode 1700 and gets its own metadata at
/// last: that mode marks it as unfinished to a later run.
///
/// Without `replace` nothing is touched that was there. What has equal metadata (kind, size, mtime,
/// permissions, owner, attributes) is read and compared: equal bytes count as unchanged, others are
/// kept and told as a problem. With it files give way unless their bytes are equal too, directories that exist get the
/// snapshot's metadata (not those that only lead to a configured path), and what is in the way with
/// another kind is moved aside to `NAME.lifeboat-aside`, never removed.
#[derive(Debug)]
pub struct FilesTarget {
    /// The directory under which the absolute paths appear; `None` puts everything back in place.
    pub root: Option<PathBuf>,
    /// This machine's identity; `None` takes that of `/etc/machine-id`.
    pub machine_id: Option<String>,
}

impl FilesTarget {
    fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| PathBuf::from("/"))
    }
}

#[async_trait]
impl Target for FilesTarget {
    async fn inventory(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
    ) -> Result<TargetInventory, SourceError> {
        let mut inventory = inventory::take(&self.root(), data, options).await?;
        let in_place = std::fs::canonicalize(self.root()).is_ok_and(|root| root == Path::new("/"));
        if in_place && let Some(id) = self.machine_id.clone().or_else(|| backup::machine_id().ok().flatten()) {
            inventory.identity.insert("machine.id".to_owned(), id);
        }
        Ok(inventory)
    }

    async fn apply(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        ctx: &RunContext,
    ) -> Result<Restored, SourceError> {
        restore::run(&self.root(), data, options, ctx).await
    }

    async fn verify(
        &self,
        data: &dyn EntryReader,
        options: &RestoreOptions,
        _scope: Scope,
        ctx: &RunContext,
    ) -> Result<Verified, SourceError> {
        verify::run(&self.root(), data, options, ctx).await
    }
}

/// The error of a thread that panicked.
fn broke(what: &str, error: tokio::task::JoinError) -> SourceError {
    SourceError::Failed { what: format!("{what} broke"), hint: None, source: Some(Box::new(error)) }
}

/// The configured paths in order, without those that lie within another.
fn roots(paths: &[PathBuf]) -> Result<Vec<Option<EntryPath>>, SourceError> {
    if paths.is_empty() {
        return Err(SourceError::Config {
            what: "a source of kind files has no paths".to_owned(),
            hint: Some("paths: [/srv/documents]".to_owned()),
        });
    }
    let mut all = Vec::new();
    for path in paths {
        let bytes = path.as_os_str().as_bytes();
        let parts: Vec<&[u8]> = bytes.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if !bytes.starts_with(b"/") {
            return Err(SourceError::Config {
                what: format!("the path {} is not absolute", path.display()),
                hint: Some("write it from the root of the file system: /srv/documents".to_owned()),
            });
        }
        if parts.is_empty() {
            return Ok(vec![None]);
        }
        let path = EntryPath::new(parts.join(&b'/'))
            .map_err(|bad| SourceError::Config { what: bad.to_string(), hint: None })?;
        all.push(path);
    }
    all.sort();
    let mut outer: Vec<Option<EntryPath>> = Vec::new();
    for path in all {
        if !outer.last().is_some_and(|last| last.as_ref().is_some_and(|last| path.is_within(last))) {
            outer.push(Some(path));
        }
    }
    Ok(outer)
}

#[cfg(test)]
mod tests;

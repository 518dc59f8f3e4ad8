//! Files and directories of this machine.
//!
//! # What is captured
//! Under the absolute path without its leading slash: regular files with their holes, directories,
//! symbolic links, hard links, named pipes, devices; of each its permissions with set-uid, set-gid
//! and sticky, owner and group by number and name, mtime in nanoseconds and all extended
//! attributes with POSIX ACLs and capabilities. The directories above a configured path are
//! recorded too, so that they can be made as they were.
//!
//! # What is not
//! Access times and creation times. Sockets are recorded but never made again. File attributes
//! (`chattr`), quotas and reflinks. What is on file systems that hold no data (proc, sysfs, ...).
//! Content of directories with a valid `CACHEDIR.TAG`, what the patterns of [`FilesConfig::exclude`]
//! match, other file systems below a path where [`FilesConfig::one_file_system`] is set.
//!
//! # Consistency
//! Each file is whole as it was when it was read: one that changes meanwhile is read again, three
//! times at most, and then recorded as a problem. Two files may be from different instants of the
//! run. Whoever needs one instant backs up a snapshot of the file system.
//!
//! # What is refused
//! A configured path that does not exist, or leads through a symbolic link: a backup of nothing
//! must not look good. A configured directory that is empty is recorded as a problem, since that
//! is how a disk looks that is not mounted.

mod backup;
mod content;
mod doctor;
mod exclude;
mod meta;
mod walk;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_model::flow::{EntrySink, RunContext};
use lifeboat_model::{EntryPath, RecoveryPoint};

use crate::{Finding, Source, SourceError};
use exclude::Excludes;
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
        Self { paths: Vec::new(), exclude: Vec::new(), one_file_system: false, exclude_caches: true, machine_id: None }
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
            excludes: Excludes::new(&config.exclude)?,
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

    async fn backup(&self, sink: &dyn EntrySink, ctx: &RunContext) -> Result<RecoveryPoint, SourceError> {
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

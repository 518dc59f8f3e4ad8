//! Real trees through the fakes of both contracts.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_model::flow::RunContext;
use lifeboat_model::target::{RestoreOptions, Restored, Scope};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::snapshot::{FakeSink, FakeSnapshot, SinkFaults};
use lifeboat_testkit::tree::{TreeOptions, compare, make};
use tempfile::TempDir;

use super::{FilesConfig, FilesSource, FilesTarget};
use crate::{Source, SourceError, Target};

mod backup;
mod home;
mod hostile;
mod restore;

struct Bench {
    dir: TempDir,
    ctx: RunContext,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ctx = run_context(dir.path());
        fs::create_dir(dir.path().join("tree")).expect("make");
        Self { dir, ctx }
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.tree().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make");
        File::create(&path).expect("create").write_all_at(bytes, 0).expect("write");
        path
    }

    /// The entry path of what is in the tree.
    fn entry(&self, path: &str) -> EntryPath {
        entry_of(&self.tree().join(path))
    }

    fn config(&self) -> FilesConfig {
        FilesConfig { paths: vec![self.tree()], machine_id: Some("m".to_owned()), ..FilesConfig::default() }
    }

    async fn backup_into(&self, config: &FilesConfig, sink: FakeSink) -> Result<FakeSnapshot, SourceError> {
        let sink = Arc::new(sink);
        let point = FilesSource::new(config)?.backup(Arc::clone(&sink) as _, &self.ctx).await?;
        Ok(Arc::into_inner(sink).expect("the source let go of it").seal(point))
    }

    async fn backup(&self) -> FakeSnapshot {
        self.backup_into(&self.config(), FakeSink::new()).await.expect("a backup")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn target(&self) -> FilesTarget {
        FilesTarget { root: Some(self.out()), machine_id: None }
    }

    /// Where something of the tree is after a restore below [`Bench::out`].
    fn restored(&self, path: &str) -> PathBuf {
        self.out().join(self.tree().strip_prefix("/").expect("absolute")).join(path)
    }

    async fn restore(&self, snapshot: &FakeSnapshot, options: &RestoreOptions) -> Result<Restored, SourceError> {
        self.target().apply(snapshot, options, &self.ctx).await
    }
}

fn entry_of(path: &Path) -> EntryPath {
    EntryPath::new(&path.as_os_str().as_bytes()[1..]).expect("a path")
}

fn replace() -> RestoreOptions {
    RestoreOptions { replace: true, ..RestoreOptions::default() }
}

fn only(parts: &[&str]) -> RestoreOptions {
    RestoreOptions { only: parts.iter().map(ToString::to_string).collect(), ..RestoreOptions::default() }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a file or writes one anew.
fn put(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let file = File::create(path).expect("create");
    file.write_all_at(bytes.as_ref(), 0).expect("write");
}

#[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
pub(super) fn skipped(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
}

//! A machine with a repository: everything that a job needs, in a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use lifeboat_engine::backup::{BackupReport, BackupRequest, backup};
use lifeboat_engine::catalog::Catalog;
use lifeboat_engine::listing::{Listing, snapshots};
use lifeboat_engine::restore::{Answer, Mode, RestoreAsk, RestoreReport, To, restore};
use lifeboat_engine::{Host, JobError};
use lifeboat_model::config::{
    FilesConfig, PortableConfig, RepositoryConfig, Role, SecretUrl, SourceConfig, SourceKind, StackConfig, StoreOptions,
};
use lifeboat_model::flow::RunContext;
use lifeboat_model::retention::RetentionPolicy;
use lifeboat_model::target::RestoreOptions;
use lifeboat_model::{SnapshotRef, SourceName, StackName};
use lifeboat_repo::change::Owner;
use lifeboat_repo::join::{Scope, request_writer};
use lifeboat_repo::keyfile::OwnerKey;
use lifeboat_repo::owner::DomainChoice;
use lifeboat_repo::{CreateOptions, Creation, KeyFile};
use lifeboat_testkit::context::{FakeClock, Recorder};
use tempfile::TempDir;

/// Key files that a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Has {
    Writer,
    Maintainer,
    Identity,
}

pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) config: StackConfig,
    pub(crate) catalog: Catalog,
    pub(crate) run: RunContext,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) told: Arc<Recorder>,
    owner: OwnerKey,
}

pub(crate) fn stack(text: &str) -> StackName {
    StackName::new(text).expect("a name")
}

pub(crate) fn source(text: &str) -> SourceName {
    SourceName::new(text).expect("a name")
}

pub(crate) fn asked(text: &str) -> SnapshotRef {
    SnapshotRef::parse(text).expect("a reference")
}

pub(crate) fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    lifeboat_wire::fs::write_durable(path, content.as_bytes(), 0o644, lifeboat_wire::fs::Existing::Replace)
        .expect("a file");
}

/// Paths below `dir` with their contents.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().expect("a kind").is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").display().to_string();
                found.insert(name, fs::read_to_string(&path).unwrap_or_else(|_| "binary".to_owned()));
            }
        }
    }
    found
}

/// Tells that a test needs a machine with an id.
#[expect(clippy::print_stdout, reason = "the line is counted by the script that runs the tests")]
pub(crate) fn no_machine_id(test: &str) {
    println!("SKIPPED {test}: this machine has no id [cannot be had]");
}

impl Site {
    /// A machine of the stack `farajaland` with a new repository, all keys, and sources of kind
    /// `files`, each with a directory of two files.
    pub(crate) async fn new(sources: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = dir.path().join("store");
        let url = format!("file://{}", store.display());
        let made = Creation::new(CreateOptions {
            now: "2026-01-01T00:00:00Z".parse().expect("a time"),
            grace_seconds: 60,
            stack: stack("farajaland"),
        });
        made.put(&lifeboat_store::url::create_store(&url, &StoreOptions::default()).expect("a store"))
            .await
            .expect("a repository");
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).expect("a directory");
        for (name, key) in [
            ("writer.key", KeyFile::Writer(made.writer)),
            ("maintainer.key", KeyFile::Maintainer(made.maintainer)),
            ("identity.key", KeyFile::Identity(made.owner.identity.clone())),
        ] {
            key.write_new(&keys.join(name), None).expect("a key file");
        }
        let site = Self::machine(dir, &url, "farajaland", sources, made.owner);
        for name in sources {
            put(&site.path(name).join("one.txt"), &format!("one of {name}\n"));
            put(&site.path(name).join("deep/two.txt"), "two\n");
        }
        site
    }

    /// A machine of another stack, in a domain of its own, that writes to the same repository.
    pub(crate) async fn joined(&self, name: &str, sources: &[&str]) -> Self {
        let url = self.config.repositories["main"].url.expose().to_owned();
        let store = lifeboat_store::url::open_store(&url, &StoreOptions::default()).expect("a store");
        let scope = Scope { stack: stack(name), sources: Vec::new() };
        let (pending, request) = request_writer(&store, name, scope.clone()).await.expect("a request");
        let now = self.run.clock.now();
        let owner =
            Owner { store: &store, key: &self.owner, remembered: None, forget_roster: false, now, exported: None };
        let (grant, _) = owner.add_writer(&request, DomainChoice::New, &[scope]).await.expect("a grant");
        let dir = tempfile::tempdir().expect("a directory");
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).expect("a directory");
        let writer = KeyFile::Writer(grant.accept(&pending).expect("a writer key"));
        writer.write_new(&keys.join("writer.key"), None).expect("a key file");
        for shared in ["maintainer.key", "identity.key"] {
            fs::copy(self.dir.path().join("keys").join(shared), keys.join(shared)).expect("a copy");
        }
        let site = Self::machine(dir, &url, name, sources, self.owner.clone());
        for name in sources {
            put(&site.path(name).join("one.txt"), &format!("one of {name}\n"));
        }
        site
    }

    fn machine(dir: TempDir, url: &str, name: &str, sources: &[&str], owner: OwnerKey) -> Self {
        let at = |text: &str| dir.path().join(text);
        let repository = RepositoryConfig {
            name: "main".to_owned(),
            url: SecretUrl::new(url.to_owned()),
            writer_key_file: Some(at("keys/writer.key")),
            maintainer_key_file: Some(at("keys/maintainer.key")),
            identity_file: Some(at("keys/identity.key")),
            retention: Some(RetentionPolicy { keep_last: 1, ..RetentionPolicy::default() }),
            zstd_level: 1,
            store: StoreOptions::default(),
        };
        let files = |name: &&str| {
            let paths = vec![at("data").join(name)];
            let kind = FilesConfig {
                paths,
                exclude: Vec::new(),
                paged: Vec::new(),
                one_file_system: false,
                exclude_caches: false,
            };
            let config = SourceConfig {
                name: source(name),
                repository: "main".to_owned(),
                retention: None,
                schedule: None,
                kind: SourceKind::Files(kind),
            };
            (source(name), config)
        };
        let config = StackConfig {
            stack: stack(name),
            role: Role::Both,
            time_zone: TimeZone::UTC,
            state_dir: at("state"),
            memory_budget_bytes: 256 << 20,
            repositories: BTreeMap::from([("main".to_owned(), repository)]),
            sources: sources.iter().map(files).collect(),
            portable: PortableConfig { yaml: format!("stack: {name}\n# ${{PG_PASSWORD}}\n"), supply: Vec::new() },
        };
        let clock = FakeClock::at(lifeboat_model::flow::Clock::now(&lifeboat_wire::clock::SystemClock));
        let told = Arc::new(Recorder::default());
        let scratch = at("scratch");
        fs::create_dir_all(&scratch).expect("a directory");
        let run = RunContext {
            clock: Arc::clone(&clock) as _,
            monitor: Arc::clone(&told) as _,
            cancel: lifeboat_model::flow::Cancel::default(),
            scratch,
            memory_budget_bytes: 256 << 20,
        };
        let catalog = Catalog::open(&config.state_dir, clock_now(&run));
        Self { dir, config, catalog, run, clock, told, owner }
    }

    pub(crate) fn host(&self) -> Host<'_> {
        Host { config: &self.config, catalog: &self.catalog, run: &self.run, passphrase: &|_| None }
    }

    /// Forgets everything that the machine remembers.
    pub(crate) fn lose_state(&mut self) {
        let gone = self.dir.path().join("elsewhere");
        self.catalog = Catalog::open(&gone, clock_now(&self.run));
        fs::remove_dir_all(&self.config.state_dir).expect("removed");
        self.catalog = Catalog::open(&self.config.state_dir, clock_now(&self.run));
    }

    /// Leaves only these keys in the configuration.
    pub(crate) fn only(&mut self, has: &[Has]) {
        let repository = self.config.repositories.get_mut("main").expect("main");
        let keep = |has_it: bool, path: &mut Option<PathBuf>| {
            if !has_it {
                *path = None;
            }
        };
        keep(has.contains(&Has::Writer), &mut repository.writer_key_file);
        keep(has.contains(&Has::Maintainer), &mut repository.maintainer_key_file);
        keep(has.contains(&Has::Identity), &mut repository.identity_file);
    }

    /// The directory that a source reads.
    pub(crate) fn path(&self, source: &str) -> PathBuf {
        self.dir.path().join("data").join(source)
    }

    /// Where the source's tree appears below `to`.
    pub(crate) fn below(&self, to: &Path, source: &str) -> PathBuf {
        to.join(self.path(source).strip_prefix("/").expect("absolute"))
    }

    /// Objects of the store whose names begin so.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let root = PathBuf::from(self.config.repositories["main"].url.expose().trim_start_matches("file://"));
        let mut found = Vec::new();
        let mut open = vec![root.join(prefix)];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
                let list = if entry.file_type().expect("a kind").is_dir() { &mut open } else { &mut found };
                list.push(entry.path());
            }
        }
        found.sort();
        found
    }

    pub(crate) async fn backup(&self) -> BackupReport {
        self.labelled(None).await.expect("a backup")
    }

    pub(crate) async fn labelled(&self, label: Option<&str>) -> Result<BackupReport, JobError> {
        self.clock.advance(std::time::Duration::from_secs(1));
        backup(&self.host(), &BackupRequest { sources: Vec::new(), label: label.map(str::to_owned), moved: None }).await
    }

    pub(crate) async fn list(&self) -> Listing {
        snapshots(&self.host(), None).await.expect("a list").remove(0)
    }

    pub(crate) fn ask(snapshot: &str, to: To) -> RestoreAsk {
        RestoreAsk {
            snapshot: asked(snapshot),
            from: None,
            to,
            options: RestoreOptions::default(),
            access: lifeboat_engine::datastore::ServerAccess::default(),
        }
    }

    pub(crate) async fn restore(&self, ask: &RestoreAsk) -> Result<RestoreReport, JobError> {
        restore(&self.host(), ask, Mode::Run(&|_| Answer::Unasked)).await
    }
}

fn clock_now(run: &RunContext) -> jiff::Timestamp {
    run.clock.now()
}

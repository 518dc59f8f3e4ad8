//! What a command runs in: configuration, clock, catalog, scratch directory, the wish to stop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::catalog::Catalog;
use lifeboat_engine::keys::AskPassphrase;
use lifeboat_engine::scratch::Scratch;
use lifeboat_engine::{Host, JobError};
use lifeboat_model::config::{StackConfig, StoreOptions};
use lifeboat_model::flow::{Cancel, RunContext};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Globals, IdentityArgs};
use crate::config::{self, ConfigError, Loaded, StateDir};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::secret::Asker;
use crate::talk::Talk;

/// Where a configuration is looked for when none is named.
const USUAL_CONFIGS: [&str; 2] = ["lifeboat.yaml", "/etc/lifeboat/lifeboat.yaml"];

/// How often it is looked whether a line about the progress is due.
const TICK: Duration = Duration::from_secs(1);

/// One run of the program.
pub(crate) struct Session {
    pub(crate) globals: Globals,
    pub(crate) talk: Talk,
    pub(crate) cancel: Cancel,
}

impl Session {
    pub(crate) fn new(globals: Globals, talk: Talk) -> Self {
        Self { globals, talk, cancel: Cancel::default() }
    }

    /// The first SIGINT or SIGTERM asks the run to end cleanly; a second one ends the process.
    pub(crate) fn stop_on_signals(&self) {
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let (cancel, talk) = (self.cancel.clone(), self.talk.clone());
            let mut signals = match signal(kind) {
                Ok(signals) => signals,
                Err(error) => {
                    talk.warn(&format!("a signal would end this command at once, without cleaning up: {error}"));
                    continue;
                }
            };
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if cancel.is_cancelled() {
                        talk.warn("stopped at once");
                        // Sealed snapshots are whole whenever the process ends.
                        std::process::exit(Exit::Failed.code().into());
                    }
                    talk.warn("stopping; once more stops at once");
                    cancel.cancel();
                }
            });
        }
    }

    /// Finds, reads and checks the configuration.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        let path =
            match &self.globals.config {
                Some(path) => path.clone(),
                None => USUAL_CONFIGS.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
                    ConfigError::NotFound { tried: USUAL_CONFIGS.iter().map(PathBuf::from).collect() }
                })?,
            };
        let state_dir = match &self.globals.state_dir {
            Some(dir) => StateDir::Given(absolute(dir)?),
            None => StateDir::Usual(usual_state_dir()),
        };
        Ok(config::load(&path, state_dir, &environment)?)
    }

    /// Where the state is when no configuration says so.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        match &self.globals.state_dir {
            Some(dir) => absolute(dir),
            None => usual_state_dir().ok_or_else(|| {
                Failure::usage("there is no usual state directory: neither XDG_STATE_HOME nor HOME is set")
                    .hint("name a directory with --state-dir or LIFEBOAT_STATE_DIR")
            }),
        }
    }

    /// What a job needs. Removes what killed commands left in the scratch directory.
    pub(crate) fn begin(&self, config: StackConfig, asker: Asker) -> Result<Running, Failure> {
        lifeboat_wire::fs::create_dir_durable(&config.state_dir, 0o700).map_err(|error| {
            Failure::of(Exit::Failed, &error).hint("name another with stateDir, --state-dir or LIFEBOAT_STATE_DIR")
        })?;
        let scratch = Scratch::begin(&config.state_dir).map_err(|error| Failure::of(Exit::Failed, &error))?;
        let catalog = Catalog::open(&config.state_dir, self.talk.clock.now());
        if let Some(note) = catalog.note() {
            self.talk.warn(note);
        }
        let progress = Arc::new(Progress::new(&self.talk));
        progress.tick(TICK);
        let context = RunContext {
            clock: Arc::clone(&self.talk.clock),
            monitor: Arc::clone(&progress) as _,
            cancel: self.cancel.clone(),
            scratch: scratch.path().to_owned(),
            memory_budget_bytes: config.memory_budget_bytes,
        };
        let asking = Arc::clone(&progress);
        let passphrase = Box::new(move |path: &Path| {
            // A bar must not draw over the question.
            asking.end();
            asker.ask(path)
        });
        Ok(Running { config, catalog, context, progress, passphrase, _scratch: scratch, _temporary: None })
    }

    /// Loads the configuration and begins.
    pub(crate) fn host(&self) -> Result<Running, Failure> {
        self.begin(self.load()?.config, Asker::default())
    }

    /// As [`Self::begin`] for commands that bring data back: a state directory that cannot be written, on a
    /// full disk or a broken one, must not be in their way. They go on in a temporary one.
    pub(crate) fn begin_reading(&self, mut config: StackConfig, asker: Asker) -> Result<Running, Failure> {
        let Err(error) = writable(&config.state_dir) else { return self.begin(config, asker) };
        let made = tempfile::Builder::new().prefix("lifeboat-").tempdir();
        let Some(dir) = made.ok().filter(|dir| writable(dir.path()).is_ok()) else {
            return self.begin(config, asker);
        };
        self.talk.warn(&format!(
            "the state directory {} cannot be written ({error}); this command goes on in {}, remembers nothing, and \
             nothing keeps a backup on this machine from running beside it",
            config.state_dir.display(),
            dir.path().display()
        ));
        dir.path().clone_into(&mut config.state_dir);
        let running = self.begin(config, asker)?;
        Ok(Running { _temporary: Some(dir), ..running })
    }

    /// As [`Self::host_with`] for commands that bring data back, see [`Self::begin_reading`].
    pub(crate) fn host_to_read(&self, identity: &IdentityArgs) -> Result<Running, Failure> {
        let (config, asker) = self.with(identity)?;
        self.begin_reading(config, asker)
    }

    /// Loads the configuration and begins, with another identity than the configuration's where
    /// one is given.
    pub(crate) fn host_with(&self, identity: &IdentityArgs) -> Result<Running, Failure> {
        let (config, asker) = self.with(identity)?;
        self.begin(config, asker)
    }

    fn with(&self, identity: &IdentityArgs) -> Result<(StackConfig, Asker), Failure> {
        let mut config = self.load()?.config;
        if let Some(path) = &identity.identity {
            let path = absolute(path)?;
            config.repositories.values_mut().for_each(|repository| repository.identity_file = Some(path.clone()));
        }
        Ok((config, Asker::new(identity.passphrase_file.as_ref())?))
    }

    /// Whether data goes to standard output as JSON.
    pub(crate) fn json(&self) -> bool {
        self.globals.json
    }
}

/// A command that has begun; what it holds is put away when it is dropped.
pub(crate) struct Running {
    pub(crate) config: StackConfig,
    pub(crate) catalog: Catalog,
    pub(crate) context: RunContext,
    progress: Arc<Progress>,
    passphrase: Box<AskPassphrase<'static>>,
    _scratch: Scratch,
    _temporary: Option<tempfile::TempDir>,
}

/// What a small catalog and the cache of a small repository take.
const STATE_BYTES_LEAST: usize = 1 << 20;

/// Whether a directory can be made and takes that much.
fn writable(dir: &Path) -> std::io::Result<()> {
    lifeboat_wire::fs::create_dir_durable(dir, 0o700).map_err(std::io::Error::other)?;
    let mut file = tempfile::tempfile_in(dir)?;
    file.write_all(&vec![0; STATE_BYTES_LEAST])?;
    file.sync_all()
}

impl Running {
    /// What the engine's jobs take.
    pub(crate) fn host(&self) -> Host<'_> {
        Host { config: &self.config, catalog: &self.catalog, run: &self.context, passphrase: self.passphrase.as_ref() }
    }

    /// Takes the progress bar away and passes a job's result on.
    pub(crate) fn done<T>(&self, result: Result<T, JobError>) -> Result<T, Failure> {
        self.progress.end();
        Ok(result?)
    }

    /// Takes the progress bar away before somebody is asked.
    pub(crate) fn pause(&self) {
        self.progress.end();
    }
}

/// A variable of the process.
#[expect(clippy::disallowed_methods, reason = "the command line is the one place that reads the environment")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How stores are reached where no configuration says so.
pub(crate) fn usual_store_options() -> StoreOptions {
    StoreOptions { ssh: config::usual_ssh(&environment) }
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::of(Exit::Usage, &error))
}

/// Where the state is where nobody says otherwise; `None` for a user without a home.
fn usual_state_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/lifeboat"));
    }
    let set = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let dir = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(dir.join("lifeboat"))
}

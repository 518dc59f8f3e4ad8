//! `doctor`: looks at everything that a backup or a restore needs, and changes nothing.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use lifeboat_engine::Host;
use lifeboat_engine::datastore::source_of;
use lifeboat_engine::repository::{find_repository, remembered};
use lifeboat_model::config::{RepositoryConfig, Role};
use lifeboat_model::retention::TOLERANCE;
use lifeboat_model::target::{Finding, Verdict};
use lifeboat_model::words::counted;
use lifeboat_repo::keyfile::KeyFile;
use lifeboat_repo::{Keys, RepoError, open_access};
use lifeboat_store::{Immutability, Store};
use serde::Serialize;

use super::key_file::tested;
use crate::config::Loaded;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Column};
use crate::secret::Asker;
use crate::session::Session;

/// A finding and what it is about.
#[derive(Serialize)]
struct Found {
    about: String,
    #[serde(flatten)]
    finding: Finding,
}

pub(crate) async fn run(session: &Session) -> Result<Exit, Failure> {
    let loaded = session.load()?;
    let running = session.begin(loaded.config.clone(), Asker::default())?;
    let mut doctor = Doctor { session, loaded: &loaded, host: running.host(), found: Vec::new() };
    doctor.configuration();
    for repository in loaded.config.repositories.values() {
        doctor.repository(repository).await;
    }
    doctor.sources().await;
    doctor.history().await;
    let found = doctor.found;
    running.pause();
    if session.json() {
        output::json("findings", &found)?;
    } else {
        output::text(&table(&found))?;
    }
    let bad = found.iter().any(|found| found.finding.verdict == Verdict::Bad);
    Ok(if bad { Exit::Failed } else { Exit::Ok })
}

fn table(found: &[Found]) -> String {
    let columns = [Column::Left("VERDICT"), Column::Left("ABOUT"), Column::Left("FINDING")];
    let rows = found.iter().flat_map(|found| {
        let verdict = match found.finding.verdict {
            Verdict::Good => "good",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        };
        let finding = vec![verdict.to_owned(), found.about.clone(), found.finding.what.clone()];
        let hint = found.finding.hint.as_ref().map(|hint| vec![String::new(), String::new(), format!("hint: {hint}")]);
        std::iter::once(finding).chain(hint)
    });
    output::table(&columns, rows)
}

struct Doctor<'a> {
    session: &'a Session,
    loaded: &'a Loaded,
    host: Host<'a>,
    found: Vec<Found>,
}

impl Doctor<'_> {
    fn add(&mut self, about: &str, verdict: Verdict, what: impl Into<String>, hint: Option<String>) {
        self.found.push(Found { about: about.to_owned(), finding: Finding { verdict, what: what.into(), hint } });
    }

    fn failed(&mut self, about: &str, failure: &Failure) {
        self.add(about, Verdict::Bad, failure.to_string(), failure.hint.clone());
    }

    fn configuration(&mut self) {
        let config = &self.loaded.config;
        let what = format!(
            "{}: stack {}, role {}, {}",
            self.loaded.path.display(),
            config.stack,
            config.role,
            counted(config.sources.len() as u64, "source")
        );
        self.add("configuration", Verdict::Good, what, None);
        for warning in &self.loaded.warnings {
            self.add("configuration", Verdict::Warning, warning, None);
        }
        let dir = config.state_dir.clone();
        self.space("state directory", &dir, 1 << 30);
    }

    /// Room in the file system of a directory; a warning below `least_bytes`.
    fn space(&mut self, about: &str, dir: &Path, least_bytes: u64) {
        match lifeboat_wire::fs::room(dir) {
            Ok((free, _)) => {
                let verdict = if free < least_bytes { Verdict::Warning } else { Verdict::Good };
                self.add(about, verdict, format!("{}: {} free", dir.display(), output::size(free)), None);
            }
            Err(error) => self.add(about, Verdict::Bad, format!("{}: {error}", dir.display()), None),
        }
    }

    async fn repository(&mut self, repository: &RepositoryConfig) {
        let about = format!("repository {}", repository.name);
        let store = match find_repository(repository).await {
            Ok(store) => store,
            Err(error) => return self.failed(&about, &error.into()),
        };
        self.add(&about, Verdict::Good, format!("{} holds a repository", repository.url), None);
        if let Some(dir) = repository.url.expose().strip_prefix("file://") {
            self.space(&about, Path::new(dir), 10 << 30);
        } else {
            self.examine(&about, &store).await;
        }
        let (verdict, what, hint) = match store.capabilities().immutability {
            Immutability::None => (
                Verdict::Warning,
                "whoever can write to the store can delete its history",
                Some("keep a copy that this machine cannot reach, or use a store with object lock".to_owned()),
            ),
            Immutability::Server => (Verdict::Good, "the server refuses to delete", None),
            Immutability::Lock => (Verdict::Good, "the store locks its objects", None),
        };
        self.add(&about, verdict, what, hint);
        self.clock(&about, &store).await;
        self.keys(repository, &store, &about).await;
    }

    /// What a store at the other end of a line tells of itself.
    async fn examine(&mut self, about: &str, store: &Arc<dyn Store>) {
        match store.examine().await {
            Ok(found) => {
                if let Some(free) = found.room_bytes {
                    let verdict = if free < 10 << 30 { Verdict::Warning } else { Verdict::Good };
                    self.add(about, verdict, format!("{store}: {} free", output::size(free)), None);
                }
                for lack in found.lacks {
                    self.add(about, Verdict::Warning, lack, None);
                }
            }
            Err(error) => self.failed(about, &RepoError::from(error).into()),
        }
    }

    /// The store's clock is seen by what it stored last.
    async fn clock(&mut self, about: &str, store: &Arc<dyn Store>) {
        let now = self.session.talk.clock.now();
        let mut newest = None;
        for prefix in ["roster/", "roots/"] {
            let mut list = store.list(prefix);
            while let Some(Ok(object)) = list.next().await {
                newest = newest.max(Some(object.stored_at));
            }
        }
        if let Some(ahead) = newest.map(|newest| newest.duration_since(now)).filter(|ahead| *ahead > TOLERANCE) {
            self.add(
                about,
                Verdict::Warning,
                format!("the store dates its newest object {ahead:#} in the future"),
                Some("set the clock of this machine and of the store".to_owned()),
            );
        }
    }

    async fn keys(&mut self, repository: &RepositoryConfig, store: &Arc<dyn Store>, about: &str) {
        let files = [
            ("writerKeyFile", &repository.writer_key_file, self.loaded.config.role != Role::Restore),
            ("maintainerKeyFile", &repository.maintainer_key_file, false),
            ("identityFile", &repository.identity_file, false),
        ];
        let mut listed = false;
        for (name, path, needed) in files {
            match path {
                Some(path) if path.exists() => listed |= self.key(name, path, store, about, listed).await,
                Some(path) if name == "identityFile" => {
                    self.add(
                        about,
                        Verdict::Good,
                        format!("{name} {} is not on this machine now", path.display()),
                        None,
                    );
                }
                Some(path) => {
                    let hint = Some(if name == "writerKeyFile" {
                        "put it back, or let `lifeboat init` ask the owner for a new one".to_owned()
                    } else {
                        "put it back, or take it out of the configuration".to_owned()
                    });
                    let verdict = if needed { Verdict::Bad } else { Verdict::Warning };
                    self.add(about, verdict, format!("{name} {} is missing", path.display()), hint);
                }
                None if needed => {
                    let hint = Some("set it and run `lifeboat init`".to_owned());
                    self.add(about, Verdict::Bad, format!("{name} is not set: nothing can be backed up"), hint);
                }
                None => {}
            }
        }
    }

    /// Looks at one key file; whether it could tell who is on the roster.
    async fn key(&mut self, name: &str, path: &Path, store: &Arc<dyn Store>, about: &str, listed: bool) -> bool {
        let mut protected = false;
        let read = KeyFile::read(path, &mut || {
            protected = true;
            None
        });
        let key = match read {
            Ok(key) => key,
            Err(_) if protected => {
                let what = format!("{name} {} is protected by a passphrase", path.display());
                self.add(about, Verdict::Good, what, Some(format!("`lifeboat key test {}` proves it", path.display())));
                return false;
            }
            Err(error) => {
                self.failed(about, &error.into());
                return false;
            }
        };
        let tested = match tested(Some(&self.host), store, &key, path).await {
            Ok(tested) => tested,
            Err(failure) => {
                self.failed(about, &failure);
                return false;
            }
        };
        let what = format!("{name} {}: {} key {}", path.display(), tested.role, short(&tested.verify.to_string()));
        self.add(about, Verdict::Good, what, None);
        for warning in &tested.warnings {
            self.add(about, Verdict::Warning, warning.to_string(), None);
        }
        if matches!(key, KeyFile::Owner(_)) {
            let hint = format!(
                "`lifeboat key generate identity --out FILE --identity {}` makes an identity without it; then keep the \
                 owner's file offline",
                path.display()
            );
            let what = format!("{name} {} holds the root, which decides who may do what", path.display());
            self.add(about, Verdict::Warning, what, Some(hint));
        }
        if self.loaded.config.role == Role::Backup && name == "identityFile" {
            let what = "role: backup, and an identity is on this machine: a thief could read every backup".to_owned();
            self.add(about, Verdict::Warning, what, Some(format!("take {} off this machine", path.display())));
        }
        if !listed {
            self.roster(key, store, about).await;
        }
        true
    }

    /// Who may do what.
    async fn roster(&mut self, key: KeyFile, store: &Arc<dyn Store>, about: &str) {
        let mut keys = Keys::default();
        match key {
            KeyFile::Writer(key) => keys.writer = Some(key),
            KeyFile::Maintainer(key) => keys.maintainer = Some(key),
            KeyFile::Identity(key) => keys.identity = Some(key),
            KeyFile::Owner(key) => keys.identity = Some(key.identity),
            KeyFile::Pending(_) => return,
        }
        let before = keys.home().ok().and_then(|(repository, _)| remembered(&self.host, repository));
        let roster = match open_access(store, &keys, before.as_ref()).await {
            Ok(opened) => opened.access.roster,
            Err(error) => return self.failed(about, &error.into()),
        };
        let list = |keys: Vec<String>| keys.iter().map(|key| short(key)).collect::<Vec<_>>().join(" ");
        let what = format!(
            "roster {}: writers {}; maintainers {}; identities {}",
            roster.number,
            list(roster.writers.iter().map(|key| key.verify.to_string()).collect()),
            list(roster.maintainers.iter().map(|key| key.verify.to_string()).collect()),
            list(roster.identities.iter().map(|key| key.verify.to_string()).collect()),
        );
        self.add(about, Verdict::Good, what, None);
    }

    /// Whether a backup would go on with the history of each source. What is wrong with a repository or a key
    /// was told before.
    async fn history(&mut self) {
        if self.loaded.config.role == Role::Restore {
            return;
        }
        let Ok(findings) = lifeboat_engine::history::doctor(&self.host).await else { return };
        let found = findings.into_iter();
        self.found.extend(found.map(|(source, finding)| Found { about: format!("source {source}"), finding }));
    }

    async fn sources(&mut self) {
        for source in self.loaded.config.sources.values() {
            let about = format!("source {}", source.name);
            let found = match source_of(source) {
                Ok(datastore) => datastore.doctor(self.host.run).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(findings) => {
                    self.found.extend(findings.into_iter().map(|finding| Found { about: about.clone(), finding }));
                }
                Err(error) => {
                    let hint = error.hint().map(str::to_owned);
                    self.failed(&about, &Failure::of(Exit::Failed, &error).maybe_hint(hint));
                }
            }
        }
    }
}

fn short(key: &str) -> String {
    key.chars().take(12).collect()
}

//! `init`: the repository and the keys that are missing.
//!
//! Key files are written before the repository that they open: whatever happens between, no
//! repository is without its keys, and a second `init` goes on with the keys of the first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_engine::repository::{remember, remembered};
use lifeboat_engine::{Host, JobError};
use lifeboat_model::config::{RepositoryConfig, Role, StackConfig};
use lifeboat_repo::format::Format;
use lifeboat_repo::join::{Grant, accept_grant};
use lifeboat_repo::keyfile::{KeyFile, MaintainerKey, OwnerKey, WriterKey};
use lifeboat_repo::{CreateOptions, Creation, Passphrase, Remembered, RepoError, without_format};
use lifeboat_store::{Store, StoreErrorKind};
use serde::Serialize;

use super::key_file::{create_store, decode_grant, key_parent, read_key, tested, write_request};
use crate::args::InitArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Column};
use crate::request;
use crate::secret::{Asker, new_passphrase};
use crate::session::{Session, absolute};

/// A repository that `init` found or made.
#[derive(Debug, Serialize)]
struct Made {
    name: String,
    url: String,
    /// `made`, `there already`.
    state: &'static str,
    keys: Vec<MadeKey>,
}

/// A key file of it.
#[derive(Debug, Serialize)]
struct MadeKey {
    /// `identity`, `writer`, `maintainer`.
    role: &'static str,
    /// `made`, `there already`, `asked for`, `waits for its grant`, `accepted`, `missing`.
    state: &'static str,
    /// Where it is; of one that was asked for, the request.
    file: PathBuf,
}

impl Made {
    fn key(&mut self, role: &'static str, state: &'static str, file: &Path) {
        self.keys.push(MadeKey { role, state, file: file.to_owned() });
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |what: &str, state: &str, place: String| vec![self.name.clone(), what.into(), state.into(), place];
        let keys = self.keys.iter().map(|key| row(key.role, key.state, key.file.display().to_string()));
        std::iter::once(row("repository", self.state, self.url.clone())).chain(keys).collect()
    }
}

pub(crate) async fn run(session: &Session, args: InitArgs) -> Result<Exit, Failure> {
    let grace_seconds = request::grace(&args.grace)?.as_secs();
    let loaded = session.load()?;
    for warning in &loaded.warnings {
        session.talk.warn(warning);
    }
    let chosen = chosen(&loaded.config, args.repository.as_deref())?;
    if chosen.len() > 1 && (args.identity.is_some() || args.grant.is_some()) {
        return Err(Failure::usage("--identity and --grant are for one repository").hint("add --repository NAME"));
    }
    let passphrase = new_passphrase(&args.protect)?;
    let running = session.begin(loaded.config.clone(), Asker::default())?;
    let mut made = Vec::new();
    for repository in chosen {
        let (host, args, passphrase) = (running.host(), &args, &passphrase);
        let init = Init { session, host, config: &loaded.config, repository, args, passphrase, grace_seconds };
        made.push(init.run().await?);
    }
    if session.json() {
        output::json("repositories", &made)?;
    } else {
        let columns = [Column::Left("REPOSITORY"), Column::Left("WHAT"), Column::Left("STATE"), Column::Left("PLACE")];
        session.talk.note(&output::table(&columns, made.iter().flat_map(Made::rows)));
    }
    Ok(Exit::Ok)
}

/// The repository of this name, or all.
pub(crate) fn chosen<'a>(config: &'a StackConfig, name: Option<&str>) -> Result<Vec<&'a RepositoryConfig>, Failure> {
    let Some(name) = name else { return Ok(config.repositories.values().collect()) };
    if let Some(repository) = config.repositories.get(name) {
        return Ok(vec![repository]);
    }
    let known: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
    Err(JobError::unknown(format!("the configuration has no repository {name}"), name, &known).into())
}

struct Init<'a> {
    session: &'a Session,
    host: Host<'a>,
    config: &'a StackConfig,
    repository: &'a RepositoryConfig,
    args: &'a InitArgs,
    passphrase: &'a Option<Passphrase>,
    grace_seconds: u64,
}

impl Init<'_> {
    async fn run(&self) -> Result<Made, Failure> {
        let store = create_store(self.repository)?;
        if exists(&store).await? {
            if self.args.recovery_sheet {
                return Err(Failure::usage("the repository is there already")
                    .hint("`lifeboat key export --sheet --identity FILE` prints its recovery sheet"));
            }
            if let Some(identity) = self.args.identity.as_ref().filter(|path| !path.exists()) {
                let what = format!(
                    "the repository {} is there already: no identity is made, and {} was not written",
                    self.repository.name,
                    identity.display()
                );
                return Err(Failure::usage(what).hint(
                    "leave --identity out; `lifeboat key generate identity --out FILE --identity OWNER` makes a \
                     further one",
                ));
            }
            return self.join(&store).await;
        }
        match without_format(&store).await {
            RepoError::NoRepository { .. } => {}
            error => return Err(error.into()),
        }
        if self.args.grant.is_some() {
            return Err(RepoError::NoRepository { store: store.to_string() }.into());
        }
        self.create(&store).await
    }

    fn found(&self, state: &'static str) -> Made {
        Made { name: self.repository.name.clone(), url: self.repository.url.to_string(), state, keys: Vec::new() }
    }

    /// Where the owner's key goes. A host that backs up keeps none by accident.
    fn identity_place(&self) -> Result<PathBuf, Failure> {
        match (&self.args.identity, &self.repository.identity_file) {
            (Some(path), _) => {
                let path = absolute(path)?;
                match path.parent() {
                    // A medium that is not mounted: the secret would lie on this host.
                    Some(parent) if !parent.is_dir() => {
                        let what = format!("{} is not there, where the identity is to go", parent.display());
                        Err(Failure::usage(what).hint("is the medium mounted? Otherwise make the directory first"))
                    }
                    _ => Ok(path),
                }
            }
            (None, Some(path)) => Ok(path.clone()),
            (None, None) => {
                let failure = Failure::usage(format!(
                    "the new repository {} needs a place for its identity, the key that reads",
                    self.repository.name
                ));
                Err(failure.hint(match self.config.role {
                    Role::Backup => "--identity FILE: on a USB stick, or anywhere else than on this host",
                    Role::Restore | Role::Both => "--identity FILE, or identityFile in the configuration",
                }))
            }
        }
    }

    async fn create(&self, store: &Arc<dyn Store>) -> Result<Made, Failure> {
        let mut made = self.found("made");
        self.refuse_emptied(store)?;
        let identity = self.identity_place()?;
        let options = CreateOptions {
            now: self.session.talk.clock.now(),
            grace_seconds: self.grace_seconds,
            stack: self.config.stack.clone(),
        };
        let left = self.left_by_an_earlier_init(&identity)?;
        let before = self.lost(&left, store)?;
        let creation = match &left {
            Left { owner: Some(owner), writer, maintainer } => {
                Creation::with_keys(options, owner.clone(), writer.clone(), maintainer.clone())
            }
            _ => Creation::new(options),
        };
        let creation = creation.after(before.as_ref().map_or(0, |before| before.roster));
        let keys = [
            ("identity", Some(&identity), KeyFile::Owner(creation.owner.clone()), left.owner.is_some()),
            (
                "writer",
                self.repository.writer_key_file.as_ref(),
                KeyFile::Writer(creation.writer.clone()),
                left.writer.is_some(),
            ),
            (
                "maintainer",
                self.repository.maintainer_key_file.as_ref(),
                KeyFile::Maintainer(creation.maintainer.clone()),
                left.maintainer.is_some(),
            ),
        ];
        for (what, path, key, there) in keys {
            let Some(path) = path else { continue };
            if !there {
                key_parent(path)?;
                key.write_new(path, if what == "identity" { self.passphrase.as_ref() } else { None })?;
            }
            made.key(what, if there { "there already" } else { "made" }, path);
        }
        creation.put(store).await?;
        tested(Some(&self.host), store, &KeyFile::Owner(creation.owner.clone()), &identity).await?;
        if before.is_some() {
            self.accept_loss(&creation.owner);
        }
        self.tell_owner(&identity, &creation.owner)?;
        Ok(made)
    }

    /// A host that wrote into a repository and has not its owner's key cannot make it anew, and does not
    /// want another in its place: its store was emptied, or is not there.
    fn refuse_emptied(&self, store: &Arc<dyn Store>) -> Result<(), Failure> {
        let owner = self.args.identity.as_ref().or(self.repository.identity_file.as_ref());
        if owner.is_some_and(|path| path.exists()) {
            return Ok(());
        }
        let keys = [&self.repository.writer_key_file, &self.repository.maintainer_key_file];
        for path in keys.into_iter().flatten().filter(|path| path.exists()) {
            let home = read_key(path, &Asker::default())?.home().0;
            if remembered(&self.host, home).is_some() {
                let what = format!(
                    "{store} is empty, and {} is a key of the repository {}, which this machine knows",
                    path.display(),
                    hex::encode(home.0)
                );
                return Err(Failure::new(Exit::Failed, what).hint(
                    "is its disk mounted, and the url right? Where the store is lost for good, its owner makes it anew \
                     by `lifeboat init --forget-remembered-roster`; then move the key files of this host away, and \
                     `lifeboat init` asks for new ones",
                ));
            }
        }
        Ok(())
    }

    /// What this machine remembers of a repository that these keys belong to and that the store does not hold
    /// any more. Only a person knows whether it is lost or elsewhere.
    fn lost(&self, left: &Left, store: &Arc<dyn Store>) -> Result<Option<Remembered>, Failure> {
        let id = left.owner.as_ref().map(|owner| owner.identity.repository);
        let Some(before) = id.and_then(|id| remembered(&self.host, id)) else { return Ok(None) };
        if self.args.memory.forget_remembered_roster {
            return Ok(Some(before));
        }
        let what = format!(
            "{store} is empty, and this machine remembers the repository {} of these keys, with roster {}",
            hex::encode(before.repository.0),
            before.roster
        );
        Err(Failure::new(Exit::Failed, what).hint(
            "is its disk mounted, and the url right? Where the store is lost for good, \
             `lifeboat init --forget-remembered-roster` makes it anew with the same keys",
        ))
    }

    /// The snapshots of the lost store are gone, and nobody need be told again.
    fn accept_loss(&self, owner: &OwnerKey) {
        let Some(mut memory) = remembered(&self.host, owner.identity.repository) else { return };
        for root in memory.heads.iter().map(|head| head.root).collect::<Vec<_>>() {
            memory.accept(root);
        }
        remember(&self.host, &memory);
        let count = memory.heads.len();
        self.session.talk.warn(&format!("the histories of {count} sources that the lost store held begin anew"));
        self.session.talk.warn(
            "keys of other hosts and people are not on the new roster: each moves its key file away, runs \
             `lifeboat init`, and is let in by `lifeboat key add`",
        );
    }

    fn tell_owner(&self, identity: &Path, owner: &OwnerKey) -> Result<(), Failure> {
        let url = self.repository.url.to_string();
        self.session.talk.note(&format!(
            "The identity in {} is the only key that reads this repository.\n\
             Copy it to two safe places away from this machine: without it nothing can be restored, by anybody.\n\
             `lifeboat key test COPY` proves that a copy works.",
            identity.display()
        ));
        if self.config.role == Role::Backup && self.args.identity.is_none() {
            self.session
                .talk
                .warn(&format!("role: backup should hold no identity; take {} off this host", identity.display()));
        }
        if self.args.recovery_sheet {
            let sheet = lifeboat_repo::recovery_sheet::print(owner, &url, self.session.talk.clock.now());
            output::text(&sheet)?;
        }
        Ok(())
    }

    /// Keys at the configured places of a repository that was never made.
    fn left_by_an_earlier_init(&self, identity: &Path) -> Result<Left, Failure> {
        let asker = Asker::new(self.args.protect.passphrase_file.as_ref())?;
        let read = |path: Option<&PathBuf>| match path.filter(|path| path.exists()) {
            Some(path) => read_key(path, &asker).map(Some),
            None => Ok(None),
        };
        let foreign = |path: &Path| {
            Failure::new(Exit::Key, format!("{} is the key of another repository", path.display()))
                .hint("give another path, or move it away; nothing was changed")
        };
        let identity = identity.to_owned();
        let owner = match read(Some(&identity))? {
            Some(KeyFile::Owner(owner)) => Some(owner),
            Some(_) => return Err(foreign(&identity)),
            None => None,
        };
        let home = owner.as_ref().map(|owner| (owner.identity.repository, owner.identity.root));
        let mut left = Left { owner, writer: None, maintainer: None };
        for path in [&self.repository.writer_key_file, &self.repository.maintainer_key_file].into_iter().flatten() {
            match read(Some(path))? {
                Some(key) if Some(key.home()) != home => return Err(foreign(path)),
                Some(KeyFile::Writer(key)) => left.writer = Some(key),
                Some(KeyFile::Maintainer(key)) => left.maintainer = Some(key),
                Some(_) => return Err(foreign(path)),
                None => {}
            }
        }
        Ok(left)
    }

    /// The repository is there: what is missing here is asked for, and what was granted taken.
    async fn join(&self, store: &Arc<dyn Store>) -> Result<Made, Failure> {
        let mut made = self.found("there already");
        let asker = Asker::new(self.args.protect.passphrase_file.as_ref())?;
        let accepted = self.args.grant.is_some();
        if let Some(grant) = &self.args.grant {
            let grant: Grant = decode_grant(grant)?;
            let path = self.repository.writer_key_file.as_ref().ok_or_else(|| {
                Failure::usage(format!("the repository {} has no writerKeyFile", self.repository.name))
            })?;
            accept_grant(path, &grant)?;
        }
        let files = [
            ("identity", self.args.identity.as_ref().or(self.repository.identity_file.as_ref())),
            ("writer", self.repository.writer_key_file.as_ref()),
            ("maintainer", self.repository.maintainer_key_file.as_ref()),
        ];
        for (what, path) in files {
            let Some(path) = path else { continue };
            if path.exists() {
                let key = read_key(path, &asker)?;
                if matches!(key, KeyFile::Pending(_)) {
                    made.key(what, "waits for its grant", path);
                    continue;
                }
                tested(Some(&self.host), store, &key, path).await?;
                made.key(what, if accepted && what == "writer" { "accepted" } else { "there already" }, path);
            } else if what == "writer" {
                let (_, request) = write_request(self.session, store, self.config, path, None).await?;
                made.key(what, "asked for", &request);
            } else {
                made.key(what, "missing", path);
            }
        }
        Ok(made)
    }
}

/// Keys that an interrupted `init` wrote.
struct Left {
    owner: Option<OwnerKey>,
    writer: Option<WriterKey>,
    maintainer: Option<MaintainerKey>,
}

async fn exists(store: &Arc<dyn Store>) -> Result<bool, Failure> {
    match store.get(&Format::key(), None).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(RepoError::from(error).into()),
    }
}

//! `key generate|export|add|remove|accept|test`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_engine::JobError;
use lifeboat_model::config::{RepositoryConfig, StackConfig};
use lifeboat_model::{Digest, ObjectHash};
use lifeboat_repo::crypt::VerifyKey;
use lifeboat_repo::export::export_secrets;
use lifeboat_repo::join::{Grant, Request, Scope, accept_grant, request_writer};
use lifeboat_repo::key_test::test_key;
use lifeboat_repo::keyfile::{IdentityKey, KeyFile, KeyFileError, MaintainerKey, OwnerKey};
use lifeboat_repo::owner::{DomainChoice, REMOVED_READER_NOTICE};
use lifeboat_repo::roster::Roster;
use lifeboat_repo::{Changed, Keys, Owner, RepoError, open_access};
use lifeboat_store::Store;
use lifeboat_wire::fs::{Existing, create_dir_durable, write_durable};
use serde::Serialize;

use super::init::chosen;
use crate::args::{
    IdentityArgs, KeyAcceptArgs, KeyAddArgs, KeyCommand, KeyExportArgs, KeyGenerateArgs, KeyRemoveArgs, KeyRole,
    KeyTestArgs,
};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::secret::{Asker, new_passphrase};
use crate::session::{Session, absolute};

pub(crate) async fn run(session: &Session, which: KeyCommand) -> Result<Exit, Failure> {
    if let KeyCommand::Test(args) = &which
        && let Some(url) = &args.url
    {
        let store = lifeboat_store::url::open_store(url)
            .map_err(|source| JobError::Store { repository: url.clone(), source })?;
        return test(session, &store, url, args).await;
    }
    let loaded = session.load()?;
    let config = &loaded.config;
    match which {
        KeyCommand::Generate(args) => generate(session, config, args).await,
        KeyCommand::Export(args) => export(session, config, args).await,
        KeyCommand::Add(args) => add(session, config, args).await,
        KeyCommand::Remove(args) => remove(session, config, args).await,
        KeyCommand::Accept(args) => accept(session, config, &args),
        KeyCommand::Test(args) => {
            let repository = one(config, args.repository.as_deref())?;
            test(session, &open_store(repository)?, &repository.name, &args).await
        }
    }
}

/// A key as it is told.
#[derive(Debug, Serialize)]
struct Told {
    role: &'static str,
    /// The beginning of the key's id.
    key: String,
    repository: String,
    file: Option<PathBuf>,
    /// What was done or proved.
    notes: Vec<String>,
}

fn tell(session: &Session, told: &Told) -> Result<Exit, Failure> {
    if session.json() {
        output::json("keys", &[told])?;
    } else {
        let file = told.file.as_ref().map_or_else(String::new, |file| format!(" in {}", file.display()));
        let mut lines = vec![format!("{} key {}{file}, repository {}", told.role, told.key, told.repository)];
        lines.extend(told.notes.iter().map(|note| format!("  {note}")));
        output::text(&lines.join("\n"))?;
    }
    Ok(Exit::Ok)
}

async fn generate(session: &Session, config: &StackConfig, args: KeyGenerateArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let store = open_store(repository)?;
    let out = absolute(&args.out)?;
    key_parent(&out)?;
    let wants_owner = || {
        Failure::new(Exit::Key, "a further maintainer or identity is put on the roster by the owner")
            .hint("add --identity FILE with the owner's key")
    };
    let (key, changed) = match args.role {
        KeyRole::Writer => {
            write_request(session, &store, config, &out, args.request.as_deref()).await?;
            return Ok(Exit::Ok);
        }
        KeyRole::Maintainer | KeyRole::Identity => {
            let identity = IdentityArgs {
                identity: Some(args.identity.clone().ok_or_else(wants_owner)?),
                passphrase_file: args.owner_passphrase_file.clone(),
            };
            let key = owner_key(repository, &identity)?;
            let (home, root) = (key.identity.repository, key.identity.root);
            let owner = owner(session, &store, &key);
            // The file first: a key on the roster that nobody has would be of no use.
            if args.role == KeyRole::Maintainer {
                let made = MaintainerKey::random(home, root);
                KeyFile::Maintainer(made.clone()).write_new(&out, None)?;
                (made.roster_key().verify, owner.add_maintainer(&made.roster_key()).await?)
            } else {
                let made = IdentityKey::random(home, root);
                let passphrase = new_passphrase(&args.protect)?;
                KeyFile::Identity(made.clone()).write_new(&out, passphrase.as_ref())?;
                (made.roster_key().verify, owner.add_identity(&made.roster_key()).await?)
            }
        }
    };
    warn(session, &changed);
    tell(
        session,
        &Told {
            role: if args.role == KeyRole::Maintainer { "maintainer" } else { "identity" },
            key: id(key),
            repository: repository.name.clone(),
            file: Some(out),
            notes: vec![format!("on roster {}", changed.roster.number)],
        },
    )
}

async fn export(session: &Session, config: &StackConfig, args: KeyExportArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let asker = Asker::new(args.identity.passphrase_file.as_ref())?;
    let path = identity_path(repository, &args.identity)?;
    let key = read_key(&path, &asker)?;
    let text = if args.sheet {
        let owner = key.into_owner().map_err(at(&path))?;
        lifeboat_repo::recovery_sheet::print(&owner, &repository.url.to_string(), session.talk.clock.now())
    } else {
        let identity = key.into_identity().map_err(at(&path))?;
        export_secrets(&open_store(repository)?, &identity, None).await?
    };
    session.talk.warn("what follows are secrets: print it or put it into a safe, do not keep it on this machine");
    output::text(&text)?;
    Ok(Exit::Ok)
}

async fn add(session: &Session, config: &StackConfig, args: KeyAddArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let store = open_store(repository)?;
    let text = read_text(&args.request)?;
    let request = Request::decode(&text).map_err(at(&args.request))?;
    let key = owner_key(repository, &args.owner)?;
    let sources = if request.wish.sources.is_empty() {
        "all sources".to_owned()
    } else {
        request.wish.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    session.talk.note(&format!(
        "the host {:?} asks to back up {sources} of the stack {}\n  fingerprint {}\n  \
         compare it with the one that the host showed: whoever carried the request could have changed it",
        output::one_line(&request.host),
        request.wish.stack,
        request.fingerprint()
    ));
    let domain = match &args.domain {
        Some(prefix) => {
            let roster = roster(&store, &key).await?;
            let writer = roster.writers.iter().filter(|writer| id(writer.verify).starts_with(prefix.as_str()));
            DomainChoice::Join(only(writer, prefix)?.domain)
        }
        None => DomainChoice::New,
    };
    confirm("Add it?", args.yes)?;
    let (grant, changed) =
        owner(session, &store, &key).add_writer(&request, domain, std::slice::from_ref(&request.wish)).await?;
    warn(session, &changed);
    let path = args.grant.unwrap_or_else(|| beside(&args.request, "grant"));
    write_text(&path, &grant.encode())?;
    tell(
        session,
        &Told {
            role: "writer",
            key: id(request.verify),
            repository: repository.name.clone(),
            file: None,
            notes: vec![
                format!("on roster {}", changed.roster.number),
                format!("on its host: lifeboat key accept {}", path.display()),
            ],
        },
    )
}

async fn remove(session: &Session, config: &StackConfig, args: KeyRemoveArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let store = open_store(repository)?;
    let key = owner_key(repository, &args.owner)?;
    let roster = roster(&store, &key).await?;
    let all = roster
        .writers
        .iter()
        .map(|writer| ("writer", writer.verify))
        .chain(roster.maintainers.iter().map(|key| ("maintainer", key.verify)))
        .chain(roster.identities.iter().map(|key| ("identity", key.verify)));
    let (role, verify) = only(all.filter(|(_, verify)| id(*verify).starts_with(args.key.as_str())), &args.key)?;
    let mut notes = Vec::new();
    if role == "writer" {
        notes.push("snapshots that it has made stay; what it signs from now on is refused".to_owned());
    } else {
        notes.push(REMOVED_READER_NOTICE.to_owned());
    }
    session.talk.note(&format!("takes the {role} {} off the roster\n  {}", id(verify), notes[0]));
    confirm("Remove it?", args.yes)?;
    let owner = owner(session, &store, &key);
    let changed = match role {
        "writer" => {
            let heads = heads(session, config, repository, verify, &args.owner).await?;
            owner.remove_writer(verify, &heads).await?
        }
        "maintainer" => owner.remove_maintainer(verify).await?,
        _ => owner.remove_identity(verify).await?,
    };
    warn(session, &changed);
    notes.push(format!("roster {}", changed.roster.number));
    tell(session, &Told { role, key: id(verify), repository: repository.name.clone(), file: None, notes })
}

/// The newest roots of a writer's chains.
async fn heads(
    session: &Session,
    config: &StackConfig,
    repository: &RepositoryConfig,
    writer: VerifyKey,
    owner: &IdentityArgs,
) -> Result<Vec<ObjectHash>, Failure> {
    let mut config = config.clone();
    if let Some(mine) = config.repositories.get_mut(&repository.name) {
        mine.identity_file = Some(identity_path(repository, owner)?);
    }
    let running = session.begin(config, Asker::new(owner.passphrase_file.as_ref())?)?;
    let listings = running.done(lifeboat_engine::listing::snapshots(&running.host(), Some(&repository.name)).await)?;
    let mut newest: std::collections::BTreeMap<Digest, (u64, ObjectHash)> = std::collections::BTreeMap::new();
    for summary in listings.iter().flat_map(|listing| &listing.snapshots) {
        if summary.writer == hex::encode(writer.0) {
            let head = newest.entry(summary.source_tag).or_insert((summary.sequence, ObjectHash(summary.id.0)));
            if summary.sequence >= head.0 {
                *head = (summary.sequence, ObjectHash(summary.id.0));
            }
        }
    }
    Ok(newest.into_values().map(|(_, root)| root).collect())
}

fn accept(session: &Session, config: &StackConfig, args: &KeyAcceptArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let path = repository
        .writer_key_file
        .as_ref()
        .ok_or_else(|| Failure::usage(format!("the repository {} has no writerKeyFile", repository.name)))?;
    let key = accept_grant(path, &decode_grant(&args.grant)?)?;
    tell(
        session,
        &Told {
            role: "writer",
            key: id(key.sign.verify_key()),
            repository: repository.name.clone(),
            file: Some(path.clone()),
            notes: vec!["this host may back up now".to_owned()],
        },
    )
}

async fn test(session: &Session, store: &Arc<dyn Store>, name: &str, args: &KeyTestArgs) -> Result<Exit, Failure> {
    let key = read_key(&args.file, &Asker::new(args.passphrase_file.as_ref())?)?;
    let report = test_key(store, &key, None).await?;
    for warning in &report.warnings {
        session.talk.warn(&warning.to_string());
    }
    let told = Told {
        role: report.role,
        key: id(report.verify),
        repository: name.to_owned(),
        file: Some(args.file.clone()),
        notes: report.proved.iter().map(ToString::to_string).collect(),
    };
    tell(session, &told)
}

/// Makes the keys of a further writer and the request for the owner.
pub(crate) async fn write_request(
    session: &Session,
    store: &Arc<dyn Store>,
    config: &StackConfig,
    out: &Path,
    request: Option<&Path>,
) -> Result<PathBuf, Failure> {
    let path = request.map_or_else(|| beside(out, "request"), Path::to_owned);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let wish = Scope { stack: config.stack.clone(), sources: Vec::new() };
    let (pending, request) = request_writer(store, &host, wish).await?;
    key_parent(out)?;
    KeyFile::Pending(pending).write_new(out, None)?;
    write_text(&path, &request.encode())?;
    session.talk.note(&format!(
        "this host asks to be a writer; bring {} to the owner, who runs\n  \
         lifeboat key add REQUEST --identity OWNER\n  \
         and compares the fingerprint {}\n\
         then here: lifeboat key accept GRANT",
        path.display(),
        request.fingerprint()
    ));
    Ok(path)
}

/// The repository of this name, or the only one.
fn one<'a>(config: &'a StackConfig, name: Option<&str>) -> Result<&'a RepositoryConfig, Failure> {
    match chosen(config, name)?.as_slice() {
        [one] => Ok(one),
        several => {
            let names: Vec<&str> = several.iter().map(|repository| repository.name.as_str()).collect();
            Err(Failure::usage("the configuration has several repositories")
                .hint(format!("add --repository: {}", names.join(", "))))
        }
    }
}

pub(crate) fn open_store(repository: &RepositoryConfig) -> Result<Arc<dyn Store>, Failure> {
    lifeboat_store::url::open_store(repository.url.expose())
        .map_err(|source| JobError::Store { repository: repository.name.clone(), source }.into())
}

pub(crate) fn create_store(repository: &RepositoryConfig) -> Result<Arc<dyn Store>, Failure> {
    lifeboat_store::url::create_store(repository.url.expose())
        .map_err(|source| JobError::Store { repository: repository.name.clone(), source }.into())
}

pub(crate) fn read_key(path: &Path, asker: &Asker) -> Result<KeyFile, Failure> {
    Ok(KeyFile::read(path, &mut || asker.ask(path))?)
}

fn identity_path(repository: &RepositoryConfig, args: &IdentityArgs) -> Result<PathBuf, Failure> {
    match (&args.identity, &repository.identity_file) {
        (Some(path), _) => absolute(path),
        (None, Some(path)) => Ok(path.clone()),
        (None, None) => Err(RepoError::KeyMissing { what: "this", needs: "the owner's key" }.into()),
    }
}

fn owner_key(repository: &RepositoryConfig, args: &IdentityArgs) -> Result<OwnerKey, Failure> {
    let path = identity_path(repository, args)?;
    Ok(read_key(&path, &Asker::new(args.passphrase_file.as_ref())?)?.into_owner().map_err(at(&path))?)
}

fn owner<'a>(session: &Session, store: &'a Arc<dyn Store>, key: &'a OwnerKey) -> Owner<'a> {
    Owner { store, key, remembered: None, now: session.talk.clock.now(), exported: None }
}

async fn roster(store: &Arc<dyn Store>, key: &OwnerKey) -> Result<Roster, Failure> {
    let keys = Keys { identity: Some(key.identity.clone()), ..Keys::default() };
    Ok(open_access(store, &keys, None).await?.access.roster)
}

/// The one key that a prefix names.
fn only<T>(found: impl Iterator<Item = T>, prefix: &str) -> Result<T, Failure> {
    let mut found: Vec<T> = found.collect();
    if prefix.len() < 6 {
        return Err(Failure::usage(format!("{prefix:?} is too short for a key's id")).hint("give 6 or more digits"));
    }
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(Failure::usage(format!("several keys begin with {prefix}")).hint("give more digits")),
        (None, _) => Err(Failure::usage(format!("no key on the roster begins with {prefix}"))
            .hint("`lifeboat doctor` lists the keys of the roster")),
    }
}

fn warn(session: &Session, changed: &Changed) {
    for warning in &changed.warnings {
        session.talk.warn(&warning.to_string());
    }
}

/// The id by which a key is told.
fn id(key: VerifyKey) -> String {
    hex::encode(key.0)
}

fn at(path: &Path) -> impl Fn(KeyFileError) -> RepoError + '_ {
    |source| RepoError::KeyFile { path: path.to_owned(), source }
}

pub(crate) fn decode_grant(path: &Path) -> Result<Grant, Failure> {
    Ok(Grant::decode(&read_text(path)?).map_err(at(path))?)
}

fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|source| RepoError::Io { doing: "reading", path: path.to_owned(), source }.into())
}

fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    write_durable(path, text.as_bytes(), 0o644, Existing::Refuse).map_err(|error| Failure::of(Exit::Failed, &error))
}

/// Makes the directory of a key file, closed to others.
pub(crate) fn key_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
    create_dir_durable(parent, 0o700).map_err(|error| Failure::of(Exit::Failed, &error))
}

/// `FILE.EXTENSION`.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

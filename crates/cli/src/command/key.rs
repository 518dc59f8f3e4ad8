//! `key generate|export|add|remove|accept|test`.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_engine::Host;
use lifeboat_engine::repository::{find_by_url, find_repository, remember, remembered};
use lifeboat_model::ObjectHash;
use lifeboat_model::config::{SecretUrl, StackConfig};
use lifeboat_repo::crypt::VerifyKey;
use lifeboat_repo::export::export_secrets;
use lifeboat_repo::join::{Request, accept_grant};
use lifeboat_repo::keyfile::{IdentityKey, KeyFile, MaintainerKey, OwnerKey};
use lifeboat_repo::owner::{DomainChoice, REMOVED_READER_NOTICE};
use lifeboat_repo::{Access, Changed, Keys, Owner, Remembered, Repository, open_access};
use lifeboat_store::Store;
use serde::Serialize;

use super::key_file::{
    at, beside, decode_grant, id, identity_path, key_parent, one, owner_key, read_key, tested, write_request,
};
use crate::args::{
    IdentityArgs, KeyAcceptArgs, KeyAddArgs, KeyCommand, KeyExportArgs, KeyGenerateArgs, KeyRemoveArgs, KeyRole,
    KeyTestArgs, MemoryArgs,
};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::output;
use crate::secret::{Asker, new_passphrase};
use crate::session::{Session, absolute, usual_store_options};

pub(crate) async fn run(session: &Session, which: KeyCommand) -> Result<Exit, Failure> {
    if let KeyCommand::Test(args) = &which
        && let Some(url) = &args.url
    {
        let store = find_by_url(&SecretUrl::new(url.clone()), &usual_store_options()).await?;
        return test(session, &store, url, args, None).await;
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
            let running = session.begin(config.clone(), Asker::default())?;
            test(session, &find_repository(repository).await?, &repository.name, &args, Some(&running.host())).await
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
    let store = find_repository(repository).await?;
    let out = absolute(&args.out)?;
    key_parent(&out)?;
    let wants_owner = || {
        Failure::new(Exit::Key, "a further maintainer or identity is put on the roster by the owner")
            .hint("add --identity FILE with the owner's key")
    };
    let (key, changed) = match args.role {
        KeyRole::Writer => {
            let (request, path) = write_request(session, &store, config, &out, args.request.as_deref()).await?;
            let told = Told {
                role: "pending-writer",
                key: id(request.verify),
                repository: repository.name.clone(),
                file: Some(out),
                notes: vec![format!("its request to the owner is {}", path.display())],
            };
            return tell(session, &told);
        }
        KeyRole::Maintainer | KeyRole::Identity => {
            let identity = IdentityArgs {
                identity: Some(args.identity.clone().ok_or_else(wants_owner)?),
                passphrase_file: args.owner_passphrase_file.clone(),
            };
            let key = owner_key(repository, &identity)?;
            let (home, root) = (key.identity.repository, key.identity.root);
            let running = session.begin(config.clone(), Asker::default())?;
            let owners = Owners::new(session, running.host(), &store, &key, args.memory);
            let owner = owners.owner();
            owners.access().await?;
            // The file first: a key on the roster that nobody has would be of no use.
            let made = if args.role == KeyRole::Maintainer {
                let made = MaintainerKey::random(home, root);
                KeyFile::Maintainer(made.clone()).write_new(&out, None)?;
                (made.roster_key().verify, owner.add_maintainer(&made.roster_key()).await?)
            } else {
                let made = IdentityKey::random(home, root);
                let passphrase = new_passphrase(&args.protect)?;
                KeyFile::Identity(made.clone()).write_new(&out, passphrase.as_ref())?;
                (made.roster_key().verify, owner.add_identity(&made.roster_key()).await?)
            };
            owners.changed(&made.1);
            made
        }
    };
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

/// What belongs into the safe, as `--json` tells it.
#[derive(Serialize)]
struct Exported<'a> {
    repository: &'a str,
    /// `sheet` or `secrets`.
    what: &'static str,
    /// To be kept as it is.
    text: &'a str,
}

async fn export(session: &Session, config: &StackConfig, args: KeyExportArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let asker = Asker::new(args.identity.passphrase_file.as_ref())?;
    let path = identity_path(repository, &args.identity)?;
    let key = read_key(&path, &asker)?;
    let (what, text) = if args.sheet {
        let owner = key.into_owner().map_err(at(&path))?;
        let url = repository.url.to_string();
        ("sheet", lifeboat_repo::recovery_sheet::print(&owner, &url, session.talk.clock.now()))
    } else {
        let identity = key.into_identity().map_err(at(&path))?;
        let running = session.begin(config.clone(), Asker::default())?;
        let before = remembered(&running.host(), identity.repository);
        ("secrets", export_secrets(&find_repository(repository).await?, &identity, before.as_ref()).await?)
    };
    session.talk.warn("what follows are secrets: print it or put it into a safe, do not keep it on this machine");
    if session.json() {
        output::json("exports", &[Exported { repository: &repository.name, what, text: &text }])?;
    } else {
        output::text(&text)?;
    }
    Ok(Exit::Ok)
}

async fn add(session: &Session, config: &StackConfig, args: KeyAddArgs) -> Result<Exit, Failure> {
    let repository = one(config, args.repository.as_deref())?;
    let text = file::read("request", &args.request)?;
    let store = find_repository(repository).await?;
    let request = Request::decode(&text).map_err(at(&args.request))?;
    let key = owner_key(repository, &args.owner)?;
    let sources = if request.wish.sources.is_empty() {
        "all sources".to_owned()
    } else {
        request.wish.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let path = args.grant.unwrap_or_else(|| beside(&args.request, "grant"));
    file::refuse_taken(&path)?;
    session.talk.plan(&format!(
        "the host {:?} asks to back up {sources} of the stack {}\n  fingerprint {}\n  \
         compare it with the one that the host showed: whoever carried the request could have changed it",
        output::one_line(&request.host),
        request.wish.stack,
        request.fingerprint()
    ));
    let running = session.begin(config.clone(), Asker::default())?;
    let owners = Owners::new(session, running.host(), &store, &key, args.memory);
    let domain = match &args.domain {
        Some(prefix) => {
            let roster = owners.access().await?.roster;
            let writer = roster.writers.iter().filter(|writer| id(writer.verify).starts_with(prefix.as_str()));
            DomainChoice::Join(only(writer, prefix)?.domain)
        }
        None => DomainChoice::New,
    };
    let hint = "compare the fingerprint above with the one that the host shows, then add --yes";
    confirm("Add it?", args.yes, hint)?;
    let (grant, changed) = owners.owner().add_writer(&request, domain, std::slice::from_ref(&request.wish)).await?;
    owners.changed(&changed);
    file::write_new(&path, &grant.encode(), 0o644)?;
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
    let store = find_repository(repository).await?;
    let key = owner_key(repository, &args.owner)?;
    let running = session.begin(config.clone(), Asker::default())?;
    let owners = Owners::new(session, running.host(), &store, &key, args.memory);
    let access = owners.access().await?;
    let roster = &access.roster;
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
    session.talk.plan(&format!("takes the {role} {} off the roster\n  {}", id(verify), notes[0]));
    confirm("Remove it?", args.yes, "read above what it means, then add --yes")?;
    let owner = owners.owner();
    let changed = match role {
        "writer" => {
            let opened = Repository::open(Arc::clone(&store), access, &running.context.scratch).await?;
            owner.remove_writer(verify, &roots(&opened, verify).await?).await?
        }
        "maintainer" => owner.remove_maintainer(verify).await?,
        _ => owner.remove_identity(verify).await?,
    };
    owners.changed(&changed);
    notes.push(format!("roster {}", changed.roster.number));
    tell(session, &Told { role, key: id(verify), repository: repository.name.clone(), file: None, notes })
}

/// All roots of a writer, forgotten ones among them: a chain that a prune thinned out later must not
/// cut off what is before.
async fn roots(repository: &Repository, writer: VerifyKey) -> Result<Vec<ObjectHash>, Failure> {
    let list = repository.snapshots(&[]).await?;
    Ok(list.snapshots.iter().filter(|info| info.writer == writer).map(|info| ObjectHash(info.id.0)).collect())
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

async fn test(
    session: &Session,
    store: &Arc<dyn Store>,
    name: &str,
    args: &KeyTestArgs,
    host: Option<&Host<'_>>,
) -> Result<Exit, Failure> {
    let key = read_key(&args.file, &Asker::new(args.passphrase_file.as_ref())?)?;
    let report = tested(host, store, &key, &args.file).await?;
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

/// The owner at work, with what this machine remembers of the repository.
struct Owners<'a> {
    session: &'a Session,
    host: Host<'a>,
    store: &'a Arc<dyn Store>,
    key: &'a OwnerKey,
    before: Option<Remembered>,
    memory: MemoryArgs,
}

impl<'a> Owners<'a> {
    fn new(
        session: &'a Session,
        host: Host<'a>,
        store: &'a Arc<dyn Store>,
        key: &'a OwnerKey,
        memory: MemoryArgs,
    ) -> Self {
        let before = remembered(&host, key.identity.repository);
        Self { session, host, store, key, before, memory }
    }

    fn owner(&self) -> Owner<'_> {
        Owner {
            store: self.store,
            key: self.key,
            remembered: self.before.as_ref(),
            forget_roster: self.memory.forget_remembered_roster,
            now: self.session.talk.clock.now(),
            exported: None,
        }
    }

    async fn access(&self) -> Result<Access, Failure> {
        let keys = Keys { identity: Some(self.key.identity.clone()), ..Keys::default() };
        let before = self.before.as_ref().filter(|_| !self.memory.forget_remembered_roster);
        Ok(open_access(self.store, &keys, before).await?.access)
    }

    /// Tells and remembers the new roster.
    fn changed(&self, changed: &Changed) {
        for warning in &changed.warnings {
            self.session.talk.warn(&warning.to_string());
        }
        remember(&self.host, &changed.remembered);
    }
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

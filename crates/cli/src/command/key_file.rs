//! Key files, requests and grants, as several commands read, test and write them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_engine::repository::{remember, remembered};
use lifeboat_engine::{Host, JobError};
use lifeboat_model::config::{RepositoryConfig, StackConfig};
use lifeboat_repo::RepoError;
use lifeboat_repo::crypt::VerifyKey;
use lifeboat_repo::join::{Grant, Request, Scope, request_writer};
use lifeboat_repo::key_test::{KeyReport, test_key};
use lifeboat_repo::keyfile::{KeyFile, KeyFileError, OwnerKey};
use lifeboat_store::Store;
use lifeboat_wire::fs::create_dir_durable;

use super::init::chosen;
use crate::args::IdentityArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::secret::Asker;
use crate::session::{Session, absolute};

/// What a key file does, by the store and by what this machine remembers of it; of one that waits for
/// its grant, who has to do what.
pub(super) async fn tested(
    host: Option<&Host<'_>>,
    store: &Arc<dyn Store>,
    key: &KeyFile,
    path: &Path,
) -> Result<KeyReport, Failure> {
    let before = host.and_then(|host| remembered(host, key.home().0));
    let tested = test_key(store, key, before.as_ref()).await;
    if matches!((key, &tested), (KeyFile::Pending(_), Err(RepoError::KeyMissing { .. }))) {
        let what = format!("the writer key {} waits for the owner's grant", path.display());
        return Err(Failure::new(Exit::Key, what).hint(format!(
            "bring {} to the owner, who runs `lifeboat key add` with it; then here `lifeboat key accept GRANT`",
            beside(path, "request").display()
        )));
    }
    let report = tested?;
    if let Some(host) = host {
        remember(host, &report.remembered);
    }
    Ok(report)
}

/// Makes the keys of a further writer and the request for the owner.
pub(super) async fn write_request(
    session: &Session,
    store: &Arc<dyn Store>,
    config: &StackConfig,
    out: &Path,
    request: Option<&Path>,
) -> Result<(Request, PathBuf), Failure> {
    let path = request.map_or_else(|| beside(out, "request"), Path::to_owned);
    file::refuse_taken(&path)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|error| {
        session.talk.warn(&format!("this host's name cannot be read ({error}); the request calls it `unknown`"));
        "unknown".to_owned()
    });
    let host = host.trim().to_owned();
    let wish = Scope { stack: config.stack.clone(), sources: Vec::new() };
    let (pending, request) = request_writer(store, &host, wish).await?;
    key_parent(out)?;
    KeyFile::Pending(pending).write_new(out, None)?;
    file::write_new(&path, &request.encode(), 0o644)?;
    session.talk.note(&format!(
        "this host asks to be a writer; bring {} to the owner, who runs\n  \
         lifeboat key add REQUEST --identity OWNER\n  \
         and compares the fingerprint {}\n\
         then here: lifeboat key accept GRANT",
        path.display(),
        request.fingerprint()
    ));
    Ok((request, path))
}

/// The repository of this name, or the only one.
pub(super) fn one<'a>(config: &'a StackConfig, name: Option<&str>) -> Result<&'a RepositoryConfig, Failure> {
    match chosen(config, name)?.as_slice() {
        [one] => Ok(one),
        several => {
            let names: Vec<&str> = several.iter().map(|repository| repository.name.as_str()).collect();
            Err(Failure::usage("the configuration has several repositories")
                .hint(format!("add --repository: {}", names.join(", "))))
        }
    }
}

pub(super) fn create_store(repository: &RepositoryConfig) -> Result<Arc<dyn Store>, Failure> {
    lifeboat_store::url::create_store(repository.url.expose(), &repository.store)
        .map_err(|source| JobError::Store { repository: repository.name.clone(), source }.into())
}

pub(super) fn read_key(path: &Path, asker: &Asker) -> Result<KeyFile, Failure> {
    Ok(KeyFile::read(path, &mut || asker.ask(path))?)
}

pub(super) fn identity_path(repository: &RepositoryConfig, args: &IdentityArgs) -> Result<PathBuf, Failure> {
    match (&args.identity, &repository.identity_file) {
        (Some(path), _) => absolute(path),
        (None, Some(path)) => Ok(path.clone()),
        (None, None) => Err(RepoError::KeyMissing { what: "this", needs: "the owner's key" }.into()),
    }
}

pub(super) fn owner_key(repository: &RepositoryConfig, args: &IdentityArgs) -> Result<OwnerKey, Failure> {
    let path = identity_path(repository, args)?;
    Ok(read_key(&path, &Asker::new(args.passphrase_file.as_ref())?)?.into_owner().map_err(at(&path))?)
}

/// The id by which a key is told.
pub(super) fn id(key: VerifyKey) -> String {
    hex::encode(key.0)
}

pub(super) fn at(path: &Path) -> impl Fn(KeyFileError) -> RepoError + '_ {
    |source| RepoError::KeyFile { path: path.to_owned(), source }
}

pub(super) fn decode_grant(path: &Path) -> Result<Grant, Failure> {
    Ok(Grant::decode(&file::read("grant", path)?).map_err(at(path))?)
}

/// Makes the directory of a key file, closed to others.
pub(super) fn key_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
    create_dir_durable(parent, 0o700).map_err(|error| Failure::of(Exit::Failed, &error))
}

/// `FILE.EXTENSION`.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

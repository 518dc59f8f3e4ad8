//! Which key files a job reads. Each job takes the least that it needs: a backup never touches the
//! identity, so that no passphrase is asked for and no secret that reads is in its memory.

use std::path::{Path, PathBuf};

use lifeboat_model::config::RepositoryConfig;
use lifeboat_repo::keyfile::KeyFile;
use lifeboat_repo::passphrase::Passphrase;
use lifeboat_repo::{Keys, RepoError};

use crate::error::JobError;
use crate::host::Host;

/// Asks a person for the passphrase of a key file. `None` where nobody can be asked.
pub type AskPassphrase<'a> = dyn Fn(&Path) -> Option<Passphrase> + Send + Sync + 'a;

/// What a job wants to do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Add snapshots: the writer key.
    Write,
    /// Forget, hold, prune: the maintainer key, else the identity.
    Maintain,
    /// Add copies, for whose age an identity vouches: the writer key and the identity.
    Copy,
    /// Read content: the identity.
    Read,
    /// List, with whatever keys are at hand.
    List,
}

impl Need {
    const fn what(self) -> (&'static str, &'static str) {
        match self {
            Self::Write => ("backing up", "a writer key (`writerKeyFile`)"),
            Self::Copy => (
                "copying into a repository",
                "a writer key (`writerKeyFile`) and an identity (`identityFile`) of that repository",
            ),
            Self::Maintain => ("this", "a maintainer key (`maintainerKeyFile`) or an identity"),
            Self::Read => ("reading content", "an identity (`identityFile`, or --identity FILE)"),
            Self::List => ("opening a repository", "a key file of it"),
        }
    }
}

/// Reads the key files that `need` asks for.
///
/// # Errors
/// [`RepoError::KeyMissing`] where none of them is configured, else what is wrong with the file.
pub(crate) fn load(host: &Host<'_>, config: &RepositoryConfig, need: Need) -> Result<Keys, JobError> {
    let mut keys = Keys::default();
    let there = |path: &Option<PathBuf>| path.clone().filter(|path| need != Need::List || path.exists());
    let writer = there(&config.writer_key_file);
    let maintainer = there(&config.maintainer_key_file);
    let identity = there(&config.identity_file);
    // A list does with less.
    let mut unusable = Vec::new();
    let mut or_less = |error: JobError| {
        if need != Need::List {
            return Err(error);
        }
        unusable.push(error);
        Ok(())
    };
    if matches!(need, Need::Write | Need::Copy | Need::List)
        && let Some(path) = &writer
    {
        match read(host, path).and_then(|file| at(path, file.into_writer())) {
            Ok(key) => keys.writer = Some(key),
            Err(error) => or_less(error)?,
        }
    }
    if matches!(need, Need::Maintain | Need::List)
        && let Some(path) = &maintainer
    {
        match read(host, path).and_then(|file| at(path, file.into_maintainer())) {
            Ok(key) => keys.maintainer = Some(key),
            Err(error) => or_less(error)?,
        }
    }
    let wanted = match need {
        Need::Write => false,
        Need::Maintain => keys.maintainer.is_none(),
        Need::Copy | Need::Read | Need::List => true,
    };
    if wanted && let Some(path) = &identity {
        match read(host, path).and_then(|file| at(path, file.into_identity())) {
            Ok(key) => keys.identity = Some(key),
            Err(error) => or_less(error)?,
        }
    }
    let none = keys.writer.is_none() && keys.maintainer.is_none() && keys.identity.is_none();
    if none && !unusable.is_empty() {
        return Err(unusable.swap_remove(0));
    }
    for error in unusable {
        without(host, config, &error);
    }
    if none || need == Need::Copy && (keys.writer.is_none() || keys.identity.is_none()) {
        let (what, needs) = need.what();
        return Err(RepoError::KeyMissing { what, needs }.into());
    }
    Ok(keys)
}

/// Tells that a job goes on with what the other keys can do.
pub(crate) fn without(host: &Host<'_>, config: &RepositoryConfig, error: &JobError) {
    let hint = error.hint().map_or_else(String::new, |hint| format!(" (hint: {hint})"));
    host.run.monitor.note(&format!("{}: going on without a key: {}{hint}", config.name, error.chain()));
}

fn read(host: &Host<'_>, path: &Path) -> Result<KeyFile, JobError> {
    Ok(KeyFile::read(path, &mut || (host.passphrase)(path))?)
}

fn at<T>(path: &Path, key: Result<T, lifeboat_repo::keyfile::KeyFileError>) -> Result<T, JobError> {
    key.map_err(|source| RepoError::KeyFile { path: path.to_owned(), source }.into())
}

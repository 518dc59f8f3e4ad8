//! Passphrases of key files: from a file, or from a person.

use std::path::{Path, PathBuf};

use lifeboat_repo::Passphrase;

use crate::args::PassphraseArgs;
use crate::confirm;
use crate::exit::Exit;
use crate::failure::Failure;

/// Answers where a key file wants a passphrase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asker {
    /// What `--passphrase-file` held.
    given: Option<Passphrase>,
}

impl Asker {
    /// Reads the file now, so that it fails before anything is done.
    pub(crate) fn new(file: Option<&PathBuf>) -> Result<Self, Failure> {
        Ok(Self { given: file.map(|path| read(path)).transpose()? })
    }

    /// The passphrase; `None` where nobody can be asked.
    pub(crate) fn ask(&self, path: &Path) -> Option<Passphrase> {
        self.given.clone().or_else(|| confirm::old_passphrase(&format!("Passphrase of {}", path.display())))
    }
}

/// The passphrase that a new identity is to be protected by.
pub(crate) fn new_passphrase(args: &PassphraseArgs) -> Result<Option<Passphrase>, Failure> {
    let passphrase = match &args.passphrase_file {
        Some(path) => read(path)?,
        None if args.passphrase => confirm::new_passphrase("Passphrase for the new identity")?,
        None => return Ok(None),
    };
    if passphrase.is_empty() {
        return Err(Failure::usage("the passphrase is empty"));
    }
    Ok(Some(passphrase))
}

fn read(path: &Path) -> Result<Passphrase, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::of(Exit::Key, &error).while_doing(format!("the passphrase file {} cannot be read", path.display()))
    })?;
    Ok(Passphrase::new(text))
}

//! Passphrases of key files: from a file, or from a person.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
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

/// Reads the file, which like a key file must not be everybody's to read.
fn read(path: &Path) -> Result<Passphrase, Failure> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        let failure = Failure::of(Exit::Key, &error).while_doing(format!("the passphrase file {shown} cannot be read"));
        failure.hint("the file holds the passphrase alone; is the medium that holds it mounted?")
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let mode = meta.permissions().mode() & 0o777;
    if meta.is_file() && mode & 0o007 != 0 {
        let what = format!("every user of this machine can read the passphrase file {shown} (mode {mode:03o})");
        return Err(Failure::new(Exit::Key, what).hint(format!("chmod 600 {shown}")));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(Passphrase::new(text))
}

//! Questions to a person. Nobody is asked where standard input is no terminal: the command fails
//! and names the flag.

use std::io::IsTerminal;

use lifeboat_repo::Passphrase;

use crate::exit::Exit;
use crate::failure::Failure;

/// What to do where nobody can be asked about a plan that `--dry-run` shows as well.
pub(crate) const READ_THE_PLAN: &str = "read the plan above, then add --yes; --dry-run only shows it";

/// Asks for a yes. `yes` is the flag of that name, `hint` what to do where nobody can be asked.
pub(crate) fn confirm(question: &str, yes: bool, hint: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("this needs a yes, and standard input is not a terminal").hint(hint));
    }
    match inquire::Confirm::new(question).with_default(false).prompt() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Exit::Failed, "nothing was done: the plan was declined")),
        Err(error) => Err(Failure::of(Exit::Failed, &error)),
    }
}

/// Asks for the passphrase of a key file; `None` where nobody can be asked or nobody answers.
pub(crate) fn old_passphrase(what: &str) -> Option<Passphrase> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    password(what).without_confirmation().prompt().ok().map(Passphrase::new)
}

/// Asks twice for a passphrase.
pub(crate) fn new_passphrase(what: &str) -> Result<Passphrase, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("--passphrase asks, and standard input is not a terminal")
            .hint("use --passphrase-file FILE"));
    }
    password(what).prompt().map(Passphrase::new).map_err(|error| Failure::of(Exit::Failed, &error))
}

fn password(what: &str) -> inquire::Password<'_> {
    inquire::Password::new(what).with_display_mode(inquire::PasswordDisplayMode::Masked)
}

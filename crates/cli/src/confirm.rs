//! Questions to a person. Nobody is asked where standard input is no terminal: the command fails
//! and names the flag.

use std::io::IsTerminal;

use lifeboat_model::config::SecretText;

use crate::exit::Exit;
use crate::failure::Failure;

/// Asks for a yes. `yes` is the flag of that name.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("this needs a yes, and standard input is not a terminal")
            .hint("read the plan above, then add --yes; --dry-run only shows it"));
    }
    match inquire::Confirm::new(question).with_default(false).prompt() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Exit::Failed, "nothing was done: the plan was declined")),
        Err(error) => Err(Failure::of(Exit::Failed, &error)),
    }
}

/// Asks for the passphrase of a key file; `flag` is what a script uses instead.
pub(crate) fn passphrase(what: &str, new: bool, flag: &str) -> Result<SecretText, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Key,
            format!("{what} needs a passphrase, and standard input is not a terminal"),
        )
        .hint(format!("use {flag} FILE")));
    }
    let mut prompt = inquire::Password::new(what).with_display_mode(inquire::PasswordDisplayMode::Masked);
    if !new {
        prompt = prompt.without_confirmation();
    }
    prompt.prompt().map(SecretText::new).map_err(|error| Failure::of(Exit::Failed, &error))
}

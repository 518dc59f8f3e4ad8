//! Files that a person names on the command line.

use std::io::ErrorKind;
use std::path::Path;

use lifeboat_wire::fs::{Existing, write_durable};

use crate::exit::Exit;
use crate::failure::Failure;

/// Reads a file that somebody brought; `what` is the word for it, such as `request`.
pub(crate) fn read(what: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let exit = if error.kind() == ErrorKind::NotFound { Exit::Usage } else { Exit::Failed };
        Failure::of(exit, &error)
            .while_doing(format!("the {what} {} cannot be read", path.display()))
            .hint(format!("name the file that holds the {what}"))
    })
}

/// Refuses a place for a new file that is taken.
pub(crate) fn refuse_taken(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() { Err(taken(path)) } else { Ok(()) }
}

/// Writes a file where there is none.
pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    write_durable(path, text.as_bytes(), mode, Existing::Refuse).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => Failure::of(Exit::Failed, &error),
    })
}

fn taken(path: &Path) -> Failure {
    Failure::usage(format!("{} exists already and is not overwritten", path.display()))
        .hint("give another path, or move it away")
}

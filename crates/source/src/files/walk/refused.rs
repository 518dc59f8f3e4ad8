//! Configured paths that cannot be backed up.

use std::path::PathBuf;

use lifeboat_model::EntryPath;
use rustix::io::Errno;

use crate::SourceError;

pub(super) fn root_failed(shown: &str, error: Errno) -> SourceError {
    let hint = match error {
        Errno::NOENT | Errno::NOTDIR => {
            "is its disk mounted? A path that is no longer wanted has to leave the configuration"
        }
        Errno::ACCESS | Errno::PERM => "run the backup as root, or as a user that may read it",
        _ => "look at the disk and its file system: dmesg, mount",
    };
    SourceError::Failed {
        what: format!("the configured path {shown} cannot be read"),
        hint: Some(hint.to_owned()),
        source: Some(Box::new(std::io::Error::from(error))),
    }
}

pub(super) fn is_socket(root: &EntryPath) -> SourceError {
    SourceError::Config {
        what: format!("the configured path /{root} is a socket, which holds no data"),
        hint: Some("configure the directory where its program keeps its data".to_owned()),
    }
}

pub(super) fn through_a_link(root: &EntryPath, link: &EntryPath) -> SourceError {
    use std::os::unix::ffi::OsStrExt;
    let path = PathBuf::from("/").join(std::ffi::OsStr::from_bytes(root.as_bytes()));
    let hint = std::fs::canonicalize(&path).map_or_else(
        |_| "the link leads nowhere".to_owned(),
        |real| format!("write {} instead, so that a restore puts the files where they are", real.display()),
    );
    SourceError::Config {
        what: format!("the configured path /{root} leads through the symbolic link /{link}"),
        hint: Some(hint),
    }
}

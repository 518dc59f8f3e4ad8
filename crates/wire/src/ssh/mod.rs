//! A client of SSH servers: who they are is checked, who we are is proved, and no call waits for ever.
//!
//! Names, files and their order are OpenSSH's: `~/.ssh/config` ([`config`]), `known_hosts`
//! ([`known_hosts`]), private keys and agents ([`key`]). On a [`Connection`] several channels run side
//! by side; [`sftp`] speaks the file protocol on one. RFC 4251 to 4254.

mod address;
pub mod config;
mod connection;
pub mod key;
pub mod known_hosts;
mod login;
pub mod sftp;
mod watched;

pub use address::Address;
pub use connection::{Connection, Times};

/// What went wrong, for callers that decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SshErrorKind {
    /// The server cannot be reached, or the connection broke: another try may succeed.
    Lost,
    /// The server is not who it should be.
    HostKey,
    /// The server does not let us in.
    Login,
    /// A file or a setting of this machine.
    Setup,
    /// The server is there and does not do what it was asked.
    Refused,
}

/// A failed connection, login or channel.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct SshError {
    /// What to decide by.
    pub kind: SshErrorKind,
    what: String,
    hint: Option<String>,
}

impl SshError {
    /// An error in words.
    pub fn new(kind: SshErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: None }
    }

    /// The same with what to try.
    #[must_use]
    pub fn hinting(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a person could try next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

//! What can be typed after `key`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{IdentityArgs, MemoryArgs, PassphraseArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a further key: for a writer a request to the owner, else by the owner.
    Generate(KeyGenerateArgs),
    /// Print the secrets of the keyring, or the recovery sheet, for the safe.
    Export(KeyExportArgs),
    /// Add whoever made a request; writes the grant that they take.
    Add(KeyAddArgs),
    /// Take a key off the roster.
    Remove(KeyRemoveArgs),
    /// Take a grant that was made for a request of this machine.
    Accept(KeyAcceptArgs),
    /// Prove that a key file opens the repository.
    Test(KeyTestArgs),
}

/// The roles that keys can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRole {
    /// Adds snapshots.
    Writer,
    /// Forgets and prunes.
    Maintainer,
    /// Reads.
    Identity,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyGenerateArgs {
    /// What the key is for.
    #[arg(value_enum)]
    pub(crate) role: KeyRole,
    /// The new key file.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// For a writer: the request that goes to the owner [default: FILE.request].
    #[arg(long, value_name = "FILE")]
    pub(crate) request: Option<PathBuf>,
    /// For a maintainer or an identity: the owner's key, which puts the new one on the roster.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// File with the passphrase of the owner's key.
    #[arg(long, value_name = "FILE")]
    pub(crate) owner_passphrase_file: Option<PathBuf>,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) protect: PassphraseArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyExportArgs {
    /// Print the recovery sheet, by which the owner's key can be typed in again.
    #[arg(long)]
    pub(crate) sheet: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyAddArgs {
    /// The request.
    #[arg(value_name = "REQUEST")]
    pub(crate) request: PathBuf,
    /// The grant that goes back [default: REQUEST.grant].
    #[arg(long, value_name = "FILE")]
    pub(crate) grant: Option<PathBuf>,
    /// Deduplicate with the writer of this key id: the two must then trust each other.
    #[arg(long, value_name = "KEY")]
    pub(crate) domain: Option<String>,
    /// Do not ask; needed where standard input is no terminal.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) owner: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyRemoveArgs {
    /// The key's id, 6 or more digits; `lifeboat key test` and `doctor` show it.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
    /// Do not ask; needed where standard input is no terminal.
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) owner: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyAcceptArgs {
    /// The grant.
    #[arg(value_name = "GRANT")]
    pub(crate) grant: PathBuf,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyTestArgs {
    /// Where the store is, on a machine without configuration.
    #[arg(long, value_name = "URL", conflicts_with = "repository")]
    pub(crate) url: Option<String>,
    /// The key file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// File with the passphrase of a protected identity.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
}

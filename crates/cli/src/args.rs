//! The command line as it is typed. [`crate::request`] makes checked requests of it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Backs up a whole stack and proves that it comes back.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, about, max_term_width = 100, after_help = exit_codes(), subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn exit_codes() -> String {
    let codes = crate::exit::Exit::ALL.map(|(exit, what)| format!("  {:>2}  {what}", exit.code()));
    format!("Exit codes:\n{}", codes.join("\n"))
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// Configuration file, or `LIFEBOAT_CONFIG` [default: lifeboat.yaml, /etc/lifeboat/lifeboat.yaml].
    #[arg(long, global = true, env = "LIFEBOAT_CONFIG", value_name = "FILE", hide_env = true, display_order = 100)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of catalog, cache and scratch files, or `LIFEBOAT_STATE_DIR`.
    #[arg(long, global = true, env = "LIFEBOAT_STATE_DIR", value_name = "DIR", hide_env = true, display_order = 101)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long, global = true, display_order = 102)]
    pub(crate) json: bool,
    /// Tell only warnings and errors.
    #[arg(long, short, global = true, conflicts_with = "verbose", display_order = 103)]
    pub(crate) quiet: bool,
    /// Tell more; twice for all.
    #[arg(long, short, global = true, action = clap::ArgAction::Count, display_order = 104)]
    pub(crate) verbose: u8,
    /// How notes and errors are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "text|json",
        hide_possible_values = true, hide_default_value = true, display_order = 105)]
    pub(crate) log_format: LogFormat,
}

/// How standard error is written: lines for people, or one object a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// The commands, in the order in which a person meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the repository and the keys that are missing.
    Init(InitArgs),
    /// Look at configuration, keys, stores and sources.
    Doctor,
    /// Back up sources, all of them by default.
    Backup(BackupArgs),
    /// List snapshots, oldest first.
    Snapshots(SnapshotsArgs),
    /// List the entries of a snapshot.
    Ls(LsArgs),
    /// Print an entry of a snapshot.
    Cat(CatArgs),
    /// Bring a snapshot back.
    Restore(RestoreArgs),
    /// Compare what is there with a snapshot; change nothing.
    Verify(VerifyArgs),
    /// Check that the repository is whole.
    Check(CheckArgs),
    /// Copy snapshots into another repository, with its own keys and retention.
    Copy(CopyArgs),
    /// Drop snapshots by the retention policy, with reasons.
    Forget(ForgetArgs),
    /// Keep a snapshot whatever the policy says, or release it.
    Hold(HoldArgs),
    /// Free the space of what no snapshot needs.
    Prune(PruneArgs),
    /// Restore points and configuration from a store and an identity alone.
    Recover(RecoverArgs),
    /// Make, test, add and remove keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script.
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// How the secret of a key file is protected.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PassphraseArgs {
    /// Protect the new identity by a passphrase, asked for twice.
    #[arg(long, conflicts_with = "passphrase_file")]
    pub(crate) passphrase: bool,
    /// Protect the new identity by the passphrase in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// How a protected identity is opened.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct IdentityArgs {
    /// Key that reads, in place of the configuration's identityFile.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// File with the passphrase of a protected identity.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// What the owner does with what this machine remembers.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Go on although this machine remembers a newer roster than the store shows, which is damaged or lost: what it
    /// changed is to be done again. The new roster takes the place of both.
    #[arg(long)]
    pub(crate) forget_remembered_roster: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InitArgs {
    /// Repository to make; all of the configuration by default.
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<String>,
    /// Where the secret identity goes: a USB stick, not this host.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Print what belongs into the safe. It holds the secret key.
    #[arg(long)]
    pub(crate) recovery_sheet: bool,
    #[command(flatten)]
    pub(crate) protect: PassphraseArgs,
    /// How long a prune waits and a run may be silent, such as 48h, 30m, 10s.
    #[arg(long, value_name = "TIME", default_value = "48h")]
    pub(crate) grace: String,
    /// On a further host: take this grant, which `key add` made for its request.
    #[arg(long, value_name = "FILE")]
    pub(crate) grant: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    /// Sources of the configuration.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// A name by which the snapshots can be asked for.
    #[arg(long)]
    pub(crate) label: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SnapshotsArgs {
    /// Only of these sources: SOURCE or STACK/SOURCE.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Repository; all of the configuration by default.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LsArgs {
    /// SOURCE, SOURCE@WHICH or an id, and :PATH for a part.
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub(crate) what: String,
    /// List everything below.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CatArgs {
    /// SOURCE, SOURCE@WHICH or an id, and the path of a file.
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub(crate) what: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "WHICH is `latest`, a time (the newest at or before it), an id of 6 or more digits, or a label.\n\
    A time without offset is read in the configuration's timeZone.\n\n\
    Examples:\n  lifeboat restore documents --to /mnt/documents\n  \
    lifeboat restore registry@\"2026-02-05 03:00\" --to origin --replace\n  \
    lifeboat restore registry --to postgres://admin@other/ --only events/app.births\n  \
    lifeboat restore registry --to origin --rename events=events_copy"
)]
pub(crate) struct RestoreArgs {
    /// [STACK/]SOURCE[@WHICH], or an id.
    #[arg(value_name = "SOURCE[@WHICH]")]
    pub(crate) what: String,
    /// A directory, the URL of a server, or `origin`.
    #[arg(long, value_name = "DIR|URL|origin")]
    pub(crate) to: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    /// A part, repeatable: path or glob of files; DATABASE, DATABASE/SCHEMA, DATABASE/TABLE or
    /// DATABASE/SCHEMA.TABLE.
    #[arg(long, value_name = "PATH|TABLE")]
    pub(crate) only: Vec<String>,
    /// Replace what stands in the way: restore beside it, then rename.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Restore a database under another name, repeatable. Without --only just those named here are
    /// restored.
    #[arg(long, value_name = "OLD=NEW")]
    pub(crate) rename: Vec<String>,
    /// How much is done at the same time [default: as many as there are cores].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) jobs: Option<u16>,
    /// Show the plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// [STACK/]SOURCE[@WHICH], or an id.
    #[arg(value_name = "SOURCE[@WHICH]")]
    pub(crate) what: String,
    /// A directory, the URL of a server, or `origin`.
    #[arg(long, value_name = "DIR|URL|origin", default_value = "origin")]
    pub(crate) to: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    /// A part, repeatable: path or glob of files; DATABASE, DATABASE/SCHEMA, DATABASE/TABLE or
    /// DATABASE/SCHEMA.TABLE.
    #[arg(long, value_name = "PATH|TABLE")]
    pub(crate) only: Vec<String>,
    /// Compare a database under another name, repeatable. Without --only just those named here.
    #[arg(long, value_name = "OLD=NEW")]
    pub(crate) rename: Vec<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArgs {
    /// Read every byte, not only what says where they are.
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Compare with the snapshots of this repository instead: what either lacks, what differs.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) against: Option<String>,
    /// Repository; all of the configuration by default.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "A source means all of its snapshots that the other repository lacks and its retention would \
    keep;\nSOURCE@WHICH means that one. Copies keep their time, and commands take the original's id too.\n\n\
    Examples:\n  lifeboat copy --from main --to offsite\n  \
    lifeboat copy registry@before-upgrade --from main --to offsite")]
pub(crate) struct CopyArgs {
    /// [STACK/]SOURCE[@WHICH], or an id; by default everything that the other repository lacks.
    #[arg(value_name = "SOURCE[@WHICH]")]
    pub(crate) what: Vec<String>,
    /// Repository to read.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: String,
    /// Repository to write.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) to: String,
    /// Show what would be copied, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Sources of the configuration; all of them by default.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Show what would be kept and forgotten, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct HoldArgs {
    /// [STACK/]SOURCE@WHICH, or an id.
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) what: String,
    /// Why.
    #[arg(long, value_name = "TEXT", conflicts_with = "release")]
    pub(crate) reason: Option<String>,
    /// End the hold.
    #[arg(long)]
    pub(crate) release: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PruneArgs {
    /// Repository; all of the configuration by default.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    /// Show what would be freed, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Prune with this key that reads in place of the maintainer's: packs that snapshots need and that no index names
    /// are read and indexed again.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// File with the passphrase of a protected identity.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Where the store is: `file:///srv/lifeboat`.
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Key that reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: PathBuf,
    /// File with the passphrase of a protected identity.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Write the newest configuration that a snapshot carries into this file, as a restore host.
    #[arg(long, value_name = "FILE")]
    pub(crate) write_config: Option<PathBuf>,
    /// Only this stack; needed for --write-config where there are several.
    #[arg(long, value_name = "NAME")]
    pub(crate) stack: Option<String>,
}

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
    #[arg(long, value_name = "NAME")]
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
    #[arg(long, value_name = "NAME")]
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
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "NAME")]
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
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<String>,
    /// Do not ask.
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
    #[arg(long, value_name = "NAME")]
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
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<String>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the JSON schema of the configuration.
    Schema,
    /// Print the configuration with defaults filled in, without secrets, with the next runs.
    Show,
}

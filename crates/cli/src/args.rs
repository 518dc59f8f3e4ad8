//! The command line as it is typed. [`crate::request`] makes checked requests of it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod key;

pub(crate) use key::*;

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

/// How a snapshot is named, for the help of the commands that take one; then examples.
fn which(examples: &str) -> String {
    format!(
        "WHICH is `latest` (the default), a time (the newest at or before the end of that second, minute or day), an id\n\
         of 6 or more digits, or a label. A time without offset is read in the configuration's timeZone.\n\n{examples}"
    )
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// Configuration file, or `LIFEBOAT_CONFIG` [default: lifeboat.yaml, /etc/lifeboat/lifeboat.yaml].
    #[arg(long, global = true, env = "LIFEBOAT_CONFIG", value_name = "FILE", hide_env = true, display_order = 100)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of catalog, cache and scratch files, or `LIFEBOAT_STATE_DIR` [default: stateDir of the
    /// configuration, else /var/lib/lifeboat for root and ~/.local/state/lifeboat for others].
    #[arg(long, global = true, env = "LIFEBOAT_STATE_DIR", value_name = "DIR", hide_env = true, display_order = 101)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long, global = true, display_order = 102)]
    pub(crate) json: bool,
    /// Tell only warnings, errors and what is asked.
    #[arg(long, short, global = true, conflicts_with = "verbose", display_order = 103)]
    pub(crate) quiet: bool,
    /// Tell the steps of a run; twice, all that the libraries trace.
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
    /// Print the content of a file of a snapshot.
    Cat(CatArgs),
    /// Bring a snapshot back.
    Restore(RestoreArgs),
    /// Compare what is there with a snapshot; change nothing.
    Verify(VerifyArgs),
    /// Check that the repository is whole.
    Check(CheckArgs),
    /// Copy snapshots into another repository, with its own keys and retention.
    Copy(CopyArgs),
    /// Mend what a check found, from what is left, a second repository, and the next backup.
    Repair(RepairArgs),
    /// Drop snapshots by the retention policy, with reasons; `prune` then frees their space.
    Forget(ForgetArgs),
    /// Keep a snapshot whatever the policy says, or release it.
    Hold(HoldArgs),
    /// Free the space of what no snapshot needs: mark it, later delete it.
    Prune(PruneArgs),
    /// List what a store holds and write its configuration back, from an identity alone.
    Recover(RecoverArgs),
    /// Make, test, add and remove keys; print what belongs into the safe.
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
    /// Only this repository of the configuration; all by default.
    #[arg(long, value_name = "NAME", alias = "from")]
    pub(crate) repository: Option<String>,
    /// Where the new identity, the key that reads, is written: a USB stick, not this host.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Print the recovery sheet, which belongs into the safe: the secret key, to be typed in again.
    #[arg(long)]
    pub(crate) recovery_sheet: bool,
    #[command(flatten)]
    pub(crate) protect: PassphraseArgs,
    /// How long a prune waits before it deletes what it marked, and for how long a running backup may
    /// be silent: 48h, 30m, 10s.
    #[arg(long, value_name = "TIME", default_value = "48h")]
    pub(crate) grace: String,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// On a further host: the grant that the owner made of its request by `key add`.
    #[arg(long, value_name = "FILE")]
    pub(crate) grant: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    /// Sources of the configuration.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// A name by which the snapshots can be asked for: SOURCE@LABEL.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Go on with the history although the sources stand on another system than at the last backup: this
    /// one, of the stack STACK, took its place for good. Not for a copy of it.
    #[arg(long, value_name = "STACK")]
    pub(crate) moved: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SnapshotsArgs {
    /// Only of these sources: SOURCE or STACK/SOURCE.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Only this repository of the configuration; all by default.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = which("Examples:\n  lifeboat ls documents\n  lifeboat ls -R documents@first:/srv/documents"))]
pub(crate) struct LsArgs {
    /// SOURCE, SOURCE@WHICH or an id, and :PATH for a part.
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub(crate) what: String,
    /// List everything below.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = which("Example:\n  lifeboat cat documents@\"2026-02-05 03:00\":/srv/documents/letter.txt"))]
pub(crate) struct CatArgs {
    /// SOURCE, SOURCE@WHICH or an id, and the path of a file.
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub(crate) what: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
#[command(
    after_help = which("Examples:\n  lifeboat restore documents --to /mnt/documents\n  \
    lifeboat restore registry@\"2026-02-05 03:00\" --to origin --replace\n  \
    lifeboat restore registry --to postgres://admin@other/ --only events/app.births\n  \
    lifeboat restore registry --to origin --rename events=events_copy")
)]
pub(crate) struct RestoreArgs {
    /// [STACK/]SOURCE[@WHICH], or an id.
    #[arg(value_name = "SOURCE[@WHICH]")]
    pub(crate) what: String,
    /// A directory, the URL of a server, or `origin`.
    #[arg(long, value_name = "DIR|URL|origin")]
    pub(crate) to: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
    pub(crate) from: Option<String>,
    /// A part, repeatable: path or glob of files; DATABASE, DATABASE/SCHEMA, DATABASE/TABLE or
    /// DATABASE/SCHEMA.TABLE. To a directory, of a database too, a path that `ls` shows.
    #[arg(long, value_name = "PATH|TABLE")]
    pub(crate) only: Vec<String>,
    /// Replace what stands in the way: everything is read and checked, restored beside it, then renamed.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Restore a database under another name, repeatable. Without --only just those named here are
    /// restored.
    #[arg(long, value_name = "OLD=NEW")]
    pub(crate) rename: Vec<String>,
    /// How many files or tables are written at the same time [default: as many as there are cores].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) jobs: Option<u16>,
    /// Show the plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask; needed where standard input is no terminal.
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = which("Examples:\n  lifeboat verify documents\n  lifeboat verify registry@first --to postgres://admin@other/"))]
pub(crate) struct VerifyArgs {
    /// [STACK/]SOURCE[@WHICH], or an id.
    #[arg(value_name = "SOURCE[@WHICH]")]
    pub(crate) what: String,
    /// A directory, the URL of a server, or `origin`.
    #[arg(long, value_name = "DIR|URL|origin", default_value = "origin")]
    pub(crate) to: String,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
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
    /// Read and check every byte, which takes as long as a restore; without it only what says where
    /// the bytes are.
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Read what this host never read, and a share of what it read longest ago.
    #[arg(long, conflicts_with_all = ["read_data", "against"])]
    pub(crate) since_last: bool,
    /// How much of what was read before is read again: a share of all bytes, or a time [default: 5%].
    #[arg(long, value_name = "5%|10m", requires = "since_last")]
    pub(crate) budget: Option<String>,
    /// Take note that a root object is gone for good, by its hash or 6 or more digits of it; repeatable. This
    /// machine then says nothing more of it. One that is damaged is deleted by the next `repair`.
    #[arg(long, value_name = "ROOT", conflicts_with = "against")]
    pub(crate) accept_loss: Vec<String>,
    /// Compare with the snapshots of this repository instead: what either lacks, what differs.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) against: Option<String>,
    /// Only this repository of the configuration; all by default.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
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
    /// File with the passphrase of protected identities.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Nothing is deleted but objects that were read and are of no use. What nobody has any more is \
    named, and all else in those snapshots can still be restored, with `restore --only`.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct RepairArgs {
    /// Repository to repair, where the configuration has several.
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<String>,
    /// Repository with copies of its snapshots, or with their originals.
    #[arg(long, value_name = "REPOSITORY")]
    pub(crate) from: Option<String>,
    /// Read every byte, as `check --read-data` does.
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Forget snapshots that lost content which nobody has any more.
    #[arg(long)]
    pub(crate) forget_lost: bool,
    /// Show what would be done, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Sources of the configuration; all of them by default.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Show what would be kept and forgotten, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask; needed where standard input is no terminal.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = which("Examples:\n  lifeboat hold documents@first --reason \"court case 12\"\n  lifeboat hold documents@first --release"))]
pub(crate) struct HoldArgs {
    /// [STACK/]SOURCE@WHICH, or an id.
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) what: String,
    /// Why it is kept; `snapshots` shows it.
    #[arg(long, value_name = "TEXT", conflicts_with = "release")]
    pub(crate) reason: Option<String>,
    /// Let the policy forget it again.
    #[arg(long)]
    pub(crate) release: bool,
    /// Repository, where the configuration has several.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
    pub(crate) from: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only this repository of the configuration; all by default.
    #[arg(long, value_name = "REPOSITORY", alias = "repository")]
    pub(crate) from: Option<String>,
    /// Show what would be freed, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask; needed where standard input is no terminal.
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
    /// The key that reads.
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

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the JSON schema of the configuration.
    Schema,
    /// Print the configuration with defaults filled in, without secrets, with the next runs.
    Show,
}

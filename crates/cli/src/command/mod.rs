//! One module for each command, or for commands that share their work.

mod backup;
mod config;
mod copy;
mod doctor;
mod init;
mod key;
mod key_file;
mod look;
mod recover;
mod repair;
mod restore;
mod snapshots;
mod upkeep;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

/// Runs the command.
pub(crate) async fn run(session: &Session, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::run(session, args).await,
        Command::Backup(args) => backup::run(session, args).await,
        Command::Snapshots(args) => snapshots::run(session, args).await,
        Command::Doctor => doctor::run(session).await,
        Command::Ls(args) => look::ls(session, args).await,
        Command::Cat(args) => look::cat(session, args).await,
        Command::Check(args) => upkeep::check(session, args).await,
        Command::Copy(args) => copy::run(session, args).await,
        Command::Repair(args) => repair::run(session, args).await,
        Command::Forget(args) => upkeep::forget(session, args).await,
        Command::Hold(args) => upkeep::hold(session, args).await,
        Command::Prune(args) => upkeep::prune(session, args).await,
        Command::Restore(args) => restore::restore(session, args).await,
        Command::Verify(args) => restore::verify(session, args).await,
        Command::Recover(args) => recover::run(session, args).await,
        Command::Key(which) => key::run(session, which).await,
        Command::Config(which) => config::run(session, which),
        Command::Completions { shell } => completions(session, shell),
    }
}

fn completions(session: &Session, shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lifeboat", &mut script);
    let script = String::from_utf8_lossy(&script);
    if session.json() {
        output::json("completions", &[serde_json::json!({ "shell": shell.to_string(), "script": script })])?;
    } else {
        output::text(&script)?;
    }
    Ok(Exit::Ok)
}

//! The `lifeboat` command: reads arguments, environment and configuration, calls the engine's
//! jobs, prints what they report, and ends with a code that scripts can rely on.

mod allocator;
mod args;
mod command;
mod config;
mod confirm;
mod exit;
mod failure;
mod file;
mod output;
mod progress;
mod request;
mod secret;
mod session;
mod talk;
mod trace;
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use lifeboat_wire::clock::SystemClock;

use crate::args::{Cli, LogFormat};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::talk::Talk;

fn main() -> ExitCode {
    allocator::tune();
    // Fails only where one is installed already, and this is the first use.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => misused(&error),
    };
    ExitCode::from(exit.code())
}

fn run(cli: Cli) -> Exit {
    let json = cli.globals.json || cli.globals.log_format == LogFormat::Json;
    let talk = Talk::new(json, cli.globals.quiet, Arc::new(SystemClock));
    trace::begin(cli.globals.verbose, talk.clone());
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Failed, &error))
        .and_then(|runtime| {
            let session = Session::new(cli.globals, talk.clone());
            runtime.block_on(async {
                session.stop_on_signals();
                command::run(&session, cli.command).await
            })
        });
    outcome.unwrap_or_else(|failure| {
        talk.fail(&failure);
        failure.exit
    })
}

/// Help and versions go to standard output; everything else is told as any other failure is.
fn misused(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        return match output::text(&error.render().to_string()) {
            Ok(()) => Exit::Ok,
            Err(failure) => failure.exit,
        };
    }
    let json = std::env::args_os().any(|arg| arg == "--json");
    let talk = Talk::new(json, false, Arc::new(SystemClock));
    let ours = Cli::command();
    let ours: Vec<&str> = ours.get_subcommands().map(clap::Command::get_name).collect();
    let failure = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) if is_first_word(word) => {
            words::unknown_command(word, &ours)
        }
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            Failure::usage(format!("no command was given\n\n{}", error.render().to_string().trim_end()))
        }
        _ => {
            let text = error.render().to_string();
            Failure::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end())
        }
    };
    talk.fail(&failure);
    failure.exit
}

/// Whether the word stands where a command stands, and not where one of `key` or `config` does.
fn is_first_word(word: &str) -> bool {
    let nested = ["key", "config"];
    !std::env::args().take_while(|arg| arg != word).any(|arg| nested.contains(&arg.as_str()))
}

//! The `lifeboat` command as a person or a script runs it. One binary for all of them, since each
//! links the whole program.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on says so, and tells what it measured"
)]

mod bad;
mod cli;
mod closing;
mod config;
mod copy;
mod docs;
mod files;
mod flow;
mod harness;
mod history;
mod home;
mod keys;
mod kill;
mod paged;
mod postgres;
mod repair;
mod sftp;
mod told;

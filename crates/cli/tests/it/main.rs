//! The `lifeboat` command as a person or a script runs it. One binary for all of them, since each
//! links the whole program.

mod cli;
mod closing;
mod config;
mod docs;
mod flow;
mod harness;
mod keys;
mod kill;
mod run;

//! The `lifeboat` command as a person or a script runs it. One binary for all of them, since each
//! links the whole program.

mod cli;
mod config;
mod flow;
mod keys;
mod run;

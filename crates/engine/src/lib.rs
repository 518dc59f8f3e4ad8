//! The jobs: what joins sources and repositories.
//!
//! A job takes the checked configuration and a [`lifeboat_model::flow::RunContext`] and returns a
//! report, a plain value that the command line prints. It reads no arguments, prints nothing and
//! never ends the process.

pub mod catalog;
pub mod lock;
pub mod scratch;

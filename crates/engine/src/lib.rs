//! The jobs: what joins sources and repositories.
//!
//! A job takes a [`Host`] (the checked configuration, the catalog and the run's context) and
//! returns a report, a plain value that the command line prints. It reads no arguments, prints
//! nothing and never ends the process.

// The jobs.
pub mod backup;
pub mod browse;
pub mod compare;
pub mod copy;
pub mod forget;
pub mod listing;
pub mod recover;
pub mod repair;
pub mod restore;
pub mod snapshot;
pub mod upkeep;

// What they share.
pub mod datastore;
pub mod error;
pub mod history;
pub mod host;
pub mod keys;
pub mod repository;

// What this machine keeps.
pub mod catalog;
pub mod lock;
pub mod scratch;

#[cfg(test)]
mod testing;

pub use error::JobError;
pub use host::Host;

//! The jobs: what joins sources and repositories.
//!
//! A job takes a [`Host`] (the checked configuration, the catalog and the run's context) and
//! returns a report, a plain value that the command line prints. It reads no arguments, prints
//! nothing and never ends the process.

pub mod browse;
pub mod catalog;
pub mod error;
pub mod host;
pub mod lock;
pub mod restore;
pub mod scratch;

pub use error::JobError;
pub use host::Host;

//! The repository: encrypted, deduplicated, write-only for the hosts that write.
//!
//! `docs/format.md` specifies every byte; the modules follow its sections.

pub mod access;
pub mod chunker;
pub mod crypt;
pub mod object;
pub mod roster;

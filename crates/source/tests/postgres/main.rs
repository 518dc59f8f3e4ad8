//! Backups and restores of real PostgreSQL servers.

mod backup;
mod fixture;

//! Backups and restores of real PostgreSQL servers.

mod backup;
mod empty;
mod encoding;
mod failure;
mod fixture;
mod leftovers;
mod parallel;
mod parts;
mod restore;
mod roles;
mod tls;
mod verify;

//! The `lifeboat` command.

mod config;

fn main() {}

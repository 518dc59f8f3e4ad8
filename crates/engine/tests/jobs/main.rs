//! The jobs on real repositories in directories, with real sources.

mod backup;
mod catalog;
mod keys;
mod postgres;
mod restore;
mod site;
mod stacks;

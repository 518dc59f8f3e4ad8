//! Roots whose bytes in the store are not what was written.

use std::collections::BTreeSet;

use lifeboat_model::flow::RunContext;
use lifeboat_model::{ObjectHash, SnapshotId};
use lifeboat_store::PutMode;

use super::remove_broken;
use crate::error::RepoError;
use crate::forget::{keeper, put};
use crate::object::ObjectType;
use crate::repository::Repository;
use crate::small::{self, Forget};

/// Damaged roots by what can be done about them.
#[derive(Debug, Default)]
pub(super) struct DamagedRoots {
    /// This machine keeps their bytes.
    pub(super) kept: Vec<ObjectHash>,
    /// A person accepted their loss.
    pub(super) given_up: Vec<ObjectHash>,
    /// Nothing, yet.
    pub(super) left: Vec<ObjectHash>,
}

impl DamagedRoots {
    /// Tells what can be done about each of these.
    pub(super) async fn sort(repository: &Repository, damaged: &BTreeSet<ObjectHash>) -> Result<Self, RepoError> {
        let mut found = Self::default();
        for &root in damaged {
            let place = if repository.kept_root(root).await?.is_some() {
                &mut found.kept
            } else if repository.accepts(&root) {
                &mut found.given_up
            } else {
                &mut found.left
            };
            place.push(root);
        }
        Ok(found)
    }

    /// Puts the very bytes back. Their names seal them.
    pub(super) async fn put_back(&self, repository: &Repository) -> Result<u64, RepoError> {
        for root in &self.kept {
            let Some(bytes) = repository.kept_root(*root).await? else { continue };
            repository.store().put(&ObjectType::SnapshotRoot.key(*root), bytes, PutMode::Replace).await?;
        }
        Ok(self.kept.len() as u64)
    }

    /// Deletes those that were given up. A forget tells every machine that nobody tore the chain.
    pub(super) async fn give_up(&self, repository: &Repository, ctx: &RunContext) -> Result<u64, RepoError> {
        let mut removed = 0;
        for root in &self.given_up {
            let signer = keeper(repository.access(), "a repair")?;
            // Whose it was is in the part that cannot be read.
            for keys in repository.access().domains.values() {
                let why = "its root object was damaged, and a person gave it up".to_owned();
                let word = Forget { snapshot: SnapshotId(root.0), why, time: ctx.clock.now() };
                let (name, bytes) = small::encode(&word, &keys.index, signer);
                put(repository.store(), &name, bytes).await?;
            }
            removed += u64::from(remove_broken(repository, &ObjectType::SnapshotRoot.key(*root), *root).await?);
        }
        Ok(removed)
    }
}

//! Mending what a check found: what is still there in another place is put back, what nobody has is named.
//!
//! Good records of damaged packs are packed anew as ciphertext, packs that no index names get one from
//! their own trailers, lost chunks are quarantined so that the next backup stores those that the sources
//! still have, and copies in another repository give back the rest ([`crate::copy::Copier::refill`]).
//! Nothing is deleted but what was read and is of no use: objects whose bytes are not those that their
//! name seals, and quarantines of which nothing is lost any more. A pack of which nobody can tell what was
//! in it stays for as long as anything is lost: it may hold it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, ObjectHash};
use lifeboat_store::{Key, StoreErrorKind};

use crate::check::{BadPart, CheckReport, CheckScope, Reading, Survey, survey};
use crate::error::RepoError;
use crate::forget::{keeper, put};
use crate::inventory;
use crate::object::{DomainId, ObjectError, ObjectType};
use crate::pack::PackKind;
use crate::remember::RememberedHead;
use crate::repository::Repository;
use crate::roster::KeyringCopy;
use crate::scan::PackSeen;
use crate::sealed::check_hash;
use crate::small::{self, Mark, Quarantine};

mod lost;
mod mend;
mod roots;

pub use lost::{LostSnapshot, PATHS_MAX};

/// Ids that one quarantine object holds at most.
const QUARANTINE_MAX: usize = 100_000;

/// What a look found, and what can be done about it.
#[derive(Debug)]
pub struct Repair {
    survey: Survey,
    roots: roots::DamagedRoots,
    remembered: Vec<RememberedHead>,
}

/// What a repair is going to do, as names for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Damaged packs whose good records are packed anew.
    pub salvage: Vec<String>,
    /// Damaged packs that no index names and whose own list cannot be read: nobody can tell what was in
    /// them, so they stay while anything is lost.
    pub unknown: Vec<String>,
    /// Packs that no index names and that get one.
    pub index: Vec<String>,
    /// Damaged objects that go: index objects, since the packs get another; packs of which nobody can tell
    /// what was in them where nothing is lost; roots whose loss a person accepted.
    pub drop: Vec<String>,
    /// Copies of the keyring that are put back.
    pub keyrings: Vec<String>,
    /// Damaged roots whose bytes this machine keeps, and which are put back.
    pub roots: Vec<String>,
    /// Damaged roots that nobody can mend, unless a person gives them up.
    pub left: Vec<String>,
    /// Chunks that snapshots need and of which no good copy is left.
    pub lost_chunks: u64,
}

impl Plan {
    /// Whether there is nothing to mend.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { left: self.left.clone(), ..Self::default() }
    }
}

/// What was mended without another repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Records of damaged packs that were packed anew.
    pub salvaged: u64,
    /// Packs that have an index now.
    pub indexed: u64,
    /// Copies of the keyring that were put back.
    pub keyrings: u64,
    /// Roots that were put back.
    pub roots: u64,
    /// What could not be mended, and why.
    pub notes: Vec<String>,
}

impl Repair {
    /// Looks at everything, as a check does.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] without an identity, and as [`crate::check::check`].
    pub async fn look(
        repository: &Repository,
        scope: CheckScope,
        remembered: &[RememberedHead],
        ctx: &RunContext,
    ) -> Result<Self, RepoError> {
        if !repository.access().can_read() {
            return Err(RepoError::KeyMissing { what: "a repair", needs: "an identity" });
        }
        let reading = if scope.read_data { Reading::All } else { Reading::Nothing };
        let survey = survey(repository, &reading, remembered, ctx).await?;
        let roots = roots::DamagedRoots::sort(repository, &survey.damaged_roots).await?;
        Ok(Self { survey, roots, remembered: remembered.to_vec() })
    }

    /// Looks again. What was found bad is not read a second time.
    ///
    /// # Errors
    /// As [`Repair::look`].
    pub async fn look_again(self, repository: &Repository, ctx: &RunContext) -> Result<Self, RepoError> {
        repository.index().refresh(repository.store().as_ref()).await?;
        let known: HashMap<ObjectHash, BadPart> =
            self.bad_packs().map(|(pack, part)| (pack.hash, part.clone())).collect();
        let survey = survey(repository, &Reading::Known(&known), &self.remembered, ctx).await?;
        let roots = roots::DamagedRoots::sort(repository, &survey.damaged_roots).await?;
        Ok(Self { survey, roots, remembered: self.remembered })
    }

    /// What the look found.
    #[must_use]
    pub fn report(&self) -> &CheckReport {
        &self.survey.report
    }

    /// How many chunks that snapshots need have no good copy.
    #[must_use]
    pub fn lost_chunks(&self) -> u64 {
        self.survey.lost.len() as u64
    }

    fn bad_packs(&self) -> impl Iterator<Item = (&PackSeen, &BadPart)> {
        self.survey.bad.iter().map(|(number, part)| (&self.survey.scan.packs[*number as usize], part))
    }

    /// Index objects whose bytes are not those that their name seals.
    fn bad_indexes(&self) -> impl Iterator<Item = &Key> {
        let broken = |error: &ObjectError| matches!(error, ObjectError::WrongHash);
        self.survey.scan.bad.iter().filter(move |(_, error)| broken(error)).map(|(key, _)| key)
    }

    /// Bad packs of which nobody can tell what was in them.
    fn unknown(&self) -> Vec<&PackSeen> {
        let named = self.named();
        let all = self.bad_packs().filter(|(_, part)| **part == BadPart::All).map(|(pack, _)| pack);
        all.filter(|pack| !named.contains(&pack.hash)).collect()
    }

    /// Whether something is lost, or may be: what a root that cannot be read needs is in no list.
    fn lacks_something(&self) -> bool {
        let roots = ObjectType::SnapshotRoot.prefix();
        !self.survey.lost.is_empty() || self.survey.report.problems.iter().any(|one| one.object.starts_with(roots))
    }

    /// Packs that index objects name.
    fn named(&self) -> BTreeSet<ObjectHash> {
        self.survey.scan.indexes.iter().flat_map(|index| &index.packs).map(|(pack, _)| pack.hash).collect()
    }

    fn unindexed(&self) -> Vec<PackSeen> {
        let named = self.named();
        let bad: BTreeSet<ObjectHash> = self.bad_packs().map(|(pack, _)| pack.hash).collect();
        let packs = self.survey.scan.packs.iter();
        packs.filter(|pack| !named.contains(&pack.hash) && !bad.contains(&pack.hash)).copied().collect()
    }

    /// What can be mended.
    #[must_use]
    pub fn plan(&self, repository: &Repository) -> Plan {
        let names = |packs: &mut dyn Iterator<Item = &PackSeen>| {
            let mut names: Vec<String> = packs.map(|pack| pack.key().to_string()).collect();
            names.sort();
            names
        };
        let unknown = names(&mut self.unknown().into_iter());
        let mut salvage = names(&mut self.bad_packs().map(|(pack, _)| pack));
        salvage.retain(|pack| unknown.binary_search(pack).is_err());
        let mut drop: Vec<String> = self.bad_indexes().map(ToString::to_string).collect();
        let unknown = if self.lacks_something() {
            unknown
        } else {
            drop.extend(unknown);
            Vec::new()
        };
        let roots = |roots: &[ObjectHash]| -> Vec<String> {
            roots.iter().map(|root| ObjectType::SnapshotRoot.key(*root).to_string()).collect()
        };
        drop.extend(roots(&self.roots.given_up));
        let bad = |key: &Key| self.survey.report.problems.iter().any(|problem| problem.object == key.as_str());
        let roster = &repository.access().roster;
        let keyrings = KeyringCopy::ALL.map(|copy| roster.keyring_key(copy));
        Plan {
            salvage,
            unknown,
            index: self.unindexed().iter().map(|pack| pack.key().to_string()).collect(),
            drop,
            keyrings: keyrings.iter().filter(|key| bad(key)).map(ToString::to_string).collect(),
            roots: roots(&self.roots.kept),
            left: roots(&self.roots.left),
            lost_chunks: self.lost_chunks(),
        }
    }

    /// Packs good records anew, writes missing indexes, and puts damaged roots and lost copies of the
    /// keyring back.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] without a maintainer or identity key; of the store.
    pub async fn mend(&self, repository: &Repository, ctx: &RunContext) -> Result<Mended, RepoError> {
        let mut bench = mend::Bench::new(repository, &self.survey.scan, ctx)?;
        for (pack, _) in self.bad_packs() {
            bench.salvage(pack).await?;
        }
        for pack in self.unindexed() {
            bench.index(&pack).await?;
        }
        let mut mended = bench.finish().await?;
        mended.keyrings = keyrings(repository).await?;
        mended.roots = self.roots.put_back(repository).await?;
        Ok(mended)
    }

    /// Tells writers which chunks are lost: they store them anew when they meet them.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] without a maintainer or identity key; of the store.
    pub async fn quarantine(&self, repository: &Repository, ctx: &RunContext) -> Result<(), RepoError> {
        if self.survey.lost.is_empty() {
            return Ok(());
        }
        let signer = keeper(repository.access(), "a repair")?;
        let known = quarantines(repository).await?;
        // Ids are keyed by the domain: those of another one mean nothing there. A repair that died may have told
        // some domains and not others.
        for domain in self.domains() {
            let Some(keys) = repository.access().domains.get(&domain) else { continue };
            let told: BTreeSet<&ChunkId> =
                known.iter().filter(|(_, of, _)| *of == domain).flat_map(|(.., chunks)| chunks).collect();
            let mut chunks: Vec<ChunkId> =
                self.survey.lost.iter().filter(|id| !told.contains(id)).take(QUARANTINE_MAX).copied().collect();
            if chunks.is_empty() {
                continue;
            }
            chunks.sort_unstable();
            let word = Quarantine { time: ctx.clock.now(), chunks, why: "no good copy is left".to_owned() };
            let (name, bytes) = small::encode(&word, &keys.index, signer);
            put(repository.store(), &name, bytes).await?;
        }
        Ok(())
    }

    /// Packs that index objects name and that are not in the store.
    fn missing_packs(&self) -> impl Iterator<Item = (PackKind, ObjectHash)> {
        let present: BTreeSet<ObjectHash> = self.survey.scan.packs.iter().map(|pack| pack.hash).collect();
        let named = self.survey.scan.indexes.iter().flat_map(|index| &index.packs).map(|(pack, _)| pack);
        named.filter(move |pack| !present.contains(&pack.hash)).map(|pack| (pack.kind, pack.hash))
    }

    /// Tells writers which packs are gone or go: index objects may name them for a long time.
    async fn mark(
        &self,
        repository: &Repository,
        packs: BTreeSet<(PackKind, ObjectHash)>,
        ctx: &RunContext,
    ) -> Result<(), RepoError> {
        if packs.is_empty() {
            return Ok(());
        }
        let signer = keeper(repository.access(), "a repair")?;
        for keys in self.domains().iter().filter_map(|domain| repository.access().domains.get(domain)) {
            let packs = packs.iter().copied().collect();
            let word = Mark { time: ctx.clock.now(), packs, indexes: Vec::new(), others: Vec::new() };
            let (name, bytes) = small::encode(&word, &keys.index, signer);
            put(repository.store(), &name, bytes).await?;
        }
        Ok(())
    }

    fn domains(&self) -> BTreeSet<DomainId> {
        self.survey.roots.iter().map(|root| root.domain).collect()
    }

    /// Snapshots that lost something, with the entries that are hit.
    ///
    /// # Errors
    /// Of the store.
    pub async fn lost(&self, repository: &Repository) -> Result<Vec<LostSnapshot>, RepoError> {
        lost::find(repository, &self.survey.roots, &self.survey.lost).await
    }

    /// Deletes what is of no use any more: damaged packs that hold nothing that is lost (those of which
    /// nobody can tell only once nothing is lost at all), damaged index objects, roots that were given up, quarantines of which nothing is lost. Each is read once more before it goes.
    ///
    /// # Errors
    /// Of the store.
    pub async fn tidy(&self, repository: &Repository, ctx: &RunContext) -> Result<u64, RepoError> {
        let mut removed = self.roots.give_up(repository, ctx).await?;
        let holds_lost: BTreeSet<ObjectHash> =
            self.survey.lost.iter().flat_map(|id| repository.index().locate(id)).map(|copy| copy.pack).collect();
        let unknown = if self.lacks_something() { self.unknown() } else { Vec::new() };
        let stays = |pack: &PackSeen| {
            holds_lost.contains(&pack.hash) || unknown.iter().any(|unknown| unknown.hash == pack.hash)
        };
        let spent: Vec<&PackSeen> = self.bad_packs().map(|(pack, _)| pack).filter(|pack| !stays(pack)).collect();
        let going = spent.iter().map(|pack| (pack.kind, pack.hash)).chain(self.missing_packs()).collect();
        self.mark(repository, going, ctx).await?;
        for (key, hash) in spent.iter().map(|pack| (pack.key(), pack.hash)) {
            removed += u64::from(remove_broken(repository, &key, hash).await?);
        }
        for key in self.bad_indexes() {
            let hash = key.as_str().strip_prefix(ObjectType::Index.prefix()).and_then(|n| ObjectHash::from_hex(n).ok());
            if let Some(hash) = hash {
                removed += u64::from(remove_broken(repository, key, hash).await?);
            }
        }
        for (key, _, chunks) in quarantines(repository).await? {
            if !chunks.iter().any(|id| self.survey.lost.contains(id)) {
                repository.store().delete(&key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Deletes an object if its bytes are still not those that its name seals.
async fn remove_broken(repository: &Repository, key: &Key, hash: ObjectHash) -> Result<bool, RepoError> {
    let broken = match repository.store().get(key, None).await {
        Ok(bytes) => check_hash(hash, &bytes).is_err(),
        Err(error) if error.kind == StoreErrorKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    if broken {
        repository.store().delete(key).await?;
    }
    Ok(broken)
}

/// Every quarantine with its domain and chunks.
async fn quarantines(repository: &Repository) -> Result<Vec<(Key, DomainId, Vec<ChunkId>)>, RepoError> {
    let found = inventory::small::<Quarantine>(repository.store(), repository.access()).await?;
    let good = found.into_iter().filter_map(|(object, word)| Some((object.key, word.ok()?)));
    Ok(good.map(|(key, word)| (key, word.domain, word.value.chunks)).collect())
}

/// Puts a copy of the keyring back from the other one. The roster seals its bytes.
async fn keyrings(repository: &Repository) -> Result<u64, RepoError> {
    let (store, roster) = (repository.store(), &repository.access().roster);
    let mut whole: BTreeMap<bool, Vec<(Key, Option<bytes::Bytes>)>> = BTreeMap::new();
    for copy in KeyringCopy::ALL {
        let key = roster.keyring_key(copy);
        let bytes = match store.get(&key, None).await {
            Ok(bytes) => Some(bytes).filter(|bytes| check_hash(roster.keyring, bytes).is_ok()),
            Err(error) if error.kind == StoreErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        whole.entry(bytes.is_some()).or_default().push((key, bytes));
    }
    let good = whole.get(&true).and_then(|copies| copies.first()).and_then(|(_, bytes)| bytes.clone());
    let (Some(good), Some(bad)) = (good, whole.get(&false)) else { return Ok(0) };
    for (key, _) in bad {
        store.put(key, good.clone(), lifeboat_store::PutMode::Replace).await?;
    }
    Ok(bad.len() as u64)
}

#[cfg(test)]
mod tests;

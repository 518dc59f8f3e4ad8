//! What can be done to a repository, each as a process does it: from opening it to the last call.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use lifeboat_model::flow::{Body, EntrySink};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, ObjectHash, RecoveryPoint, SnapshotId, SourceName};
use lifeboat_repo::check::CheckScope;
use lifeboat_repo::copy::Copier;
use lifeboat_repo::forget::forget;
use lifeboat_repo::keyfile::WriterKey;
use lifeboat_repo::owner::DomainChoice;
use lifeboat_repo::prune::{PruneOptions, PruneReport, prune};
use lifeboat_repo::repair::Repair;
use lifeboat_repo::roster::Roster;
use lifeboat_repo::{Keys, RepoError, Sealed, SnapshotHead};
use lifeboat_store::Store;

use crate::machine::Machine;
use crate::site::{Files, House, Site, WAIT, files, owner, scope, stack};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Backup,
    /// Of another source, by another writer of the domain.
    NeighboursBackup,
    Forget,
    Prune,
    /// Until all that can go is gone, grace periods included.
    PruneToTheEnd,
    /// Of what is copied to.
    PruneAwayToTheEnd,
    Copy,
    AddWriter,
    RemoveWriter,
    AddIdentity,
    RemoveIdentity,
    AddMaintainer,
    RemoveMaintainer,
    SetGrace,
    RenewRoster,
    Repair,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) sealed: Option<(Sealed, Files)>,
    pub(crate) forgotten: Option<SnapshotId>,
    pub(crate) prunes: Vec<PruneReport>,
}

/// What a backup finds: two files that only a forgotten snapshot has had, and a new one.
pub(crate) fn today() -> Files {
    let mut all = files(1, &["c", "d"]);
    all.extend(files(3, &["f"]));
    all
}

/// What the neighbour finds.
pub(crate) fn neighbours() -> Files {
    let mut all = files(1, &["b", "c"]);
    all.extend(files(5, &["p", "r"]));
    all
}

/// What is forgotten by [`Act::Forget`].
pub(crate) fn spare() -> Files {
    files(4, &["x", "y"])
}

/// What is copied.
pub(crate) fn copied() -> Files {
    let mut all = files(1, &["a"]);
    all.extend(files(2, &["e", "g"]));
    all
}

/// Whether a snapshot may hold this.
pub(crate) fn is_state(files: &Files) -> bool {
    [today(), neighbours(), spare(), copied()].contains(files)
}

impl Site {
    pub(crate) async fn backup(
        &self,
        store: &Arc<dyn Store>,
        writer: &WriterKey,
        source: &str,
        files: &Files,
    ) -> Result<Sealed, RepoError> {
        let keys = Keys { writer: Some(writer.clone()), ..Keys::default() };
        let repository = self.open(store, &keys, source).await?;
        let head = SnapshotHead {
            stack: stack(),
            source: SourceName::new(source).expect("a name"),
            kind: "files".into(),
            label: None,
            config: String::new(),
            stack_run: None,
            system: BTreeMap::new(),
        };
        let writer = repository.writer(head, self.home.options(&keys), self.ctx.clone()).await?;
        for (name, bytes) in files {
            let path = EntryPath::new(name.as_str()).expect("a path");
            let body = Body::Bytes(Bytes::from(bytes.clone()));
            // Why it failed is told when it is sealed.
            if writer.put(&path, &EntryMeta::new(EntryKind::File), None, body).await.is_err() {
                break;
            }
        }
        let point = RecoveryPoint { time: self.ctx.clock.now(), consistency: "a walk".into(), facts: BTreeMap::new() };
        writer.seal(point).await
    }

    pub(crate) async fn forget(
        &self,
        house: &House,
        store: &Arc<dyn Store>,
        files: &Files,
    ) -> Result<SnapshotId, RepoError> {
        let id = *house.made.iter().find(|(_, content)| *content == files).expect("it was sealed").0;
        let repository = self.open(store, &house.keeper(), "maintainer").await?;
        forget(&repository, &[id], "a test", &self.ctx).await?;
        Ok(id)
    }

    pub(crate) async fn prune(&self, house: &House, store: &Arc<dyn Store>) -> Result<PruneReport, RepoError> {
        let repository = self.open(store, &house.keeper(), &format!("{}-maintainer", house.name)).await?;
        prune(&repository, &PruneOptions::default(), &self.ctx).await
    }

    /// Marks, waits, deletes.
    pub(crate) async fn prune_to_the_end(
        &self,
        house: &House,
        store: &Arc<dyn Store>,
    ) -> Result<Vec<PruneReport>, RepoError> {
        let mut reports = Vec::new();
        for _ in 0..2 {
            self.clock.advance(WAIT);
            reports.push(self.prune(house, store).await?);
        }
        Ok(reports)
    }

    pub(crate) async fn copy(&self, machine: &Arc<Machine>, files: &Files) -> Result<Sealed, RepoError> {
        let id = *self.home.made.iter().find(|(_, content)| *content == files).expect("it was sealed").0;
        let from = self.open(&self.home.on(machine), &self.home.people.identity(), "copy-from").await?;
        let to = self.open(&self.away.on(machine), &self.away.people.all(), "copy-to").await?;
        let mut copier = Copier::new(Arc::new(from), Arc::new(to), &self.ctx).await?;
        let options = self.away.options(&self.away.people.all());
        copier.copy(&id, self.ctx.clock.now(), options, &self.ctx).await
    }

    /// What `lifeboat repair` does with a second repository at hand.
    async fn repair(&self, machine: &Arc<Machine>) -> Result<(), RepoError> {
        let keys = Keys { maintainer: self.home.people.maintainer().maintainer, ..self.home.people.all() };
        let target = Arc::new(self.open(&self.home.on(machine), &keys, "repair").await?);
        let scope = CheckScope { read_data: true };
        let found = Repair::look(&target, scope, &[], &self.ctx).await?;
        found.mend(&target, &self.ctx).await?;
        let mut left = found.look_again(&target, &self.ctx).await?;
        // What was lost may hide that more is.
        for _ in 0..4 {
            if left.lost_chunks() == 0 {
                break;
            }
            left.quarantine(&target, &self.ctx).await?;
            for hit in left.lost(&target).await? {
                let content = self.home.sealed.get(&hit.id);
                let copy = self.away.sealed.iter().find(|(_, files)| content == Some(files));
                let Some((copy, _)) = copy else { continue };
                let from = self.open(&self.away.on(machine), &self.away.people.identity(), "repair-from").await?;
                Copier::new(Arc::new(from), Arc::clone(&target), &self.ctx).await?.refill(copy, &self.ctx).await?;
            }
            left = left.look_again(&target, &self.ctx).await?;
        }
        left.tidy(&target, &self.ctx).await?;
        Ok(())
    }
}

impl Act {
    /// Who may do what.
    pub(crate) const OF_OWNERS: [Self; 8] = [
        Self::AddWriter,
        Self::RemoveWriter,
        Self::AddIdentity,
        Self::RemoveIdentity,
        Self::AddMaintainer,
        Self::RemoveMaintainer,
        Self::SetGrace,
        Self::RenewRoster,
    ];

    /// Where it changes something.
    pub(crate) const fn at(self, site: &Site) -> &House {
        match self {
            Self::Copy | Self::PruneAwayToTheEnd => &site.away,
            _ => &site.home,
        }
    }

    /// Does it, from opening the repository on.
    pub(crate) fn run<'a>(
        self,
        site: &'a Site,
        machine: &'a Arc<Machine>,
    ) -> LocalBoxFuture<'a, Result<Done, RepoError>> {
        Box::pin(self.run_through(site, machine))
    }

    async fn run_through(self, site: &Site, machine: &Arc<Machine>) -> Result<Done, RepoError> {
        let house = self.at(site);
        let store = &house.on(machine);
        let people = &house.people;
        let owner = owner(store, &people.owner);
        let mut done = Done::default();
        match self {
            Self::Backup => {
                let sealed = site.backup(store, &people.writer, "files", &today()).await?;
                done.sealed = Some((sealed, today()));
            }
            Self::NeighboursBackup => {
                let sealed = site.backup(store, &people.neighbour, "other", &neighbours()).await?;
                done.sealed = Some((sealed, neighbours()));
            }
            Self::Copy => done.sealed = Some((site.copy(machine, &copied()).await?, copied())),
            Self::Forget => done.forgotten = Some(site.forget(house, store, &spare()).await?),
            Self::Prune => done.prunes.push(site.prune(house, store).await?),
            Self::PruneToTheEnd | Self::PruneAwayToTheEnd => done.prunes = site.prune_to_the_end(house, store).await?,
            Self::AddWriter => {
                let (pending, request) = &people.asks;
                let (grant, _) = owner.add_writer(request, DomainChoice::New, &scope()).await?;
                grant.accept(pending).expect("the grant is for it");
            }
            Self::RemoveWriter => {
                let verify = people.stranger.sign.verify_key();
                let repository = site.open(store, &people.identity(), "owner").await?;
                let list = repository.snapshots(&[]).await?.snapshots;
                let roots = list.iter().filter(|info| info.writer == verify).map(|info| ObjectHash(info.id.0));
                owner.remove_writer(verify, &roots.collect::<Vec<_>>()).await?;
            }
            Self::AddIdentity => drop(owner.add_identity(&people.new_identity.roster_key()).await?),
            Self::RemoveIdentity => {
                drop(owner.remove_identity(people.old_identity.roster_key().verify).await?);
            }
            Self::AddMaintainer => drop(owner.add_maintainer(&people.new_maintainer.roster_key()).await?),
            Self::RemoveMaintainer => {
                drop(owner.remove_maintainer(people.old_maintainer.sign.verify_key()).await?);
            }
            Self::SetGrace => drop(owner.set_grace(crate::site::GRACE + 1).await?),
            Self::RenewRoster => drop(owner.renew().await?),
            Self::Repair => site.repair(machine).await?,
        }
        Ok(done)
    }

    /// Whether the roster says that it was done.
    pub(crate) fn is_on(self, roster: &Roster, house: &House) -> bool {
        let people = &house.people;
        match self {
            Self::AddWriter => roster.writer(people.asks.1.verify).is_some(),
            Self::RemoveWriter => {
                let verify = people.stranger.sign.verify_key();
                roster.writer(verify).is_none() && roster.removed.iter().any(|removed| removed.verify == verify)
            }
            Self::AddIdentity => roster.identities.contains(&people.new_identity.roster_key()),
            Self::RemoveIdentity => !roster.identities.contains(&people.old_identity.roster_key()),
            Self::AddMaintainer => roster.maintainers.contains(&people.new_maintainer.roster_key()),
            Self::RemoveMaintainer => !roster.maintainers.contains(&people.old_maintainer.roster_key()),
            Self::SetGrace => roster.grace_seconds == crate::site::GRACE + 1,
            _ => true,
        }
    }
}

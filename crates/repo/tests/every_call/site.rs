//! Two repositories with a history, and what must be true of them whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::flow::RunContext;
use lifeboat_model::{SnapshotId, SourceName, StackName};
use lifeboat_repo::check::{CheckScope, check};
use lifeboat_repo::crypt::VerifyKey;
use lifeboat_repo::join::{Request, request_writer};
use lifeboat_repo::keyfile::{IdentityKey, MaintainerKey, OwnerKey, PendingKey, WriterKey};
use lifeboat_repo::owner::DomainChoice;
use lifeboat_repo::{
    Access, CreateOptions, Creation, Keys, Owner, RememberedHead, RepoError, Repository, Scope, WriteOptions,
    open_access,
};
use lifeboat_store::Store;
use lifeboat_store::memory::MemoryStore;
use lifeboat_testkit::content::contents;
use lifeboat_testkit::context::{FakeClock, run_context};
use lifeboat_testkit::stale::StaleStore;

use crate::acts::is_state;
use crate::machine::Machine;

/// The grace period of both repositories.
pub(crate) const GRACE: u64 = 60;
/// Longer than the grace period and all that lists may lag.
pub(crate) const WAIT: Duration = Duration::from_secs(90);
/// How old lists may be where they lag.
const LAG: Duration = Duration::from_secs(5);

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Files whose content is told apart by `seed`.
pub(crate) fn files(seed: u64, names: &[&str]) -> Files {
    let one = |name: &str| {
        let mut bytes = vec![0; 3000];
        blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    names.iter().map(|name| ((*name).to_owned(), one(name))).collect()
}

/// Who is who in a repository.
#[derive(Clone)]
pub(crate) struct People {
    pub(crate) owner: OwnerKey,
    /// Backs up.
    pub(crate) writer: WriterKey,
    /// Backs up another source of the same domain.
    pub(crate) neighbour: WriterKey,
    /// Has a domain of its own, and is about to be removed.
    pub(crate) stranger: WriterKey,
    pub(crate) maintainer: MaintainerKey,
    /// About to be removed.
    pub(crate) old_maintainer: MaintainerKey,
    /// About to be removed.
    pub(crate) old_identity: IdentityKey,
    /// About to be added.
    pub(crate) new_identity: IdentityKey,
    pub(crate) new_maintainer: MaintainerKey,
    pub(crate) asks: (PendingKey, Request),
}

impl People {
    pub(crate) fn writer(&self) -> Keys {
        Keys { writer: Some(self.writer.clone()), ..Keys::default() }
    }

    pub(crate) fn maintainer(&self) -> Keys {
        Keys { maintainer: Some(self.maintainer.clone()), ..Keys::default() }
    }

    pub(crate) fn identity(&self) -> Keys {
        Keys { identity: Some(self.owner.identity.clone()), ..Keys::default() }
    }

    pub(crate) fn all(&self) -> Keys {
        Keys { writer: Some(self.writer.clone()), ..self.identity() }
    }
}

/// A repository.
#[derive(Clone)]
pub(crate) struct House {
    pub(crate) name: &'static str,
    pub(crate) people: People,
    /// Who forgets and prunes: the old maintainer in the history, so that much hangs on what it signed.
    pub(crate) keeper: MaintainerKey,
    pub(crate) memory: MemoryStore,
    /// What clients talk to: the memory, or the memory with lists that lag.
    pub(crate) store: Arc<dyn Store>,
    /// Snapshots that were sealed and not forgotten.
    pub(crate) sealed: BTreeMap<SnapshotId, Files>,
    /// Those and the forgotten ones of its history.
    pub(crate) made: BTreeMap<SnapshotId, Files>,
    /// What the machine of each writer remembers: the last root that it was told of.
    pub(crate) heads: BTreeMap<VerifyKey, RememberedHead>,
}

/// Where a case takes place.
pub(crate) struct Site {
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) ctx: RunContext,
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) home: House,
    pub(crate) away: House,
}

pub(crate) fn stack() -> StackName {
    StackName::new("test").expect("a name")
}

pub(crate) fn owner<'a>(store: &'a Arc<dyn Store>, key: &'a OwnerKey) -> Owner<'a> {
    let now = "2026-11-21T03:00:00Z".parse().expect("a time");
    Owner { store, key, remembered: None, forget_roster: false, now, exported: None }
}

pub(crate) fn scope() -> [Scope; 1] {
    [Scope { stack: stack(), sources: Vec::<SourceName>::new() }]
}

impl House {
    async fn new(name: &'static str, clock: &Arc<FakeClock>) -> Self {
        let memory = MemoryStore::new(Arc::clone(clock) as _);
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let now = "2026-11-21T03:00:00Z".parse().expect("a time");
        let made = Creation::new(CreateOptions { now, grace_seconds: GRACE, stack: stack() });
        made.put(&store).await.expect("made");
        let (repository, root) = (made.owner.identity.repository, made.owner.identity.root);
        let ask = async || request_writer(&store, "another", scope()[0].clone()).await.expect("a request");
        let owner = owner(&store, &made.owner);
        let admit = async |domain| {
            let (pending, request) = ask().await;
            owner.add_writer(&request, domain, &scope()).await.expect("added").0.accept(&pending).expect("a key")
        };
        let neighbour = admit(DomainChoice::Join(made.writer.domain)).await;
        let stranger = admit(DomainChoice::New).await;
        let old_maintainer = MaintainerKey::random(repository, root);
        owner.add_maintainer(&old_maintainer.roster_key()).await.expect("added");
        let old_identity = IdentityKey::random(repository, root);
        owner.add_identity(&old_identity.roster_key()).await.expect("added");
        let people = People {
            neighbour,
            stranger,
            old_maintainer,
            old_identity,
            new_identity: IdentityKey::random(repository, root),
            new_maintainer: MaintainerKey::random(repository, root),
            asks: ask().await,
            maintainer: made.maintainer.clone(),
            writer: made.writer.clone(),
            owner: made.owner.clone(),
        };
        let keeper = people.old_maintainer.clone();
        Self {
            name,
            people,
            keeper,
            memory,
            store,
            sealed: BTreeMap::new(),
            made: BTreeMap::new(),
            heads: BTreeMap::new(),
        }
    }

    fn fork(&self, clock: &Arc<FakeClock>, lags: bool) -> Self {
        let memory = self.memory.fork_at(Arc::clone(clock) as _);
        let exact: Arc<dyn Store> = Arc::new(memory.clone());
        let store: Arc<dyn Store> = if lags {
            // How old a list is goes with tokio's time, which nobody but those who wait moves.
            Arc::new(StaleStore::new(exact, LAG, FakeClock::with_tokio(jiff::Timestamp::UNIX_EPOCH) as _))
        } else {
            exact
        };
        Self { memory, store, ..self.clone() }
    }

    pub(crate) fn keeper(&self) -> Keys {
        Keys { maintainer: Some(self.keeper.clone()), ..Keys::default() }
    }

    /// How a machine writes that has these keys.
    pub(crate) fn options(&self, keys: &Keys) -> WriteOptions {
        let own = keys.writer.as_ref().map(|writer| writer.sign.verify_key());
        let remembered = own.and_then(|own| self.heads.get(&own)).cloned();
        WriteOptions { threads: Some(1), remembered, ..WriteOptions::default() }
    }

    /// What is really there.
    pub(crate) fn truth(&self) -> Arc<dyn Store> {
        Arc::new(self.memory.clone())
    }

    pub(crate) fn on(&self, machine: &Arc<Machine>) -> Arc<dyn Store> {
        machine.line(self.name, Arc::clone(&self.store), self.truth())
    }
}

impl Site {
    pub(crate) async fn new() -> Self {
        let clock = FakeClock::at("2026-11-21T03:00:00Z".parse().expect("a time"));
        let (home, away) = (House::new("home", &clock).await, House::new("away", &clock).await);
        let scratch = tempfile::tempdir().expect("a directory");
        Self { ctx: Self::context(&clock, &scratch), clock, scratch, home, away }
    }

    fn context(clock: &Arc<FakeClock>, scratch: &tempfile::TempDir) -> RunContext {
        let memory_budget_bytes = 64 << 20;
        RunContext { clock: Arc::clone(clock) as _, memory_budget_bytes, ..run_context(scratch.path()) }
    }

    /// The same in stores of its own, at the same time, on hosts that remember nothing.
    pub(crate) fn fork(&self, lags: bool) -> Self {
        use lifeboat_model::flow::Clock;
        let clock = FakeClock::at(self.clock.now());
        let scratch = tempfile::tempdir_in(self.scratch.path()).expect("a directory");
        let (home, away) = (self.home.fork(&clock, lags), self.away.fork(&clock, lags));
        Self { ctx: Self::context(&clock, &scratch), clock, scratch, home, away }
    }

    pub(crate) fn wait(&self) {
        self.clock.advance(WAIT);
    }

    pub(crate) fn cache(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// With a cache that later ones of the same name find.
    pub(crate) async fn open(&self, store: &Arc<dyn Store>, keys: &Keys, cache: &str) -> Result<Repository, RepoError> {
        let access: Access = open_access(store, keys, None).await?.access;
        Repository::open(Arc::clone(store), access, &self.cache(cache)).await
    }

    /// What somebody sees who reads all that is really there.
    async fn reader(&self, house: &House, at: &str) -> Repository {
        let opened = self.open(&house.truth(), &house.people.identity(), &format!("{}-reader", house.name)).await;
        opened.unwrap_or_else(|error| panic!("{at}: {} does not open: {error}", house.name))
    }

    /// Every snapshot that was sealed and not forgotten restores, those of `unsure` too where they count, and so
    /// does whatever else counts, to one of these states.
    pub(crate) async fn restores(&self, house: &House, unsure: &BTreeSet<SnapshotId>, at: &str) {
        let repository = self.reader(house, at).await;
        let list = repository.snapshots(&[]).await.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!((&list.refused[..], &list.findings[..]), (&[][..], &[][..]), "{at}");
        let counts: BTreeSet<_> = list.snapshots.iter().filter(|info| info.counts()).map(|info| info.id).collect();
        for id in house.sealed.keys().filter(|id| !unsure.contains(id)) {
            assert!(counts.contains(id), "{at}: {} of {} is no snapshot any more", id.short(), house.name);
        }
        for id in counts {
            let restored = restore(&repository, id).await;
            let restored = restored.unwrap_or_else(|error| panic!("{at}: {} of {}: {error}", id.short(), house.name));
            // What was put before the process died is a snapshot that nobody was told of.
            let equal = house.sealed.get(&id).map_or_else(|| is_state(&restored), |files| *files == restored);
            assert!(equal, "{at}: {} of {} restores to something else", id.short(), house.name);
        }
    }

    /// A check that reads everything finds nothing, and everybody opens the repository without a warning.
    pub(crate) async fn is_sound(&self, house: &House, at: &str) {
        for keys in [house.people.writer(), house.people.maintainer()] {
            let opened = open_access(&house.truth(), &keys, None).await;
            assert_eq!(opened.unwrap_or_else(|error| panic!("{at}: {error}")).warnings, [], "{at}");
        }
        let report = check(&self.reader(house, at).await, CheckScope { read_data: true }, &[], &self.ctx).await;
        let report = report.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(report.is_clean(), "{at}: {}: {:#?}", house.name, report.problems);
    }

    /// Prunes until all that can go is gone: no prune finds anything odd.
    pub(crate) async fn prunes_well(&self, house: &House, at: &str) {
        let reports = self.prune_to_the_end(house, &house.truth()).await;
        for report in reports.unwrap_or_else(|error| panic!("{at}: and a prune: {error}")) {
            assert_eq!((&report.refused[..], &report.problems[..]), (&[][..], &[][..]), "{at}");
        }
    }
}

/// Everything in a snapshot.
async fn restore(repository: &Repository, id: SnapshotId) -> Result<Files, String> {
    fn told(error: &dyn std::error::Error) -> String {
        error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    }
    let reader = repository.reader(&id).await.map_err(|error| told(&error))?;
    let all = contents(&reader).await.map_err(|error| told(&error))?;
    Ok(all
        .into_iter()
        .map(|(entry, bytes)| (String::from_utf8_lossy(entry.path.as_bytes()).into_owned(), bytes))
        .collect())
}

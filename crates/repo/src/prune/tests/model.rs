//! Random games against a model in memory: writers of two domains who change files, back up, die and go on
//! where they were; maintainers who forget, hold and prune, two at once; machines that are suspended, a store
//! whose clock jumps and whose lists lag. No snapshot that counts may ever lose a byte.

use std::collections::BTreeMap;
use std::pin::Pin;

use lifeboat_model::ChunkId;
use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::context::JumpingClock;
use lifeboat_testkit::crash::{CrashStore, InFlight};
use lifeboat_testkit::effort;
use lifeboat_testkit::pause::PauseStore;
use tokio::task::LocalSet;

use super::*;
use crate::access::Access;
use crate::change::Owner;
use crate::check::{CheckScope, ProblemKind, check};
use crate::error::RepoError;
use crate::forget::{hold, release};
use crate::join::{Scope, request_writer};
use crate::open::{Keys, open_access};
use crate::owner::DomainChoice;

/// What else a game has beside its steps.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// How long lists lag behind.
    lag: Duration,
    /// Whether the store's clock jumps.
    jumps: bool,
}

/// A writer and source with its run and, once the content was added, its top pages.
struct Desk {
    source: &'static str,
    access: Access,
    machine: Arc<PauseStore>,
    files: Files,
    run: Option<(TinyRun, Files)>,
    pages: Option<(ChunkId, ChunkId)>,
    chain: Chain,
}

type Task<T> = Pin<Box<tokio::task::JoinHandle<T>>>;

/// Something that a suspended machine is in the middle of.
enum Suspended {
    Seal { desk: usize, files: Files, task: Task<(Result<SnapshotId, RepoError>, Chain)> },
    Prune { slept: bool, task: Task<Result<PruneReport, RepoError>> },
}

struct Model {
    house: House,
    store_clock: Arc<JumpingClock>,
    weather: Weather,
    /// As its clients see it.
    store: Arc<dyn Store>,
    random: Numbers,
    desks: Vec<Desk>,
    suspended: Vec<(Arc<PauseStore>, Suspended)>,
    sealed: BTreeMap<SnapshotId, Files>,
    held: BTreeSet<SnapshotId>,
    sealed_count: usize,
    deleted: u64,
    log: Vec<String>,
}

impl Model {
    async fn new(seed: u64, weather: Weather) -> Self {
        let clock = FakeClock::with_tokio(TestRepository::start());
        let store_clock = JumpingClock::new(Arc::clone(&clock));
        let house = House::on(MemoryStore::new(Arc::clone(&store_clock) as Arc<dyn Clock>), clock).await;
        let store: Arc<dyn Store> = if weather.lag.is_zero() {
            Arc::clone(&house.store)
        } else {
            Arc::new(StaleStore::new(Arc::clone(&house.store), weather.lag, Arc::clone(&house.clock) as Arc<dyn Clock>))
        };
        let own = house.repository.writer_key.domain;
        let second = writer(&house, DomainChoice::Join(own)).await;
        let third = writer(&house, DomainChoice::New).await;
        let keys = Keys { writer: Some(house.repository.writer_key.clone()), ..Keys::default() };
        let first = open_access(&house.store, &keys, None).await.expect("opened").access;
        let desk = |source, access: &Access| Desk {
            source,
            access: access.clone(),
            machine: PauseStore::new(Arc::clone(&store)),
            files: files(0, &["a", "b", "c"], 2),
            run: None,
            pages: None,
            chain: Chain::default(),
        };
        let desks = vec![desk("one", &first), desk("two", &first), desk("three", &second), desk("four", &third)];
        let mut house = house;
        let maintainer = Keys { maintainer: Some(house.repository.maintainer_key.clone()), ..Keys::default() };
        house.repository.maintainer = open_access(&house.store, &maintainer, None).await.expect("opened").access;
        let identity = Keys { identity: Some(house.repository.owner.identity.clone()), ..Keys::default() };
        house.repository.identity = open_access(&house.store, &identity, None).await.expect("opened").access;
        Self {
            house,
            store_clock,
            weather,
            store,
            random: Numbers::new(seed),
            desks,
            suspended: vec![],
            sealed: BTreeMap::new(),
            held: BTreeSet::new(),
            sealed_count: 0,
            deleted: 0,
            log: vec![format!("seed {seed}, {weather:?}")],
        }
    }

    fn say(&mut self, what: impl Into<String>) {
        self.log.push(format!("{:>6} s: {}", self.house.clock.monotonic().as_secs(), what.into()));
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("small")
    }

    async fn step(&mut self) {
        match self.below(24) {
            0..=4 => {
                let seconds = [1, 5, 20, 70][self.below(4)];
                self.say(format!("{seconds} s pass"));
                self.house.clock.advance(Duration::from_secs(seconds));
            }
            5..=14 => {
                let desk = self.below(self.desks.len());
                self.desk_step(desk).await;
            }
            15 | 16 => self.forget_or_hold().await,
            17..=20 => self.prune().await,
            21 => self.restore_one().await,
            22 => self.resume_one().await,
            _ if self.weather.jumps => {
                let seconds = [-100, -10, 30, 100, 200_000][self.below(5)];
                self.say(format!("the store's clock jumps by {seconds} s"));
                self.store_clock.jump(seconds);
            }
            _ => self.resume_one().await,
        }
    }

    /// Changes, adds or removes a file, or goes back to what was there before.
    fn change(&mut self, desk: usize) {
        let (seed, name) = (self.random.below(4), ["a", "b", "c", "d"][self.below(4)]);
        let files_now = &mut self.desks[desk].files;
        match seed {
            0 if files_now.len() > 1 => drop(files_now.remove(name)),
            seed => files_now.extend(files(seed, &[name], 2)),
        }
    }

    async fn desk_step(&mut self, number: usize) {
        if self.desks[number].machine.is_paused() {
            return;
        }
        let what = self.below(6);
        let source = self.desks[number].source;
        let desk = &mut self.desks[number];
        match (&mut desk.run, desk.pages, what) {
            (None, ..) => {
                self.change(number);
                self.say(format!("{source} begins"));
                // A writer remembers the end of its chain, and sees what it put before it died.
                let truth: Arc<dyn Store> = Arc::new(self.house.memory.clone());
                let repository = open(&truth, &self.house.repository.identity, &self.house.ctx).await;
                let list = repository.snapshots(&[]).await.expect("listed");
                let shown = Chain::of(&list, &self.desks[number].access, source);
                if shown.sequence > self.desks[number].chain.sequence {
                    self.desks[number].chain = shown;
                }
                let desk = &mut self.desks[number];
                let store: Arc<dyn Store> = Arc::clone(&desk.machine) as _;
                let run = TinyRun::begin(&store, &desk.access, source, &self.house.ctx).await.expect("begun");
                (desk.run, desk.pages) = (Some((run, desk.files.clone())), None);
            }
            (Some((run, files)), None, _) => {
                desk.pages = Some(run.add(files));
                run.flush().await.expect("put");
                self.say(format!("{source} adds"));
            }
            (Some((run, _)), Some(_), 0 | 1) => {
                run.renew(false).await.expect("renewed");
                self.say(format!("{source} renews"));
            }
            (Some((run, _)), Some(_), 2) => {
                // What it has put is indexed, so that the next run goes on from there.
                run.put_index().await.expect("put");
                self.say(format!("{source} dies with its packs indexed"));
                self.desks[number].run = None;
            }
            (Some(_), Some(_), 3) if self.random.below(2) == 0 => {
                self.say(format!("{source} dies"));
                self.desks[number].run = None;
            }
            (Some(_), Some(_), _) => self.seal(number).await,
        }
    }

    async fn seal(&mut self, number: usize) {
        let pause = self.pause();
        let desk = &mut self.desks[number];
        let (run, files) = desk.run.take().expect("open");
        let (pages, mut chain) = (desk.pages.take().expect("added"), desk.chain.clone());
        desk.machine.pause_after(pause);
        let task = Box::pin(tokio::task::spawn_local(async move {
            let sealed = run.seal(pages, &mut chain).await;
            (sealed, chain)
        }));
        let machine = Arc::clone(&desk.machine);
        self.say(format!("{} seals", self.desks[number].source));
        self.run(machine, Suspended::Seal { desk: number, files, task }).await;
    }

    /// After how many calls a machine is suspended: most are not.
    fn pause(&mut self) -> u64 {
        if self.random.below(3) == 0 { self.random.below(40) } else { u64::try_from(i64::MAX).expect("positive") }
    }

    /// Lets something run until it has ended or its machine is suspended.
    async fn run(&mut self, machine: Arc<PauseStore>, mut what: Suspended) {
        loop {
            let ended = match &what {
                Suspended::Seal { task, .. } => task.is_finished(),
                Suspended::Prune { task, .. } => task.is_finished(),
            };
            if ended {
                break;
            }
            if machine.is_paused() {
                self.say("its machine is suspended");
                if let Suspended::Prune { slept, .. } = &mut what {
                    *slept = true;
                }
                self.suspended.push((machine, what));
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        machine.resume();
        match &mut what {
            Suspended::Seal { desk, files, task } => match task.await.expect("no panic") {
                (Ok(id), chain) => {
                    self.say(format!("{} is sealed", id.short()));
                    self.sealed.insert(id, std::mem::take(files));
                    self.sealed_count += 1;
                    self.desks[*desk].chain = chain;
                }
                (Err(error), chain) => {
                    self.say(format!("it could not: {error}"));
                    self.desks[*desk].chain = chain;
                }
            },
            Suspended::Prune { slept, task } => {
                let outcome = task.await.expect("no panic");
                self.say(format!("prune: {outcome:?}"));
                if let Ok(report) = outcome {
                    self.deleted += report.deleted_objects;
                    // What it had read may be gone when its machine goes on: then it leaves all alone. So it does
                    // where a writer that sleeps, or died, between its root and its second look has lost packs.
                    let may_refuse = *slept || self.is_unjudged().await;
                    assert!(report.refused.is_empty() || may_refuse, "{:#?}", self.log);
                }
            }
        }
    }

    /// A suspended machine goes on, or never will.
    async fn resume_one(&mut self) {
        if self.suspended.is_empty() {
            return;
        }
        let number = self.below(self.suspended.len());
        let (machine, what) = self.suspended.remove(number);
        machine.resume();
        if self.random.below(4) == 0 {
            self.say("a suspended machine never comes back");
            match what {
                Suspended::Seal { task, .. } => task.abort(),
                Suspended::Prune { task, .. } => task.abort(),
            }
        } else {
            self.say("a suspended machine goes on");
            self.run(machine, what).await;
        }
    }

    async fn maintain(&self, store: Arc<dyn Store>) -> Repository {
        open(&store, &self.house.repository.maintainer, &self.house.ctx).await
    }

    async fn forget_or_hold(&mut self) {
        if self.sealed.is_empty() {
            return;
        }
        let number = self.below(self.sealed.len());
        let id = *self.sealed.keys().nth(number).expect("one");
        let repository = self.maintain(Arc::clone(&self.store)).await;
        let (is_held, ctx) = (self.held.contains(&id), self.house.ctx.clone());
        // The newest word on a hold counts: no two at one time.
        self.house.clock.advance(Duration::from_secs(1));
        let (what, outcome) = match self.below(4) {
            0 if is_held => ("released", release(&repository, id, "a test", &ctx).await),
            0 => ("held", hold(&repository, id, "a test", &ctx).await),
            _ => ("forgotten", forget(&repository, &[id], "a test", &ctx).await),
        };
        // A list that lags does not show the root yet, or not the hold.
        self.say(format!("{} is {what}: {outcome:?}", id.short()));
        if outcome.is_err() {
            return;
        }
        match what {
            "held" => drop(self.held.insert(id)),
            "released" => drop(self.held.remove(&id)),
            _ => {
                assert!(!is_held || !self.weather.lag.is_zero(), "a held snapshot was forgotten: {:#?}", self.log);
                self.held.remove(&id);
                self.sealed.remove(&id);
            }
        }
    }

    async fn prune(&mut self) {
        let dies_at = if self.below(3) == 0 { 1 + self.random.below(12) } else { u64::MAX };
        let machine = PauseStore::new(Arc::clone(&self.store));
        machine.pause_after(self.pause());
        let store: Arc<dyn Store> = CrashStore::new(Arc::clone(&machine) as _, dies_at, InFlight::Kept);
        let (maintainer, ctx) = (self.house.repository.maintainer.clone(), self.house.ctx.clone());
        let cache = tempfile::tempdir_in(&ctx.scratch).expect("a directory").keep();
        let task = Box::pin(tokio::task::spawn_local(async move {
            let repository = Repository::open(store, maintainer, &cache).await?;
            prune(&repository, &PruneOptions { waste_percent: 10, dry_run: false }, &ctx).await
        }));
        self.say("a prune begins");
        self.run(machine, Suspended::Prune { slept: false, task }).await;
    }

    /// Whoever knows a snapshot restores it at any time.
    async fn restore_one(&mut self) {
        if self.sealed.is_empty() {
            return;
        }
        let number = self.below(self.sealed.len());
        let (id, files) = self.sealed.iter().nth(number).map(|(id, files)| (*id, files.clone())).expect("one");
        let repository = open(&self.store, &self.house.repository.identity, &self.house.ctx).await;
        match restore(&repository, id).await {
            Ok(restored) => assert_eq!(restored, files, "{:#?}", self.log),
            Err(error) => panic!("{}: {error}\n{:#?}", id.short(), self.log),
        }
    }

    /// Whether there is a root that counts and whose writer has not come back from sealing it.
    async fn is_unjudged(&self) -> bool {
        let truth: Arc<dyn Store> = Arc::new(self.house.memory.clone());
        let repository = open(&truth, &self.house.repository.identity, &self.house.ctx).await;
        let list = repository.snapshots(&[]).await.expect("listed").snapshots;
        list.iter().any(|info| info.counts() && !self.sealed.contains_key(&info.id))
    }

    /// What is really there, not what a lagging list shows.
    async fn all_is_well(&self) {
        let truth: Arc<dyn Store> = Arc::new(self.house.memory.clone());
        let repository = open(&truth, &self.house.repository.identity, &self.house.ctx).await;
        for (id, files) in &self.sealed {
            match restore(&repository, *id).await {
                Ok(restored) => assert_eq!(restored, *files, "{:#?}", self.log),
                Err(error) => panic!("{}: {error}\n{:#?}", id.short(), self.log),
            }
        }
        let report = check(&repository, CheckScope { read_data: true }, &[], &self.house.ctx).await.expect("a check");
        // A writer that died between its root and its second look leaves a root that may be void.
        let unjudged = self.is_unjudged().await;
        let odd = report
            .problems
            .iter()
            .find(|problem| problem.kind != ProblemKind::Void && !(unjudged && problem.kind == ProblemKind::Unindexed));
        assert!(odd.is_none(), "{odd:#?}\n{:#?}", self.log);
    }
}

async fn writer(house: &House, choice: DomainChoice) -> Access {
    let wish = Scope { stack: TestRepository::stack(), sources: vec![] };
    let (pending, request) = request_writer(&house.store, "another", wish.clone()).await.expect("a request");
    let owner = Owner {
        store: &house.store,
        key: &house.repository.owner,
        remembered: None,
        forget_roster: false,
        now: TestRepository::start(),
        exported: None,
    };
    let (grant, _) = owner.add_writer(&request, choice, &[wish]).await.expect("added");
    let keys = Keys { writer: Some(grant.accept(&pending).expect("a writer")), ..Keys::default() };
    open_access(&house.store, &keys, None).await.expect("opened").access
}

/// Plays one game; tells how many snapshots were sealed and how many objects deleted.
async fn play(seed: u64, steps: usize, weather: Weather) -> (usize, u64) {
    let mut model = Model::new(seed, weather).await;
    for _ in 0..steps {
        model.step().await;
    }
    while !model.suspended.is_empty() {
        model.resume_one().await;
    }
    model.all_is_well().await;
    (model.sealed_count, model.deleted)
}

#[tokio::test(start_paused = true)]
async fn no_interleaving_of_runs_and_prunes_loses_a_snapshot() {
    let lags = [Duration::ZERO, Duration::from_secs(7), Duration::from_secs(40)];
    for weather in lags.into_iter().flat_map(|lag| [false, true].map(|jumps| Weather { lag, jumps })) {
        let (mut sealed, mut deleted, mut games) = (0, 0, 0);
        for seed in effort::seeds(2) {
            let (more_sealed, more_deleted) = LocalSet::new().run_until(Box::pin(play(seed, 120, weather))).await;
            (sealed, deleted, games) = (sealed + more_sealed, deleted + more_deleted, games + 1);
        }
        assert!(sealed > 2 * games, "{sealed} snapshots were sealed only: it tests nothing, {weather:?}");
        assert!(deleted > games as u64, "{deleted} objects were deleted only: it tests nothing, {weather:?}");
    }
}

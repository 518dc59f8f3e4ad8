//! Random steps of several runs, pruners and a clock that jumps, on stores whose lists may lag: no
//! snapshot that counts may ever lose a byte.

use std::collections::BTreeMap;

use lifeboat_model::ChunkId;
use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::crash::{CrashStore, InFlight};

use super::*;

/// A run with its content and, once that was added, its top pages.
type OpenRun = (Option<TinyRun>, Files, Option<(ChunkId, ChunkId)>);

struct Model {
    house: House,
    store: Arc<dyn Store>,
    random: Numbers,
    runs: Vec<OpenRun>,
    chains: Vec<Chain>,
    sealed: BTreeMap<SnapshotId, Files>,
    sealed_count: usize,
    log: Vec<String>,
}

impl Model {
    fn say(&mut self, what: String) {
        self.log.push(what);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    async fn step(&mut self) {
        match self.below(12) {
            0..=2 => {
                let seconds = [1, 5, 20, 70][usize::try_from(self.below(4)).expect("small")];
                self.say(format!("{seconds} s pass"));
                self.house.clock.advance(Duration::from_secs(seconds));
            }
            3..=8 => self.run_step().await,
            9 => self.forget_one().await,
            _ => self.prune().await,
        }
    }

    async fn run_step(&mut self) {
        let number = usize::try_from(self.below(2)).expect("small");
        let writer = self.house.repository.writer.clone();
        let source = ["one", "two"][number];
        let what = self.below(4);
        let seed = self.below(4);
        let (run, content, pages) = &mut self.runs[number];
        match run {
            None => {
                self.log.push(format!("run {number} begins with content {seed}"));
                *run = Some(TinyRun::begin(&self.store, &writer, source, &self.house.ctx).await.expect("begun"));
                *content = files(seed, &["a", "b", "c"], 2);
                *pages = None;
            }
            Some(open) if pages.is_none() => {
                self.log.push(format!("run {number} adds"));
                *pages = Some(open.add(content));
                open.flush().await.expect("put");
            }
            Some(open) if what < 2 => {
                self.log.push(format!("run {number} renews"));
                open.renew(false).await.expect("renewed");
            }
            Some(_) if what == 2 => {
                self.log.push(format!("run {number} seals"));
                let (run, content) = (run.take().expect("open"), std::mem::take(content));
                let pages = pages.take().expect("added");
                match run.seal(pages, &mut self.chains[number]).await {
                    Ok(id) => {
                        self.sealed.insert(id, content);
                        self.sealed_count += 1;
                    }
                    Err(error) => self.log.push(format!("it could not: {error}")),
                }
            }
            Some(_) => {
                self.log.push(format!("run {number} dies"));
                *run = None;
            }
        }
    }

    async fn forget_one(&mut self) {
        if self.sealed.is_empty() {
            return;
        }
        let number = usize::try_from(self.below(self.sealed.len() as u64)).expect("small");
        let id = *self.sealed.keys().nth(number).expect("one");
        let repository = open(&self.store, &self.house.repository.maintainer, &self.house.ctx).await;
        match forget(&repository, &[id], "a test", &self.house.ctx).await {
            Ok(()) => {
                self.say(format!("{} is forgotten", id.short()));
                self.sealed.remove(&id);
            }
            // A list that lags does not show the root yet.
            Err(error) => self.say(format!("{} cannot be forgotten: {error}", id.short())),
        }
    }

    async fn prune(&mut self) {
        let dies_at = if self.below(3) == 0 { 1 + self.below(12) } else { u64::MAX };
        let store: Arc<dyn Store> = CrashStore::new(Arc::clone(&self.store), dies_at, InFlight::Kept);
        let cache = tempfile::tempdir_in(&self.house.ctx.scratch).expect("a directory");
        let maintainer = self.house.repository.maintainer.clone();
        let repository = Repository::open(store, maintainer, cache.path()).await.expect("opened");
        let outcome = prune(&repository, &PruneOptions { waste_percent: 10, dry_run: false }, &self.house.ctx).await;
        self.say(format!("prune: {outcome:?}"));
        assert!(outcome.is_ok() || dies_at != u64::MAX, "{:#?}", self.log);
        if let Ok(report) = outcome {
            assert_eq!(report.refused, [], "{:#?}", self.log);
        }
    }

    async fn all_is_well(&self) {
        // What is really there, not what a lagging list shows.
        let truth: Arc<dyn Store> = Arc::new(self.house.memory.clone());
        let repository = open(&truth, &self.house.repository.identity, &self.house.ctx).await;
        for (id, files) in &self.sealed {
            match restore(&repository, *id).await {
                Ok(restored) => assert_eq!(restored, *files, "{:#?}", self.log),
                Err(error) => panic!("{}: {error}\n{:#?}", id.short(), self.log),
            }
        }
    }
}

/// Plays one game and tells how many snapshots were sealed in it.
async fn play(seed: u64, steps: usize, staleness: Duration) -> usize {
    let house = House::with(FakeClock::with_tokio(TestRepository::start())).await;
    let store: Arc<dyn Store> = if staleness.is_zero() {
        Arc::clone(&house.store)
    } else {
        Arc::new(StaleStore::new(Arc::clone(&house.store), staleness, Arc::clone(&house.clock) as Arc<dyn Clock>))
    };
    let mut model = Model {
        house,
        store,
        random: Numbers::new(seed),
        runs: vec![(None, Files::new(), None), (None, Files::new(), None)],
        chains: vec![Chain::default(); 2],
        sealed: BTreeMap::new(),
        sealed_count: 0,
        log: vec![format!("seed {seed}")],
    };
    for _ in 0..steps {
        model.step().await;
    }
    model.all_is_well().await;
    model.sealed_count
}

#[tokio::test(start_paused = true)]
async fn no_interleaving_of_runs_and_prunes_loses_a_snapshot() {
    for lag in [Duration::ZERO, Duration::from_secs(7), Duration::from_secs(40)] {
        let mut sealed = 0;
        for seed in 0..12 {
            sealed += play(seed, 60, lag).await;
        }
        assert!(sealed > 24, "the model sealed {sealed} snapshots only: it tests nothing");
    }
}

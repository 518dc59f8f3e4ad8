//! kill -9 at random points of backup, forget and prune: every sealed snapshot restores equal, and
//! the next run succeeds. 150 seeds; `LIFEBOAT_KILL_SEEDS` sets another number.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_testkit::bench_data::Numbers;

use crate::harness::{CONFIG, Place, describe, long, write};

struct World {
    place: Place,
    numbers: Numbers,
    /// What each sealed snapshot has to restore to.
    truth: BTreeMap<String, String>,
    forgotten: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let yaml = CONFIG.replace("documents", "tree").replace("keepLast: 1", "keepLast: 4");
        let place = Place::with_config(&yaml);
        fs::create_dir_all(place.path("tree/inner")).unwrap();
        let world = Self { place, numbers: Numbers::new(seed), truth: BTreeMap::new(), forgotten: 0 };
        world.place.run(&["init", "--grace", "1s"]).expect(0);
        world
    }

    fn tree(&self) -> PathBuf {
        self.place.path("tree")
    }

    /// Writes, changes and removes files; some blocks repeat so that packs are shared.
    fn change_tree(&mut self) {
        for _ in 0..12 {
            let inner = if self.numbers.below(2) == 0 { "" } else { "inner/" };
            let path = self.tree().join(format!("{inner}{}", self.numbers.below(60)));
            if self.numbers.below(5) == 0 {
                let _gone = fs::remove_file(&path);
                continue;
            }
            let mut bytes = vec![0; usize::try_from(self.numbers.below(300_000)).unwrap()];
            let seed = self.numbers.below(20);
            Numbers::new(seed).fill(&mut bytes);
            write(&path, &bytes);
        }
    }

    fn listed(&self) -> Vec<String> {
        let listing = self.place.run(&["--json", "snapshots"]).expect(0).json();
        let ids = listing["snapshots"].as_array().unwrap();
        ids.iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    }

    /// After any run, killed or not: what is listed is what was sealed, and nothing that was
    /// sealed is gone but by a forget.
    fn take_stock(&mut self, forgetting: bool) {
        let now = describe(&self.tree());
        let listed = self.listed();
        for id in &listed {
            self.truth.entry(id.clone()).or_insert_with(|| now.clone());
        }
        let before = self.truth.len();
        if forgetting {
            self.truth.retain(|id, _| listed.contains(id));
            self.forgotten += before - self.truth.len();
        }
        assert_eq!(listed.len(), self.truth.len(), "a sealed snapshot is no longer listed");
    }

    fn restores_equal(&self, id: &str) {
        let to = tempfile::tempdir_in(self.place.path("")).unwrap();
        let target = to.path().join("out");
        self.place.run(&["restore", &format!("tree@{id}"), "--to", target.to_str().unwrap(), "--yes"]).expect(0);
        let back = describe(&target.join(self.tree().strip_prefix("/").unwrap()));
        assert_eq!(back, self.truth[id], "snapshot {id} restores to something else");
    }

    /// Starts a command and kills it after at most `longest`.
    fn kill(&mut self, args: &[&str], longest: Duration) {
        let mut child = self.place.caller.spawn(args);
        let micros = self.numbers.below(u64::try_from(longest.as_micros()).unwrap().max(1));
        std::thread::sleep(Duration::from_micros(micros));
        let _ended_before = child.kill();
        child.wait().unwrap();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to run")]
fn killed_at_random_points_every_sealed_snapshot_restores_and_the_next_run_succeeds() {
    let seeds: u64 = match std::env::var("LIFEBOAT_KILL_SEEDS") {
        Ok(text) => text.parse().expect("LIFEBOAT_KILL_SEEDS is a number"),
        Err(_) if long() => 500,
        Err(_) => 150,
    };
    let mut world = World::new(20_261_121);
    world.change_tree();
    let whole = world.place.run(&["backup"]).expect(0).took;
    world.take_stock(false);
    let mut killed_and_sealed = 0;
    for seed in 0..seeds {
        match seed % 5 {
            0..=2 => {
                world.change_tree();
                let before = world.truth.len();
                world.kill(&["backup"], whole);
                world.take_stock(false);
                killed_and_sealed += world.truth.len() - before;
                world.place.run(&["backup"]).expect(0);
                world.take_stock(false);
            }
            3 => {
                world.kill(&["forget", "--yes"], whole);
                world.take_stock(true);
                world.place.run(&["forget", "--yes"]).expect(0);
                world.take_stock(true);
            }
            _ => {
                world.kill(&["prune", "--yes"], whole);
                world.take_stock(false);
                world.place.run(&["prune", "--yes"]).expect(0);
                world.take_stock(false);
            }
        }
        let ids: Vec<String> = world.truth.keys().cloned().collect();
        let one = ids[usize::try_from(world.numbers.below(ids.len() as u64)).unwrap()].clone();
        world.restores_equal(&one);
        if seed % 10 == 9 {
            for id in &ids {
                world.restores_equal(id);
            }
            world.place.run(&["check", "--read-data"]).expect(0);
        }
    }
    assert!(world.forgotten > 0, "the test never forgot anything");
    println!("{seeds} kills, {killed_and_sealed} of them after the seal, {} snapshots forgotten", world.forgotten);
}

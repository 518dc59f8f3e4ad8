use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use lifeboat_model::target::{RestoreOptions, TargetInventory};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint, Role};
use lifeboat_source::SourceError;
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::snapshot::FakeSnapshot;

use super::*;
use crate::testing::summary;

/// A target in memory: what it holds, and what was asked of it in which order.
#[derive(Default)]
struct FakeTarget {
    inventory: TargetInventory,
    /// How many more things stand in the way at each further look.
    changes: Mutex<Vec<u64>>,
    differences: u64,
    asked: Mutex<Vec<&'static str>>,
}

impl FakeTarget {
    fn ask(&self, what: &'static str) {
        self.asked.lock().expect("no panic").push(what);
    }

    fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl Target for FakeTarget {
    async fn inventory(&self, _: &dyn EntryReader, _: &RestoreOptions) -> Result<TargetInventory, SourceError> {
        self.ask("inventory");
        let mut inventory = self.inventory.clone();
        if self.asked().len() > 1 {
            inventory.occupied_count += self.changes.lock().expect("no panic").pop().unwrap_or(0);
        }
        Ok(inventory)
    }

    async fn apply(&self, _: &dyn EntryReader, _: &RestoreOptions, _: &RunContext) -> Result<Restored, SourceError> {
        self.ask("apply");
        Ok(Restored { entries: 1, bytes: 4, ..Restored::default() })
    }

    async fn verify(
        &self,
        _: &dyn EntryReader,
        _: &RestoreOptions,
        _: Scope,
        _: &RunContext,
    ) -> Result<Verified, SourceError> {
        self.ask("verify");
        Ok(Verified { compared: 1, difference_count: self.differences, ..Verified::default() })
    }
}

struct Case {
    data: FakeSnapshot,
    target: FakeTarget,
    to: Destination,
    options: RestoreOptions,
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).expect("a path")
}

/// A snapshot of two entries and an empty server.
fn case() -> Case {
    let mut data = FakeSnapshot::default();
    data.insert("events/1.dat", EntryMeta::new(EntryKind::File), b"rows");
    data.insert("users/2.dat", EntryMeta::new(EntryKind::File), b"rows");
    let to = Destination::Server("postgres://scratch".to_owned());
    Case { data, target: FakeTarget::default(), to, options: RestoreOptions::default() }
}

/// The same, with something that stands in the way and may be replaced.
fn replacing() -> Case {
    let mut case = case();
    case.target.inventory.occupied = vec!["table events.a".to_owned()];
    case.target.inventory.occupied_count = 1;
    case.options.replace = true;
    case
}

impl Case {
    async fn run(&self, mode: Mode<'_>) -> Result<RestoreReport, JobError> {
        let dir = tempfile::tempdir().expect("a directory");
        let point =
            RecoveryPoint { time: jiff::Timestamp::UNIX_EPOCH, consistency: String::new(), facts: BTreeMap::new() };
        let machine = Machine { role: Role::Restore, stack: None, own: BTreeMap::new(), own_paths: Vec::new() };
        let (snapshot, to, options) = (&summary("farajaland", "registry", 1), &self.to, &self.options);
        let request = RestoreRequest { snapshot, point: &point, problems: &[], to, options };
        let lock = || {
            self.target.ask("lock");
            Ok(None)
        };
        let sides = Sides { data: &self.data, target: &self.target, lock: &lock };
        carry_out(sides, &request, &machine, mode, &run_context(dir.path())).await
    }
}

#[tokio::test]
async fn a_dry_run_looks_and_does_nothing() {
    let case = replacing();
    let report = case.run(Mode::DryRun).await.expect("a plan");
    assert!(report.plan.destructive && report.restored.is_none());
    assert_eq!(case.target.asked(), ["inventory"]);
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn a_declined_plan_touches_nothing() {
    let case = replacing();
    let error = case.run(Mode::Run(&|_| Answer::No)).await.expect_err("declined");
    assert!(matches!(error, JobError::Declined));
    assert_eq!(case.target.asked(), ["inventory"]);
}

#[tokio::test]
async fn an_occupied_target_is_refused_before_anybody_is_asked() {
    let mut case = replacing();
    case.options.replace = false;
    let error = case.run(Mode::Run(&|_| panic!("nobody is asked"))).await.expect_err("refused");
    assert!(matches!(error, JobError::Plan(_)));
    assert_eq!(case.target.asked(), ["inventory"]);
}

#[tokio::test]
async fn a_damaged_snapshot_replaces_nothing() {
    let mut case = replacing();
    case.data.damaged.insert(path("events/1.dat"));
    let error = case.run(Mode::Run(&|_| Answer::Unasked)).await.expect_err("damaged");
    assert!(error.chain().contains("events/1.dat"), "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("check --read-data")));
    assert_eq!(case.target.asked(), ["inventory", "lock"], "apply was never reached");
}

#[tokio::test]
async fn only_what_is_read_has_to_be_whole() {
    let mut case = replacing();
    case.data.damaged.insert(path("events/1.dat"));
    case.target.inventory.reads = vec![path("users")];
    case.run(Mode::Run(&|_| Answer::Unasked)).await.expect("the other database is whole");
    case.target.inventory.reads = vec![path("users"), path("events")];
    assert!(case.run(Mode::Run(&|_| Answer::Unasked)).await.is_err());
}

#[tokio::test]
async fn a_server_is_compared_after_the_restore_and_a_directory_is_not() {
    let mut case = case();
    let report = case.run(Mode::Run(&|_| Answer::Unasked)).await.expect("restored");
    assert_eq!(case.target.asked(), ["inventory", "lock", "apply", "verify"]);
    assert_eq!(report.exit_code(), 0);
    case.target = FakeTarget { differences: 2, ..FakeTarget::default() };
    assert_eq!(case.run(Mode::Run(&|_| Answer::Unasked)).await.expect("restored").exit_code(), 1);
    case.target = FakeTarget::default();
    case.to = Destination::Dir(PathBuf::from("/srv/out"));
    case.run(Mode::Run(&|_| Answer::Unasked)).await.expect("restored");
    assert_eq!(case.target.asked(), ["inventory", "lock", "apply"]);
}

#[tokio::test]
async fn nothing_is_locked_while_a_person_thinks_and_what_changed_meanwhile_is_asked_again() {
    // At each further look so many more things stand in the way, the last first; what is asked of the
    // target; how often the person is asked; whether it is done.
    let look = ["inventory", "lock"];
    let cases: [(&[u64], Vec<&str>, u64, bool); 3] = [
        (&[], [&look[..], &["inventory", "apply", "verify"]].concat(), 1, true),
        (&[1, 1], [&look[..], &look, &["inventory", "apply", "verify"]].concat(), 2, true),
        (&[3, 2, 1], [&look[..], &look, &look, &["inventory"]].concat(), 3, false),
    ];
    for (changes, asked, questions, done) in cases {
        let mut case = replacing();
        case.target.changes = Mutex::new(changes.to_vec());
        let shown = Mutex::new(Vec::new());
        let yes = |plan: &RestorePlan| {
            shown.lock().expect("no panic").push(plan.replaces_count);
            Answer::Yes
        };
        let result = case.run(Mode::Run(&yes)).await;
        assert_eq!((case.target.asked(), shown.into_inner().expect("no panic").len() as u64), (asked, questions));
        match result {
            Ok(_) => assert!(done),
            Err(error) => assert!(matches!(error, JobError::Changing { .. }) && !done, "{error}"),
        }
    }
}

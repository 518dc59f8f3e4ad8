use jiff::Timestamp;

use super::*;
use crate::target::Verdict;
use crate::{Digest, SnapshotId, SourceName};

fn name(text: &str) -> StackName {
    StackName::new(text).expect("a name")
}

/// Snapshot `n` of `stack/source`, captured at hour `n` of the first of January 2026.
fn snapshot(stack: &str, source: &str, n: u8, label: Option<&str>) -> SnapshotSummary {
    let time = Timestamp::from_second(1_767_225_600 + i64::from(n) * 3600).expect("a time");
    let group = format!("{stack}/{source}");
    SnapshotSummary {
        id: SnapshotId(Digest::of(format!("{group} {n}").as_bytes())),
        original: None,
        stack: Some(name(stack)),
        source: Some(SourceName::new(source).expect("a name")),
        kind: Some("files".to_owned()),
        time,
        recovery_point: Some(time),
        stored_at: time,
        label: label.map(str::to_owned),
        bytes: Some(10),
        new_bytes: Some(1),
        entries: Some(1),
        problems: Some(0),
        held: None,
        sequence: u64::from(n),
        countersigned_time: None,
        writer: "w".to_owned(),
        clock_drift: false,
        stack_tag: Digest::of(stack.as_bytes()),
        source_tag: Digest::of(group.as_bytes()),
    }
}

fn history() -> Vec<SnapshotSummary> {
    vec![
        snapshot("farajaland", "registry", 1, None),
        snapshot("farajaland", "registry", 3, Some("before-upgrade")),
        snapshot("farajaland", "registry", 2, None),
        snapshot("farajaland", "documents", 9, Some("before-upgrade")),
        snapshot("ocean", "registry-2", 4, None),
    ]
}

fn find(text: &str, all: &[SnapshotSummary]) -> Result<String, ResolveError> {
    let asked = SnapshotRef::parse(text).expect("a reference");
    resolve(&asked, all, &TimeZone::UTC).map(|s| format!("{} {}", s.group(), s.instant()))
}

#[test]
fn a_source_alone_means_its_newest_snapshot() {
    let all = history();
    assert_eq!(find("registry", &all).as_deref(), Ok("farajaland/registry 2026-01-01T03:00:00Z"));
    assert_eq!(find("registry@latest", &all), find("registry", &all));
}

#[test]
fn a_time_means_the_newest_at_or_before_it() {
    let all = history();
    assert_eq!(find("registry@2026-01-01 02:00", &all).as_deref(), Ok("farajaland/registry 2026-01-01T02:00:00Z"));
    assert_eq!(find("registry@2026-01-01 02:59", &all).as_deref(), Ok("farajaland/registry 2026-01-01T02:00:00Z"));
    assert!(matches!(find("registry@2025-12-31", &all), Err(ResolveError::NoMatch { .. })));
}

#[test]
fn an_id_prefix_and_a_label_find_their_snapshot() {
    let all = history();
    let id = all[2].id.to_string();
    for text in [id.clone(), id[..8].to_owned(), format!("registry@{}", &id[..6])] {
        assert_eq!(find(&text, &all).as_deref(), Ok("farajaland/registry 2026-01-01T02:00:00Z"), "{text}");
    }
    assert_eq!(
        find("registry@before-upgrade", &all).as_deref(),
        Ok("farajaland/registry 2026-01-01T03:00:00Z"),
        "a label counts within its source"
    );
    assert!(find(&format!("documents@{id}"), &all).is_err(), "an id of another source is not taken");
}

#[test]
fn the_original_id_of_a_copy_is_accepted() {
    let mut all = history();
    let original = SnapshotId(Digest::of(b"original"));
    all[0].original = Some(original);
    assert_eq!(find(&original.to_string()[..7], &all).as_deref(), Ok("farajaland/registry 2026-01-01T01:00:00Z"));
}

#[test]
fn a_source_of_several_stacks_asks_for_the_stack() {
    let mut all = history();
    all.push(snapshot("ocean", "registry", 5, None));
    let Err(ResolveError::SeveralStacks { stacks, .. }) = find("registry", &all) else { panic!("refused") };
    assert_eq!(stacks, ["farajaland", "ocean"]);
    assert_eq!(find("ocean/registry", &all).as_deref(), Ok("ocean/registry 2026-01-01T05:00:00Z"));
}

#[test]
fn an_ambiguous_label_lists_its_candidates() {
    let mut all = history();
    all.push(snapshot("farajaland", "registry", 7, Some("before-upgrade")));
    let Err(ResolveError::Ambiguous { candidates, .. }) = find("registry@before-upgrade", &all) else {
        panic!("refused")
    };
    assert_eq!(candidates.len(), 2);
}

#[test]
fn a_text_that_is_a_source_and_an_id_is_refused() {
    let mut all = history();
    let prefix = all[0].id.to_string()[..6].to_owned();
    all.push(snapshot("farajaland", &prefix, 1, None));
    assert!(matches!(find(&prefix, &all), Err(ResolveError::Ambiguous { .. })));
}

#[test]
fn no_match_tells_what_there_is() {
    let message = find("registri", &history()).expect_err("no such source").to_string();
    assert!(message.contains("farajaland/registry") && message.contains("ocean/registry-2"), "{message}");
    assert!(find("registry", &[]).expect_err("nothing").to_string().contains("none at all"));
}

struct Case {
    role: Role,
    to: Destination,
    options: RestoreOptions,
    inventory: TargetInventory,
    snapshot: SnapshotSummary,
    facts: BTreeMap<String, String>,
    own: BTreeMap<String, BTreeSet<String>>,
}

fn facts(id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("postgres.system_identifier".to_owned(), id.to_owned())])
}

/// A restore into an empty server that is not the origin's.
fn case() -> Case {
    Case {
        role: Role::Restore,
        to: Destination::Server("postgres://scratch".to_owned()),
        options: RestoreOptions::default(),
        inventory: TargetInventory {
            identity: facts("77"),
            steps: vec!["create database events".to_owned()],
            ..TargetInventory::default()
        },
        snapshot: snapshot("farajaland", "registry", 1, None),
        facts: facts("42"),
        own: BTreeMap::new(),
    }
}

impl Case {
    fn plan(&self) -> Result<RestorePlan, PlanError> {
        let point = RecoveryPoint {
            time: self.snapshot.instant(),
            consistency: "one view".to_owned(),
            facts: self.facts.clone(),
        };
        let machine = Machine {
            role: self.role,
            stack: Some(name("farajaland")),
            own: self.own.clone(),
            own_paths: vec![PathBuf::from("/srv/documents")],
        };
        let (snapshot, to, options) = (&self.snapshot, &self.to, &self.options);
        let request = RestoreRequest { snapshot, point: &point, problems: &[], to, options };
        plan_restore(&request, &self.inventory, &machine)
    }
}

#[test]
fn an_empty_target_is_planned_without_destruction() {
    let plan = case().plan().expect("a plan");
    assert_eq!((plan.destructive, plan.clone), (false, true));
    assert_eq!(plan.steps, ["create database events"]);
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn an_occupied_target_needs_replace() {
    let mut case = case();
    case.inventory.occupied = (0..9).map(|n| format!("table {n}")).collect();
    case.inventory.occupied_count = 12;
    let error = case.plan().expect_err("refused");
    assert!(error.to_string().contains("12 things"), "{error}");
    assert!(error.to_string().contains("table 4, ..."), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--replace")));
    case.options.replace = true;
    let plan = case.plan().expect("a plan");
    assert!(plan.destructive);
    assert_eq!(plan.replaces_count, 12);
}

#[test]
fn what_is_altered_where_it_stands_is_a_deed_and_a_yes_holds_for_what_was_shown() {
    let mut case = case();
    case.options.replace = true;
    let shown = case.plan().expect("a plan");
    assert!(!shown.destructive);
    case.inventory.alters = vec!["role app: another password".to_owned()];
    case.inventory.alters_count = 1;
    let plan = case.plan().expect("a plan");
    assert!(plan.destructive && !plan.destroys_the_same(&shown));
    assert_eq!(plan.warnings, ["1 thing of what exists will be altered in place"]);
    case.inventory.alters = vec!["role app: SUPERUSER".to_owned()];
    assert!(!case.plan().expect("a plan").destroys_the_same(&plan), "another role, or another change of it");
}

#[test]
fn missing_space_and_an_older_server_are_refused_even_with_replace() {
    let mut full = case();
    full.options.replace = true;
    full.inventory.needed_bytes = 11;
    full.inventory.free_bytes = Some(10);
    assert!(matches!(full.plan(), Err(PlanError::NoSpace { needed_bytes: 11, free_bytes: 10, .. })));
    full.inventory.free_bytes = Some(11);
    assert!(full.plan().is_ok());
    let mut old = case();
    old.options.replace = true;
    let finding = Finding {
        verdict: Verdict::Bad,
        what: "the server is 14, the dump 15".to_owned(),
        hint: Some("use a newer server".to_owned()),
    };
    old.inventory.refusals = vec![finding];
    let error = old.plan().expect_err("refused");
    assert_eq!(error.hint().as_deref(), Some("use a newer server"));
}

#[test]
fn a_backup_machine_does_not_restore_over_its_own_stack_whatever_the_url() {
    let mut case = case();
    case.role = Role::Backup;
    assert!(case.plan().is_ok(), "another server may be restored to");
    case.inventory.identity = facts("42");
    case.options.replace = true;
    let error = case.plan().expect_err("refused");
    assert!(matches!(error, PlanError::OwnStack { .. }));
    assert!(error.to_string().contains("system_identifier is 42"), "{error}");
    case.role = Role::Both;
    let plan = case.plan().expect("role both may");
    assert!(plan.warnings[0].contains("role both"));
    assert!(!plan.clone, "back into the origin is no clone");
}

#[test]
fn a_foreign_snapshot_does_not_go_over_the_own_stack_either() {
    let mut case = case();
    case.role = Role::Backup;
    case.snapshot = snapshot("staging", "registry", 1, None);
    case.own = BTreeMap::from([("postgres.system_identifier".to_owned(), BTreeSet::from(["77".to_owned()]))]);
    assert!(matches!(case.plan(), Err(PlanError::OwnStack { .. })));
}

#[test]
fn a_backup_machine_restores_beside_its_files_but_not_over_them() {
    let mut case = case();
    case.role = Role::Backup;
    case.facts = BTreeMap::from([("machine.id".to_owned(), "m".to_owned())]);
    case.inventory.identity = case.facts.clone();
    case.to = Destination::Dir(PathBuf::from("/srv/scratch"));
    assert!(case.plan().is_ok());
    for over in ["/", "/srv", "/srv/documents", "/srv/documents/deep"] {
        case.to = Destination::Dir(PathBuf::from(over));
        assert!(matches!(case.plan(), Err(PlanError::OwnStack { .. })), "{over}");
    }
    case.to = Destination::Origin;
    assert!(matches!(case.plan(), Err(PlanError::OwnStack { .. })));
    case.role = Role::Restore;
    assert!(case.plan().is_ok());
}

#[test]
fn a_stack_rebuilt_in_its_place_is_no_clone_and_one_on_a_restore_host_is() {
    let mut case = case();
    case.to = Destination::Origin;
    assert!(case.plan().expect("a plan").clone, "on a restore host");
    case.role = Role::Both;
    assert!(!case.plan().expect("a plan").clone, "on the machine that backs it up");
    case.role = Role::Backup;
    assert!(!case.plan().expect("another system stands there").clone);
    case.to = Destination::Dir(PathBuf::from("/scratch"));
    case.role = Role::Restore;
    assert!(!case.plan().expect("a plan").clone, "files are no system");
}

#[test]
fn a_clone_may_not_write_its_origins_history() {
    let stack = name("farajaland");
    assert!(clone_refusal(&stack, &facts("77"), &[facts("77")]).is_some());
    assert_eq!(clone_refusal(&stack, &facts("42"), &[facts("77")]), None);
    assert_eq!(clone_refusal(&stack, &BTreeMap::new(), &[facts("77")]), None);
    assert!(!is_clone(&facts("1"), &BTreeMap::new()), "what tells nothing of itself is not called a clone");
}

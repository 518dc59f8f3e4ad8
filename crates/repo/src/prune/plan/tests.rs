use super::*;

const GRACE: Duration = Duration::from_mins(1);

fn hash(n: u8) -> ObjectHash {
    ObjectHash::from([n; 32])
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn pack(n: u8, stored_at: i64, live_bytes: u64) -> PackFacts {
    let (kind, stored_at) = (PackKind::Data, at(stored_at));
    PackFacts { hash: hash(n), kind, bytes: 1000, stored_at, record_bytes: 100, live_bytes }
}

fn run(begun: i64, last_sign: i64) -> RunFacts {
    RunFacts {
        run: RunId([1; 16]),
        begun: at(begun),
        last_sign: at(last_sign),
        ended: false,
        marks_seen: BTreeSet::new(),
        pins: BTreeSet::new(),
        objects: Vec::new(),
    }
}

fn mark(n: u8, stored_at: i64, packs: &[u8]) -> MarkFacts {
    MarkFacts {
        hash: hash(n),
        stored_at: at(stored_at),
        packs: packs.iter().map(|n| (PackKind::Data, hash(*n))).collect(),
        indexes: Vec::new(),
        others: Vec::new(),
        deleting: Vec::new(),
    }
}

fn view(now: i64) -> View {
    View {
        now: at(now),
        grace: GRACE,
        list_staleness: Duration::ZERO,
        packs: Vec::new(),
        indexes: Vec::new(),
        runs: Vec::new(),
        marks: Vec::new(),
        roots: Vec::new(),
        verdicts: Vec::new(),
    }
}

fn decide(view: &View) -> Plan {
    plan(view, &PruneOptions::default())
}

#[test]
fn a_pack_younger_than_the_grace_period_or_than_an_open_run_is_left_alone() {
    let mut young = view(1000);
    young.packs = vec![pack(1, 939, 0), pack(2, 941, 0)];
    assert_eq!(decide(&young).garbage, [(PackKind::Data, hash(1))]);
    assert_eq!(decide(&young).young, [(PackKind::Data, hash(2), at(941))], "it is told");
    let mut busy = view(1000);
    busy.packs = vec![pack(1, 100, 0), pack(2, 200, 0), pack(3, 300, 0)];
    busy.runs = vec![run(200, 990)];
    assert_eq!(decide(&busy).garbage, [(PackKind::Data, hash(1))]);
    busy.runs = vec![run(200, 939)];
    assert_eq!(decide(&busy).garbage.len(), 3, "a run that was silent for longer than the grace period is dead");
}

#[test]
fn a_ripe_mark_waits_for_an_open_run_that_began_before_it_until_the_run_has_seen_it() {
    let mut view = view(1000);
    view.packs = vec![pack(1, 100, 0)];
    view.marks = vec![mark(9, 900, &[1])];
    view.runs = vec![run(800, 990)];
    let waits = decide(&view);
    assert!(waits.due.is_empty() && matches!(waits.waits[..], [Wait::Run { .. }]), "{waits:?}");
    view.runs[0].marks_seen.insert(hash(9));
    assert_eq!(decide(&view).due[0].packs, [(PackKind::Data, hash(1))]);
    view.runs[0].pins.insert(hash(1));
    assert!(decide(&view).due.is_empty(), "what is pinned stays");
    view.runs = vec![run(901, 990)];
    assert_eq!(decide(&view).due.len(), 1, "a run that began later has listed the mark");
    view.list_staleness = Duration::from_secs(5);
    assert!(decide(&view).due.is_empty(), "its list may have missed the mark");
}

#[test]
fn pins_of_a_run_that_has_just_ended_count() {
    let mut view = view(1000);
    view.packs = vec![pack(1, 100, 0), pack(2, 100, 0)];
    view.marks = vec![mark(9, 900, &[1, 2])];
    view.runs = vec![RunFacts { ended: true, pins: BTreeSet::from([hash(1)]), ..run(800, 990) }];
    let plan = decide(&view);
    assert_eq!((&plan.due[0].packs, &plan.due[0].kept), (&vec![(PackKind::Data, hash(2))], &vec![hash(1)]));
}

#[test]
fn a_marked_pack_that_is_needed_again_is_kept() {
    let mut view = view(1000);
    view.packs = vec![pack(1, 100, 50), pack(2, 100, 0)];
    view.marks = vec![mark(9, 900, &[1, 2])];
    let plan = decide(&view);
    assert_eq!((plan.due[0].packs.len(), &plan.due[0].kept), (1, &vec![hash(1)]));
}

#[test]
fn packs_are_packed_anew_from_the_chosen_share_of_waste_on() {
    let mut view = view(1000);
    view.packs = vec![pack(1, 100, 81), pack(2, 100, 80), pack(3, 100, 100)];
    assert_eq!(decide(&view).repack, [(PackKind::Data, hash(2))]);
    let all = PruneOptions { waste_percent: 0, ..PruneOptions::default() };
    assert_eq!(plan(&view, &all).repack.len(), 2, "a pack without waste is never touched");
}

#[test]
fn an_index_goes_only_when_all_that_it_says_is_said_elsewhere_or_gone() {
    let index = |n: u8, packs: &[(u8, u32)]| IndexFacts {
        hash: hash(n),
        bytes: 10,
        stored_at: at(100),
        packs: packs.iter().map(|(n, records)| (hash(*n), *records)).collect(),
    };
    let mut view = view(1000);
    view.packs = vec![pack(1, 100, 50), pack(2, 100, 0)];
    view.indexes = vec![index(5, &[(1, 3), (2, 3)]), index(6, &[(1, 3)])];
    view.marks = vec![MarkFacts { indexes: vec![hash(5)], ..mark(9, 900, &[2]) }];
    assert_eq!(decide(&view).due[0].indexes, [hash(5)]);
    view.indexes[1] = index(6, &[(1, 2)]);
    assert!(decide(&view).due[0].indexes.is_empty(), "the other says less");
}

#[test]
fn a_forget_stays_while_a_root_follows_its_snapshot() {
    let root = |n: u8, state, previous: Option<u8>| RootFacts {
        key: crate::object::ObjectType::SnapshotRoot.key(hash(n)),
        hash: hash(n),
        stored_at: at(100),
        state,
        chain: Some(vec![1]),
        sequence: u64::from(n),
        previous: previous.map(hash),
    };
    let forget = |n: u8| VerdictFacts {
        key: crate::object::ObjectType::Forget.key(hash(n)),
        snapshot: hash(n),
        stored_at: at(200),
        void: false,
    };
    let mut view = view(1000);
    view.roots = vec![
        root(2, RootState::Forgotten, Some(1)),
        root(3, RootState::Forgotten, Some(2)),
        root(4, RootState::Live, Some(3)),
    ];
    view.verdicts = vec![forget(1), forget(2), forget(3)];
    let others = view.roots[..2].iter().map(|root| root.key.clone()).collect();
    view.marks = vec![MarkFacts { others, ..mark(9, 900, &[]) }];
    let plan = decide(&view);
    assert_eq!(plan.due[0].roots.len(), 2);
    assert_eq!(plan.due[0].verdicts, [forget(1).key, forget(2).key], "3 explains the hole before 4");
    view.roots[2].state = RootState::Forgotten;
    view.marks[0].others.push(view.roots[2].key.clone());
    assert!(decide(&view).due[0].verdicts.is_empty(), "4 was the newest: its forget and 3's explain what is gone");
}

#[test]
fn a_mark_stays_while_an_index_object_names_a_pack_that_it_had_deleted() {
    let index = |n: u8, packs: &[(u8, u32)]| IndexFacts {
        hash: hash(n),
        bytes: 100,
        stored_at: at(100),
        packs: packs.iter().map(|(pack, records)| (hash(*pack), *records)).collect(),
    };
    let mut view = view(1000);
    // One record in a hundred is of the pack that is gone: not worth writing the index anew.
    view.packs = vec![pack(1, 100, 100)];
    view.indexes = vec![index(30, &[(1, 99), (2, 1)])];
    view.marks = vec![mark(9, 500, &[2])];
    let kept = decide(&view);
    assert!(kept.stale.is_empty() && kept.supersede.is_empty(), "writers avoid the pack by the mark alone: {kept:?}");
    view.indexes = vec![index(31, &[(1, 99)])];
    assert_eq!(decide(&view).stale, [[crate::object::ObjectType::Mark.key(hash(9))]]);
    // Where the mark is gone all the same, the index goes at once.
    view.indexes = vec![index(30, &[(1, 99), (2, 1)])];
    view.marks.clear();
    assert_eq!(decide(&view).supersede, [hash(30)]);
}

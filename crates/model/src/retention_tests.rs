use proptest::prelude::*;

use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().expect("a good time")
}

fn snapshot(number: u8, at: &str) -> Candidate {
    Candidate {
        id: SnapshotId::from([number; 32]),
        sequence: u64::from(number),
        writer_time: time(at),
        stored_at: time(at),
        countersigned_time: None,
        held: None,
        restorable: true,
    }
}

fn snapshots(times: &[&str]) -> Vec<Candidate> {
    (1..).zip(times).map(|(number, at)| snapshot(number, at)).collect()
}

fn verdicts(policy: &RetentionPolicy, snapshots: &[Candidate], now: &str, zone: &str) -> Vec<String> {
    let zone = TimeZone::get(zone).expect("a known zone");
    let judged = apply_retention(policy, snapshots, time(now), &zone).expect("a policy that keeps something");
    judged
        .iter()
        .map(|judgement| match &judgement.verdict {
            Verdict::Forget => "forget".to_owned(),
            Verdict::Keep(reasons) => reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + "),
        })
        .collect()
}

fn window(text: &str) -> RetentionPolicy {
    RetentionPolicy::window(text.parse().expect("a good window"))
}

#[test]
fn a_window_keeps_all_in_it_and_the_newest_before_it() {
    let all =
        snapshots(&["2026-01-01T01:00:00Z", "2026-01-05T01:00:00Z", "2026-01-06T01:00:00Z", "2026-02-04T01:00:00Z"]);
    assert_eq!(
        verdicts(&window("30d"), &all, "2026-02-04T12:00:00Z", "UTC"),
        ["forget", "newest before the window", "in the window", "in the window + newest that can be restored"]
    );
}

#[test]
fn months_and_years_of_a_window_end_where_the_calendar_says() {
    for (policy, now, begins) in [
        ("1m", "2026-03-31T12:00:00Z", "2026-02-28T12:00:00Z"),
        ("1m", "2028-03-31T12:00:00Z", "2028-02-29T12:00:00Z"),
        ("1y", "2028-02-29T12:00:00Z", "2027-02-28T12:00:00Z"),
        ("12m", "2026-12-31T12:00:00Z", "2025-12-31T12:00:00Z"),
        ("4w", "2026-01-29T12:00:00Z", "2026-01-01T12:00:00Z"),
    ] {
        let begin = time(begins);
        let mut all = vec![snapshot(1, begins), snapshot(2, begins), snapshot(3, begins), snapshot(4, now)];
        for (at, shift) in [(0, -2), (1, -1), (2, 1)] {
            let moved = begin + SignedDuration::from_secs(shift);
            (all[at].stored_at, all[at].writer_time) = (moved, moved);
        }
        let got = verdicts(&window(policy), &all, now, "UTC");
        assert_eq!(got[..3], ["forget", "newest before the window", "in the window"], "{policy} before {now}");
    }
}

#[test]
fn a_window_of_days_counts_days_of_the_wall_through_a_clock_change() {
    // Clocks went forward on 29 March: a day before Monday noon is Sunday noon, 24 hours; a day
    // before Sunday noon is Saturday noon, 23 hours.
    let all =
        snapshots(&["2026-03-28T10:59:59Z", "2026-03-28T11:00:00Z", "2026-03-28T11:00:01Z", "2026-03-29T09:00:00Z"]);
    assert_eq!(
        verdicts(&window("1d"), &all, "2026-03-29T10:00:00Z", "Europe/Berlin")[..3],
        ["forget", "newest before the window", "in the window"]
    );
}

#[test]
fn counting_rules_keep_the_newest_of_each_stretch() {
    let policy = RetentionPolicy { keep_last: 1, keep_daily: 2, keep_monthly: 2, keep_yearly: 2, ..Default::default() };
    let all = snapshots(&[
        "2024-06-01T01:00:00Z",
        "2025-12-30T01:00:00Z",
        "2025-12-31T01:00:00Z",
        "2026-02-03T01:00:00Z",
        "2026-02-04T01:00:00Z",
        "2026-02-04T13:00:00Z",
    ]);
    assert_eq!(
        verdicts(&policy, &all, "2026-02-04T14:00:00Z", "UTC"),
        [
            "forget",
            "forget",
            "monthly + yearly",
            "daily",
            "forget",
            "last + daily + monthly + yearly + newest that can be restored",
        ]
    );
}

#[test]
fn days_begin_at_midnight_of_the_zone() {
    let policy = RetentionPolicy { keep_daily: 2, ..Default::default() };
    // 23:30 and 00:30 in Lusaka: one day in UTC, two there.
    let all = snapshots(&["2026-02-03T12:00:00Z", "2026-02-03T21:30:00Z", "2026-02-03T22:30:00Z"]);
    let now = "2026-02-04T06:00:00Z";
    assert_eq!(verdicts(&policy, &all, now, "Africa/Lusaka")[..2], ["forget", "daily"]);
    let policy = RetentionPolicy { keep_daily: 1, ..Default::default() };
    assert_eq!(verdicts(&policy, &all, now, "UTC")[1], "forget");
}

#[test]
fn an_hour_that_comes_twice_counts_as_two() {
    let policy = RetentionPolicy { keep_hourly: 2, ..Default::default() };
    let all = snapshots(&["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"]);
    let got = verdicts(&policy, &all, "2026-11-01T07:00:00Z", "America/New_York");
    assert_eq!(got, ["hourly", "hourly + newest that can be restored"]);
}

#[test]
fn weeks_are_those_of_iso_across_the_turn_of_the_year() {
    let policy = RetentionPolicy { keep_weekly: 2, ..Default::default() };
    // 31 December 2025 to 4 January 2026 are one week; 5 January begins the next.
    let all =
        snapshots(&["2025-12-28T01:00:00Z", "2025-12-31T01:00:00Z", "2026-01-04T01:00:00Z", "2026-01-05T01:00:00Z"]);
    assert_eq!(
        verdicts(&policy, &all, "2026-01-05T02:00:00Z", "UTC"),
        ["forget", "forget", "weekly", "weekly + newest that can be restored"]
    );
}

#[test]
fn held_and_newest_restorable_snapshots_stay_whatever_the_rules_say() {
    let mut all = snapshots(&["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z", "2026-02-03T00:00:00Z"]);
    all[0].held = Some("court case 12".to_owned());
    all[2].restorable = false;
    let policy = RetentionPolicy { keep_last: 1, ..Default::default() };
    assert_eq!(
        verdicts(&policy, &all, "2026-02-04T00:00:00Z", "UTC"),
        ["held: court case 12", "newest that can be restored", "last"]
    );
    all[1].restorable = false;
    all[0].restorable = false;
    assert_eq!(verdicts(&policy, &all, "2026-02-04T00:00:00Z", "UTC")[1], "none can be restored");
}

#[test]
fn a_snapshot_dated_in_the_future_pushes_none_out() {
    let mut all = snapshots(&["2026-02-03T00:00:00Z", "2026-02-04T00:00:00Z"]);
    let policy = RetentionPolicy { keep_last: 1, ..Default::default() };
    all.push(snapshot(3, "2031-01-01T00:00:00Z"));
    let zone = TimeZone::UTC;
    let judged = apply_retention(&policy, &all, time("2026-02-04T01:00:00Z"), &zone).expect("verdicts");
    assert_eq!(judged[0].verdict, Verdict::Forget);
    assert!(matches!(&judged[1].verdict, Verdict::Keep(reasons) if reasons.contains(&Reason::Last)));
    assert!(matches!(judged[2].suspicion, Some(Suspicion::Future(_))));
}

#[test]
fn a_store_that_lost_its_times_makes_nothing_be_forgotten() {
    // Copied without times: the store dates everything today.
    let mut all = snapshots(&["2026-02-01T01:00:00Z", "2026-02-02T01:00:00Z", "2026-02-03T01:00:00Z"]);
    for s in &mut all {
        s.stored_at = time("2026-02-04T09:00:00Z");
    }
    let policy = RetentionPolicy { keep_daily: 7, ..Default::default() };
    let got = verdicts(&policy, &all, "2026-02-04T10:00:00Z", "UTC");
    assert!(got.iter().all(|verdict| verdict.contains("daily")), "{got:?}");
}

#[test]
fn a_writer_whose_clock_is_wrong_is_flagged_and_a_countersigned_time_is_not() {
    let mut wrong = snapshot(1, "2026-02-04T09:00:00Z");
    wrong.writer_time = time("2019-01-01T00:00:00Z");
    let imported = Candidate { countersigned_time: Some(wrong.writer_time), ..wrong.clone() };
    let now = time("2026-02-04T10:00:00Z");
    let judge = |s: &Candidate| {
        apply_retention(&window("30d"), std::slice::from_ref(s), now, &TimeZone::UTC).expect("a verdict")
    };
    assert!(judge(&wrong)[0].suspicion.is_some_and(|s| s.to_string().contains("behind the store's")));
    assert_eq!(judge(&imported)[0].suspicion, None);
}

#[test]
fn a_policy_that_keeps_nothing_is_refused() {
    let all = snapshots(&["2026-02-03T00:00:00Z"]);
    let got = apply_retention(&RetentionPolicy::default(), &all, time("2026-02-04T00:00:00Z"), &TimeZone::UTC);
    assert_eq!(got, Err(RetentionError::KeepsNothing));
}

#[test]
fn windows_read_what_they_write_and_refuse_the_rest() {
    for good in ["30d", "4w", "12m", "1y"] {
        assert_eq!(good.parse::<Window>().expect(good).to_string(), good);
    }
    for bad in ["", "d", "0d", "-1d", "+1d", "30", "30 d", "1h", "99999999999d", "1é"] {
        assert!(bad.parse::<Window>().is_err(), "{bad}");
    }
    assert_eq!(window("30d").to_string(), "window 30d");
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0_i64..4_000_000, -20_000_i64..20_000, any::<bool>(), 0_u8..8);
    proptest::collection::vec(one, 1..40).prop_map(|list| {
        (0_u8..)
            .zip(list)
            .map(|(number, (stored, apart, restorable, held))| Candidate {
                id: SnapshotId::from([number; 32]),
                sequence: u64::from(number),
                stored_at: Timestamp::from_second(1_700_000_000 + stored).expect("in range"),
                writer_time: Timestamp::from_second(1_700_000_000 + stored + apart).expect("in range"),
                countersigned_time: None,
                held: (held == 0).then(String::new),
                restorable,
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn the_newest_restorable_and_the_held_always_stay(
        all in any_candidates(), last in 0_u32..4, daily in 0_u32..4, weekly in 0_u32..3, days in 1_u32..40,
    ) {
        let policy = RetentionPolicy {
            keep_last: last, keep_daily: daily, keep_weekly: weekly,
            window: (days % 2 == 0 || last + daily + weekly == 0).then_some(Window { count: days, unit: WindowUnit::Days }),
            ..RetentionPolicy::default()
        };
        let now = Timestamp::from_second(1_704_100_000).expect("in range");
        let judged = apply_retention(&policy, &all, now, &TimeZone::UTC).expect("verdicts");
        prop_assert_eq!(judged.len(), all.len());
        let newest = all.iter().filter(|s| s.restorable).max_by_key(|s| (s.stored_at, s.sequence));
        for (s, judgement) in all.iter().zip(&judged) {
            prop_assert_eq!(s.id, judgement.id);
            if s.held.is_some() || newest.is_some_and(|newest| newest.id == s.id) {
                prop_assert_ne!(&judgement.verdict, &Verdict::Forget);
            }
        }
    }

    #[test]
    fn suspicious_snapshots_never_change_the_verdict_on_others_to_forget(all in any_candidates(), last in 1_u32..5) {
        let policy = RetentionPolicy { keep_last: last, keep_daily: 3, ..RetentionPolicy::default() };
        let now = Timestamp::from_second(1_704_100_000).expect("in range");
        let with = apply_retention(&policy, &all, now, &TimeZone::UTC).expect("verdicts");
        let trusted: Vec<Candidate> =
            all.iter().zip(&with).filter(|(_, j)| j.suspicion.is_none()).map(|(s, _)| s.clone()).collect();
        let without = apply_retention(&policy, &trusted, now, &TimeZone::UTC).expect("verdicts");
        for judgement in without.iter().filter(|j| j.verdict != Verdict::Forget) {
            let same = with.iter().find(|j| j.id == judgement.id).expect("judged");
            let only_for_want_of_better =
                judgement.verdict == Verdict::Keep(vec![Reason::NothingRestorable]);
            prop_assert!(same.verdict != Verdict::Forget || only_for_want_of_better);
        }
    }
}

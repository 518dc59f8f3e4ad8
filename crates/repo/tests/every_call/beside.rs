//! Two operations at once: one is suspended before one of its calls, and the other comes between.

use std::collections::BTreeSet;
use std::pin::pin;

use lifeboat_repo::RepoError;
use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::effort;

use crate::acts::Act;
use crate::history::{Stage, history};
use crate::machine::{Fault, Machine};
use crate::site::Site;

/// One in so many calls is usually tried, and of operations with many calls about so many.
const USUAL: u64 = 12;
const MOST: u64 = 8;

/// Which operation is suspended, which ones come between, and what was there before.
const PAIRS: &[(Act, &[Act], Stage)] = &[
    (
        Act::Backup,
        &[
            Act::PruneToTheEnd,
            Act::NeighboursBackup,
            Act::Forget,
            Act::Prune,
            Act::RemoveIdentity,
            Act::RemoveMaintainer,
            Act::AddWriter,
            Act::RemoveWriter,
        ],
        Stage::Marked,
    ),
    (Act::Backup, &[Act::PruneToTheEnd, Act::Prune], Stage::Unmarked),
    (Act::Backup, &[Act::Repair], Stage::Damaged),
    (Act::Copy, &[Act::PruneToTheEnd, Act::PruneAwayToTheEnd, Act::RemoveIdentity, Act::Backup], Stage::Marked),
    (Act::Copy, &[Act::PruneToTheEnd, Act::PruneAwayToTheEnd], Stage::Unmarked),
    (
        Act::Prune,
        &[
            Act::Prune,
            Act::PruneToTheEnd,
            Act::Backup,
            Act::NeighboursBackup,
            Act::Forget,
            Act::RemoveMaintainer,
            Act::RemoveIdentity,
            Act::RemoveWriter,
        ],
        Stage::Marked,
    ),
    (Act::Prune, &[Act::Prune, Act::PruneToTheEnd, Act::Backup, Act::Forget], Stage::Unmarked),
    (Act::Prune, &[Act::Repair], Stage::Damaged),
    (Act::Forget, &[Act::PruneToTheEnd, Act::Backup, Act::RemoveIdentity], Stage::Marked),
    (
        Act::RemoveIdentity,
        &[Act::Backup, Act::PruneToTheEnd, Act::AddWriter, Act::RemoveWriter, Act::RemoveMaintainer],
        Stage::Marked,
    ),
    (Act::RemoveWriter, &[Act::Backup, Act::PruneToTheEnd, Act::RemoveIdentity, Act::SetGrace], Stage::Marked),
    (Act::Repair, &[Act::Backup, Act::PruneToTheEnd, Act::RemoveIdentity], Stage::Damaged),
];

/// Whether this may stop the one that was suspended: it was taken for dead, and what it used is deleted.
fn may_stop(act: Act, between: Act, why: &RepoError) -> bool {
    let adds = matches!(act, Act::Backup | Act::Copy | Act::Repair);
    let deletes = matches!(between, Act::Prune | Act::PruneToTheEnd | Act::PruneAwayToTheEnd | Act::Repair);
    adds && deletes && matches!(why, RepoError::GivenUp { .. })
}

/// Suspends `act` before a call until `between` is done, which itself may meet something.
async fn try_one(base: &Site, (act, between, stage): (Act, Act, Stage), number: u64, fault: Option<(Fault, u64)>) {
    if fault.is_some_and(|(fault, _)| fault.lags()) {
        tokio::time::pause();
    }
    let mut site = base.fork(fault.is_some_and(|(fault, _)| fault.lags()));
    let machine = Machine::suspended_at(&site.clock, number);
    let other = fault.map_or_else(|| Machine::sound(&site.clock), |(fault, at)| Machine::with(&site.clock, fault, at));
    let (outcome, came) = {
        let mut first = pin!(act.run(&site, &machine));
        let early = tokio::select! {
            biased;
            done = &mut first => Some(done),
            () = machine.paused() => None,
        };
        if let Some(done) = early {
            (done, None)
        } else {
            let came = between.run(&site, &other).await;
            machine.resume();
            (first.await, Some(came))
        }
    };
    let call = |machine: &Machine, at: u64| {
        let calls = machine.calls();
        calls.get(usize::try_from(at).expect("small")).map_or_else(|| "not reached".into(), ToString::to_string)
    };
    let mut at = format!("{act:?} ({stage:?}) suspended at call {number}: {}; {between:?}", call(&machine, number));
    if let Some((fault, when)) = fault {
        at = format!("{at} with {fault:?} at call {when}: {}", call(&other, when));
    }
    let mut unsure = BTreeSet::new();
    match came {
        None => {}
        Some(Ok(done)) => site.take(between, done),
        Some(Err(error)) => {
            assert!(fault.is_some_and(|(fault, _)| !fault.is_harmless()), "{at}: {error}");
            unsure = site.unsure(between);
        }
    }
    match outcome {
        Ok(done) => site.take(act, done),
        Err(error) => {
            assert!(may_stop(act, between, &error), "{at}: {error}");
        }
    }
    for house in [&site.home, &site.away] {
        if stage != Stage::Damaged {
            site.restores(house, &unsure, &at).await;
        }
    }
    for act in [act, between] {
        let again = act.run(&site, &Machine::sound(&site.clock)).await;
        site.take(act, again.unwrap_or_else(|error| panic!("{at}: and the next {act:?}: {error}")));
    }
    site.ends_well(act, number, &at).await;
    if act.at(&site).name != between.at(&site).name {
        site.ends_well(between, number, &at).await;
    }
    if fault.is_some_and(|(fault, _)| fault.lags()) {
        tokio::time::resume();
    }
}

async fn every_pair(mut which: impl FnMut(Act) -> bool) {
    for (row, (act, others, stage)) in (0..).zip(PAIRS).filter(|(_, (act, ..))| which(*act)) {
        let base = Box::pin(history(*stage)).await;
        let calls = async |act: Act| {
            let site = base.fork(false);
            let machine = Machine::sound(&site.clock);
            act.run(&site, &machine).await.unwrap_or_else(|error| panic!("{act:?} ({stage:?}): {error}"));
            machine.calls()
        };
        let own = calls(*act).await.len() as u64;
        for (shift, between) in (row..).zip(*others) {
            let its = calls(*between).await;
            let usual = USUAL.max(own / MOST).min(own);
            for number in (0..own).filter(|number| effort::is_tried(*number, shift, usual)) {
                let what = (*act, *between, *stage);
                Box::pin(try_one(&base, what, number, None)).await;
                // And something happens to the other one as well, at one of its calls.
                let mut random = Numbers::new(number);
                let fault = *random.pick(&Fault::ALL);
                let fit: Vec<u64> = (0..).zip(&its).filter(|(_, call)| call.minds(fault)).map(|(at, _)| at).collect();
                Box::pin(try_one(&base, what, number, Some((fault, *random.pick(&fit))))).await;
            }
        }
    }
}

#[tokio::test]
async fn a_backup_in_which_another_operation_comes_between() {
    every_pair(|act| act == Act::Backup).await;
}

#[tokio::test]
async fn a_prune_or_forget_in_which_another_operation_comes_between() {
    every_pair(|act| matches!(act, Act::Prune | Act::Forget)).await;
}

#[tokio::test]
async fn a_copy_or_repair_in_which_another_operation_comes_between() {
    every_pair(|act| matches!(act, Act::Copy | Act::Repair)).await;
}

#[tokio::test]
async fn a_change_of_the_roster_in_which_another_operation_comes_between() {
    every_pair(|act| Act::OF_OWNERS.contains(&act)).await;
}

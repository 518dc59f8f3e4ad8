//! One operation, to which something happens at one of its calls.

use std::collections::BTreeSet;

use lifeboat_repo::open_access;
use lifeboat_testkit::effort;

use crate::acts::{Act, Done, spare};
use crate::history::{Stage, history};
use crate::machine::{Fault, Machine};
use crate::site::Site;

/// Usually each fault is tried at about so many calls of an operation, and at one in three of few.
const USUAL: u64 = 10;

impl Site {
    /// Remembers what was done.
    pub(crate) fn take(&mut self, act: Act, done: Done) {
        let house = if act == Act::Copy { &mut self.away } else { &mut self.home };
        if let Some((sealed, files)) = done.sealed {
            house.heads.insert(sealed.head.writer, sealed.head.clone());
            house.sealed.insert(sealed.id, files);
        }
        if let Some(id) = done.forgotten {
            house.sealed.remove(&id);
        }
    }

    /// What a forget that was cut off may have forgotten.
    pub(crate) fn unsure(&self, act: Act) -> BTreeSet<lifeboat_model::SnapshotId> {
        let spare = spare();
        let made = act.at(self).made.iter().filter(|(_, files)| act == Act::Forget && **files == spare);
        made.map(|(id, _)| *id).collect()
    }

    /// The operation was done, a check finds nothing, and what was sealed is there when all is deleted that can be.
    pub(crate) async fn ends_well(&self, act: Act, number: u64, at: &str) {
        let house = act.at(self);
        let roster = open_access(&house.truth(), &house.people.identity(), None).await.expect(at).access.roster;
        assert!(act.is_on(&roster, house), "{at}: the roster does not tell of it");
        // A prune mends some of what a check would tell: it comes before the check in one half of the cases only.
        if number.is_multiple_of(2) {
            self.is_sound(house, at).await;
            self.prunes_well(house, at).await;
        } else {
            self.prunes_well(house, at).await;
            self.is_sound(house, at).await;
        }
        self.restores(house, &BTreeSet::new(), at).await;
    }
}

/// Something that happens at a call of an operation.
async fn try_one(base: &Site, act: Act, stage: Stage, fault: Fault, number: u64) {
    if fault.lags() {
        tokio::time::pause();
    }
    let mut site = base.fork(fault.lags());
    let machine = Machine::with(&site.clock, fault, number);
    let outcome = act.run(&site, &machine).await;
    let met = machine.calls().get(usize::try_from(number).expect("small")).map(ToString::to_string);
    let met = met.unwrap_or_else(|| "not reached".to_owned());
    let at = format!("{act:?} ({stage:?}), {fault:?} at call {number}: {met}");
    let mut unsure = BTreeSet::new();
    match outcome {
        Ok(done) => {
            // Who sleeps in the middle of a deletion leaves the rest to the next prune, and says so.
            let odd = done
                .prunes
                .iter()
                .find(|report| !report.refused.is_empty() || !report.problems.is_empty() && fault != Fault::Sleeps);
            assert!(odd.is_none(), "{at}: {odd:?}");
            site.take(act, done);
        }
        Err(error) => {
            assert!(!fault.is_harmless(), "{at}: {error}");
            unsure = site.unsure(act);
        }
    }
    if stage != Stage::Damaged {
        site.restores(act.at(&site), &unsure, &at).await;
    }
    // At once, on the same host, which kept what it had in its caches.
    let again = act.run(&site, &machine.next()).await;
    site.take(act, again.unwrap_or_else(|error| panic!("{at}: and the next run: {error}")));
    if fault.lags() && Act::OF_OWNERS.contains(&act) {
        // It may not have seen what was put right before it: a warning told to run it once more.
        let ended = act.run(&site, &Machine::sound(&site.clock)).await;
        drop(ended.unwrap_or_else(|error| panic!("{at}: and once more: {error}")));
    }
    site.ends_well(act, number, &at).await;
    if fault.lags() {
        tokio::time::resume();
    }
}

/// Tries every fault at every call of an operation.
async fn every_call(act: Act, stage: Stage) {
    let base = Box::pin(history(stage)).await;
    let site = base.fork(false);
    let machine = Machine::sound(&site.clock);
    act.run(&site, &machine).await.unwrap_or_else(|error| panic!("{act:?} ({stage:?}): {error}"));
    let usual = (machine.calls().len() as u64 / USUAL).max(3);
    for (shift, fault) in (0..).zip(Fault::ALL) {
        for (number, call) in (0..).zip(machine.calls()) {
            if call.minds(fault) && effort::is_tried(number, shift, usual) {
                Box::pin(try_one(&base, act, stage, fault, number)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_backup() {
    every_call(Act::Backup, Stage::Marked).await;
    every_call(Act::Backup, Stage::Unmarked).await;
}

#[tokio::test]
async fn a_forget_and_a_prune_at_each_of_its_steps() {
    every_call(Act::Forget, Stage::Unmarked).await;
    for stage in [Stage::Unmarked, Stage::Marked, Stage::Deleted] {
        every_call(Act::Prune, stage).await;
    }
}

#[tokio::test]
async fn a_copy() {
    every_call(Act::Copy, Stage::Marked).await;
}

#[tokio::test]
async fn a_change_of_who_may_do_what() {
    for act in Act::OF_OWNERS {
        every_call(act, Stage::Unmarked).await;
    }
}

#[tokio::test]
async fn a_repair() {
    every_call(Act::Repair, Stage::Damaged).await;
}

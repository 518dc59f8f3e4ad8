//! `repair`.

use std::sync::{Mutex, PoisonError};

use lifeboat_engine::repair::{Lost, RepairReport, RepairRequest};
use lifeboat_model::words::counted;

use crate::args::RepairArgs;
use crate::confirm::{READ_THE_PLAN, confirm};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: RepairArgs) -> Result<Exit, Failure> {
    let request = RepairRequest {
        repository: args.repository,
        from: args.from,
        read_data: args.read_data,
        forget_lost: args.forget_lost,
        dry_run: args.dry_run,
    };
    let running = session.host_with(&args.identity)?;
    let refused = Mutex::new(None);
    let zone = running.config.time_zone.clone();
    let asking = |report: &RepairReport| {
        running.pause();
        if args.yes {
            session.talk.note(&plan(report, &zone));
        } else {
            session.talk.plan(&plan(report, &zone));
        }
        let question = if report.forgets {
            format!("Forget {} snapshots that lost content?", report.lost.iter().filter(|l| l.entry_count > 0).count())
        } else {
            format!("Repair {}?", report.repository)
        };
        confirm(&question, args.yes, READ_THE_PLAN)
            .map_err(|failure| *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure))
            .is_ok()
    };
    let done = running.done(lifeboat_engine::repair::repair(&running.host(), &request, &asking).await);
    let why_not = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(failure) = why_not {
        return Err(failure);
    }
    let report = done?;
    if session.json() {
        output::json("repairs", &[&report])?;
    } else {
        if report.dry_run {
            output::text(&plan(&report, &zone))?;
        }
        output::text(&told(&report, args.read_data))?;
    }
    for note in &report.notes {
        session.talk.warn(&output::one_line(note));
    }
    for lost in report.lost.iter().filter(|lost| !lost.forgotten) {
        let snapshot = output::snapshot(&lost.snapshot, &zone);
        session.talk.bad(&format!("{snapshot} {}; all else in it can be restored", lack(lost)), &lost.entries);
    }
    for root in &report.left {
        session.talk.bad(&format!("{root} is damaged, and this machine keeps no copy of it"), &[]);
        let short: String = root.trim_start_matches("roots/snapshot/").chars().take(12).collect();
        session.talk.note(&format!(
            "hint: repair on a machine that has listed it before, or put it back from a copy of the store; `lifeboat \
             check --accept-loss {short}` gives it up, and the next repair deletes it"
        ));
    }
    Ok(Exit::from_code(report.exit_code()))
}

fn lack(lost: &Lost) -> String {
    match (lost.entry_count, lost.references) {
        (0, _) => "lacks pages that a prune needs".to_owned(),
        (count, _) => format!("lost {count} entries"),
    }
}

fn plan(report: &RepairReport, zone: &jiff::tz::TimeZone) -> String {
    let mut lines = vec![format!("repair {}", report.repository)];
    if report.format {
        lines.push("  put back the object `format`, as this machine remembers it; then look at the rest".to_owned());
    }
    let salvage = if report.lost_chunks == 0 {
        "pack the good records anew, then delete"
    } else {
        "pack the good records anew, then delete unless a lost chunk was in it:"
    };
    for (verb, objects) in [
        (salvage, &report.salvage),
        ("nobody can tell what was in, and it stays while anything is lost:", &report.unknown),
        ("write an index for", &report.index),
        ("delete the damaged", &report.drop),
        ("put back", &report.keyrings),
        ("put back, as this machine keeps it,", &report.roots),
    ] {
        lines.extend(objects.iter().take(10).map(|object| format!("  {verb} {}", output::one_line(object))));
        if objects.len() > 10 {
            lines.push(format!("  {verb} {} more", objects.len() - 10));
        }
    }
    if report.lost_chunks > 0 {
        lines.push(format!(
            "  {} chunks have no good copy; the next backup stores what its sources still have",
            report.lost_chunks
        ));
    }
    for lost in &report.lost {
        let snapshot = output::snapshot(&lost.snapshot, zone);
        let what = match (&report.from, lost.has_copy) {
            _ if report.forgets && lost.entry_count > 0 => "is forgotten".to_owned(),
            (Some(from), true) => format!("is refilled from its copy in {from}"),
            (Some(from), false) => format!("has no copy in {from}"),
            (None, _) => "a second repository with a copy would bring it back (--from)".to_owned(),
        };
        lines.push(format!("  {snapshot} {}: {what}", lack(lost)));
    }
    lines.join("\n")
}

fn told(report: &RepairReport, read_data: bool) -> String {
    if !report.is_needed() {
        let unread = if read_data { "" } else { "; content was not read, which --read-data does" };
        let can = if report.left.is_empty() { "nothing to repair" } else { "nothing that a repair could mend" };
        return format!("{}: {can}{unread}", report.repository);
    }
    if report.dry_run {
        return format!("{}: nothing was done, {} problems were found", report.repository, report.errors);
    }
    let format = if report.format { "`format` is back, " } else { "" };
    let roots = match report.roots.len() {
        0 => String::new(),
        count => format!("{} put back, ", counted(count as u64, "root")),
    };
    let forgotten = report.lost.iter().filter(|lost| lost.forgotten).count();
    format!(
        "{}: {format}{roots}{} records packed anew, {} packs indexed, {} of {} lost chunks are back, {} objects deleted, {} snapshots \
         still lack something, {forgotten} forgotten",
        report.repository,
        report.salvaged,
        report.index.len(),
        report.refilled,
        report.lost_chunks,
        report.removed,
        report.lost.len() - forgotten
    )
}

//! `check`, `forget`, `hold`, `prune`.

use std::sync::Mutex;

use lifeboat_engine::JobError;
use lifeboat_engine::forget::{ForgetReport, ForgetRequest};
use lifeboat_engine::snapshot::Word;
use lifeboat_engine::upkeep::{CheckFinding, CheckReport, PruneReport};
use lifeboat_model::words::counted;

use crate::args::{CheckArgs, ForgetArgs, HoldArgs, IdentityArgs, PruneArgs};
use crate::confirm::{READ_THE_PLAN, confirm};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Column};
use crate::request;
use crate::session::Session;

pub(crate) async fn check(session: &Session, args: CheckArgs) -> Result<Exit, Failure> {
    if args.against.is_some() {
        return super::copy::compare(session, &args).await;
    }
    let budget = args.budget.as_deref().map(request::budget).transpose()?.unwrap_or_default();
    let running = session.host_with(&args.identity)?;
    let (host, from) = (running.host(), args.from.as_deref());
    if !args.accept_loss.is_empty() {
        let names = args.accept_loss.iter().map(|name| request::root(name)).collect::<Result<Vec<_>, _>>()?;
        let accepted = lifeboat_engine::history::accept_losses(&host, from, &names).await;
        for root in running.done(accepted)? {
            session.talk.note(&format!("noted: roots/snapshot/{root} is given up"));
        }
    }
    let done = if args.since_last {
        lifeboat_engine::upkeep::check_since_last(&host, from, budget).await
    } else {
        lifeboat_engine::upkeep::check(&host, from, args.read_data).await
    };
    let reports = running.done(done)?;
    if session.json() {
        output::json("checks", &reports)?;
    } else {
        output::text(&reports.iter().map(checked).collect::<Vec<_>>().join("\n"))?;
    }
    for report in &reports {
        for note in report.notes.iter().chain(&report.to_mend) {
            session.talk.warn(&format!("{}: {}", report.repository, output::one_line(note)));
        }
        for finding in &report.errors {
            let what = format!("{}: {}: {}", report.repository, finding.object, finding.what);
            session.talk.bad(&output::one_line(&what), &finding.entries);
            if let Some(root) = finding.object.strip_prefix("roots/snapshot/").filter(|_| finding.kind == "chain") {
                let from = if reports.len() > 1 { format!(" --from {}", report.repository) } else { String::new() };
                session.talk.note(&format!(
                    "hint: find out who took it away; where it is gone for good, `lifeboat check --accept-loss \
                     {}{from}` takes note",
                    &root[..12.min(root.len())]
                ));
            }
        }
    }
    if session.cancel.is_cancelled() {
        return Err(JobError::Cancelled.into());
    }
    let damaged = |finding: &&CheckFinding| finding.kind == "damaged" && finding.object.starts_with("roots/snapshot/");
    if reports.iter().flat_map(|report| &report.errors).any(|finding| damaged(&finding)) {
        session.talk.note(
            "hint: `lifeboat repair` puts a damaged root back on a machine that keeps a copy, and else tells how to give \
             it up",
        );
    }
    let code = reports.iter().map(CheckReport::exit_code).max().unwrap_or_default();
    if code != 0 {
        // A repair that does not read content would not find what this check found.
        let flag = if args.read_data || args.since_last { " --read-data" } else { "" };
        session.talk.note(&format!(
            "hint: `lifeboat repair{flag} --dry-run` tells what can be mended; what is not named restores, and other \
             snapshots may be whole"
        ));
    }
    Ok(Exit::from_code(code))
}

fn checked(report: &CheckReport) -> String {
    let verdict = match (report.errors.len(), report.to_mend.len()) {
        (0, 0) => "whole".to_owned(),
        (0, _) => "everything restores, and a repair is due".to_owned(),
        (count, _) => format!("{count} damaged"),
    };
    let since = report.since_last.map_or_else(String::new, |since| {
        format!("; {} read for the first time, {} again", counted(since.first_read, "pack"), since.read_again)
    });
    format!(
        "{}: {verdict}; {}, {} read, {}{since}",
        report.repository,
        counted(report.objects, "object"),
        output::size(report.bytes_read),
        counted(report.snapshots, "snapshot")
    )
}

pub(crate) async fn forget(session: &Session, args: ForgetArgs) -> Result<Exit, Failure> {
    if let Some(one) = args.sources.iter().find(|text| text.contains('@')) {
        return Err(Failure::usage(format!("forget takes sources, and \"{one}\" names one snapshot")).hint(
            "which snapshots of a source go is decided by its `retentionPolicy`: `lifeboat forget --dry-run` tells why \
             each is kept; `lifeboat hold SNAPSHOT` keeps one whatever the policy says, `--release` leaves it to the \
             policy again",
        ));
    }
    let asked = ForgetRequest { repository: None, sources: request::sources(&args.sources)?, dry_run: args.dry_run };
    let running = session.host()?;
    let refused = Mutex::new(None);
    let zone = running.config.time_zone.clone();
    let asking = |report: &ForgetReport| {
        running.pause();
        if args.yes {
            session.talk.note(&plan(report, &zone));
        } else {
            session.talk.plan(&plan(report, &zone));
        }
        let question = format!("Forget {} of {}?", counted(report.forget_count, "snapshot"), report.repository);
        confirm(&question, args.yes, READ_THE_PLAN)
            .map_err(|failure| *refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure))
            .is_ok()
    };
    let done = running.done(lifeboat_engine::forget::forget(&running.host(), &asked, &asking).await);
    let why_not = refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(failure) = why_not {
        return Err(failure);
    }
    let reports = done?;
    if session.json() {
        output::json("forgets", &reports)?;
        return Ok(Exit::Ok);
    }
    for report in &reports {
        if args.dry_run || report.forget_count == 0 {
            output::text(&plan(report, &zone))?;
        }
        let verb = if args.dry_run { "would forget" } else { "forgot" };
        output::text(&format!("{}: {verb} {}", report.repository, counted(report.forget_count, "snapshot")))?;
    }
    Ok(Exit::Ok)
}

/// Every snapshot with its verdict and the reasons for it.
fn plan(report: &ForgetReport, zone: &jiff::tz::TimeZone) -> String {
    let columns = [
        Column::Left("VERDICT"),
        Column::Left("ID"),
        Column::Left("SOURCE"),
        Column::Left("RECOVERY POINT"),
        Column::Left("LABEL"),
        Column::Left("WHY"),
    ];
    let rows = report.groups.iter().flat_map(|group| {
        group.verdicts.iter().map(|judged| {
            let mut why = judged.reasons.clone();
            why.extend(judged.suspicion.clone());
            vec![
                if judged.keep { "keep" } else { "forget" }.to_owned(),
                judged.snapshot.id.short(),
                group.source.clone(),
                output::time(judged.snapshot.instant(), zone),
                judged.snapshot.label.clone().unwrap_or_default(),
                if why.is_empty() { format!("not kept by: {}", group.policy) } else { why.join(", ") },
            ]
        })
    });
    let mut lines = vec![output::table(&columns, rows)];
    let alone = report.untouched.iter();
    lines.extend(
        alone.map(|left| format!("{} ({}) is left alone: {}", left.source, counted(left.count, "snapshot"), left.why)),
    );
    lines.join("\n")
}

pub(crate) async fn hold(session: &Session, args: HoldArgs) -> Result<Exit, Failure> {
    let asked = [request::snapshot(&args.what)?];
    let running = session.host()?;
    let word =
        if args.release { Word::Release(String::new()) } else { Word::Hold(args.reason.clone().unwrap_or_default()) };
    let done = lifeboat_engine::snapshot::hold(&running.host(), &asked, args.from.as_deref(), &word).await;
    let reports = running.done(done)?;
    if session.json() {
        output::json("holds", &reports)?;
    } else {
        let zone = &running.config.time_zone;
        let verb = if args.release { "released" } else { "holds" };
        let lines: Vec<String> =
            reports.iter().map(|report| format!("{verb} {}", output::snapshot(&report.snapshot, zone))).collect();
        output::text(&lines.join("\n"))?;
    }
    Ok(Exit::Ok)
}

pub(crate) async fn prune(session: &Session, args: PruneArgs) -> Result<Exit, Failure> {
    let identity = IdentityArgs { identity: args.identity.clone(), passphrase_file: args.passphrase_file.clone() };
    let mut running = session.host_with(&identity)?;
    if args.identity.is_some() {
        running.config.repositories.values_mut().for_each(|repository| repository.maintainer_key_file = None);
    }
    let zone = running.config.time_zone.clone();
    let told =
        |reports: &[PruneReport]| reports.iter().map(|report| pruned(report, &zone)).collect::<Vec<_>>().join("\n");
    if !args.dry_run && !args.yes {
        let plans = lifeboat_engine::upkeep::prune(&running.host(), args.from.as_deref(), true).await;
        let plans = running.done(plans)?;
        session.talk.plan(&told(&plans));
        confirm("Prune?", false, READ_THE_PLAN)?;
    }
    let done = lifeboat_engine::upkeep::prune(&running.host(), args.from.as_deref(), args.dry_run).await;
    let reports = running.done(done)?;
    if session.json() {
        output::json("prunes", &reports)?;
    } else {
        output::text(&told(&reports))?;
    }
    let mut exit = Exit::Ok;
    for report in &reports {
        let refused = report.done.refused.iter().map(ToString::to_string);
        for what in report.done.problems.iter().cloned().chain(refused) {
            session.talk.warn(&format!("{}: {}", report.repository, output::one_line(&what)));
            exit = Exit::Problems;
        }
    }
    Ok(exit)
}

fn pruned(report: &PruneReport, zone: &jiff::tz::TimeZone) -> String {
    let done = &report.done;
    let (delete, mark, repack) =
        if report.dry_run { ("would delete", "mark", "repack") } else { ("deleted", "marked", "repacked") };
    let mut lines = vec![format!(
        "{}: {delete} {} ({}), {mark} {} ({}), {repack} {} ({} written)",
        report.repository,
        counted(done.deleted_objects, "object"),
        output::size(done.deleted_bytes),
        done.marked_objects,
        output::size(done.marked_bytes),
        counted(done.repacked_packs, "pack"),
        output::size(done.written_bytes),
    )];
    if let Some(when) = done.can_go_at.filter(|_| done.marked_objects > 0) {
        lines.push(format!("  what is marked goes with the first prune after {}", output::time(when, zone)));
    }
    if let Some(when) = done.can_be_marked_at.filter(|_| done.young_packs > 0) {
        lines.push(format!(
            "  {} packs ({}) that nothing needs are too young for a mark; a prune after {} can mark them, and one \
             that comes a grace period later deletes them",
            done.young_packs,
            output::size(done.young_bytes),
            output::time(when, zone)
        ));
    }
    if done.indexed_packs > 0 {
        lines.push(format!("  indexed {} again that no index named", counted(done.indexed_packs, "pack")));
    }
    lines.extend(done.waits.iter().map(|wait| format!("  waits: {}", wait.words(|time| output::time(time, zone)))));
    lines.join("\n")
}

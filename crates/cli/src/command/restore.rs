//! `restore` and `verify`.

use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_engine::datastore::ServerAccess;
use lifeboat_engine::restore::{Answer, Mode, RestoreAsk, RestoreReport};
use lifeboat_model::config::SecretText;
use lifeboat_model::restore::RestorePlan;
use lifeboat_model::target::RestoreOptions;
use lifeboat_model::words::counted;

use crate::args::{RestoreArgs, VerifyArgs};
use crate::confirm::{READ_THE_PLAN, confirm};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::request;
use crate::session::{Running, Session, environment};

pub(crate) async fn restore(session: &Session, args: RestoreArgs) -> Result<Exit, Failure> {
    let ask = RestoreAsk {
        snapshot: request::snapshot(&args.what)?,
        from: args.from.clone(),
        to: request::to(&args.to)?,
        options: RestoreOptions {
            only: args.only.clone(),
            replace: args.replace,
            rename: request::renames(&args.rename)?,
            jobs: args.jobs.map_or(0, usize::from),
        },
        access: access(),
    };
    let running = session.host_to_read(&args.identity)?;
    let refused = std::sync::Mutex::new(None);
    let asked_before = AtomicBool::new(false);
    let asking = |plan: &RestorePlan| {
        let asked = !args.yes && needs_a_yes(plan);
        if asked_before.swap(asked, Ordering::Relaxed) {
            session.talk.plan("what stands there has changed since; the plan is now:");
        }
        tell_plan(session, &running, plan, asked);
        match confirm("Go on?", !asked, READ_THE_PLAN) {
            Ok(()) if asked => Answer::Yes,
            Ok(()) => Answer::Unasked,
            Err(failure) => {
                *refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
                Answer::No
            }
        }
    };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Run(&asking) };
    let done = running.done(lifeboat_engine::restore::restore(&running.host(), &ask, mode).await);
    let why_not = refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(failure) = why_not {
        return Err(failure);
    }
    let report = done?;
    if session.json() {
        output::json("restores", &[&report])?;
    } else if args.dry_run {
        // The plan is what was asked for.
        output::text(&plan_text(&report.plan, &running.config.time_zone))?;
        report.plan.warnings.iter().for_each(|warning| session.talk.warn(warning));
    } else {
        output::text(&told(&report, &running.config.time_zone))?;
    }
    tell_differences(session, &report);
    Ok(Exit::from_code(report.exit_code()))
}

pub(crate) async fn verify(session: &Session, args: VerifyArgs) -> Result<Exit, Failure> {
    let ask = RestoreAsk {
        snapshot: request::snapshot(&args.what)?,
        from: args.from.clone(),
        to: request::to(&args.to)?,
        options: RestoreOptions { only: args.only, rename: request::renames(&args.rename)?, ..Default::default() },
        access: access(),
    };
    let running = session.host_to_read(&args.identity)?;
    let report = running.done(lifeboat_engine::restore::verify(&running.host(), &ask).await)?;
    if session.json() {
        output::json("verifications", &[&report])?;
    } else {
        let verified = &report.verified;
        output::text(&format!(
            "{} compared with {}: {}, {} differ",
            output::snapshot(&report.snapshot, &running.config.time_zone),
            report.to,
            verified.of.join(", "),
            verified.difference_count
        ))?;
        verified.notes.iter().for_each(|note| session.talk.note(note));
        tell_list(session, &verified.differences, verified.difference_count);
        tell_list(session, &verified.problems, verified.problems.len() as u64);
    }
    Ok(Exit::from_code(report.exit_code()))
}

/// How to log in to a server that the configuration does not know.
fn access() -> ServerAccess {
    ServerAccess {
        password: environment("PGPASSWORD").map(SecretText::new),
        passfile: environment("PGPASSFILE").filter(|path| !path.is_empty()).map(Into::into),
    }
}

/// A restore beside everything that exists needs no question, unless it goes into a server or
/// home.
fn needs_a_yes(plan: &RestorePlan) -> bool {
    plan.destructive || !matches!(plan.to, lifeboat_model::restore::Destination::Dir(_))
}

/// The plan, to the person who decides; also told where nobody decides, unless that is unwanted.
fn tell_plan(session: &Session, running: &Running, plan: &RestorePlan, asked: bool) {
    running.pause();
    if session.json() {
        return;
    }
    let text = plan_text(plan, &running.config.time_zone);
    if asked {
        session.talk.plan(&text);
    } else {
        session.talk.note(&text);
    }
    for warning in &plan.warnings {
        session.talk.warn(warning);
    }
}

fn plan_text(plan: &RestorePlan, zone: &jiff::tz::TimeZone) -> String {
    let mut lines = vec![format!("restore {} to {}", output::snapshot(&plan.snapshot, zone), plan.to)];
    lines.extend(plan.steps.iter().map(|step| format!("  {}", output::one_line(step))));
    for (verb, count, examples, shown) in [
        ("replaces", plan.replaces_count, &plan.replaces, 10),
        ("alters", plan.alters_count, &plan.alters, plan.alters.len()),
    ] {
        if count > 0 {
            lines.push(format!("  {verb} {count}:"));
            lines.extend(examples.iter().take(shown).map(|what| format!("    {}", output::one_line(what))));
        }
        if count > shown as u64 {
            lines.push("    ...".to_owned());
        }
    }
    let free = plan.free_bytes.map_or_else(String::new, |free| format!(", {} free", output::size(free)));
    lines.push(format!("  needs {}{free}", output::size(plan.needed_bytes)));
    lines.join("\n")
}

fn told(report: &RestoreReport, zone: &jiff::tz::TimeZone) -> String {
    let Some(restored) = &report.restored else { return String::new() };
    let compared = report.verified.as_ref().map_or_else(String::new, |verified| {
        format!("; compared {}, {} differ", verified.of.join(", "), verified.difference_count)
    });
    let unchanged = if restored.unchanged > 0 {
        format!("; {} there already, unchanged", restored.unchanged)
    } else {
        String::new()
    };
    format!(
        "restored {} to {}: {}, {}{unchanged}",
        output::snapshot(&report.plan.snapshot, zone),
        report.plan.to,
        counted(restored.entries, "entry"),
        output::size(restored.bytes)
    ) + &compared
}

fn tell_differences(session: &Session, report: &RestoreReport) {
    if let Some(restored) = &report.restored {
        tell_list(session, &restored.problems, restored.problems.len() as u64);
    }
    if let Some(verified) = &report.verified {
        tell_list(session, &verified.differences, verified.difference_count);
        tell_list(session, &verified.problems, verified.problems.len() as u64);
    }
}

fn tell_list(session: &Session, list: &[String], count: u64) {
    for what in list.iter().take(100) {
        session.talk.warn(&output::one_line(what));
    }
    if count > 100 {
        session.talk.warn(&format!("and {} more", count - 100));
    }
}

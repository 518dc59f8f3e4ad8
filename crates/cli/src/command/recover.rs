//! `recover`: from a store and an identity alone.

use lifeboat_engine::JobError;
use lifeboat_engine::recover::{RecoverReport, RecoveredStack, bare_config, recover};
use lifeboat_model::config::SecretUrl;

use crate::args::RecoverArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::output;
use crate::secret::Asker;
use crate::session::{Session, absolute, usual_store_options};

pub(crate) async fn run(session: &Session, args: RecoverArgs) -> Result<Exit, Failure> {
    if let Some(path) = &args.write_config {
        file::refuse_taken(path)?;
    }
    let state_dir = session.state_dir()?;
    // Free of links and `..`: the path may end up in a configuration.
    let identity = args.identity.canonicalize().or_else(|_| absolute(&args.identity))?;
    let config = bare_config(&SecretUrl::new(args.url.clone()), &usual_store_options(), &identity, &state_dir);
    let running = session.begin_reading(config, Asker::new(args.passphrase_file.as_ref())?)?;
    let mut report = running.done(recover(&running.host()).await)?;
    if let Some(stack) = &args.stack {
        let known: Vec<String> = report.stacks.iter().map(|found| found.stack.to_string()).collect();
        report.stacks.retain(|found| found.stack.as_str() == stack);
        if report.stacks.is_empty() {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return Err(JobError::unknown(format!("the repository has no stack {stack}"), stack, &known).into());
        }
    }
    if let Some(path) = &args.write_config {
        let stack = the_stack(&report)?;
        let yaml = stack.config.as_deref().ok_or_else(|| {
            Failure::new(Exit::Failed, format!("no snapshot of {} carries a configuration", stack.stack))
        })?;
        let repository = config_for_restore(yaml, &args.url, &identity)?;
        file::write_new(path, &repository, 0o600)?;
        session.talk.note(&format!("wrote {}: a configuration of role restore", path.display()));
    }
    show(session, &report)?;
    Ok(if report.refused.is_empty() { Exit::Ok } else { Exit::Problems })
}

fn the_stack(report: &RecoverReport) -> Result<&RecoveredStack, Failure> {
    match report.stacks.as_slice() {
        [] => Err(Failure::new(Exit::Failed, "the repository holds no snapshot")),
        [one] => Ok(one),
        several => {
            let names: Vec<String> = several.iter().map(|found| found.stack.to_string()).collect();
            Err(Failure::usage("the repository holds several stacks")
                .hint(format!("add --stack: {}", names.join(", "))))
        }
    }
}

/// The configuration for a machine that only restores: role, store and identity are those that
/// just worked, whatever the old host had.
fn config_for_restore(yaml: &str, url: &str, identity: &std::path::Path) -> Result<String, Failure> {
    Ok(crate::config::for_restore(yaml, url, identity)?)
}

fn show(session: &Session, report: &RecoverReport) -> Result<(), Failure> {
    if session.json() {
        output::json("stacks", &report.stacks)?;
    } else {
        for stack in &report.stacks {
            let mut all: Vec<_> =
                stack.sources.values().flatten().map(|summary| (report.repository.as_str(), summary)).collect();
            all.sort_by_key(|(_, summary)| (summary.instant(), summary.id));
            output::text(&format!("stack {}", stack.stack))?;
            output::text(&super::snapshots::table(&all, false, &jiff::tz::TimeZone::UTC))?;
        }
        for line in report.stacks.iter().flat_map(|stack| &stack.supply) {
            session.talk.note(&format!("to supply: {line}"));
        }
    }
    for why in &report.refused {
        session.talk.warn(&output::one_line(why));
    }
    Ok(())
}

//! What the libraries trace, told as everything else on standard error: warnings always, the steps
//! of a run with `-v`, all of it with `-vv`.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::output;
use crate::talk::Talk;

/// Begins to tell.
pub(crate) fn begin(verbose: u8, talk: Talk) {
    let ours = |level: &str| {
        let crates = ["engine", "repo", "store", "source", "wire"];
        crates.map(|name| format!("lifeboat_{name}={level}")).join(",")
    };
    let filter = match verbose {
        0 => ours("warn"),
        1 => ours("info"),
        _ => "debug".to_owned(),
    };
    // Fails only where another subscriber is installed already.
    let _ = tracing_subscriber::registry()
        .with(EnvFilter::new(filter))
        .with(Told { talk, with_target: verbose > 1 })
        .try_init();
}

struct Told {
    talk: Talk,
    with_target: bool,
}

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let target = if self.with_target { format!("{}: ", event.metadata().target()) } else { String::new() };
        let text = output::one_line(&format!("{target}{}{}", words.message, words.fields));
        if *event.metadata().level() <= Level::WARN {
            self.talk.warn(&text);
        } else {
            self.talk.note(&text);
        }
    }
}

/// The message of an event, and its fields as ` name=value`.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

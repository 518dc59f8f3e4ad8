//! What goes to standard error: notes, warnings, progress, errors. Data goes to standard output,
//! see [`crate::output`].

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};

use lifeboat_model::flow::Clock;
use serde_json::json;

use crate::failure::Failure;

/// Who writes a line for a person, or an object for a program.
#[derive(Clone)]
pub(crate) struct Talk {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) clock: Arc<dyn Clock>,
    /// Set while a progress bar stands on the terminal: lines go above it.
    bar: Arc<Mutex<Option<indicatif::ProgressBar>>>,
}

/// How grave a line is. The word "error" appears only where there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    Warn,
}

impl Talk {
    pub(crate) fn new(json: bool, quiet: bool, clock: Arc<dyn Clock>) -> Self {
        Self { json, quiet, clock, bar: Arc::new(Mutex::new(None)) }
    }

    /// Whether a person watches.
    pub(crate) fn is_terminal(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// Something worth knowing. Not told with `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.line(Level::Info, text, text);
        }
    }

    /// A plan that a person is about to be asked about: told even with `--quiet`.
    pub(crate) fn plan(&self, text: &str) {
        self.line(Level::Info, text, text);
    }

    /// Something that may be wrong.
    pub(crate) fn warn(&self, text: &str) {
        self.line(Level::Warn, text, &format!("warning: {text}"));
    }

    /// Damage that was found, with what it hits.
    pub(crate) fn bad(&self, what: &str, hits: &[String]) {
        if self.json {
            let object = json!({ "level": "error", "time": self.clock.now().to_string(), "error": what, "hits": hits });
            self.write(&object.to_string());
        } else {
            let mut lines = vec![format!("error: {what}")];
            lines.extend(hits.iter().map(|hit| format!("  hits {}", crate::output::one_line(hit))));
            self.write(&lines.join("\n"));
        }
    }

    /// Why the command fails: once, at its end.
    pub(crate) fn fail(&self, failure: &Failure) {
        if self.json {
            let object = json!({
                "level": "error",
                "time": self.clock.now().to_string(),
                "error": failure.to_string(),
                "hint": failure.hint,
                "exit_code": failure.exit.code(),
            });
            self.write(&object.to_string());
            return;
        }
        let mut text = format!("error: {}", failure.chain.first().map_or("", String::as_str));
        for cause in failure.chain.iter().skip(1) {
            text.push_str("\n  because: ");
            text.push_str(cause);
        }
        if let Some(hint) = &failure.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        self.write(&text);
    }

    /// Shows lines above this bar until `None` is set.
    pub(crate) fn set_bar(&self, bar: Option<indicatif::ProgressBar>) {
        *self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bar;
    }

    fn line(&self, level: Level, message: &str, text: &str) {
        if self.json {
            let level = match level {
                Level::Info => "info",
                Level::Warn => "warn",
            };
            let object = json!({ "level": level, "time": self.clock.now().to_string(), "message": message });
            self.write(&object.to_string());
        } else {
            self.write(text);
        }
    }

    fn write(&self, text: &str) {
        let bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let write = || {
            // Nobody is left to be told that standard error is closed.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        };
        match bar.as_ref() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

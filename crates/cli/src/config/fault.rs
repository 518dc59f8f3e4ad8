//! What is wrong in a configuration and where, and how a person is told.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use lifeboat_model::config::SecretUrl;

use super::variables::is_variables_only;

/// Where something stands in the file; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Characters, 0 where it is not known.
    pub(crate) length: usize,
}

/// Something wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) place: Option<Place>,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), place: None, hint: None }
    }

    /// Puts the place in where none is known yet.
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = self.place.or(Some(place));
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

/// Why there is no configuration to work with. Displayed, it shows the line with a caret.
#[derive(Debug)]
pub(crate) enum ConfigError {
    /// No file was named, and none is at the usual places.
    NotFound {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// The file is there but cannot be read.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read and is wrong.
    Bad {
        /// Which file.
        path: PathBuf,
        /// The line that is wrong, passwords left out.
        line: Option<String>,
        /// What is wrong with it. Boxed: errors travel through many results.
        fault: Box<Fault>,
    },
}

impl ConfigError {
    pub(crate) fn bad(path: &Path, text: &str, fault: Fault) -> Self {
        let line = fault.place.and_then(|place| text.lines().nth(place.line.checked_sub(1)?)).map(without_secrets);
        Self::Bad { path: path.to_owned(), line, fault: Box::new(fault) }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some(
                "name it with --config FILE or LIFEBOAT_CONFIG; `lifeboat config schema` tells what it may hold".into(),
            ),
            Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("run as the user that owns it".into())
            }
            Self::Unreadable { .. } => Some("check the path that --config or LIFEBOAT_CONFIG names".into()),
            Self::Bad { fault, .. } => fault.hint.clone(),
        }
    }
}

/// The line with `*` for every character of a password in a URL, so that columns stay true.
fn without_secrets(line: &str) -> String {
    let mut shown = String::new();
    let mut from = 0;
    for range in SecretUrl::secret_ranges(line) {
        if is_variables_only(&line[range.clone()]) {
            continue;
        }
        shown.push_str(&line[from..range.start]);
        shown.extend(line[range.clone()].chars().map(|_| '*'));
        from = range.end;
    }
    shown.push_str(&line[from..]);
    shown
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { tried } => {
                let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
                write!(f, "no configuration: {} not found", tried.join(" and "))
            }
            Self::Unreadable { path, .. } => write!(f, "the configuration {} cannot be read", path.display()),
            Self::Bad { path, line, fault } => {
                write!(f, "{}", path.display())?;
                let Some(place) = fault.place else { return write!(f, ": {}", fault.what) };
                write!(f, ":{}:{}: {}", place.line, place.column, fault.what)?;
                match line {
                    Some(line) => f.write_str(&snippet(place, line)),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn snippet(place: Place, line: &str) -> String {
    let number = place.line.to_string();
    let gutter = " ".repeat(number.len());
    let before: String =
        line.chars().take(place.column.saturating_sub(1)).map(|c| if c == '\t' { c } else { ' ' }).collect();
    let rest = line.chars().count().saturating_sub(before.chars().count());
    let carets = "^".repeat(place.length.min(rest).max(1));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(out, "\n{gutter} |\n{number} | {line}\n{gutter} | {before}{carets}");
    out
}

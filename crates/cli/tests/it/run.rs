//! Runs the command in a directory of its own.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// A directory with a configuration in which the command runs, cut off from the machine's own.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
}

/// What the command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Place {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    /// A directory with this `lifeboat.yaml`.
    pub(crate) fn with_config(yaml: &str) -> Self {
        let place = Self::new();
        place.write("lifeboat.yaml", yaml);
        place
    }

    /// The directory, or something in it.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Writes a file.
    #[expect(clippy::disallowed_methods, reason = "a test's file need not survive a power cut")]
    pub(crate) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    /// The command, to be given arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::cargo_bin("lifeboat").expect("the program");
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .env("LIFEBOAT_STATE_DIR", self.path("state"));
        command
    }

    /// Runs the command.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command().args(args))
    }
}

impl Said {
    /// Runs it to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Checks that it ended with 0.
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

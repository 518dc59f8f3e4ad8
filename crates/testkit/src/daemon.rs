//! A server as a child process: on a free port, in a directory of its own, gone when the value is
//! dropped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running child with its directory.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Everything that belongs to it.
    pub dir: TempDir,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Daemon {
    /// Starts what `command` makes for a port and a directory, and waits until the port is listened
    /// to. Another process may take the port first, so it tries again.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start(name: &str, command: impl Fn(u16, &Path) -> Command) -> Self {
        Self::start_when(name, command, listens)
    }

    /// The same for a server that is up when `ready` says so.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start_when(name: &str, command: impl Fn(u16, &Path) -> Command, ready: impl Fn(u16, &Path) -> bool) -> Self {
        let mut log = String::new();
        for _ in 0..5 {
            let dir = tempfile::Builder::new().prefix("lifeboat-").tempdir_in("/tmp").expect("a directory in /tmp");
            let port = free_port();
            let child = spawn(&command(port, dir.path()), dir.path());
            let mut daemon = Self { child, dir, port };
            if daemon.comes_up(&ready) {
                return daemon;
            }
            log = daemon.log();
        }
        panic!("{name} does not start: {log}");
    }

    fn comes_up(&mut self, ready: impl Fn(u16, &Path) -> bool) -> bool {
        let started = now();
        while started.elapsed() < Duration::from_mins(2) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return false;
            }
            if ready(self.port, self.dir.path()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again on the same port and directory.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&mut self, command: impl Fn(u16, &Path) -> Command) {
        self.kill();
        self.child = spawn(&command(self.port, self.dir.path()), self.dir.path());
        assert!(self.comes_up(listens), "it does not start again: {}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What to run.
#[derive(Debug, Default)]
pub struct Command {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
}

impl Command {
    /// A program and its arguments.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, args: &[&str]) -> Self {
        Self { program: program.into(), args: args.iter().map(ToString::to_string).collect(), env: Vec::new() }
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

fn listens(port: u16, _: &Path) -> bool {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

#[expect(clippy::disallowed_methods, reason = "a launcher has to work while a test panics, without a runtime")]
fn prepared(command: &Command, dir: &Path) -> std::process::Command {
    let mut prepared = std::process::Command::new(&command.program);
    prepared
        .args(&command.args)
        .env_clear()
        .env("PATH", variable("PATH").unwrap_or_default())
        .env("HOME", dir)
        .envs(command.env.iter().cloned())
        .current_dir(dir)
        .stdin(Stdio::null());
    prepared
}

/// Runs a tool to its end.
pub(crate) fn run(command: &Command, dir: &Path) -> std::process::Output {
    let out = prepared(command, dir).output();
    out.unwrap_or_else(|error| panic!("{} cannot be started: {error}", command.program.display()))
}

fn spawn(command: &Command, dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
    prepared(command, dir)
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", command.program.display()))
}

#[expect(clippy::disallowed_methods, reason = "waiting for a server has nothing to do with a run's clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a test has no command line to be told by")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A port that nobody listens to at this moment.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A program of `.servers`, or a `SKIPPED` line, which `scripts/run-tests.sh` counts: excused where
/// `tool`, which makes it, is not there.
///
/// # Panics
/// Where a link leads nowhere.
#[must_use]
#[expect(clippy::print_stdout, reason = "the line is counted by the script that runs the tests")]
pub fn installed(test: &str, path: &str, tool: &str) -> Option<PathBuf> {
    let found = crate::postgres::servers_dir().join(path);
    if found.exists() {
        // Servers run elsewhere.
        return Some(found.canonicalize().expect("it exists"));
    }
    let tools = variable("PATH").unwrap_or_default();
    if tools.split(':').any(|dir| Path::new(dir).join(tool).exists()) {
        println!("SKIPPED {test}: .servers/{path} is missing: run scripts/test-servers.sh");
    } else {
        println!("SKIPPED {test}: {tool} is [not on PATH]");
    }
    None
}

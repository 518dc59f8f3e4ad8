//! Runs the program as a user would: a child process, its exit status, what it printed, and the
//! most memory it had.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test: `LIFEBOAT_BIN` (the release build, in `make test`) or cargo's own.
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to run")]
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("LIFEBOAT_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_lifeboat")), PathBuf::from)
}

/// Whether the long variants run (`make test-long`).
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to run")]
pub(crate) fn long() -> bool {
    std::env::var_os("LIFEBOAT_LONG").is_some()
}

/// Whether this process may become other users and mount.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) peak_kib: u64,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Fails the test unless the program ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}\n{}\n{}", self.stdout, self.stderr))
    }
}

/// A way to call the program: as which user, with which configuration.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Number of the Unix user, where it is not our own.
    pub(crate) uid: Option<u32>,
    /// Further group of that user.
    pub(crate) group: Option<u32>,
    /// `--config`, where there is one.
    pub(crate) config: Option<PathBuf>,
    /// Further environment.
    pub(crate) env: Vec<(String, String)>,
}

impl Caller {
    pub(crate) fn new(config: &Path) -> Self {
        Self { uid: None, group: None, config: Some(config.to_owned()), env: Vec::new() }
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the program's caller")]
    fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.uid {
            None => Command::new(binary()),
            Some(uid) => {
                let group = self.group.unwrap_or(uid);
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
                command.arg(binary());
                command
            }
        };
        command.env_remove("LIFEBOAT_CONFIG").stdin(Stdio::null());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(args);
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }

    /// Starts the program; its output is thrown away.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// Starts the program; what it says on standard error goes into a file.
    pub(crate) fn spawn_telling(&self, args: &[&str], stderr: &Path) -> Child {
        let stderr = fs::File::create(stderr).expect("an output file");
        self.command(args).stdout(Stdio::null()).stderr(stderr).spawn().expect("the program starts")
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let files = tempfile::tempdir().expect("a temporary directory");
        let (out, err) = (files.path().join("out"), files.path().join("err"));
        let create = |path: &Path| fs::File::create(path).expect("an output file");
        let started = now();
        let mut child =
            self.command(args).stdout(create(&out)).stderr(create(&err)).spawn().expect("the program starts");
        let mut peak_kib = 0;
        let status = loop {
            peak_kib = peak_kib.max(peak_of(child.id()));
            if let Some(status) = child.try_wait().expect("the child is ours") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("the output")).into_owned();
        Outcome { code: status.code(), stdout: read(&out), stderr: read(&err), peak_kib, took: now() - started }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests that kill need the real clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The high-water mark of a process's resident memory so far, in KiB.
fn peak_of(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}

/// Writes a file of a test.
#[expect(clippy::disallowed_methods, reason = "a test's input need not survive a power cut")]
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file of the test");
}

/// A tree as text: names, modes, times, link targets, lengths and hashes, in a fixed order.
pub(crate) fn describe(root: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut text = String::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let mut children: Vec<PathBuf> =
            fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
        children.sort();
        for path in children {
            let meta = fs::symlink_metadata(&path).expect("an entry's metadata");
            let name = path.strip_prefix(root).expect("below the root");
            write!(
                text,
                "{} {:o} {}.{:09}",
                name.as_os_str().as_encoded_bytes().escape_ascii(),
                meta.mode(),
                meta.mtime(),
                meta.mtime_nsec()
            )
            .expect("text");
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_symlink() {
                write!(text, " -> {}", fs::read_link(&path).expect("a link").display()).expect("text");
            } else if meta.is_file() {
                let bytes = fs::read(&path).expect("a file");
                write!(text, " {} {}", bytes.len(), blake3::hash(&bytes).to_hex()).expect("text");
            }
            text.push('\n');
        }
    }
    text
}

//! Runs the program as a user would: a child process, its exit status, what it printed, and the
//! most memory it had.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A machine that does everything: one repository, all keys, one tree.
pub(crate) const CONFIG: &str = r#"stack: farajaland
role: both
timeZone: Africa/Lusaka
repositories:
  main:
    url: file://${HOME}/repository
    writerKeyFile: keys/writer.key
    maintainerKeyFile: keys/maintainer.key
    identityFile: keys/identity.key
    retentionPolicy: { keepLast: 1 }
sources:
  documents: { kind: files, paths: ["${HOME}/documents"] }
"#;

/// The source of [`CONFIG`].
pub(crate) const DOCUMENTS: &str = r#"documents: { kind: files, paths: ["${HOME}/documents"] }"#;

/// The same in a little memory, with copies in a second place that has other keys and keeps two.
pub(crate) const TWO_PLACES: &str = r#"stack: farajaland
role: both
memoryBudget: 128MiB
repositories:
  main:
    url: file://${HOME}/main
    writerKeyFile: keys/main-writer.key
    maintainerKeyFile: keys/main-maintainer.key
    identityFile: keys/main-identity.key
  offsite:
    url: file://${HOME}/offsite
    writerKeyFile: keys/off-writer.key
    maintainerKeyFile: keys/off-maintainer.key
    identityFile: keys/off-identity.key
    retentionPolicy: { keepLast: 2 }
sources:
  documents: { kind: files, paths: ["${HOME}/documents"], repository: main }
"#;

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
    /// Exit code, -1 where a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
    pub(crate) peak_kib: u64,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Fails the test unless the program ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Fails the test unless the program ended with 0.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        self.expect(0)
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}\n{}\n{}", self.out, self.err))
    }
}

/// A way to call the program, cut off from this machine's own environment: as which user, where,
/// with which configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// Number of the Unix user, where it is not our own.
    pub(crate) uid: Option<u32>,
    /// Further group of that user.
    pub(crate) group: Option<u32>,
    /// Working directory, where it is not our own.
    pub(crate) dir: Option<PathBuf>,
    /// `--config`, where there is one.
    pub(crate) config: Option<PathBuf>,
    /// The environment beside `PATH`.
    pub(crate) env: Vec<(String, String)>,
}

impl Caller {
    pub(crate) fn new(config: &Path) -> Self {
        Self { config: Some(config.to_owned()), ..Self::default() }
    }

    /// The same with a further variable.
    pub(crate) fn env(&self, name: &str, value: &str) -> Self {
        let mut caller = self.clone();
        caller.env.push((name.to_owned(), value.to_owned()));
        caller
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
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
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
        let code = status.code().unwrap_or(-1);
        Outcome { code, out: read(&out), err: read(&err), peak_kib, took: now() - started }
    }
}

/// A directory with a configuration, in which the program runs.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) caller: Caller,
}

impl Place {
    /// An empty directory, which is the home as well.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().to_str().expect("UTF-8");
        let env = [("HOME", home.to_owned()), ("LIFEBOAT_STATE_DIR", format!("{home}/state"))];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { caller: Caller { dir: Some(dir.path().to_owned()), env, ..Caller::default() }, dir }
    }

    /// A directory with this `lifeboat.yaml`.
    pub(crate) fn with_config(yaml: &str) -> Self {
        let place = Self::new();
        place.write("lifeboat.yaml", yaml);
        place
    }

    /// A place of [`CONFIG`] with a repository, two documents and a snapshot `first` of them.
    pub(crate) fn backed_up() -> Self {
        let place = Self::with_config(CONFIG);
        place.write("documents/letter.txt", "dear registrar\n");
        place.write("documents/sub/births.csv", "1,2,3\n");
        place.run(&["init"]).good();
        place.run(&["backup", "--label", "first"]).good();
        place
    }

    /// Something in the directory, or itself.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The same as text.
    pub(crate) fn text(&self, below: &str) -> String {
        self.path(below).to_str().expect("UTF-8").to_owned()
    }

    /// Writes a file.
    pub(crate) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        write(&path, text.as_bytes());
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn secret(&self, below: &str, text: &str) {
        self.write(below, text);
        fs::set_permissions(self.path(below), fs::Permissions::from_mode(0o600)).expect("its owner's alone");
    }

    /// Runs the program.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        self.caller.run(args)
    }

    /// What the program prints with `--json`: always one object with the version.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let value = self.run(&[args, &["--json"]].concat()).good().json();
        assert_eq!(value["schema_version"], 1);
        value
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

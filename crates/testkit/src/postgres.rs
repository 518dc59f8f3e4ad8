//! Real PostgreSQL servers, each in a directory of its own, gone when the value is dropped.
//!
//! Binaries come from Debian's packages and from `.servers/postgresql-MAJOR/bin` at the root of the
//! workspace, which `scripts/test-servers.sh` fills; `LIFEBOAT_TEST_SERVERS` names another folder
//! of that layout.

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

/// The user that servers run as when the tests run as root: they refuse root.
const SERVER_USER: &str = "postgres";

/// What `make test` can have on this machine: the folder of the binaries by major version.
#[must_use]
pub fn installed() -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    let mut look = |dir: &Path, prefix: &str| {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let major = name.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
            let bin = entry.path().join("bin");
            if let Some(major) = major
                && bin.join("postgres").exists()
            {
                found.entry(major).or_insert(bin);
            }
        }
    };
    look(Path::new("/usr/lib/postgresql"), "");
    look(&servers_dir(), "postgresql-");
    found
}

#[expect(clippy::disallowed_methods, reason = "a test has no command line to be told by")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(crate) fn servers_dir() -> PathBuf {
    match variable("LIFEBOAT_TEST_SERVERS") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.servers"),
    }
}

/// The binaries of this major version. Where they are missing it prints a `SKIPPED` line, which
/// `scripts/run-tests.sh` counts, and in CI panics if they could have been had.
///
/// # Panics
/// In CI (`CI` is set) without PostgreSQL 15, the reference.
#[must_use]
#[expect(clippy::print_stdout, reason = "the line is counted by the script that runs the tests")]
pub fn binaries(test: &str, major: u32) -> Option<PathBuf> {
    let bin = installed().remove(&major);
    if bin.is_none() {
        assert!(major != 15 || variable("CI").is_none(), "PostgreSQL 15 is missing: run scripts/test-servers.sh");
        println!("SKIPPED {test}: PostgreSQL {major} is not installed [cannot be had]");
    }
    bin
}

/// How a server differs from the default one.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Settings for `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// Whether passwords are asked for (`scram-sha-256`) over TCP and socket; without it everybody
    /// is let in.
    pub passwords: bool,
}

/// A running server. Superuser `postgres`, password `postgres`.
pub struct PostgresServer {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    major: u32,
}

impl PostgresServer {
    /// Makes and starts a server of this major version, or says that it is skipped.
    ///
    /// # Panics
    /// Where the server does not come up.
    #[must_use]
    pub fn start(test: &str, major: u32) -> Option<Self> {
        Self::start_with(test, major, &ServerOptions::default())
    }

    /// As [`PostgresServer::start`], with other settings.
    ///
    /// # Panics
    /// Where the server does not come up.
    #[must_use]
    pub fn start_with(test: &str, major: u32, options: &ServerOptions) -> Option<Self> {
        let bin = binaries(test, major)?;
        // Short, because the path of a socket ends at 107 bytes, and open to the server's user.
        let dir = tempfile::Builder::new().prefix("lifeboat-pg").tempdir_in("/tmp").expect("a directory in /tmp");
        open_to_server_user(dir.path());
        let mut server = Self { dir, bin, port: free_port(), major };
        let password = server.path().join("password");
        std::fs::File::create(&password)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"postgres\n"))
            .expect("a password file");
        open_to_server_user(&password);
        let data = server.data();
        let auth = if options.passwords { "scram-sha-256" } else { "trust" };
        server.must(
            "initdb",
            &[
                "-D",
                text(&data),
                "-U",
                "postgres",
                "-A",
                auth,
                &format!("--pwfile={}", text(&password)),
                "--locale=C",
                "-E",
                "UTF8",
                "--no-sync",
            ],
        );
        let mut conf = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).expect("a conf");
        let socket = server.path().display().to_string();
        let lines = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{socket}'\nfsync = off\n\
             logging_collector = off\nshared_buffers = 32MB\nmax_connections = 40\n"
        );
        std::io::Write::write_all(&mut conf, lines.as_bytes()).expect("the conf can be written");
        for (name, value) in &options.settings {
            let line = format!("{name} = '{value}'\n");
            std::io::Write::write_all(&mut conf, line.as_bytes()).expect("the conf can be written");
        }
        server.boot();
        Some(server)
    }

    /// Starts it on a free port; another process may take the port first, so it tries again.
    fn boot(&mut self) {
        for _ in 0..5 {
            if self.try_boot().status.success() {
                return;
            }
            self.port = free_port();
        }
        panic!("PostgreSQL {} does not start: {}", self.major, self.log());
    }

    fn try_boot(&self) -> Output {
        let data = self.data();
        let log = self.path().join("log");
        let options = format!("-p {}", self.port);
        self.tool("pg_ctl", &["-D", text(&data), "-l", text(&log), "-w", "-t", "60", "-o", &options, "start"])
    }

    /// Starts it again on the same port after [`PostgresServer::stop`].
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&self) {
        let out = self.try_boot();
        assert!(out.status.success(), "PostgreSQL {} does not start again: {}", self.major, self.log());
    }

    /// Stops it: `smart`, `fast` or `immediate` (as a crash).
    ///
    /// # Panics
    /// Where it does not stop.
    pub fn stop(&self, mode: &str) {
        let data = self.data();
        self.must("pg_ctl", &["-D", text(&data), "-m", mode, "-w", "-t", "60", "stop"]);
    }

    /// The directory of everything that belongs to it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The directory of its binaries.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// `postgres://postgres:postgres@127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres", "postgres")
    }

    /// The URL for another role; neither text is escaped.
    #[must_use]
    pub fn url_of(&self, role: &str, password: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/", self.port)
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// The tools that talk to it: its own, or the nearest newer ones where only the server is
    /// there.
    ///
    /// # Panics
    /// Where no installed version of that age or newer has client tools.
    #[must_use]
    pub fn client_bin(&self) -> PathBuf {
        let all = installed().into_iter();
        let mut able = all.filter(|(major, bin)| *major >= self.major && bin.join("psql").exists());
        able.next().expect("client tools").1
    }

    /// Runs statements by `psql` as superuser and returns what they print, unaligned, without
    /// headers.
    ///
    /// # Panics
    /// Where one of them fails.
    #[expect(clippy::must_use_candidate, reason = "most statements print nothing")]
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql("postgres", "postgres", database, statements).expect("the statements are good")
    }

    /// As [`PostgresServer::sql`], as another role.
    ///
    /// # Errors
    /// What `psql` complained about.
    ///
    /// # Panics
    /// Where `psql` cannot be started.
    pub fn try_sql(&self, role: &str, password: &str, database: &str, statements: &str) -> Result<String, String> {
        let mut command = self
            .command(&self.client_bin().join("psql"), &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let database = database.replace('\\', "\\\\").replace('\'', "\\'");
        command
            .arg("-d")
            .arg(format!("dbname='{database}' user={role} password={password} host=127.0.0.1 port={}", self.port));
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("psql starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = statements.to_owned();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
        let out = child.wait_with_output().expect("psql ends");
        // A psql that stops at an error does not read the rest.
        writer.join().expect("no panic").ok();
        if out.status.success() {
            Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&out.stderr).into_owned())
        }
    }

    /// Runs one of PostgreSQL's tools as the server's user, with the superuser's connection in its
    /// environment.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn tool(&self, name: &str, args: &[&str]) -> Output {
        let own = self.bin.join(name);
        let path = if own.exists() { own } else { self.client_bin().join(name) };
        self.command(&path, args).output().expect("the tool can be started")
    }

    /// As [`PostgresServer::tool`], returning what it printed.
    ///
    /// # Panics
    /// Where it fails.
    #[must_use]
    pub fn tool_output(&self, name: &str, args: &[&str]) -> String {
        let out = self.tool(name, args);
        assert!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn must(&self, name: &str, args: &[&str]) {
        let out = self.tool(name, args);
        assert!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    #[expect(clippy::disallowed_methods, reason = "a launcher has to work while a test panics, without a runtime")]
    fn command(&self, program: &Path, args: &[&str]) -> std::process::Command {
        let mut command = if is_root() {
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups", "--"]).arg(program);
            command
        } else {
            std::process::Command::new(program)
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.path())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", "postgres")
            .current_dir(self.path());
        if !program.starts_with("/usr") {
            // The servers that come as wheels do not know where their libraries are.
            command.env("LD_LIBRARY_PATH", program.with_file_name("../lib"));
        }
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let data = self.data();
        let args = ["-D", text(&data), "-m", "immediate", "-w", "-t", "20", "stop"];
        self.command(&self.bin.join("pg_ctl"), &args).output().ok();
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresServer").field("major", &self.major).field("port", &self.port).finish_non_exhaustive()
    }
}

/// A path that is used as an argument; all of ours are plain text.
fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is plain text")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn open_to_server_user(path: &Path) {
    if !is_root() {
        return;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("a user database");
    let line = passwd.lines().find(|line| line.split(':').next() == Some(SERVER_USER)).expect("a user postgres");
    let mut ids = line.split(':').skip(2).map(|id| id.parse::<u32>().expect("a number"));
    std::os::unix::fs::chown(path, ids.next(), ids.next()).expect("root may give files away");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_answers_and_is_gone_after_a_panic() {
        let Some(server) = PostgresServer::start("a_server_starts", 15) else { return };
        assert_eq!(server.sql("postgres", "SELECT 6 * 7"), "42");
        let (path, port) = (server.path().to_owned(), server.port());
        let panic = std::thread::spawn(move || {
            let _held = server;
            panic!("a test that fails");
        });
        assert!(panic.join().is_err());
        assert!(!path.exists());
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "nobody listens any more");
    }
}

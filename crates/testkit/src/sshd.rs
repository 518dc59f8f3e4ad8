//! Real OpenSSH servers, each on a port and in a directory of its own, gone when the value is dropped.

use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lifeboat_model::config::SshOptions;
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";
/// Who logs in where the server is chrooted: an account without a shell.
const CHROOT_USER: &str = "nobody";

/// What a login may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Everything, as the user that runs the tests.
    Plain,
    /// SFTP below one directory, without a shell, as `nobody`. Needs root.
    Chroot,
    /// One program, whatever the client asks for, as the user that runs the tests.
    Forced(String),
}

/// A running server that knows one key.
pub struct SshServer {
    dir: TempDir,
    port: u16,
    user: String,
    account: Account,
    child: Option<Child>,
}

impl SshServer {
    /// Makes and starts a server, or says that it is skipped.
    ///
    /// # Panics
    /// Where the server does not come up; in CI (`CI` is set) where it is not installed.
    #[must_use]
    pub fn start(test: &str, account: Account) -> Option<Self> {
        Self::start_with(test, account, "")
    }

    /// As [`SshServer::start`], with further lines for its configuration.
    ///
    /// # Panics
    /// Where the server does not come up.
    #[must_use]
    #[expect(clippy::print_stdout, reason = "the line is counted by the script that runs the tests")]
    #[expect(clippy::disallowed_methods, reason = "a test has no command line to be told by")]
    pub fn start_with(test: &str, account: Account, settings: &str) -> Option<Self> {
        let is_root = rustix::process::geteuid().is_root();
        if !Path::new(SSHD).exists() {
            assert!(std::env::var_os("CI").is_none(), "OpenSSH is missing: run scripts/install-debian.sh");
            println!("SKIPPED {test}: {SSHD} is [not on PATH]: run scripts/install-debian.sh");
            return None;
        }
        if account == Account::Chroot && !is_root {
            println!("SKIPPED {test}: a chroot needs root [cannot be had]");
            return None;
        }
        // A chroot and all above it must belong to root alone, which /tmp does not.
        let place = if is_root { "/run" } else { "/tmp" };
        let dir = tempfile::Builder::new().prefix("lifeboat-ssh").tempdir_in(place).expect("a directory");
        set_mode(dir.path(), 0o755);
        let user = if account == Account::Chroot { CHROOT_USER.to_owned() } else { own_name() };
        let mut server = Self { dir, port: free_port(), user, account, child: None };
        for name in ["host_key", "key", "other_key"] {
            server.make_key(name, "ed25519", "");
        }
        server.authorize("key");
        let store = server.store();
        std::fs::create_dir_all(&store).expect("created");
        if server.account == Account::Chroot {
            let (uid, gid) = ids(CHROOT_USER);
            std::os::unix::fs::chown(&store, Some(uid), Some(gid)).expect("root may give files away");
        }
        if is_root {
            std::fs::create_dir_all("/run/sshd").expect("created");
        }
        server.boot(settings);
        Some(server)
    }

    /// Starts it on a free port; another process may take the port first, so it tries again.
    fn boot(&mut self, settings: &str) {
        for _ in 0..5 {
            self.configure(settings);
            if self.try_boot() {
                return;
            }
            self.port = free_port();
        }
        panic!("sshd does not start: {}", self.log());
    }

    fn configure(&self, settings: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        let chroot = match self.account {
            Account::Chroot => {
                format!("Match User {}\nChrootDirectory {}\nForceCommand internal-sftp\n", self.user, at("jail"))
            }
            Account::Plain | Account::Forced(_) => String::new(),
        };
        let subsystem = if settings.contains("Subsystem") { "" } else { "Subsystem sftp internal-sftp" };
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nMaxStartups 100\n\
             {subsystem}\n{settings}\n{chroot}",
            self.port,
            at("host_key"),
            at("authorized_keys")
        );
        write(&self.path("sshd_config"), &config);
    }

    #[expect(clippy::disallowed_methods, reason = "a launcher has to work while a test panics, without a runtime")]
    fn try_boot(&mut self) -> bool {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log");
        let config = self.path("sshd_config");
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f", text(&config)]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().expect("sshd starts");
        for _ in 0..400 {
            if child.try_wait().expect("it is ours").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        child.kill().ok();
        false
    }

    /// Ends the server and every session of it at once.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let mut doomed = vec![child.id()];
        let mut at = 0;
        while at < doomed.len() {
            doomed.extend(children_of(doomed[at]));
            at += 1;
        }
        for pid in doomed {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                // Fails only where it is gone already.
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        child.wait().ok();
    }

    /// Starts it again on the same port after [`SshServer::kill`].
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&mut self) {
        assert!(self.try_boot(), "sshd does not start again: {}", self.log());
    }

    /// Gives the server another host key, from its next connection on.
    ///
    /// # Panics
    /// Where it does not come up with it.
    pub fn change_host_key(&mut self) {
        self.kill();
        for name in ["host_key", "host_key.pub"] {
            std::fs::remove_file(self.path(name)).expect("removed");
        }
        self.make_key("host_key", "ed25519", "");
        self.restart();
    }

    /// Makes a key pair in the server's own directory and returns the path of its private half.
    ///
    /// # Panics
    /// Where `ssh-keygen` fails.
    #[expect(clippy::must_use_candidate, reason = "the path follows from the name")]
    pub fn make_key(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let path = self.path(name);
        run("ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-C", name, "-f", text(&path)]);
        path
    }

    /// Starts an agent that holds this key.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a launcher has to work while a test panics, without a runtime")]
    pub fn agent(&self, key: &str) -> SshAgent {
        let socket = self.path("agent");
        let mut command = Command::new("ssh-agent");
        let child = command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().expect("ssh-agent starts");
        let agent = SshAgent { child, socket };
        for _ in 0..400 {
            let mut add = Command::new("ssh-add");
            add.arg("-q").arg(self.path(key)).env("SSH_AUTH_SOCK", &agent.socket).stdin(Stdio::null());
            if agent.socket.exists() && add.status().expect("ssh-add starts").success() {
                return agent;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("ssh-agent does not take the key");
    }

    /// Lets this key in, and no other.
    pub fn authorize(&self, name: &str) {
        let key = read(&self.path(&format!("{name}.pub")));
        let options = match &self.account {
            Account::Forced(command) => format!("restrict,command=\"{command}\" "),
            Account::Plain | Account::Chroot => String::new(),
        };
        write(&self.path("authorized_keys"), &format!("{options}{key}"));
    }

    /// Something in the server's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty directory for a store, as this machine sees it.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path("jail/store")
    }

    /// The same directory as a login sees it.
    #[must_use]
    pub fn remote(&self) -> String {
        if self.account == Account::Chroot { "/store".to_owned() } else { self.store().display().to_string() }
    }

    /// Who logs in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `SCHEME://user@127.0.0.1:PORT/path` of the store.
    #[must_use]
    pub fn url(&self, scheme: &str) -> String {
        self.url_at(scheme, self.port)
    }

    /// The same behind another port.
    #[must_use]
    pub fn url_at(&self, scheme: &str, port: u16) -> String {
        format!("{scheme}://{}@127.0.0.1:{port}{}", self.user, self.remote())
    }

    /// Its public host key as `ssh-ed25519 AAAA...`.
    #[must_use]
    pub fn host_key(&self) -> String {
        read(&self.path("host_key.pub")).split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// What logs in at it.
    #[must_use]
    pub fn options(&self) -> SshOptions {
        SshOptions {
            private_key_file: Some(self.path("key")),
            host_key: Some(self.host_key()),
            ..SshOptions::default()
        }
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running agent.
#[derive(Debug)]
pub struct SshAgent {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_file(&self.socket).ok();
    }
}

impl fmt::Debug for SshServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshServer").field("port", &self.port).field("account", &self.account).finish_non_exhaustive()
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in brackets, may hold anything.
        let after = stat.rsplit_once(')').map(|(_, after)| after.split_whitespace().nth(1).map(str::to_owned));
        after.flatten().is_some_and(|found| found == parent.to_string())
    };
    numbers.filter(is_child).collect()
}

fn own_name() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = read(Path::new("/etc/passwd"));
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid)).expect("we are in the user database");
    line.split(':').next().expect("a name").to_owned()
}

fn ids(user: &str) -> (u32, u32) {
    let passwd = read(Path::new("/etc/passwd"));
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user)).expect("the user is there");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a user"), numbers.next().expect("a group"))
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[expect(clippy::disallowed_methods, reason = "a launcher has to work without a runtime")]
fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().expect("it can be started");
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[expect(clippy::disallowed_methods, reason = "a test's input need not survive a power cut")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file of the test");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file that is there")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is plain text")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

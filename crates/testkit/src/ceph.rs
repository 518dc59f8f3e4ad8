//! A Ceph of one monitor and one disk in memory, as its gateway for S3 needs it.

use std::path::{Path, PathBuf};

use crate::daemon::{Command, Daemon, run};
use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// A running gateway with what is behind it. Dropped in this order.
#[derive(Debug)]
pub(crate) struct Ceph {
    pub(crate) gateway: Daemon,
    _disk: Daemon,
    _monitor: Daemon,
}

/// Whether Debian's packages are there.
pub(crate) fn is_installed() -> bool {
    ["/usr/bin/ceph-mon", "/usr/bin/ceph-osd", "/usr/bin/radosgw"].iter().all(|program| Path::new(program).exists())
}

impl Ceph {
    pub(crate) fn start() -> Self {
        let monitor = Daemon::start("ceph-mon", monitor);
        let home = monitor.dir.path().to_owned();
        let id = uuid();
        ceph(&home, &["osd", "new", &id]);
        let disk = Daemon::start_when(
            "ceph-osd",
            |_, _| {
                std::fs::create_dir_all(home.join("osd")).expect("a directory");
                if !home.join("osd/keyring").exists() {
                    must("ceph-osd", &home, &["-i", "0", "--mkfs", "--osd-uuid", &id]);
                }
                command("ceph-osd", &home, &["-i", "0", "-f"])
            },
            |_, _| ceph(&home, &["osd", "stat"]).contains("1 up"),
        );
        ceph(&home, &["osd", "crush", "add", "osd.0", "1.0", "root=default", "host=h"]);
        let gateway = Daemon::start("radosgw", |port, _| {
            let frontend = format!("--rgw-frontends=beast endpoint=127.0.0.1:{port}");
            command("radosgw", &home, &["-n", "client.rgw", "-f", &frontend])
        });
        let user = ["--uid=root", "--display-name=root", "--access-key", ACCESS_KEY, "--secret", SECRET_KEY];
        must("radosgw-admin", &home, &[&["-n", "client.rgw", "user", "create"], &user[..]].concat());
        Self { gateway, _disk: disk, _monitor: monitor }
    }
}

/// The configuration and the monitor's first state, and how it runs.
fn monitor(port: u16, home: &Path) -> Command {
    let shown = home.display();
    let conf = format!(
        "[global]\nfsid = {}\nmon host = [v2:127.0.0.1:{port}]\nmon initial members = a\nkeyring = {shown}/keyring\n\
         public network = 127.0.0.0/8\ncluster network = 127.0.0.0/8\nms bind ipv6 = false\n\
         osd pool default size = 1\nosd pool default min size = 1\nosd pool default pg num = 1\n\
         osd crush chooseleaf type = 0\nmon allow pool size one = true\nmon data avail crit = 1\n\
         mon data avail warn = 2\nosd objectstore = memstore\nmemstore device bytes = 2147483648\n\
         run dir = {shown}\nlog file = {shown}/$name.log\npid file = {shown}/$name.pid\n\
         admin socket = {shown}/$name.asok\nmon data = {shown}/mon\nosd data = {shown}/osd\nrgw data = {shown}/rgw\n",
        uuid()
    );
    for name in ["mon", "rgw"] {
        std::fs::create_dir_all(home.join(name)).expect("a directory");
    }
    #[expect(clippy::disallowed_methods, reason = "a test's file need not survive a power cut")]
    std::fs::write(home.join("ceph.conf"), conf).expect("a configuration");
    let keyring = home.join("keyring").display().to_string();
    for (first, name, caps) in [
        (true, "mon.", &["mon", "allow *"][..]),
        (false, "client.admin", &["mon", "allow *", "osd", "allow *", "mgr", "allow *"]),
        (false, "client.rgw", &["mon", "allow rwx", "osd", "allow rwx"]),
        (false, "osd.0", &["mon", "allow profile osd", "osd", "allow *"]),
    ] {
        let mut args = if first { vec!["--create-keyring"] } else { Vec::new() };
        args.extend([keyring.as_str(), "--gen-key", "-n", name]);
        for cap in caps.chunks(2) {
            args.push("--cap");
            args.extend(cap);
        }
        let out = run(&Command::new("ceph-authtool", &args), home);
        assert!(out.status.success(), "{out:?}");
    }
    let map = home.join("monmap").display().to_string();
    let fsid = std::fs::read_to_string(home.join("ceph.conf")).expect("it is there");
    let fsid = fsid.lines().find_map(|line| line.strip_prefix("fsid = ")).expect("an id").to_owned();
    let at = format!("[v2:127.0.0.1:{port}]");
    let made = run(&Command::new("monmaptool", &["--create", "--fsid", &fsid, "--addv", "a", &at, &map]), home);
    assert!(made.status.success(), "{made:?}");
    must("ceph-mon", home, &["--mkfs", "-i", "a", "--monmap", &map, "--keyring", &keyring]);
    command("ceph-mon", home, &["-i", "a", "-f"])
}

fn command(program: &str, home: &Path, args: &[&str]) -> Command {
    let conf = home.join("ceph.conf").display().to_string();
    Command::new(PathBuf::from(program), &[&["-c", &conf], args].concat())
}

fn must(program: &str, home: &Path, args: &[&str]) -> String {
    let out = run(&command(program, home, args), home);
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn ceph(home: &Path, args: &[&str]) -> String {
    must("ceph", home, &[&["--connect-timeout", "60"], args].concat())
}

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux").trim().to_owned()
}

//! Looks whether the configured paths can be backed up.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lifeboat_model::EntryPath;
use rustix::fs::Access;

use super::walk::Plan;
use crate::{Finding, Verdict};

/// One line for the user, one or two for each path.
pub(super) fn look(plan: &Plan) -> Vec<Finding> {
    let mut findings = vec![user()];
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for root in &plan.roots {
        findings.extend(path(&absolute(root.as_ref()), &mounts));
    }
    findings
}

/// The path on this machine of an entry path, or `/`.
pub(super) fn absolute(path: Option<&EntryPath>) -> PathBuf {
    Path::new("/").join(path.map_or(OsStr::new(""), |path| OsStr::from_bytes(path.as_bytes())))
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        return good("runs as root: every file can be read".to_owned());
    }
    Finding {
        verdict: Verdict::Warning,
        what: format!("runs as user {}, not as root", rustix::process::geteuid().as_raw()),
        hint: Some("files of other users may be unreadable; they are recorded as left out".to_owned()),
    }
}

fn path(path: &Path, mounts: &str) -> Vec<Finding> {
    let shown = path.display();
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return vec![bad(format!("{shown}: {error}"), "is its disk mounted?")],
    };
    match std::fs::canonicalize(path) {
        Ok(real) if real != path => {
            let what = format!("{shown} leads through a symbolic link");
            return vec![bad(what, &format!("write {} instead", real.display()))];
        }
        _ => {}
    }
    if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) {
        return vec![bad(
            format!("{shown} is a socket, which holds no data"),
            "configure where its program keeps data",
        )];
    }
    let wanted = if meta.is_dir() { Access::READ_OK | Access::EXEC_OK } else { Access::READ_OK };
    if let Err(error) = rustix::fs::access(path, wanted) {
        return vec![bad(format!("{shown} cannot be read: {}", super::meta::said(error)), "run as root")];
    }
    let mut findings = vec![good(format!("{shown} can be read{}", mounted(path, mounts)))];
    let is_empty = meta.is_dir() && std::fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
    if is_empty {
        findings.push(Finding {
            verdict: Verdict::Warning,
            what: format!("{shown} is empty"),
            hint: Some("is its disk mounted? Each backup of it ends with problems".to_owned()),
        });
    }
    findings
}

/// File system and device that hold `path`, from the text of `/proc/self/mountinfo` (proc(5)): the
/// fifth field is the mount point, after a lone `-` come file system and device.
fn mounted(path: &Path, mounts: &str) -> String {
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(dash)) = (fields.get(4), fields.iter().position(|field| *field == "-")) else {
            continue;
        };
        let (Some(kind), Some(device)) = (fields.get(dash + 1), fields.get(dash + 2)) else { continue };
        // Of mounts upon each other the last is seen.
        let wins = best.as_ref().is_none_or(|(length, _)| point.len() >= *length);
        if wins && path.starts_with(unescape(point)) {
            best = Some((point.len(), format!(" ({kind} on {device}, mounted at {point})")));
        }
    }
    best.map(|(_, text)| text).unwrap_or_default()
}

/// Undoes the octal escapes of blanks in mount points.
pub(super) fn unescape(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn good(what: String) -> Finding {
    Finding { verdict: Verdict::Good, what, hint: None }
}

fn bad(what: String, hint: &str) -> Finding {
    Finding { verdict: Verdict::Bad, what, hint: Some(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_named() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 8:2 / /srv/my\\040disk rw shared:1 - xfs /dev/vdb rw\n";
        assert_eq!(mounted(Path::new("/srv/my disk/a"), mounts), " (xfs on /dev/vdb, mounted at /srv/my\\040disk)");
        assert_eq!(mounted(Path::new("/srv/other"), mounts), " (ext4 on /dev/vda, mounted at /)");
    }
}

//! By what a server is known: `known_hosts` of `sshd(8)`, with hashed names, patterns, `[host]:port`
//! and `@revoked`. Lines of authorities (`@cert-authority`) are left out: host certificates are not
//! asked for.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, HashAlg, PublicKey};

use super::config::matches_any;
use super::{SshError, SshErrorKind};

/// The lines that speak of one host.
#[derive(Clone, Debug)]
pub struct KnownHosts {
    name: String,
    /// Where a new key would be pinned.
    file: PathBuf,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    place: String,
    revoked: bool,
    key: PublicKey,
}

/// The name under which a host stands in the files.
#[must_use]
pub fn name_of(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

impl KnownHosts {
    /// Reads what the files say of a host; files that are not there say nothing. New keys are pinned in
    /// the first.
    ///
    /// # Errors
    /// [`SshErrorKind::Setup`]: a file that cannot be read.
    pub fn read(files: &[PathBuf], host: &str, port: u16) -> Result<Self, SshError> {
        let name = name_of(host, port);
        let mut lines = Vec::new();
        for file in files {
            match std::fs::read(file) {
                Ok(text) => lines.extend(lines_of(file, &String::from_utf8_lossy(&text), &name)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let what = format!("the known hosts in {} cannot be read: {error}", file.display());
                    return Err(SshError::new(SshErrorKind::Setup, what));
                }
            }
        }
        Ok(Self { name, file: files.first().cloned().unwrap_or_default(), lines })
    }

    /// One key that is known from the configuration.
    ///
    /// # Errors
    /// [`SshErrorKind::Setup`]: it is not a public key.
    pub fn pinned(key: &str, host: &str, port: u16) -> Result<Self, SshError> {
        let key = PublicKey::from_openssh(key.trim()).map_err(|error| {
            SshError::new(SshErrorKind::Setup, format!("`hostKey` is not a public key: {error}"))
                .hinting("write its kind and its text: ssh-ed25519 AAAA...")
        })?;
        let line = Line { place: "`hostKey` of the configuration".to_owned(), revoked: false, key };
        Ok(Self { name: name_of(host, port), file: PathBuf::new(), lines: vec![line] })
    }

    /// Kinds of keys to ask the server for: those by which it is known first.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        // RSA is not among them: nothing in this program checks signatures of RSA.
        let able: Vec<Algorithm> = russh::Preferred::DEFAULT
            .key
            .iter()
            .filter(|kind| !matches!(kind, Algorithm::Rsa { .. }))
            .cloned()
            .collect();
        let known = |kind: &Algorithm| self.lines.iter().any(|line| !line.revoked && line.key.algorithm() == *kind);
        let (mut first, rest): (Vec<_>, Vec<_>) = able.into_iter().partition(known);
        first.extend(rest);
        first
    }

    /// Whether the server may be trusted that showed this key.
    ///
    /// # Errors
    /// [`SshErrorKind::HostKey`] with the fingerprint and what pins the key.
    pub fn check(&self, key: &PublicKey) -> Result<(), SshError> {
        let same = |line: &&Line| line.key.key_data() == key.key_data();
        if let Some(line) = self.lines.iter().find(|line| line.revoked && same(line)) {
            let what = format!("the host key of {} is revoked by {}: {}", self.name, line.place, Shown(key));
            return Err(SshError::new(SshErrorKind::HostKey, what)
                .hinting("do not go on; ask who runs the server, and have it make new host keys"));
        }
        let mut valid = self.lines.iter().filter(|line| !line.revoked);
        if valid.clone().any(|line| same(&line)) {
            return Ok(());
        }
        Err(match valid.next() {
            Some(line) => self.changed(line, key),
            None => self.unknown(key),
        })
    }

    fn unknown(&self, key: &PublicKey) -> SshError {
        let what = format!("the host {} is not known; it shows {}", self.name, Shown(key));
        SshError::new(SshErrorKind::HostKey, what).hinting(format!(
            "on the server, `ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub` must show the same fingerprint; then pin the key:\n  {}",
            file_word(key),
            self.pin(key),
        ))
    }

    fn changed(&self, line: &Line, key: &PublicKey) -> SshError {
        let what = format!(
            "the host {} is not the one that is known: {} says {}, and it shows {}",
            self.name,
            line.place,
            Shown(&line.key),
            Shown(key)
        );
        let error = SshError::new(SshErrorKind::HostKey, what);
        if self.file.as_os_str().is_empty() {
            return error.hinting(format!(
                "somebody may stand between; if the server got a new key, compare its fingerprint there and write `hostKey: {}`",
                text_of(key)
            ));
        }
        error.hinting(format!(
            "somebody may stand between; if the server got a new key, compare its fingerprint there, then:\n  \
             ssh-keygen -R '{}' -f '{}'\n  {}",
            self.name,
            self.file.display(),
            self.pin(key)
        ))
    }

    /// The command that pins a key.
    fn pin(&self, key: &PublicKey) -> String {
        format!("echo '{} {}' >> '{}'", self.name, text_of(key), self.file.display())
    }
}

/// The lines of a file that speak of a host. What cannot be read is left out, as OpenSSH does.
fn lines_of(file: &Path, text: &str, name: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.starts_with('#') {
            continue;
        }
        let Ok(entry) = line.parse::<Entry>() else { continue };
        let revoked = entry.marker() == Some(&Marker::Revoked);
        if entry.marker() == Some(&Marker::CertAuthority) || !speaks_of(entry.host_patterns(), name) {
            continue;
        }
        let place = format!("{}, line {}", file.display(), number + 1);
        lines.push(Line { place, revoked, key: entry.public_key().clone() });
    }
    lines
}

fn speaks_of(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::Patterns(patterns) => matches_any(patterns, name),
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
    }
}

/// `ssh-ed25519 AAAA...`, without a comment.
#[must_use]
pub fn text_of(key: &PublicKey) -> String {
    PublicKey::from(key.key_data().clone()).to_openssh().unwrap_or_default()
}

/// The word for the kind in names of files.
fn file_word(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Ecdsa { .. } => "ecdsa",
        Algorithm::Rsa { .. } => "rsa",
        _ => "ed25519",
    }
}

struct Shown<'a>(&'a PublicKey);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.algorithm(), self.0.fingerprint(HashAlg::Sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    fn check(text: &str, host: &str, port: u16, shown: &str) -> Result<(), SshError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("known_hosts");
        std::fs::File::create(&file)
            .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
            .expect("written");
        KnownHosts::read(&[file], host, port).expect("read").check(&key(shown))
    }

    #[test]
    fn names_ports_patterns_and_hashes_are_recognised() {
        for (names, host, port, known) in [
            ("nas", "nas", 22, true),
            ("nas", "NAS", 22, true),
            ("nas", "nas", 2222, false),
            ("[nas]:2222", "nas", 2222, true),
            ("[nas]:2222", "nas", 22, false),
            ("10.0.0.1,nas", "nas", 22, true),
            ("*.example,!bad.example", "good.example", 22, true),
            ("*.example,!bad.example", "bad.example", 22, false),
            ("|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak=", "example.com", 22, true),
            ("|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak=", "example.org", 22, false),
        ] {
            let text = format!("# a comment\nrubbish\n{names}\t{TWO} somebody\n");
            assert_eq!(check(&text, host, port, TWO).is_ok(), known, "{names} {host}:{port}");
        }
    }

    #[test]
    fn an_unknown_host_is_told_with_fingerprint_and_the_command_that_pins_it() {
        let error = check("", "nas", 2222, ONE).expect_err("unknown");
        assert_eq!(error.kind, SshErrorKind::HostKey);
        assert!(error.to_string().contains(&key(ONE).fingerprint(HashAlg::Sha256).to_string()), "{error}");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(&format!("echo '[nas]:2222 {ONE}' >> '/")), "{hint}");
    }

    #[test]
    fn another_key_and_a_revoked_one_are_refused() {
        let changed = check(&format!("nas {TWO}\n"), "nas", 22, ONE).expect_err("changed");
        assert!(
            changed.to_string().contains("line 1") && changed.hint().expect("a hint").contains("ssh-keygen -R 'nas'")
        );
        let revoked = check(&format!("nas {ONE}\n@revoked * {ONE}\n"), "nas", 22, ONE).expect_err("revoked");
        assert!(revoked.to_string().contains("revoked"), "{revoked}");
        assert!(check(&format!("nas {TWO}\nnas {ONE}\n"), "nas", 22, ONE).is_ok(), "a second key");
        assert!(check(&format!("@cert-authority nas {ONE}\n"), "nas", 22, ONE).is_err(), "an authority is no host");
    }

    #[test]
    fn a_pinned_key_goes_before_files() {
        let pinned = KnownHosts::pinned(ONE, "nas", 22).expect("a key");
        assert!(pinned.check(&key(ONE)).is_ok());
        assert!(pinned.check(&key(TWO)).expect_err("another").hint().expect("a hint").contains("hostKey"));
        assert_eq!(KnownHosts::pinned("ssh-ed25519 x", "nas", 22).expect_err("no key").kind, SshErrorKind::Setup);
    }
}

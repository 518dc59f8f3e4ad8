//! From the `url:` of a configuration to a store.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use lifeboat_model::config::StoreOptions;
use lifeboat_wire::backoff::BackoffPolicy;
use lifeboat_wire::clock::SystemClock;
use lifeboat_wire::ssh::{Address, Times};

use crate::local::LocalStore;
use crate::sftp::SftpStore;
use crate::wrap::Retry;
use crate::{Store, StoreError};

/// Why a URL gave no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not the URL of a store.
    #[error("{url:?} is not the URL of a store: {why}")]
    Url {
        /// What was given, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// What the person could try next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Url { .. } => Some("write file:///srv/lifeboat or sftp://user@host/srv/lifeboat"),
            Self::Store(error) if error.advice().is_none() && error.kind == crate::StoreErrorKind::NotFound => {
                Some("is the disk mounted?")
            }
            Self::Store(error) => error.hint(),
        }
    }
}

/// Opens the store that a URL names. Nothing is created in it.
///
/// # Errors
/// [`OpenError::Url`] for what is no URL of a known store, else what the store said.
pub fn open_store(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, OpenError> {
    match parse(url)? {
        Place::Directory(path) => Ok(Arc::new(LocalStore::open(&path)?)),
        Place::Sftp(address, path) => Ok(remote(SftpStore::new(url, address, &path, &options.ssh, Times::default()))),
    }
}

/// As [`open_store`], for a new repository: creates the directory of a `file:` store.
///
/// # Errors
/// As [`open_store`].
pub fn create_store(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, OpenError> {
    match parse(url)? {
        Place::Directory(path) => Ok(Arc::new(LocalStore::create(&path)?)),
        Place::Sftp(address, path) => {
            Ok(remote(SftpStore::creating(url, address, &path, &options.ssh, Times::default())))
        }
    }
}

/// A store at the other end of a line, with what lines need: calls that failed on the way are tried again.
fn remote(store: impl Store) -> Arc<dyn Store> {
    Arc::new(Retry::new(Arc::new(store), BackoffPolicy::default(), Arc::new(SystemClock)))
}

/// What a URL names.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// `file:` (RFC 8089).
    Directory(PathBuf),
    /// `sftp:`, with the path on the server; one that begins with `/~/` is relative to the login's directory.
    Sftp(Address, String),
}

fn parse(url: &str) -> Result<Place, OpenError> {
    let wrong = |why: String| OpenError::Url { url: without_password(url), why };
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(wrong("it has no scheme".to_owned()));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => directory(rest).map(Place::Directory).map_err(wrong),
        "sftp" => on_server(rest).map(|(address, path)| Place::Sftp(address, path)).map_err(wrong),
        "s3" | "azure" | "azblob" | "memory" => Err(wrong(format!("this version has no {scheme} stores yet"))),
        _ => Err(wrong(format!("no store has the scheme {scheme:?}"))),
    }
}

fn directory(rest: &str) -> Result<PathBuf, String> {
    let rest = rest.strip_prefix("//").ok_or("after file: come three slashes and an absolute path")?;
    match rest.find('/') {
        Some(at) if matches!(&rest[..at], "" | "localhost") => path_of(&rest[at..]),
        _ => Err("the path must be absolute, and on this machine: three slashes".to_owned()),
    }
}

fn on_server(rest: &str) -> Result<(Address, String), String> {
    let rest = rest.strip_prefix("//").ok_or("after the colon come two slashes and a host")?;
    let Some((authority, path)) = rest.find('/').map(|at| rest.split_at(at)) else {
        return Err("the path on the server is missing".to_owned());
    };
    let address = String::from_utf8(percent_decoded(authority)?).map_err(|_| "the host is no text")?.parse()?;
    let path = path_of(path)?;
    let path = path.to_str().ok_or("a path on a server is UTF-8")?;
    let path = match path.strip_prefix("/~") {
        Some(below) if below.is_empty() || below.starts_with('/') => format!(".{below}"),
        _ => path.to_owned(),
    };
    Ok((address, path))
}

fn path_of(path: &str) -> Result<PathBuf, String> {
    if path.contains(['?', '#']) {
        return Err("? and # must be written %3F and %23 in a path".to_owned());
    }
    let path = percent_decoded(path)?;
    if path.contains(&0) {
        return Err("a path holds no NUL".to_owned());
    }
    let path = PathBuf::from(OsString::from_vec(path));
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("the path must not hold `..`".to_owned());
    }
    Ok(path)
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err("after % come two hexadecimal digits (a plain % is %25)".to_owned()),
        }
    }
    Ok(out)
}

/// The URL as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}:***{}", &rest[user.len()..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_url_names_an_absolute_directory() {
        for (url, path) in [
            ("file:///srv/lifeboat", "/srv/lifeboat"),
            ("file://localhost/srv", "/srv"),
            ("FILE:///a%20b/%25c", "/a b/%c"),
            ("file:///", "/"),
        ] {
            assert_eq!(parse(url).expect("a path"), Place::Directory(path.into()), "{url}");
        }
        let odd = OsString::from_vec(b"/\xff".to_vec());
        assert_eq!(parse("file:///%ff").expect("a path"), Place::Directory(odd.into()));
    }

    #[test]
    fn an_sftp_url_names_a_directory_of_a_server() {
        for (url, address, path) in [
            ("sftp://backup@nas:2222/srv/lifeboat", "backup@nas:2222", "/srv/lifeboat"),
            ("sftp://nas/", "nas", "/"),
            ("sftp://nas/~/lifeboat", "nas", "./lifeboat"),
            ("sftp://nas/~other", "nas", "/~other"),
            ("SFTP://a%40b@[::1]/a%20b", "a@b@[::1]", "/a b"),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(parse(url).expect("a server"), Place::Sftp(address, path.to_owned()), "{url}");
        }
        for (url, why) in
            [("sftp://nas", "path"), ("sftp:nas", "slashes"), ("sftp://nas:x/", "port"), ("sftp://nas/../x", "..")]
        {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for (url, why) in [
            ("/srv/lifeboat", "no scheme"),
            ("file:srv", "three slashes"),
            ("file://srv/lifeboat", "three slashes"),
            ("file://", "three slashes"),
            ("file:///a%2", "hexadecimal"),
            ("file:///a%00", "NUL"),
            ("file:///a/%2e%2e/b", ".."),
            ("file:///a?b", "%3F"),
            ("s3://bucket", "yet"),
            ("http://host/", "scheme"),
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let error = parse("sftp://user:secret@host/path").expect_err("no passwords");
        assert!(error.to_string().contains("sftp://user:***@host/path"), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn a_store_that_is_not_there_is_an_error_with_a_hint() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}/new", dir.path().display());
        let error = open_store(&url, &StoreOptions::default()).expect_err("not there");
        assert!(error.hint().expect("a hint").contains("mounted"));
        create_store(&url, &StoreOptions::default()).expect("created");
        open_store(&url, &StoreOptions::default()).expect("is there now");
    }
}

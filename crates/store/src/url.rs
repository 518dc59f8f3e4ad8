//! From the `url:` of a configuration to a store.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use crate::local::LocalStore;
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
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Url { .. } => Some("write the directory as file:///srv/lifeboat"),
            Self::Store(error) if error.kind == crate::StoreErrorKind::NotFound => Some("is the disk mounted?"),
            Self::Store(error) => error.hint(),
        }
    }
}

/// Opens the store that a URL names. Nothing is created in it.
///
/// # Errors
/// [`OpenError::Url`] for what is no URL of a known store, else what the store said.
pub fn open_store(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(LocalStore::open(&parse(url)?)?))
}

/// As [`open_store`], for a new repository: creates the directory of a `file:` store.
///
/// # Errors
/// As [`open_store`].
pub fn create_store(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(LocalStore::create(&parse(url)?)?))
}

/// The directory of a `file:` URL (RFC 8089).
fn parse(url: &str) -> Result<PathBuf, OpenError> {
    let wrong = |why: String| OpenError::Url { url: without_password(url), why };
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(wrong("it has no scheme".to_owned()));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {}
        "sftp" | "s3" | "azure" | "azblob" | "memory" => {
            return Err(wrong(format!("this version has no {scheme} stores yet")));
        }
        _ => return Err(wrong(format!("no store has the scheme {scheme:?}"))),
    }
    let Some(rest) = rest.strip_prefix("//") else {
        return Err(wrong("after file: come three slashes and an absolute path".to_owned()));
    };
    let path = match rest.find('/') {
        Some(at) if matches!(&rest[..at], "" | "localhost") => &rest[at..],
        _ => return Err(wrong("the path must be absolute, and on this machine: three slashes".to_owned())),
    };
    if path.contains(['?', '#']) {
        return Err(wrong("? and # must be written %3F and %23 in a path".to_owned()));
    }
    let path = percent_decoded(path).map_err(wrong)?;
    if path.contains(&0) {
        return Err(wrong("a path holds no NUL".to_owned()));
    }
    let path = PathBuf::from(OsString::from_vec(path));
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("the path must not hold `..`".to_owned()));
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
            assert_eq!(parse(url).expect("a path"), PathBuf::from(path), "{url}");
        }
        assert_eq!(parse("file:///%ff").expect("a path").into_os_string().into_vec(), b"/\xff");
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
        let error = parse("sftp://user:secret@host/path").expect_err("not yet");
        assert!(error.to_string().contains("sftp://user:***@host/path"), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn a_store_that_is_not_there_is_an_error_with_a_hint() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}/new", dir.path().display());
        let error = open_store(&url).expect_err("not there");
        assert!(error.hint().expect("a hint").contains("mounted"));
        create_store(&url).expect("created");
        open_store(&url).expect("is there now");
    }
}

//! What the stores of clouds have in common: what their failures mean, and where in a bucket a
//! repository lies.

use std::fmt;

use lifeboat_wire::http::RequestError;

use crate::{StoreError, StoreErrorKind};

/// A failed request as the failure of a store.
pub(crate) fn failed(
    operation: &'static str,
    key: impl fmt::Display,
    store: &dyn fmt::Display,
    error: RequestError,
) -> StoreError {
    StoreError::new(kind(&error), operation, key, store, error)
}

/// What callers decide by. A bucket that is not there is no missing object: whoever takes it for one
/// would call a repository empty.
fn kind(error: &RequestError) -> StoreErrorKind {
    let answer = match error {
        RequestError::Answer(answer) => answer,
        RequestError::Connect(_) | RequestError::Stalled(_) | RequestError::Broken(_) => {
            return StoreErrorKind::Transient;
        }
        RequestError::Credentials(_) => return StoreErrorKind::Denied,
        _ => return StoreErrorKind::Failed,
    };
    match (answer.status, answer.code.as_str()) {
        (_, "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" | "AccountIsDisabled") => {
            StoreErrorKind::Failed
        }
        (_, "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded") | (507, _) => {
            StoreErrorKind::Full
        }
        _ if answer.is_transient() => StoreErrorKind::Transient,
        (412, _) | (409, "BlobAlreadyExists") => StoreErrorKind::Exists,
        (404, _) => StoreErrorKind::NotFound,
        (416, _) => StoreErrorKind::BadRange,
        (401 | 403, _) | (400, "ExpiredToken") | (409, "BlobImmutableDueToPolicy") => StoreErrorKind::Denied,
        (409, _) => StoreErrorKind::Transient,
        _ => StoreErrorKind::Failed,
    }
}

/// A bucket or container and the place in it, of a URL such as `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) bucket: String,
    /// Empty, or ends with `/`.
    pub(crate) prefix: String,
}

impl Place {
    /// Of what stands after the scheme. Prefixes hold letters, digits and `-._~` in components.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        let rest = rest.strip_prefix("//").ok_or("after the scheme come two slashes and the bucket")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return Err(format!("{bucket:?} cannot be a bucket; credentials do not stand in the URL"));
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return Ok(Self { bucket: bucket.to_owned(), prefix: String::new() });
        }
        let good = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
        if !prefix.split('/').all(good) {
            return Err(format!("{prefix:?} cannot be a prefix: use letters, digits and -._~ between single slashes"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
    }

    /// The whole name of an object.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The name of an object in the repository; `None` for what lies elsewhere or is none of ours.
    pub(crate) fn key(&self, name: &str) -> Option<crate::Key> {
        crate::Key::new(name.strip_prefix(&self.prefix)?).ok()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix.trim_end_matches('/')) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_components() {
        for (rest, shown, name) in [
            ("//bucket", "bucket", "x"),
            ("//bucket/", "bucket", "x"),
            ("//bucket/a", "bucket/a", "a/x"),
            ("//bucket/a/B_c.d/", "bucket/a/B_c.d", "a/B_c.d/x"),
        ] {
            let place = Place::parse(rest).expect("a place");
            assert_eq!((place.to_string().as_str(), place.name("x").as_str()), (shown, name));
            assert_eq!(place.key(name).expect("a key").as_str(), "x");
            assert_eq!(place.key("elsewhere/x").is_some(), place.prefix.is_empty());
        }
        for rest in ["bucket", "//", "///a", "//key:secret@bucket/a", "//b/a//b", "//b/../a", "//b/a b", "//b/a?c"] {
            assert!(Place::parse(rest).is_err(), "{rest}");
        }
    }

    fn answer(status: u16, code: &str) -> RequestError {
        let answer = lifeboat_wire::http::Answer {
            status,
            code: code.to_owned(),
            message: String::new(),
            region: None,
            retry_after: None,
        };
        RequestError::Answer(answer)
    }

    #[test]
    fn failures_are_what_callers_decide_by() {
        for (status, code, expected) in [
            (404, "NoSuchKey", StoreErrorKind::NotFound),
            (404, "BlobNotFound", StoreErrorKind::NotFound),
            (404, "NoSuchBucket", StoreErrorKind::Failed),
            (404, "ContainerNotFound", StoreErrorKind::Failed),
            (412, "PreconditionFailed", StoreErrorKind::Exists),
            (409, "BlobAlreadyExists", StoreErrorKind::Exists),
            (409, "OperationAborted", StoreErrorKind::Transient),
            (416, "InvalidRange", StoreErrorKind::BadRange),
            (403, "AccessDenied", StoreErrorKind::Denied),
            (403, "RequestTimeTooSkewed", StoreErrorKind::Denied),
            (403, "QuotaExceeded", StoreErrorKind::Full),
            (507, "XMinioStorageFull", StoreErrorKind::Full),
            (503, "SlowDown", StoreErrorKind::Transient),
            (500, "", StoreErrorKind::Transient),
            (429, "", StoreErrorKind::Transient),
            (400, "RequestTimeout", StoreErrorKind::Transient),
            (501, "NotImplemented", StoreErrorKind::Failed),
            (301, "PermanentRedirect", StoreErrorKind::Failed),
        ] {
            assert_eq!(kind(&answer(status, code)), expected, "{status} {code}");
        }
    }
}

//! Bounded blobs under names: the only thing that a repository asks of a disk, a server or a cloud.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;

pub mod blobs;
mod cloud;
pub mod local;
pub mod memory;
mod pool;
pub mod s3;
pub mod sftp;
pub mod url;
pub mod wrap;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use lifeboat_wire::http::RequestError;

/// The name of an object: lower-case letters, digits, `-` and `.` in components joined by `/`,
/// none of which starts with `.`; at most 200 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// A text that cannot name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an object")]
pub struct BadKey(pub String);

impl Key {
    /// Checks `text` and makes a key of it.
    ///
    /// # Errors
    /// [`BadKey`] where a rule of [`Key`] is broken.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let good = text.len() <= 200
            && text.split('/').all(|part| {
                !part.is_empty()
                    && !part.starts_with('.')
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
            });
        if good { Ok(Self(text)) } else { Err(BadKey(text)) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The largest object that a store takes or gives: 64 MiB.
pub const OBJECT_BYTES_MAX: usize = 64 << 20;

/// What a list tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub key: Key,
    /// Its size.
    pub bytes: u64,
    /// When the store took it, by the store's own clock.
    pub stored_at: Timestamp,
}

/// Whether an object may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Refuse with [`StoreErrorKind::Exists`] if the name is taken. Where the store cannot refuse
    /// ([`Capabilities::conditional_put`] is false) the put happens.
    CreateNew,
    /// Put whatever is there.
    Replace,
}

/// What a store can promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// [`PutMode::CreateNew`] is refused by the store itself when the name is taken.
    pub conditional_put: bool,
    /// For how long after a put or delete a list may still miss it.
    pub list_staleness: Duration,
    /// Whether a client with full access can still not delete or replace.
    pub immutability: Immutability,
}

/// Who keeps an object from being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Immutability {
    /// Nobody.
    None,
    /// The server's program.
    Server,
    /// The store's own lock.
    Lock,
}

/// Where objects live. Knows nothing of snapshots.
///
/// # Contract
/// - `put` is atomic and durable: when it returns `Ok` the whole object survives a power cut, and
///   no reader ever sees a part of it. Putting the same bytes again is harmless.
/// - `get` of a range that reaches past the end returns what there is up to the end; an empty range
///   and one that starts at or past the end are [`StoreErrorKind::BadRange`].
/// - `list` yields keys that start with the prefix in any order, each once; it may miss what was
///   put less than [`Capabilities::list_staleness`] ago. Leftovers of unfinished puts are not listed.
/// - `delete` of what is not there is `Ok`.
/// - A key may not be both an object and the first components of another.
/// - Nothing here retries; [`wrap::Retry`] does.
#[async_trait]
pub trait Store: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Stores an object of at most [`OBJECT_BYTES_MAX`].
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError>;
    /// Reads an object or a part of it.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;
    /// Lists objects whose name starts with `prefix` (`data/`).
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>>;
    /// Removes an object.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;
    /// What this store can promise.
    fn capabilities(&self) -> Capabilities;
    /// Looks for what a person should know before it is used; changes nothing.
    async fn examine(&self) -> Result<Examination, StoreError> {
        Ok(Examination::default())
    }
}

/// What [`Store::examine`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examination {
    /// Bytes that can still be put, where the store tells.
    pub room_bytes: Option<u64>,
    /// What the store cannot do, each in a sentence that says what follows from it.
    pub lacks: Vec<String>,
}

/// What went wrong with an object, for callers that decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No object of this name.
    NotFound,
    /// The name is taken.
    Exists,
    /// The range is empty or starts behind the object's end.
    BadRange,
    /// Login or rights.
    Denied,
    /// No space left.
    Full,
    /// May pass if tried again: time-outs, resets, 5xx.
    Transient,
    /// Anything else.
    Failed,
}

/// A failed call to a store.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}{store} failed", if key.is_empty() { String::new() } else { format!("{key} in ") })]
pub struct StoreError {
    /// What to decide by.
    pub kind: StoreErrorKind,
    /// `put`, `get`, `list`, `delete`.
    pub operation: &'static str,
    /// The object, or the prefix of a list; empty where the whole store is meant.
    pub key: String,
    /// The store, without secrets.
    pub store: String,
    /// What the system said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// A failed call.
    pub fn new(
        kind: StoreErrorKind,
        operation: &'static str,
        key: impl fmt::Display,
        store: &dyn fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, key: key.to_string(), store: store.to_string(), source: source.into() }
    }

    /// For how long the store does not want to be asked again, where it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match RequestError::within(&*self.source) {
            Some(RequestError::Answer(answer)) => answer.retry_after,
            _ => None,
        }
    }

    /// The same error with the store's own advice, where it has one.
    #[must_use]
    pub fn advise(mut self, advice: Option<String>) -> Self {
        if let Some(advice) = advice {
            self.source = Box::new(Advised { source: self.source, advice });
        }
        self
    }

    /// What the store knows better than the kind does.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.source.downcast_ref().map(|advised: &Advised| advised.advice.as_str())
    }

    /// What the person could try next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        if let Some(advice) = self.advice() {
            return Some(advice);
        }
        if let Some(hint) = RequestError::within(&*self.source).and_then(RequestError::hint) {
            return Some(hint);
        }
        match self.kind {
            StoreErrorKind::Denied => Some("check that this user or account may do this in the store"),
            StoreErrorKind::Full => Some("free space in the store, or run forget and prune, and try again"),
            StoreErrorKind::Transient => Some("check the connection to the store and try again"),
            _ => None,
        }
    }
}

/// What the system said, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
struct Advised {
    source: Box<dyn std::error::Error + Send + Sync>,
    advice: String,
}

/// Whether an object of this size may pass.
fn check_size(operation: &'static str, key: &Key, store: &dyn fmt::Display, bytes: u64) -> Result<(), StoreError> {
    if bytes <= OBJECT_BYTES_MAX as u64 {
        return Ok(());
    }
    let why = format!("it has {bytes} bytes; no object has more than {OBJECT_BYTES_MAX}");
    Err(StoreError::new(StoreErrorKind::Failed, operation, key, store, why))
}

/// The part of an object of `size` bytes that a range asks for, or [`StoreErrorKind::BadRange`].
fn clamp_range(key: &Key, store: &dyn fmt::Display, range: &Range<u64>, size: u64) -> Result<Range<u64>, StoreError> {
    if range.start < range.end && range.start < size {
        return Ok(range.start..range.end.min(size));
    }
    let why = format!("the range {}..{} holds nothing of its {size} bytes", range.start, range.end);
    Err(StoreError::new(StoreErrorKind::BadRange, "get", key, store, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_climb_hide_or_hold_odd_letters() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/../b",
            ".tmp",
            "a/.b",
            "A",
            "a b",
            "a\0",
            "a_b",
            &"x".repeat(201),
        ] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for good in ["format", "roots/snapshot/00ff", "a.b", "a-b/c", &"x".repeat(200)] {
            assert!(Key::new(good).is_ok(), "{good:?}");
        }
    }
}

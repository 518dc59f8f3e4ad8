//! Stores that the library's own clients talk to: Azure and Google.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use lifeboat_model::store_options::AzureOptions;
use lifeboat_wire::http::{Http, RequestError};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutOptions, PutPayload};

use crate::cloud::{Place, failed};
use crate::{
    Capabilities, Immutability, Key, OBJECT_BYTES_MAX, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind,
    check_size, clamp_range,
};

/// What is sent at once, so that a slow line shows progress.
const SLICE_BYTES: usize = 256 << 10;

/// Objects in a container or bucket. **Immutability: none.**
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<dyn ObjectStore>,
    scheme: &'static str,
    place: Place,
}

impl BlobStore {
    /// A container by what follows `azure:` in its URL. Nothing is asked yet.
    ///
    /// # Errors
    /// Why this is no place, or what is wrong with the options.
    pub fn azure(rest: &str, options: &AzureOptions, http: Http) -> Result<Self, RequestError> {
        let place = Place::parse(rest).map_err(RequestError::Settings)?;
        let inner = lifeboat_wire::azure::container(&place.bucket, options, http)?;
        Ok(Self { inner, scheme: "azure", place })
    }

    /// A bucket by what follows `gs:` in its URL. Nothing is asked yet.
    ///
    /// # Errors
    /// Why this is no place, or what is wrong with the account.
    pub fn google(rest: &str, account: Option<&std::path::Path>, http: Http) -> Result<Self, RequestError> {
        let place = Place::parse(rest).map_err(RequestError::Settings)?;
        let inner = lifeboat_wire::gcs::bucket(&place.bucket, account, http)?;
        Ok(Self { inner, scheme: "gs", place })
    }

    fn path(&self, key: &str) -> Path {
        Path::from(self.place.name(key))
    }

    fn failed(&self, operation: &'static str, key: &str, error: object_store::Error) -> StoreError {
        match RequestError::within(&error) {
            Some(own) => failed(operation, key, self, own.clone()),
            None => StoreError::new(kind(&error), operation, key, self, error),
        }
    }

    fn meta(&self, found: &object_store::ObjectMeta) -> Option<Result<ObjectMeta, StoreError>> {
        let key = self.place.key(found.location.as_ref())?;
        let stored_at = Timestamp::from_millisecond(found.last_modified.timestamp_millis());
        Some(match stored_at {
            Ok(stored_at) => Ok(ObjectMeta { key, bytes: found.size, stored_at }),
            Err(error) => Err(StoreError::new(StoreErrorKind::Failed, "list", key, self, error)),
        })
    }
}

/// Of what the library says itself, without a request that failed.
fn kind(error: &object_store::Error) -> StoreErrorKind {
    match error {
        object_store::Error::NotFound { .. } => StoreErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => StoreErrorKind::Exists,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            StoreErrorKind::Denied
        }
        _ => StoreErrorKind::Failed,
    }
}

impl fmt::Display for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.place)
    }
}

#[async_trait]
impl Store for BlobStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        check_size("put", key, self, body.len() as u64)?;
        let slices = (0..body.len()).step_by(SLICE_BYTES).map(|at| body.slice(at..body.len().min(at + SLICE_BYTES)));
        let mode = match mode {
            PutMode::CreateNew => object_store::PutMode::Create,
            PutMode::Replace => object_store::PutMode::Overwrite,
        };
        let (path, body) = (self.path(key.as_str()), slices.collect::<PutPayload>());
        let put = self.inner.put_opts(&path, body, PutOptions::from(mode)).await;
        put.map(|_| ()).map_err(|error| self.failed("put", key.as_str(), error))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let range = range.map(|range| clamp_range(key, self, &range, OBJECT_BYTES_MAX as u64)).transpose()?;
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let failed = |error| self.failed("get", key.as_str(), error);
        let path = self.path(key.as_str());
        let got = match (self.inner.get_opts(&path, options).await, range) {
            (Ok(got), _) => got,
            // Servers answer a range past the end in several ways, not all of which the library knows.
            (Err(error), Some(range)) if RequestError::within(&error).is_none() => {
                let size = self.inner.head(&path).await.map_err(failed)?.size;
                clamp_range(key, self, &range, size)?;
                return Err(failed(error));
            }
            (Err(error), _) => return Err(failed(error)),
        };
        check_size("get", key, self, got.range.end - got.range.start)?;
        got.bytes().await.map_err(failed)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        // The library lists whole components; what is left over is dropped here.
        let whole = prefix.rfind('/').map_or("", |at| &prefix[..at]);
        let below = self.path(whole);
        let below = (!below.as_ref().is_empty()).then_some(below);
        self.inner
            .list(below.as_ref())
            .filter_map(move |found| {
                let found = match found {
                    Ok(found) => self.meta(&found),
                    Err(error) => Some(Err(self.failed("list", prefix, error))),
                };
                let kept = found.filter(|found| !matches!(found, Ok(meta) if !meta.key.as_str().starts_with(prefix)));
                std::future::ready(kept)
            })
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.inner.delete(&self.path(key.as_str())).await {
            Ok(()) => Ok(()),
            Err(error) => match self.failed("delete", key.as_str(), error) {
                error if error.kind == StoreErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { conditional_put: true, list_staleness: Duration::ZERO, immutability: Immutability::None }
    }
}

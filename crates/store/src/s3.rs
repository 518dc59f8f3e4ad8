//! A bucket of S3, or of a server that speaks like it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use lifeboat_model::store_options::S3Options;
use lifeboat_wire::http::{Http, RequestError};
use lifeboat_wire::s3::{Bucket, Listed, PutOptions};

use crate::cloud::{Place, failed};
use crate::{
    Capabilities, Immutability, Key, OBJECT_BYTES_MAX, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind,
    check_size, clamp_range,
};

/// How often a probe lets several race.
const PROBES: usize = 4;

/// Objects in a bucket. **Immutability: none.**
///
/// A put of a new name always asks the server to refuse a taken one. Whether it does, also when
/// several come at once, no answer tells (versitygw refuses, but lets some of a race through): until
/// [`S3Store::probe`] has looked, the store promises nothing.
#[derive(Clone, Debug)]
pub struct S3Store {
    bucket: Bucket,
    place: Place,
    refuses_taken: Arc<AtomicBool>,
}

impl S3Store {
    /// A bucket by what follows `s3:` in its URL. Nothing is asked yet.
    ///
    /// # Errors
    /// Why this is no place, or what is wrong with the options.
    pub fn new(rest: &str, options: &S3Options, http: Http) -> Result<Self, RequestError> {
        let place = Place::parse(rest).map_err(RequestError::Settings)?;
        let bucket = Bucket::new(&place.bucket, options, http)?;
        Ok(Self { bucket, place, refuses_taken: Arc::default() })
    }

    /// Finds out whether the server refuses a name that is taken, by several that want to put `probe`
    /// at once.
    ///
    /// # Errors
    /// What the store said.
    pub async fn probe(&self) -> Result<bool, StoreError> {
        let failed = |error| StoreError::new(StoreErrorKind::Failed, "put", "probe", self, error);
        let probe = Key::new("probe").map_err(failed)?;
        let mut refuses = true;
        for _ in 0..PROBES {
            let puts = (0..8).map(|n| self.put(&probe, Bytes::from(vec![n; 64 << 10]), PutMode::CreateNew));
            let mut won = 0;
            for put in futures::future::join_all(puts).await {
                match put {
                    Ok(()) => won += 1,
                    Err(error) if error.kind == StoreErrorKind::Exists => {}
                    Err(error) => return Err(error),
                }
            }
            self.delete(&probe).await?;
            refuses &= won == 1;
        }
        self.refuses_taken.store(refuses, Ordering::Relaxed);
        Ok(refuses)
    }

    fn failed(&self, operation: &'static str, key: &str, error: RequestError) -> StoreError {
        failed(operation, key, self, error)
    }

    fn meta(&self, listed: &Listed) -> Option<ObjectMeta> {
        Some(ObjectMeta { key: self.place.key(&listed.key)?, bytes: listed.bytes, stored_at: listed.stored_at })
    }
}

impl fmt::Display for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.place)
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        check_size("put", key, self, body.len() as u64)?;
        let name = self.place.name(key.as_str());
        let options = PutOptions { only_if_absent: mode == PutMode::CreateNew, lock: None };
        let done = match self.bucket.put(&name, body.clone(), options.clone()).await {
            // Servers that know no conditions say so, and the contract lets them put.
            Err(RequestError::Answer(answer)) if options.only_if_absent && answer.status == 501 => {
                self.bucket.put(&name, body, PutOptions { only_if_absent: false, ..options }).await
            }
            done => done,
        };
        done.map_err(|error| self.failed("put", key.as_str(), error))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let Some(range) = range else {
            let read = self.bucket.get(&self.place.name(key.as_str()), None, OBJECT_BYTES_MAX).await;
            return read.map_err(|error| self.failed("get", key.as_str(), error));
        };
        // No object is longer, and servers stumble over ends that are.
        let range = clamp_range(key, self, &range, OBJECT_BYTES_MAX as u64)?;
        let read = self.bucket.get(&self.place.name(key.as_str()), Some(range.clone()), OBJECT_BYTES_MAX).await;
        let read = read.map_err(|error| self.failed("get", key.as_str(), error))?;
        if read.is_empty() {
            clamp_range(key, self, &range, range.start)?;
        }
        Ok(read)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let first = Some(None::<String>);
        futures::stream::try_unfold(first, move |at| async move {
            let Some(after) = at else { return Ok(None) };
            let page = self.bucket.list(&self.place.name(prefix), after.as_deref()).await;
            let page = page.map_err(|error| self.failed("list", prefix, error))?;
            let objects = page.objects.iter().filter_map(|listed| self.meta(listed)).map(Ok);
            Ok::<_, StoreError>(Some((futures::stream::iter(objects.collect::<Vec<_>>()), page.next.map(Some))))
        })
        .flat_map(|page| match page {
            Ok(objects) => objects.boxed(),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        })
        .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.bucket.delete(&self.place.name(key.as_str())).await {
            Ok(()) => Ok(()),
            Err(error) => match self.failed("delete", key.as_str(), error) {
                error if error.kind == StoreErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: self.refuses_taken.load(Ordering::Relaxed),
            list_staleness: Duration::ZERO,
            immutability: Immutability::None,
        }
    }
}

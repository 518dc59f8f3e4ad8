//! S3 and what speaks like it. Requests are signed by the library's signer and sent here, since they
//! carry headers (locks, storage class) and ask for things (versions, retention) that it has no
//! words for.

mod credentials;
mod listing;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_NONE_MATCH, RANGE};
use http::{Method, StatusCode};
use lifeboat_model::store_options::{S3Encryption, S3Options};
use object_store::PutPayload;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody, HttpResponse};

use crate::http::{Http, RequestError};

pub(crate) use credentials::read_secret;
pub use listing::{Listed, Page};

/// What is sent at once, so that a slow line shows progress.
const SLICE_BYTES: usize = 256 << 10;

/// A page of a list or an answer about settings has at most so many bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// One bucket.
#[derive(Clone)]
pub struct Bucket {
    http: Http,
    credentials: AwsCredentialProvider,
    /// The bucket's URL without a slash at the end.
    base: String,
    name: String,
    region: String,
    put_headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("base", &self.base).field("region", &self.region).finish_non_exhaustive()
    }
}

/// How a put goes.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Refuse where the name is taken.
    pub only_if_absent: bool,
    /// Until when it is locked, and how.
    pub lock: Option<Lock>,
}

/// A lock of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who may lift it.
    pub mode: lifeboat_model::store_options::LockMode,
    /// Until when.
    pub until: jiff::Timestamp,
}

impl Bucket {
    /// Nothing is asked yet, but files of credentials are read.
    ///
    /// # Errors
    /// [`RequestError::Settings`] and [`RequestError::Credentials`].
    pub fn new(name: &str, options: &S3Options, http: Http) -> Result<Self, RequestError> {
        let region = options.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = options.endpoint_url.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let endpoint = endpoint.trim_end_matches('/');
        let base = match endpoint.split_once("://") {
            Some((scheme @ ("http" | "https"), host)) if !host.is_empty() && !host.contains(['?', '#', '@']) => {
                if options.virtual_host {
                    format!("{scheme}://{name}.{host}")
                } else {
                    format!("{endpoint}/{name}")
                }
            }
            _ => return Err(RequestError::Settings(format!("endpointURL {endpoint:?} is no http:// or https:// URL"))),
        };
        let mut put_headers = Vec::new();
        let mut header = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value)
                .map_err(|_| RequestError::Settings(format!("{value:?} cannot be sent as {name}")))?;
            put_headers.push((HeaderName::from_static(name), value));
            Ok::<_, RequestError>(())
        };
        if let Some(class) = &options.storage_class {
            header("x-amz-storage-class", class)?;
        }
        match &options.encryption {
            None => {}
            Some(S3Encryption::Aes256) => header("x-amz-server-side-encryption", "AES256")?,
            Some(S3Encryption::Kms(key)) => {
                header("x-amz-server-side-encryption", "aws:kms")?;
                if let Some(key) = key {
                    header("x-amz-server-side-encryption-aws-kms-key-id", key)?;
                }
            }
        }
        let credentials = credentials::provider(&options.credentials, &region, &http)?;
        Ok(Self { http, credentials, base, name: name.to_owned(), region, put_headers })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts an object in one request.
    ///
    /// # Errors
    /// [`RequestError`]; 412 where the name is taken.
    pub async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<(), RequestError> {
        let mut request = self.request(Method::PUT, key, &[])?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.extend(self.put_headers.iter().cloned());
        if options.only_if_absent {
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let digest = sha256(body.clone()).await;
        if let Some(lock) = options.lock {
            lock_headers(headers, &lock, &digest);
        }
        *request.body_mut() = sliced(&body);
        self.send(request, Some(&digest)).await?;
        Ok(())
    }

    /// Reads an object or a part of it, of at most `most` bytes. A server that ignores ranges sends
    /// the whole object; what was asked for is cut out of it.
    ///
    /// # Errors
    /// [`RequestError`]; 416 where the range starts at or past the end.
    pub async fn get(&self, key: &str, range: Option<Range<u64>>, most: usize) -> Result<Bytes, RequestError> {
        let mut request = self.request(Method::GET, key, &[])?;
        if let Some(range) = &range {
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            request.headers_mut().insert(RANGE, header_value(&text)?);
        }
        let response = self.send(request, None).await?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let body = Http::read(response, most).await?;
        Ok(match range {
            Some(range) if !partial => {
                let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
                body.slice(bound(range.start)..bound(range.end))
            }
            _ => body,
        })
    }

    /// Removes an object, or in a bucket with versions puts a marker over it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete(&self, key: &str) -> Result<(), RequestError> {
        let request = self.request(Method::DELETE, key, &[])?;
        self.send(request, None).await?;
        Ok(())
    }

    /// A page of the objects whose name starts with `prefix`; `after` is the token of the page before.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RequestError> {
        let mut query = vec![("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)];
        query.extend(after.map(|token| ("continuation-token", token)));
        let request = self.request(Method::GET, "", &query)?;
        let response = self.send(request, None).await?;
        listing::page(&Http::read(response, ANSWER_BYTES_MAX).await?)
    }

    fn request(&self, method: Method, key: &str, query: &[(&str, &str)]) -> Result<HttpRequest, RequestError> {
        let mut uri = format!("{}/{}", self.base, encoded(key, true));
        for (number, (name, value)) in query.iter().enumerate() {
            uri.push(if number == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            uri.push_str(&encoded(value, false));
        }
        http::Request::builder()
            .method(method)
            .uri(uri)
            .body(HttpRequestBody::empty())
            .map_err(|error| RequestError::Settings(format!("{}: {error}", self.base)))
    }

    async fn send(&self, mut request: HttpRequest, digest: Option<&[u8]>) -> Result<HttpResponse, RequestError> {
        let credential = self.credentials.get_credential().await.map_err(|error| credentials::refused(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, digest)
            .map_err(|error| RequestError::Credentials(error.to_string()))?;
        self.http.send(request).await
    }
}

fn header_value(text: &str) -> Result<HeaderValue, RequestError> {
    HeaderValue::from_str(text).map_err(|_| RequestError::Settings(format!("{text:?} cannot be a header")))
}

fn lock_headers(headers: &mut http::HeaderMap, lock: &Lock, digest: &[u8; 32]) {
    use base64::Engine as _;
    let until = lock.until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    // Servers want a checksum with a lock; the one that signs the body is at hand.
    let checksum = base64::engine::general_purpose::STANDARD.encode(digest);
    for (name, value) in [
        ("x-amz-object-lock-mode", lock.mode.as_str()),
        ("x-amz-object-lock-retain-until-date", until.as_str()),
        ("x-amz-checksum-sha256", checksum.as_str()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The body in slices; no byte is copied.
fn sliced(body: &Bytes) -> HttpRequestBody {
    let slices = (0..body.len()).step_by(SLICE_BYTES).map(|at| body.slice(at..body.len().min(at + SLICE_BYTES)));
    slices.collect::<PutPayload>().into()
}

/// Away from the threads that move bytes where it takes long.
async fn sha256(body: Bytes) -> [u8; 32] {
    let digest = move || {
        let mut out = [0; 32];
        out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body).as_ref());
        out
    };
    // The task neither panics nor is cancelled but with the runtime.
    tokio::task::spawn_blocking(digest).await.unwrap_or_default()
}

/// As signatures want it: everything but letters, digits and `-._~`; in a path `/` too stays.
fn encoded(text: &str, path: bool) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if path => out.push('/'),
            _ => {
                // Writing to a text cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

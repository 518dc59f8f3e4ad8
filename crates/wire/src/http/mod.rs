//! HTTP as object stores speak it: every request gives up when nothing moves for a while, however
//! long it takes in all, and an answer that is no success keeps its code, message and
//! `Retry-After`.

mod body;
mod error;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

pub use error::{Answer, RequestError};

use crate::http::body::{Progress, Watched};

/// How a server is reached.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Certificates in PEM that are trusted beside the system's.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// For how long nothing may move, neither up nor down.
    pub stall_timeout: Duration,
}

impl Default for HttpSettings {
    /// The system's certificates, 30 seconds to connect, two minutes without progress.
    fn default() -> Self {
        Self { extra_ca_pem: None, connect_timeout: Duration::from_secs(30), stall_timeout: Duration::from_mins(2) }
    }
}

/// Connections to servers; clones share them.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    stall_timeout: Duration,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("stall_timeout", &self.stall_timeout).finish_non_exhaustive()
    }
}

impl Http {
    /// No connection is made yet.
    ///
    /// # Errors
    /// [`RequestError::Settings`] where the certificates are none.
    pub fn new(settings: &HttpSettings) -> Result<Self, RequestError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            // Servers close what idles for 20 seconds and more.
            .pool_idle_timeout(Duration::from_secs(15));
        if let Some(pem) = &settings.extra_ca_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| settings_error(&error))?;
            if certificates.is_empty() {
                return Err(RequestError::Settings(
                    "the file of the certificate authority holds no certificate".into(),
                ));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|error| settings_error(&error))?;
        Ok(Self { client, stall_timeout: settings.stall_timeout })
    }

    /// Sends a request and returns the head of a successful answer; its body is watched as well.
    ///
    /// # Errors
    /// [`RequestError`]; an answer that is no success is [`RequestError::Answer`].
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, RequestError> {
        // A server may have closed a connection that idled, or one whose last request it refused
        // unread; asking again does no harm but where the first try would be in the way.
        let again = (!request.headers().contains_key(http::header::IF_NONE_MATCH)).then(|| request.clone());
        let response = match (self.send_once(request).await, again) {
            (Err(RequestError::Broken(_)), Some(again)) => self.send_once(again).await?,
            (sent, _) => sent?,
        };
        if response.status().is_success() {
            let stall = self.stall_timeout;
            return Ok(response.map(|body| body::timed(body, stall)));
        }
        let (head, body) = response.into_parts();
        let body = body::read_at_most(body, 64 << 10, self.stall_timeout).await;
        Err(RequestError::Answer(Answer::new(&head, &body)))
    }

    async fn send_once(&self, request: HttpRequest) -> Result<http::Response<reqwest::Body>, RequestError> {
        let (mut parts, body) = request.into_parts();
        let progress = Progress::start();
        let length = body.content_length();
        if length > 0 || matches!(parts.method, http::Method::PUT | http::Method::POST) {
            parts.headers.insert(http::header::CONTENT_LENGTH, length.into());
        }
        let mut builder = self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers);
        if length > 0 {
            builder = builder.body(reqwest::Body::wrap(Watched::new(body, Arc::clone(&progress))));
        }
        let response = progress.watch(self.stall_timeout, builder.send()).await;
        let response = response.ok_or(RequestError::Stalled(self.stall_timeout))?.map_err(RequestError::of)?;
        Ok(response.into())
    }

    /// The whole body of an answer, of at most `most` bytes.
    ///
    /// # Errors
    /// [`RequestError::TooLarge`], or how the connection broke.
    pub async fn read(response: HttpResponse, most: usize) -> Result<bytes::Bytes, RequestError> {
        let told = http_body::Body::size_hint(response.body()).exact();
        if told.is_some_and(|told| told > most as u64) {
            return Err(RequestError::TooLarge { most });
        }
        let capacity = told.and_then(|told| usize::try_from(told).ok()).unwrap_or(0);
        let mut whole = bytes::BytesMut::with_capacity(capacity);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| RequestError::from_connector(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > most {
                return Err(RequestError::TooLarge { most });
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

fn settings_error(error: &reqwest::Error) -> RequestError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    RequestError::Settings(text)
}

/// As the library's own clients use it. The library retries nothing of it: every failure is of a kind
/// that it hands through, with a [`RequestError`] as source.
#[async_trait]
impl HttpService for Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.send(request).await.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))
    }
}

impl HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[cfg(test)]
mod tests;

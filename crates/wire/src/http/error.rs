//! What went wrong with a request to an object store.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use http::header::{DATE, RETRY_AFTER};
use jiff::SignedDuration;
use object_store::client::HttpError;

/// Why a request brought no success.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server answered, and not with success.
    #[error(transparent)]
    Answer(#[from] Answer),
    /// No connection: no such host, nobody listens, no route.
    #[error("no connection: {0}")]
    Connect(String),
    /// The server's certificate is not trusted, or it speaks no TLS.
    #[error("no TLS with this server: {0}")]
    Tls(String),
    /// Nothing moved for so long.
    #[error("nothing moved for {} seconds", .0.as_secs_f32())]
    Stalled(Duration),
    /// The connection broke on the way.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer is longer than an object may be.
    #[error("the answer has more than {most} bytes")]
    TooLarge {
        /// What was expected at most.
        most: usize,
    },
    /// The answer is not what this protocol answers.
    #[error("this is no answer of such a store: {0}")]
    Strange(String),
    /// No credentials could be had.
    #[error("no credentials: {0}")]
    Credentials(String),
    /// What was configured cannot be.
    #[error("{0}")]
    Settings(String),
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The service's word for it: `NoSuchKey`, `BlobNotFound`; empty where it has none.
    pub code: String,
    /// The service's sentence, at most 400 characters.
    pub message: String,
    /// The region that the bucket is in, where the service tells it.
    pub region: Option<String>,
    /// For how long the service does not want to be asked again.
    pub retry_after: Option<Duration>,
}

impl Error for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl Answer {
    /// Reads what S3 and Azure put into `<Error>`; of anything else the beginning.
    pub(super) fn new(head: &http::response::Parts, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let code = element(&text, "Code").or_else(|| header("x-ms-error-code")).unwrap_or_default();
        let message = match element(&text, "Message") {
            Some(message) => message,
            None if code.is_empty() && !text.trim_start().starts_with('<') => text.to_string(),
            None => String::new(),
        };
        let message = match message.trim() {
            "" if code.is_empty() => head.status.canonical_reason().unwrap_or_default(),
            trimmed => trimmed,
        };
        // Azure's go on with an id and a time in lines of their own.
        let message = message.lines().next().unwrap_or_default().chars().take(400).collect();
        Self {
            status: head.status.as_u16(),
            region: element(&text, "Region").or_else(|| header("x-amz-bucket-region")),
            code,
            message,
            retry_after: retry_after(head),
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let word = matches!(
            self.code.as_str(),
            "SlowDown"
                | "RequestTimeout"
                | "InternalError"
                | "ServerBusy"
                | "OperationAborted"
                | "ConditionalRequestConflict"
        );
        word || self.retry_after.is_some()
            || (status.is_server_error()
                && status != StatusCode::NOT_IMPLEMENTED
                && status != StatusCode::INSUFFICIENT_STORAGE)
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
    }
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(quick_xml::escape::unescape(text).map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned))
}

/// RFC 9110, 10.2.3: seconds, or a time, which is counted from the server's own clock.
fn retry_after(head: &http::response::Parts) -> Option<Duration> {
    let text = head.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp());
    let now = time(head.headers.get(DATE)?.to_str().ok()?)?;
    let wait: SignedDuration = time(text)?.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// An error of the system may wrap another, and does not name it as its source.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || wrapped.is_some_and(|inner| is_tls(inner))
}

impl RequestError {
    /// What the transport said, in the kinds that people can act upon.
    pub(super) fn of(error: reqwest::Error) -> Self {
        let connect = error.is_connect();
        let mut texts: Vec<String> = Vec::new();
        let mut tls = false;
        let error = error.without_url();
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        while let Some(inner) = next {
            let text = inner.to_string();
            // Causes often repeat what they caused.
            if !texts.iter().any(|told| told.contains(&text)) {
                texts.push(text);
            }
            tls |= is_tls(inner);
            next = inner.source();
        }
        let text = if texts.is_empty() { error.to_string() } else { texts.join(": ") };
        match (connect, tls) {
            (_, true) => Self::Tls(text),
            (true, false) => Self::Connect(text),
            (false, false) => Self::Broken(text),
        }
    }

    /// Takes an error out of the library's wrapping.
    pub(crate) fn from_connector(error: &HttpError) -> Self {
        Self::within(error).cloned().unwrap_or_else(|| Self::Broken(error.to_string()))
    }

    /// The error of ours that a library's error was caused by.
    #[must_use]
    pub fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(inner) = next {
            if let Some(own) = inner.downcast_ref::<Self>() {
                return Some(own);
            }
            next = inner.source();
        }
        None
    }

    /// What the person could try next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Answer(answer) => answer.hint(),
            Self::Connect(_) => Some("check endpointURL, the name server and the network"),
            Self::Tls(_) => Some(
                "if the server's certificate is of your own authority, name its file in endpointCA; \
                 if it speaks plain HTTP, write http:// in endpointURL",
            ),
            Self::Credentials(_) => {
                Some("see `credentials` in docs/stores.md; an instance role needs neither key nor file")
            }
            _ => None,
        }
    }
}

impl Answer {
    fn hint(&self) -> Option<&'static str> {
        Some(match self.code.as_str() {
            "NoSuchBucket" => "make the bucket first; `init` does not make buckets",
            "ContainerNotFound" => "make the container first; `init` does not make containers",
            "RequestTimeTooSkewed" => "set this machine's clock: it is too far from the server's",
            "InvalidAccessKeyId" => "the server does not know this access key; check it and the endpointURL",
            "SignatureDoesNotMatch" => "check the secret key, and `region` where the server wants another",
            "AuthenticationFailed" => "check the account's key or SAS, and this machine's clock",
            "ExpiredToken" | "ExpiredTokenException" => "the credentials have expired: get new ones",
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException" => "set `region` to the bucket's",
            _ if self.status == 301 || self.status == 307 => "set `region` to the bucket's, or the right endpointURL",
            "QuotaExceeded" | "XMinioStorageFull" => "free space in the store, or run forget and prune, and try again",
            "AccessDenied" | "AuthorizationFailure" | "AuthorizationPermissionMismatch" => {
                "check which rights this key has in the bucket; docs/stores.md lists what each job needs"
            }
            _ => return None,
        })
    }
}

//! Google Cloud Storage, by the library's client over our own HTTP. No server here speaks it: it is
//! compiled, not tried.

use std::path::Path;
use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, RetryConfig};

use crate::http::{Http, RequestError};

/// A bucket, for a service account in a file, or for the machine's own.
///
/// # Errors
/// [`RequestError::Credentials`].
pub fn bucket(name: &str, account: Option<&Path>, http: Http) -> Result<Arc<dyn ObjectStore>, RequestError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(name)
        .with_http_connector(http)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    if let Some(file) = account {
        builder = builder.with_application_credentials(file.display().to_string());
    }
    let store = builder.build().map_err(|error| RequestError::Credentials(error.to_string()))?;
    Ok(Arc::new(store))
}

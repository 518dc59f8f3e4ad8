//! Azure Blob Storage, by the library's client over our own HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_model::store_options::{AzureCredentials, AzureOptions};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder, split_sas};
use object_store::{ObjectStore, RetryConfig};
use zeroize::Zeroizing;

use crate::http::{Http, RequestError};
use crate::s3::read_secret;

/// A container of an account; nothing is asked yet, but files of secrets are read.
///
/// # Errors
/// [`RequestError::Settings`] and [`RequestError::Credentials`].
pub fn container(name: &str, options: &AzureOptions, http: Http) -> Result<Arc<dyn ObjectStore>, RequestError> {
    let mut reach =
        Reach { account: options.account.clone(), endpoint: options.endpoint_url.clone(), ..Reach::default() };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(name)
        .with_http_connector(http)
        .with_allow_http(true)
        .with_disable_tagging(true)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    match &options.credentials {
        AzureCredentials::ConnectionString(secret) => reach.complete(&read_secret(secret)?)?,
        AzureCredentials::AccountKey(secret) => reach.key = Some(read_secret(secret)?),
        AzureCredentials::Sas(secret) => reach.sas = Some(read_secret(secret)?),
        AzureCredentials::WorkloadIdentity { client_id, tenant_id, token_file } => {
            builder = builder
                .with_client_id(client_id)
                .with_tenant_id(tenant_id)
                .with_federated_token_file(token_file.display().to_string())
                .with_config(AzureConfigKey::CredentialType, "workload_identity");
        }
        AzureCredentials::ManagedIdentity => {
            builder = builder.with_config(AzureConfigKey::CredentialType, "managed_identity");
        }
    }
    let account = reach.account.ok_or_else(|| {
        RequestError::Settings("no storage account is named: set `account`, or use a connection string".to_owned())
    })?;
    builder = builder.with_account(account);
    if let Some(endpoint) = reach.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(key) = &reach.key {
        builder = builder.with_access_key(key.as_str());
    } else if let Some(sas) = &reach.sas {
        let pairs = split_sas(sas).map_err(|_| RequestError::Credentials("the SAS is no query of a URL".to_owned()))?;
        builder = builder.with_sas_authorization(pairs);
    }
    // The library's texts about keys do not repeat them.
    let store = builder.build().map_err(|error| RequestError::Credentials(error.to_string()))?;
    Ok(Arc::new(store))
}

/// What a connection string tells, and the options beside it.
#[derive(Default)]
struct Reach {
    account: Option<String>,
    endpoint: Option<String>,
    key: Option<Zeroizing<String>>,
    sas: Option<Zeroizing<String>>,
}

/// The account and key that every emulator has; Microsoft publishes them.
const EMULATOR: (&str, &str) =
    ("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==");

impl Reach {
    /// Takes over what a connection string says: `Name=value;Name=value`.
    fn complete(&mut self, text: &str) -> Result<(), RequestError> {
        let wrong = |why: &str| RequestError::Credentials(format!("the connection string {why}"));
        let mut parts = BTreeMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("is not Name=value;Name=value"))?;
            parts.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut take = |name: &str| parts.remove(name);
        if take("usedevelopmentstorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            self.account = Some(EMULATOR.0.to_owned());
            self.key = Some(Zeroizing::new(EMULATOR.1.to_owned()));
            self.endpoint.get_or_insert_with(|| format!("http://127.0.0.1:10000/{}", EMULATOR.0));
            return Ok(());
        }
        let endpoint = take("blobendpoint");
        self.account = take("accountname").or_else(|| self.account.take());
        if self.account.is_none() {
            // A connection string with a SAS names the account in its endpoint alone.
            let host = endpoint.as_deref().and_then(|url| url.split_once("://")).map(|(_, rest)| rest);
            self.account = host.and_then(|host| host.split(['.', '/']).next()).map(str::to_owned);
        }
        let protocol = take("defaultendpointsprotocol").unwrap_or_else(|| "https".to_owned());
        let suffix = take("endpointsuffix");
        let by_suffix = || Some(format!("{protocol}://{}.blob.{}", self.account.as_deref()?, suffix.as_deref()?));
        self.endpoint = self.endpoint.take().or(endpoint).or_else(by_suffix);
        self.key = take("accountkey").map(Zeroizing::new);
        self.sas = take("sharedaccesssignature").map(Zeroizing::new);
        if self.key.is_none() && self.sas.is_none() {
            return Err(wrong("holds neither AccountKey nor SharedAccessSignature"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reach {
        let mut reach = Reach::default();
        reach.complete(text).expect("a connection string");
        reach
    }

    #[test]
    fn a_connection_string_names_account_endpoint_and_secret() {
        let reach =
            read("DefaultEndpointsProtocol=https;AccountName=boats;AccountKey=a2V5==;EndpointSuffix=core.windows.net");
        assert_eq!(reach.account.as_deref(), Some("boats"));
        assert_eq!(reach.endpoint.as_deref(), Some("https://boats.blob.core.windows.net"));
        assert_eq!(reach.key.as_ref().map(|key| key.as_str()), Some("a2V5=="));
        let reach = read("BlobEndpoint=https://boats.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=abc%3D");
        assert_eq!(reach.account.as_deref(), Some("boats"));
        assert_eq!(reach.sas.as_ref().map(|sas| sas.as_str()), Some("sv=1&sig=abc%3D"));
        let reach = read("UseDevelopmentStorage=true");
        assert_eq!(reach.endpoint.as_deref(), Some("http://127.0.0.1:10000/devstoreaccount1"));
    }

    #[test]
    fn what_is_no_connection_string_is_refused_without_its_text() {
        for text in ["secret", "AccountName=boats;EndpointSuffix=core.windows.net", ""] {
            let error = Reach::default().complete(text).map(|()| "taken").expect_err("refused").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

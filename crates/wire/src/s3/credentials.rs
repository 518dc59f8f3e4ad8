//! Who asks a bucket: keys, files, profiles, and what clouds give to their machines.

use std::path::Path;
use std::sync::Arc;

use lifeboat_model::store_options::{HeldSecret, S3Credentials, S3Keys};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::{ClientOptions, RetryConfig, StaticCredentialProvider};
use zeroize::Zeroizing;

use crate::http::{Http, RequestError};

/// What gives the credentials; those that expire are renewed by the library.
pub(super) fn provider(from: &S3Credentials, region: &str, http: &Http) -> Result<AwsCredentialProvider, RequestError> {
    let builder = AmazonS3Builder::new()
        .with_bucket_name("unused")
        .with_region(region)
        .with_http_connector(http.clone())
        .with_client_options(ClientOptions::new())
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    let builder = match from {
        S3Credentials::Keys(keys) => return keyed(keys),
        S3Credentials::Profile { file, name } => {
            let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            return Ok(fixed(
                profile(&Zeroizing::new(text), name)
                    .map_err(|why| RequestError::Credentials(format!("{}: {why}", file.display())))?,
            ));
        }
        S3Credentials::WebIdentity { token_file, role_arn } => builder
            .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file.display().to_string())
            .with_config(AmazonS3ConfigKey::RoleArn, role_arn)
            .with_config(AmazonS3ConfigKey::RoleSessionName, "lifeboat"),
        S3Credentials::Container(path) => builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, path),
        S3Credentials::Pod { url, token_file } => builder
            .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, url)
            .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, token_file.display().to_string()),
        S3Credentials::Instance => builder,
    };
    let store = builder.build().map_err(|error| RequestError::Credentials(error.to_string()))?;
    Ok(Arc::clone(store.credentials()))
}

fn keyed(keys: &S3Keys) -> Result<AwsCredentialProvider, RequestError> {
    let token = keys.session_token.as_ref().map(read_secret).transpose()?;
    Ok(fixed(AwsCredential {
        key_id: read_secret(&keys.access_key_id)?.to_string(),
        secret_key: read_secret(&keys.secret_access_key)?.to_string(),
        token: token.map(|token| token.to_string()),
    }))
}

/// A secret, from its file where it stands in one.
pub(crate) fn read_secret(secret: &HeldSecret) -> Result<Zeroizing<String>, RequestError> {
    match secret {
        HeldSecret::Text(text) => Ok(Zeroizing::new(text.expose().to_owned())),
        HeldSecret::File(file) => line(file),
    }
}

fn fixed(credential: AwsCredential) -> AwsCredentialProvider {
    Arc::new(StaticCredentialProvider::new(credential))
}

fn unreadable(file: &Path, error: &std::io::Error) -> RequestError {
    RequestError::Credentials(format!("{} cannot be read: {error}", file.display()))
}

/// A secret that stands in a file alone.
fn line(file: &Path) -> Result<Zeroizing<String>, RequestError> {
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?);
    match text.trim() {
        "" => Err(RequestError::Credentials(format!("{} is empty", file.display()))),
        secret => Ok(Zeroizing::new(secret.to_owned())),
    }
}

/// A section of an INI file with `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`.
fn profile(text: &str, name: &str) -> Result<AwsCredential, String> {
    let mut here = false;
    let mut found = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let section = section.trim();
            here = section.strip_prefix("profile ").unwrap_or(section).trim() == name;
            found |= here;
        } else if here && let Some((key, value)) = line.split_once('=') {
            let slot = match key.trim() {
                "aws_access_key_id" => &mut id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *slot = Some(value.trim().to_owned());
        }
    }
    match (id, secret) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        _ if found => Err(format!("the profile {name} lacks aws_access_key_id or aws_secret_access_key")),
        _ => Err(format!("it has no profile {name}")),
    }
}

/// Why no credentials came.
pub(super) fn refused(error: &object_store::Error) -> RequestError {
    let mut text = error.to_string();
    if let Some(own) = RequestError::within(error) {
        text = own.to_string();
    }
    RequestError::Credentials(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_a_section_of_a_file() {
        let text = "# mine\n[default]\naws_access_key_id = AK1\naws_secret_access_key=SK/1=\n\n[profile boats]\n\
                    aws_access_key_id=AK2\naws_secret_access_key = SK2\naws_session_token = T2\nregion = x\n[half]\naws_access_key_id=A\n";
        let first = profile(text, "default").expect("a profile");
        assert_eq!((first.key_id.as_str(), first.secret_key.as_str(), first.token), ("AK1", "SK/1=", None));
        assert_eq!(profile(text, "boats").expect("a profile").token.as_deref(), Some("T2"));
        assert!(profile(text, "half").expect_err("half").contains("lacks"));
        assert!(profile(text, "other").expect_err("none").contains("no profile other"));
    }

    #[test]
    fn a_secret_in_a_file_stands_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        let secret = HeldSecret::File(file.clone());
        assert!(read_secret(&secret).expect_err("not there").to_string().contains("cannot be read"));
        for (text, expected) in [("secret\n", Some("secret")), ("  secret", Some("secret")), ("\n", None)] {
            #[expect(clippy::disallowed_methods, reason = "a test's file need not survive a power cut")]
            std::fs::write(&file, text).expect("written");
            assert_eq!(read_secret(&secret).ok().as_deref().map(String::as_str), expected);
        }
    }
}

//! How the stores of clouds are reached, beside their URL. What comes from the environment was put
//! in by who read it.

use std::fmt;
use std::path::PathBuf;

use crate::config::SecretText;

/// How a bucket of S3 or of a server that speaks like it is reached and written.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// `https://minio.example:9000`; absent: that of AWS in the region.
    pub endpoint_url: Option<String>,
    /// `us-east-1` by default.
    pub region: Option<String>,
    /// The bucket stands in the host's name, not in the path.
    pub virtual_host: bool,
    /// Who asks.
    pub credentials: S3Credentials,
    /// `STANDARD_IA` and the like; absent: the bucket's default.
    pub storage_class: Option<String>,
    /// How the server encrypts, beside our own encryption; absent: the bucket's default.
    pub encryption: Option<S3Encryption>,
    /// How long objects are locked from when they are put.
    pub object_lock: Option<ObjectLock>,
}

/// Who asks a bucket.
#[derive(Clone, Debug, Default)]
pub enum S3Credentials {
    /// A key pair.
    Keys(S3Keys),
    /// A profile of a file such as `~/.aws/credentials`.
    Profile {
        /// The file.
        file: PathBuf,
        /// `default` or another.
        name: String,
    },
    /// A role that a token in a file may take (IAM roles for service accounts).
    WebIdentity {
        /// The file of the token.
        token_file: PathBuf,
        /// The role.
        role_arn: String,
    },
    /// What a container of ECS is given: the path at its metadata service.
    Container(String),
    /// What a pod of EKS is given.
    Pod {
        /// The URL that gives credentials.
        url: String,
        /// The file of the token.
        token_file: PathBuf,
    },
    /// The role of the machine, by its metadata service.
    #[default]
    Instance,
}

/// A key pair of S3.
#[derive(Clone, Debug)]
pub struct S3Keys {
    /// Which key.
    pub access_key_id: HeldSecret,
    /// What it signs with.
    pub secret_access_key: HeldSecret,
    /// Of temporary credentials.
    pub session_token: Option<HeldSecret>,
}

/// How a server of S3 encrypts at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Encryption {
    /// With keys of its own (`AES256`).
    Aes256,
    /// With a key of its key service (`aws:kms`); absent: the account's default key.
    Kms(Option<String>),
}

/// How objects are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may lift it.
    pub mode: LockMode,
    /// For how many days from the put.
    pub days: u32,
}

/// Who may lift a lock before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Who has the right to bypass governance.
    Governance,
    /// Nobody.
    Compliance,
}

impl LockMode {
    /// As S3 writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a container of Azure Blob Storage is reached.
#[derive(Clone, Debug, Default)]
pub struct AzureOptions {
    /// The storage account; a connection string names it itself.
    pub account: Option<String>,
    /// `http://127.0.0.1:10000/devstoreaccount1`; absent: that of Azure for the account.
    pub endpoint_url: Option<String>,
    /// Who asks.
    pub credentials: AzureCredentials,
}

/// Who asks a container.
#[derive(Clone, Debug, Default)]
pub enum AzureCredentials {
    /// A connection string.
    ConnectionString(HeldSecret),
    /// A key of the account.
    AccountKey(HeldSecret),
    /// A shared access signature.
    Sas(HeldSecret),
    /// A federated token in a file (workload identity).
    WorkloadIdentity {
        /// Of the application.
        client_id: String,
        /// Of the directory.
        tenant_id: String,
        /// The file of the token.
        token_file: PathBuf,
    },
    /// The identity of the machine, by its metadata service.
    #[default]
    ManagedIdentity,
}

/// A secret, or the file that holds it and nothing else.
#[derive(Clone, Debug)]
pub enum HeldSecret {
    /// The secret.
    Text(SecretText),
    /// Its file, read whenever a store is opened.
    File(PathBuf),
}

impl HeldSecret {
    /// A secret that is known already.
    #[must_use]
    pub fn text(secret: impl Into<String>) -> Self {
        Self::Text(SecretText::new(secret.into()))
    }
}

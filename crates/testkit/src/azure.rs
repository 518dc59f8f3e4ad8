//! Azurite, the emulator of Azure Blob Storage.

use std::path::Path;

use lifeboat_wire::http::{Http, HttpSettings};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequest;

use crate::daemon::{Command, Daemon, installed};

/// The account of every emulator.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key, which Microsoft publishes.
pub const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running emulator.
#[derive(Debug)]
pub struct Azurite {
    daemon: Daemon,
}

impl Azurite {
    /// Starts one, or says that the test is skipped.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        let program = installed(test, "azurite/node_modules/.bin/azurite-blob", "npm")?;
        let command = |port: u16, dir: &Path| {
            let (location, port) = (dir.display().to_string(), port.to_string());
            let args = ["--silent", "--location", &location, "--blobHost", "127.0.0.1", "--blobPort", &port];
            Command::new(&program, &[&args[..], &["--skipApiVersionCheck", "--disableTelemetry"]].concat())
        };
        Some(Self { daemon: Daemon::start("azurite", command) })
    }

    /// `http://127.0.0.1:PORT/devstoreaccount1`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.daemon.port)
    }

    /// Makes a container.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn create_container(&self, name: &str) {
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(ACCOUNT_KEY).expect("a key"));
        let uri = format!("{}/{name}?restype=container", self.endpoint());
        let mut request: HttpRequest =
            http::Request::put(uri).header("content-length", 0).body(Vec::new().into()).expect("a request");
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).expect("signed");
        let http = Http::new(&HttpSettings::default()).expect("a client");
        http.send(request).await.unwrap_or_else(|error| panic!("no container: {error}: {}", self.daemon.log()));
    }

    /// As the portal would show it.
    #[must_use]
    pub fn connection_string(&self) -> String {
        format!(
            "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={};",
            self.endpoint()
        )
    }
}

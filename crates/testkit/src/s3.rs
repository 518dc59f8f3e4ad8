//! Real servers of S3: MinIO, versitygw and Ceph's gateway, each with a bucket made by who asks.

use std::path::Path;

use lifeboat_model::store_options::{HeldSecret, S3Credentials, S3Keys, S3Options};
use lifeboat_wire::http::{Http, HttpSettings, RequestError};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequest;

use crate::ceph::{self, Ceph};
use crate::daemon::{Command, Daemon, installed};

/// The key pair of every server here; of root where there are users.
pub const ACCESS_KEY: &str = "lifeboatroot";
/// Its secret.
pub const SECRET_KEY: &str = "lifeboatsecret";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Kind {
    /// MinIO.
    Minio,
    /// Versity's gateway on a POSIX directory.
    Versity,
    /// Ceph's gateway, RGW.
    Ceph,
}

/// A running server.
#[derive(Debug)]
pub struct S3Server {
    kind: S3Kind,
    process: Process,
}

#[derive(Debug)]
enum Process {
    One(Daemon),
    Several(Ceph),
}

impl S3Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Minio => "minio",
            Self::Versity => "versitygw",
            Self::Ceph => "radosgw",
        }
    }

    fn command(self, port: u16, dir: &Path, program: &Path) -> Command {
        let address = format!("127.0.0.1:{port}");
        let data = dir.join("data");
        let versions = dir.join("versions");
        for path in [&data, &versions, &dir.join("iam")] {
            std::fs::create_dir_all(path).expect("a directory");
        }
        let text = |path: &Path| path.display().to_string();
        match self {
            Self::Minio => Command::new(
                program,
                &["server", "--quiet", "--address", &address, "--console-address", "127.0.0.1:0", &text(&data)],
            )
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_UPDATE", "off")
            .env("MINIO_BROWSER", "off"),
            Self::Versity => Command::new(
                program,
                &[
                    "--port",
                    &address,
                    "--iam-dir",
                    &text(&dir.join("iam")),
                    "posix",
                    "--versioning-dir",
                    &text(&versions),
                    &text(&data),
                ],
            )
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY),
            Self::Ceph => unreachable!("it is started by `Ceph`"),
        }
    }
}

impl S3Server {
    /// Starts one, or says that the test is skipped.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    #[expect(clippy::print_stdout, reason = "the line is counted by the script that runs the tests")]
    pub fn start(test: &str, kind: S3Kind) -> Option<Self> {
        let name = kind.program();
        if kind == S3Kind::Ceph {
            if ceph::is_installed() {
                return Some(Self { kind, process: Process::Several(Ceph::start()) });
            }
            println!("SKIPPED {test}: {name} is not installed: run scripts/install-debian.sh");
            return None;
        }
        let program = installed(test, name, "go")?;
        let daemon = Daemon::start(name, |port, dir| kind.command(port, dir, &program));
        Some(Self { kind, process: Process::One(daemon) })
    }

    /// Which one it is.
    #[must_use]
    pub const fn kind(&self) -> S3Kind {
        self.kind
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.daemon().port)
    }

    /// How this server is reached with its first key.
    #[must_use]
    pub fn options(&self) -> S3Options {
        self.options_of(ACCESS_KEY, SECRET_KEY)
    }

    /// The same with another key.
    #[must_use]
    pub fn options_of(&self, access_key_id: &str, secret_access_key: &str) -> S3Options {
        let keys = S3Keys {
            access_key_id: HeldSecret::text(access_key_id),
            secret_access_key: HeldSecret::text(secret_access_key),
            session_token: None,
        };
        S3Options {
            endpoint_url: Some(self.endpoint()),
            credentials: S3Credentials::Keys(keys),
            ..S3Options::default()
        }
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn create_bucket(&self, name: &str) {
        // The port may be open before the server is.
        for _ in 0..100 {
            match self.call("PUT", &format!("/{name}"), &[], "", (ACCESS_KEY, SECRET_KEY)).await {
                (200, _) => return,
                (503 | 500, _) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                refused => panic!("no bucket {name}: {refused:?}: {}", self.daemon().log()),
            }
        }
        panic!("no bucket {name}: {}", self.daemon().log());
    }

    /// Any request, signed by a key: `path` with its query, the status and body of the answer.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        (key_id, secret_key): (&str, &str),
    ) -> (u16, String) {
        let credential = AwsCredential { key_id: key_id.to_owned(), secret_key: secret_key.to_owned(), token: None };
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.endpoint()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request: HttpRequest = request.body(body.to_owned().into()).expect("a request");
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).expect("signed");
        let http = Http::new(&HttpSettings::default()).expect("a client");
        match http.send(request).await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = Http::read(response, 1 << 20).await.expect("a body");
                (status, String::from_utf8_lossy(&body).into_owned())
            }
            Err(RequestError::Answer(answer)) => (answer.status, format!("{} {}", answer.code, answer.message)),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// Its child and directory.
    #[must_use]
    pub const fn daemon(&self) -> &Daemon {
        match &self.process {
            Process::One(daemon) => daemon,
            Process::Several(ceph) => &ceph.gateway,
        }
    }
}

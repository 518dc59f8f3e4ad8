//! Connections to a server: ours by `tokio-postgres`, and those of PostgreSQL's tools by their
//! environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_wire::process::Command;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use super::url::{ServerUrl, SslMode};
use super::{PostgresConfig, sql};
use crate::SourceError;

/// Where the certificates of the machine are on Debian, Red Hat and Alpine.
const SYSTEM_ROOTS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How to reach a server, secrets included.
#[derive(Clone)]
pub struct Server {
    /// Where it is.
    pub url: ServerUrl,
    password: Option<Zeroizing<String>>,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.url)
    }
}

impl Server {
    /// Reads the URL, the password and the certificates.
    ///
    /// # Errors
    /// [`SourceError::Config`] where one of them is no good.
    pub fn new(config: &PostgresConfig) -> Result<Self, SourceError> {
        let mut url = ServerUrl::parse(&config.url)?;
        let password = find_password(config, &mut url)?;
        let wants_tls = url.ssl_mode > SslMode::Disable && !url.is_socket();
        let tls = wants_tls.then(|| tls_config(&url)).transpose()?.map(Arc::new);
        Ok(Self { url, password, tls })
    }

    /// Connects to a database; the session has no settings yet.
    ///
    /// # Errors
    /// [`SourceError::Failed`] names server and database.
    pub async fn connect(&self, database: &str) -> Result<Session, SourceError> {
        let url = &self.url;
        let mut config = tokio_postgres::Config::new();
        config.port(url.port).user(&url.user).dbname(database).application_name("lifeboat");
        config.connect_timeout(CONNECT_TIMEOUT);
        if url.is_socket() {
            config.host_path(&url.host)
        } else {
            config.host(&url.host)
        };
        if let Some(password) = &self.password {
            config.password(password.as_str());
        }
        let failed = |error| {
            let what = format!("connecting to database {database:?} of {url} failed");
            failure(what, Some("check url, password and pg_hba.conf; `lifeboat doctor` tries each step"), error)
        };
        let (client, task) = if let Some(tls) = &self.tls {
            config.ssl_mode(if url.ssl_mode == SslMode::Prefer {
                tokio_postgres::config::SslMode::Prefer
            } else {
                tokio_postgres::config::SslMode::Require
            });
            let tls = MakeRustlsConnect::new(tls.as_ref().clone());
            let (client, connection) = config.connect(tls).await.map_err(failed)?;
            (client, tokio::spawn(connection))
        } else {
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(failed)?;
            (client, tokio::spawn(connection))
        };
        Ok(Session { client: Arc::new(client), database: database.to_owned(), task: Some(task) })
    }

    /// Tells a tool how to connect to `database`: by environment, the password included, so that
    /// nothing secret is an argument.
    #[must_use]
    pub fn tool(&self, program: &Path, database: &str) -> Command {
        let url = &self.url;
        let mut command = Command::new(program)
            .env("PGHOST", &url.host)
            .env("PGPORT", url.port.to_string())
            .env("PGUSER", &url.user)
            .env("PGDATABASE", database)
            .env("PGAPPNAME", "lifeboat")
            .env("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT.as_secs().to_string())
            .env("PGSSLMODE", url.ssl_mode.word())
            // Without a home directory the tools find no files of their own; of a file that cannot be
            // they say nothing.
            .env("PGPASSFILE", "/dev/null/none");
        for (name, file) in [
            ("PGSSLROOTCERT", system_root(url)),
            ("PGSSLCERT", url.ssl_cert.clone()),
            ("PGSSLKEY", url.ssl_key.clone()),
        ] {
            if let Some(file) = file {
                command = command.env(name, file);
            }
        }
        match &self.password {
            Some(password) => command.env("PGPASSWORD", password.as_str()),
            None => command,
        }
    }
}

/// A `-d` argument that names exactly this database, whatever its name looks like.
#[must_use]
pub fn database_argument(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// One connection. Dropped in the middle of something, it is cut at once.
pub struct Session {
    client: Arc<tokio_postgres::Client>,
    database: String,
    task: Option<JoinHandle<Result<(), tokio_postgres::Error>>>,
}

impl Session {
    /// The database that it is connected to.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The client; while a clone of it lives the connection stays open.
    #[must_use]
    pub fn client(&self) -> &Arc<tokio_postgres::Client> {
        &self.client
    }

    /// Runs statements one after the other.
    ///
    /// # Errors
    /// [`SourceError::Failed`] saying `what` was being done.
    pub async fn run(&self, statements: &str, what: &str) -> Result<(), SourceError> {
        let ran = self.client.batch_execute(statements).await;
        ran.map_err(|error| failure(format!("{what} in database {:?} failed", self.database), None, error))
    }

    /// Rows of a query without parameters.
    ///
    /// # Errors
    /// [`SourceError::Failed`] saying `what` was being done.
    pub async fn rows(&self, query: &str, what: &str) -> Result<Vec<tokio_postgres::Row>, SourceError> {
        let rows = self.client.query(query, &[]).await;
        rows.map_err(|error| failure(format!("{what} in database {:?} failed", self.database), None, error))
    }

    /// The first column of the only row of a query, as text.
    ///
    /// # Errors
    /// [`SourceError::Failed`] where it fails or has no such row.
    pub async fn text(&self, query: &str, what: &str) -> Result<String, SourceError> {
        let rows = self.rows(query, what).await?;
        let first = rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten());
        first.ok_or_else(|| SourceError::Failed {
            what: format!("{what} in database {:?} failed: the server answered nothing", self.database),
            hint: None,
            source: None,
        })
    }

    /// Settings under which values are written and read exactly, as `pg_dump` makes them.
    ///
    /// # Errors
    /// [`SourceError::Failed`] where the server refuses one.
    pub async fn prepare_exact_values(&self) -> Result<(), SourceError> {
        let settings = "SELECT pg_catalog.set_config('search_path', '', false);
            SET DateStyle = ISO; SET IntervalStyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex;
            SET synchronize_seqscans = off; SET statement_timeout = 0; SET lock_timeout = 0;
            SET idle_in_transaction_session_timeout = 0; SET row_security = off;
            SET check_function_bodies = off; SET xmloption = content; SET client_min_messages = warning;
            SET standard_conforming_strings = on; SET default_transaction_read_only = off;
            SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'";
        self.run(settings, "preparing a session").await
    }

    /// The same for a session that reads alone: as in `pg_dump`'s own no view or foreign table can slip in
    /// where a table is read. Never for one that restores, whose materialized views and checks read views.
    ///
    /// # Errors
    /// [`SourceError::Failed`] where the server refuses a setting.
    pub async fn prepare_reading(&self) -> Result<(), SourceError> {
        self.prepare_exact_values().await?;
        let restrict = "SELECT pg_catalog.set_config(name, 'view, foreign-table', false) \
            FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'";
        self.run(restrict, "preparing a session").await
    }

    /// Says good-bye; unlike a drop it leaves no complaint in the server's log.
    pub async fn close(mut self) {
        let task = self.task.take();
        drop(self);
        if let Some(task) = task {
            task.await.ok();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.database)
    }
}

/// What the server said, in its words.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An answer of the server.
    #[error("{severity}: {message}{} (SQLSTATE {code})", detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Said {
        /// `ERROR` or `FATAL`.
        severity: String,
        /// The message.
        message: String,
        /// More about it.
        detail: Option<String>,
        /// The five characters to decide by.
        code: String,
    },
    /// The connection failed or broke.
    #[error("{0}")]
    Connection(String),
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::Said {
                severity: db.severity().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                code: db.code().code().to_owned(),
            };
        }
        // The crate's own text is short; what the system said is in its sources.
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            if !text.contains(&source.to_string()) {
                text = format!("{text}: {source}");
            }
            cause = source.source();
        }
        Self::Connection(text)
    }
}

impl ServerError {
    /// Whether the server refused for lack of rights.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Said { code, .. } if code == "42501")
    }

    /// What a person can do about it, where that is the same whatever was being done.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        let code = match self {
            Self::Said { code, .. } => code.as_str(),
            Self::Connection(_) => {
                return Some(
                    "the connection broke: the network, a server that was stopped, or pg_terminate_backend; \
                     the server's log tells; run it again",
                );
            }
        };
        match code {
            "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Some(
                "the server ended our connection: somebody stopped it, or pg_terminate_backend or a timeout did; \
                 the server's log tells; run it again",
            ),
            "40P01" => Some("run it again; with --jobs 1 nothing can wait for each other"),
            "53100" => Some("make room on the disk of the server"),
            "22021" | "22P05" => Some(
                "a name or a value of this database is in no encoding that can be read as UTF-8: rename what bears it, \
                 or leave the database out by `databases`",
            ),
            "53300" => Some("the server has no free connection: raise max_connections or lower backup.jobs"),
            _ => None,
        }
    }
}

/// What a role that backs up is told where the server says that it may not.
pub(super) fn denied(error: &tokio_postgres::Error) -> Option<&'static str> {
    let by_rows = error.as_db_error().and_then(DbError::routine) == Some("check_enable_rls");
    may_not(error).then_some(if by_rows { SEES_ALL_ROWS } else { MAY_READ_ALL })
}

/// Whether the server refused for lack of rights.
pub(super) fn may_not(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE)
}

/// What a role needs that backs up.
pub(super) const MAY_READ_ALL: &str = "the role may not read everything: as superuser GRANT pg_read_all_data TO it (from PostgreSQL 14 on), or use a superuser";

/// What it needs where policies would hide rows from it.
pub(super) const SEES_ALL_ROWS: &str =
    "row-level security hides rows from the role: as superuser ALTER ROLE it BYPASSRLS, or use a superuser";
/// What it needs for the large objects of others.
pub(super) const MAY_READ_LARGE_OBJECTS: &str = "pg_read_all_data does not reach large objects: as superuser GRANT SELECT ON LARGE OBJECT for each TO it, or use a superuser";

/// A failure with the server's words as its cause.
pub(super) fn failure(what: String, hint: Option<&str>, error: tokio_postgres::Error) -> SourceError {
    let error = ServerError::from(error);
    let hint = hint.or(error.hint()).map(str::to_owned);
    SourceError::Failed { what, hint, source: Some(Box::new(error)) }
}

fn find_password(config: &PostgresConfig, url: &mut ServerUrl) -> Result<Option<Zeroizing<String>>, SourceError> {
    let cannot = |path: &Path, error: std::io::Error| SourceError::Failed {
        what: format!("the password file {} cannot be read", path.display()),
        hint: None,
        source: Some(Box::new(error)),
    };
    if let Some(path) = &config.password_file {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| cannot(path, error))?);
        return Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())));
    }
    if let Some(password) = url.password.take() {
        return Ok(Some(Zeroizing::new(password)));
    }
    if config.password.is_some() {
        return Ok(config.password.clone());
    }
    match &config.passfile {
        Some(path) if path.exists() => {
            let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| cannot(path, error))?);
            Ok(password_of_passfile(&text, url).map(Zeroizing::new))
        }
        _ => Ok(None),
    }
}

/// The password of the first line that fits, as `libpq` chooses; a line that names one database
/// fits if it is the one that the URL names.
fn password_of_passfile(text: &str, url: &ServerUrl) -> Option<String> {
    let host = if url.is_socket() { "localhost" } else { &url.host };
    let port = url.port.to_string();
    let wanted = [host, &port, &url.database, &url.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = passfile_fields(line);
        let (password, keys) = fields.split_last().filter(|(_, keys)| keys.len() == 4)?;
        let fits = keys.iter().zip(wanted).all(|(key, wanted)| key == "*" || key == wanted);
        fits.then(|| password.clone())
    })
}

/// The fields of a line, divided by colons, a backslash taking the next character as it is.
fn passfile_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => chars.next().unwrap_or('\\'),
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            c => c,
        };
        fields.last_mut().expect("there is always one").push(c);
    }
    fields
}

fn system_root(url: &ServerUrl) -> Option<PathBuf> {
    let root = url.ssl_root_cert.clone()?;
    if root.as_os_str() != "system" {
        return Some(root);
    }
    SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists())
}

fn tls_config(url: &ServerUrl) -> Result<ClientConfig, SourceError> {
    let bad = |what: String, error: String| SourceError::Config { what: format!("{what}: {error}"), hint: None };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| bad("TLS cannot be set up".to_owned(), error.to_string()))?;
    let inner = if url.ssl_mode >= SslMode::VerifyCa {
        let path = system_root(url).unwrap_or_default();
        let unreadable = |error| bad(format!("sslrootcert {} cannot be read", path.display()), error);
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_file_iter(&path).map_err(|error| unreadable(error.to_string()))? {
            let cert = cert.map_err(|error| unreadable(error.to_string()))?;
            roots.add(cert).map_err(|error| unreadable(error.to_string()))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| unreadable(error.to_string()))?)
    } else {
        None
    };
    let verifier = Verifier { inner, any_name: url.ssl_mode < SslMode::VerifyFull, provider };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let (Some(cert), Some(key)) = (&url.ssl_cert, &url.ssl_key) else { return Ok(builder.with_no_client_auth()) };
    let unreadable = |path: &Path, error: String| bad(format!("{} cannot be read", path.display()), error);
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable(cert, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error.to_string()))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| unreadable(cert, error.to_string()))
}

/// Proves what the mode asks for: nothing, the authority, or the authority and the name.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The database names that fit into `IN (...)`.
#[must_use]
pub fn literals<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| sql::literal(name.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_password_file_that_fits_is_taken() {
        let url = ServerUrl::parse("postgres://backup@db:5433/events").expect("good");
        let text = "# comment\nother:*:*:*:no\ndb:5433:registry:backup:no\ndb:*:events:back\\up:a\\:b\\\\c\n*:*:*:*:no";
        assert_eq!(password_of_passfile(text, &url).as_deref(), Some("a:b\\c"));
    }

    #[test]
    fn a_tool_never_gets_the_password_as_an_argument() {
        let config = PostgresConfig { url: "postgres://u:hunter2@h/".to_owned(), ..PostgresConfig::default() };
        let server = Server::new(&config).expect("good");
        let command = server.tool(Path::new("/bin/pg_dump"), "x").arg("-d").arg(database_argument("it's \\ odd"));
        let shown = format!("{command:?} {server:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r"dbname='it\\'s \\\\ odd'") || shown.contains("it\\\\"), "{shown}");
    }
}

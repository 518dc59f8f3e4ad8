//! Connections that are encrypted: what they prove, and who logs in by a certificate.

use lifeboat_source::Source;
use lifeboat_source::postgres::{PostgresConfig, PostgresSource};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::postgres::PostgresServer;

use crate::failure::fails;
use crate::fixture::{back_up, config};
use crate::restore::{differences_of, only};

/// A server with a certificate of `ca`; beside it a strange authority, and a client's certificate for
/// the role `certified`, which may log in with nothing else.
fn server(test: &str) -> Option<PostgresServer> {
    let server = PostgresServer::start(test, 15)?;
    let script = "for ca in ca strange; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
         -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.crt; done; echo subjectAltName=IP:127.0.0.1 > ext; \
         for name in server certified; do openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
         -subj /CN=$name -keyout $name.key -out $name.csr; chmod 600 $name.key; \
         openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.crt; done";
    server.sql("postgres", &format!("COPY (SELECT 1) TO PROGRAM '({script}) > /dev/null 2>&1'"));
    server.sql("postgres", "CREATE ROLE certified SUPERUSER LOGIN; ALTER SYSTEM SET ssl = on");
    server.sql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'");
    let hba = server.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).expect("rules");
    let rules = format!("hostssl all certified all cert\nhost all certified all reject\n{rules}");
    let mut file = std::fs::File::create(&hba).expect("ours");
    std::io::Write::write_all(&mut file, rules.as_bytes()).expect("written");
    server.stop("fast");
    server.restart();
    Some(server)
}

#[tokio::test]
async fn a_client_certificate_logs_in_and_nothing_else_does() {
    let Some(server) = server("a_client_certificate") else { return };
    server.sql("postgres", "CREATE DATABASE small");
    server.sql("small", "CREATE TABLE t AS SELECT generate_series(1, 10) AS a");
    let data = server.data();
    let at = |name: &str| data.join(name).display().to_string();
    let with = |certificate: &str| PostgresConfig {
        url: format!(
            "postgres://certified@127.0.0.1:{}/?sslmode=verify-full&sslrootcert={}{certificate}",
            server.port(),
            at("ca.crt")
        ),
        ..config(&server)
    };
    let own = with(&format!("&sslcert={}&sslkey={}", at("certified.crt"), at("certified.key")));
    // Both kinds of connections use it: ours, and those of pg_dump and pg_restore.
    let snapshot = back_up(own.clone()).await.expect("a backup");
    assert_eq!(differences_of(own, &snapshot, &only(&["small"])).await, [""; 0]);
    let text = fails(with("")).await;
    assert!(text.contains("connection requires a valid client certificate"), "{text}");
    let text = fails(with(&format!("&sslcert={}&sslkey={}", at("server.crt"), at("server.key")))).await;
    assert!(text.contains("certificate authentication failed for user \"certified\""), "{text}");
    let missing = with(&format!("&sslcert={}&sslkey={}", at("certified.crt"), at("gone.key")));
    let error = PostgresSource::new(missing).expect_err("no key").to_string();
    assert!(error.contains("gone.key cannot be read"), "{error}");
}

#[tokio::test]
async fn tls_proves_what_its_mode_promises() {
    let Some(server) = server("tls_proves") else { return };
    let with = |host: &str, mode: &str, root: &str| {
        let (port, root) = (server.port(), server.data().join(root).display().to_string());
        let url = format!("postgres://postgres@{host}:{port}/?sslmode={mode}&sslrootcert={root}");
        PostgresConfig { url, ..config(&server) }
    };
    for good in [
        with("127.0.0.1", "verify-full", "ca.crt"),
        with("localhost", "verify-ca", "ca.crt"),
        with("localhost", "require", "ca.crt"),
    ] {
        back_up(good.clone()).await.expect("a backup");
        let scratch = tempfile::tempdir().expect("a directory");
        let source = PostgresSource::new(good).expect("good");
        let findings = source.doctor(&run_context(scratch.path())).await.expect("looked");
        assert!(findings.iter().any(|finding| finding.what == "the connection is encrypted"), "{findings:?}");
    }
    for (bad, complaint) in [
        (with("localhost", "verify-full", "ca.crt"), "not valid for name"),
        (with("127.0.0.1", "verify-ca", "strange.crt"), "certificate"),
    ] {
        let text = fails(bad).await;
        assert!(text.contains(complaint), "{text}");
    }
}

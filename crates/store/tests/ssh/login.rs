//! Who is let in, and which server is trusted.

use std::path::Path;

use lifeboat_model::config::SshOptions;
use lifeboat_store::sftp::SftpStore;
use lifeboat_store::{StoreError, StoreErrorKind};
use lifeboat_testkit::sshd::{Account, SshServer};

use crate::{TIMES, put, store_of};

#[expect(clippy::disallowed_methods, reason = "a test's input need not survive a power cut")]
fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
    std::fs::write(path, text).expect("written");
}

fn source(error: &StoreError) -> String {
    error.source.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_and_those_of_an_agent_are_let_in() {
    let test = "keys_of_every_kind_and_those_of_an_agent_are_let_in";
    let Some(server) = SshServer::start(test, Account::Plain) else { return };
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let file = server.make_key(kind, kind, "");
        server.authorize(kind);
        let options = SshOptions { private_key_file: Some(file), ..server.options() };
        put(&store_of(&server, &options), &format!("data/{kind}")).await.unwrap_or_else(|e| panic!("{kind}: {e:?}"));
    }
    let locked = server.make_key("locked", "ed25519", "open sesame");
    server.authorize("locked");
    let options = SshOptions { private_key_file: Some(locked), ..server.options() };
    let error = put(&store_of(&server, &options), "data/locked").await.expect_err("there is no passphrase");
    assert!(source(&error).contains("passphrase") && error.hint().expect("a hint").contains("ssh-add"), "{error:?}");
    let passphrase = server.path("passphrase");
    write(&passphrase, "open sesame\n");
    let options = SshOptions { passphrase_file: Some(passphrase), ..options };
    put(&store_of(&server, &options), "data/locked").await.expect("the passphrase opens it");
    for kind in ["ed25519", "rsa"] {
        server.authorize(kind);
        let agent = server.agent(kind);
        let options =
            SshOptions { private_key_file: None, agent_socket: Some(agent.socket.clone()), ..server.options() };
        put(&store_of(&server, &options), &format!("data/agent-{kind}")).await.expect("the agent signs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_server_does_not_take_is_told_with_the_line_that_it_lacks() {
    let test = "a_key_that_the_server_does_not_take_is_told";
    let Some(server) = SshServer::start(test, Account::Plain) else { return };
    let options = SshOptions { private_key_file: Some(server.path("other_key")), ..server.options() };
    let error = put(&store_of(&server, &options), "data/00").await.expect_err("another key");
    assert_eq!(error.kind, StoreErrorKind::Denied);
    let line = std::fs::read_to_string(server.path("other_key.pub")).expect("a key");
    let line = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert!(error.hint().expect("a hint").contains(&line), "{error:?}");
    let none = SshOptions { private_key_file: None, home: Some(server.path("no-home")), ..server.options() };
    let error = put(&store_of(&server, &none), "data/00").await.expect_err("no key");
    assert!(error.hint().expect("a hint").contains("privateKeyFile"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the test does what the hint tells a person to do")]
async fn an_unknown_host_is_refused_until_the_command_of_the_hint_was_run() {
    let test = "an_unknown_host_is_refused_until_the_command_of_the_hint_was_run";
    let Some(mut server) = SshServer::start(test, Account::Plain) else { return };
    let known = server.path("known_hosts");
    let options = SshOptions { host_key: None, known_hosts_file: Some(known.clone()), ..server.options() };
    for round in ["unknown", "changed"] {
        let error = put(&store_of(&server, &options), "data/00").await.expect_err("not known");
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert!(source(&error).contains("SHA256:"), "{error:?}");
        let hint = error.hint().expect("a hint");
        let commands: Vec<&str> = hint.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!(commands.len(), if round == "unknown" { 1 } else { 2 }, "{hint}");
        for command in commands {
            let status = std::process::Command::new("sh").args(["-c", command]).output().expect("sh starts").status;
            assert!(status.success(), "{command}");
        }
        put(&store_of(&server, &options), &format!("data/{round}")).await.expect("it is known now");
        server.change_host_key();
    }
    let pinned = SshOptions {
        host_key: Some("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ".into()),
        ..options
    };
    let error = put(&store_of(&server, &pinned), "data/00").await.expect_err("another key is pinned");
    assert!(error.hint().expect("a hint").contains(&server.host_key()), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "ssh-keygen hashes the names as a user would have it")]
async fn an_alias_of_the_users_configuration_leads_to_the_server() {
    let test = "an_alias_of_the_users_configuration_leads_to_the_server";
    let Some(server) = SshServer::start(test, Account::Plain) else { return };
    let home = server.path("home");
    let line = format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key());
    write(&home.join(".ssh/known_hosts"), &line);
    let hashed = std::process::Command::new("ssh-keygen").arg("-qHf").arg(home.join(".ssh/known_hosts")).output();
    assert!(hashed.expect("it starts").status.success());
    assert!(!std::fs::read_to_string(home.join(".ssh/known_hosts")).expect("read").contains("127.0.0.1"));
    let config = |more: &str| {
        format!(
            "Host nas\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n{more}",
            server.port(),
            server.user(),
            server.path("key").display()
        )
    };
    write(&home.join(".ssh/config"), &config(""));
    let options = SshOptions { home: Some(home.clone()), ..SshOptions::default() };
    let store = || SftpStore::new("sftp://nas/", "nas".parse().expect("an alias"), &server.remote(), &options, TIMES);
    put(&store(), "data/00").await.expect("put");
    write(&home.join(".ssh/config"), &config("  ProxyJump gate\n"));
    let error = put(&store(), "data/01").await.expect_err("no jumps");
    assert!(
        source(&error).contains("ProxyJump gate") && error.hint().expect("a hint").contains("ssh -N -L"),
        "{error:?}"
    );
}

//! Stores behind real SSH servers.

mod faults;
mod login;
mod sftp;

use std::time::Duration;

use bytes::Bytes;
use lifeboat_model::config::SshOptions;
use lifeboat_store::sftp::SftpStore;
use lifeboat_store::{Key, PutMode, Store, StoreError};
use lifeboat_testkit::sshd::SshServer;
use lifeboat_wire::ssh::Times;

/// Short enough for tests, long enough for a machine that is busy.
const TIMES: Times =
    Times { connect: Duration::from_secs(20), idle: Duration::from_secs(20), answer: Duration::from_secs(20) };

fn store_of(server: &SshServer, options: &SshOptions) -> SftpStore {
    let address = format!("{}@127.0.0.1:{}", server.user(), server.port()).parse().expect("an address");
    SftpStore::new(&server.url("sftp"), address, &server.remote(), options, TIMES)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

async fn put(store: &dyn Store, name: &str) -> Result<(), StoreError> {
    store.put(&key(name), Bytes::from_static(b"body"), PutMode::CreateNew).await
}

//! Lines that break: no call hangs, nothing is half there, and the next call works.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_store::sftp::SftpStore;
use lifeboat_store::wrap::Retry;
use lifeboat_store::{PutMode, Store, StoreErrorKind};
use lifeboat_testkit::proxy::{LineFault, Proxy};
use lifeboat_testkit::sshd::{Account, SshServer};
use lifeboat_wire::backoff::BackoffPolicy;
use lifeboat_wire::clock::SystemClock;
use lifeboat_wire::ssh::Times;

use crate::{key, put};

/// A connection is given up after this; generous for a machine that is busy.
const IDLE: Duration = Duration::from_secs(4);

fn behind(proxy: &Proxy, server: &SshServer) -> SftpStore {
    let times = Times { connect: Duration::from_secs(20), idle: IDLE, answer: Duration::from_secs(20) };
    let address = format!("{}@127.0.0.1:{}", server.user(), proxy.port()).parse().expect("an address");
    SftpStore::new(&server.url_at("sftp", proxy.port()), address, &server.remote(), &server.options(), times)
}

fn retried(store: SftpStore) -> Retry {
    let policy = BackoffPolicy {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(200),
        budget: Duration::from_mins(1),
    };
    Retry::new(Arc::new(store), policy, Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_anywhere_costs_a_retry_and_nothing_else() {
    let test = "a_line_that_breaks_anywhere_costs_a_retry_and_nothing_else";
    let Some(mut server) = SshServer::start(test, Account::Plain) else { return };
    let proxy = Proxy::start(server.port()).await;
    let inner = behind(&proxy, &server);
    put(&inner, "format").await.expect("it is there at first");
    let store = retried(inner);
    let body = Bytes::from((0..300_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let mut n = 0;
    for at in (3_000..1_400_000).step_by(130_000) {
        for fault in [LineFault::Cut(at), LineFault::Reset(at)] {
            n += 1;
            let name = key(&format!("data/{n:02}"));
            proxy.fail_next(fault);
            // The line that is there goes down, and the next one breaks in the middle.
            server.kill();
            server.restart();
            store.put(&name, body.clone(), PutMode::CreateNew).await.unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
            assert_eq!(store.get(&name, None).await.expect("got"), body, "{fault:?}");
        }
    }
    let listed: Vec<_> = store.list("data/").try_collect().await.expect("listed");
    assert_eq!(listed.len(), n);
    assert!(listed.iter().all(|object| object.bytes == body.len() as u64), "{listed:?}");
    assert!(proxy.connections() > 2 * n as u64, "each was broken in the middle: {}", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "what is measured is the real time")]
async fn a_line_that_stands_still_is_given_up_in_time() {
    let Some(server) = SshServer::start("a_line_that_stands_still_is_given_up_in_time", Account::Plain) else { return };
    let proxy = Proxy::start(server.port()).await;
    for fault in [LineFault::Stall(300_000), LineFault::Swallow(300_000)] {
        proxy.fail_next(fault);
        let store = behind(&proxy, &server);
        let name = key(if fault == LineFault::Stall(300_000) { "data/stall" } else { "data/swallow" });
        put(&store, &format!("{name}-before")).await.expect("it is there at first");
        let started = std::time::Instant::now();
        let body = Bytes::from(vec![7; 8 << 20]);
        let error = store.put(&name, body.clone(), PutMode::CreateNew).await.expect_err("nothing goes any more");
        assert_eq!(error.kind, StoreErrorKind::Transient, "{error:?}");
        assert!(error.store.contains("127.0.0.1") && error.hint().is_some(), "{error:?}");
        assert!(started.elapsed() < IDLE * 4, "{fault:?} took {:?}", started.elapsed());
        store.put(&name, body, PutMode::CreateNew).await.expect("the next call connects anew");
    }
}

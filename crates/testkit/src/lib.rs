//! What tests and benches share: data makers, fakes beside the real thing, launchers of real
//! servers. Never a dependency of the product.

pub mod azure;
pub mod bench_data;
mod ceph;
pub mod content;
pub mod context;
pub mod crash;
pub mod daemon;
pub mod effort;
pub mod log;
pub mod pause;
pub mod postgres;
pub mod proxy;
pub mod s3;
pub mod snapshot;
pub mod sshd;
pub mod stale;
pub mod tree;

use std::time::Duration;

/// Waits until `condition` holds.
///
/// # Panics
/// Where it does not within a minute.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2400 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} did not come true within a minute");
}

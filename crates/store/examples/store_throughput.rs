//! How fast a store takes and gives objects: `store_throughput URL KEY_FILE KNOWN_HOSTS MIB [AT_ONCE]`.
//! `benches/ssh/run.sh` runs it.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement tells its figures and reads the clock"
)]

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lifeboat_model::config::{SshOptions, StoreOptions};
use lifeboat_store::{Key, PutMode};

/// Bytes of an object: what a pack has.
const OBJECT_BYTES: usize = 16 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, key, known, mebibytes, rest @ ..] = args.as_slice() else {
        return Err("usage: store_throughput URL KEY_FILE KNOWN_HOSTS MIB [AT_ONCE]".into());
    };
    let ssh = SshOptions {
        private_key_file: Some(key.into()),
        known_hosts_file: Some(known.into()),
        ..SshOptions::default()
    };
    let store = lifeboat_store::url::create_store(url, &StoreOptions { ssh })?;
    let at_once = rest.first().map_or(Ok(4), |text| text.parse())?;
    let mut noise = vec![0; OBJECT_BYTES];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    let body = Bytes::from(noise);
    let objects = (mebibytes.parse::<usize>()? << 20).div_ceil(OBJECT_BYTES);
    let keys: Vec<Key> = (0..objects).map(|n| Key::new(format!("data/{n:06}"))).collect::<Result<_, _>>()?;
    let told = |what: &str, started: Instant| {
        let seconds = started.elapsed().as_secs_f64();
        let bytes = u32::try_from(objects * (OBJECT_BYTES >> 20)).map_or(0.0, f64::from) * 1_048_576.0;
        println!("{what} {:.0} MB/s ({seconds:.2} s, {at_once} at once)", bytes / seconds / 1e6);
    };
    // Connected before the clock runs.
    store.list("").try_collect::<Vec<_>>().await.ok();
    let started = Instant::now();
    futures::stream::iter(&keys)
        .map(|key| store.put(key, body.clone(), PutMode::CreateNew))
        .buffer_unordered(at_once)
        .try_collect::<Vec<()>>()
        .await?;
    told("put", started);
    let started = Instant::now();
    futures::stream::iter(&keys)
        .map(async |key| store.get(key, None).await.map(|got| assert!(got == body, "{key} came back changed")))
        .buffer_unordered(at_once)
        .try_collect::<Vec<()>>()
        .await?;
    told("get", started);
    for key in &keys {
        store.delete(key).await?;
    }
    Ok(())
}

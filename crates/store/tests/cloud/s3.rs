use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lifeboat_model::store_options::{HeldSecret, S3Credentials, S3Encryption, S3Keys, S3Options};
use lifeboat_store::s3::S3Store;
use lifeboat_store::{Key, OBJECT_BYTES_MAX, PutMode, Store, StoreErrorKind, conformance};
use lifeboat_testkit::s3::{S3Kind, S3Server};
use lifeboat_wire::http::{Http, HttpSettings};

fn store(place: &str, options: &S3Options) -> S3Store {
    S3Store::new(place, options, Http::new(&HttpSettings::default()).expect("a client")).expect("a store")
}

/// The suite on a bucket of this server, with and without a prefix.
async fn keeps_the_contract(test: &str, kind: S3Kind) {
    let Some(server) = S3Server::start(test, kind) else { return };
    server.create_bucket("boats").await;
    for place in ["//boats", "//boats/a/Prefix_1"] {
        let store = store(place, &server.options());
        assert!(!store.capabilities().conditional_put, "nothing is promised before somebody looked");
        // Versity's gateway looks first and puts then: of a race several may win.
        if kind != S3Kind::Versity {
            assert!(store.probe().await.expect("probed"), "it refuses a taken name");
        }
        let taken = Key::new("taken").expect("a key");
        store.put(&taken, Bytes::from_static(b"1"), PutMode::CreateNew).await.expect("put");
        let refused = store.put(&taken, Bytes::from_static(b"2"), PutMode::CreateNew).await.expect_err("taken");
        assert_eq!(refused.kind, StoreErrorKind::Exists);
        assert_eq!(store.get(&taken, None).await.expect("got"), &b"1"[..]);
        conformance::run(Arc::new(store)).await;
    }
}

#[tokio::test]
async fn minio_keeps_the_contract() {
    keeps_the_contract("minio_keeps_the_contract", S3Kind::Minio).await;
}

#[tokio::test]
async fn versitygw_keeps_the_contract() {
    keeps_the_contract("versitygw_keeps_the_contract", S3Kind::Versity).await;
}

#[tokio::test]
async fn ceph_keeps_the_contract() {
    keeps_the_contract("ceph_keeps_the_contract", S3Kind::Ceph).await;
}

#[tokio::test]
async fn a_list_goes_on_over_pages_and_leaves_out_what_is_not_ours() {
    let Some(server) = S3Server::start("a_list_goes_on_over_pages", S3Kind::Minio) else { return };
    server.create_bucket("boats").await;
    let store = store("//boats/ours", &server.options());
    let puts = futures::stream::iter(0..2100).map(|n| {
        let store = &store;
        async move {
            let key = Key::new(format!("data/{n:04}")).expect("a key");
            store.put(&key, Bytes::from_static(b"x"), PutMode::Replace).await.expect("put");
        }
    });
    puts.buffer_unordered(16).collect::<Vec<()>>().await;
    let elsewhere = self::store("//boats", &server.options());
    for name in ["ours.txt", "oursnot/x", "theirs/x"] {
        elsewhere.put(&Key::new(name).expect("a key"), Bytes::new(), PutMode::Replace).await.expect("put");
    }
    let listed: Vec<_> = store.list("").try_collect().await.expect("lists");
    assert_eq!(listed.len(), 2100);
    assert_eq!(listed.iter().map(|meta| &meta.key).collect::<std::collections::BTreeSet<_>>().len(), 2100);
    let age = jiff::Timestamp::UNIX_EPOCH.duration_until(listed[0].stored_at);
    assert!(age.as_secs() > 1_700_000_000, "the store's time is told: {age:?}");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "how long it took is worth a line")]
async fn the_largest_object_goes_up_and_down_in_one_request() {
    for kind in [S3Kind::Minio, S3Kind::Versity] {
        let Some(server) = S3Server::start("the_largest_object_goes_up_and_down", kind) else { continue };
        server.create_bucket("boats").await;
        let store = store("//boats", &server.options());
        let words = 0..u32::try_from(OBJECT_BYTES_MAX / 4).expect("not many");
        let body: Vec<u8> = words.flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let body = Bytes::from(body);
        let key = Key::new("large").expect("a key");
        let started = tokio::time::Instant::now();
        store.put(&key, body.clone(), PutMode::CreateNew).await.expect("put");
        let put = started.elapsed();
        assert_eq!(store.get(&key, None).await.expect("got"), body);
        let got = started.elapsed().saturating_sub(put);
        println!("{kind:?}: 64 MiB up in {put:?}, down in {got:?}");
    }
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_with_a_hint() {
    let Some(server) = S3Server::start("what_stands_in_the_way_is_told", S3Kind::Minio) else { return };
    server.create_bucket("boats").await;
    let key = Key::new("format").expect("a key");
    let good = server.options();
    let unknown = server.options_of("nobody", "lifeboatsecret");
    let wrong = server.options_of(lifeboat_testkit::s3::ACCESS_KEY, "wrong");
    let closed = S3Options {
        endpoint_url: Some(format!("http://127.0.0.1:{}", lifeboat_testkit::daemon::free_port())),
        ..server.options()
    };
    let tls = S3Options { endpoint_url: Some(server.endpoint().replace("http:", "https:")), ..server.options() };
    for (place, options, kind, said, hint) in [
        ("//nothing", &good, StoreErrorKind::Failed, "NoSuchBucket", "make the bucket"),
        ("//boats", &unknown, StoreErrorKind::Denied, "InvalidAccessKeyId", "access key"),
        ("//boats", &wrong, StoreErrorKind::Denied, "SignatureDoesNotMatch", "secret key"),
        ("//boats", &closed, StoreErrorKind::Transient, "refused", "endpointURL"),
        ("//boats", &tls, StoreErrorKind::Failed, "TLS", "endpointCA"),
    ] {
        let store = store(place, options);
        let errors = [
            store.get(&key, None).await.expect_err("get"),
            store.put(&key, Bytes::new(), PutMode::CreateNew).await.expect_err("put"),
            store.delete(&key).await.expect_err("delete"),
            store.list("").try_collect::<Vec<_>>().await.expect_err("list"),
        ];
        for error in errors {
            let text = format!("{error}: {}", error.source);
            assert_eq!(error.kind, kind, "{text}");
            assert!(text.contains(said) && text.contains(&format!("s3:{place}")), "{text}");
            assert!(error.hint().is_some_and(|told| told.contains(hint)), "{text}: {:?}", error.hint());
            assert!(!text.contains("lifeboatsecret") && !text.contains("wrong"), "{text}");
        }
    }
}

#[tokio::test]
async fn storage_class_and_encryption_are_sent() {
    let Some(server) = S3Server::start("storage_class_and_encryption_are_sent", S3Kind::Minio) else { return };
    server.create_bucket("boats").await;
    let key = Key::new("x").expect("a key");
    let classed = S3Options { storage_class: Some("REDUCED_REDUNDANCY".to_owned()), ..server.options() };
    store("//boats", &classed).put(&key, Bytes::from_static(b"x"), PutMode::Replace).await.expect("put");
    let keys = (lifeboat_testkit::s3::ACCESS_KEY, lifeboat_testkit::s3::SECRET_KEY);
    let (_, listed) = server.call("GET", "/boats?list-type=2", &[], "", keys).await;
    assert!(listed.contains("REDUCED_REDUNDANCY"), "{listed}");
    // This server has no keys to encrypt with, and says so: the header arrived.
    let encrypted = S3Options { encryption: Some(S3Encryption::Aes256), ..server.options() };
    let error = store("//boats", &encrypted).put(&key, Bytes::new(), PutMode::Replace).await.expect_err("no KMS");
    assert!(error.source.to_string().contains("KMS"), "{}", error.source);
}

#[tokio::test]
async fn a_server_that_takes_the_request_and_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let settings = HttpSettings { stall_timeout: Duration::from_millis(300), ..HttpSettings::default() };
    let keys =
        S3Keys { access_key_id: HeldSecret::text("a"), secret_access_key: HeldSecret::text("b"), session_token: None };
    let options = S3Options {
        endpoint_url: Some(format!("http://127.0.0.1:{port}")),
        credentials: S3Credentials::Keys(keys),
        ..S3Options::default()
    };
    let store = S3Store::new("//boats", &options, Http::new(&settings).expect("a client")).expect("a store");
    let error = store.get(&Key::new("x").expect("a key"), None).await.expect_err("nobody answers");
    assert_eq!(error.kind, StoreErrorKind::Transient);
    assert!(error.source.to_string().contains("nothing moved"), "{}", error.source);
}

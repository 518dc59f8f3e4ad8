use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_model::store_options::{AzureCredentials, AzureOptions, HeldSecret};
use lifeboat_store::blobs::BlobStore;
use lifeboat_store::{Key, PutMode, Store, StoreErrorKind, conformance};
use lifeboat_testkit::azure::{ACCOUNT, ACCOUNT_KEY, Azurite};
use lifeboat_wire::http::{Http, HttpSettings};

fn store(place: &str, options: &AzureOptions) -> BlobStore {
    BlobStore::azure(place, options, Http::new(&HttpSettings::default()).expect("a client")).expect("a store")
}

fn by_string(server: &Azurite) -> AzureOptions {
    let credentials = AzureCredentials::ConnectionString(HeldSecret::text(server.connection_string()));
    AzureOptions { credentials, ..AzureOptions::default() }
}

fn by_key(server: &Azurite, key: &str) -> AzureOptions {
    AzureOptions {
        account: Some(ACCOUNT.to_owned()),
        endpoint_url: Some(server.endpoint()),
        credentials: AzureCredentials::AccountKey(HeldSecret::text(key)),
    }
}

#[tokio::test]
async fn azurite_keeps_the_contract() {
    let Some(server) = Azurite::start("azurite_keeps_the_contract") else { return };
    server.create_container("boats").await;
    for place in ["//boats", "//boats/a/Prefix_1"] {
        conformance::run(Arc::new(store(place, &by_string(&server)))).await;
    }
    conformance::run(Arc::new(store("//boats", &by_key(&server, ACCOUNT_KEY)))).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_with_a_hint() {
    let Some(server) = Azurite::start("what_stands_in_the_way_is_told_by_azurite") else { return };
    server.create_container("boats").await;
    let key = Key::new("format").expect("a key");
    let good = by_string(&server);
    let wrong = by_key(&server, "d3Jvbmc=");
    let closed = AzureOptions {
        endpoint_url: Some(format!("http://127.0.0.1:{}/{ACCOUNT}", lifeboat_testkit::daemon::free_port())),
        ..by_key(&server, ACCOUNT_KEY)
    };
    for (place, options, kind, said, hint) in [
        ("//nothing", &good, StoreErrorKind::Failed, "ContainerNotFound", "make the container"),
        ("//boats", &wrong, StoreErrorKind::Denied, "Auth", "key"),
        ("//boats", &closed, StoreErrorKind::Transient, "refused", "endpointURL"),
    ] {
        let store = store(place, options);
        let errors = [
            store.get(&key, None).await.expect_err("get"),
            store.put(&key, Bytes::new(), PutMode::CreateNew).await.expect_err("put"),
            store.list("").try_collect::<Vec<_>>().await.expect_err("list"),
        ];
        for error in errors {
            let text = format!("{error}: {}", error.source);
            assert_eq!(error.kind, kind, "{text}");
            assert!(text.contains(said) && text.contains(&format!("azure:{place}")), "{text}");
            assert!(error.hint().is_some_and(|told| told.contains(hint)), "{text}: {:?}", error.hint());
        }
    }
}

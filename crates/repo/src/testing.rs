//! A repository for tests: real objects in whatever store the test gives.

use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_model::StackName;
use lifeboat_store::Store;

use crate::access::Access;
use crate::create::{CreateOptions, Creation};
use crate::keyfile::{MaintainerKey, OwnerKey, WriterKey};
use crate::open::{Keys, open_access};

/// A new repository with its keys and what each of them opens.
#[derive(Clone, Debug)]
pub struct TestRepository {
    /// Where it lives.
    pub store: Arc<dyn Store>,
    /// Root and identity.
    pub owner: OwnerKey,
    /// The first writer's key file.
    pub writer_key: WriterKey,
    /// The first maintainer's key file.
    pub maintainer_key: MaintainerKey,
    /// With the writer key only.
    pub writer: Access,
    /// With the maintainer key only.
    pub maintainer: Access,
    /// With the identity only.
    pub identity: Access,
    /// With all three.
    pub all: Access,
}

impl TestRepository {
    /// The stack that the first writer may write: `test`.
    ///
    /// # Panics
    /// Never: the word is a name.
    #[must_use]
    pub fn stack() -> StackName {
        StackName::new("test").expect("a name")
    }

    /// Makes a repository in an empty store; grace is 60 seconds, time 2026-11-21 03:00 UTC.
    ///
    /// # Panics
    /// Where the store fails: the test cannot go on.
    pub async fn create(store: Arc<dyn Store>) -> Self {
        let options = CreateOptions { now: Self::start(), grace_seconds: 60, stack: Self::stack() };
        let made = Creation::new(options);
        made.put(&store).await.expect("a repository is made");
        let keys = Keys {
            writer: Some(made.writer.clone()),
            maintainer: Some(made.maintainer.clone()),
            identity: Some(made.owner.identity.clone()),
        };
        let open = async |keys: Keys| open_access(&store, &keys, None).await.expect("a new repository opens").access;
        Self {
            writer: open(Keys { writer: keys.writer.clone(), ..Keys::default() }).await,
            maintainer: open(Keys { maintainer: keys.maintainer.clone(), ..Keys::default() }).await,
            identity: open(Keys { identity: keys.identity.clone(), ..Keys::default() }).await,
            all: open(keys).await,
            store,
            owner: made.owner,
            writer_key: made.writer,
            maintainer_key: made.maintainer,
        }
    }

    /// The time at which the repository was made.
    ///
    /// # Panics
    /// Never: the text is a time.
    #[must_use]
    pub fn start() -> Timestamp {
        "2026-11-21T03:00:00Z".parse().expect("a time")
    }
}

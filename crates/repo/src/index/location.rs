//! Where a copy of a chunk lies.

use lifeboat_model::ObjectHash;

use crate::object::DomainId;
use crate::pack::{Origin, Record};

/// One copy of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack that it lies in.
    pub pack: ObjectHash,
    /// The pack's length in bytes.
    pub pack_bytes: u64,
    /// The domain of the pack: its keys make the chunk's id.
    pub domain: DomainId,
    /// Where in the pack and how to open it. Its places of pack and origin mean nothing here.
    pub record: Record,
    /// Whose key it is encrypted under.
    pub origin: Origin,
    /// Whether a writer may build on it: an index object says so that is signed by somebody on the
    /// roster. A trailer's word, or a removed writer's, is good enough for reading only.
    pub sure: bool,
}

impl Location {
    /// The pack's name in the store.
    #[must_use]
    pub fn pack_key(&self) -> lifeboat_store::Key {
        self.record.kind.object_type().key(self.pack)
    }
}

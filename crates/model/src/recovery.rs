//! What a backup captured.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// The consistent view that a backup holds. Only a source makes one, and only after everything
/// that belongs to the view was accepted by the sink; a snapshot cannot be sealed without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// The instant of the view: for a dump, when its snapshot was exported; for files, when the
    /// walk began.
    pub time: Timestamp,
    /// How consistent the view is, in words for people: `one snapshot per database`.
    pub consistency: String,
    /// Position and provenance by key, such as `postgres.version`, `postgres.system_identifier`,
    /// `machine.id`. Readers keep and show keys that they do not know.
    pub facts: BTreeMap<String, String>,
}

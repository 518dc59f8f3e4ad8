//! The chain of roots of one writer and source.

use lifeboat_model::{Digest, ObjectHash};

use crate::crypt::VerifyKey;
use crate::remember::RememberedHead;

/// The end of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// 0 for a chain that begins.
    pub(super) sequence: u64,
    pub(super) root: Option<ObjectHash>,
}

impl Chain {
    /// The newest root of this writer and source among what the store shows and what is remembered:
    /// a root may have been forgotten and pruned, and the next one still counts on from it.
    pub(super) fn end<'a>(
        own: VerifyKey,
        source_tag: Digest,
        heads: impl IntoIterator<Item = &'a RememberedHead>,
    ) -> Self {
        heads
            .into_iter()
            .filter(|head| head.writer == own && head.source == source_tag)
            .max_by_key(|head| head.sequence)
            .map(|head| Self { sequence: head.sequence, root: Some(head.root) })
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_heads_of_the_same_writer_and_source_count_and_the_newest_wins() {
        let head = |writer: u8, source: u8, sequence: u64| RememberedHead {
            writer: VerifyKey([writer; 32]),
            source: Digest([source; 32]),
            sequence,
            root: ObjectHash::from([u8::try_from(sequence).expect("small"); 32]),
        };
        let heads = [head(1, 1, 4), head(1, 1, 5), head(2, 1, 9), head(1, 2, 9)];
        let end = |writer, source| Chain::end(VerifyKey([writer; 32]), Digest([source; 32]), &heads);
        assert_eq!(end(1, 1), Chain { sequence: 5, root: Some([5; 32].into()) });
        assert_eq!(end(3, 1), Chain::default());
    }
}

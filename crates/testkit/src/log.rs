//! A log that never was: segments with names, positions and bytes, as a datastore with point-in-time
//! recovery hands them over.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use lifeboat_model::flow::{Body, LogSink, SinkError};

use crate::bench_data::Numbers;

/// The fact that tells where a segment begins.
pub const LOG_BEGINS: &str = "log.begins";
/// The fact that tells where a segment ends.
pub const LOG_ENDS: &str = "log.ends";

/// The source of a log.
#[derive(Clone, Debug)]
pub struct FakeLog {
    segments: Vec<(String, Bytes)>,
}

impl FakeLog {
    /// So many segments; names and bytes hang on the seed, and the names are in no order.
    #[must_use]
    pub fn new(seed: u64, segments: usize) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut segment = |at: usize| {
            let mut bytes = vec![0; 100 + at];
            numbers.fill(&mut bytes);
            (format!("{:04x}-{at}", numbers.below(0x10000)), bytes.into())
        };
        Self { segments: (0..segments).map(&mut segment).collect() }
    }

    /// Names and bytes, in the order of the log.
    #[must_use]
    pub fn segments(&self) -> &[(String, Bytes)] {
        &self.segments
    }

    /// Hands over a stretch of it.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn push(&self, stretch: Range<usize>, sink: &dyn LogSink) -> Result<(), SinkError> {
        for at in stretch {
            let (name, bytes) = &self.segments[at];
            let position = |at: usize| format!("0/{at:X}000000");
            let facts =
                BTreeMap::from([(LOG_BEGINS.to_owned(), position(at)), (LOG_ENDS.to_owned(), position(at + 1))]);
            sink.segment(name, &facts, Body::Bytes(bytes.clone())).await?;
        }
        Ok(())
    }
}

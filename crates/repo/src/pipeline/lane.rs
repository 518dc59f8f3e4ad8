//! What each worker reuses from chunk to chunk.

use std::sync::Mutex;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::pack::Codec;

/// About how many bytes of a chunk are looked at to tell records from prose.
const SAMPLED: usize = 1024;

/// A compressor and its output buffer.
pub struct Lane {
    compressor: Compressor<'static>,
    /// Whether the shortest match is chosen by what a chunk holds.
    tuned: bool,
    out: Vec<u8>,
}

impl Lane {
    /// A compressor of this level.
    ///
    /// # Errors
    /// Where there is no memory for it, or zstd knows no such level.
    pub fn new(level: i32) -> std::io::Result<Self> {
        let mut compressor = Compressor::new(level)?;
        let tuned = level == 3;
        if tuned {
            // Tables of one size for chunks of all lengths: zstd's own choice for long inputs, with the
            // one for short matches twice as wide. Wider ones fall out of the processor's cache.
            compressor.set_parameter(CParameter::HashLog(17))?;
            compressor.set_parameter(CParameter::ChainLog(17))?;
        }
        Ok(Self { compressor, tuned, out: Vec::new() })
    }

    /// The stored form of a chunk: compressed where that saves more than a sixty-fourth.
    ///
    /// # Panics
    /// Never: zstd takes a parameter between two frames.
    pub fn compress<'a>(&'a mut self, plain: &'a [u8]) -> (Codec, &'a [u8]) {
        let enough = plain.len() - plain.len() / 64;
        if self.tuned {
            let shortest = CParameter::MinMatch(shortest_match(plain));
            self.compressor.set_parameter(shortest).expect("zstd takes it between two frames");
        }
        self.out.clear();
        // A buffer of the plain length is all that is of use: what does not fit does not shrink.
        self.out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        match self.compressor.compress_to_buffer(plain, &mut self.out) {
            Ok(length) if length < enough => (Codec::Zstd, &self.out[..length]),
            _ => (Codec::Plain, plain),
        }
    }
}

/// The shortest match worth telling at level 3, in bytes. zstd's choice for chunks of 128 to 256 KiB is 4,
/// which loses 2 % on prose and 6 % on records. Where digits abound (identifiers, times, tokens), matches
/// of 5 bytes are chance too: without them JSON records come out 1 % smaller, in less time.
fn shortest_match(plain: &[u8]) -> u32 {
    let step = plain.len() / SAMPLED + 1;
    let (digits, looked) = plain
        .iter()
        .step_by(step)
        .fold((0, 0), |(digits, looked), byte| (digits + usize::from(byte.is_ascii_digit()), looked + 1));
    if digits * 5 > looked { 6 } else { 5 }
}

/// Lanes at rest. Callers that store small bodies themselves borrow one.
#[derive(Default)]
pub(super) struct Lanes(Mutex<Vec<Lane>>);

impl Lanes {
    pub(super) fn take(&self, level: i32) -> std::io::Result<Lane> {
        let rested = self.0.lock().expect("no holder panics").pop();
        rested.map_or_else(|| Lane::new(level), Ok)
    }

    pub(super) fn give_back(&self, lane: Lane) {
        self.0.lock().expect("no holder panics").push(lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_length_of_a_chunk_compress_better_than_zstd_chooses_at_level_3() {
        let rows = (0..2000u32).map(|row| {
            let id = blake3::hash(&row.to_le_bytes()).to_hex();
            format!("{{\"id\":\"{}\",\"place\":\"ward {}\",\"token\":\"{}\"}}\n", &id[..32], row % 97, &id[40..56])
        });
        let plain = rows.collect::<String>().into_bytes();
        assert!((128 << 10..256 << 10).contains(&plain.len()), "{}", plain.len());
        let mut lane = Lane::new(3).expect("a compressor");
        let (codec, stored) = lane.compress(&plain);
        assert_eq!(
            (codec, zstd::bulk::decompress(stored, plain.len()).expect("a frame")),
            (Codec::Zstd, plain.clone())
        );
        let usual = zstd::bulk::compress(&plain, 3).expect("compressed").len();
        assert!(stored.len() * 100 < usual * 98, "{} is not 2 % below {usual}", stored.len());
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let mut lane = Lane::new(1).expect("a compressor");
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(lane.compress(&noise), (Codec::Plain, &noise[..]));
        assert_eq!(lane.compress(b""), (Codec::Plain, &b""[..]));
        let text = b"one row after the other\n".repeat(100);
        let (codec, stored) = lane.compress(&text);
        assert_eq!(codec, Codec::Zstd);
        assert_eq!(zstd::bulk::decompress(stored, text.len()).expect("a frame"), text);
    }
}

//! Seeded generators of the data that benches back up. They compress and repeat like what real hosts
//! hold, where pgbench's filler or random bytes would flatter one tool or another.

use std::io::{self, Write};

mod code;
mod mixed;
mod rows;

pub use code::write_tree as write_code_tree;
pub use mixed::{change_tree, write_pages, write_tree};
pub use rows::{Day, RowsChange, change_rows, write_rows};

/// A small, fast, seeded generator of numbers (`SplitMix64`, an algorithm in the public domain).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Numbers that depend on the seed alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of these.
    ///
    /// # Panics
    /// Where there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).expect("a place in memory")]
    }

    /// Random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }
}

fn vocabulary(numbers: &mut Numbers) -> Vec<String> {
    const SYLLABLES: [&str; 24] = [
        "ka", "lu", "mo", "si", "ta", "re", "ni", "wa", "ba", "chi", "du", "fe", "gor", "han", "ji", "ko", "len",
        "mba", "ngo", "pa", "shi", "tu", "vi", "zam",
    ];
    (0..8000)
        .map(|_| {
            (0..=numbers.below(3))
                .map(|_| SYLLABLES[usize::try_from(numbers.below(24)).unwrap_or(0)])
                .collect::<String>()
        })
        .collect()
}

/// Words are drawn so that a few are frequent and most are rare, as in natural text.
fn word<'a>(words: &'a [String], numbers: &mut Numbers) -> &'a str {
    let bits = numbers.below(13);
    let index = numbers.below(1 << (bits + 1)) % words.len() as u64;
    &words[usize::try_from(index).unwrap_or(0)]
}

fn prose(block: &mut Vec<u8>, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    for _ in 0..8 + numbers.below(9) {
        write!(block, "{} ", word(words, numbers))?;
    }
    writeln!(block, "{}.", word(words, numbers))
}

//! Changes of valid bytes.

use lifeboat_testkit::bench_data::Numbers;

use crate::corpus::File;

/// Longer than anything in the corpus, short enough for many rounds.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Heads of CBOR items with lengths that are nowhere near, indefinite ones and breaks.
const HEADS: [&[u8]; 12] = [
    &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xbb, 0, 0, 0, 1, 0, 0, 0, 0],
    &[0x5b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    &[0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x9a, 0, 1, 0, 0],
    &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0],
    &[0x9f],
    &[0xbf],
    &[0x5f],
    &[0xff],
    &[0xf6],
];

fn below(random: &mut Numbers, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).expect("small")
}

fn byte(random: &mut Numbers) -> u8 {
    let edges = [0, 1, 0x17, 0x18, 0x7f, 0x80, 0xa0, 0xff];
    if random.below(2) == 0 { edges[below(random, edges.len())] } else { random.below(256).to_le_bytes()[0] }
}

/// One of the files with one to four changes.
pub(crate) fn mutate(files: &[File], random: &mut Numbers) -> Vec<u8> {
    let mut bytes = files[below(random, files.len())].bytes.clone();
    for _ in 0..=random.below(4) {
        change(&mut bytes, &files[below(random, files.len())].bytes, random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Numbers) {
    let length = bytes.len();
    let at = below(random, length + 1);
    let end = at + below(random, (length - at).min(40) + 1);
    match random.below(12) {
        0 | 1 if at < length => bytes[at] ^= 1 << random.below(8),
        2 | 3 if at < length => bytes[at] = byte(random),
        4 => {
            let new: Vec<u8> = (0..=random.below(8)).map(|_| byte(random)).collect();
            bytes.splice(at..at, new).for_each(drop);
        }
        5 => drop(bytes.drain(at..end)),
        6 => {
            let part = bytes[at..end].repeat(1 + below(random, 30));
            bytes.splice(at..at, part).for_each(drop);
        }
        7 => bytes.truncate(at),
        8 => {
            let from = below(random, other.len() + 1);
            bytes.splice(at.., other[from..].iter().copied()).for_each(drop);
        }
        9 => {
            let head = HEADS[below(random, HEADS.len())];
            bytes.splice(at..(at + head.len()).min(length), head.iter().copied()).for_each(drop);
        }
        10 => unknown_field(bytes, random),
        _ => {
            let nested = [[0x81, 0xa1, 0xd8][below(random, 3)]].repeat(1 + below(random, 20_000));
            bytes.splice(at..at, nested).for_each(drop);
        }
    }
}

/// Puts a field that no reader knows behind those of a record: deep, wide, or long.
fn unknown_field(bytes: &mut Vec<u8>, random: &mut Numbers) {
    let Some(head @ 0xa0..=0xb6) = bytes.first_mut() else { return };
    *head += 1;
    bytes.push(0x17);
    let many = 1 + below(random, 30_000);
    match random.below(4) {
        0 => bytes.extend(std::iter::repeat_n(0x81, many)),
        1 => {
            bytes.extend([0x9a, 0, 0]);
            bytes.extend(u16::try_from(many).expect("small").to_be_bytes());
            bytes.extend(std::iter::repeat_n(0xa0, many));
        }
        2 => bytes.extend(HEADS[below(random, HEADS.len())]),
        _ => bytes.push(0xf6),
    }
}

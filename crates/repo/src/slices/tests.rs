use std::collections::VecDeque;

use lifeboat_model::Digest;
use proptest::prelude::*;

use super::plan::{LOADED_MAX, Part, Plan};
use super::*;

const KEY: Secret = Secret([3; 32]);
const BINDING: Digest = Digest([4; 32]);

fn slicer(shape: Shape) -> Slicer {
    Slicer::new(Cutter::new(&Secret([7; 32])), Secret([8; 32]), shape)
}

fn id(number: u32) -> ChunkId {
    ChunkId::from(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A chunk that is stored whole.
fn whole(number: u32, bytes: &[u8]) -> Segment {
    let slices = slicer(Shape::Rows).slices(bytes);
    let len = u32::try_from(bytes.len()).expect("short");
    Segment { chunk: id(number), places: vec![Place { chunk: id(number), offset: 0, len }], slices }
}

fn write(segments: &[Segment]) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = SliceMapWriter::create(directory.path(), &KEY, &BINDING).expect("made");
    for segment in segments {
        writer.segment(segment).expect("written");
    }
    let path = directory.path().join("map");
    writer.finish().expect("written").persist(&path).expect("renamed");
    (directory, path)
}

fn window(segments: &[Segment]) -> Window {
    let (_directory, path) = write(segments);
    Window::new(SliceMap::open(&path, &KEY, &BINDING).expect("a map"))
}

/// How a chunk is stored that is not at hand.
fn parts(window: &mut Window, chunk: ChunkId, plain: &[u8], at_hand: impl Fn(&ChunkId) -> bool) -> Vec<Part> {
    let own = slicer(Shape::Rows);
    window.plan(&own, (&chunk, plain), &own.slices(plain), at_hand).expect("planned").parts
}

#[test]
fn a_map_gives_back_what_was_written() {
    let segments: Vec<_> = (0..20).map(|number| whole(number, &noise(1, 3000 * number as usize))).collect();
    let (_directory, path) = write(&segments);
    let map = SliceMap::open(&path, &KEY, &BINDING).expect("a map");
    assert_eq!(map.len(), 20);
    for (number, segment) in segments.iter().enumerate() {
        assert_eq!(map.segment(number).expect("read"), *segment);
        assert_eq!(map.number(&segment.chunk), Some(number));
    }
    assert_eq!(map.number(&id(99)), None);
    assert!(map.segment(20).is_err());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
fn a_map_that_is_damaged_or_of_another_source_is_none() {
    let (_directory, path) = write(&[whole(1, &noise(1, 50_000))]);
    let bytes = std::fs::read(&path).expect("read");
    assert!(SliceMap::open(&path, &KEY, &Digest([5; 32])).is_err());
    assert!(SliceMap::open(&path, &Secret([5; 32]), &BINDING).is_err());
    for at in [0, 20, 60, bytes.len() / 2, bytes.len() - 40, bytes.len() - 1] {
        let mut hurt = bytes.clone();
        hurt[at] ^= 1;
        std::fs::write(&path, &hurt).expect("written");
        assert!(SliceMap::open(&path, &KEY, &BINDING).is_err(), "a bit at {at}");
        std::fs::write(&path, &bytes[..at]).expect("written");
        assert!(SliceMap::open(&path, &KEY, &BINDING).is_err(), "cut off at {at}");
    }
}

#[test]
fn slices_are_the_chunk_and_pages_are_aligned() {
    let bytes = noise(2, 100_000);
    for shape in [Shape::Stream, Shape::Rows, Shape::Pages] {
        let slices = slicer(shape).slices(&bytes);
        assert_eq!(slices.iter().map(|slice| slice.len as usize).sum::<usize>(), bytes.len());
        let (_, body) = slices.split_last().expect("slices");
        assert!(body.iter().all(|slice| (256..=8192).contains(&slice.len)));
        assert!(shape != Shape::Pages || body.iter().all(|slice| slice.len == 8192));
    }
}

#[test]
fn a_change_refers_to_the_old_chunk_and_brings_a_slice_or_two() {
    let before = noise(3, 60_000);
    let mut after = before.clone();
    after.splice(30_000..30_010, *b"some other length");
    let mut window = window(&[whole(0, &noise(9, 40_000)), whole(1, &before)]);
    let parts = parts(&mut window, id(77), &after, |_| true);
    let [Part::Old(first), Part::Fresh(fresh), Part::Old(last)] = parts[..] else { panic!("{parts:?}") };
    assert!(fresh < 8192, "{fresh}");
    assert_eq!((first.chunk, first.offset), (id(1), 0));
    assert_eq!((last.chunk, last.offset + last.len), (id(1), 60_000));
    assert_eq!(first.len + fresh + last.len, 60_007);
}

#[test]
fn what_saves_little_or_is_not_at_hand_is_stored_whole() {
    let before = noise(4, 60_000);
    let mut window = window(&[whole(1, &before)]);
    let whole_chunk = |len| [Part::Fresh(len)];
    assert_eq!(parts(&mut window, id(2), &before, |_| false), whole_chunk(60_000));
    let little = [&before[..9_000], &noise(5, 51_000)].concat();
    assert_eq!(parts(&mut window, id(3), &little, |_| true), whole_chunk(60_000));
    let other = noise(6, 10_000);
    assert_eq!(parts(&mut window, id(4), &other, |_| true), whole_chunk(10_000));
}

#[test]
fn the_window_follows_the_stream_and_a_known_chunk_moves_it_anywhere() {
    let body = |number: u32| {
        let mut bytes = vec![0; 3000];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    let chunks: Vec<Vec<u8>> = (0..2000).map(body).collect();
    let segments: Vec<_> = (0..).zip(&chunks).map(|(number, bytes)| whole(number, bytes)).collect();
    let mut window = window(&segments);
    let found = |window: &mut Window, number: usize| {
        let parts = parts(window, ChunkId::from([9; 32]), &chunks[number], |_| true);
        matches!(parts[..], [Part::Old(place)] if place.chunk == segments[number].chunk)
    };
    assert!(found(&mut window, 0));
    assert!(!found(&mut window, 1500), "beyond its reach");
    window.met(&segments[1490].chunk).expect("moved");
    assert!(found(&mut window, 1500));
    assert!(found(&mut window, 1700));
    assert!(!found(&mut window, 3), "behind its reach");
    window.met(&segments[5].chunk).expect("moved back");
    assert!(found(&mut window, 3));
    for number in 3..2000 {
        assert!(found(&mut window, number), "{number}, one after the other");
    }
}

#[test]
fn a_window_over_very_many_slices_reaches_ahead_all_the_same() {
    let slice = |segment: u32, number: u32| {
        let mut hash = [0; HASH_BYTES];
        hash[..4].copy_from_slice(&segment.to_le_bytes());
        hash[4..8].copy_from_slice(&number.to_le_bytes());
        Slice { hash, len: 10 }
    };
    let segment = |number| {
        let place = Place { chunk: id(number), offset: 0, len: 40_000 };
        Segment {
            chunk: id(number),
            places: vec![place],
            slices: (0..4000).map(|slice_of| slice(number, slice_of)).collect(),
        }
    };
    let mut window = window(&(0..400).map(segment).collect::<Vec<_>>());
    let own = slicer(Shape::Rows);
    // All of a window's slices would lie behind the place.
    for number in [10, 50, 140, 250, 390] {
        window.met(&id(number)).expect("moved");
        let bytes = vec![0; 40_000];
        let next: Vec<Slice> = (0..4000).map(|slice_of| slice(number + 8, slice_of)).collect();
        let plan = window.plan(&own, (&id(999), &bytes), &next, |_| true).expect("planned");
        assert_eq!(plan.parts, [Part::Old(Place { chunk: id(number + 8), offset: 0, len: 40_000 })], "{number}");
        assert!(window.held() < LOADED_MAX + 4000, "{} are held", window.held());
    }
}

/// Chunks as a store would hold them.
type Chunks = std::collections::HashMap<ChunkId, Vec<u8>>;

/// Stores a stream as the writer does, and returns its segments.
fn store(stream: &[u8], old: Option<&[Segment]>, chunks: &mut Chunks) -> Vec<Segment> {
    let (cutter, own) = (Cutter::new(&Secret([7; 32])), slicer(Shape::Rows));
    let small = Profile { min: 4096, avg: 8192, max: 16_384 };
    let mut window = old.map(window);
    let mut rest = stream;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(cutter.cut(small, rest));
        rest = after;
        let name = |bytes: &[u8]| ChunkId::from(*blake3::hash(bytes).as_bytes());
        let (cut, slices) = (name(chunk), own.slices(chunk));
        let len = u32::try_from(chunk.len()).expect("short");
        let Plan { parts, slices } = match &mut window {
            _ if chunks.contains_key(&cut) => {
                Plan { parts: vec![Part::Old(Place { chunk: cut, offset: 0, len })], slices }
            }
            Some(window) => window.plan(&own, (&cut, chunk), &slices, |id| chunks.contains_key(id)).expect("planned"),
            None => Plan { parts: vec![Part::Fresh(len)], slices },
        };
        let (mut fresh, mut at) = (Vec::new(), 0);
        let mut places = VecDeque::new();
        for part in &parts {
            let end = at + part.len() as usize;
            if let Part::Fresh(_) = part {
                places.push_back((u32::try_from(fresh.len()).expect("short"), part.len()));
                fresh.extend_from_slice(&chunk[at..end]);
            }
            at = end;
        }
        assert_eq!(at, chunk.len());
        let fresh_id = name(&fresh);
        chunks.insert(fresh_id, fresh);
        let places = parts.iter().map(|part| match part {
            Part::Old(place) => *place,
            Part::Fresh(_) => {
                let (offset, len) = places.pop_front().expect("counted");
                Place { chunk: fresh_id, offset, len }
            }
        });
        out.push(Segment { chunk: cut, places: places.collect(), slices });
    }
    out
}

fn read(segments: &[Segment], chunks: &Chunks) -> Vec<u8> {
    let places = segments.iter().flat_map(|segment| &segment.places);
    places.flat_map(|place| chunks[&place.chunk][place.offset as usize..][..place.len as usize].to_vec()).collect()
}

/// Rows of a dump, of which those of `changed` are of another day.
fn rows(changed: impl Fn(u32) -> bool) -> Vec<u8> {
    let value = |row: u32| blake3::hash(&[&row.to_le_bytes()[..], &[u8::from(changed(row))]].concat()).to_hex();
    (0..400).flat_map(|row| format!("{row:04}\t{0}\t{0}\n", value(row)).into_bytes()).collect()
}

fn fresh_bytes(parts: &[Part]) -> u32 {
    parts.iter().filter(|part| matches!(part, Part::Fresh(_))).map(Part::len).sum()
}

#[test]
fn rows_that_change_where_others_did_the_day_before_cost_themselves() {
    let own = slicer(Shape::Rows);
    let first = rows(|_| false);
    let row_bytes = u32::try_from(first.len() / 400).expect("short");
    let mut old = window(&[whole(1, &first)]);
    let second = rows(|row| row % 20 == 3);
    let plan = old.plan(&own, (&id(2), &second), &own.slices(&second), |_| true).expect("planned");
    let first_cost = fresh_bytes(&plan.parts);
    assert!(first_cost > 3 * 20 * row_bytes, "a slice has several rows: {first_cost} bytes");
    // The next day the rows behind those change.
    let mut at = 0;
    let places = plan.parts.iter().map(|part| match part {
        Part::Old(place) => *place,
        Part::Fresh(len) => {
            at += len;
            Place { chunk: id(3), offset: at - len, len: *len }
        }
    });
    let mut old = window(&[Segment { chunk: id(2), places: places.collect(), slices: plan.slices.clone() }]);
    let cost = fresh_bytes(&parts(&mut old, id(4), &rows(|row| row % 20 == 3 || row % 20 == 4), |_| true));
    assert!(cost < first_cost * 2 / 3, "{cost} bytes for 20 rows of {row_bytes}, {first_cost} the day before");
}

#[test]
fn fine_slices_are_the_slice_and_end_with_rows() {
    let text = rows(|_| false);
    for (bytes, own) in [(&text, slicer(Shape::Stream)), (&noise(1, 20_000), slicer(Shape::Rows))] {
        for (slice, at) in own.slices(bytes).into_iter().scan(0, |at, slice| {
            *at += slice.len as usize;
            Some((slice, *at - slice.len as usize))
        }) {
            let fine = own.fine(&bytes[at..][..slice.len as usize]);
            assert_eq!(fine.iter().map(|fine| fine.len).sum::<u32>(), slice.len);
            assert!(fine.iter().all(|fine| fine.len <= 1024));
        }
    }
    let ends = slicer(Shape::Stream).fine(&text[..8000]).into_iter().scan(0, |at, fine| {
        *at += fine.len as usize;
        Some(*at)
    });
    let ends: Vec<usize> = ends.collect();
    assert!(ends[..ends.len() - 1].iter().all(|end| text[end - 1] == b'\n'), "{ends:?}");
    let page = noise(2, 8192);
    assert_eq!(slicer(Shape::Pages).fine(&page), slicer(Shape::Pages).slices(&page));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_stream_that_is_edited_for_days_is_always_what_it_was(
        edits in prop::collection::vec(prop::collection::vec((0usize..300_000, 0usize..2000, 0usize..2000, any::<u8>()), 1..12), 1..6),
        pruned in any::<u8>(),
    ) {
        let mut stream = noise(1, 300_000);
        let mut chunks = Chunks::new();
        let mut segments = store(&stream, None, &mut chunks);
        for day in edits {
            for (at, gone, come, seed) in day {
                let at = at.min(stream.len());
                let end = (at + gone).min(stream.len());
                stream.splice(at..end, noise(seed, come));
            }
            // Something that the map still names is no longer there.
            let lost = chunks.keys().find(|id| id.bytes()[0] == pruned).copied();
            lost.map(|id| chunks.remove(&id));
            segments = store(&stream, Some(&segments), &mut chunks);
            prop_assert!(read(&segments, &chunks) == stream);
        }
    }
}

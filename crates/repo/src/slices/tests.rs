use std::collections::VecDeque;

use lifeboat_model::Digest;
use proptest::prelude::*;

use super::plan::Part;
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
    let parts = window.plan(&id(77), &slicer(Shape::Rows).slices(&after), |_| true).expect("planned");
    let [Part::Old(first), Part::Fresh(fresh), Part::Old(last)] = parts[..] else { panic!("{parts:?}") };
    assert!(fresh < 8192, "{fresh}");
    assert_eq!((first.chunk, first.offset), (id(1), 0));
    assert_eq!((last.chunk, last.offset + last.len), (id(1), 60_000));
    assert_eq!(first.len + fresh + last.len, 60_007);
}

#[test]
fn what_saves_little_or_is_not_at_hand_is_stored_whole() {
    let before = noise(4, 60_000);
    let own = slicer(Shape::Rows);
    let mut window = window(&[whole(1, &before)]);
    let whole_chunk = |len| [Part::Fresh(len)];
    assert_eq!(window.plan(&id(2), &own.slices(&before), |_| false).expect("planned"), whole_chunk(60_000));
    let little = [&before[..9_000], &noise(5, 51_000)].concat();
    assert_eq!(window.plan(&id(3), &own.slices(&little), |_| true).expect("planned"), whole_chunk(60_000));
    let other = noise(6, 10_000);
    assert_eq!(window.plan(&id(4), &own.slices(&other), |_| true).expect("planned"), whole_chunk(10_000));
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
    let own = slicer(Shape::Rows);
    let found = |window: &mut Window, number: usize| {
        let parts = window.plan(&ChunkId::from([9; 32]), &own.slices(&chunks[number]), |_| true).expect("planned");
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
        let (cut, cut_slices) = (name(chunk), own.slices(chunk));
        let len = u32::try_from(chunk.len()).expect("short");
        let parts = match &mut window {
            _ if chunks.contains_key(&cut) => vec![Part::Old(Place { chunk: cut, offset: 0, len })],
            Some(window) => window.plan(&cut, &cut_slices, |id| chunks.contains_key(id)).expect("planned"),
            None => vec![Part::Fresh(len)],
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
        out.push(Segment { chunk: cut, places: places.collect(), slices: cut_slices });
    }
    out
}

fn read(segments: &[Segment], chunks: &Chunks) -> Vec<u8> {
    let places = segments.iter().flat_map(|segment| &segment.places);
    places.flat_map(|place| chunks[&place.chunk][place.offset as usize..][..place.len as usize].to_vec()).collect()
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

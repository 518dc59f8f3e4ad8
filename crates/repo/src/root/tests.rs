use proptest::prelude::*;

use super::*;
use crate::hand::Hand;
use crate::roster::RemovedWriter;
use crate::testing::TestRepository;

struct Made {
    hand: Hand,
    header: RootHeader,
    body: RootBody,
    id: SnapshotId,
    bytes: Bytes,
}

async fn made() -> Made {
    let hand = Hand::new().await;
    let header = RootHeader { original: Some([4; 32].into()), ..hand.header(2, Some([1; 32].into())) };
    let body = Hand::body(Some([5; 32].into()));
    let (id, bytes) = root_of(&hand, &header, &body, hand.writer());
    Made { hand, header, body, id, bytes }
}

fn root_of(hand: &Hand, header: &RootHeader, body: &RootBody, signer: &SignKey) -> (SnapshotId, Bytes) {
    let keys =
        RootKeys { index: &hand.keys().index, content: &hand.content, references: &hand.references, sign: signer };
    encode(header, &RootRefs { top: Some([6; 32].into()) }, body, &keys)
}

#[tokio::test]
async fn each_role_opens_its_part_of_a_root_and_no_other() {
    let Made { hand, header, body, id, bytes } = made().await;
    let open = |access: &Access| decode(access, id, &bytes).expect("opened");
    let writer = open(&hand.test.writer);
    assert_eq!((&writer.header, writer.refs, writer.body), (&header, None, None));
    let refs = Some(RootRefs { top: Some([6; 32].into()) });
    let maintainer = open(&hand.test.maintainer);
    assert_eq!((&maintainer.header, maintainer.refs, maintainer.body), (&header, refs, None));
    let identity = open(&hand.test.identity);
    assert_eq!((&identity.header, identity.refs, identity.body), (&header, refs, Some(body)));
    assert_eq!((identity.writer, identity.writer_stands, identity.id), (hand.writer().verify_key(), true, id));
}

#[tokio::test]
async fn a_flipped_bit_or_a_cut_is_noticed_even_under_a_name_of_its_own() {
    let Made { hand, id, bytes, .. } = made().await;
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(decode(&hand.test.all, id, &flipped), Err(ObjectError::WrongHash));
        let own = SnapshotId(Digest::of(&flipped));
        assert!(decode(&hand.test.all, own, &flipped).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        assert!(decode(&hand.test.all, SnapshotId(Digest::of(cut)), cut).is_err());
    }
}

#[tokio::test]
async fn a_root_of_a_stranger_or_for_another_stack_is_refused_by_name() {
    let Made { hand, header, body, .. } = made().await;
    let stranger = SignKey::random();
    let (id, bytes) = root_of(&hand, &header, &body, &stranger);
    assert_eq!(decode(&hand.test.all, id, &bytes), Err(ObjectError::Stranger(stranger.verify_key())));

    let other = StackName::new("other").expect("a name");
    let header = RootHeader {
        stack_tag: hand.keys().stack_tag(&other),
        source_tag: hand.keys().source_tag(&other, &body.source),
        ..header
    };
    let (id, bytes) = root_of(&hand, &header, &RootBody { stack: other, ..body.clone() }, hand.writer());
    for access in [&hand.test.writer, &hand.test.maintainer, &hand.test.identity] {
        assert_eq!(decode(access, id, &bytes), Err(ObjectError::NotAllowed(hand.writer().verify_key())));
    }

    let lie = RootHeader { source_tag: Digest([1; 32]), ..hand.header(1, None) };
    let (id, bytes) = root_of(&hand, &lie, &body, hand.writer());
    assert!(matches!(decode(&hand.test.identity, id, &bytes), Err(ObjectError::Malformed(_))));
}

#[tokio::test]
async fn a_removed_writers_root_is_open_but_marked() {
    let Made { hand, id, bytes, .. } = made().await;
    let mut access = hand.test.identity.clone();
    let writer = access.roster.writers.remove(0);
    assert!(matches!(decode(&access, id, &bytes), Err(ObjectError::Stranger(_))));
    access.roster.removed.push(RemovedWriter { verify: writer.verify, domain: writer.domain, roots: Vec::new() });
    assert!(!decode(&access, id, &bytes).expect("opened").writer_stands);
}

#[tokio::test]
async fn only_an_identity_vouches_for_an_earlier_time() {
    let Made { hand, header, body, .. } = made().await;
    let then = TestRepository::start();
    let envelopes = [&hand.references.envelope, &hand.content.envelope];
    let sign = |signer: &SignKey, time| Countersign::make(hand.test.all.repository, &header, envelopes, time, signer);
    let with = |countersigned| {
        let header = RootHeader { countersigned: Some(countersigned), ..header.clone() };
        let (id, bytes) = root_of(&hand, &header, &body, hand.writer());
        decode(&hand.test.identity, id, &bytes).map(|root| root.header.countersigned)
    };
    let identity = hand.test.identity.maintain.as_ref().expect("an identity signs");
    let good = sign(identity, then);
    assert_eq!(with(good.clone()), Ok(Some(good.clone())));
    let moved = Countersign { time: "2020-01-01T00:00:00Z".parse().expect("a time"), ..good.clone() };
    assert!(with(moved).is_err());
    assert!(matches!(with(sign(hand.writer(), then)), Err(ObjectError::Stranger(_))));
    let claimed = RootHeader { original: Some([3; 32].into()), ..header.clone() };
    assert_eq!(claimed.copied_from(), None, "a writer alone names no original");
    assert_eq!(RootHeader { countersigned: Some(good), ..claimed }.copied_from(), Some([3; 32].into()));
}

#[tokio::test]
async fn the_word_for_one_root_is_good_for_no_other_content() {
    let Made { hand, header, body, .. } = made().await;
    let identity = hand.test.identity.maintain.as_ref().expect("an identity signs");
    let envelopes = [&hand.references.envelope, &hand.content.envelope];
    let word = Countersign::make(hand.test.all.repository, &header, envelopes, TestRepository::start(), identity);
    let header = RootHeader { countersigned: Some(word), ..header };
    let (id, bytes) = root_of(&hand, &header, &body, hand.writer());
    assert!(decode(&hand.test.writer, id, &bytes).is_ok());
    // A thief has the writer's key and reads headers, but knows no secret of a run that is over.
    let thief = Hand::new().await;
    for (content, references) in
        [(&thief.content, &hand.references), (&hand.content, &thief.references), (&thief.content, &thief.references)]
    {
        let keys = RootKeys { index: &hand.keys().index, content, references, sign: hand.writer() };
        let (id, bytes) = encode(&header, &RootRefs { top: None }, &body, &keys);
        assert!(decode(&hand.test.writer, id, &bytes).is_err());
    }
}

#[tokio::test]
async fn what_a_retired_identity_vouched_for_stands() {
    let Made { hand, header, body, .. } = made().await;
    let identity = hand.test.identity.maintain.as_ref().expect("an identity signs");
    let (then, envelopes) = (TestRepository::start(), [&hand.references.envelope, &hand.content.envelope]);
    let word = Countersign::make(hand.test.all.repository, &header, envelopes, then, identity);
    let header = RootHeader { countersigned: Some(word), ..header };
    let (id, bytes) = root_of(&hand, &header, &body, hand.writer());
    let mut access = hand.test.identity.clone();
    let verify = access.roster.identities.remove(0).verify;
    assert_eq!(decode(&access, id, &bytes), Err(ObjectError::Stranger(verify)));
    access.roster.retired.push(crate::roster::RetiredKey { verify, removed: then, words: vec![] });
    assert_eq!(decode(&access, id, &bytes).expect("it stands").header, header);
}

#[tokio::test]
async fn parts_of_two_roots_do_not_mix() {
    let Made { hand, header, body, bytes, .. } = made().await;
    let (_, other) = root_of(&hand, &RootHeader { sequence: 9, ..header }, &body, hand.writer());
    let (_, first) = verify(hand.test.all.repository, ObjectType::SnapshotRoot, &bytes).expect("signed");
    let (_, second) = verify(hand.test.all.repository, ObjectType::SnapshotRoot, &other).expect("signed");
    let a_len = 4 + u32::from_le_bytes(*first.first_chunk().expect("a length")) as usize;
    let mixed = [&second[..a_len], &first[a_len..]].concat();
    let mixed = sign(hand.test.all.repository, ObjectType::SnapshotRoot, &mixed, hand.writer());
    assert!(decode(&hand.test.writer, SnapshotId(Digest::of(&mixed)), &mixed).is_ok(), "the writer sees part A only");
    assert!(decode(&hand.test.identity, SnapshotId(Digest::of(&mixed)), &mixed).is_err());
}

#[test]
fn the_bytes_of_the_parts_are_those_of_the_format() {
    let header = RootHeader {
        stack_tag: Digest([1; 32]),
        source_tag: Digest([2; 32]),
        sequence: 3,
        previous: Some([4; 32].into()),
        time: Timestamp::new(5, 6).expect("a time"),
        roster_number: 7,
        roster_hash: [8; 32].into(),
        run: RunId([9; 16]),
        original: None,
        countersigned: None,
        systems: vec![Digest([10; 32])],
    };
    let bytes = |byte: &str, count| format!("58{count:02x}{}", byte.repeat(count));
    let golden = format!(
        "a9 00{} 01{} 02 03 03{} 04 82 05 06 05 07 06{} 07 50{} 0a 81{}",
        bytes("01", 32),
        bytes("02", 32),
        bytes("04", 32),
        bytes("08", 32),
        "09".repeat(16),
        bytes("0a", 32),
    );
    assert_eq!(hex::encode(fields::write_header(&header)), golden.replace(' ', ""));
    assert_eq!(fields::read_header(&fields::write_header(&header)), Ok(header));
    let refs = RootRefs { top: Some([1; 32].into()) };
    assert_eq!(hex::encode(fields::write_refs(&refs)), format!("a100{}", bytes("01", 32)));
    assert_eq!(fields::read_refs(&fields::write_refs(&refs)), Ok(refs));
    let body = RootBody {
        stack: StackName::new("s").expect("a name"),
        source: SourceName::new("d").expect("a name"),
        kind: "files".into(),
        recovery_point: RecoveryPoint {
            time: Timestamp::new(-1, 0).expect("a time"),
            consistency: "c".into(),
            facts: BTreeMap::from([("k".into(), "v".into())]),
        },
        top: None,
        stats: BTreeMap::from([("bytes".into(), 300)]),
        config: "x".into(),
        label: None,
        problems: vec![(b"p".to_vec(), "q".into())],
        stack_run: None,
    };
    let golden = "a7 00 6173 01 6164 02 6566696c6573 03 a3 00 82 20 00 01 6163 02 a1 616b 6176 \
                  05 a1 656279746573 19012c 06 6178 08 81 82 4170 6171";
    assert_eq!(hex::encode(fields::write_body(&body)), golden.replace(' ', ""));
    assert_eq!(fields::read_body(&fields::write_body(&body)), Ok(body));
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_of_the_parts_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = fields::read_header(&bytes);
        let _ = fields::read_refs(&bytes);
        let _ = fields::read_body(&bytes);
        prop_assert!(split_parts(&bytes).is_err() || bytes.len() >= 12);
    }
}

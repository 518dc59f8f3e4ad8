use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::hand::Hand;
use crate::sealed::Role;

fn time() -> Timestamp {
    Timestamp::new(5, 6).expect("a time")
}

fn plain<T: Small>(value: &T) -> Vec<u8> {
    Build::record(|map| value.write(map))
}

/// The bytes, that they come back, and that no change of them makes the reader panic.
fn golden<T: Small + PartialEq + Debug>(value: &T, expected: &str) {
    let bytes = plain(value);
    assert_eq!(hex::encode(&bytes), expected.replace(' ', ""));
    assert_eq!(Parse::whole(&bytes, T::read).as_ref(), Ok(value));
    for length in 0..bytes.len() {
        assert!(Parse::whole(&bytes[..length], T::read).is_err());
    }
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let _ = Parse::whole(&flipped, T::read);
    }
}

#[test]
fn the_bytes_of_the_small_objects_are_those_of_the_format() {
    let long = |byte: &str| format!("5820{}", byte.repeat(32));
    let run = RunId([9; 16]);
    let run_hex = format!("50{}", "09".repeat(16));
    golden(
        &Run { run, source_tag: Digest([1; 32]), time: time() },
        &format!("a3 00{run_hex} 01{} 02 820506", long("01")),
    );
    golden(
        &Renewal { run, number: 2, marks_seen: vec![[1; 32].into()], pins: vec![], ended: true },
        &format!("a5 00{run_hex} 01 02 02 81{} 03 80 04 f5", long("01")),
    );
    let verdict = format!("00{} 01 6177 02 820506", long("01"));
    let (snapshot, why) = (SnapshotId::from([1; 32]), "w".to_owned());
    golden(&Forget { snapshot, why: why.clone(), time: time() }, &format!("a3 {verdict}"));
    golden(&Void { snapshot, why: why.clone(), time: time() }, &format!("a3 {verdict}"));
    golden(&Hold { snapshot, why: why.clone(), time: time(), release: false }, &format!("a3 {verdict}"));
    golden(&Hold { snapshot, why: why.clone(), time: time(), release: true }, &format!("a4 {verdict} 03 f5"));
    golden(
        &Mark {
            time: time(),
            packs: vec![(PackKind::Data, [1; 32].into())],
            indexes: vec![[2; 32].into()],
            others: vec![Key::new("run/a").expect("a key")],
        },
        &format!("a4 00 820506 01 81 82 04{} 02 81{} 03 81 6572756e2f61", long("01"), long("02")),
    );
    golden(
        &Deleting { mark: [1; 32].into(), time: time(), kept: vec![[2; 32].into()] },
        &format!("a3 00{} 01 820506 02 81{}", long("01"), long("02")),
    );
    golden(
        &Quarantine { time: time(), chunks: vec![[1; 32].into()], why },
        &format!("a3 00 820506 01 81{} 02 6177", long("01")),
    );
}

#[tokio::test]
async fn only_those_who_may_sign_a_type_are_believed() {
    let hand = Hand::new().await;
    let maintainer = hand.test.maintainer.maintain.as_ref().expect("a maintainer");
    let identity = hand.test.identity.maintain.as_ref().expect("an identity");
    let index = &hand.keys().index;
    let role = |(key, bytes): (Key, Bytes), decode: fn(&Access, ObjectHash, &[u8]) -> Result<Role, ObjectError>| {
        let hash = ObjectHash::from_hex(key.as_str().rsplit('/').next().expect("a name")).expect("a hash");
        decode(&hand.test.writer, hash, &bytes)
    };
    let forget = Forget { snapshot: [1; 32].into(), why: String::new(), time: time() };
    let read = |access: &Access, hash, bytes: &[u8]| Ok(decode::<Forget>(access, hash, bytes)?.role);
    assert_eq!(role(encode(&forget, index, maintainer), read), Ok(Role::Maintainer));
    assert_eq!(role(encode(&forget, index, identity), read), Ok(Role::Identity));
    let writer = hand.writer();
    assert_eq!(role(encode(&forget, index, writer), read), Err(ObjectError::Stranger(writer.verify_key())));
    let run = Run { run: RunId([1; 16]), source_tag: Digest([1; 32]), time: time() };
    let read = |access: &Access, hash, bytes: &[u8]| Ok(decode::<Run>(access, hash, bytes)?.role);
    assert_eq!(role(encode(&run, index, writer), read), Ok(Role::Writer));
    assert!(role(encode(&run, index, maintainer), read).is_err());
    let void = Void { snapshot: [1; 32].into(), why: String::new(), time: time() };
    let read = |access: &Access, hash, bytes: &[u8]| Ok(decode::<Void>(access, hash, bytes)?.role);
    assert_eq!(role(encode(&void, index, writer), read), Ok(Role::Writer));
    assert_eq!(role(encode(&void, index, maintainer), read), Ok(Role::Maintainer));
}

#[tokio::test]
async fn one_type_is_not_taken_for_another() {
    let hand = Hand::new().await;
    let forget = Forget { snapshot: [1; 32].into(), why: String::new(), time: time() };
    let (key, bytes) = encode(&forget, &hand.keys().index, hand.test.maintainer.maintain.as_ref().expect("a key"));
    let hash = ObjectHash::from_hex(key.as_str().trim_start_matches("forget/")).expect("a hash");
    assert!(matches!(decode::<Hold>(&hand.test.all, hash, &bytes), Err(ObjectError::WrongType { .. })));
    assert_eq!(decode::<Forget>(&hand.test.all, [0; 32].into(), &bytes), Err(ObjectError::WrongHash));
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Parse::whole(&bytes, Run::read);
        let _ = Parse::whole(&bytes, Renewal::read);
        let _ = Parse::whole(&bytes, Mark::read);
        let _ = Parse::whole(&bytes, Quarantine::read);
    }
}

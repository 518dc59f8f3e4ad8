use lifeboat_model::Digest;
use proptest::prelude::*;

use super::*;
use crate::crypt::SealSecret;
use crate::object::{Reader, Recipient};

const REPOSITORY: RepositoryId = RepositoryId([3; 16]);
const DOMAIN: DomainId = DomainId([5; 16]);

fn index_key() -> IndexKey {
    IndexKey { repository: REPOSITORY, domain: DOMAIN, key: Secret([9; 32]) }
}

fn envelope(secret: &Secret) -> Envelope {
    let recipient = Recipient { reader: Reader::Epoch, generation: 1, public: SealSecret(Secret([1; 32])).public() };
    Envelope::seal(REPOSITORY, &recipient, secret).expect("sealed")
}

fn id(plain: &[u8]) -> ChunkId {
    ChunkId(Digest::of(plain))
}

fn pack_of(chunks: &[Vec<u8>], secret: &Secret) -> FinishedPack {
    let mut pack = PackBuilder::new(PackKind::Data, REPOSITORY, DOMAIN, secret, envelope(secret), 1 << 16);
    for plain in chunks {
        pack.push(id(plain), plain, plain.len(), Codec::Plain);
        let squeezed = zstd::bulk::compress(plain, 1).expect("compressed");
        pack.push(id(plain), &squeezed, plain.len(), Codec::Zstd);
    }
    pack.finish(&index_key())
}

fn ciphertext(pack: &FinishedPack, record: &Record) -> Vec<u8> {
    pack.bytes[record.offset as usize..][..record.stored_len as usize].to_vec()
}

#[test]
fn a_whole_pack_tells_its_records_again() {
    let pack = pack_of(&[b"one".to_vec(), vec![7; 5000]], &Secret([4; 32]));
    let key = index_key();
    let read = PackContents::parse(PackKind::Data, &pack.bytes, |_| Some(&key)).expect("parsed");
    assert_eq!(read.pack_id, pack.pack_id);
    assert_eq!(read.trailer, Trailer { domain: DOMAIN, origins: pack.origins.clone(), records: pack.records.clone() });
    assert_eq!(pack.hash, ObjectHash(Digest::of(&pack.bytes)));
}

#[test]
fn every_flipped_bit_of_a_small_pack_is_noticed_by_trailer_or_record() {
    let secret = Secret([4; 32]);
    let pack = pack_of(&[b"some bytes".to_vec()], &secret);
    let (key, opened) = (index_key(), PackKey::new(REPOSITORY, &secret, PackKind::Data, pack.pack_id));
    // The envelope is told by its own test; the ids in front are only told by the hash of the whole.
    let last = pack.records.last().expect("a record");
    let envelope_start = (last.offset + last.stored_len) as usize;
    for at in (RECORDS_START..envelope_start).chain(envelope_start + ENVELOPE_BYTES..pack.bytes.len()) {
        let mut flipped = pack.bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let flipped = Bytes::from(flipped);
        let noticed = match PackContents::parse(PackKind::Data, &flipped, |_| Some(&key)) {
            Err(_) => true,
            Ok(read) => read.trailer.records.iter().any(|record| {
                let bytes = flipped[record.offset as usize..][..record.stored_len as usize].to_vec();
                opened.open(record, bytes).is_err()
            }),
        };
        assert!(noticed, "byte {at}");
    }
    for length in 0..pack.bytes.len() {
        assert!(PackContents::parse(PackKind::Data, &pack.bytes.slice(..length), |_| Some(&key)).is_err());
    }
}

#[test]
fn a_record_opens_only_with_its_own_origin_number_id_and_lengths() {
    let secret = Secret([4; 32]);
    let pack = pack_of(&[vec![7; 5000]], &secret);
    let key = PackKey::new(REPOSITORY, &secret, PackKind::Data, pack.pack_id);
    let good = pack.records[1];
    assert_eq!(key.open(&good, ciphertext(&pack, &good)).expect("opened"), vec![7; 5000]);
    let wrong = [
        Record { id: id(b"other"), ..good },
        Record { number: 0, ..good },
        Record { plain_len: 4999, ..good },
        Record { codec: Codec::Plain, plain_len: good.stored_len - 16, ..good },
    ];
    for record in wrong {
        assert!(key.open(&record, ciphertext(&pack, &good)).is_err(), "{record:?}");
    }
    let stranger = PackKey::new(REPOSITORY, &secret, PackKind::Data, PackId([0; 16]));
    assert!(stranger.open(&good, ciphertext(&pack, &good)).is_err());
}

#[test]
fn a_frame_that_decompresses_to_more_than_it_says_is_refused() {
    let secret = Secret([4; 32]);
    let mut pack = PackBuilder::new(PackKind::Data, REPOSITORY, DOMAIN, &secret, envelope(&secret), 1 << 16);
    let bomb = zstd::bulk::compress(&vec![0; 4 << 20], 1).expect("compressed");
    let record = *pack.push(id(b""), &bomb, 1000, Codec::Zstd);
    let pack = pack.finish(&index_key());
    let key = PackKey::new(REPOSITORY, &secret, PackKind::Data, pack.pack_id);
    assert!(key.open(&record, ciphertext(&pack, &record)).is_err());
}

#[test]
fn a_repacked_record_opens_with_the_key_of_its_origin() {
    let secrets = [Secret([4; 32]), Secret([6; 32])];
    let packs = secrets.each_ref().map(|secret| pack_of(&[vec![secret.0[0]; 900]], secret));
    let mut repacked = Repacker::new(PackKind::Data, DOMAIN, 1 << 16);
    for pack in &packs {
        for record in pack.records.iter().rev() {
            repacked.push_foreign(record, &ciphertext(pack, record), &pack.origins[0]).expect("taken");
        }
    }
    let cut = &packs[0].records[0];
    assert!(repacked.push_foreign(cut, b"cut", &packs[0].origins[0]).is_err());
    let repacked = repacked.finish(&index_key());
    let key = index_key();
    let read = PackContents::parse(PackKind::Data, &repacked.bytes, |_| Some(&key)).expect("parsed");
    assert_eq!(read.trailer.records.len(), 4);
    for record in &read.trailer.records {
        let origin = &read.trailer.origins[record.origin as usize];
        let secret = &secrets[usize::from(origin.pack == packs[1].pack_id)];
        let key = PackKey::new(REPOSITORY, secret, PackKind::Data, origin.pack);
        assert_eq!(key.open(record, ciphertext(&repacked, record)).expect("opened"), vec![secret.0[0]; 900]);
    }
}

#[test]
fn the_bytes_of_a_record_are_those_of_the_format() {
    let record = Record {
        id: ChunkId::from([0xab; 32]),
        offset: 0x0102_0304,
        stored_len: 116,
        plain_len: 100,
        number: 7,
        origin: 2,
        pack: 0x0506,
        codec: Codec::Plain,
        kind: PackKind::Meta,
    };
    let golden = "abababababababababababababababababababababababababababababababab\
                  040302017400000064000000070000000200000006050005";
    assert_eq!(hex::encode(record.encode()), golden);
    assert_eq!(Record::decode(&record.encode()), Ok(record));
}

proptest! {
    #[test]
    fn any_chunks_come_back(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..6)) {
        let secret = Secret([4; 32]);
        let pack = pack_of(&chunks, &secret);
        let key = PackKey::new(REPOSITORY, &secret, PackKind::Data, pack.pack_id);
        for (place, record) in pack.records.iter().enumerate() {
            prop_assert_eq!(&key.open(record, ciphertext(&pack, record)).expect("opened")[..], &chunks[place / 2][..]);
        }
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), records in 0u32..4, sealed in 0u32..400) {
        let mut bytes = bytes;
        bytes.extend_from_slice(&trailer::footer(records, sealed));
        let key = index_key();
        prop_assert!(Trailer::parse(PackKind::Data, bytes.len() as u64, &bytes.clone().into(), |_| Some(&key)).is_err());
        if let Some(record) = bytes.first_chunk::<RECORD_BYTES>() {
            let _ = Record::decode(record);
        }
    }
}

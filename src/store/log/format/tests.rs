//! The format reads back what it wrote, and nothing else.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SEGMENT_BYTES: u64 = 1 << 20;

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        slot: 5,
        life: *b"0123456789abcdef",
        log: *b"fedcba9876543210",
        read_head: false,
        segment_bytes: SEGMENT_BYTES,
        ordinal: 9,
        previous: Position::new(8, 4096),
        mark: Position::new(7, 8),
        next_seq: Seq(1234),
    }
}

fn header(at: u32, body: &[u8]) -> RecordHeader {
    let (body_at, _) = place(at, body.len());
    RecordHeader {
        at,
        batch_previous: at,
        batch_before: 1,
        batch_after: 2,
        kind: Kind::Data,
        seq: Seq(77),
        blob: BlobId(8),
        offset: 99,
        len: body.len() as u64,
        time_ns: -5,
        mark: Position::new(3, 4),
        owner: OwnerId(6),
        body_at,
        body_len: body.len() as u32,
    }
}

#[test]
fn every_flip_of_a_segment_header_is_noticed_and_the_copy_serves() {
    let whole = segment_header().encode();
    assert_eq!(SegmentHeader::decode(&whole), Ok(segment_header()));
    assert_eq!(SegmentHeader::decode(&whole[BLOCK_BYTES..]), Ok(segment_header()));
    for at in 0..SEGMENT_FIELDS {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            let decoded = SegmentHeader::decode(&damaged);
            let newer = at == 7 && decoded == Err(NotASegment::Version(1 ^ (1 << bit)));
            assert!(decoded == Err(NotASegment::Damaged) || newer, "byte {at} bit {bit}: {decoded:?}");
        }
    }
    assert_eq!(SegmentHeader::decode(&whole[..50]), Err(NotASegment::Damaged));
}

#[test]
fn every_flip_of_a_record_header_is_noticed() {
    let (life, body) = (segment_header().life, vec![1; 9000]);
    let seed = life_seed(&life);
    let record = header(8192, &body);
    let mut whole = Vec::new();
    record.encode(&table_of(&body), &life, seed, &mut whole);
    assert_eq!(whole.len(), RECORD_FIXED + 12);
    let decode = |bytes: &[u8]| RecordHeader::decode(bytes, &life, seed, 8192, SEGMENT_BYTES);
    assert_eq!(decode(&whole), Some(record));
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            assert_eq!(decode(&damaged), None, "byte {at} bit {bit}");
        }
    }
    for len in 0..whole.len() {
        assert_eq!(decode(&whole[..len]), None);
    }
    let other = *b"0123456789abcdeg";
    assert_eq!(RecordHeader::decode(&whole, &other, life_seed(&other), 8192, SEGMENT_BYTES), None, "another life");
    assert_eq!(RecordHeader::decode(&whole, &life, seed, 4096, SEGMENT_BYTES), None, "another place");
    assert_eq!(RecordHeader::decode(&whole, &life, seed, 8192, 16384), None, "past the end");
}

#[test]
fn footers_stay_in_their_room() {
    let names: Vec<(BlobId, OwnerId, Vec<u8>)> =
        (0..100).map(|index| (BlobId(index), OwnerId(2), vec![b'x'; index as usize])).collect();
    let body = encode_footer(names.iter().map(|(blob, owner, name)| (*blob, *owner, &name[..])), 1000);
    assert!(body.len() <= 1000 && body.len() > 900);
    let decoded = decode_footer(&body).unwrap();
    assert_eq!(decoded, names[..decoded.len()]);
    assert_eq!(decode_footer(&body[..body.len() - 1]), None);
}

proptest! {
    #[test]
    fn records_read_back(
        (before, after, seq, blob) in any::<(u32, u32, u64, u64)>(),
        (offset, len, time_ns, mark, owner) in any::<(u64, u64, i64, u64, u32)>(),
        at in (0u32..1000).prop_map(|at| at * 8),
        body in proptest::collection::vec(any::<u8>(), 0..70_000),
        kind_byte in 1u8..8,
        life: [u8; 16],
    ) {
        let record = RecordHeader {
            batch_previous: at / 2,
            batch_before: before,
            batch_after: after,
            kind: kind(kind_byte).unwrap(),
            seq: Seq(seq),
            blob: BlobId(blob),
            offset,
            len,
            time_ns,
            mark: Position(mark),
            owner: OwnerId(owner),
            ..header(at, &body)
        };
        let seed = life_seed(&life);
        let mut whole = Vec::new();
        let table = table_of(&body);
        record.encode(&table, &life, seed, &mut whole);
        prop_assert_eq!(RecordHeader::decode(&whole, &life, seed, at, SEGMENT_BYTES), Some(record));
        prop_assert_eq!(record.header_bytes(), whole.len());
        for (index, sum) in table.iter().enumerate() {
            prop_assert_eq!(table_entry(&whole, index), Some(*sum));
        }
        let (body_at, end) = place(at, body.len());
        prop_assert!(body_at as usize >= at as usize + whole.len() && end >= body_at + body.len() as u32 && end % 8 == 0);
        let plain = Record { kind: record.kind, seq: None, owner: record.owner, blob: record.blob, offset, len, time_ns, body: Bytes::from(body) };
        prop_assert!(batch_bytes(std::iter::once(&plain)) >= u64::from(end - at));
    }

    #[test]
    fn garbage_is_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(SegmentHeader::decode(&bytes), Err(NotASegment::Damaged));
        prop_assert_eq!(RecordHeader::decode(&bytes, &[0; 16], 0, 0, SEGMENT_BYTES), None);
        let _ = decode_footer(&bytes);
    }
}

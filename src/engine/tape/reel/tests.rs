//! The format byte by byte, and bytes that are none.

use super::*;
use crate::base::seeds;

const ID: [u8; 16] = [0xa1; 16];

fn header() -> Header {
    Header { id: ID, is_worm: true, capacity_bytes: 0x0102_0304_0506 }
}

#[test]
fn golden_header_and_mark() {
    let bytes = header().to_bytes();
    assert_eq!(bytes[..16], *b"TIDEREEL\x01\0\x01\0\0\0\0\0");
    assert_eq!((&bytes[16..32], &bytes[32..40]), (&ID[..], &[6, 5, 4, 3, 2, 1, 0, 0][..]));
    assert_eq!(bytes[40..60], [0; 20]);
    assert_eq!(bytes[60..], crc32c::crc32c(&bytes[..60]).to_le_bytes());
    assert_eq!(Header::parse(&bytes), Ok(header()));
    let mark = Mark { id: ID, life: 2, objects: 9, filemarks: 3, len_bytes: 0x1000, index_place: 0x800 };
    let bytes = mark.to_bytes();
    assert_eq!(bytes[..16], *b"TIDEMARK\x01\0\0\0\0\0\0\0");
    let numbers: Vec<u64> = bytes[32..72].chunks(8).map(|number| u64::from_le_bytes(array(number, 0))).collect();
    assert_eq!(numbers, [2, 9, 3, 0x1000, 0x800]);
    assert_eq!(Mark::parse(&bytes), Ok(mark));
}

#[test]
fn golden_frames() {
    let frame = Frame::record(5, 1, b"abc");
    let bytes = frame.to_bytes(&ID);
    let expected =
        [b"TGRF\x01\0\0\0".to_vec(), vec![5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0]].concat();
    assert_eq!(bytes[..32], expected);
    // CRC-32C of "abc".
    assert_eq!(bytes[32..36], 0x364b_3fb7_u32.to_le_bytes());
    assert_eq!(bytes[36..], crc32c::crc32c(&[&ID[..], &bytes[..36]].concat()).to_le_bytes());
    assert_eq!(Frame::parse(&bytes, &ID), Ok(frame));
    assert_eq!(frame.payload(&[&bytes[..], b"abc"].concat()), Ok(&b"abc"[..]));
    assert_eq!(frame.payload(&[&bytes[..], b"abd"].concat()), Err(Damage::Checksum));
    assert_eq!(frame.payload(&[&bytes[..], b"ab"].concat()), Err(Damage::Short));
    assert_eq!(Frame::parse(&bytes, &[0; 16]), Err(Damage::Checksum), "another reel's");
    let mark = Frame::filemark(6, 1);
    assert_eq!((mark.to_bytes(&ID)[4], mark.len_bytes()), (2, 40));
}

#[test]
fn golden_index() {
    let mut index = Index::new(7, 2, 0x100, 0x40);
    index.push(false, 43);
    index.push(true, 40);
    let bytes = index.to_bytes();
    assert_eq!(bytes[..8], [7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[8..32].iter().map(|byte| u32::from(*byte)).sum::<u32>(), 2 + 1 + 0x40);
    assert_eq!(bytes[32..], [43, 0, 0, 0, 40, 0, 0, 0x80]);
    assert_eq!(Index::parse(&bytes), Ok(index));
}

/// A part with a byte changed and its checksum made right: what a hostile writer, not an accident, leaves.
fn forged(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    seal(&mut bytes);
    bytes
}

#[test]
fn what_is_not_written_is_refused() {
    let bytes = header().to_bytes();
    assert_eq!(Header::parse(&bytes[..63]), Err(Damage::Short));
    assert_eq!(Header::parse(&[0; 64]), Err(Damage::Magic));
    for (at, damage) in [(8, Damage::Version(9)), (10, Damage::Field(10)), (13, Damage::Field(13)), (59, Damage::Field(59))] {
        assert_eq!(Header::parse(&forged(&bytes, at, 9)), Err(damage));
    }
    let mark = Mark { id: ID, life: 2, objects: 9, filemarks: 3, len_bytes: 0x1000, index_place: 0x800 }.to_bytes();
    for (at, damage) in [(11, Damage::Field(11)), (48, Damage::Field(48)), (66, Damage::Field(64)), (72, Damage::Field(72))] {
        assert_eq!(Mark::parse(&forged(&mark, at, 77)), Err(damage));
    }
    let frame = |at: usize, value: u8| {
        let mut bytes = Frame::record(5, 1, b"abc").to_bytes(&ID);
        bytes[at] = value;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&ID), &bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        Frame::parse(&bytes, &ID)
    };
    for (at, value, field) in [(4, 9, 4), (5, 1, 5), (7, 1, 7), (24, 4, 24), (28, 0, 24), (4, 2, 24), (26, 0xff, 24)] {
        assert_eq!(frame(at, value), Err(Damage::Field(field)));
    }
    let mut index = Index::new(7, 2, 0x100, 0x40);
    index.push(false, 43);
    let bytes = index.to_bytes();
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Index::parse(&bytes)
    };
    assert_eq!((changed(8, 8), changed(24, 0xff).map(|index| index.previous)), (Err(Damage::Field(8)), Ok(0xff)));
    assert_eq!(
        (changed(25, 2), changed(32, 40), changed(35, 0x80)),
        (Err(Damage::Field(24)), Err(Damage::Field(32)), Err(Damage::Field(32)))
    );
    assert_eq!((Index::parse(&bytes[..34]), Index::parse(&bytes[..32])), (Err(Damage::Field(32)), Err(Damage::Field(32))));
    let mut far = bytes.clone();
    far[16..24].fill(0xff);
    assert_eq!(Index::parse(&far), Err(Damage::Field(0)));
}

/// A reel of three records and two filemarks, and where its frames end.
fn reel() -> (Vec<u8>, Vec<usize>) {
    let mut bytes = header().to_bytes().to_vec();
    let mut ends = Vec::new();
    for (number, record) in [&b"one"[..], b"", b"two, a longer one", b"", b"three"].into_iter().enumerate() {
        let number = number as u64;
        let frame =
            if record.is_empty() { Frame::filemark(number, number / 2) } else { Frame::record(number, number / 2, record) };
        bytes.extend(frame.to_bytes(&ID));
        bytes.extend(record);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn a_walk_ends_where_the_damage_begins() {
    let (bytes, ends) = reel();
    let whole_before = |at: usize| ends.iter().filter(|end| **end <= at).count() as u64;
    for cut in HEADER_BYTES..=bytes.len() {
        let (_, map, _, damage) = ReelMap::walk(&bytes[..cut]).unwrap();
        assert_eq!(map.objects(), whole_before(cut));
        assert_eq!(damage.is_none(), cut == HEADER_BYTES || ends.contains(&cut));
    }
    for at in HEADER_BYTES..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        let (_, map, _, damage) = ReelMap::walk(&wrong).unwrap();
        assert_eq!((map.objects(), damage.is_some()), (whole_before(at), true), "byte {at}");
    }
    let (found, map, life, damage) = ReelMap::walk(&bytes).unwrap();
    assert_eq!((found, life, damage, map.filemarks(), map.end()), (header(), 2, None, 2, bytes.len() as u64));
    assert_eq!((map.filemark(0), map.filemark(1), map.filemark(2)), (Some(1), Some(3), None));
    assert_eq!(map.filemarks_before(3), 1);
    assert_eq!(map.find(2).unwrap(), Spot { place: ends[1] as u64, len_bytes: 57, is_filemark: false });
    assert_eq!(map.find(5), None);
    assert_eq!(map.mark(ID, life).filemarks, 2);
}

#[test]
fn frames_of_an_older_life_or_another_number_are_not_taken() {
    let (bytes, ends) = reel();
    let with = |frame: Frame| [&bytes[..], &frame.to_bytes(&ID), b"x"].concat();
    let walked = |bytes: &[u8]| {
        let (_, map, _, damage) = ReelMap::walk(bytes).unwrap();
        (map.objects(), damage)
    };
    assert_eq!(walked(&with(Frame::record(5, 2, b"x"))), (6, None));
    assert_eq!(walked(&with(Frame::record(5, 1, b"x"))), (5, Some(Damage::Order)));
    assert_eq!(walked(&with(Frame::record(6, 2, b"x"))), (5, Some(Damage::Order)));
    let twice = [&bytes[..], &bytes[ends[3]..]].concat();
    assert_eq!(walked(&twice), (5, Some(Damage::Order)));
    let early = Frame::new(FrameKind::Index, 5, 2, 1, b"x");
    assert_eq!(walked(&with(early)), (5, Some(Damage::Short)));
}

#[test]
fn garbage_is_no_reel() {
    for seed in seeds::seeds(2000, 200_000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut bytes, _) = reel();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..=bytes.len()));
        if let Ok((_, map, _, _)) = ReelMap::walk(&bytes) {
            assert!(map.end() <= bytes.len() as u64 && map.objects() <= 5);
        }
        let mut noise = vec![0; random.usize(..200)];
        random.fill(&mut noise);
        if let Ok(index) = Index::parse(&noise) {
            assert_eq!(index.to_bytes(), noise);
        }
        assert!(Mark::parse(&noise).is_err());
    }
}

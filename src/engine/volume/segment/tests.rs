//! The format as it is written down, and that nothing damaged is believed.

use super::*;
use crate::base::seeds;

fn about() -> About {
    About {
        volume: VolumeId(*b"0123456789abcdef"),
        epoch: 3,
        number: 7,
        through: Seq(0x0102_0304),
        len_bytes: 1 << 40,
        part: 1,
        parts: 2,
    }
}

/// The object in one piece.
fn object(builder: Builder) -> (Vec<u8>, Segment) {
    let (pieces, segment) = builder.finish();
    (pieces.concat(), segment)
}

/// A frame's bytes, out of the object.
fn open(object: &[u8], frame: &Frame) -> Result<Bytes, SegmentError> {
    let stored = frame.stored.as_ref().map_or(0..0, |stored| stored.range.start as usize..stored.range.end as usize);
    frame.open(&Bytes::copy_from_slice(object.get(stored).ok_or(SegmentError::Damaged("short"))?))
}

#[test]
fn the_format_is_as_it_is_written_down() {
    let mut builder = Builder::new(about());
    builder.add(4096, &[Bytes::from_static(b"0123456789ABCDEF")]);
    builder.add_zeroes(8192..1 << 30);
    let (object, _) = object(builder);
    let golden = [
        "5447564f4c534547",
        "01000000",
        "02000000",
        "30313233343536373839616263646566",
        "0300000000000000",
        "0700000000000000",
        "0403020100000000",
        "0000000000010000",
        "01000000",
        "02000000",
        "0000000000000000000000000000000000000000",
    ];
    assert_eq!(hex::encode(&object[..CRC_AT]), golden.concat());
    assert_eq!(word32(&object, CRC_AT), checksum(&object[..160]));
    let rows = [
        "0010000000000000",
        "1000000000000000",
        "10000000",
        &hex::encode(crc32c::crc32c(b"0123456789ABCDEF").to_le_bytes()),
        "0100000000000000",
        "0020000000000000",
        "00e0ff3f00000000",
        "00000000",
        "00000000",
        "0000000000000000",
    ];
    assert_eq!(hex::encode(&object[HEADER_BYTES..160]), rows.concat());
    assert_eq!(&object[160..], b"0123456789ABCDEF");
}

#[test]
fn what_goes_in_comes_out() {
    for seed in seeds::seeds(200, 20_000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut builder = Builder::new(about());
        let (mut at, mut wanted) = (random.u64(..1 << 30), Vec::new());
        for _ in 0..random.usize(..8) {
            at += random.u64(..200_000);
            let len = random.usize(1..300_000);
            let kind = random.u8(..4);
            let byte = |index: usize, random: &mut fastrand::Rng| match kind {
                0 => 0,
                1 => (index / 100) as u8,
                2 => random.u8(..),
                _ => {
                    if (index / 70_000).is_multiple_of(2) {
                        0
                    } else {
                        9
                    }
                }
            };
            let bytes: Vec<u8> = (0..len).map(|index| byte(index, &mut random)).collect();
            if kind == 0 && random.bool() {
                builder.add_zeroes(at..at + len as u64);
            } else {
                let cut = random.usize(..len);
                builder.add(at, &[Bytes::copy_from_slice(&bytes[..cut]), Bytes::copy_from_slice(&bytes[cut..])]);
            }
            wanted.push((at, bytes));
            at += len as u64;
        }
        let (object, made) = object(builder);
        let segment = Segment::decode(&object).unwrap();
        assert_eq!(segment, made);
        assert_eq!((segment.about, segment.len_bytes()), (about(), object.len() as u64));
        for (offset, bytes) in wanted {
            let end = offset + bytes.len() as u64;
            let mut found = vec![0xEE; bytes.len()];
            for frame in segment.frames.iter().filter(|frame| frame.range.start < end && frame.range.end > offset) {
                let opened = open(&object, frame).unwrap();
                let common = frame.range.start.max(offset)..frame.range.end.min(end);
                let from = (common.start - frame.range.start) as usize;
                let to = (common.start - offset) as usize;
                let len = (common.end - common.start) as usize;
                found[to..to + len].copy_from_slice(&opened[from..from + len]);
            }
            assert!(found == bytes, "seed {seed}");
        }
        let stored = segment.frames.iter().filter(|frame| frame.stored.is_some());
        assert!(stored.clone().all(|frame| frame.range.end - frame.range.start <= FRAME_BYTES_MAX as u64));
        assert!(
            stored.clone().all(|frame| !open(&object, frame).unwrap().iter().all(|byte| *byte == 0)),
            "zeroes are not stored"
        );
    }
}

#[test]
fn what_is_damaged_is_not_believed() {
    let mut builder = Builder::new(about());
    builder.add(0, &[vec![7; 100_000].into(), (0..50_000).map(|_| fastrand::u8(..)).collect::<Vec<_>>().into()]);
    let (object, segment) = object(builder);
    for seed in seeds::seeds(3_000, 100_000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut damaged = object.clone();
        let at = random.usize(..damaged.len());
        damaged[at] ^= 1 << random.u8(..8);
        let read = Segment::decode(&damaged).and_then(|found| {
            assert_eq!(found, segment, "the table is whole or refused");
            found.frames.iter().map(|frame| open(&damaged, frame)).collect::<Result<Vec<_>, _>>()
        });
        assert!(read.is_err(), "bit flipped at {at}");
        let cut = random.usize(..object.len());
        let read = Segment::decode(&object[..cut])
            .and_then(|found| found.frames.iter().map(|frame| open(&object[..cut], frame)).collect::<Result<Vec<_>, _>>());
        assert!(read.is_err(), "cut at {cut}");
    }
}

#[test]
fn what_a_hostile_object_says_is_checked() {
    let mut builder = Builder::new(about());
    builder.add(4096, &[Bytes::from_static(b"0123456789ABCDEF")]);
    builder.add_zeroes(8192..16384);
    let (object, _) = object(builder);
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = object.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = checksum(&changed[..160]).to_le_bytes();
        changed[CRC_AT..HEADER_BYTES].copy_from_slice(&crc);
        Segment::decode(&changed).unwrap_err()
    };
    assert_eq!(with(0, b"X"), SegmentError::NotASegment);
    assert_eq!(with(8, &[2]), SegmentError::Newer(2));
    assert_eq!(with(8, &[0]), SegmentError::NotASegment);
    assert!(matches!(Segment::decode(b"TGVOLSEG"), Err(SegmentError::NotASegment)));
    for (at, bytes) in [
        (12, &[0xFF; 4][..]),   // frames beyond all reason
        (12, &[3][..]),         // more than there are
        (57, &[0; 7][..]),      // a volume that ends before its frames do
        (96, &[0, 0x21][..]),   // frames that overlap
        (96, &[0xFF; 8][..]),   // a frame that has no end
        (104, &[0, 0][..]),     // an empty one
        (104, &[0xFF; 3][..]),  // one that is too long
        (96 + 24, &[9][..]),    // a codec of the future
        (96 + 24, &[2][..]),    // compressed, to the same length
        (96 + 24, &[0][..]),    // zeroes with stored bytes
        (128 + 24, &[1][..]),   // bytes without any
        (128 + 8, &[0; 8][..]), // empty zeroes
    ] {
        assert!(matches!(with(at, bytes), SegmentError::Damaged(_)), "at {at}");
    }
}

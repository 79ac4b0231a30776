//! A checkpoint of a volume's map in S3: where its pages are, and how much of each segment is in use. Format version 2.
//!
//! ```text
//! offset  bytes  (integers are little-endian)
//!      0      8  "TGVOLCHK"
//!      8      4  version: 2
//!     12      4  CRC-32C of everything behind it
//!     16     16  the volume's id
//!     32      8  the generation that the map is of
//!     40      4  how many pages
//!     44      4  how many segments
//!     48   56 p  pages, in the order of their numbers
//!  48+56p  56 s  segments, in the order of their names
//!
//! a page:                                             a segment:
//!      0      8  its number                                0     32  its name
//!      8     32  the object that has it                   32      8  its length, in bytes
//!     40      8  where in the object, in bytes            40      8  bytes of the volume that are read from it
//!     48      4  its length there, in bytes
//!     52      4  how many pieces it has                   48      8  bytes of the volume that it was written with
//! ```
//!
//! Version 1, which is read too, has no last word of a segment.
//!
//! Invariants: a page that is not named is all zeroes; a segment that is not named has nothing that the state reads. Checkpoints and pages never change.

use std::collections::BTreeMap;

use super::names::{ObjectName, VolumeId};
use super::segment::{Segment, SegmentError, word32, word64};

const MAGIC: &[u8; 8] = b"TGVOLCHK";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 48;
const PAGE_BYTES: usize = 56;
const SEGMENT_BYTES: usize = 56;
/// In version 1.
const SEGMENT_BYTES_1: usize = 48;

/// Where a page of the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagePlace {
    /// The object.
    pub object: ObjectName,
    /// In the object, in bytes.
    pub at_bytes: u64,
    /// In bytes.
    pub len_bytes: u32,
    /// How many pieces it has.
    pub pieces: u32,
}

/// How much of a segment is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The object's length, in bytes.
    pub len_bytes: u64,
    /// Bytes of the volume that are read from it.
    pub live_bytes: u64,
    /// Bytes of the volume that it was written with; zeroes do not count.
    pub whole_bytes: u64,
}

impl Usage {
    /// Of a segment of which nothing is known to be in use yet.
    pub fn new(segment: &Segment) -> Self {
        let stored = segment.frames.iter().filter(|frame| frame.stored.is_some());
        let whole_bytes = stored.map(|frame| frame.range.end - frame.range.start).sum();
        Self { len_bytes: segment.len_bytes(), live_bytes: 0, whole_bytes }
    }

    /// Whether at most half of it is in use.
    pub fn is_mostly_dead(&self) -> bool {
        self.live_bytes <= self.whole_bytes / 2
    }

    /// How many bytes of the object nothing needs, about.
    pub fn dead_bytes(&self) -> u64 {
        let dead = u128::from(self.whole_bytes.saturating_sub(self.live_bytes));
        (u128::from(self.len_bytes) * dead / u128::from(self.whole_bytes.max(1))) as u64
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of which volume.
    pub volume: VolumeId,
    /// The generation that the map is of.
    pub generation: u64,
    /// By number.
    pub pages: BTreeMap<u64, PagePlace>,
    /// All that are in use.
    pub segments: BTreeMap<ObjectName, Usage>,
}

impl Checkpoint {
    /// Of a volume of zeroes.
    pub fn empty(volume: VolumeId) -> Self {
        Self { volume, generation: 0, pages: BTreeMap::new(), segments: BTreeMap::new() }
    }

    /// How many pieces its pages have.
    pub fn pieces(&self) -> u64 {
        self.pages.values().map(|place| u64::from(place.pieces)).sum()
    }

    /// Bytes of the volume that are not zeroes.
    pub fn live_bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.live_bytes).sum()
    }

    /// How long one is when it is written down, in bytes.
    pub fn encoded_bytes(pages: usize, segments: usize) -> u64 {
        (HEADER_BYTES + pages * PAGE_BYTES + segments * SEGMENT_BYTES) as u64
    }

    /// As it is written down.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.pages.len() * PAGE_BYTES + self.segments.len() * SEGMENT_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.volume.0);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for (number, place) in &self.pages {
            bytes.extend_from_slice(&number.to_le_bytes());
            place.object.encode(&mut bytes);
            bytes.extend_from_slice(&place.at_bytes.to_le_bytes());
            bytes.extend_from_slice(&place.len_bytes.to_le_bytes());
            bytes.extend_from_slice(&place.pieces.to_le_bytes());
        }
        for (name, usage) in &self.segments {
            name.encode(&mut bytes);
            bytes.extend_from_slice(&usage.len_bytes.to_le_bytes());
            bytes.extend_from_slice(&usage.live_bytes.to_le_bytes());
            bytes.extend_from_slice(&usage.whole_bytes.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// `NotASegment` where it is no checkpoint, `Newer`, `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(SegmentError::NotASegment);
        }
        let segment_bytes = match word32(bytes, 8) {
            1 => SEGMENT_BYTES_1,
            VERSION => SEGMENT_BYTES,
            newer => return Err(SegmentError::Newer(newer)),
        };
        if crc32c::crc32c(&bytes[16..]) != word32(bytes, 12) {
            return Err(SegmentError::Damaged("a checkpoint does not have its checksum"));
        }
        let (pages, segments) = (word32(bytes, 40) as usize, word32(bytes, 44) as usize);
        let table = pages.checked_mul(PAGE_BYTES).and_then(|len| len.checked_add(HEADER_BYTES));
        let len = segments.checked_mul(segment_bytes).zip(table).and_then(|(len, table)| len.checked_add(table));
        let (Some(table), Some(_)) = (table, len.filter(|len| *len == bytes.len())) else {
            return Err(SegmentError::Damaged("a checkpoint is cut"));
        };
        let page = |row: &[u8]| {
            let place = PagePlace {
                object: ObjectName::decode(&row[8..]),
                at_bytes: word64(row, 40),
                len_bytes: word32(row, 48),
                pieces: word32(row, 52),
            };
            (word64(row, 0), place)
        };
        let segment = |row: &[u8]| {
            let (len_bytes, live_bytes) = (word64(row, 32), word64(row, 40));
            // Where it is not known: as much as was stored, at least.
            let whole_bytes = if row.len() == SEGMENT_BYTES { word64(row, 48) } else { len_bytes.max(live_bytes) };
            (ObjectName::decode(row), Usage { len_bytes, live_bytes, whole_bytes })
        };
        Ok(Self {
            volume: VolumeId(std::array::from_fn(|at| bytes[16 + at])),
            generation: word64(bytes, 32),
            pages: bytes[HEADER_BYTES..table].chunks_exact(PAGE_BYTES).map(page).collect(),
            segments: bytes[table..].chunks_exact(segment_bytes).map(segment).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let volume = VolumeId([1; 16]);
        let name = |number| ObjectName { volume: VolumeId([2; 16]), epoch: 3, number };
        let place = PagePlace { object: name(4), at_bytes: 5, len_bytes: 6, pieces: 7 };
        let usage = Usage { len_bytes: 8, live_bytes: 9, whole_bytes: 20 };
        Checkpoint { volume, generation: 10, pages: [(11, place)].into(), segments: [(name(12), usage)].into() }
    }

    #[test]
    fn the_format_is_as_it_is_written_down() {
        let bytes = sample().encode();
        let golden = [
            "5447564f4c43484b",
            "02000000",
            &hex::encode(crc32c::crc32c(&bytes[16..]).to_le_bytes()),
            &"01".repeat(16),
            "0a00000000000000",
            "01000000",
            "01000000",
            "0b00000000000000",
            &"02".repeat(16),
            "0300000000000000",
            "0400000000000000",
            "0500000000000000",
            "06000000",
            "07000000",
            &"02".repeat(16),
            "0300000000000000",
            "0c00000000000000",
            "0800000000000000",
            "0900000000000000",
            "1400000000000000",
        ];
        assert_eq!(hex::encode(&bytes), golden.concat());
        assert_eq!(Checkpoint::decode(&bytes), Ok(sample()));
        // Version 1 did not say what a segment was written with.
        let mut first = bytes[..bytes.len() - 8].to_vec();
        first[8] = 1;
        let crc = crc32c::crc32c(&first[16..]).to_le_bytes();
        first[12..16].copy_from_slice(&crc);
        let mut expected = sample();
        expected.segments.values_mut().for_each(|usage| usage.whole_bytes = 9);
        assert_eq!(Checkpoint::decode(&first), Ok(expected));
    }

    #[test]
    fn how_dead_a_segment_is() {
        let usage = |len_bytes, live_bytes, whole_bytes| Usage { len_bytes, live_bytes, whole_bytes };
        assert!(usage(10, 50, 100).is_mostly_dead() && !usage(10, 51, 100).is_mostly_dead());
        assert_eq!((usage(10, 50, 100).dead_bytes(), usage(10, 100, 100).dead_bytes()), (5, 0));
        assert_eq!((usage(10, 0, 0).dead_bytes(), usage(u64::MAX, 0, u64::MAX).dead_bytes()), (0, u64::MAX));
    }

    #[test]
    fn damage_is_found() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Checkpoint::decode(&damaged).is_err(), "a flipped bit at {at}");
            assert!(Checkpoint::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut hostile = bytes;
        hostile[40..48].fill(0xFF);
        let crc = crc32c::crc32c(&hostile[16..]).to_le_bytes();
        hostile[12..16].copy_from_slice(&crc);
        assert!(matches!(Checkpoint::decode(&hostile), Err(SegmentError::Damaged(_))));
    }
}

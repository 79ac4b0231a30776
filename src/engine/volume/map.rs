//! Where a volume's bytes are in S3: a page of the map from places in the volume to frames of segments. Format version 1.
//!
//! What lives here: [`Page`], the map of one stretch of the volume, and its encoding; [`Piece`], what it has for a range. Pure: who keeps pages, and
//! where, is not known here. What segments changed since a page was written down is a page as well, which lies over it ([`Page::lay`], [`Page::merge`]);
//! such a page knows zeroes from what it has nothing for, and is never written down.
//!
//! ```text
//! offset  bytes  (integers are little-endian)
//!      0      8  "TGVOLMAP"
//!      8      4  version: 1
//!     12      4  CRC-32C of everything behind it
//!     16      8  which page: it begins at this times 64 MiB in the volume
//!     24      4  how many segments are named
//!     28      4  how many entries
//!     32   32 s  segments: volume (16), epoch (8), number (8)
//!  32+32s  36 n  entries, in the order of their places
//!
//! an entry:
//!      0      4  where it begins in the page, in bytes
//!      4      4  its length, in bytes
//!      8      4  which of the segments
//!     12      4  where its frame begins in the page, in bytes
//!     16      4  its frame's length, in bytes
//!     20      8  where the frame's stored bytes begin in the segment, in bytes; its upper byte: 1 as they are, 2 an LZ4 block
//!     28      4  how many bytes are stored
//!     32      4  CRC-32C of the stored bytes
//! ```
//!
//! Invariants:
//! - Entries do not overlap; what no entry has reads as zeroes. An entry is a part of one frame, and a frame lies within one page.
//! - A page has only segments that an entry names.

use std::collections::BTreeMap;
use std::ops::Range;

use super::names::ObjectName;
use super::segment::{Codec, FRAME_BYTES_MAX, Frame, SegmentError, Stored, word32, word64};

const MAGIC: &[u8; 8] = b"TGVOLMAP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 32;
const ENTRY_BYTES: usize = 36;
/// Where the codec is in the word of the place.
const CODEC_SHIFT: u32 = 56;

/// What a page maps, in bytes of the volume: a multiple of [`FRAME_BYTES_MAX`], so that no frame is in two pages. Small in tests, so that a small volume
/// has several.
pub const PAGE_SPAN_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };

const _: () = assert!(PAGE_SPAN_BYTES.is_multiple_of(FRAME_BYTES_MAX as u64));

/// A range of the volume that a segment has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// In the volume, in bytes; not empty.
    pub range: Range<u64>,
    /// Which.
    pub segment: ObjectName,
    /// The frame that has it, of which the range is a part. Zeroes only in what lies over a page.
    pub frame: Frame,
}

/// By where each piece begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pieces: BTreeMap<u64, Piece>,
}

/// The page that has a place of the volume.
pub fn page_of(offset: u64) -> u64 {
    offset / PAGE_SPAN_BYTES
}

impl Page {
    /// What it has for a range, in order; what is between reads as zeroes.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece> {
        let before = self.pieces.range(..range.start).next_back().map(|(_, piece)| piece);
        let within = self.pieces.range(range.start..range.end.max(range.start)).map(|(_, piece)| piece);
        before.into_iter().chain(within).filter_map(move |piece| part_of(piece, &range))
    }

    /// Of a range alone.
    pub fn part(&self, range: Range<u64>) -> Self {
        Self { pieces: self.pieces(range).map(|piece| (piece.range.start, piece)).collect() }
    }

    /// Whether all of it reads as zeroes.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The segments that have something of it, with how many bytes of the volume.
    pub fn live_bytes(&self) -> BTreeMap<ObjectName, u64> {
        let mut live = BTreeMap::new();
        for piece in self.pieces.values() {
            *live.entry(piece.segment).or_default() += piece.range.end - piece.range.start;
        }
        live
    }

    /// A later segment's frame lies over what was there, in a page that lies over another: zeroes are kept, since they hide what is below.
    pub fn lay(&mut self, segment: ObjectName, frame: &Frame) {
        self.erase(frame.range.clone());
        let piece = Piece { range: frame.range.clone(), segment, frame: frame.clone() };
        self.pieces.insert(frame.range.start, piece);
    }

    /// What lies over it becomes part of it.
    pub fn merge(&mut self, over: &Self) {
        for piece in over.pieces.values() {
            self.erase(piece.range.clone());
            if piece.frame.stored.is_some() {
                self.pieces.insert(piece.range.start, piece.clone());
            }
        }
    }

    /// A range reads as zeroes from now on.
    pub fn erase(&mut self, range: Range<u64>) {
        let from = self.pieces.range(..range.start).next_back().filter(|(_, piece)| piece.range.end > range.start);
        let from = from.map_or(range.start, |(start, _)| *start);
        let over: Vec<u64> = self.pieces.range(from..range.end.max(from)).map(|(start, _)| *start).collect();
        for start in over {
            let Some(piece) = self.pieces.remove(&start) else { continue };
            for rest in [piece.range.start..range.start, range.end..piece.range.end] {
                if let Some(rest) = part_of(&piece, &rest) {
                    self.pieces.insert(rest.range.start, rest);
                }
            }
        }
    }

    /// How long a page of so many pieces can be when it is written down, in bytes.
    pub fn encoded_bytes_max(pieces: usize) -> u64 {
        (HEADER_BYTES + pieces * (SEGMENT_BYTES + ENTRY_BYTES)) as u64
    }

    /// As it is written down, for page `number`.
    pub fn encode(&self, number: u64) -> Vec<u8> {
        let start = number * PAGE_SPAN_BYTES;
        let segments: Vec<ObjectName> = self.live_bytes().into_keys().collect();
        debug_assert!(self.pieces.values().all(|piece| piece.frame.stored.is_some()), "zeroes are not written down");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + segments.len() * SEGMENT_BYTES + self.pieces.len() * ENTRY_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&(segments.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.pieces.len() as u32).to_le_bytes());
        for segment in &segments {
            segment.encode(&mut bytes);
        }
        for Piece { range, segment, frame } in self.pieces.values() {
            let Some(stored) = &frame.stored else { continue };
            let index = segments.binary_search(segment).unwrap_or(0);
            let codec: u64 = match stored.codec {
                Codec::Plain => 1,
                Codec::Lz4 => 2,
            };
            let words = [
                (range.start - start) as u32,
                (range.end - range.start) as u32,
                index as u32,
                (frame.range.start - start) as u32,
                (frame.range.end - frame.range.start) as u32,
            ];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend_from_slice(&(stored.range.start | codec << CODEC_SHIFT).to_le_bytes());
            bytes.extend_from_slice(&((stored.range.end - stored.range.start) as u32).to_le_bytes());
            bytes.extend_from_slice(&stored.crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads page `number`.
    ///
    /// # Errors
    /// `NotASegment` where it is no page of a map, `Newer`, `Damaged`.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Self, SegmentError> {
        let damaged = |what| Err(SegmentError::Damaged(what));
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(SegmentError::NotASegment);
        }
        match word32(bytes, 8) {
            VERSION => {}
            newer => return Err(SegmentError::Newer(newer)),
        }
        if crc32c::crc32c(&bytes[16..]) != word32(bytes, 12) || word64(bytes, 16) != number {
            return damaged("a page of the map is another one, or does not have its checksum");
        }
        let (segments, entries) = (word32(bytes, 24) as usize, word32(bytes, 28) as usize);
        let table = segments.checked_mul(SEGMENT_BYTES).and_then(|len| len.checked_add(HEADER_BYTES));
        let len = entries.checked_mul(ENTRY_BYTES).zip(table).and_then(|(len, table)| len.checked_add(table));
        let (Some(table), Some(_)) = (table, len.filter(|len| *len == bytes.len())) else {
            return damaged("a page of the map is cut");
        };
        let segments: Vec<ObjectName> = bytes[HEADER_BYTES..table].chunks_exact(SEGMENT_BYTES).map(ObjectName::decode).collect();
        let mut page = Self::default();
        let mut last_end = 0;
        for row in bytes[table..].chunks_exact(ENTRY_BYTES) {
            let piece = decode_entry(row, number * PAGE_SPAN_BYTES, &segments)?;
            if piece.range.start < last_end {
                return damaged("entries of the map overlap");
            }
            last_end = piece.range.end;
            page.pieces.insert(piece.range.start, piece);
        }
        Ok(page)
    }
}

/// The part of a piece that is in a range.
fn part_of(piece: &Piece, range: &Range<u64>) -> Option<Piece> {
    let common = piece.range.start.max(range.start)..piece.range.end.min(range.end);
    (common.start < common.end).then(|| Piece { range: common, ..piece.clone() })
}

/// An entry of the page that begins at `start`.
fn decode_entry(row: &[u8], start: u64, segments: &[ObjectName]) -> Result<Piece, SegmentError> {
    let at = |word: usize| start + u64::from(word32(row, word));
    let range = at(0)..at(0) + u64::from(word32(row, 4));
    let frame = at(12)..at(12) + u64::from(word32(row, 16));
    let (place, stored_bytes, crc) = (word64(row, 20), word32(row, 28), word32(row, 32));
    let codec = match place >> CODEC_SHIFT {
        1 => Codec::Plain,
        2 => Codec::Lz4,
        _ => return Err(SegmentError::Damaged("an entry of the map is stored in a way that this version does not know")),
    };
    let place = place & ((1 << CODEC_SHIFT) - 1);
    let segment = segments.get(word32(row, 8) as usize);
    let is_within = range.start < range.end
        && frame.start <= range.start
        && range.end <= frame.end
        && frame.end - frame.start <= FRAME_BYTES_MAX as u64
        && frame.end <= start + PAGE_SPAN_BYTES;
    let Some(segment) = segment.filter(|_| is_within && stored_bytes > 0) else {
        return Err(SegmentError::Damaged("an entry of the map is not within its frame, its page or a segment"));
    };
    let stored = Stored { range: place..place + u64::from(stored_bytes), crc, codec };
    Ok(Piece { range, segment: *segment, frame: Frame { range: frame, stored: Some(stored) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seeds;
    use crate::engine::volume::names::VolumeId;

    /// What a segment has becomes part of a page that is written down.
    fn put(page: &mut Page, segment: ObjectName, frame: &Frame) {
        let mut over = Page::default();
        over.lay(segment, frame);
        page.merge(&over);
    }

    fn name(epoch: u64, number: u64) -> ObjectName {
        ObjectName { volume: VolumeId([7; 16]), epoch, number }
    }

    const NUMBER: u64 = 5;
    const START: u64 = NUMBER * PAGE_SPAN_BYTES;

    fn frame(range: Range<u64>, at: u64) -> Frame {
        let stored =
            Stored { range: at..at + 10, crc: at as u32, codec: if at.is_multiple_of(2) { Codec::Plain } else { Codec::Lz4 } };
        Frame { range, stored: Some(stored) }
    }

    /// Each block of the page with the segment, and the frame, that has it.
    type Model = Vec<Option<(u64, Frame)>>;

    fn agree(page: &Page, model: &Model) {
        let mut found: Model = vec![None; model.len()];
        let mut last_end = 0;
        for piece in page.pieces(START..START + PAGE_SPAN_BYTES) {
            assert!(piece.range.start >= last_end && piece.frame.range.start <= piece.range.start);
            last_end = piece.range.end;
            for block in (piece.range.start - START) / 512..(piece.range.end - START) / 512 {
                found[block as usize] = Some((piece.segment.number, piece.frame.clone()));
            }
        }
        assert!(found == *model);
    }

    #[test]
    fn later_frames_lie_over_earlier_ones() {
        for seed in seeds::seeds(200, 10_000) {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut page, mut model) = (Page::default(), vec![None; (PAGE_SPAN_BYTES / 512) as usize]);
            for step in 0..60 {
                // A frame does not cross a multiple of its longest length.
                let unit = random.u64(..PAGE_SPAN_BYTES / FRAME_BYTES_MAX as u64) * FRAME_BYTES_MAX as u64;
                let from = random.u64(..128);
                let range = START + unit + from * 512..START + unit + random.u64(from + 1..=128) * 512;
                let blocks = ((range.start - START) / 512) as usize..((range.end - START) / 512) as usize;
                if random.u8(..4) == 0 {
                    let wide = range.start..(range.end + random.u64(..200) * 512).min(START + PAGE_SPAN_BYTES);
                    model[blocks.start..((wide.end - START) / 512) as usize].fill(None);
                    put(&mut page, name(1, step), &Frame { range: wide, stored: None });
                } else {
                    let frame = frame(range, random.u64(..1 << 40));
                    put(&mut page, name(1, step), &frame);
                    model[blocks].fill(Some((step, frame)));
                }
            }
            agree(&page, &model);
            let live: u64 = page.live_bytes().values().sum();
            assert_eq!(live, model.iter().flatten().count() as u64 * 512, "seed {seed}");
            let bytes = page.encode(NUMBER);
            assert_eq!(Page::decode(NUMBER, &bytes).as_ref(), Ok(&page), "seed {seed}");
            assert!(Page::decode(NUMBER + 1, &bytes).is_err(), "another page");
            let mut damaged = bytes.clone();
            damaged[random.usize(..bytes.len())] ^= 1 << random.u8(..8);
            assert!(Page::decode(NUMBER, &damaged).is_err(), "seed {seed}: a flipped bit");
            assert!(Page::decode(NUMBER, &bytes[..random.usize(..bytes.len())]).is_err(), "seed {seed}: cut");
        }
    }

    #[test]
    fn what_lies_over_a_page_hides_it() {
        let mut base = Page::default();
        put(&mut base, name(1, 1), &frame(START..START + 65_536, 2));
        let mut over = Page::default();
        over.lay(name(1, 2), &Frame { range: START + 4096..START + 8192, stored: None });
        over.lay(name(1, 3), &frame(START + 8192..START + 12_288, 4));
        let hidden: Vec<_> =
            over.pieces(START..START + 65_536).map(|piece| (piece.range, piece.frame.stored.is_some())).collect();
        assert_eq!(hidden, [(START + 4096..START + 8192, false), (START + 8192..START + 12_288, true)]);
        base.merge(&over);
        let merged: Vec<_> = base.pieces(START..START + 65_536).map(|piece| (piece.range, piece.segment.number)).collect();
        assert_eq!(merged, [(START..START + 4096, 1), (START + 8192..START + 12_288, 3), (START + 12_288..START + 65_536, 1)]);
    }

    #[test]
    fn the_format_is_as_it_is_written_down() {
        let mut page = Page::default();
        assert!(page.is_empty() && page.pieces(START..START + 10).next().is_none());
        put(&mut page, name(2, 9), &frame(START + 4096..START + 12_288, 0x0102));
        page.erase(START + 8192..START + 12_288);
        let bytes = page.encode(NUMBER);
        let golden = [
            "5447564f4c4d4150",
            "01000000",
            &hex::encode(crc32c::crc32c(&bytes[16..]).to_le_bytes()),
            "0500000000000000",
            "01000000",
            "01000000",
            "07070707070707070707070707070707",
            "0200000000000000",
            "0900000000000000",
            "00100000",
            "00100000",
            "00000000",
            "00100000",
            "00200000",
            "0201000000000001",
            "0a000000",
            "02010000",
        ];
        assert_eq!(hex::encode(&bytes), golden.concat());
        assert_eq!(page.len(), 1);
    }

    #[test]
    fn what_a_hostile_page_says_is_checked() {
        let mut page = Page::default();
        put(&mut page, name(2, 9), &frame(START + 4096..START + 8192, 2));
        put(&mut page, name(2, 9), &frame(START + 8192..START + 12_288, 2));
        let bytes = page.encode(NUMBER);
        let with = |at: usize, new: &[u8]| {
            let mut changed = bytes.clone();
            changed[at..at + new.len()].copy_from_slice(new);
            let crc = crc32c::crc32c(&changed[16..]).to_le_bytes();
            changed[12..16].copy_from_slice(&crc);
            Page::decode(NUMBER, &changed).unwrap_err()
        };
        assert_eq!(with(0, b"X"), SegmentError::NotASegment);
        assert_eq!(with(8, &[7]), SegmentError::Newer(7));
        let entry = HEADER_BYTES + SEGMENT_BYTES;
        for (at, new) in [
            (24, &[0xFF; 4][..]),                  // segments beyond the end
            (28, &[0xFF; 4][..]),                  // entries beyond the end
            (entry, &[0, 0][..]),                  // before its frame
            (entry + 4, &[0, 0][..]),              // empty
            (entry + 5, &[0xFF][..]),              // behind its frame
            (entry + 8, &[1][..]),                 // another segment than there is
            (entry + 19, &[1][..]),                // a frame that is too long
            (entry + 27, &[0][..]),                // a codec of the future
            (entry + 28, &[0; 4][..]),             // nothing stored
            (entry + ENTRY_BYTES, &[0, 0x10][..]), // entries that overlap
        ] {
            assert!(matches!(with(at, new), SegmentError::Damaged(_)), "at {at}");
        }
    }
}

//! What a checkpoint stores of extent maps, as bytes: pages, a blob's head, and the accounts. These formats are in
//! people's databases.
//!
//! Each begins with its version (1 byte) and ends with a CRC-32C of all before it (4 bytes, little endian). Numbers are
//! LEB128 varints unless it says otherwise; `life` is 4 bytes little endian.
//!
//! - Page `p` of a blob: count, then for each extent: offset from the end of the one before (the first: from the page's
//!   start), length, number, tag (0 hole, 1 log); a log extent goes on with slot, life, record offset, skipped bytes.
//! - The head of a blob, at page number [`HEAD_PAGE`]: allocated bytes, dirty since (zigzag), cuts (count; number and
//!   length each), the number below which cuts are not told apart, pages (count of runs; for each: distance from the end of the run before, length of the run, 1 if its
//!   pages may have dirty extents).
//! - The accounts, at page 0 of blob 0: segments (count; slot, life, dirty bytes, clean bytes each), owners (count;
//!   owner, dirty bytes each).

use std::collections::BTreeMap;

use super::PAGE_SPAN_BYTES;
use super::map::{Extent, ExtentMap, Place};
use crate::base::id::{OwnerId, Seq};
use crate::store::log::Location;

/// The page number under which a blob's head is stored: past every page that a blob can have.
pub const HEAD_PAGE: u64 = i64::MAX as u64;

/// The version that is written.
const VERSION: u8 = 1;

/// A truncation that S3 may not know of: when, and to which length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The number of the change.
    pub seq: Seq,
    /// The length, in bytes.
    pub len_bytes: u64,
}

/// A blob's head: what its row and its pages do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes that are data, here or in S3.
    pub allocated_bytes: u64,
    /// About since when it has dirty bytes, nanoseconds since the Unix epoch; 0: it has none.
    pub dirty_since_ns: i64,
    /// Truncations, numbers and lengths both ascending.
    pub cuts: Vec<Cut>,
    /// Below this number cuts are not told apart any more.
    pub blurred: Seq,
    /// The pages that are not empty, and whether they may have dirty extents.
    pub pages: BTreeMap<u64, bool>,
}

/// A segment's live bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Only here.
    pub dirty_bytes: u64,
    /// In S3 too.
    pub clean_bytes: u64,
}

/// Live bytes per life of a segment, and dirty bytes per owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By slot and life.
    pub segments: BTreeMap<(u32, u32), Live>,
    /// By owner.
    pub owners: BTreeMap<OwnerId, u64>,
}

/// Encodes page `page`.
pub fn encode_page(page: u64, map: &ExtentMap) -> Vec<u8> {
    let mut out = Writer::new(16 + map.len() * 20);
    out.number(map.len() as u64);
    let mut at = page * PAGE_SPAN_BYTES;
    for extent in map.iter() {
        out.number(extent.offset - at);
        out.number(extent.len);
        out.number(extent.seq.0);
        match extent.place {
            Place::Hole => out.number(0),
            Place::Log { location, skip_bytes } => {
                out.number(1);
                out.number(location.slot.into());
                out.life(location.life);
                out.number(location.offset_bytes.into());
                out.number(skip_bytes.into());
            }
        }
        at = extent.end();
    }
    out.finish()
}

/// Decodes page `page`; `None` where it is damaged or of another version.
pub fn decode_page(page: u64, bytes: &[u8]) -> Option<ExtentMap> {
    let mut from = Reader::new(bytes)?;
    let count = from.number()?;
    let (mut at, end) = (page.checked_mul(PAGE_SPAN_BYTES)?, (page + 1).checked_mul(PAGE_SPAN_BYTES)?);
    let mut map = ExtentMap::default();
    for _ in 0..count {
        let offset = at.checked_add(from.number()?)?;
        let len = from.number()?;
        let seq = Seq(from.number()?);
        at = offset.checked_add(len)?;
        let place = match from.number()? {
            0 => Place::Hole,
            1 => {
                let slot = from.small()?;
                let life = from.life()?;
                Place::Log { location: Location { slot, life, offset_bytes: from.small()? }, skip_bytes: from.small()? }
            }
            _ => return None,
        };
        if at > end {
            return None;
        }
        map.insert(Extent { offset, len, seq, place });
    }
    from.is_done().then_some(map)
}

/// Encodes a head.
pub fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = Writer::new(64);
    out.number(head.allocated_bytes);
    out.signed(head.dirty_since_ns);
    out.number(head.cuts.len() as u64);
    for cut in &head.cuts {
        out.number(cut.seq.0);
        out.number(cut.len_bytes);
    }
    out.number(head.blurred.0);
    let runs = runs(&head.pages);
    out.number(runs.len() as u64);
    let mut at = 0;
    for (start, len, dirty) in runs {
        out.number(start - at);
        out.number(len);
        out.number(dirty.into());
        at = start + len;
    }
    out.finish()
}

/// Decodes a head; `None` where it is damaged or of another version.
pub fn decode_head(bytes: &[u8]) -> Option<Head> {
    let mut from = Reader::new(bytes)?;
    let mut head = Head { allocated_bytes: from.number()?, dirty_since_ns: from.signed()?, ..Head::default() };
    for _ in 0..from.number()? {
        head.cuts.push(Cut { seq: Seq(from.number()?), len_bytes: from.number()? });
    }
    head.blurred = Seq(from.number()?);
    let mut at: u64 = 0;
    for _ in 0..from.number()? {
        let start = at.checked_add(from.number()?)?;
        at = start.checked_add(from.number()?)?;
        let dirty = from.number()? != 0;
        if at > HEAD_PAGE {
            return None;
        }
        head.pages.extend((start..at).map(|page| (page, dirty)));
    }
    from.is_done().then_some(head)
}

/// Pages as runs: first, how many, dirty.
fn runs(pages: &BTreeMap<u64, bool>) -> Vec<(u64, u64, bool)> {
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    for (&page, &dirty) in pages {
        match runs.last_mut() {
            Some((start, len, same)) if *start + *len == page && *same == dirty => *len += 1,
            _ => runs.push((page, 1, dirty)),
        }
    }
    runs
}

/// Encodes the accounts.
pub fn encode_ledger(ledger: &Ledger) -> Vec<u8> {
    let mut out = Writer::new(16 + ledger.segments.len() * 16);
    out.number(ledger.segments.len() as u64);
    for (&(slot, life), live) in &ledger.segments {
        out.number(slot.into());
        out.life(life);
        out.number(live.dirty_bytes);
        out.number(live.clean_bytes);
    }
    out.number(ledger.owners.len() as u64);
    for (owner, bytes) in &ledger.owners {
        out.number(owner.0.into());
        out.number(*bytes);
    }
    out.finish()
}

/// Decodes the accounts; `None` where they are damaged or of another version.
pub fn decode_ledger(bytes: &[u8]) -> Option<Ledger> {
    let mut from = Reader::new(bytes)?;
    let mut ledger = Ledger::default();
    for _ in 0..from.number()? {
        let key = (from.small()?, from.life()?);
        ledger.segments.insert(key, Live { dirty_bytes: from.number()?, clean_bytes: from.number()? });
    }
    for _ in 0..from.number()? {
        ledger.owners.insert(OwnerId(from.small()?), from.number()?);
    }
    from.is_done().then_some(ledger)
}

/// Writes numbers.
struct Writer(Vec<u8>);

impl Writer {
    fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(VERSION);
        Self(out)
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn life(&mut self, life: u32) {
        self.0.extend_from_slice(&life.to_le_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        let sum = crc32c::crc32c(&self.0);
        self.0.extend_from_slice(&sum.to_le_bytes());
        self.0
    }
}

/// Reads numbers.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks sum and version.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let (&version, rest) = body.split_first()?;
        (crc32c::crc32c(body) == u32::from_le_bytes(*sum) && version == VERSION).then_some(Self(rest))
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn life(&mut self) -> Option<u32> {
        let (life, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*life))
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> ExtentMap {
        let location = Location { slot: 3, life: 0xdead_beef, offset_bytes: 1 << 25 };
        let base = 7 * PAGE_SPAN_BYTES;
        [
            Extent { offset: base, len: 10, seq: Seq(5), place: Place::Log { location, skip_bytes: 77 } },
            Extent { offset: base + 10, len: 4, seq: Seq(u64::MAX), place: Place::Hole },
            Extent { offset: base + PAGE_SPAN_BYTES - 1, len: 1, seq: Seq(0), place: Place::Log { location, skip_bytes: 0 } },
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn pages_come_back() {
        let bytes = encode_page(7, &page());
        assert_eq!(decode_page(7, &bytes), Some(page()));
        assert_eq!(decode_page(0, &encode_page(0, &ExtentMap::default())), Some(ExtentMap::default()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = encode_page(7, &page());
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                assert_eq!(decode_page(7, &damaged), None, "byte {index} bit {bit}");
            }
            assert_eq!(decode_page(7, &bytes[..index]), None);
        }
    }

    #[test]
    fn heads_and_accounts_come_back() {
        let head = Head {
            allocated_bytes: 1 << 40,
            dirty_since_ns: -3,
            cuts: vec![Cut { seq: Seq(3), len_bytes: 0 }, Cut { seq: Seq(9), len_bytes: 1 << 60 }],
            blurred: Seq(2),
            pages: [(0, true), (1, true), (2, false), (9, false), (10, false)].into(),
        };
        assert_eq!(decode_head(&encode_head(&head)), Some(head));
        let ledger = Ledger {
            segments: [((1, 2), Live { dirty_bytes: 3, clean_bytes: 4 }), ((1, 3), Live::default())].into(),
            owners: [(OwnerId(1), 9)].into(),
        };
        assert_eq!(decode_ledger(&encode_ledger(&ledger)), Some(ledger));
    }
}

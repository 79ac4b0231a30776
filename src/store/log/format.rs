//! The log on disk, byte by byte. Version 1. All numbers are little-endian; crc is CRC-32C (RFC 3720 §B.4).
//!
//! A segment is one file named `NNNNNN.seg` (its slot in decimal). It begins with its header, twice, each in a block of
//! its own, so that no single damaged block makes a segment unreadable:
//!
//! | offset | bytes | segment header (offsets 0 and 4096) |
//! |---|---|---|
//! | 0 | 8 | `TIDELOG\x01`: magic and version |
//! | 8 | 4 | crc of bytes 12..100 |
//! | 12 | 4 | slot |
//! | 16 | 16 | life: random, of this use of the file; its first 4 bytes are its short form |
//! | 32 | 16 | log: random, the same in all segments of one log |
//! | 48 | 4 | head: 0 write, 1 read |
//! | 52 | 4 | disk: which of several cache disks (0 as yet) |
//! | 56 | 8 | segment size in bytes |
//! | 64 | 8 | ordinal: the order of opening in the write head, from 1; 0 in the read head |
//! | 72 | 8 | previous: the position where the log ended when this segment was opened. What is in earlier segments beyond it is not part of the log |
//! | 80 | 8 | mark: the durable mark then |
//! | 88 | 8 | the next sequence number then |
//! | 96 | 4 | 0 |
//!
//! At offset 2048 may stand `SUSPECT\x01`: a flush of the segment failed and what was not durable in it is not written elsewhere
//! yet. It tells the next process that what it reads here beyond the durable mark may be in the machine's memory only.
//!
//! From offset 8192 follow batches of records. A record begins at a multiple of 8; the first one after a flush at a
//! multiple of 4096, so that no block that is durable is written again.
//!
//! | offset | bytes | record |
//! |---|---|---|
//! | 0 | 4 | `TGR1` |
//! | 4 | 4 | crc of the rest of the header with its table, continued from the crc of the life |
//! | 8 | 4 | short life |
//! | 12 | 4 | this record's offset in the segment |
//! | 16 | 4 | where the batch before ended in this segment (8192 in the first), the same in all records of a batch |
//! | 20 | 4 | records of the batch that come before this one |
//! | 24 | 4 | records of the batch that follow |
//! | 28 | 1 | kind |
//! | 29 | 3 | 0 |
//! | 32 | 8 | sequence number |
//! | 40 | 8 | blob |
//! | 48 | 8 | offset |
//! | 56 | 8 | len |
//! | 64 | 8 | time, nanoseconds since the Unix epoch |
//! | 72 | 8 | durable mark when the record was written |
//! | 80 | 4 | owner |
//! | 84 | 4 | where the body begins in the segment |
//! | 88 | 4 | length of the body, at most 1 MiB |
//! | 92 | 4 | 0 |
//! | 96 | 4 each | table: crc of each 4096 bytes of the body |
//!
//! A body of [`ALIGN_BODY_FROM`] bytes or more begins at a multiple of 4096 (where aligning costs little), a shorter one at the next
//! multiple of 8 after the table. The next record begins at the next multiple of 8 after the body.
//!
//! The footer is a record of kind 7, alone in its batch, last in a sealed segment; its body is, for each blob with a
//! name that has records here: blob (8), owner (4), length of the name (2), name. It serves salvage only and may be missing.
//!
//! Nothing that comes from the disk is believed before its crc, nor used as a length before it is checked against
//! the segment's size.

use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::log::{BLOCK_BYTES, BODY_BYTES_MAX, Kind, Position, Record};

/// Magic and version of a segment header.
const SEGMENT_MAGIC: [u8; 8] = *b"TIDELOG\x01";
/// Magic of a record.
pub const RECORD_MAGIC: [u8; 4] = *b"TGR1";
/// Says that a flush of the segment failed.
pub const SUSPECT: [u8; 8] = *b"SUSPECT\x01";
/// Where it stands.
pub const SUSPECT_AT: usize = 2048;
/// Bytes of a segment header that mean something.
const SEGMENT_FIELDS: usize = 100;
/// The largest segment: offsets fit 32 bits with room to spare.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;
/// Where the first record of a segment begins.
pub const HEADER_BYTES: u32 = 8192;
/// A record header without its table.
pub const RECORD_FIXED: usize = 96;
/// The largest record header.
pub const RECORD_HEADER_MAX: usize = RECORD_FIXED + 4 * BODY_BYTES_MAX.div_ceil(BLOCK_BYTES);
/// Bodies from this size on begin at a block: the padding is then at most an eighth.
pub const ALIGN_BODY_FROM: usize = 32 << 10;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub slot: u32,
    pub life: [u8; 16],
    pub log: [u8; 16],
    pub read_head: bool,
    pub segment_bytes: u64,
    pub ordinal: u64,
    pub previous: Position,
    pub mark: Position,
    pub next_seq: Seq,
}

/// Why bytes are not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotASegment {
    /// Of a version that this program does not know.
    Version(u8),
    /// All zeros: a file that was created and not used yet.
    Unused,
    /// Damaged, or never one.
    Damaged,
}

impl SegmentHeader {
    /// Both copies, as they stand at offset 0 of the segment.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES as usize];
        let mut fields = Vec::with_capacity(SEGMENT_FIELDS);
        fields.extend_from_slice(&self.slot.to_le_bytes());
        fields.extend_from_slice(&self.life);
        fields.extend_from_slice(&self.log);
        fields.extend_from_slice(&u32::from(self.read_head).to_le_bytes());
        fields.extend_from_slice(&0u32.to_le_bytes());
        fields.extend_from_slice(&self.segment_bytes.to_le_bytes());
        fields.extend_from_slice(&self.ordinal.to_le_bytes());
        fields.extend_from_slice(&self.previous.0.to_le_bytes());
        fields.extend_from_slice(&self.mark.0.to_le_bytes());
        fields.extend_from_slice(&self.next_seq.0.to_le_bytes());
        fields.extend_from_slice(&0u32.to_le_bytes());
        for copy in [0, BLOCK_BYTES] {
            out[copy..copy + 8].copy_from_slice(&SEGMENT_MAGIC);
            out[copy + 8..copy + 12].copy_from_slice(&crc32c::crc32c(&fields).to_le_bytes());
            out[copy + 12..copy + SEGMENT_FIELDS].copy_from_slice(&fields);
        }
        out
    }

    /// Reads one copy.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotASegment> {
        let bytes = bytes.get(..SEGMENT_FIELDS).ok_or(NotASegment::Damaged)?;
        if crc32c::crc32c(&bytes[12..]) != u32_at(bytes, 8) || bytes[..7] != SEGMENT_MAGIC[..7] {
            return Err(NotASegment::Damaged);
        }
        if bytes[7] != SEGMENT_MAGIC[7] {
            return Err(NotASegment::Version(bytes[7]));
        }
        let segment_bytes = u64_at(bytes, 56);
        if segment_bytes > SEGMENT_BYTES_MAX {
            return Err(NotASegment::Damaged);
        }
        Ok(Self {
            slot: u32_at(bytes, 12),
            life: array_at(bytes, 16),
            log: array_at(bytes, 32),
            read_head: u32_at(bytes, 48) != 0,
            segment_bytes,
            ordinal: u64_at(bytes, 64),
            previous: Position(u64_at(bytes, 72)),
            mark: Position(u64_at(bytes, 80)),
            next_seq: Seq(u64_at(bytes, 88)),
        })
    }
}

/// The short form of a life.
pub fn short_life(life: &[u8; 16]) -> u32 {
    u32_at(life, 0)
}

/// What record checksums of a life are continued from.
pub fn life_seed(life: &[u8; 16]) -> u32 {
    crc32c::crc32c(life)
}

/// A record's header, as far as it is of fixed size. The table follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub at: u32,
    pub batch_previous: u32,
    pub batch_before: u32,
    pub batch_after: u32,
    pub kind: Kind,
    pub seq: Seq,
    pub blob: BlobId,
    pub offset: u64,
    pub len: u64,
    pub time_ns: i64,
    pub mark: Position,
    pub owner: OwnerId,
    pub body_at: u32,
    pub body_len: u32,
}

impl RecordHeader {
    /// Bytes of header and table.
    pub fn header_bytes(&self) -> usize {
        RECORD_FIXED + 4 * (self.body_len as usize).div_ceil(BLOCK_BYTES)
    }

    /// Where the record ends: the first place where another can begin.
    pub fn end(&self) -> u32 {
        align(self.body_at + self.body_len, 8)
    }

    /// Appends header and table to `out`.
    pub fn encode(&self, table: &[u32], life: &[u8; 16], seed: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&RECORD_MAGIC);
        out.extend_from_slice(&[0; 4]);
        for field in [short_life(life), self.at, self.batch_previous, self.batch_before, self.batch_after] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        for field in [self.seq.0, self.blob.0, self.offset, self.len] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.time_ns.to_le_bytes());
        out.extend_from_slice(&self.mark.0.to_le_bytes());
        for field in [self.owner.0, self.body_at, self.body_len, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for sum in table {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(seed, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the header at the beginning of `bytes`, which is at offset `at` of a segment of `segment_bytes`. `None` where there is none, whole and of this life and place.
    pub fn decode(bytes: &[u8], life: &[u8; 16], seed: u32, at: u32, segment_bytes: u64) -> Option<Self> {
        let fixed = bytes.get(..RECORD_FIXED)?;
        if fixed[..4] != RECORD_MAGIC || u32_at(fixed, 8) != short_life(life) || u32_at(fixed, 12) != at {
            return None;
        }
        let body_len = u32_at(fixed, 88);
        if body_len as usize > BODY_BYTES_MAX {
            return None;
        }
        let header_bytes = RECORD_FIXED + 4 * (body_len as usize).div_ceil(BLOCK_BYTES);
        let whole = bytes.get(..header_bytes)?;
        if crc32c::crc32c_append(seed, &whole[8..]) != u32_at(fixed, 4) {
            return None;
        }
        let header = Self {
            at,
            batch_previous: u32_at(fixed, 16),
            batch_before: u32_at(fixed, 20),
            batch_after: u32_at(fixed, 24),
            kind: kind(fixed[28])?,
            seq: Seq(u64_at(fixed, 32)),
            blob: BlobId(u64_at(fixed, 40)),
            offset: u64_at(fixed, 48),
            len: u64_at(fixed, 56),
            time_ns: u64_at(fixed, 64).cast_signed(),
            mark: Position(u64_at(fixed, 72)),
            owner: OwnerId(u32_at(fixed, 80)),
            body_at: u32_at(fixed, 84),
            body_len,
        };
        let fits = u64::from(header.body_at) + u64::from(body_len) <= segment_bytes
            && header.body_at as usize >= at as usize + header_bytes
            && header.batch_previous <= at;
        fits.then_some(header)
    }
}

/// The table's entry for unit `index` of the body, from the bytes of a whole header.
pub fn table_entry(header: &[u8], index: usize) -> Option<u32> {
    let at = RECORD_FIXED + 4 * index;
    header.get(at..at + 4).map(|bytes| u32_at(bytes, 0))
}

/// The crc of each unit of a body.
pub fn table_of(body: &[u8]) -> Vec<u32> {
    body.chunks(BLOCK_BYTES).map(crc32c::crc32c).collect()
}

/// Where a record that begins at `at` has its body, and where it ends.
pub fn place(at: u32, body_len: usize) -> (u32, u32) {
    let header_bytes = RECORD_FIXED + 4 * body_len.div_ceil(BLOCK_BYTES);
    let after = at + header_bytes as u32;
    let body_at = align(after, if body_len >= ALIGN_BODY_FROM { BLOCK_BYTES as u32 } else { 8 });
    (body_at, align(body_at + body_len as u32, 8))
}

/// What a batch takes at most, wherever it begins.
pub fn batch_bytes<'a>(batch: impl Iterator<Item = &'a Record>) -> u64 {
    let record = |record: &Record| {
        let table = 4 * record.body.len().div_ceil(BLOCK_BYTES);
        let padding = if record.body.len() >= ALIGN_BODY_FROM { BLOCK_BYTES } else { 8 };
        (RECORD_FIXED + table + padding + record.body.len() + 8) as u64
    };
    batch.map(record).sum()
}

/// The next multiple of `to`, a power of two.
pub const fn align(value: u32, to: u32) -> u32 {
    (value + to - 1) & !(to - 1)
}

/// The body of a footer, of at most `room_bytes`.
pub fn encode_footer<'a>(names: impl Iterator<Item = (BlobId, OwnerId, &'a [u8])>, room_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (blob, owner, name) in names {
        let Ok(name_len) = u16::try_from(name.len()) else { continue };
        if out.len() + 14 + name.len() > room_bytes {
            break;
        }
        out.extend_from_slice(&blob.0.to_le_bytes());
        out.extend_from_slice(&owner.0.to_le_bytes());
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(name);
    }
    out
}

/// What [`encode_footer`] wrote; `None` where the bytes are no footer.
pub fn decode_footer(mut bytes: &[u8]) -> Option<Vec<(BlobId, OwnerId, Vec<u8>)>> {
    let mut names = Vec::new();
    while !bytes.is_empty() {
        let (fixed, rest) = bytes.split_at_checked(14)?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([fixed[12], fixed[13]])))?;
        names.push((BlobId(u64_at(fixed, 0)), OwnerId(u32_at(fixed, 8)), name.to_vec()));
        bytes = rest;
    }
    Some(names)
}

fn kind(byte: u8) -> Option<Kind> {
    Some(match byte {
        1 => Kind::Data,
        2 => Kind::Discard,
        3 => Kind::SetLength,
        4 => Kind::RemoveBlob,
        5 => Kind::CleanThrough,
        6 => Kind::Name,
        7 => Kind::Footer,
        _ => return None,
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests;

//! The format of a reel, version 1: how records and filemarks are bytes. Pure: it reads and makes bytes, and knows no store.
//!
//! A reel is a header and frames, one behind the other without gaps. Numbers are little-endian; CRC-32C is Castagnoli's. What is called
//! reserved is zero, and a reader refuses what is not, as it refuses kinds and compressions that it does not know.
//!
//! ```text
//! header, 64 bytes                                   frame header, 40 bytes
//!   0  8  "TIDEREEL"                                   0  4  "TGRF"
//!   8  2  version: 1                                   4  1  kind: 1 record, 2 filemark, 3 index
//!  10  2  flags: bit 0 WORM                            5  1  compression of the payload: 0 none
//!  12  4  reserved                                     6  2  reserved
//!  16 16  id of the reel, random                       8  8  number of the object; of an index: objects before it
//!  32  8  capacity, bytes                             16  8  life: how often the reel was cut before this was written
//!  40 20  reserved                                    24  4  bytes of the payload, which follows this header
//!  60  4  CRC of bytes 0..60                          28  4  bytes of the record (0: filemark); entries of an index
//!                                                     32  4  CRC of the payload
//! mark, 80 bytes                                      36  4  CRC of the reel's id and bytes 0..36
//!   0  8  "TIDEMARK"
//!   8  2  version: 1                                 payload of an index, 32 bytes and 4 for each entry
//!  10  6  reserved                                     0  8  number of the first object that it lists
//!  16 16  id of the reel                               8  8  filemarks before that
//!  32  8  life                                        16  8  place of that object's frame in the reel, bytes
//!  40  8  objects                                     24  8  place of the index before; 0: there is none
//!  48  8  filemarks                                   32 4n  for each object from there on: bit 31 a filemark;
//!  56  8  bytes of the reel                                  bits 0..31 bytes of its frame, header and payload
//!  64  8  place of the last index; 0: none
//!  72  4  reserved
//!  76  4  CRC of bytes 0..76
//! ```
//!
//! - An index comes behind every [`INDEX_ENTRIES_MAX`]th object and lists those since the index before: from the last, which the mark names, the
//!   whole reel is found by going back; what is behind the last is found by walking.
//! - A *mark* is kept beside the reel, and says how far it is synced. What is behind its end is not part of the reel.
//! - Lives never go down along a reel: a frame that is left from before a cut is not taken for one of now. The id does the same for other reels.
//! - A record that is kept compressed has more bytes than its payload; version 1 writes none so.

mod frame;
mod index;
mod map;

pub use frame::{FRAME_BYTES, Frame, FrameKind};
pub use index::{INDEX_ENTRIES_MAX, Index};
pub use map::{ReelMap, Spot};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a mark.
pub const MARK_BYTES: usize = 80;
/// The version that is written, and the only one that is read.
pub const VERSION: u16 = 1;

const HEADER_MAGIC: &[u8; 8] = b"TIDEREEL";
const MARK_MAGIC: &[u8; 8] = b"TIDEMARK";
const WORM: u16 = 1;

/// What is wrong with bytes that should be part of a reel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Short,
    /// They begin as something else.
    #[error("this is none of a reel's parts")]
    Magic,
    /// They are of a version that is not known here.
    #[error("version {0} is not known")]
    Version(u16),
    /// A checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// A field has a value that nothing writes.
    #[error("the field at byte {0} has a value that it cannot have")]
    Field(usize),
    /// It is whole, but not what comes here: of another life, or another number.
    #[error("it is out of order")]
    Order,
}

/// The beginning of a reel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Random: no two reels have the same.
    pub id: [u8; 16],
    /// Objects are only ever added.
    pub is_worm: bool,
    /// What fits, in bytes of frames.
    pub capacity_bytes: u64,
}

impl Header {
    /// As bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(HEADER_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&if self.is_worm { WORM } else { 0 }.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        bytes[32..40].copy_from_slice(&self.capacity_bytes.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// From the first bytes of a reel.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let bytes = opened(bytes, HEADER_BYTES, HEADER_MAGIC)?;
        let flags = u16::from_le_bytes(array(bytes, 10));
        if flags & !WORM != 0 {
            return Err(Damage::Field(10));
        }
        reserved(bytes, 12..16)?;
        reserved(bytes, 40..60)?;
        Ok(Self { id: array(bytes, 16), is_worm: flags & WORM != 0, capacity_bytes: u64::from_le_bytes(array(bytes, 32)) })
    }
}

/// How far a reel is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which reel.
    pub id: [u8; 16],
    /// How often it was cut.
    pub life: u64,
    /// Objects.
    pub objects: u64,
    /// Filemarks among them.
    pub filemarks: u64,
    /// Bytes of the reel, with its header.
    pub len_bytes: u64,
    /// Where the last index is; 0: there is none.
    pub index_place: u64,
}

impl Mark {
    /// As bytes.
    pub fn to_bytes(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(MARK_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        let numbers = [self.life, self.objects, self.filemarks, self.len_bytes, self.index_place];
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[32 + 8 * at..40 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let bytes = opened(bytes, MARK_BYTES, MARK_MAGIC)?;
        reserved(bytes, 10..16)?;
        reserved(bytes, 72..76)?;
        let number = |at: usize| u64::from_le_bytes(array(bytes, at));
        let mark = Self {
            id: array(bytes, 16),
            life: number(32),
            objects: number(40),
            filemarks: number(48),
            len_bytes: number(56),
            index_place: number(64),
        };
        if mark.filemarks > mark.objects {
            return Err(Damage::Field(48));
        }
        if mark.index_place >= mark.len_bytes {
            return Err(Damage::Field(64));
        }
        Ok(mark)
    }
}

/// Puts the checksum of everything before into the last four bytes.
fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
}

/// A part of fixed length with its magic, version and checksum as they should be.
fn opened<'a>(bytes: &'a [u8], len: usize, magic: &[u8; 8]) -> Result<&'a [u8], Damage> {
    let bytes = bytes.get(..len).ok_or(Damage::Short)?;
    if &bytes[..8] != magic {
        return Err(Damage::Magic);
    }
    if u32::from_le_bytes(array(bytes, len - 4)) != crc32c::crc32c(&bytes[..len - 4]) {
        return Err(Damage::Checksum);
    }
    match u16::from_le_bytes(array(bytes, 8)) {
        VERSION => Ok(bytes),
        other => Err(Damage::Version(other)),
    }
}

fn reserved(bytes: &[u8], range: std::ops::Range<usize>) -> Result<(), Damage> {
    let start = range.start;
    match bytes[range].iter().position(|byte| *byte != 0) {
        Some(at) => Err(Damage::Field(start + at)),
        None => Ok(()),
    }
}

/// Bytes from `at` on; the caller knows that they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests;

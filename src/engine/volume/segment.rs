//! A segment: the object in S3 that holds a stretch of a volume's history, byte by byte. Format version 1.
//!
//! What lives here: [`About`] (which segment of what), [`Frame`] (a range of the volume, and where the object has its bytes), [`Builder`] (frames become an
//! object), [`Segment`] (an object becomes frames). Pure: nothing here asks S3.
//!
//! A volume is uploaded in batches. A batch is what differs between two of its generations, and becomes one or more segments; only a manifest that
//! names all of them makes them part of the volume. A segment never changes, and its key has the epoch of the gateway that wrote it, so that two
//! gateways never write the same.
//!
//! ```text
//! offset  bytes  (integers are little-endian)
//!      0      8  "TGVOLSEG"
//!      8      4  version: 1
//!     12      4  how many frames
//!     16     16  the volume's id
//!     32      8  epoch: which attachment of the volume wrote it
//!     40      8  number: within the epoch, rising
//!     48      8  through: the generation that the batch makes of the volume
//!     56      8  length of the volume as of that generation, in bytes
//!     64      4  part: which segment of the batch, from 0
//!     68      4  parts: how many segments the batch has
//!     72     20  zero
//!     92      4  CRC-32C of header and table, with these four bytes as zero
//!     96  32 n   table of frames, in the order of their places in the volume
//!   96+32n  ..   stored bytes, frame by frame, without gaps
//!
//! a frame in the table:
//!      0      8  where it begins in the volume, in bytes
//!      8      8  its length in the volume, in bytes; not 0
//!     16      4  how many bytes are stored for it
//!     20      4  CRC-32C of the stored bytes
//!     24      1  how: 0 zeroes (nothing is stored), 1 as they are, 2 compressed (an LZ4 block)
//!     25      7  zero
//! ```
//!
//! Invariants:
//! - Frames do not overlap and lie within the volume's length. A frame with stored bytes is at most [`FRAME_BYTES_MAX`] long, which is what
//!   has to be fetched and verified to read any byte of it.
//! - The same content makes the same object.
//! - What is read is verified before it is believed: the table by its checksum, each frame by its own.

use std::ops::Range;

use bytes::Bytes;

use super::names::VolumeId;
use crate::base::id::Seq;

const MAGIC: &[u8; 8] = b"TGVOLSEG";
const VERSION: u32 = 1;
/// The header without the table, in bytes.
pub const HEADER_BYTES: usize = 96;
/// A row of the table, in bytes.
pub const ROW_BYTES: usize = 32;
/// The longest frame with stored bytes, in bytes of the volume: what is compressed, fetched and verified at once.
pub const FRAME_BYTES_MAX: usize = 64 << 10;
/// More frames than any segment has: bounds what a damaged count can make a reader allocate.
const FRAMES_MAX: usize = 1 << 20;

/// Which segment of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The volume.
    pub volume: VolumeId,
    /// Which attachment of the volume wrote it.
    pub epoch: u64,
    /// Within the epoch, rising.
    pub number: u64,
    /// The generation that the batch makes of the volume.
    pub through: Seq,
    /// Length of the volume as of that generation, in bytes.
    pub len_bytes: u64,
    /// Which segment of the batch, from 0.
    pub part: u32,
    /// How many segments the batch has.
    pub parts: u32,
}

/// How the bytes of a frame are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Plain,
    /// As an LZ4 block.
    Lz4,
}

/// Where an object has the bytes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// In the object, in bytes.
    pub range: Range<u64>,
    /// CRC-32C of them.
    pub crc: u32,
    /// How they are stored.
    pub codec: Codec,
}

/// A range of the volume, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// In the volume, in bytes; not empty.
    pub range: Range<u64>,
    /// `None`: zeroes.
    pub stored: Option<Stored>,
}

/// Why an object is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Something else.
    #[error("the object is no segment of a volume")]
    NotASegment,
    /// From the future.
    #[error("the segment has format version {0}, and this program knows versions up to 1: read it with a newer Tidegate")]
    Newer(u32),
    /// Not what was written.
    #[error("the segment is damaged: {0}")]
    Damaged(&'static str),
}

/// The table of an object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which it is.
    pub about: About,
    /// In the order of their places in the volume.
    pub frames: Vec<Frame>,
}

/// Makes a segment out of ranges of a volume, told in order.
pub struct Builder {
    about: About,
    frames: Vec<Frame>,
    stored: Vec<Bytes>,
    stored_bytes: u64,
}

impl Builder {
    /// Nothing in it yet.
    pub fn new(about: About) -> Self {
        Self { about, frames: Vec::new(), stored: Vec::new(), stored_bytes: 0 }
    }

    /// Adds `bytes` at `offset` of the volume, behind everything that was added before. What is all zeroes is stored as such.
    pub fn add(&mut self, offset: u64, bytes: &[Bytes]) {
        let mut at = offset;
        let mut frame: Vec<u8> = Vec::new();
        // Frames end where multiples of their length do, so that what is written again and again meets the same frames.
        let room = |at: u64| FRAME_BYTES_MAX - (at % FRAME_BYTES_MAX as u64) as usize;
        for slice in bytes {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let taken = rest.len().min(room(at + frame.len() as u64));
                frame.extend_from_slice(&rest[..taken]);
                rest = &rest[taken..];
                if room(at + frame.len() as u64) == FRAME_BYTES_MAX {
                    at = self.add_frame(at, &frame);
                    frame.clear();
                }
            }
        }
        if !frame.is_empty() {
            self.add_frame(at, &frame);
        }
    }

    /// Adds zeroes, behind everything that was added before.
    pub fn add_zeroes(&mut self, range: Range<u64>) {
        match self.frames.last_mut() {
            _ if range.is_empty() => {}
            Some(Frame { range: last, stored: None }) if last.end == range.start => last.end = range.end,
            _ => self.frames.push(Frame { range, stored: None }),
        }
    }

    fn add_frame(&mut self, at: u64, bytes: &[u8]) -> u64 {
        let end = at + bytes.len() as u64;
        if bytes.iter().all(|byte| *byte == 0) {
            self.add_zeroes(at..end);
            return end;
        }
        let compressed = lz4_flex::block::compress(bytes);
        // Not for little: reading it costs time as well.
        let is_worth_it = compressed.len() + bytes.len() / 16 < bytes.len();
        let (codec, stored) = if is_worth_it { (Codec::Lz4, compressed) } else { (Codec::Plain, bytes.to_vec()) };
        let range = self.stored_bytes..self.stored_bytes + stored.len() as u64;
        self.stored_bytes = range.end;
        // Their places are counted from the object's beginning when the table's length is known.
        self.frames.push(Frame { range: at..end, stored: Some(Stored { range, crc: crc32c::crc32c(&stored), codec }) });
        self.stored.push(stored.into());
        end
    }

    /// The object's bytes, in pieces, and what is where in it.
    pub fn finish(mut self) -> (Vec<Bytes>, Segment) {
        let head_bytes = head_bytes(self.frames.len());
        for stored in self.frames.iter_mut().filter_map(|frame| frame.stored.as_mut()) {
            stored.range = stored.range.start + head_bytes..stored.range.end + head_bytes;
        }
        let segment = Segment { about: self.about, frames: self.frames };
        let head = Bytes::from(segment.encode());
        (std::iter::once(head).chain(self.stored).collect(), segment)
    }
}

/// Header and table of so many frames, in bytes.
fn head_bytes(frames: usize) -> u64 {
    (HEADER_BYTES + frames * ROW_BYTES) as u64
}

impl Segment {
    fn encode(&self) -> Vec<u8> {
        let about = &self.about;
        let mut head = Vec::with_capacity(HEADER_BYTES + self.frames.len() * ROW_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        head.extend_from_slice(&about.volume.0);
        for word in [about.epoch, about.number, about.through.0, about.len_bytes] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        head.extend_from_slice(&about.part.to_le_bytes());
        head.extend_from_slice(&about.parts.to_le_bytes());
        head.resize(HEADER_BYTES, 0);
        for Frame { range, stored } in &self.frames {
            let (stored_bytes, crc, codec) = match stored {
                None => (0, 0, 0),
                Some(Stored { range, crc, codec: Codec::Plain }) => (range.end - range.start, *crc, 1),
                Some(Stored { range, crc, codec: Codec::Lz4 }) => (range.end - range.start, *crc, 2),
            };
            head.extend_from_slice(&range.start.to_le_bytes());
            head.extend_from_slice(&(range.end - range.start).to_le_bytes());
            head.extend_from_slice(&(stored_bytes as u32).to_le_bytes());
            head.extend_from_slice(&crc.to_le_bytes());
            head.extend_from_slice(&[codec, 0, 0, 0, 0, 0, 0, 0]);
        }
        let crc = checksum(&head);
        head[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// How many bytes of an object header and table are, by its first [`HEADER_BYTES`].
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn head_bytes(header: &[u8]) -> Result<u64, SegmentError> {
        if header.len() < HEADER_BYTES || &header[..8] != MAGIC {
            return Err(SegmentError::NotASegment);
        }
        match word32(header, 8) {
            VERSION => {}
            0 => return Err(SegmentError::NotASegment),
            newer => return Err(SegmentError::Newer(newer)),
        }
        let frames = word32(header, 12) as usize;
        if frames > FRAMES_MAX { Err(SegmentError::Damaged("more frames than a segment has")) } else { Ok(head_bytes(frames)) }
    }

    /// Reads header and table; `head` begins with them.
    ///
    /// # Errors
    /// `NotASegment`, `Newer`, `Damaged`.
    pub fn decode(head: &[u8]) -> Result<Self, SegmentError> {
        let head_bytes = Self::head_bytes(head)?;
        let head = head.get(..head_bytes as usize).ok_or(SegmentError::Damaged("it ends within its table"))?;
        if checksum(head) != word32(head, CRC_AT) {
            return Err(SegmentError::Damaged("header and table do not have the checksum that they say"));
        }
        let about = About {
            volume: VolumeId(std::array::from_fn(|at| head[16 + at])),
            epoch: word64(head, 32),
            number: word64(head, 40),
            through: Seq(word64(head, 48)),
            len_bytes: word64(head, 56),
            part: word32(head, 64),
            parts: word32(head, 68),
        };
        let (mut frames, mut place, mut last_end) = (Vec::new(), head_bytes, 0);
        for row in head[HEADER_BYTES..].chunks_exact(ROW_BYTES) {
            let frame = decode_row(row, place)?;
            if frame.range.start < last_end || frame.range.end > about.len_bytes {
                return Err(SegmentError::Damaged("frames overlap, or are not within the volume"));
            }
            last_end = frame.range.end;
            place = frame.stored.as_ref().map_or(place, |stored| stored.range.end);
            frames.push(frame);
        }
        Ok(Self { about, frames })
    }

    /// The whole object's length in bytes.
    pub fn len_bytes(&self) -> u64 {
        let last = self.frames.iter().rev().find_map(|frame| frame.stored.as_ref());
        last.map_or(head_bytes(self.frames.len()), |stored| stored.range.end)
    }
}

/// A row of the table, whose stored bytes begin at `place`.
fn decode_row(row: &[u8], place: u64) -> Result<Frame, SegmentError> {
    let (start, len, stored_bytes, crc) = (word64(row, 0), word64(row, 8), word32(row, 16), word32(row, 20));
    let range = start..start.checked_add(len).ok_or(SegmentError::Damaged("a frame has no end"))?;
    let codec = match row[24] {
        0 if stored_bytes == 0 && len > 0 => return Ok(Frame { range, stored: None }),
        1 if u64::from(stored_bytes) == len => Codec::Plain,
        2 if u64::from(stored_bytes) < len => Codec::Lz4,
        _ => return Err(SegmentError::Damaged("a frame is stored in a way that this version does not know")),
    };
    if len == 0 || stored_bytes == 0 || len > FRAME_BYTES_MAX as u64 {
        return Err(SegmentError::Damaged("a frame is empty or too long"));
    }
    Ok(Frame { range, stored: Some(Stored { range: place..place + u64::from(stored_bytes), crc, codec }) })
}

impl Frame {
    /// The bytes of the frame, out of what is stored for it.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn open(&self, bytes: &Bytes) -> Result<Bytes, SegmentError> {
        let len = (self.range.end - self.range.start) as usize;
        let Some(stored) = &self.stored else { return Ok(vec![0; len].into()) };
        if bytes.len() as u64 != stored.range.end - stored.range.start || crc32c::crc32c(bytes) != stored.crc {
            return Err(SegmentError::Damaged("the bytes of a frame do not have its checksum"));
        }
        match stored.codec {
            Codec::Plain => Ok(bytes.clone()),
            Codec::Lz4 => match lz4_flex::block::decompress(bytes, len) {
                Ok(opened) if opened.len() == len => Ok(opened.into()),
                _ => Err(SegmentError::Damaged("a frame cannot be decompressed")),
            },
        }
    }
}

/// Where the checksum of header and table is.
const CRC_AT: usize = HEADER_BYTES - 4;

/// Of header and table, with the checksum's own bytes as zero.
fn checksum(head: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), &[0; 4]);
    crc32c::crc32c_append(crc, &head[HEADER_BYTES..])
}

pub(super) fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

pub(super) fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

#[cfg(test)]
mod tests;

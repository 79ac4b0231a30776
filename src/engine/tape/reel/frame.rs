//! A frame: the header before each record, filemark and index.
//!
//! Invariant: a header that is taken was written for this reel, and is as it was written; the payload is checked apart, so that a walk over
//! headers does not read it.

use super::{Damage, array, reserved};
use crate::engine::tape::RECORD_BYTES_MAX;

/// Bytes of a frame's header.
pub const FRAME_BYTES: usize = 40;
/// The longest payload, in bytes: a record's, or an index's.
const PAYLOAD_BYTES_MAX: usize = RECORD_BYTES_MAX;
const MAGIC: &[u8; 4] = b"TGRF";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A record.
    Record = 1,
    /// A filemark: no payload.
    Filemark = 2,
    /// An [`Index`](super::Index).
    Index = 3,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// The number of the object; of an index: how many objects are before it.
    pub number: u64,
    /// How often the reel was cut before.
    pub life: u64,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// Bytes of the record; entries of an index.
    pub count: u32,
    checksum: u32,
}

impl Frame {
    /// The header for a payload that is not compressed. `count`: see [`Frame::count`].
    pub fn new(kind: FrameKind, number: u64, life: u64, count: u32, payload: &[u8]) -> Self {
        Self { kind, number, life, payload_bytes: payload.len() as u32, count, checksum: crc32c::crc32c(payload) }
    }

    /// The header of a record.
    pub fn record(number: u64, life: u64, record: &[u8]) -> Self {
        Self::new(FrameKind::Record, number, life, record.len() as u32, record)
    }

    /// The header of a filemark.
    pub fn filemark(number: u64, life: u64) -> Self {
        Self::new(FrameKind::Filemark, number, life, 0, &[])
    }

    /// Bytes of the whole frame.
    pub fn len_bytes(&self) -> u64 {
        FRAME_BYTES as u64 + u64::from(self.payload_bytes)
    }

    /// As bytes, for the reel of this id.
    pub fn to_bytes(&self, id: &[u8; 16]) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = self.kind as u8;
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.life.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.count.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = checksum(id, &bytes);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// From the first bytes of a frame.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8], id: &[u8; 16]) -> Result<Self, Damage> {
        let bytes = bytes.get(..FRAME_BYTES).ok_or(Damage::Short)?;
        if &bytes[..4] != MAGIC {
            return Err(Damage::Magic);
        }
        if u32::from_le_bytes(array(bytes, 36)) != checksum(id, bytes) {
            return Err(Damage::Checksum);
        }
        let kind = match bytes[4] {
            1 => FrameKind::Record,
            2 => FrameKind::Filemark,
            3 => FrameKind::Index,
            _ => return Err(Damage::Field(4)),
        };
        if bytes[5] != 0 {
            return Err(Damage::Field(5));
        }
        reserved(bytes, 6..8)?;
        let number = |at: usize| u32::from_le_bytes(array(bytes, at));
        let frame = Self {
            kind,
            number: u64::from_le_bytes(array(bytes, 8)),
            life: u64::from_le_bytes(array(bytes, 16)),
            payload_bytes: number(24),
            count: number(28),
            checksum: number(32),
        };
        frame.check_lengths()?;
        Ok(frame)
    }

    fn check_lengths(&self) -> Result<(), Damage> {
        let (payload, count) = (self.payload_bytes as usize, self.count as usize);
        let is_right = match self.kind {
            FrameKind::Record => count > 0 && count <= RECORD_BYTES_MAX && payload == count,
            FrameKind::Filemark => payload == 0 && count == 0,
            FrameKind::Index => payload <= PAYLOAD_BYTES_MAX,
        };
        if is_right { Ok(()) } else { Err(Damage::Field(24)) }
    }

    /// The payload of the frame that begins with this header, where it is whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], Damage> {
        let end = FRAME_BYTES + self.payload_bytes as usize;
        let payload = frame.get(FRAME_BYTES..end).ok_or(Damage::Short)?;
        if crc32c::crc32c(payload) == self.checksum { Ok(payload) } else { Err(Damage::Checksum) }
    }
}

fn checksum(id: &[u8; 16], header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(id), &header[..36])
}

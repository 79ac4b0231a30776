//! EXTENDED COPY(LID1) within one disk (SPC-4 §6.4): block to block, so that a copy of a file costs no network.
//!
//! Invariants: all descriptors are checked before the first block is copied; copies end within their command, so that none is to be
//! aborted; of the last [`REMEMBERED_MAX`] it is known how they went.

use bytes::Bytes;

use super::{Disk, Stability, TRANSFER_BYTES_MAX};
use crate::protocol::scsi::cdb::number;
use crate::protocol::scsi::{Answer, Cdb, Condition, Failure, Sense};

const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
const TARGETS_MAX: usize = 2;
const SEGMENTS_MAX: usize = 8;
/// MAXIMUM DESCRIPTOR LIST LENGTH: room for one descriptor too many of one kind, so that this is what is told.
const LIST_BYTES_MAX: usize = (TARGETS_MAX + 1) * TARGET_BYTES + SEGMENTS_MAX * SEGMENT_BYTES;
/// Identification descriptor target descriptor.
const TARGET_TYPE: u8 = 0xe4;
/// Block to block segment descriptor.
const SEGMENT_TYPE: u8 = 0x02;
/// Copies whose outcome is remembered.
const REMEMBERED_MAX: usize = 32;

/// How a copy went.
#[derive(Debug)]
pub(super) struct Copied {
    nexus: u64,
    list: u8,
    segments: u16,
    mebibytes: u32,
}

/// A segment: from, to, in bytes of the disk.
struct Segment {
    source: u64,
    destination: u64,
    len_bytes: u64,
}

fn wrong<T>(at: usize) -> Result<T, Failure> {
    Err(Sense::invalid_parameter(at as u16).into())
}

impl Disk {
    pub(super) async fn extended_copy(&self, nexus: u64, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let len = cdb.length(10, 4);
        if len == 0 {
            return Ok(Answer::none());
        }
        if len < HEADER_BYTES || data.len() < len {
            return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
        }
        let segments = self.parse(&data[..len])?;
        self.writable()?;
        let mut total_bytes = 0;
        for segment in &segments {
            self.copy(segment).await?;
            total_bytes += segment.len_bytes;
        }
        let copied = Copied { nexus, list: data[0], segments: segments.len() as u16, mebibytes: (total_bytes >> 20) as u32 };
        let mut copies = self.copies.lock();
        copies.retain(|copy| copy.nexus != nexus || copy.list != copied.list);
        if copies.len() >= REMEMBERED_MAX {
            copies.remove(0);
        }
        copies.push(copied);
        Ok(Answer::none())
    }

    fn parse(&self, list: &[u8]) -> Result<Vec<Segment>, Failure> {
        let (targets_bytes, segments_bytes) = (number(list, 2, 2) as usize, number(list, 8, 4) as usize);
        let inline_bytes = number(list, 12, 4);
        if targets_bytes.saturating_add(segments_bytes) > LIST_BYTES_MAX {
            return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
        }
        if targets_bytes / TARGET_BYTES > TARGETS_MAX {
            return Err(Condition::TOO_MANY_TARGET_DESCRIPTORS.into());
        }
        if targets_bytes % TARGET_BYTES != 0 {
            return wrong(2);
        }
        if inline_bytes != 0 {
            return wrong(12);
        }
        let segments_at = HEADER_BYTES + targets_bytes;
        let targets = list.get(HEADER_BYTES..segments_at).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
        for (index, target) in targets.chunks_exact(TARGET_BYTES).enumerate() {
            self.check_target(target, HEADER_BYTES + index * TARGET_BYTES)?;
        }
        if segments_bytes / SEGMENT_BYTES > SEGMENTS_MAX {
            return Err(Condition::TOO_MANY_SEGMENT_DESCRIPTORS.into());
        }
        let segments_end = segments_at.checked_add(segments_bytes).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
        let segments = list.get(segments_at..segments_end).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
        let mut parsed = Vec::new();
        for (index, segment) in segments.chunks(SEGMENT_BYTES).enumerate() {
            parsed.push(self.segment(segment, segments_at + index * SEGMENT_BYTES, targets_bytes / TARGET_BYTES)?);
        }
        Ok(parsed)
    }

    /// A target descriptor has to name this disk, by one of its designators.
    fn check_target(&self, target: &[u8], at: usize) -> Result<(), Failure> {
        if target[0] != TARGET_TYPE {
            return Err(Condition::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE.into());
        }
        // LU ID TYPE and NUL are of SPC-3, and ignored since.
        if target[1] & 0x1f != self.identity.device_type {
            return wrong(at + 1);
        }
        let len = usize::from(target[7]);
        let designator = target.get(8..8 + len).filter(|_| len <= 20);
        let is_own = designator.is_some_and(|designator| match target[5] & 0x0f {
            3 => designator == self.identity.local_id(),
            1 => self.identity.vendor_id().starts_with(designator) && len >= 9,
            _ => false,
        });
        if is_own { Ok(()) } else { Err(Condition::COPY_TARGET_DEVICE_NOT_REACHABLE.into()) }
    }

    fn segment(&self, segment: &[u8], at: usize, targets: usize) -> Result<Segment, Failure> {
        if segment.first() != Some(&SEGMENT_TYPE) {
            return Err(Condition::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE.into());
        }
        if segment.len() < SEGMENT_BYTES || number(segment, 2, 2) != 0x18 {
            return wrong(at + 2);
        }
        for index_at in [4, 6] {
            if number(segment, index_at, 2) as usize >= targets {
                return Err(Condition::UNREACHABLE_COPY_TARGET.into());
            }
        }
        let blocks = number(segment, 10, 2);
        let range = |at| {
            self.range(number(segment, at, 8), blocks).map_err(|_| Failure::from(Condition::COPY_TARGET_DEVICE_NOT_REACHABLE))
        };
        let (source, destination) = (range(12)?, range(20)?);
        Ok(Segment { source: source.start, destination: destination.start, len_bytes: source.end - source.start })
    }

    async fn copy(&self, segment: &Segment) -> Result<(), Failure> {
        let mut done = 0;
        while done < segment.len_bytes {
            let len = (segment.len_bytes - done).min(TRANSFER_BYTES_MAX);
            let source = segment.source + done;
            let pieces = self.device.read(source..source + len).await.map_err(|error| self.failure(&error))?;
            let mut to = segment.destination + done;
            let stability = if self.device.has_write_cache() { Stability::Cached } else { Stability::Durable };
            for piece in pieces {
                let piece_bytes = piece.len() as u64;
                self.device.write(to, piece, stability).await.map_err(|error| self.failure(&error))?;
                to += piece_bytes;
            }
            done += len;
        }
        Ok(())
    }

    /// RECEIVE COPY STATUS(LID1): of a copy that was asked for by the same nexus.
    pub(super) fn copy_status(&self, nexus: u64, cdb: &Cdb) -> Result<Answer, Failure> {
        let mut copies = self.copies.lock();
        let found = copies.iter().position(|copy| copy.nexus == nexus && copy.list == cdb.byte(2));
        let copied = copies.remove(found.ok_or_else(|| Failure::from(Sense::invalid_cdb(2)))?);
        let mut data = vec![0, 0, 0, 8, 0x01];
        data.extend(copied.segments.to_be_bytes());
        // Transfer count in mebibytes.
        data.push(2);
        data.extend(copied.mebibytes.to_be_bytes());
        Ok(Answer::parameters(data, cdb.length(10, 4)))
    }

    /// RECEIVE COPY OPERATING PARAMETERS.
    pub(super) fn copy_parameters(&self, cdb: &Cdb) -> Answer {
        let mut data = vec![0; 46];
        data[..4].copy_from_slice(&42_u32.to_be_bytes());
        // SNLID is not supported; copies have list identifiers.
        data[8..10].copy_from_slice(&(TARGETS_MAX as u16).to_be_bytes());
        data[10..12].copy_from_slice(&(SEGMENTS_MAX as u16).to_be_bytes());
        data[12..16].copy_from_slice(&(LIST_BYTES_MAX as u32).to_be_bytes());
        let segment_bytes = u32::from(u16::MAX) * self.device.geometry().block_bytes;
        data[16..20].copy_from_slice(&segment_bytes.to_be_bytes());
        data[34..36].copy_from_slice(&1_u16.to_be_bytes());
        data[36] = 1;
        // Granularity: one block.
        data[37] = self.device.geometry().block_bytes.ilog2() as u8;
        data[43] = 2;
        data[44..46].copy_from_slice(&[SEGMENT_TYPE, TARGET_TYPE]);
        Answer::parameters(data, cdb.length(10, 4))
    }
}

//! Which blocks there are, and which of them take room: READ CAPACITY, UNMAP, WRITE SAME, GET LBA STATUS (SBC-3 §4.7, §5), and the list
//! of defects, which is empty.

use bytes::Bytes;

use super::{Disk, SAME_BYTES_MAX, UNMAP_DESCRIPTORS_MAX, length_place, place};
use crate::protocol::scsi::cdb::number;
use crate::protocol::scsi::{Answer, Cdb, Condition, Failure, Sense};

/// WRITE SAME writes so much at a time, in bytes.
const SAME_CHUNK_BYTES: u64 = 1 << 20;
/// Descriptors of one GET LBA STATUS.
const STATUS_DESCRIPTORS_MAX: usize = 1024;

impl Disk {
    /// READ CAPACITY(10).
    pub(super) fn capacity(&self) -> Answer {
        let geometry = self.device.geometry();
        let last = u32::try_from(geometry.blocks - 1).unwrap_or(u32::MAX);
        Answer::parameters([last.to_be_bytes(), geometry.block_bytes.to_be_bytes()].concat(), 8)
    }

    /// READ CAPACITY(16): also the physical block, and that the disk is thin and reads zeroes where nothing is (LBPME, LBPRZ).
    pub(super) fn capacity_long(&self, cdb: &Cdb) -> Answer {
        let geometry = self.device.geometry();
        let mut data = vec![0; 32];
        data[..8].copy_from_slice(&(geometry.blocks - 1).to_be_bytes());
        data[8..12].copy_from_slice(&geometry.block_bytes.to_be_bytes());
        data[13] = (geometry.physical_block_bytes / geometry.block_bytes).ilog2() as u8;
        data[14] = 0xc0;
        Answer::parameters(data, cdb.length(10, 4))
    }

    /// READ DEFECT DATA(10) and (12): there are none.
    pub(super) fn defects(&self, cdb: &Cdb) -> Answer {
        if cdb.code() == 0x37 {
            Answer::parameters(vec![0, cdb.byte(2) & 0x1f, 0, 0], cdb.length(7, 2))
        } else {
            Answer::parameters(vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0], cdb.length(6, 4))
        }
    }

    pub(super) async fn unmap(&self, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let len = cdb.length(7, 2);
        if len == 0 {
            return Ok(Answer::none());
        }
        let descriptors_bytes = number(data, 2, 2) as usize;
        if len < 8 || data.len() < len || 8 + descriptors_bytes - descriptors_bytes % 16 > len {
            return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
        }
        self.writable()?;
        if descriptors_bytes / 16 > UNMAP_DESCRIPTORS_MAX {
            return Err(Sense::invalid_parameter(2).into());
        }
        let mut ranges = Vec::new();
        for descriptor in data[8..].chunks_exact(16).take(descriptors_bytes / 16) {
            ranges.push(self.range(number(descriptor, 0, 8), number(descriptor, 8, 4))?);
        }
        self.device.unmap(&ranges, self.stability(false)).await.map_err(|error| self.failure(&error))?;
        Ok(Answer::none())
    }

    /// WRITE SAME(10) and (16). Zeroes are not written but unmapped: the disk reads zeroes there.
    pub(super) async fn write_same(&self, cdb: &Cdb, data: &Bytes, announced_bytes: u64) -> Result<Answer, Failure> {
        let (lba, blocks) = place(cdb);
        let block_bytes = self.device.geometry().block_bytes;
        let range = self.range(lba, blocks)?;
        self.writable()?;
        if blocks == 0 {
            // WSNZ: zero does not mean "to the end".
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        let without_data = cdb.code() == 0x93 && cdb.bit(1, 0);
        let block = if without_data { None } else { Some(data) };
        if announced_bytes != block.map_or(0, |_| block_bytes.into()) || data.len() as u64 != announced_bytes {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        if range.end - range.start > SAME_BYTES_MAX {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        let stability = self.stability(false);
        let Some(block) = block.filter(|block| block.iter().any(|byte| *byte != 0)) else {
            self.device.unmap(&[range], stability).await.map_err(|error| self.failure(&error))?;
            return Ok(Answer::none());
        };
        let chunk = Bytes::from(block.repeat((SAME_CHUNK_BYTES.min(range.end - range.start) / u64::from(block_bytes)) as usize));
        let mut at = range.start;
        while at < range.end {
            let now = chunk.slice(..(range.end - at).min(chunk.len() as u64) as usize);
            let len = now.len() as u64;
            self.device.write(at, now, stability).await.map_err(|error| self.failure(&error))?;
            at += len;
        }
        Ok(Answer::none())
    }

    /// GET LBA STATUS: 0 mapped, 1 deallocated.
    pub(super) async fn lba_status(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let geometry = self.device.geometry();
        let (lba, allocation_bytes) = (cdb.number(2, 8), cdb.length(10, 4));
        if lba >= geometry.blocks {
            return Err(self.out_of_range(&geometry, lba));
        }
        let block_bytes = u64::from(geometry.block_bytes);
        let range = lba * block_bytes..geometry.len_bytes();
        let descriptors_max = (allocation_bytes.saturating_sub(8) / 16).clamp(1, STATUS_DESCRIPTORS_MAX);
        let extents = self.device.extents(range, descriptors_max).await.map_err(|error| self.failure(&error))?;
        let mut list = Vec::new();
        for extent in extents {
            // A block that is half mapped is mapped.
            let first =
                if extent.is_mapped { extent.range.start / block_bytes } else { extent.range.start.div_ceil(block_bytes) };
            let end = if extent.is_mapped { extent.range.end.div_ceil(block_bytes) } else { extent.range.end / block_bytes };
            let blocks = u32::try_from(end.saturating_sub(first)).unwrap_or(u32::MAX);
            list.extend(first.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([u8::from(!extent.is_mapped), 0, 0, 0]);
            if blocks == u32::MAX {
                break;
            }
        }
        let data = [&(list.len() as u32 + 4).to_be_bytes()[..], &[0; 4], &list].concat();
        Ok(Answer::parameters(data, allocation_bytes))
    }
}

//! Commands that move blocks or look at them: READ, WRITE and their kin, VERIFY, COMPARE AND WRITE, SYNCHRONIZE CACHE (SBC-3 §5).

use bytes::Bytes;

use super::{COMPARE_BLOCKS_MAX, Disk, Stability, length_place, place};
use crate::protocol::scsi::{Answer, Cdb, Condition, Failure, Sense};

/// How often ORWRITE begins anew where others write the same blocks.
const OR_TRIES_MAX: usize = 64;

impl Disk {
    pub(super) async fn read(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let range = self.transfer(cdb)?;
        if cdb.code() != 0x08 && cdb.bit(1, 3) {
            // FUA: what is read has to be on the medium.
            self.device.flush().await.map_err(|error| self.failure(&error))?;
        }
        if range.is_empty() {
            return Ok(Answer::none());
        }
        let data = self.device.read(range).await.map_err(|error| self.failure(&error))?;
        Ok(Answer { data, is_met: false })
    }

    /// WRITE in all sizes. Where the initiator sends less than it says, the whole blocks that came are written.
    pub(super) async fn write(&self, cdb: &Cdb, data: Bytes) -> Result<Answer, Failure> {
        let is_forced = cdb.code() != 0x0a && cdb.bit(1, 3);
        self.put(cdb, data, self.stability(is_forced)).await
    }

    async fn put(&self, cdb: &Cdb, mut data: Bytes, stability: Stability) -> Result<Answer, Failure> {
        let range = self.transfer(cdb)?;
        self.writable()?;
        let whole_bytes = data.len() - data.len() % self.device.geometry().block_bytes as usize;
        data.truncate(whole_bytes.min((range.end - range.start) as usize));
        if !data.is_empty() {
            self.device.write(range.start, data, stability).await.map_err(|error| self.failure(&error))?;
        }
        Ok(Answer::none())
    }

    /// WRITE AND VERIFY: on the medium, and compared with what was sent where BYTCHK says so.
    pub(super) async fn write_and_verify(&self, cdb: &Cdb, data: Bytes) -> Result<Answer, Failure> {
        let check = cdb.byte(1) >> 1 & 3;
        if check > 1 {
            return Err(Sense::invalid_cdb_bit(1, 2).into());
        }
        self.put(cdb, data.clone(), Stability::Durable).await?;
        self.compare(place(cdb).0, &data).await
    }

    /// WRITE ATOMIC(16): all of it or nothing.
    pub(super) async fn write_atomic(&self, cdb: &Cdb, data: Bytes) -> Result<Answer, Failure> {
        let range = self.transfer(cdb)?;
        let len_bytes = range.end - range.start;
        if len_bytes > u64::from(self.device.geometry().atomic_bytes_max) || cdb.number(10, 2) != 0 {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        if (data.len() as u64) < len_bytes {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        self.put(cdb, data, self.stability(cdb.bit(1, 3))).await
    }

    /// ORWRITE(16): each try replaces exactly what it read.
    pub(super) async fn or_write(&self, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let range = self.transfer(cdb)?;
        self.writable()?;
        if (data.len() as u64) < range.end - range.start {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        if range.is_empty() {
            return Ok(Answer::none());
        }
        let stability = self.stability(cdb.bit(1, 3));
        for _ in 0..OR_TRIES_MAX {
            let old = self.device.read(range.clone()).await.map_err(|error| self.failure(&error))?.concat();
            let new: Vec<u8> = old.iter().zip(data).map(|(old, new)| old | new).collect();
            let swapped = self.device.compare_and_write(range.start, old.into(), new.into(), stability).await;
            if swapped.map_err(|error| self.failure(&error))?.is_none() {
                return Ok(Answer::none());
            }
        }
        Err(Failure::Status(crate::protocol::scsi::Status::Busy))
    }

    pub(super) async fn compare_and_write(&self, cdb: &Cdb, data: &Bytes, announced_bytes: u64) -> Result<Answer, Failure> {
        let range = self.transfer(cdb)?;
        self.writable()?;
        let (_, blocks) = place(cdb);
        let half = (range.end - range.start) as usize;
        if blocks > COMPARE_BLOCKS_MAX || data.len() < 2 * half || announced_bytes != 2 * half as u64 {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        if blocks == 0 {
            return Ok(Answer::none());
        }
        let (expected, new) = (data.slice(..half), data.slice(half..2 * half));
        let swapped = self.device.compare_and_write(range.start, expected, new, self.stability(cdb.bit(1, 3))).await;
        match swapped.map_err(|error| self.failure(&error))? {
            None => Ok(Answer::none()),
            Some(at) => Err(Sense::from(Condition::MISCOMPARE_DURING_VERIFY_OPERATION).informed(at as u64).into()),
        }
    }

    /// VERIFY: the blocks can be read, and are what was sent where BYTCHK says so (3: each the same block).
    pub(super) async fn verify(&self, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let (lba, blocks) = place(cdb);
        let range = self.range(lba, blocks)?;
        let block_bytes = self.device.geometry().block_bytes as usize;
        match cdb.byte(1) >> 1 & 3 {
            // Every read of the device is checked; nothing is to be gained by reading the range now.
            0 => Ok(Answer::none()),
            1 => {
                self.transfer(cdb)?;
                self.compare(lba, data).await
            }
            3 if blocks == 0 => Ok(Answer::none()),
            3 => {
                self.transfer(cdb)?;
                let block = data.get(..block_bytes).ok_or_else(|| Failure::from(Sense::invalid_cdb(length_place(cdb))))?;
                let all = block.repeat(((range.end - range.start) as usize) / block_bytes);
                self.compare(lba, &all.into()).await
            }
            _ => Err(Sense::invalid_cdb_bit(1, 2).into()),
        }
    }

    /// Whether the blocks from `lba` on are these.
    async fn compare(&self, lba: u64, data: &Bytes) -> Result<Answer, Failure> {
        let block_bytes = u64::from(self.device.geometry().block_bytes);
        let range = self.range(lba, data.len() as u64 / block_bytes)?;
        if range.is_empty() {
            return Ok(Answer::none());
        }
        let mut at = 0;
        for piece in self.device.read(range).await.map_err(|error| self.failure(&error))? {
            let expected = &data[at..at + piece.len()];
            if piece != expected {
                let differs = piece.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
                let place = (at + differs) as u64;
                return Err(Sense::from(Condition::MISCOMPARE_DURING_VERIFY_OPERATION).informed(place).into());
            }
            at += piece.len();
        }
        Ok(Answer::none())
    }

    /// PRE-FETCH: a hint. CONDITION MET would promise that everything fits the cache.
    pub(super) fn prefetch(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let (lba, blocks) = place(cdb);
        let all = self.device.geometry().blocks.saturating_sub(lba);
        let range = self.range(lba, if blocks == 0 { all } else { blocks })?;
        self.device.prefetch(range);
        Ok(Answer::none())
    }

    /// SYNCHRONIZE CACHE: everything, whatever range is asked for. IMMED only allows an earlier answer.
    pub(super) async fn synchronize_cache(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let (lba, blocks) = place(cdb);
        self.range(lba, blocks)?;
        self.device.flush().await.map_err(|error| self.failure(&error))?;
        Ok(Answer::none())
    }
}

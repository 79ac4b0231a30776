//! VERIFY(6) (SSC-4 §7.9): reads, and compares with what the initiator sent where BYTCMP says so.

use bytes::Bytes;

use super::io::{Transfer, wrong_length};
use super::{Cdb, Condition, Failure, Sense, Tape};
use crate::engine::tape::RECORD_BYTES_MAX;
use crate::protocol::scsi::Answer;

impl Tape {
    pub(super) async fn verify(&self, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let (compares, is_immediate) = (cdb.bit(1, 1), cdb.bit(1, 2));
        if compares && is_immediate {
            return Err(Sense::invalid_cdb_bit(1, 2).into());
        }
        let Transfer { block_bytes, count } = self.transfer(cdb)?;
        if block_bytes.is_none() && count > RECORD_BYTES_MAX as u64 {
            return Err(Sense::invalid_cdb(2).into());
        }
        let (record_bytes, records) = block_bytes.map_or((count as usize, count.min(1)), |block_bytes| (block_bytes, count));
        if compares && data.len() < record_bytes * records as usize {
            return Err(Sense::invalid_cdb(2).into());
        }
        let mut head = self.head().await?;
        for number in 0..records as usize {
            let left = if block_bytes.is_some() { count - number as u64 } else { count };
            let record = head.read().await.map_err(|stop| self.stopped(&stop, Some(left)))?;
            if record.len() != record_bytes {
                let residue = if block_bytes.is_some() { left as i64 } else { left as i64 - record.len() as i64 };
                return Err(wrong_length(residue).into());
            }
            if compares && record != data[number * record_bytes..(number + 1) * record_bytes] {
                return Err(Sense::from(Condition::MISCOMPARE_DURING_VERIFY_OPERATION).informed(left).into());
            }
        }
        Ok(Answer::none())
    }
}

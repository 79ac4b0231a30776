//! READ(6), WRITE(6), WRITE FILEMARKS(6), READ BLOCK LIMITS (SSC-4 §7.2, §7.3, §7.4, §6.13).
//!
//! In fixed mode a command is so many blocks, each a record; in variable mode it is one record of so many bytes. INFORMATION is what was asked
//! for less what was done, in the same unit.

use bytes::Bytes;

use super::{Cdb, Condition, Failure, Sense, Stream, TRANSFER_BYTES_MAX, Tape};
use crate::engine::tape::{Head, Object, RECORD_BYTES_MAX, Stop};
use crate::protocol::scsi::Answer;

/// What READ, WRITE and VERIFY move.
pub(super) struct Transfer {
    /// The block length; `None`: one record of any length.
    pub(super) block_bytes: Option<usize>,
    /// Blocks, or bytes.
    pub(super) count: u64,
}

impl Tape {
    /// What a command says that it moves.
    pub(super) fn transfer(&self, cdb: &Cdb) -> Result<Transfer, Failure> {
        let block_bytes = self.modes.lock().block_bytes;
        let (is_fixed, count) = (cdb.bit(1, 0), cdb.number(2, 3));
        if is_fixed && block_bytes == 0 {
            return Err(Sense::invalid_cdb_bit(1, 0).into());
        }
        if is_fixed && count.saturating_mul(block_bytes.into()) > TRANSFER_BYTES_MAX {
            return Err(Sense::invalid_cdb(2).into());
        }
        Ok(Transfer { block_bytes: is_fixed.then_some(block_bytes as usize), count })
    }

    pub(super) async fn read(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let is_quiet = cdb.bit(1, 1);
        let Transfer { block_bytes, count } = self.transfer(cdb)?;
        if is_quiet && block_bytes.is_some() {
            return Err(Sense::invalid_cdb_bit(1, 1).into());
        }
        let mut head = self.head().await?;
        match block_bytes {
            _ if count == 0 => Ok(Answer::none()),
            Some(block_bytes) => self.read_blocks(&mut head, block_bytes, count).await,
            None => self.read_record(&mut head, count, is_quiet).await,
        }
    }

    async fn read_blocks(&self, head: &mut Head<'_>, block_bytes: usize, count: u64) -> Result<Answer, Failure> {
        let begin = head.position().map_err(|stop| self.failure(&stop))?;
        let mut data: Vec<Bytes> = Vec::new();
        for left in (1..=count).rev() {
            match head.read().await {
                Ok(record) if record.len() == block_bytes => data.push(record),
                // The record is passed; none of it is told.
                Ok(_) => return Err(Failure::Partial(data, wrong_length(left as i64))),
                Err(stop) => return Err(self.partial(head, begin, data, stop, left).await),
            }
        }
        Ok(Answer { data, is_met: false })
    }

    /// What came before the stop, and the stop; where the command is to be sent again, the head is where it was.
    async fn partial(&self, head: &mut Head<'_>, begin: u64, data: Vec<Bytes>, stop: Stop, left: u64) -> Failure {
        match self.stopped(&stop, Some(left)) {
            Failure::Sense(sense) => Failure::Partial(data, sense),
            other => match head.locate(begin).await {
                Ok(()) => other,
                Err(stop) => self.failure(&stop),
            },
        }
    }

    async fn read_record(&self, head: &mut Head<'_>, count: u64, is_quiet: bool) -> Result<Answer, Failure> {
        let mut record = head.read().await.map_err(|stop| self.stopped(&stop, Some(count)))?;
        let residue = count as i64 - record.len() as i64;
        record.truncate(count as usize);
        let data = vec![record];
        // SILI: shorter ones are right, and longer ones where no block length is set (§7.2, table 46).
        let is_right = residue == 0 || is_quiet && (residue > 0 || self.modes.lock().block_bytes == 0);
        if is_right { Ok(Answer { data, is_met: false }) } else { Err(Failure::Partial(data, wrong_length(residue))) }
    }

    pub(super) async fn write(&self, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let Transfer { block_bytes, count } = self.transfer(cdb)?;
        if block_bytes.is_none() && count > RECORD_BYTES_MAX as u64 {
            return Err(Sense::invalid_cdb(2).into());
        }
        let len = block_bytes.map_or(count as usize, |block_bytes| count as usize * block_bytes);
        // A record that is not what was announced is never written.
        let data = data.get(..len).map(|_| data.slice(..len)).ok_or_else(|| Sense::invalid_cdb(2))?;
        let mut head = self.head().await?;
        self.writable()?;
        if len == 0 {
            return Ok(Answer::none());
        }
        let (squeeze, is_buffered) = {
            let modes = self.modes.lock();
            (modes.squeezes, modes.is_buffered)
        };
        let begin = head.position().map_err(|stop| self.failure(&stop))?;
        let record_bytes = block_bytes.unwrap_or(len);
        for at in (0..len).step_by(record_bytes) {
            let record = Object::Record(data.slice(at..at + record_bytes));
            if let Err(stop) = head.write(record, squeeze).await {
                let left = if block_bytes.is_some() { count - (at / record_bytes) as u64 } else { count };
                return Err(self.unwritten(&mut head, begin, stop, left).await);
            }
        }
        if !is_buffered {
            head.sync().await.map_err(|stop| self.failure(&stop))?;
        }
        self.warned(&head)
    }

    /// A write that stopped; where the command is to be sent again, the head is where it was.
    async fn unwritten(&self, head: &mut Head<'_>, begin: u64, stop: Stop, left: u64) -> Failure {
        match self.stopped(&stop, Some(left)) {
            Failure::Status(status) => match head.locate(begin).await {
                Ok(()) => Failure::Status(status),
                Err(stop) => self.failure(&stop),
            },
            failure => failure,
        }
    }

    /// Everything was written; behind early warning the initiator is told so each time (§4.2.5).
    fn warned(&self, head: &Head<'_>) -> Result<Answer, Failure> {
        if head.is_past_warning() {
            let end = Stream { is_end: true, ..Stream::default() };
            return Err(Sense::from(Condition::END_OF_PARTITION_MEDIUM_NEAR).informed(0).met(end).into());
        }
        Ok(Answer::none())
    }

    pub(super) async fn write_filemarks(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let (is_immediate, count) = (cdb.bit(1, 0), cdb.number(2, 3));
        let mut head = self.head().await?;
        if count > 0 {
            self.writable()?;
        }
        let begin = head.position().map_err(|stop| self.failure(&stop))?;
        for left in (1..=count).rev() {
            if let Err(stop) = head.write(Object::Filemark, false).await {
                return Err(self.unwritten(&mut head, begin, stop, left).await);
            }
        }
        if !is_immediate {
            head.sync().await.map_err(|stop| self.failure(&stop))?;
        }
        if count > 0 { self.warned(&head) } else { Ok(Answer::none()) }
    }

    /// Records of 1 byte to the longest, in steps of a byte.
    pub(super) fn block_limits(&self) -> Answer {
        let [_, most @ ..] = (RECORD_BYTES_MAX as u32).to_be_bytes();
        Answer::parameters(vec![0, most[0], most[1], most[2], 0, 1], 6)
    }
}

/// ILI, with what was asked for less what is there.
pub(super) fn wrong_length(residue: i64) -> Sense {
    let stream = Stream { is_wrong_length: true, ..Stream::default() };
    Sense::from(Condition::NO_ADDITIONAL_SENSE_INFORMATION).informed(residue as u64).met(stream)
}

//! SPACE, LOCATE, REWIND (SSC-4 §7.7, §7.1, §6.15). IMMED only allows an earlier answer: a reel has nothing to wind.

use super::{Cdb, Failure, Sense, Tape};
use crate::protocol::scsi::Answer;

/// CODE of SPACE.
const RECORDS: u8 = 0;
const FILEMARKS: u8 = 1;
const END_OF_DATA: u8 = 3;

/// DEST_TYPE of LOCATE(16).
const OBJECT: u8 = 0;
const FILE: u8 = 1;
const END: u8 = 3;

impl Tape {
    pub(super) async fn rewind(&self) -> Result<Answer, Failure> {
        self.head().await?.rewind().await.map_err(|stop| self.failure(&stop))?;
        Ok(Answer::none())
    }

    pub(super) async fn space(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        // 24 bits with a sign, or 64.
        let count = if cdb.code() == 0x11 { (cdb.number(2, 3) as i64) << 40 >> 40 } else { cdb.number(4, 8) as i64 };
        let mut head = self.head().await?;
        let spaced = match cdb.byte(1) & 0x0f {
            RECORDS => head.space_records(count).await,
            FILEMARKS => head.space_filemarks(count).await,
            END_OF_DATA => return head.end_of_data().await.map(|()| Answer::none()).map_err(|stop| self.failure(&stop)),
            _ => return Err(Sense::invalid_cdb_bit(1, 3).into()),
        };
        spaced.map(|()| Answer::none()).map_err(|short| self.short(&short))
    }

    pub(super) async fn locate(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let is_long = cdb.code() == 0x92;
        let (partition_at, target) = if is_long { (3, cdb.number(4, 8)) } else { (8, cdb.number(3, 4)) };
        // CP: to another partition; there is one.
        if cdb.bit(1, 1) && cdb.byte(partition_at) != 0 {
            return Err(Sense::invalid_cdb(partition_at as u16).into());
        }
        let mut head = self.head().await?;
        let located = match if is_long { cdb.byte(1) >> 3 & 7 } else { OBJECT } {
            OBJECT => head.locate(target).await,
            FILE => head.locate_file(target).await,
            END => head.end_of_data().await,
            _ => return Err(Sense::invalid_cdb_bit(1, 5).into()),
        };
        located.map(|()| Answer::none()).map_err(|stop| self.failure(&stop))
    }
}

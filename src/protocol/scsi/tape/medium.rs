//! LOAD UNLOAD, ERASE(6), FORMAT MEDIUM (SSC-4 §7.1, §6.4, §6.6).

use super::{Cdb, Failure, Sense, Tape};
use crate::engine::tape::Stop;
use crate::protocol::scsi::Answer;

impl Tape {
    /// LOAD UNLOAD. RETEN has nothing to retension; EOT makes sense where a reel could end elsewhere than at its beginning.
    pub(super) async fn load(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let (loads, to_end, is_held) = (cdb.bit(4, 0), cdb.bit(4, 2), cdb.bit(4, 3));
        if loads && to_end {
            return Err(Sense::invalid_cdb_bit(4, 2).into());
        }
        let done = match (loads, is_held) {
            (true, false) => self.drive.load().await,
            // HOLD with LOAD: into the drive, but not onto its reels.
            (true, true) | (false, true) => self.drive.unload(true).await,
            (false, false) => self.drive.unload(false).await,
        };
        done.map(|()| Answer::none()).map_err(|stop| self.failure(&stop))
    }

    /// ERASE(6): from here on nothing is there, with LONG and without.
    pub(super) async fn erase(&self) -> Result<Answer, Failure> {
        let mut head = self.head().await?;
        self.writable()?;
        head.erase().await.map_err(|stop| self.failure(&stop))?;
        Ok(Answer::none())
    }

    /// FORMAT MEDIUM: one partition with nothing in it.
    pub(super) async fn format(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        if cdb.byte(2) & 0x0f != 0 {
            return Err(Sense::invalid_cdb_bit(2, 3).into());
        }
        if cdb.number(3, 2) != 0 {
            return Err(Sense::invalid_cdb(3).into());
        }
        let mut head = self.head().await?;
        self.writable()?;
        if head.position().map_err(|stop| self.failure(&stop))? != 0 {
            return Err(self.failure(&Stop::NotAtBeginning));
        }
        head.erase().await.map_err(|stop| self.failure(&stop))?;
        Ok(Answer::none())
    }
}

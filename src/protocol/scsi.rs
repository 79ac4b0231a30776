//! SCSI: what a disk, a tape drive, a changer answers to commands, whatever carries them. SAM-5, SPC-4, SBC-3, SSC-4, SMC-3.
//!
//! What lives here: [`LogicalUnit`], the seam that device types implement, and the words that they share: [`Status`], [`Failure`],
//! [`Answer`], [`Completion`]. From the outside in: `scsi/target.rs` (units by number, and who talks to them), `scsi/lun.rs` (one unit as
//! initiators see it: the order of checks is there), `scsi/task.rs` (commands under way, their order, their abort), `scsi/attention.rs`,
//! `scsi/reservation.rs` with `scsi/keeper.rs` (what of it survives), `scsi/opcode.rs` (the table of all commands), `scsi/cdb.rs`,
//! `scsi/sense.rs`; the commands of every type: `scsi/primary.rs`, `scsi/inquiry.rs`, `scsi/mode.rs`, `scsi/log.rs`, `scsi/report.rs`; the
//! disk: `scsi/disk.rs` over a [`BlockDevice`](crate::engine::volume::BlockDevice); the tape drive: `scsi/tape.rs` over a
//! [`Drive`](crate::engine::tape::Drive); the changer: `scsi/changer.rs` over a [`Library`](crate::engine::tape::Library); what the drives
//! and changers of others call themselves: `scsi/personality.rs`.
//!
//! Invariants:
//! - A command always completes with a status: nothing that an initiator sends is an error of the program.
//! - What belongs to a nexus (unit attentions, reservations, aborts) is kept here, never in a unit: a unit knows commands only.
//! - A command that was aborted has no effect after the abort was confirmed.
//! - The table of opcodes is the only list of what is served: it routes commands, checks their bits, says how much data they move, and
//!   answers REPORT SUPPORTED OPERATION CODES.

mod attention;
mod cdb;
mod changer;
mod disk;
mod inquiry;
mod keeper;
mod log;
mod lun;
mod mode;
mod opcode;
mod personality;
mod primary;
mod report;
mod reservation;
mod sense;
mod tape;
mod target;
mod task;

use async_trait::async_trait;
use bytes::Bytes;

pub use cdb::Cdb;
pub use changer::Changer;
pub use disk::Disk;
pub use inquiry::Identity;
pub use keeper::Keeper;
pub use lun::Lun;
pub use opcode::{Access, Moves, Opcode};
pub use personality::{ChangerModel, Density, DriveModel};
pub use sense::{Condition, Key, Sense, Stream};
pub use tape::Tape;
pub use target::{LogicalUnitNumber, Nexus, Target};
pub use task::{Attribute, Task};

/// How a command ended (SAM-5 §5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It did what it should.
    Good = 0x00,
    /// The sense says why not.
    CheckCondition = 0x02,
    /// What was asked for is so: PRE-FETCH.
    ConditionMet = 0x04,
    /// Not now.
    Busy = 0x08,
    /// Another initiator holds the unit.
    ReservationConflict = 0x18,
    /// Too many commands are under way.
    TaskSetFull = 0x28,
}

/// Why a command does not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// CHECK CONDITION.
    Sense(Sense),
    /// CHECK CONDITION, and the data that came before.
    Partial(Vec<Bytes>, Sense),
    /// Another status than GOOD and CHECK CONDITION.
    Status(Status),
}

impl From<Condition> for Failure {
    fn from(condition: Condition) -> Self {
        Self::Sense(condition.into())
    }
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// What a command that ended well has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Data-In, not longer than the command allows.
    pub data: Vec<Bytes>,
    /// CONDITION MET instead of GOOD.
    pub is_met: bool,
}

impl Answer {
    /// GOOD, without data.
    pub fn none() -> Self {
        Self::default()
    }

    /// Parameter data, cut to the allocation length.
    pub fn parameters(mut data: Vec<u8>, allocation_bytes: usize) -> Self {
        data.truncate(allocation_bytes);
        Self { data: vec![data.into()], is_met: false }
    }
}

/// What a task came to, as a transport tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// See [`Status`].
    pub status: Status,
    /// The sense data, as bytes; empty but with CHECK CONDITION.
    pub sense: Vec<u8>,
    /// Data-In.
    pub data: Vec<Bytes>,
}

impl Completion {
    /// A status alone.
    pub fn of(status: Status) -> Self {
        Self { status, sense: Vec::new(), data: Vec::new() }
    }

    /// CHECK CONDITION with sense in fixed format.
    pub fn failed(condition: Condition) -> Self {
        Self { status: Status::CheckCondition, sense: Sense::from(condition).fixed(), data: Vec::new() }
    }
}

/// A command as a unit sees it: in its table, its bits allowed, its turn come.
#[derive(Debug)]
pub struct Command {
    /// Whose it is: some commands are about what the same initiator did before.
    pub nexus: u64,
    /// The row of the table.
    pub opcode: &'static Opcode,
    /// The command descriptor block.
    pub cdb: Cdb,
    /// Data-Out: what the command says, or less where the initiator sends less.
    pub data: Bytes,
    /// Bytes of Data-Out that the initiator announced: more than `data` where it sends more than the command says.
    pub announced_bytes: u64,
}

/// A device of some type, behind a logical unit number: it answers the commands of its type. Whatever is between initiators (attentions,
/// reservations, order, abort) was seen to before.
#[async_trait]
pub trait LogicalUnit: Send + Sync + 'static {
    /// What INQUIRY says of it.
    fn identity(&self) -> &Identity;

    /// The commands of its type, beside those of every type.
    fn opcodes(&self) -> Vec<&'static Opcode>;

    /// Bytes of a block, for commands that count their data in blocks.
    fn block_bytes(&self) -> u32;

    /// Carries out a command of [`Self::opcodes`]. Where it only reads ([`Access::reads_only`]) the future may be dropped at any time, else
    /// it is finished.
    ///
    /// # Errors
    /// How it failed, for the initiator.
    async fn execute(&self, command: Command) -> Result<Answer, Failure>;

    /// The vital product data pages of its type (SPC-4 §7.8): code and what follows the page's header.
    fn vital_pages(&self) -> Vec<(u8, Vec<u8>)>;

    /// The mode pages of its type, current values (SPC-4 §7.5).
    fn mode_pages(&self) -> Vec<mode::Page>;

    /// The header of the mode parameters; the block descriptor in its long form with `long`, where there is one.
    fn mode_header(&self, long: bool) -> mode::Header;

    /// Takes the header of a mode parameter list, which begins its block descriptor at byte `at`: whether it changed something.
    ///
    /// # Errors
    /// Where it says what cannot be.
    async fn set_mode_header(&self, header: &mode::Header, at: u16) -> Result<bool, Failure> {
        mode::check_descriptor(header, [self.mode_header(false), self.mode_header(true)], at)?;
        Ok(false)
    }

    /// Takes a changed mode page.
    ///
    /// # Errors
    /// Where it could not be taken.
    async fn set_mode_page(&self, page: &mode::Page) -> Result<(), Failure>;

    /// Whether software write protect applies (control mode page), told when it changes.
    fn set_write_protect(&self, on: bool);

    /// TEST UNIT READY.
    ///
    /// # Errors
    /// Why it is not.
    fn ready(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether initiators forbid the removal of a medium, told when it changes.
    fn set_prevented(&self, _on: bool) {}

    /// The unit is reset: what is its own begins anew. All commands have ended before.
    async fn reset(&self) {}

    /// What changed in the unit by itself since this was last asked, for all initiators to hear: a capacity, a medium.
    fn attention(&self) -> Option<Condition> {
        None
    }
}

#[cfg(test)]
mod tests;

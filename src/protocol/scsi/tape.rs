//! A tape drive: SSC-4 over a [`Drive`].
//!
//! What lives here: [`Tape`], and what its commands share: settings, and the one map from what a drive stops at to sense data. `tape/io.rs`
//! reads and writes, `tape/compare.rs` verifies, `tape/motion.rs` goes elsewhere, `tape/position.rs` tells where the head stands,
//! `tape/medium.rs` loads, erases and formats, `tape/density.rs` says what is written, `tape/modes.rs`, `tape/logs.rs` and
//! `tape/attributes.rs` are the pages and the medium's memory.
//!
//! Invariants:
//! - A command holds the head from its begin to its end: commands of several initiators come one after the other.
//! - After a command that stopped early the sense says how much of it was not done, and the head stands where the standard says.
//! - A command that is answered BUSY has moved nothing: it may be sent again.
//! - WRITE FILEMARKS without IMMED is answered when everything before it is durable; so is every write in unbuffered mode.

mod attributes;
mod compare;
mod density;
mod io;
mod logs;
mod medium;
mod modes;
mod motion;
mod position;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::opcode::{Opcode, STREAM, Verb};
use super::personality::DriveModel;
use super::sense::{Condition, Sense, Stream};
use super::{Answer, Cdb, Command, Failure, Identity, LogicalUnit, Status, mode};
use crate::engine::tape::{Drive, Head, MediumError, Short, Stop};
use modes::Modes;

/// The most that one command moves, in bytes.
const TRANSFER_BYTES_MAX: u64 = 16 << 20;

/// See the module.
pub struct Tape {
    drive: Arc<Drive>,
    model: &'static DriveModel,
    identity: Identity,
    modes: Mutex<Modes>,
    /// SWP of the control mode page.
    is_protected: AtomicBool,
    logs: Mutex<logs::Logs>,
}

impl Tape {
    /// A drive that calls itself like a model.
    pub fn new(drive: Arc<Drive>, model: &'static DriveModel) -> Self {
        let identity = Self::identity_of(&drive, model);
        Self { drive, model, identity, modes: Mutex::default(), is_protected: AtomicBool::new(false), logs: Mutex::default() }
    }

    /// What INQUIRY will say of a drive; a changer tells it, too.
    pub fn identity_of(drive: &Drive, model: &'static DriveModel) -> Identity {
        Identity {
            device_type: 1,
            vendor: model.vendor.to_owned(),
            product: model.product.to_owned(),
            revision: model.revision.to_owned(),
            serial: drive.serial().to_owned(),
            is_removable: true,
            // SSC-4.
            standard: 0x0520,
            copies: false,
        }
    }

    async fn head(&self) -> Result<Head<'_>, Failure> {
        self.drive.head().await.map_err(|stop| self.failure(&stop))
    }

    /// Why nothing is to be written, whatever medium is in.
    fn writable(&self) -> Result<(), Failure> {
        if self.is_protected.load(Ordering::Relaxed) {
            return Err(Condition::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED.into());
        }
        Ok(())
    }

    /// A command that stopped, with nothing left to tell.
    fn failure(&self, stop: &Stop) -> Failure {
        self.stopped(stop, None)
    }

    /// A command that stopped with so much left of what was asked for.
    fn short(&self, short: &Short) -> Failure {
        self.stopped(&short.stop, Some(short.left))
    }

    /// The one map from stops to sense (SSC-4 §7, each command's text).
    fn stopped(&self, stop: &Stop, left: Option<u64>) -> Failure {
        let (filemark, end) = (Stream { is_filemark: true, ..Stream::default() }, Stream { is_end: true, ..Stream::default() });
        let (condition, stream) = match stop {
            Stop::NoMedium => (Condition::MEDIUM_NOT_PRESENT, None),
            Stop::Held => (Condition::LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED, None),
            Stop::PositionLost => (Condition::SEQUENTIAL_POSITIONING_ERROR, None),
            Stop::Filemark => (Condition::FILEMARK_DETECTED, Some(filemark)),
            Stop::EndOfData => (Condition::END_OF_DATA_DETECTED, Some(Stream::default())),
            Stop::Beginning => (Condition::BEGINNING_OF_PARTITION_MEDIUM_DETECTED, Some(end)),
            Stop::EndOfMedium => (Condition::END_OF_PARTITION_MEDIUM_DETECTED, Some(end)),
            Stop::Protected => (Condition::WRITE_PROTECTED, None),
            Stop::WormOverwrite => (Condition::WORM_MEDIUM_OVERWRITE_ATTEMPTED, None),
            Stop::Prevented => (Condition::MEDIUM_REMOVAL_PREVENTED, None),
            Stop::NotAtBeginning => (Condition::POSITION_PAST_BEGINNING_OF_MEDIUM, None),
            Stop::Medium(MediumError::Busy) => return Failure::Status(Status::Busy),
            Stop::Medium(error) => {
                tracing::warn!(unit = %self.identity.serial, %error, "a tape command failed");
                (broken(error), None)
            }
        };
        self.logs.lock().alert(stop);
        let mut sense = Sense::from(condition);
        sense.information = left;
        sense.stream = stream;
        sense.into()
    }
}

fn broken(error: &MediumError) -> Condition {
    match error {
        MediumError::OutOfRange(_) | MediumError::Damaged(_) => Condition::UNRECOVERED_READ_ERROR,
        MediumError::Full => Condition::SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
        MediumError::Unreachable => Condition::LOGICAL_UNIT_COMMUNICATION_FAILURE,
        MediumError::Busy | MediumError::Archived | MediumError::Gone => Condition::LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE,
        MediumError::Io(_) => Condition::WRITE_ERROR,
    }
}

/// SECURITY PROTOCOL IN (SPC-4 §6.40, §7.7.1): that there is no security protocol but the one that says so.
fn security(cdb: &Cdb) -> Result<Answer, Failure> {
    let data = match (cdb.byte(1), cdb.number(2, 2)) {
        // Supported protocols: 00h.
        (0, 0) => vec![0, 0, 0, 0, 0, 0, 0, 1, 0],
        // Certificate data: none.
        (0, 1) => vec![0, 0, 0, 0],
        (0, _) => return Err(Sense::invalid_cdb(2).into()),
        _ => return Err(Sense::invalid_cdb(1).into()),
    };
    Ok(Answer::parameters(data, cdb.length(6, 4)))
}

#[async_trait]
impl LogicalUnit for Tape {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn opcodes(&self) -> Vec<&'static Opcode> {
        STREAM.iter().collect()
    }

    fn block_bytes(&self) -> u32 {
        self.modes.lock().block_bytes
    }

    async fn execute(&self, command: Command) -> Result<Answer, Failure> {
        let Command { opcode, cdb, data, .. } = command;
        match opcode.verb {
            Verb::Read => self.read(&cdb).await,
            Verb::Write => self.write(&cdb, &data).await,
            Verb::WriteFilemarks => self.write_filemarks(&cdb).await,
            Verb::Verify => self.verify(&cdb, &data).await,
            Verb::Space => self.space(&cdb).await,
            Verb::Locate => self.locate(&cdb).await,
            Verb::Rewind => self.rewind().await,
            Verb::ReadPosition => self.read_position(&cdb).await,
            Verb::Load => self.load(&cdb).await,
            Verb::Erase => self.erase().await,
            Verb::Format => self.format(&cdb).await,
            Verb::BlockLimits => Ok(self.block_limits()),
            Verb::DensitySupport => self.density_support(&cdb),
            Verb::LogSense => self.log_sense(&cdb).await,
            Verb::LogSelect => self.log_select(&cdb),
            Verb::ReadAttribute => self.read_attribute(&cdb).await,
            Verb::WriteAttribute => self.write_attribute(&cdb, &data).await,
            Verb::SecurityIn => security(&cdb),
            _ => Err(Condition::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    fn vital_pages(&self) -> Vec<(u8, Vec<u8>)> {
        self.pages_of_streams()
    }

    fn mode_pages(&self) -> Vec<mode::Page> {
        self.pages_of_modes()
    }

    fn mode_header(&self, _long: bool) -> mode::Header {
        self.header_of_modes()
    }

    async fn set_mode_header(&self, header: &mode::Header, at: u16) -> Result<bool, Failure> {
        self.take_mode_header(header, at)
    }

    async fn set_mode_page(&self, page: &mode::Page) -> Result<(), Failure> {
        self.take_mode_page(page);
        Ok(())
    }

    fn set_write_protect(&self, on: bool) {
        self.is_protected.store(on, Ordering::Relaxed);
    }

    fn ready(&self) -> Result<(), Failure> {
        match self.drive.status() {
            status if status.is_ready => Ok(()),
            status if status.is_held => Err(Condition::LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED.into()),
            _ => Err(Condition::MEDIUM_NOT_PRESENT.into()),
        }
    }

    fn set_prevented(&self, on: bool) {
        self.drive.prevent(on);
    }

    async fn reset(&self) {
        *self.modes.lock() = Modes::default();
        self.drive.reset().await;
    }

    fn attention(&self) -> Option<Condition> {
        let is_changed = self.drive.take_change();
        if is_changed {
            self.logs.lock().begin();
        }
        is_changed.then_some(Condition::NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED)
    }
}

//! A changer: SMC-3 over a [`Library`].
//!
//! What lives here: [`Changer`], its moves, and the one map from what a library refuses to sense data. `changer/elements.rs` is READ ELEMENT
//! STATUS, `changer/tags.rs` finds cartridges by their volume tags, `changer/pages.rs` has the pages of the type.
//!
//! Invariants:
//! - Addresses are checked before anything moves; what is refused moves nothing.
//! - PREVENT locks the import/export slots for operators, not for the robot (SMC-3 §6.16 with SPC-4 §6.14).

mod elements;
mod pages;
mod tags;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::opcode::{CHANGER, Opcode, Verb};
use super::personality::ChangerModel;
use super::sense::{Condition, Sense};
use super::{Answer, Cdb, Command, Failure, Identity, LogicalUnit, Status, log, mode};
use crate::engine::tape::{Kind, Library, LibraryError, MediumError, Stop};
use tags::Searches;

/// See the module.
pub struct Changer {
    library: Arc<Library>,
    identity: Identity,
    /// What the drives call themselves, by address: DVCID.
    drives: Vec<Vec<u8>>,
    searches: Mutex<Searches>,
}

impl Changer {
    /// A changer that calls itself like a model. `serial` names it for ever; `drives` are its drives' identities, by address.
    pub fn new(library: Arc<Library>, model: &ChangerModel, serial: &str, drives: &[Identity]) -> Self {
        let identity = Identity {
            device_type: 8,
            vendor: model.vendor.to_owned(),
            product: model.product.to_owned(),
            revision: model.revision.to_owned(),
            serial: serial.to_owned(),
            is_removable: true,
            // SMC-3.
            standard: 0x0480,
            copies: false,
        };
        Self { library, identity, drives: drives.iter().map(Identity::vendor_id).collect(), searches: Mutex::default() }
    }

    /// MOVE MEDIUM (§6.7).
    async fn move_medium(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let address = |at: usize| cdb.number(at, 2) as u16;
        self.robot(address(2))?;
        self.library.carry(address(4), address(6)).await.map_err(|error| self.failure(&error))?;
        Ok(Answer::none())
    }

    /// EXCHANGE MEDIUM (§6.2).
    async fn exchange(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let address = |at: usize| cdb.number(at, 2) as u16;
        self.robot(address(2))?;
        self.library.exchange(address(4), address(6), address(8)).await.map_err(|error| self.failure(&error))?;
        Ok(Answer::none())
    }

    /// POSITION TO ELEMENT (§6.9): the robot is everywhere at once.
    fn position(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        self.robot(cdb.number(2, 2) as u16)?;
        self.known(cdb.number(4, 2) as u16)?;
        Ok(Answer::none())
    }

    /// INITIALIZE ELEMENT STATUS (§6.4) and WITH RANGE (§6.5): what is in the elements is known.
    fn initialize(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        if cdb.code() == 0x37 && cdb.bit(1, 0) {
            let first = cdb.number(2, 2) as u16;
            if self.library.elements(None, first, 1).is_empty() {
                return Err(Condition::INVALID_ELEMENT_ADDRESS.into());
            }
        }
        Ok(Answer::none())
    }

    /// OPEN/CLOSE IMPORT/EXPORT ELEMENT (§6.8): there is a lock, but no lid.
    fn open_close(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        if self.library.layout().kind(cdb.number(2, 2) as u16) != Some(Kind::Port) {
            return Err(Condition::INVALID_ELEMENT_ADDRESS.into());
        }
        match cdb.byte(4) & 0x1f {
            0 if self.library.is_locked() => Err(Condition::MEDIUM_REMOVAL_PREVENTED.into()),
            0 | 1 => Ok(Answer::none()),
            _ => Err(Sense::invalid_cdb_bit(4, 4).into()),
        }
    }

    /// The medium transport of a command: the one, or 0 for "the default".
    fn robot(&self, address: u16) -> Result<(), Failure> {
        if address == 0 || self.library.layout().kind(address) == Some(Kind::Robot) {
            return Ok(());
        }
        Err(Condition::INVALID_ELEMENT_ADDRESS.into())
    }

    fn known(&self, address: u16) -> Result<(), Failure> {
        self.library.layout().kind(address).map(|_| ()).ok_or_else(|| Condition::INVALID_ELEMENT_ADDRESS.into())
    }

    /// The one map from what a library refuses to sense.
    fn failure(&self, error: &LibraryError) -> Failure {
        let condition = match error {
            LibraryError::NoElement(_) => Condition::INVALID_ELEMENT_ADDRESS,
            LibraryError::SourceEmpty(_) => Condition::MEDIUM_SOURCE_ELEMENT_EMPTY,
            LibraryError::DestinationFull(_) | LibraryError::Full | LibraryError::Duplicate(_) => {
                Condition::MEDIUM_DESTINATION_ELEMENT_FULL
            }
            LibraryError::Locked | LibraryError::Drive(_, Stop::Prevented) => Condition::MEDIUM_REMOVAL_PREVENTED,
            LibraryError::Drive(_, Stop::Medium(MediumError::Busy)) => return Failure::Status(Status::Busy),
            LibraryError::Drive(..) | LibraryError::Ledger(_) => {
                tracing::warn!(unit = %self.identity.serial, %error, "a cartridge could not be moved");
                Condition::INTERNAL_TARGET_FAILURE
            }
        };
        condition.into()
    }
}

#[async_trait]
impl LogicalUnit for Changer {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn opcodes(&self) -> Vec<&'static Opcode> {
        CHANGER.iter().collect()
    }

    fn block_bytes(&self) -> u32 {
        0
    }

    async fn execute(&self, command: Command) -> Result<Answer, Failure> {
        let Command { opcode, cdb, data, nexus, .. } = command;
        match opcode.verb {
            Verb::MoveMedium => self.move_medium(&cdb).await,
            Verb::ExchangeMedium => self.exchange(&cdb).await,
            Verb::PositionToElement => self.position(&cdb),
            Verb::InitializeElements => self.initialize(&cdb),
            Verb::OpenClose => self.open_close(&cdb),
            Verb::ElementStatus => self.element_status(&cdb),
            Verb::SendVolumeTag => self.send_volume_tag(nexus, &cdb, &data),
            Verb::VolumeAddress => self.volume_address(nexus, &cdb),
            Verb::LogSense => log::sense(&[log::tape_alert(0)], &cdb),
            Verb::LogSelect => log::select(&cdb).map(|_| Answer::none()),
            _ => Err(Condition::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    fn vital_pages(&self) -> Vec<(u8, Vec<u8>)> {
        Vec::new()
    }

    fn mode_pages(&self) -> Vec<mode::Page> {
        self.pages_of_modes()
    }

    fn mode_header(&self, _long: bool) -> mode::Header {
        mode::Header::default()
    }

    async fn set_mode_page(&self, _page: &mode::Page) -> Result<(), Failure> {
        Ok(())
    }

    fn set_write_protect(&self, _on: bool) {}

    fn set_prevented(&self, on: bool) {
        self.library.lock(on);
    }

    fn attention(&self) -> Option<Condition> {
        self.library.take_visit().then_some(Condition::IMPORT_OR_EXPORT_ELEMENT_ACCESSED)
    }
}

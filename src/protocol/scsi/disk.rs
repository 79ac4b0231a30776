//! A disk: SBC-3 over a [`BlockDevice`].
//!
//! What lives here: [`Disk`], its parameters, and what its commands share: ranges, errors, stability. `disk/io.rs` moves blocks,
//! `disk/thin.rs` is about which blocks there are, `disk/copy.rs` is EXTENDED COPY, `disk/page.rs` the pages of the type.
//!
//! Invariants:
//! - A range is checked against the capacity before the device is asked, and a transfer against the limits that page B0h tells.
//! - A write with FUA, or with the write cache off, is durable when it is answered; what SYNCHRONIZE CACHE covers is so always.

mod copy;
mod io;
mod page;
mod thin;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::opcode::{DISK, Opcode, Verb};
use super::sense::{Condition, Sense};
use super::{Answer, Cdb, Command, Failure, Identity, LogicalUnit, Status, mode};
use crate::engine::volume::{BlockDevice, DeviceError, Geometry, Stability};

/// The most that one command moves, in bytes.
const TRANSFER_BYTES_MAX: u64 = 8 << 20;
/// The most that one WRITE SAME writes where it does not unmap, in bytes.
const SAME_BYTES_MAX: u64 = 16 << 20;
/// The most blocks that COMPARE AND WRITE takes.
const COMPARE_BLOCKS_MAX: u64 = 255;
/// The most descriptors that one UNMAP has; each may be as long as it can say.
const UNMAP_DESCRIPTORS_MAX: usize = 256;

/// See the module.
pub struct Disk {
    device: Arc<dyn BlockDevice>,
    identity: Identity,
    /// SWP of the control mode page.
    is_protected: AtomicBool,
    /// The capacity that initiators were told of, in blocks.
    told_blocks: AtomicU64,
    /// How the last copies went.
    copies: Mutex<Vec<copy::Copied>>,
}

impl Disk {
    /// A disk on a device. `serial` names it for ever.
    pub fn new(device: Arc<dyn BlockDevice>, product: &str, serial: &str) -> Self {
        let identity = Identity {
            device_type: 0,
            vendor: "TIDEGATE".to_owned(),
            product: product.to_owned(),
            revision: env!("CARGO_PKG_VERSION").chars().take(4).collect(),
            serial: serial.to_owned(),
            is_removable: false,
            standard: 0x04c0,
            copies: true,
        };
        let told_blocks = AtomicU64::new(device.geometry().blocks);
        Self { device, identity, is_protected: AtomicBool::new(false), told_blocks, copies: Mutex::default() }
    }

    /// The blocks of a command, as bytes.
    fn range(&self, lba: u64, blocks: u64) -> Result<Range<u64>, Failure> {
        let geometry = self.device.geometry();
        let end = lba.checked_add(blocks).filter(|end| *end <= geometry.blocks && lba <= geometry.blocks);
        let block_bytes = u64::from(geometry.block_bytes);
        end.map(|end| lba * block_bytes..end * block_bytes).ok_or_else(|| self.out_of_range(&geometry, lba))
    }

    fn out_of_range(&self, geometry: &Geometry, lba: u64) -> Failure {
        Sense::from(Condition::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE).informed(lba.max(geometry.blocks)).into()
    }

    /// The same, for blocks that are moved.
    fn transfer(&self, cdb: &Cdb) -> Result<Range<u64>, Failure> {
        let (lba, blocks) = place(cdb);
        let range = self.range(lba, blocks)?;
        if range.end - range.start > TRANSFER_BYTES_MAX {
            return Err(Sense::invalid_cdb(length_place(cdb)).into());
        }
        Ok(range)
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.device.is_read_only() {
            return Err(Condition::WRITE_PROTECTED.into());
        }
        if self.is_protected.load(Ordering::Relaxed) {
            return Err(Condition::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED.into());
        }
        Ok(())
    }

    /// What a write has to be when it is answered.
    fn stability(&self, is_forced: bool) -> Stability {
        if is_forced || !self.device.has_write_cache() { Stability::Durable } else { Stability::Cached }
    }

    fn failure(&self, error: &DeviceError) -> Failure {
        let block_bytes = u64::from(self.device.geometry().block_bytes);
        let condition = match error {
            DeviceError::Busy => return Failure::Status(Status::Busy),
            DeviceError::OutOfRange(range) => {
                return Sense::from(Condition::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE).informed(range.start / block_bytes).into();
            }
            DeviceError::Damaged(range) => {
                return Sense::from(Condition::UNRECOVERED_READ_ERROR).informed(range.start / block_bytes).into();
            }
            DeviceError::ReadOnly => Condition::WRITE_PROTECTED,
            DeviceError::Full => Condition::SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
            DeviceError::Unreachable => Condition::LOGICAL_UNIT_COMMUNICATION_FAILURE,
            DeviceError::Gone => Condition::LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE,
            DeviceError::Io(_) => Condition::INTERNAL_TARGET_FAILURE,
        };
        tracing::warn!(unit = %self.identity.serial, %error, "a disk command failed");
        condition.into()
    }
}

/// Address and number of blocks of a command, by the group of its code.
fn place(cdb: &Cdb) -> (u64, u64) {
    match cdb.code() {
        0x89 => (cdb.number(2, 8), cdb.number(13, 1)),
        0x9c => (cdb.number(2, 8), cdb.number(12, 2)),
        code => match code >> 5 {
            0 => (cdb.number(1, 3) & 0x1f_ffff, if cdb.byte(4) == 0 { 256 } else { cdb.number(4, 1) }),
            1 | 2 => (cdb.number(2, 4), cdb.number(7, 2)),
            4 => (cdb.number(2, 8), cdb.number(10, 4)),
            _ => (cdb.number(2, 4), cdb.number(6, 4)),
        },
    }
}

/// Where a command says how many blocks.
fn length_place(cdb: &Cdb) -> u16 {
    match cdb.code() {
        0x89 => 13,
        0x9c => 12,
        code => match code >> 5 {
            0 => 4,
            1 | 2 => 7,
            4 => 10,
            _ => 6,
        },
    }
}

#[async_trait]
impl LogicalUnit for Disk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn opcodes(&self) -> Vec<&'static Opcode> {
        let is_atomic = self.device.geometry().atomic_bytes_max > 0;
        DISK.iter().filter(|opcode| is_atomic || opcode.verb != Verb::WriteAtomic).collect()
    }

    fn block_bytes(&self) -> u32 {
        self.device.geometry().block_bytes
    }

    async fn execute(&self, command: Command) -> Result<Answer, Failure> {
        let Command { opcode, cdb, data, nexus, announced_bytes } = command;
        match opcode.verb {
            Verb::Read => self.read(&cdb).await,
            Verb::Write => self.write(&cdb, data).await,
            Verb::WriteAndVerify => self.write_and_verify(&cdb, data).await,
            Verb::WriteAtomic => self.write_atomic(&cdb, data).await,
            Verb::OrWrite => self.or_write(&cdb, &data).await,
            Verb::CompareAndWrite => self.compare_and_write(&cdb, &data, announced_bytes).await,
            Verb::Verify => self.verify(&cdb, &data).await,
            Verb::Prefetch => self.prefetch(&cdb),
            Verb::SynchronizeCache => self.synchronize_cache(&cdb).await,
            Verb::WriteSame => self.write_same(&cdb, &data, announced_bytes).await,
            Verb::Unmap => self.unmap(&cdb, &data).await,
            Verb::LbaStatus => self.lba_status(&cdb).await,
            Verb::ReadCapacity => Ok(self.capacity()),
            Verb::ReadCapacityLong => Ok(self.capacity_long(&cdb)),
            Verb::ReadDefects => Ok(self.defects(&cdb)),
            Verb::ExtendedCopy => self.extended_copy(nexus, &cdb, &data).await,
            Verb::CopyParameters => Ok(self.copy_parameters(&cdb)),
            Verb::CopyStatus => self.copy_status(nexus, &cdb),
            // It spins for everybody: one initiator does not stop it.
            Verb::StartStop => Ok(Answer::none()),
            _ => Err(Condition::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    fn vital_pages(&self) -> Vec<(u8, Vec<u8>)> {
        self.pages_of_blocks()
    }

    fn mode_pages(&self) -> Vec<mode::Page> {
        self.pages_of_modes()
    }

    fn mode_header(&self, long: bool) -> mode::Header {
        self.header_of_modes(long)
    }

    async fn set_mode_page(&self, page: &mode::Page) -> Result<(), Failure> {
        self.take_mode_page(page).await
    }

    fn set_write_protect(&self, on: bool) {
        self.is_protected.store(on, Ordering::Relaxed);
    }

    fn attention(&self) -> Option<Condition> {
        let blocks = self.device.geometry().blocks;
        (self.told_blocks.swap(blocks, Ordering::Relaxed) != blocks).then_some(Condition::CAPACITY_DATA_HAS_CHANGED)
    }
}

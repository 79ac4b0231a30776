//! A tape drive with a cartridge in memory.

mod io;
mod motion;
mod pages;
mod stops;

use super::*;
use crate::engine::tape::{Barcode, Cartridge, Drive, Forgetful, Layout, Library, MemoryReel};

pub(super) const DRIVE: u16 = 0x100;
pub(super) const SLOT: u16 = 0x400;
pub(super) const PORT: u16 = 0x4000;
pub(super) const MIB: u64 = 1 << 20;

pub(super) fn reel(number: u8, capacity_bytes: u64, is_worm: bool) -> (Arc<MemoryReel>, Arc<Cartridge>) {
    let reel = Arc::new(MemoryReel::new([number; 16], capacity_bytes, is_worm));
    let barcode = Barcode::new(&format!("TST{number:03}L5")).unwrap();
    (reel.clone(), Cartridge::new(barcode, reel))
}

/// A target with a drive, and the library that it is in.
pub(super) struct Deck {
    pub(super) reel: Arc<MemoryReel>,
    pub(super) library: Arc<Library>,
    pub(super) drive: Arc<Drive>,
    pub(super) lun: Arc<Lun>,
    pub(super) target: Arc<Target>,
}

impl Deck {
    /// With a loaded cartridge of so many bytes.
    pub(super) async fn of(capacity_bytes: u64, is_worm: bool) -> Self {
        let library = Library::new(Layout::new(1, 4, 2).unwrap(), "lib", Arc::new(Forgetful));
        let (reel, cartridge) = reel(1, capacity_bytes, is_worm);
        library.resume(SLOT, cartridge).await.unwrap();
        let drive = library.drives()[0].clone();
        let tape = Tape::new(drive.clone(), &DriveModel::ALL[0]);
        let (target, lun) = serve(Arc::new(tape), Keeper::forgetful()).await;
        library.carry(SLOT, DRIVE).await.unwrap();
        drive.take_change();
        Self { reel, library, drive, lun, target }
    }

    pub(super) async fn new() -> Self {
        Self::of(64 * MIB, false).await
    }

    pub(super) fn initiator(&self, name: &str) -> Initiator {
        Initiator::new(&self.target, &self.lun, name)
    }
}

/// A six-byte command with a count of 24 bits.
pub(super) fn six(code: u8, flags: u8, count: u32) -> [u8; 6] {
    let [_, high, middle, low] = count.to_be_bytes();
    [code, flags, high, middle, low, 0]
}

pub(super) const FIXED: u8 = 1;
pub(super) const SILI: u8 = 2;
pub(super) const REWIND: [u8; 6] = [1, 0, 0, 0, 0, 0];

pub(super) fn write(len: usize) -> [u8; 6] {
    six(0x0a, 0, len as u32)
}

pub(super) fn read(len: usize) -> [u8; 6] {
    six(0x08, 0, len as u32)
}

/// WRITE FILEMARKS, durable when answered.
pub(super) fn marks(count: u32) -> [u8; 6] {
    six(0x10, 0, count)
}

/// What fixed-format sense says: the bits with the key, code, qualifier, INFORMATION.
pub(super) fn sensed(completion: &Completion) -> (u8, u8, u8, Option<i32>) {
    assert_eq!(completion.status, Status::CheckCondition);
    let sense = &completion.sense;
    let information = i32::from_be_bytes([sense[3], sense[4], sense[5], sense[6]]);
    (sense[2], sense[12], sense[13], (sense[0] & 0x80 != 0).then_some(information))
}

impl Initiator {
    /// A command that stops: what it says.
    pub(super) async fn stops(&self, cdb: &[u8]) -> (u8, u8, u8, Option<i32>) {
        sensed(&self.send(cdb, &[]).await)
    }

    /// Where the head stands: object and file.
    pub(super) async fn tell(&self) -> (u64, u64) {
        let long = self.ok(&[0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
        let number = |at: usize| u64::from_be_bytes(long[at..at + 8].try_into().unwrap());
        (number(8), number(16))
    }

    /// MODE SELECT(6) of a block length.
    pub(super) async fn set_block(&self, block_bytes: u32) {
        let [_, high, middle, low] = block_bytes.to_be_bytes();
        self.ok(&[0x15, 0x10, 0, 0, 12, 0], &[0, 0, 0x10, 8, 0, 0, 0, 0, 0, high, middle, low]).await;
    }
}

pub(super) const FILEMARK: u8 = 0x80;
pub(super) const EOM: u8 = 0x40;
pub(super) const ILI: u8 = 0x20;

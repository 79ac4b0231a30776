//! Tapes: reels of records and filemarks in cartridges, drives that turn them, a library that carries them.
//!
//! What lives here: [`Medium`], the seam between a cartridge and where its reel is kept, its words and its errors. `tape/reel.rs` is the
//! format of a reel (pure); `tape/memory.rs` a medium in memory, over that format; `tape/cartridge.rs` the cartridge: its barcode, its chip;
//! `tape/drive.rs` a drive: what is in it and where its head stands; `tape/library.rs` the elements of a library and what moves between them.
//!
//! A reel is a row of objects, numbered from 0: records (1 to [`RECORD_BYTES_MAX`] bytes) and filemarks. It grows and is cut at its end only.
//! - *What is overwritten takes with it what follows*: writing in the middle cuts the reel there first.
//! - *What was synced is durable.* A synced filemark makes everything before it so.
//! - *After power loss a reel ends at a synced position*: it holds what it held when it was synced last, or that, cut where it was overwritten
//!   since. Of what was not synced nothing is left, and no object is ever there in part.
//! - *After a restart a drive does not know where it stands*, and reads and writes nothing before it was told to go somewhere: so no writer
//!   goes on over a hole.
//! - A medium is in one drive at most, and a drive does one thing after the other: nobody else changes a reel meanwhile.

pub mod reel;

mod cartridge;
mod drive;
mod library;
mod memory;

use async_trait::async_trait;
use bytes::Bytes;

pub use cartridge::{Barcode, CHIP_BYTES_MAX, Cartridge, Chip};
pub use drive::{Counters, Drive, DriveStatus, Head, Place, Short, Stop};
pub use library::{Element, Forgetful, Kind, Layout, Ledger, Library, LibraryError};
pub use memory::MemoryReel;

/// The longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// What a reel is a row of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Bytes that were written at once, and are read at once. Not empty.
    Record(Bytes),
    /// What divides a reel into files.
    Filemark,
}

/// What a medium is, whatever is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// What fits on it, counted as [`Extent::used_bytes`] is.
    pub capacity_bytes: u64,
    /// Objects are only ever added.
    pub is_worm: bool,
    /// Nothing is added or cut: it was retrieved from the archive, or is kept by a lock.
    pub is_protected: bool,
}

/// How far a reel goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Objects on it: the number of the next.
    pub objects: u64,
    /// Filemarks among them.
    pub filemarks: u64,
    /// Their frames (see [`reel`]), in bytes; indexes are not counted.
    pub used_bytes: u64,
    /// Objects before this number are durable.
    pub synced_objects: u64,
    /// Bytes of the frames that are not.
    pub unsynced_bytes: u64,
}

/// Why a medium could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediumError {
    /// There is no such object.
    #[error("the reel has no object {0}")]
    OutOfRange(u64),
    /// The object is lost; those around it are not.
    #[error("object {0} is damaged")]
    Damaged(u64),
    /// The cache is full of bytes that are not in S3 yet; later it will not be.
    #[error("there is no room now, but will be")]
    Busy,
    /// There is no room, and none will come by itself.
    #[error("there is no room")]
    Full,
    /// What is asked for is in S3 only, and S3 cannot be reached.
    #[error("the reel is out of reach now")]
    Unreachable,
    /// What is asked for is in the archive and has to be retrieved first.
    #[error("the reel is archived")]
    Archived,
    /// The reel is closed.
    #[error("the reel is gone")]
    Gone,
    /// Anything else, in words.
    #[error("{0}")]
    Io(String),
}

/// A reel, wherever it is kept. One caller at a time changes it.
#[async_trait]
pub trait Medium: Send + Sync + 'static {
    /// Cheap: it is asked for at every command.
    fn properties(&self) -> Properties;

    /// Cheap, too.
    fn extent(&self) -> Extent;

    /// The object of a number.
    ///
    /// # Errors
    /// See [`MediumError`].
    async fn read(&self, number: u64) -> Result<Object, MediumError>;

    /// Adds an object at the end; with `squeeze` it may be kept compressed. Capacity and protection were seen to.
    ///
    /// # Errors
    /// See [`MediumError`]; the reel is then as it was.
    async fn append(&self, object: Object, squeeze: bool) -> Result<(), MediumError>;

    /// Forgets the objects from a number on. Durable with the next sync, or before.
    ///
    /// # Errors
    /// See [`MediumError`]; the reel is then as it was.
    async fn truncate(&self, number: u64) -> Result<(), MediumError>;

    /// The reel as it is survives power loss when this returned.
    ///
    /// # Errors
    /// See [`MediumError`]; then nothing is known of what changed since the last sync, but that the rules of the module hold.
    async fn sync(&self) -> Result<(), MediumError>;

    /// Filemarks among the objects before a number.
    ///
    /// # Errors
    /// See [`MediumError`].
    async fn filemarks_before(&self, number: u64) -> Result<u64, MediumError>;

    /// The number of the object that is the `filemark`th filemark, counted from 0.
    ///
    /// # Errors
    /// See [`MediumError`].
    async fn filemark(&self, filemark: u64) -> Result<Option<u64>, MediumError>;

    /// What the cartridge's chip holds.
    fn chip(&self) -> Chip;

    /// Writes the chip; durable when this returned. Protection does not concern it.
    ///
    /// # Errors
    /// See [`MediumError`]; the chip is then as it was, or as it was to be.
    async fn set_chip(&self, chip: Chip) -> Result<(), MediumError>;
}

#[cfg(test)]
mod tests;

//! Volumes: arrays of blocks that are served as disks.
//!
//! What lives here: [`BlockDevice`], the seam between a disk's protocol and its bytes, [`DeviceError`]; two devices that need no gateway, `volume/ram.rs`
//! (memory) and `volume/file.rs` (an image file); and [`CachedVolume`] (`volume/cached.rs`), whose bytes are in the log while they are new, and in S3.
//!
//! In S3 a volume is history: segments of what was written, and a map of where each byte was written last. `volume/names.rs` says what the objects are called,
//! `volume/manifest.rs` which of them are the volume, `volume/segment.rs`, `volume/map.rs` and `volume/checkpoint.rs` what is in them, byte by byte;
//! `volume/batch.rs` makes them, `volume/remote.rs` reads by them, `volume/offline.rs` does so without a gateway. `volume/local.rs` is what a gateway keeps.
//!
//! A device behaves like a disk with a volatile write cache:
//! - A write that returned is seen by every read that begins afterwards. It survives power loss when it was [`Stability::Durable`], or when a
//!   [`BlockDevice::flush`] that began afterwards has returned.
//! - Writes of different callers to the same bytes come out as if one came after the other, block by block.
//! - What was never written, or was unmapped, reads as zeroes.
//! - A future that is dropped before it is done may or may not have had its effect, and may still have it until the device is asked to
//!   flush: whoever needs to know lets it finish.

mod batch;
mod cached;
mod checkpoint;
mod file;
mod listing;
mod local;
mod manifest;
mod map;
mod named;
mod names;
mod offline;
mod ram;
mod remote;
mod segment;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

pub use cached::{AttachError, CachedVolume, Collection, Create, Home, Settings, SnapshotError};
pub use file::FileDisk;
pub use local::{Snapshot, SnapshotStatus};
pub use manifest::Manifest;
pub use names::VolumeId;
pub use offline::{Inspection, Offline};
pub use ram::RamDisk;

/// What a device is, now: it may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// How many logical blocks there are; at least one.
    pub blocks: u64,
    /// Bytes of a logical block: 512 or 4096.
    pub block_bytes: u32,
    /// Bytes of a physical block: a multiple of `block_bytes`, in which reading, writing and unmapping cost the least.
    pub physical_block_bytes: u32,
    /// A write of up to so many bytes is there whole or not at all, also after power loss; 0: no such promise.
    pub atomic_bytes_max: u32,
}

impl Geometry {
    /// The capacity in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }
}

/// When a write may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// When it is seen by reads.
    Cached,
    /// When it survives power loss.
    Durable,
}

/// A run of bytes of a device, and whether the device holds something for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In bytes; not empty.
    pub range: Range<u64>,
    /// `false`: reads as zeroes and takes no room.
    pub is_mapped: bool,
}

/// Why a device could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not within the device. Callers check first, but a device may shrink only in theory.
    #[error("bytes {0:?} are not within the device")]
    OutOfRange(Range<u64>),
    /// The device takes no writes.
    #[error("the device is read-only")]
    ReadOnly,
    /// The cache is full of bytes that are not in S3 yet; later it will not be.
    #[error("there is no room now, but will be")]
    Busy,
    /// There is no room, and none will come by itself.
    #[error("there is no room")]
    Full,
    /// These bytes are lost: they cannot be read until they are written anew.
    #[error("bytes {0:?} are damaged")]
    Damaged(Range<u64>),
    /// What is asked for is in S3 only, and S3 cannot be reached.
    #[error("the bytes are out of reach now")]
    Unreachable,
    /// The device is closed, or detached.
    #[error("the device is gone")]
    Gone,
    /// Anything else, in words.
    #[error("{0}")]
    Io(String),
}

/// An array of blocks. Offsets and lengths are in bytes, and multiples of the logical block.
#[async_trait]
pub trait BlockDevice: Send + Sync + 'static {
    /// What the device is now. Cheap: it is asked for at every command.
    fn geometry(&self) -> Geometry;

    /// Whether the device takes no writes.
    fn is_read_only(&self) -> bool;

    /// Whether writes are acknowledged before they survive power loss. `false`: every write is [`Stability::Durable`].
    fn has_write_cache(&self) -> bool;

    /// Turns the write cache on or off. What was acknowledged before it is turned off is durable when this returns.
    ///
    /// # Errors
    /// Where that could not be made so.
    async fn set_write_cache(&self, on: bool) -> Result<(), DeviceError>;

    /// The bytes of a range, in pieces that make exactly its length.
    ///
    /// # Errors
    /// See [`DeviceError`].
    async fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, DeviceError>;

    /// Replaces the bytes at `offset`.
    ///
    /// # Errors
    /// See [`DeviceError`]; the bytes of the range are then the old ones, the new ones, or by block some of each.
    async fn write(&self, offset: u64, data: Bytes, stability: Stability) -> Result<(), DeviceError>;

    /// Replaces the bytes at `offset` by `new` where they are `expected` (of the same length), as one step: no write comes between.
    /// Returns `None` where it did, else the place of the first byte that differs, counted from `offset`.
    ///
    /// # Errors
    /// See [`DeviceError`].
    async fn compare_and_write(
        &self,
        offset: u64,
        expected: Bytes,
        new: Bytes,
        stability: Stability,
    ) -> Result<Option<usize>, DeviceError>;

    /// Forgets the bytes of the ranges: they read as zeroes from now on, and their room is given back.
    ///
    /// # Errors
    /// See [`DeviceError`].
    async fn unmap(&self, ranges: &[Range<u64>], stability: Stability) -> Result<(), DeviceError>;

    /// What was acknowledged before this began survives power loss when it returned.
    ///
    /// # Errors
    /// See [`DeviceError`]; then nothing is known of what was written since the last flush.
    async fn flush(&self) -> Result<(), DeviceError>;

    /// What is mapped, from the start of the range on: at least one extent, at most `extents_max`, adjacent, within the range. Fewer bytes
    /// than the range's may be told of.
    ///
    /// # Errors
    /// See [`DeviceError`].
    async fn extents(&self, range: Range<u64>, extents_max: usize) -> Result<Vec<Extent>, DeviceError>;

    /// A hint that the range will be read soon. Returns at once.
    fn prefetch(&self, _range: Range<u64>) {}
}

/// # Errors
/// [`DeviceError::OutOfRange`] where the range is inverted or ends behind the device.
fn within(geometry: &Geometry, range: &Range<u64>) -> Result<(), DeviceError> {
    if range.start > range.end || range.end > geometry.len_bytes() {
        return Err(DeviceError::OutOfRange(range.clone()));
    }
    Ok(())
}

/// The place of the first byte that differs.
fn first_difference(a: impl IntoIterator<Item = u8>, b: &[u8]) -> Option<usize> {
    a.into_iter().zip(b).position(|(a, b)| a != *b)
}

#[cfg(test)]
mod tests;

//! The cache disk as a seam: a flat set of named files that are read, written and flushed by position.
//!
//! What lives here: [`Disk`] and [`DiskFile`]; `disk/files.rs` is a directory of the machine (`disk/pieces.rs` how it is
//! written), `disk/simulated.rs` is a disk whose power fails.
//!
//! What a caller may believe, and all that the simulated disk grants:
//! - `write_at` that returned is seen by every later `read_at` of this process, and after the process dies.
//! - After power loss, bytes written since the file's last successful `sync` are each, in units of [`SECTOR_BYTES`],
//!   old, new, or (torn) damaged, in any combination; what `sync` covered is there.
//! - After a *failed* `sync` nothing that it should have covered may be believed, and syncing again does not help.
//! - `create` and `remove` are durable when they return (the directory is synced).

pub mod files;
pub mod pieces;
pub mod simulated;

use std::io;
use std::sync::Arc;

/// The unit that a power loss keeps, loses or tears, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// A flat set of named files.
pub trait Disk: Send + Sync + 'static {
    /// Names and lengths (bytes) of all files, in no order.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Creates a file of `len_bytes`, preallocated where the file system can, and opens it.
    ///
    /// # Errors
    /// `StorageFull` where it does not fit, `AlreadyExists` where the name is taken.
    fn create(&self, name: &str, len_bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// `NotFound` where it does not exist.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file; one that is still open stays readable for its holders.
    ///
    /// # Errors
    /// `NotFound` where it does not exist.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Bytes that could still be allocated.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Whether `sync` blocks for long enough that a caller on an async task should hand it to a thread.
    fn blocks(&self) -> bool;
}

/// One open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end; else whatever the disk says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// A hint that this range is about to be read, piece by piece. Returns at once.
    fn will_read(&self, _offset: u64, _len_bytes: u64) {}

    /// Writes all of `parts`, one after the other, from `offset`.
    ///
    /// # Errors
    /// After an error any part of the range may hold old, new or mixed bytes.
    fn write_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes every write that returned before this call durable (`fdatasync`).
    ///
    /// # Errors
    /// What was written since the last successful sync is then unknown for good.
    fn sync(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn len_bytes(&self) -> io::Result<u64>;
}

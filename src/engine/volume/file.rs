//! A disk in an image file: the bytes of the disk are the bytes of the file, holes are what is unmapped.
//!
//! Invariants: the file is not resized but by [`FileDisk::grow`]; a call that was begun on the file is finished, also where its future was
//! dropped; a compare-and-write has the file for itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, SeekFrom};
use tokio::sync::RwLock;

use super::{BlockDevice, DeviceError, Extent, Geometry, Stability, first_difference, within};

const PHYSICAL_BLOCK_BYTES: u32 = 4096;

/// See the module.
pub struct FileDisk {
    file: Arc<File>,
    blocks: AtomicU64,
    block_bytes: u32,
    has_write_cache: AtomicBool,
    /// Shared by writes, held alone by a compare-and-write.
    writes: Arc<RwLock<()>>,
}

impl FileDisk {
    /// Opens an image, or makes an empty one of `blocks` blocks where there is none. An image that is larger stays so.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, blocks: u64, block_bytes: u32) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let len_bytes = file.metadata()?.len().max(blocks * u64::from(block_bytes));
        file.set_len(len_bytes)?;
        Ok(Self {
            file: Arc::new(file),
            blocks: AtomicU64::new(len_bytes / u64::from(block_bytes)),
            block_bytes,
            has_write_cache: AtomicBool::new(true),
            writes: Arc::default(),
        })
    }

    /// Makes the disk larger.
    ///
    /// # Errors
    /// What the file system says.
    pub fn grow(&self, blocks: u64) -> io::Result<()> {
        if blocks > self.blocks.load(Ordering::Relaxed) {
            self.file.set_len(blocks * u64::from(self.block_bytes))?;
            self.blocks.fetch_max(blocks, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Works on the file where waiting is allowed.
    async fn with_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DeviceError> {
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || work(&file)).await {
            Ok(done) => done.map_err(|error| device_error(&error)),
            Err(_) => Err(DeviceError::Gone),
        }
    }

    /// Works on the file as a writer.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DeviceError> {
        let shared = self.writes.clone().read_owned().await;
        // The lock goes with the work: it is held until the work is done, whoever waits for it.
        self.with_file(move |file| {
            let _shared = shared;
            work(file)
        })
        .await
    }
}

fn device_error(error: &io::Error) -> DeviceError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DeviceError::Full,
        io::ErrorKind::ReadOnlyFilesystem => DeviceError::ReadOnly,
        _ => DeviceError::Io(error.to_string()),
    }
}

fn settle(file: &File, stability: Stability) -> io::Result<()> {
    if stability == Stability::Durable { file.sync_data() } else { Ok(()) }
}

/// The next place from `offset` on that is data (or a hole); the end of the range where there is none.
fn seek(file: &File, from: SeekFrom, end: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, from) {
        Ok(found) => Ok(found.min(end)),
        Err(rustix::io::Errno::NXIO) => Ok(end),
        Err(error) => Err(error.into()),
    }
}

fn find_extents(file: &File, range: Range<u64>, extents_max: usize) -> io::Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end && found.len() < extents_max {
        let data = seek(file, SeekFrom::Data(at), range.end)?;
        let (end, is_mapped) =
            if data > at { (data, false) } else { (seek(file, SeekFrom::Hole(at), range.end)?.max(at + 1), true) };
        found.push(Extent { range: at..end, is_mapped });
        at = end;
    }
    Ok(found)
}

#[async_trait]
impl BlockDevice for FileDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks.load(Ordering::Relaxed),
            block_bytes: self.block_bytes,
            physical_block_bytes: PHYSICAL_BLOCK_BYTES,
            atomic_bytes_max: 0,
        }
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn has_write_cache(&self) -> bool {
        self.has_write_cache.load(Ordering::Relaxed)
    }

    async fn set_write_cache(&self, on: bool) -> Result<(), DeviceError> {
        self.has_write_cache.store(on, Ordering::SeqCst);
        if on { Ok(()) } else { self.flush().await }
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, DeviceError> {
        within(&self.geometry(), &range)?;
        let len = usize::try_from(range.end - range.start).map_err(|_| DeviceError::OutOfRange(range.clone()))?;
        let bytes = self.with_file(move |file| {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        });
        Ok(vec![bytes.await?.into()])
    }

    async fn write(&self, offset: u64, data: Bytes, stability: Stability) -> Result<(), DeviceError> {
        within(&self.geometry(), &(offset..offset.saturating_add(data.len() as u64)))?;
        let work = move |file: &File| {
            file.write_all_at(&data, offset)?;
            settle(file, stability)
        };
        self.change(work).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: Bytes,
        new: Bytes,
        stability: Stability,
    ) -> Result<Option<usize>, DeviceError> {
        within(&self.geometry(), &(offset..offset.saturating_add(expected.len() as u64)))?;
        let alone = self.writes.clone().write_owned().await;
        let work = move |file: &File| {
            let _alone = alone;
            let mut bytes = vec![0; expected.len()];
            file.read_exact_at(&mut bytes, offset)?;
            let differs = first_difference(bytes, &expected);
            if differs.is_none() {
                file.write_all_at(&new, offset)?;
                settle(file, stability)?;
            }
            Ok(differs)
        };
        self.with_file(work).await
    }

    async fn unmap(&self, ranges: &[Range<u64>], stability: Stability) -> Result<(), DeviceError> {
        for range in ranges {
            within(&self.geometry(), range)?;
        }
        let ranges = ranges.to_vec();
        let work = move |file: &File| {
            for range in ranges.iter().filter(|range| !range.is_empty()) {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, flags, range.start, range.end - range.start)?;
            }
            settle(file, stability)
        };
        self.change(work).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.with_file(File::sync_data).await
    }

    async fn extents(&self, range: Range<u64>, extents_max: usize) -> Result<Vec<Extent>, DeviceError> {
        within(&self.geometry(), &range)?;
        self.with_file(move |file| find_extents(file, range, extents_max)).await
    }
}

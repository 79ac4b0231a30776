//! A cached volume as a disk.

use std::ops::Range;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;

use super::CachedVolume;
use crate::base::id::BlobId;
use crate::engine::volume::{BlockDevice, DeviceError, Extent, Geometry, Stability, first_difference, within};
use crate::store::blob::{Batch, BlobChange, BlobError, FetchError, Held, Patience};
use crate::store::log::LogError;

/// A physical block, in bytes: what the log and the map tell apart without cost.
const PHYSICAL_BLOCK_BYTES: u32 = 4096;
/// What is one record of the log is there whole or not at all, in bytes.
const ATOMIC_BYTES_MAX: u32 = 256 << 10;
/// What is fetched at a hint, in bytes.
const HINT_BYTES_MAX: u64 = 64 << 20;
/// How much of the map in S3 is looked through at a time, in bytes of the volume.
const LOOK_BYTES: u64 = 1 << 30;

fn refused(error: BlobError) -> DeviceError {
    match error {
        BlobError::NoSpace | BlobError::Log(LogError::Full) => DeviceError::Busy,
        BlobError::NotFound => DeviceError::Gone,
        BlobError::Damaged(range) => DeviceError::Damaged(range),
        BlobError::Fetch(FetchError::Object(error)) if error.is_transient() => DeviceError::Unreachable,
        error => DeviceError::Io(error.to_string()),
    }
}

impl CachedVolume {
    /// # Errors
    /// `Gone` where another gateway has the volume.
    fn ours(&self) -> Result<(), DeviceError> {
        if self.is_fenced() { Err(DeviceError::Gone) } else { Ok(()) }
    }

    pub(super) fn blob(&self) -> BlobId {
        self.blob
    }

    async fn settle(&self, stability: Stability) -> Result<(), DeviceError> {
        if stability == Stability::Durable || !self.has_write_cache() {
            self.blobs.sync().await.map_err(refused)?;
        }
        Ok(())
    }

    async fn put(&self, offset: u64, data: Bytes) -> Result<(), DeviceError> {
        let len = data.len() as u64;
        let patience = Patience::AtMost(self.settings.patience);
        self.blobs.write(self.blob(), offset, data, patience).await.map_err(refused)?;
        self.note_written(len).await;
        Ok(())
    }

    /// Makes the disk larger; what is new of it is zeroes.
    ///
    /// # Errors
    /// `Io` where it would become smaller; what the log says.
    pub async fn grow(&self, len_bytes: u64) -> Result<(), DeviceError> {
        let _alone = self.exclusive.write().await;
        let old = self.len_bytes.load(Ordering::Relaxed);
        if len_bytes < old {
            return Err(DeviceError::Io(format!("a volume cannot shrink: it has {old} bytes")));
        }
        let info = self.blobs.info(self.blob()).await.map_err(refused)?;
        let (id, len_bytes_padded) = (self.blob(), len_bytes + super::PAD_BYTES);
        let mut batch = Batch::new();
        batch.blob(BlobChange::SetLength { id, len_bytes: len_bytes_padded });
        // What is new is in S3 already, since there is nothing of it.
        batch.blob(BlobChange::CleanThrough {
            id,
            through: info.clean_through,
            len_bytes: len_bytes_padded,
            source: info.source,
        });
        self.blobs.apply(self.owner, batch).await.map_err(refused)?;
        self.blobs.sync().await.map_err(refused)?;
        self.len_bytes.store(len_bytes, Ordering::Relaxed);
        self.note_written(0).await;
        Ok(())
    }

    /// Where S3 has something, from the start of a range on; with what could not be looked up taken for something.
    async fn remote_data(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        match self.remote.pieces(range.clone()).await {
            Ok(pieces) => pieces.into_iter().map(|piece| piece.range).collect(),
            Err(_) => vec![range.clone()],
        }
    }
}

#[async_trait]
impl BlockDevice for CachedVolume {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.len_bytes.load(Ordering::Relaxed) / u64::from(self.block_bytes),
            block_bytes: self.block_bytes,
            physical_block_bytes: PHYSICAL_BLOCK_BYTES,
            atomic_bytes_max: ATOMIC_BYTES_MAX,
        }
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn has_write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Relaxed)
    }

    async fn set_write_cache(&self, on: bool) -> Result<(), DeviceError> {
        self.write_cache.store(on, Ordering::Relaxed);
        if on { Ok(()) } else { self.flush().await }
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, DeviceError> {
        self.ours()?;
        within(&self.geometry(), &range)?;
        let blob = self.blob();
        match self.blobs.try_read(blob, range.clone()) {
            Some(read) => read,
            None => self.blobs.read(blob, range).await,
        }
        .map_err(refused)
    }

    async fn write(&self, offset: u64, data: Bytes, stability: Stability) -> Result<(), DeviceError> {
        self.ours()?;
        within(&self.geometry(), &(offset..offset.saturating_add(data.len() as u64)))?;
        let _writing = self.exclusive.read().await;
        self.put(offset, data).await?;
        self.settle(stability).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: Bytes,
        new: Bytes,
        stability: Stability,
    ) -> Result<Option<usize>, DeviceError> {
        let range = offset..offset.saturating_add(expected.len() as u64);
        within(&self.geometry(), &range)?;
        let alone = self.exclusive.write().await;
        let found = self.read(range).await?;
        if let Some(place) = first_difference(found.iter().flat_map(|slice| slice.iter().copied()), &expected) {
            return Ok(Some(place));
        }
        self.put(offset, new).await?;
        drop(alone);
        self.settle(stability).await?;
        Ok(None)
    }

    async fn unmap(&self, ranges: &[Range<u64>], stability: Stability) -> Result<(), DeviceError> {
        self.ours()?;
        for range in ranges {
            within(&self.geometry(), range)?;
        }
        let _writing = self.exclusive.read().await;
        let id = self.blob();
        let mut discarded = 0;
        for range in ranges {
            let mut at = range.start;
            // What has nothing needs no hole: a new disk is unmapped from end to end before it is used.
            while at < range.end {
                let look = at..range.end.min(at.saturating_add(LOOK_BYTES));
                for extent in self.extents(look.clone(), usize::MAX).await? {
                    if extent.is_mapped {
                        discarded += extent.range.end - extent.range.start;
                        let mut batch = Batch::new();
                        batch.blob(BlobChange::Discard { id, range: extent.range });
                        self.blobs.apply(self.owner, batch).await.map_err(refused)?;
                    }
                }
                at = look.end;
            }
        }
        if discarded > 0 {
            self.note_written(0).await;
        }
        self.settle(stability).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.ours()?;
        self.blobs.sync().await.map(|_| ()).map_err(refused)
    }

    async fn extents(&self, range: Range<u64>, extents_max: usize) -> Result<Vec<Extent>, DeviceError> {
        within(&self.geometry(), &range)?;
        let look = range.start..range.end.min(range.start.saturating_add(LOOK_BYTES));
        let stretches = self.blobs.stretches(self.blob(), look.clone()).await.map_err(refused)?;
        let remote =
            if stretches.iter().any(|(_, what)| *what == Held::Remote) { self.remote_data(&look).await } else { Vec::new() };
        let mut extents: Vec<Extent> = Vec::new();
        let mut add = |range: Range<u64>, is_mapped: bool| match extents.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.is_mapped == is_mapped => last.range.end = range.end,
            _ => extents.push(Extent { range, is_mapped }),
        };
        for (stretch, what) in stretches {
            if what != Held::Remote {
                add(stretch, what == Held::Here);
                continue;
            }
            let mut at = stretch.start;
            for data in remote.iter().filter(|data| data.end > stretch.start && data.start < stretch.end) {
                let data = data.start.max(at)..data.end.min(stretch.end);
                add(at..data.start, false);
                at = data.end;
                add(data, true);
            }
            add(at..stretch.end, false);
        }
        extents.truncate(extents_max);
        Ok(extents)
    }

    fn prefetch(&self, range: Range<u64>) {
        let end = range.end.min(range.start.saturating_add(HINT_BYTES_MAX)).min(self.len_bytes.load(Ordering::Relaxed));
        if !self.is_fenced() && range.start < end {
            self.blobs.prefetch(self.blob(), range.start..end);
        }
    }
}

//! A disk in memory, for tests of protocols and for their benchmarks: thin, and lost with the process.
//!
//! Invariant: a page that is in the table was written; all others read as zeroes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{BlockDevice, DeviceError, Extent, Geometry, Stability, first_difference, within};

const PAGE_BYTES: u64 = 4096;
/// The largest write that [`RamDisk`] calls atomic, in bytes: all of its writes are.
const ATOMIC_BYTES_MAX: u32 = 1 << 20;

/// See the module.
pub struct RamDisk {
    blocks: AtomicU64,
    block_bytes: u32,
    is_read_only: AtomicBool,
    has_write_cache: AtomicBool,
    pages: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

impl RamDisk {
    /// A disk of `blocks` blocks of `block_bytes` (512 or 4096) bytes.
    pub fn new(blocks: u64, block_bytes: u32) -> Self {
        Self {
            blocks: AtomicU64::new(blocks),
            block_bytes,
            is_read_only: AtomicBool::new(false),
            has_write_cache: AtomicBool::new(true),
            pages: Mutex::default(),
        }
    }

    /// Makes the disk larger.
    pub fn grow(&self, blocks: u64) {
        self.blocks.fetch_max(blocks, Ordering::Relaxed);
    }

    /// Refuses writes from now on, or takes them again.
    pub fn set_read_only(&self, on: bool) {
        self.is_read_only.store(on, Ordering::Relaxed);
    }

    fn writable(&self, range: &Range<u64>) -> Result<(), DeviceError> {
        within(&self.geometry(), range)?;
        if self.is_read_only() { Err(DeviceError::ReadOnly) } else { Ok(()) }
    }
}

/// The pages of a range: index, and which of the page's bytes.
fn pages(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let last = range.end.div_ceil(PAGE_BYTES);
    (range.start / PAGE_BYTES..last).map(move |page| {
        let start = page * PAGE_BYTES;
        let from = range.start.saturating_sub(start).min(PAGE_BYTES);
        let to = (range.end - start).min(PAGE_BYTES);
        (page, from as usize..to as usize)
    })
}

fn get(table: &BTreeMap<u64, Box<[u8]>>, range: Range<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity((range.end - range.start) as usize);
    for (page, part) in pages(range) {
        match table.get(&page) {
            Some(bytes) => out.extend_from_slice(&bytes[part]),
            None => out.resize(out.len() + part.len(), 0),
        }
    }
    out
}

fn put(table: &mut BTreeMap<u64, Box<[u8]>>, offset: u64, mut data: &[u8]) {
    for (page, part) in pages(offset..offset + data.len() as u64) {
        let (now, rest) = data.split_at(part.len());
        table.entry(page).or_insert_with(|| vec![0; PAGE_BYTES as usize].into())[part].copy_from_slice(now);
        data = rest;
    }
}

#[async_trait]
impl BlockDevice for RamDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks.load(Ordering::Relaxed),
            block_bytes: self.block_bytes,
            physical_block_bytes: PAGE_BYTES as u32,
            atomic_bytes_max: ATOMIC_BYTES_MAX,
        }
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    fn has_write_cache(&self) -> bool {
        self.has_write_cache.load(Ordering::Relaxed)
    }

    async fn set_write_cache(&self, on: bool) -> Result<(), DeviceError> {
        self.has_write_cache.store(on, Ordering::Relaxed);
        Ok(())
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, DeviceError> {
        within(&self.geometry(), &range)?;
        Ok(vec![get(&self.pages.lock(), range).into()])
    }

    async fn write(&self, offset: u64, data: Bytes, _: Stability) -> Result<(), DeviceError> {
        self.writable(&(offset..offset.saturating_add(data.len() as u64)))?;
        put(&mut self.pages.lock(), offset, &data);
        Ok(())
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: Bytes,
        new: Bytes,
        _: Stability,
    ) -> Result<Option<usize>, DeviceError> {
        let range = offset..offset.saturating_add(expected.len() as u64);
        self.writable(&range)?;
        let mut table = self.pages.lock();
        let differs = first_difference(get(&table, range), &expected);
        if differs.is_none() {
            put(&mut table, offset, &new);
        }
        Ok(differs)
    }

    async fn unmap(&self, ranges: &[Range<u64>], _: Stability) -> Result<(), DeviceError> {
        for range in ranges {
            self.writable(range)?;
            let mut table = self.pages.lock();
            for (page, part) in pages(range.clone()) {
                if part.len() == PAGE_BYTES as usize {
                    table.remove(&page);
                } else if let Some(bytes) = table.get_mut(&page) {
                    bytes[part].fill(0);
                }
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    async fn extents(&self, range: Range<u64>, extents_max: usize) -> Result<Vec<Extent>, DeviceError> {
        within(&self.geometry(), &range)?;
        let table = self.pages.lock();
        let mut found: Vec<Extent> = Vec::new();
        for (page, part) in pages(range) {
            let start = page * PAGE_BYTES;
            let range = start + part.start as u64..start + part.end as u64;
            let is_mapped = table.contains_key(&page);
            let count = found.len();
            match found.last_mut() {
                Some(last) if last.is_mapped == is_mapped => last.range.end = range.end,
                _ if count == extents_max => break,
                _ => found.push(Extent { range, is_mapped }),
            }
        }
        Ok(found)
    }
}

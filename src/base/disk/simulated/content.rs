//! One file of the simulated disk: pages, and what of them a power loss or a failed sync takes back.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use crate::base::disk::SECTOR_BYTES;

const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// What of a page is not durable.
#[derive(Clone)]
pub struct Dirty {
    /// The page as the last sync left it.
    durable: Option<Arc<Page>>,
    /// Sectors written since.
    written: u8,
    /// Sectors that a failed sync gave up: no later sync makes them durable.
    lost: u8,
}

#[derive(Clone, Default)]
/// One file: its pages, and which of them are not durable.
///
/// Invariant: a page that is not in `dirty` is as durable as it reads.
pub struct Content {
    /// Its length.
    pub len_bytes: u64,
    pages: Vec<Option<Arc<Page>>>,
    pub dirty: HashMap<usize, Dirty>,
    /// Sectors that cannot be read until they are written.
    pub bad: BTreeSet<u64>,
}

/// The sectors of one page that `start..end` (bytes in the page) touches.
fn sectors(start: usize, end: usize) -> u8 {
    let mut mask = 0;
    for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
        mask |= 1 << sector;
    }
    mask
}

fn page_bytes(page: Option<&Arc<Page>>) -> Page {
    page.map_or([0; PAGE_BYTES], |page| **page)
}

/// `to` with the sectors of `mask` taken from `from`.
fn with_sectors(to: &mut Page, from: &Page, mask: u8) {
    for sector in (0..PAGE_BYTES / SECTOR_BYTES).filter(|sector| mask & (1 << sector) != 0) {
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        to[range.clone()].copy_from_slice(&from[range]);
    }
}

impl Content {
    pub fn new(len_bytes: u64) -> Self {
        let pages = usize::try_from(len_bytes).unwrap_or(0).div_ceil(PAGE_BYTES);
        Self { len_bytes, pages: vec![None; pages], dirty: HashMap::new(), bad: BTreeSet::new() }
    }

    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(buf.len() as u64) > self.len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let touched = offset / SECTOR_BYTES as u64..(offset + buf.len() as u64).div_ceil(SECTOR_BYTES as u64);
        if self.bad.range(touched).next().is_some() {
            return Err(io::Error::other("simulated: a sector cannot be read"));
        }
        let mut at = usize::try_from(offset).unwrap_or(0);
        let mut rest = buf;
        while !rest.is_empty() {
            let start = at % PAGE_BYTES;
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE_BYTES - start));
            match &self.pages[at / PAGE_BYTES] {
                Some(page) => now.copy_from_slice(&page[start..start + now.len()]),
                None => now.fill(0),
            }
            at += now.len();
            rest = later;
        }
        Ok(())
    }

    /// The caller has checked the range.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.bad.retain(|sector| sector * (SECTOR_BYTES as u64) < offset || (sector + 1) * SECTOR_BYTES as u64 > end);
        let mut at = usize::try_from(offset).unwrap_or(0);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (index, start) = (at / PAGE_BYTES, at % PAGE_BYTES);
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - start));
            let page = &mut self.pages[index];
            let dirty = self.dirty.entry(index).or_insert_with(|| Dirty { durable: page.clone(), written: 0, lost: 0 });
            let mask = sectors(start, start + now.len());
            dirty.written |= mask;
            dirty.lost &= !mask;
            let page = Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])));
            page[start..start + now.len()].copy_from_slice(now);
            at += now.len();
            rest = later;
        }
    }

    pub fn sync(&mut self) {
        let pages = &self.pages;
        self.dirty.retain(|index, dirty| {
            let kept = dirty.written & !dirty.lost;
            if dirty.lost == 0 {
                return false;
            }
            let mut durable = page_bytes(dirty.durable.as_ref());
            with_sectors(&mut durable, &page_bytes(pages[*index].as_ref()), kept);
            dirty.durable = Some(Arc::new(durable));
            dirty.written = dirty.lost;
            true
        });
    }

    /// Gives up what the sync should have kept; some of it reads as old from now on, as after an evicted page.
    pub fn fail_sync(&mut self, random: &mut fastrand::Rng) {
        let mut indexes: Vec<usize> = self.dirty.keys().copied().collect();
        indexes.sort_unstable();
        for index in indexes {
            if let Some(dirty) = self.dirty.get_mut(&index) {
                dirty.lost = dirty.written;
                if random.bool() {
                    self.pages[index] = dirty.durable.clone();
                }
            }
        }
    }

    pub fn after_power_loss(&self, random: &mut fastrand::Rng) -> Self {
        let mut pages = self.pages.clone();
        // Some power losses keep nearly everything, some nearly nothing.
        let keep_percent = random.u32(0..=100);
        let mut indexes: Vec<(&usize, &Dirty)> = self.dirty.iter().collect();
        indexes.sort_unstable_by_key(|(index, _)| **index);
        for (index, dirty) in indexes {
            let new = page_bytes(self.pages[*index].as_ref());
            let old = page_bytes(dirty.durable.as_ref());
            let mut page = new;
            for sector in (0..PAGE_BYTES / SECTOR_BYTES).filter(|sector| dirty.written & (1 << sector) != 0) {
                if random.u32(0..100) >= keep_percent {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    lose_sector(&mut page[range.clone()], &old[range], random);
                }
            }
            pages[*index] = Some(Arc::new(page));
        }
        Self { len_bytes: self.len_bytes, pages, dirty: HashMap::new(), bad: self.bad.clone() }
    }
}

/// A sector that is not wholly new: old, new up to some byte, or garbage from some byte on.
fn lose_sector(sector: &mut [u8], old: &[u8], random: &mut fastrand::Rng) {
    match random.u32(0..8) {
        0..=5 => sector.copy_from_slice(old),
        6 => {
            let from = random.usize(..SECTOR_BYTES);
            sector[from..].copy_from_slice(&old[from..]);
        }
        _ => {
            let from = random.usize(..SECTOR_BYTES);
            random.fill(&mut sector[from..]);
        }
    }
}

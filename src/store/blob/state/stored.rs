//! What of a blob is in memory, and what in the metadata: how it is made, loaded, stored by a checkpoint, and forgotten page by page.
//!
//! Invariant: a page is forgotten only when the metadata has it as it is: neither changed since the last checkpoint, nor in one that is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{State, page_numbers};
use crate::base::id::{OwnerId, Seq};
use crate::store::blob::map::ExtentMap;
use crate::store::blob::page::Head;
use crate::store::blob::read_ahead::ReadAhead;
use crate::store::meta::BlobRow;

/// What a checkpoint takes of a blob.
pub struct Image {
    /// `None`: it is gone.
    pub row: Option<BlobRow>,
    /// Its head, and the pages that changed; `None`: empty now.
    pub head: Head,
    /// See `head`.
    pub pages: Vec<(u64, Option<Arc<ExtentMap>>)>,
}

impl State {
    /// A new blob whose first `len_bytes` are in S3 as `source` says.
    pub fn create(owner: OwnerId, len_bytes: u64, source: Bytes, seq: Seq, time_ns: i64) -> Self {
        let remote_len_bytes = if source.is_empty() { 0 } else { len_bytes };
        let row = BlobRow {
            owner,
            len_bytes,
            remote_len_bytes,
            // What S3 has is the whole blob, so it begins clean; one that S3 has nothing of begins dirty.
            clean_through: if source.is_empty() { Seq(0) } else { seq },
            modified_seq: seq,
            modified_ns: time_ns,
            len_seq: seq,
            ..BlobRow::default()
        };
        let dirty_since_ns = if source.is_empty() { time_ns } else { 0 };
        let head = Head { allocated_bytes: remote_len_bytes, dirty_since_ns, ..Head::default() };
        let mut state = Self::load(BlobRow { source: source.to_vec(), ..row }, head);
        state.frozen_since_cut = false;
        state
    }

    /// A blob as of the last checkpoint, no page loaded.
    pub fn load(mut row: BlobRow, head: Head) -> Self {
        let source = Bytes::from(std::mem::take(&mut row.source));
        let seq_max = |dirty| if dirty { Seq(u64::MAX) } else { Seq(0) };
        Self {
            row,
            source,
            source_epoch: 0,
            removed: false,
            pages: BTreeMap::new(),
            directory: head.pages.into_iter().map(|(page, dirty)| (page, seq_max(dirty))).collect(),
            cuts: head.cuts,
            frozen_since_cut: true,
            blurred: head.blurred,
            allocated_bytes: head.allocated_bytes,
            dirty_since_ns: head.dirty_since_ns,
            dirty_pages: BTreeSet::new(),
            flight_pages: BTreeSet::new(),
            in_flight: false,
            listed: false,
            generations: Vec::new(),
            ahead: ReadAhead::default(),
        }
    }

    /// What a checkpoint stores; from here on it is in flight.
    pub fn image(&mut self) -> Image {
        self.listed = false;
        self.in_flight = true;
        self.flight_pages = std::mem::take(&mut self.dirty_pages);
        if self.removed {
            return Image { row: None, head: Head::default(), pages: Vec::new() };
        }
        let clean = self.row.clean_through;
        let head = Head {
            allocated_bytes: self.allocated_bytes,
            dirty_since_ns: self.dirty_since_ns,
            cuts: self.cuts.clone(),
            blurred: self.blurred,
            pages: self.directory.iter().map(|(&page, &seq_max)| (page, seq_max > clean)).collect(),
        };
        let pages = self.flight_pages.iter().map(|page| (*page, self.pages.get(page).cloned())).collect();
        Image { row: Some(BlobRow { source: self.source.to_vec(), ..self.row.clone() }), head, pages }
    }

    /// The checkpoint under way is stored, or failed: then its pages are dirty again.
    pub fn landed(&mut self, stored: bool) {
        self.in_flight = false;
        let pages = std::mem::take(&mut self.flight_pages);
        if !stored {
            self.dirty_pages.extend(pages);
        }
    }

    /// Whether nothing of it would be lost if it were loaded anew.
    pub fn is_evictable(&self) -> bool {
        !self.listed && !self.in_flight && self.generations.is_empty()
    }

    /// Forgets loaded pages that a checkpoint has. Returns how many extents.
    pub fn evict_pages(&mut self) -> usize {
        let pinned = |page: &u64| self.dirty_pages.contains(page) || self.flight_pages.contains(page);
        let before = self.extents();
        let (keep, _): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.pages).into_iter().partition(|(page, _)| pinned(page));
        self.pages = keep;
        before - self.extents()
    }

    /// Extents in memory.
    pub fn extents(&self) -> usize {
        self.pages.values().map(|map| map.len()).sum()
    }

    /// Pages that the range touches, that exist and are not loaded.
    pub fn missing(&self, range: &Range<u64>) -> Vec<u64> {
        let numbers = page_numbers(range);
        let named = self.directory.range(numbers).map(|(page, _)| *page);
        named.filter(|page| !self.pages.contains_key(page)).collect()
    }

    /// As `missing`, of pages that may have dirty extents, anywhere.
    pub fn missing_dirty(&self) -> Vec<u64> {
        let named = self.directory.iter().filter(|(_, seq_max)| **seq_max > self.row.clean_through);
        named.map(|(page, _)| *page).filter(|page| !self.pages.contains_key(page)).collect()
    }

    /// As `missing`, of pages that `clean_through` looks at.
    pub fn missing_for_clean(&self, len_bytes: u64) -> Vec<u64> {
        let mut missing = self.missing_dirty();
        missing.extend(self.missing(&(len_bytes.min(self.row.remote_len_bytes)..self.row.remote_len_bytes)));
        missing
    }

    /// Whether a page exists and is not loaded.
    pub fn missing_page(&self, page: u64) -> bool {
        self.directory.contains_key(&page) && !self.pages.contains_key(&page)
    }

    /// A page was read from the metadata.
    pub fn put_page(&mut self, page: u64, map: ExtentMap) {
        if map.is_empty() {
            self.directory.remove(&page);
        } else if self.directory.contains_key(&page) && !self.pages.contains_key(&page) {
            self.directory.insert(page, map.seq_max());
            self.pages.insert(page, Arc::new(map));
        }
    }
}

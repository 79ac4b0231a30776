//! A volume's bytes in S3: the map of a state, loaded as far as it is needed, and reading by it.
//!
//! What lives here: [`Remote`]. `remote/load.rs` reads what a state names, `remote/read.rs` finds and fetches bytes. The gateway that has the volume tells
//! it what it published; clones and the tools that read a bucket without a gateway only load.
//!
//! The map is the checkpoint's pages, and over them what the segments since changed. Both are kept in memory as far as they are used: pages within
//! [`PAGES_BYTES_MAX`], what lies over them whole, since it becomes the next checkpoint.
//!
//! Invariants: objects never change, so what was loaded of them stays right; a state and the map of it change together. Nothing is asked of S3 before
//! somebody needs it: a volume that is not read and not written costs no request.

mod load;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;

use moka::sync::Cache;
use parking_lot::RwLock;

pub(super) use self::load::checkpoint;
use super::checkpoint::{Checkpoint, PagePlace, Usage};
use super::manifest::State;
use super::map::{PAGE_SPAN_BYTES, Page, Piece, page_of};
use super::names::{Names, ObjectName, VolumeId};
use super::segment::{Frame, Segment, SegmentError};
use crate::store::blob::FetchError;
use crate::store::object::{ObjectError, SharedStore};

/// What pages of the map may take in memory, in bytes (about), for one volume.
const PAGES_BYTES_MAX: u64 = 64 << 20;
/// What a piece takes in memory, in bytes (about).
const PIECE_BYTES: usize = 200;
/// Requests of one read that are under way at a time.
const REQUESTS_MAX: usize = 16;

/// See the module.
pub struct Remote {
    bucket: SharedStore,
    names: Names,
    volume: VolumeId,
    inner: RwLock<Inner>,
    pages: Cache<PageKey, Arc<Page>>,
    loading: tokio::sync::Mutex<()>,
}

/// Where a page is, and its number.
type PageKey = (ObjectName, u64, u64);

struct Inner {
    state: State,
    map: Option<Map>,
}

/// The map of a state.
#[derive(Clone, Default)]
struct Map {
    checkpoint: Option<Arc<Checkpoint>>,
    /// What lies over its pages, by number.
    over: BTreeMap<u64, Page>,
    /// The segments since.
    since: BTreeMap<ObjectName, Usage>,
    /// Bytes of the volume that these have something for, be it zeroes.
    covered_bytes: u64,
}

/// The map as a checkpoint is made of it.
pub(super) struct Folding {
    /// The checkpoint before.
    pub checkpoint: Arc<Checkpoint>,
    /// The pages that differ from its.
    pub over: BTreeMap<u64, Page>,
    /// The segments since, of which nothing is known to be in use.
    pub since: BTreeMap<ObjectName, Usage>,
}

impl Remote {
    /// The bytes of a state.
    pub fn new(bucket: SharedStore, names: Names, volume: VolumeId, state: State) -> Self {
        let weigh = |_: &PageKey, page: &Arc<Page>| u32::try_from((page.len() + 1) * PIECE_BYTES).unwrap_or(u32::MAX);
        let pages = Cache::builder().max_capacity(PAGES_BYTES_MAX).weigher(weigh).build();
        let inner = RwLock::new(Inner { state, map: None });
        Self { bucket, names, volume, inner, pages, loading: tokio::sync::Mutex::new(()) }
    }

    /// What it is the map of.
    pub fn state(&self) -> State {
        self.inner.read().state.clone()
    }

    /// `state` is what S3 has now: `segments` were added to what was before.
    pub fn publish(&self, state: State, segments: &[(ObjectName, Segment)]) {
        let mut inner = self.inner.write();
        inner.state = state;
        if let Some(map) = &mut inner.map {
            for (name, segment) in segments {
                map.add(*name, segment);
            }
        }
    }

    /// `state` is what S3 has now: the same bytes by another checkpoint, without anything since.
    pub fn publish_checkpoint(&self, state: State, checkpoint: Arc<Checkpoint>) {
        let mut inner = self.inner.write();
        *inner = Inner { state, map: Some(Map { checkpoint: Some(checkpoint), ..Map::default() }) };
    }

    /// `state` is what S3 has now: what was known of the map is forgotten.
    pub fn forget(&self, state: State) {
        *self.inner.write() = Inner { state, map: None };
    }

    /// Pieces that lie over the checkpoint's, and all that the checkpoint has. (0, 0) where the map is not in memory.
    pub fn pieces_over(&self) -> (u64, u64) {
        let inner = self.inner.read();
        let Some(map) = &inner.map else { return (0, 0) };
        let over: usize = map.over.values().map(Page::len).sum();
        (over as u64, map.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.pieces()))
    }

    /// Bytes of the volume that were written, or forgotten, since the checkpoint, and bytes that that has.
    ///
    /// # Errors
    /// What loading the map says.
    pub async fn covered_bytes(&self) -> Result<(u64, u64), FetchError> {
        if self.state().since_count() == 0 {
            return Ok((0, 0));
        }
        self.load().await?;
        let inner = self.inner.read();
        let Some(map) = &inner.map else { return Ok((0, 0)) };
        Ok((map.covered_bytes, map.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.live_bytes())))
    }

    /// The checkpoint in force, if there is one.
    ///
    /// # Errors
    /// What loading the map says.
    pub async fn checkpoint(&self) -> Result<Option<Arc<Checkpoint>>, FetchError> {
        self.load().await?;
        Ok(self.inner.read().map.as_ref().and_then(|map| map.checkpoint.clone()))
    }

    /// What a new checkpoint is made of.
    ///
    /// # Errors
    /// What loading the map says.
    pub(super) async fn folding(&self) -> Result<Folding, FetchError> {
        self.load().await?;
        let inner = self.inner.read();
        let map = inner.map.clone().unwrap_or_default();
        let checkpoint = map.checkpoint.unwrap_or_else(|| Arc::new(Checkpoint::empty(self.volume)));
        Ok(Folding { checkpoint, over: map.over, since: map.since })
    }
}

impl Map {
    fn add(&mut self, name: ObjectName, segment: &Segment) {
        self.since.insert(name, Usage::new(segment));
        for frame in &segment.frames {
            self.covered_bytes += frame.range.end - frame.range.start;
            let mut start = frame.range.start;
            while start < frame.range.end {
                let number = page_of(start);
                let end = frame.range.end.min((number + 1) * PAGE_SPAN_BYTES);
                // Only zeroes are longer than a page.
                let part = Frame { range: start..end, stored: frame.stored.clone() };
                self.over.entry(number).or_default().lay(name, &part);
                start = end;
            }
        }
    }

    fn place(&self, number: u64) -> Option<PagePlace> {
        self.checkpoint.as_ref()?.pages.get(&number).copied()
    }
}

/// What is not what it should be came damaged.
pub(super) fn damaged(key: &str, error: &SegmentError) -> FetchError {
    ObjectError::Corrupt(format!("{key}: {error}")).into()
}

/// Pieces of a page with what lies over it, in order; zeroes left out.
fn overlaid(base: &Page, over: Option<&Page>, range: std::ops::Range<u64>) -> Vec<Piece> {
    let Some(over) = over else { return base.pieces(range).collect() };
    let mut pieces = Vec::new();
    let mut at = range.start;
    for piece in over.pieces(range.clone()) {
        pieces.extend(base.pieces(at..piece.range.start));
        at = piece.range.end;
        if piece.frame.stored.is_some() {
            pieces.push(piece);
        }
    }
    pieces.extend(base.pieces(at..range.end));
    pieces
}

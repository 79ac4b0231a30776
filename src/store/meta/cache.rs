//! Rows that are applied, in memory as far as they fit; and that a row is absent, which is asked for as often.
//!
//! Invariant: only as good as what is put in; see the rules in `overlay.rs`.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::rows::{Key, Row};

/// The most memory for cached rows, in bytes (about).
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// What a small row takes, in bytes (about).
const ROW_BYTES: u64 = 400;

/// See the file's header.
pub(super) struct RowCache(Cache<Key, Option<Arc<Row>>, Bytes>);

/// What an entry takes, in bytes (about).
#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Option<Arc<Row>>> for Bytes {
    fn weight(&self, key: &Key, row: &Option<Arc<Row>>) -> u64 {
        (200 + key.heap_bytes() + row.as_ref().map_or(0, |row| size_of::<Row>() + row.heap_bytes())) as u64
    }
}

impl RowCache {
    pub fn new() -> Self {
        Self(Cache::with_weighter((CACHE_BYTES_MAX / ROW_BYTES) as usize, CACHE_BYTES_MAX, Bytes))
    }

    /// `None`: not in memory. `Some(None)`: there is no such row.
    pub fn get(&self, key: &Key) -> Option<Option<Arc<Row>>> {
        self.0.get(key)
    }

    /// What the database has for a key.
    pub fn insert(&self, key: Key, row: Option<Arc<Row>>) {
        self.0.insert(key, row);
    }

    /// An applied change: its row; that a name or key is gone; but not that a number is gone, since nobody asks again.
    pub fn applied(&self, key: &Key, row: Option<Arc<Row>>) {
        match (key, &row) {
            (Key::Node(_) | Key::Job(..) | Key::Move(..), None) => {
                self.0.remove(key);
            }
            _ => self.0.insert(key.clone(), row),
        }
    }

    /// Forgets everything.
    #[cfg(test)]
    pub fn clear(&self) {
        self.0.clear();
    }
}

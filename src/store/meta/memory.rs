//! The database of a simulated world, in memory.
//!
//! Invariants: [`MemoryDatabase`] outlives the `Meta`s that are opened on it; what a durable transaction or anything
//! before it wrote is never lost; a power loss takes back whole transactions, newest first, as SQLite's WAL does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::backend::{Backend, Loaded, Staged};
use super::horizon::Highest;
use super::order::{Place, Places, Range};
use super::rows::{BlobRow, Key, Row};
use super::tally::Tallies;
use super::{Checkpoint, MetaError, Position};
use crate::base::id::{BlobId, Seq};

/// The database of a simulated world: outlives the [`Meta`](super::Meta)s that are opened on it. Its clone is another
/// database with the same rows.
#[derive(Debug, Default)]
pub struct MemoryDatabase(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    rows: Rows,
    blobs: BTreeMap<BlobId, BlobRow>,
    pages: BTreeMap<(BlobId, u64), Page>,
    position: Position,
    applied: Seq,
    /// How to take back each transaction since the last durable one, oldest first.
    undo: Vec<Undo>,
    /// How many applies are to fail.
    failures: u32,
}

#[derive(Clone, Debug, Default)]
struct Rows {
    rows: HashMap<Key, Arc<Row>>,
    places: Places,
    tallies: Tallies,
}

/// A page of a blob's extent map.
type Page = Arc<[u8]>;

/// What a transaction replaced.
#[derive(Clone, Debug, Default)]
struct Undo {
    rows: Vec<Staged>,
    blobs: Vec<(BlobId, Option<BlobRow>)>,
    pages: Vec<((BlobId, u64), Option<Page>)>,
    position: Position,
    applied: Seq,
}

impl Clone for MemoryDatabase {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }
}

impl MemoryDatabase {
    /// The power fails: of the transactions since the last durable one, a beginning that `seed` chooses stays. No
    /// `Meta` that was open on the database may be used afterwards.
    pub fn power_loss(&self, seed: u64) {
        let mut state = self.0.lock();
        let kept = fastrand::Rng::with_seed(seed).usize(..=state.undo.len());
        while state.undo.len() > kept {
            state.take_back();
        }
        state.undo.clear();
    }

    /// The next `count` applies fail, as on a full disk.
    pub fn fail_applies(&self, count: u32) {
        self.0.lock().failures = count;
    }

    pub(super) fn load(&self) -> Loaded {
        let state = self.0.lock();
        let mut highest = Highest::default();
        state.rows.rows.values().for_each(|row| highest.add(row));
        state.blobs.keys().chain(state.pages.keys().map(|(blob, _)| blob)).for_each(|blob| highest.add_blob(*blob));
        Loaded { position: state.position, applied: state.applied, tallies: state.rows.tallies.clone(), highest }
    }
}

impl Rows {
    /// Returns what was there.
    fn set(&mut self, key: &Key, row: Option<Arc<Row>>) -> Option<Arc<Row>> {
        let old = match row.clone() {
            Some(row) => self.rows.insert(key.clone(), row),
            None => self.rows.remove(key),
        };
        if let Some(old) = &old {
            self.places.remove(old);
        }
        if let Some(row) = &row {
            self.places.insert(row);
        }
        self.tallies.replace(old.as_deref(), row.as_deref());
        old
    }
}

/// Sets or removes, and returns what was there.
fn set<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> (K, Option<V>) {
    let old = match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
    (key, old)
}

impl State {
    fn apply(&mut self, changes: &[Staged], checkpoint: &Checkpoint) {
        let mut undo = Undo { position: self.position, applied: self.applied, ..Undo::default() };
        for (key, row) in changes {
            undo.rows.push((key.clone(), self.rows.set(key, row.clone())));
        }
        for (blob, row) in &checkpoint.blobs {
            undo.blobs.push(set(&mut self.blobs, *blob, row.clone()));
            if row.is_none() {
                let pages: Vec<_> = self.pages.range((*blob, 0)..=(*blob, u64::MAX)).map(|(key, _)| *key).collect();
                undo.pages.extend(pages.into_iter().map(|key| set(&mut self.pages, key, None)));
            }
        }
        for (blob, page, body) in &checkpoint.pages {
            undo.pages.push(set(&mut self.pages, (*blob, *page), body.as_deref().map(Arc::from)));
        }
        self.position = checkpoint.position;
        self.applied = checkpoint.applied;
        self.undo.push(undo);
    }

    /// Takes the last transaction back.
    fn take_back(&mut self) {
        let Some(undo) = self.undo.pop() else { return };
        for (key, row) in undo.rows.into_iter().rev() {
            self.rows.set(&key, row);
        }
        for (blob, row) in undo.blobs.into_iter().rev() {
            set(&mut self.blobs, blob, row);
        }
        for (key, body) in undo.pages.into_iter().rev() {
            set(&mut self.pages, key, body);
        }
        self.position = undo.position;
        self.applied = undo.applied;
    }
}

#[async_trait]
impl Backend for MemoryDatabase {
    async fn apply(&self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> Result<Tallies, MetaError> {
        let mut state = self.0.lock();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(MetaError::Failed("the simulated disk is full".to_owned()));
        }
        state.apply(changes, checkpoint);
        if durable {
            state.undo.clear();
        }
        Ok(state.rows.tallies.clone())
    }

    async fn get(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        Ok(self.0.lock().rows.rows.get(key).map(|row| Row::clone(row)))
    }

    async fn range(&self, range: &Range, from: &Place, limit: usize) -> Result<Vec<Arc<Row>>, MetaError> {
        let state = self.0.lock();
        let rows = state.rows.places.scan(range, from).filter_map(|place| state.rows.rows.get(&place.key()));
        Ok(rows.take(limit).cloned().collect())
    }

    async fn blob(&self, blob: BlobId) -> Result<Option<BlobRow>, MetaError> {
        Ok(self.0.lock().blobs.get(&blob).cloned())
    }

    async fn page(&self, blob: BlobId, page: u64) -> Result<Option<Vec<u8>>, MetaError> {
        Ok(self.0.lock().pages.get(&(blob, page)).map(|body| body.to_vec()))
    }

    async fn blobs(&self, after: BlobId, limit: usize, only_dirty: bool) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        let state = self.0.lock();
        let above = state.blobs.range(BlobId(after.0.saturating_add(1))..);
        let wanted = above.filter(|(_, row)| !only_dirty || row.modified_seq > row.clean_through);
        Ok(wanted.take(limit).map(|(blob, row)| (*blob, row.clone())).collect())
    }

    fn below_floor(&self) -> Option<u64> {
        (self.0.lock().failures > 0).then_some(1)
    }

    async fn check(&self) -> Result<(), MetaError> {
        Ok(())
    }

    async fn close(&self) {}
}

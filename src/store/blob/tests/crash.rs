//! The reference model: a `Vec<u8>` per blob and a value per row, under random work and power losses, by seed.
//!
//! After a power loss the store must be at one of the states between the last sync and the crash: nothing synced is
//! missing, nothing is invented, no batch is half there. After the death of the process alone it is at the last state.
//! How many: [`crate::base::seeds`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::world::{OWNER, World, bytes};
use crate::base::id::BlobId;
use crate::base::seeds;
use crate::store::blob::{Batch, BlobChange, BlobError, BlobStore, Generation, Patience};
use crate::store::log::LogError;
use crate::store::meta::{Key, Row, ValueRow};

/// Power losses of a quick and of a full run.
const QUICK: u64 = 2_000;
const FULL: u64 = 10_000;
/// Lives of one world.
const LIVES: u64 = 6;
/// No blob of the model grows past this, in bytes.
const LEN_MAX: u64 = 220_000;

/// Segments that were freed, in all worlds.
static FREED: AtomicUsize = AtomicUsize::new(0);
/// Blobs that were detached, in all worlds.
static DETACHED: AtomicUsize = AtomicUsize::new(0);
/// Lives of all worlds.
static LIVED: AtomicUsize = AtomicUsize::new(0);

/// What a store should have.
#[derive(Clone, Default, PartialEq)]
struct Model {
    blobs: BTreeMap<BlobId, Arc<Vec<u8>>>,
    rows: BTreeMap<String, u64>,
}

impl Model {
    fn edit(&mut self, id: BlobId) -> &mut Vec<u8> {
        Arc::make_mut(self.blobs.get_mut(&id).unwrap())
    }

    fn write(&mut self, id: BlobId, offset: u64, data: &[u8]) {
        let blob = self.edit(id);
        let end = offset as usize + data.len();
        blob.resize(blob.len().max(end), 0);
        blob[offset as usize..end].copy_from_slice(data);
    }

    fn change(&mut self, change: &BlobChange) {
        match change {
            BlobChange::Create { id, len_bytes, .. } => {
                self.blobs.insert(*id, Arc::new(vec![0; *len_bytes as usize]));
            }
            BlobChange::SetLength { id, len_bytes } => self.edit(*id).resize(*len_bytes as usize, 0),
            BlobChange::Discard { id, range } => {
                let blob = self.edit(*id);
                let end = (range.end as usize).min(blob.len());
                let start = (range.start as usize).min(end);
                blob[start..end].fill(0);
            }
            BlobChange::Remove { id } => {
                self.blobs.remove(id);
            }
            BlobChange::CleanThrough { .. } | BlobChange::Rebase { .. } => {}
        }
    }
}

/// A blob that is being detached, stretch by stretch from its beginning: also what lies between before and after may be found.
struct Detaching {
    before: Model,
    id: BlobId,
    /// What it may be in the end.
    after: Vec<u8>,
    /// It was not told which bytes are lost: each of those that may be lost can also be as before.
    is_open: bool,
}

impl Detaching {
    fn may_be(&self, seen: &Model) -> bool {
        let (Some(bytes), Some(before)) = (seen.blobs.get(&self.id), self.before.blobs.get(&self.id)) else { return false };
        let is_done = |index: usize| bytes[index] == self.after[index] || (self.is_open && bytes[index] == before[index]);
        if bytes.len() != before.len() {
            return false;
        }
        let done = (0..bytes.len()).find(|index| !is_done(*index)).unwrap_or(bytes.len());
        let mut rest = self.before.clone();
        rest.blobs.insert(self.id, bytes.clone());
        bytes[done..] == before[done..] && rest == *seen
    }
}

/// A frozen generation and the bytes that it must have.
struct Held {
    id: BlobId,
    generation: Generation,
    bytes: Vec<u8>,
}

struct Run {
    random: fastrand::Rng,
    world: World,
    /// States since the last sync, oldest first; the last is now.
    states: Vec<Model>,
    /// What else it may be since the last sync.
    detaching: Vec<Detaching>,
    /// In some worlds blobs are detached.
    detaches: bool,
    /// In some the disk is small, and fails flushes in every second life.
    is_harsh: bool,
    /// Only the process died: nothing at all may be missing.
    is_exact: bool,
    row_next: u64,
}

impl Run {
    fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    /// What is now is durable.
    fn synced(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.detaching.clear();
    }

    fn pick(&mut self) -> Option<BlobId> {
        let ids: Vec<BlobId> = self.now().blobs.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.random.usize(..ids.len())])
    }

    fn range(&mut self) -> std::ops::Range<u64> {
        let start = self.random.u64(..LEN_MAX);
        let len = match self.random.u8(..4) {
            0 => self.random.u64(1..600),
            1 => self.random.u64(1..9_000),
            _ => self.random.u64(1..90_000),
        };
        start..(start + len).min(LEN_MAX)
    }

    /// A random batch, and the state after it.
    async fn batch(&mut self, store: &BlobStore) -> Result<(Batch, Model), BlobError> {
        let mut batch = Batch::new();
        let mut after = self.now().clone();
        for _ in 0..self.random.usize(1..4) {
            let change = match (self.random.u8(..8), self.pick().filter(|id| after.blobs.contains_key(id))) {
                (0..=1, _) | (_, None) => {
                    let id = store.new_blob_id().await?;
                    BlobChange::Create { id, owner: OWNER, len_bytes: 0, source: Bytes::new() }
                }
                (2, Some(id)) => BlobChange::Remove { id },
                (3..=5, Some(id)) => BlobChange::SetLength { id, len_bytes: self.random.u64(..LEN_MAX) },
                (_, Some(id)) => BlobChange::Discard { id, range: self.range() },
            };
            after.change(&change);
            batch.blob(change);
        }
        let name = format!("row {}", self.random.u8(..4));
        self.row_next += 1;
        after.rows.insert(name.clone(), self.row_next);
        batch.put(Row::Value(ValueRow { name, value: self.row_next.to_le_bytes().to_vec() }));
        Ok((batch, after))
    }

    /// One random step. An error means that the power is gone.
    async fn step(&mut self, store: &Arc<BlobStore>, held: &mut Vec<Held>) -> Result<(), BlobError> {
        match self.random.u8(..if self.detaches { 33 } else { 32 }) {
            0..=9 => self.write(store).await,
            10..=13 => {
                let (batch, after) = self.batch(store).await?;
                self.states.push(after);
                match store.apply(OWNER, batch).await {
                    Err(BlobError::Log(LogError::Flush(_))) => {
                        self.states.pop();
                        Ok(())
                    }
                    other => other.map(drop),
                }
            }
            14..=15 => {
                store.sync().await?;
                self.synced();
                Ok(())
            }
            16..=18 => {
                let Some(id) = self.pick() else { return Ok(()) };
                let bytes = self.now().blobs[&id].to_vec();
                let generation = store.freeze(id).await?;
                // The log is committed by that.
                self.synced();
                assert_eq!(generation.len_bytes, bytes.len() as u64);
                held.push(Held { id, generation, bytes });
                Ok(())
            }
            19..=21 if !held.is_empty() => {
                let index = self.random.usize(..held.len());
                let Held { id, generation, bytes } = held.swap_remove(index);
                self.check_changed(&generation, &bytes).await?;
                let change = generation.test_upload(id, &self.world.remote).await?;
                if self.now().blobs.contains_key(&id) {
                    self.states.push(self.now().clone());
                    let mut batch = Batch::new();
                    batch.blob(change);
                    store.apply(OWNER, batch).await?;
                }
                Ok(())
            }
            22..=23 if !held.is_empty() => {
                let index = self.random.usize(..held.len());
                if self.random.bool() {
                    drop(held.swap_remove(index));
                } else {
                    assert_eq!(held[index].generation.test_bytes().await?, held[index].bytes, "a generation changed");
                }
                Ok(())
            }
            24 => store.make_checkpoint(self.random.bool()).await,
            25 => {
                FREED.fetch_add(store.reclaim().await?, Ordering::Relaxed);
                Ok(())
            }
            26 => {
                let Some(id) = self.pick() else { return Ok(()) };
                store.evict(id).await
            }
            27 => {
                store.evict_all();
                Ok(())
            }
            28 => {
                let Some(id) = self.pick() else { return Ok(()) };
                store.test_seal();
                let source = store.info(id).await?.source;
                if !source.is_empty() {
                    let mut batch = Batch::new();
                    batch.blob(BlobChange::Rebase { id, instead_of: source.clone(), source });
                    store.apply(OWNER, batch).await?;
                }
                Ok(())
            }
            32 => self.detach(store).await,
            _ => self.read(store).await,
        }
    }

    /// What S3 had of a blob is gone: what is here of it stays, and only what is not may read as zeros.
    async fn detach(&mut self, store: &BlobStore) -> Result<(), BlobError> {
        let Some(id) = self.pick() else { return Ok(()) };
        let source = store.info(id).await?.source;
        if source.is_empty() {
            return Ok(());
        }
        assert_eq!(
            store.detach(id, &Bytes::from_static(b"another"), Patience::Default).await?,
            Vec::<std::ops::Range<u64>>::new()
        );
        let before = self.now().clone();
        let bytes = before.blobs[&id].to_vec();
        let mut after = bytes.clone();
        for range in store.test_not_dirty(id).await? {
            after[range.start as usize..range.end as usize].fill(0);
        }
        self.detaching.push(Detaching { before: before.clone(), id, after, is_open: true });
        let detached = store.detach(id, &source, Patience::Default).await;
        if let Ok(lost) = &detached {
            let detaching = self.detaching.last_mut().unwrap();
            let mut after = bytes;
            for range in lost {
                let range = range.start as usize..range.end as usize;
                assert!(detaching.after[range.clone()].iter().all(|byte| *byte == 0), "dirty bytes {range:?} of {id} are lost");
                after[range].fill(0);
            }
            (detaching.after, detaching.is_open) = (after.clone(), false);
            let mut now = before;
            now.blobs.insert(id, Arc::new(after));
            self.states.push(now);
            DETACHED.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if matches!(detached, Err(BlobError::NoSpace | BlobError::Log(LogError::Flush(_)))) {
            // Some of it may be done.
            crate::base::disk::Disk::list(&self.world.disk).map_err(LogError::Disk)?;
            let now = self.observe(store).await;
            assert!(self.detaching.last().unwrap().may_be(&now), "{id} was not detached from its beginning on");
            self.states.push(now);
            return Ok(());
        }
        detached.map(drop)
    }

    async fn write(&mut self, store: &BlobStore) -> Result<(), BlobError> {
        let Some(id) = self.pick() else { return Ok(()) };
        let range = self.range();
        let data = bytes(self.random.u64(..), (range.end - range.start) as usize);
        let mut after = self.now().clone();
        let offset = if self.random.u8(..5) == 0 && after.blobs[&id].len() as u64 + data.len() as u64 <= LEN_MAX {
            after.blobs[&id].len() as u64
        } else {
            range.start
        };
        after.write(id, offset, &data);
        self.states.push(after);
        match store.write(id, offset, data, Patience::Default).await {
            Err(BlobError::NoSpace | BlobError::Log(LogError::Flush(_))) => {
                self.states.pop();
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn read(&mut self, store: &BlobStore) -> Result<(), BlobError> {
        let Some(id) = self.pick() else { return Ok(()) };
        let range = self.range();
        let got = store.read(id, range.clone()).await?.concat();
        let blob = &self.now().blobs[&id];
        let end = (range.end as usize).min(blob.len());
        assert_eq!(got, blob[(range.start as usize).min(end)..end], "bytes {range:?} of {id}");
        Ok(())
    }

    /// What a generation says is unchanged is what its source has.
    async fn check_changed(&self, generation: &Generation, bytes: &[u8]) -> Result<(), BlobError> {
        assert_eq!(generation.test_bytes().await?, bytes, "a generation changed");
        let old = self.world.remote.object(&generation.source);
        let changed = generation.changed().await?;
        for (index, byte) in bytes.iter().enumerate() {
            if !changed.iter().any(|range| range.contains(&(index as u64))) {
                assert_eq!(old.get(index), Some(byte), "byte {index} is not told as changed");
            }
        }
        Ok(())
    }

    /// What a store has.
    async fn observe(&self, store: &BlobStore) -> Model {
        let mut seen = Model::default();
        let ids: std::collections::BTreeSet<BlobId> = self.states.iter().flat_map(|state| state.blobs.keys().copied()).collect();
        for id in ids {
            match store.test_read(id).await {
                Ok(bytes) => {
                    seen.blobs.insert(id, Arc::new(bytes));
                }
                Err(BlobError::NotFound) => {}
                Err(error) => panic!("blob {id}: {error}"),
            }
        }
        for name in (0..4).map(|row| format!("row {row}")) {
            if let Some(Row::Value(row)) = store.meta().get(&Key::Value(name.clone())).await.unwrap() {
                seen.rows.insert(name, u64::from_le_bytes(row.value.try_into().unwrap()));
            }
        }
        seen
    }

    /// The store is at one of the states that it may be at.
    async fn check(&mut self, store: &BlobStore, what: &str) {
        if self.is_exact {
            self.synced();
        }
        let seen = self.observe(store).await;
        if !self.states.contains(&seen) && !self.detaching.iter().any(|detaching| detaching.may_be(&seen)) {
            self.explain(&seen);
            panic!("{what}: the store is at none of the {} states that it may be at", self.states.len());
        }
        self.states = vec![seen];
        self.detaching.clear();
    }

    fn explain(&self, seen: &Model) {
        for (index, state) in self.states.iter().enumerate() {
            println!("state {index}: rows {:?} against {:?}", state.rows, seen.rows);
            for (id, expected) in &state.blobs {
                let Some(blob) = seen.blobs.get(id) else {
                    println!("  blob {id} is not there");
                    continue;
                };
                let differs = expected.iter().zip(blob.iter()).position(|(a, b)| a != b);
                println!("  blob {id}: length {} seen {}, first difference {differs:?}", expected.len(), blob.len());
            }
        }
    }

    /// One life of the process: work, then its end.
    async fn live(&mut self, life: u64) {
        if self.random.u8(..4) == 0 {
            // The power goes again while the log is replayed.
            self.world.disk.stop_after(self.random.u64(1..12));
            let _ = self.world.try_open().await;
            self.power_loss();
        }
        if self.random.u8(..6) == 0 {
            // A flush fails at the start. Who does not start then does at the next try, at the size that it has.
            self.world.disk.fail_nth_sync(self.random.u64(1..5));
            if self.world.try_open().await.is_err() || self.random.bool() {
                self.world.disk = self.world.disk.process_death();
            }
        }
        let store = self.world.open().await;
        self.check(&store, "after the start").await;
        store.test_accounts().await;
        let mut held = Vec::new();
        if self.random.u8(..3) == 0 {
            self.world.disk.stop_after(self.random.u64(5..60));
        }
        if self.random.u8(..4) == 0 {
            self.world.disk.fail_nth_sync(self.random.u64(1..8));
        }
        let is_broken = self.random.u8(..if self.is_harsh { 2 } else { 12 }) == 0;
        if is_broken {
            self.world.disk.fail_every_sync(self.random.u64(1..4));
        }
        let mut alive = true;
        for _ in 0..self.random.usize(5..40) {
            // A flush that fails is told to who waits for it, and loses nothing while the process lives.
            if let Err(error) = self.step(&store, &mut held).await
                && !matches!(error, BlobError::Log(LogError::Flush(_)))
            {
                assert!(!matches!(error, BlobError::NotFound | BlobError::Damaged(_)), "life {life}: {error}");
                alive = false;
                break;
            }
        }
        if alive {
            store.test_accounts().await;
        }
        self.world.disk.fail_every_sync(0);
        drop(held);
        drop(store);
        // A task, or a fetch that is cached, may have met the end of the power without a step failing.
        alive &= crate::base::disk::Disk::list(&self.world.disk).is_ok();
        // What no flush would take, and is not in memory any more, is lost: only what was synced is there.
        if alive && !is_broken && self.random.u8(..5) == 0 {
            self.world.disk = self.world.disk.process_death();
            self.is_exact = true;
        } else {
            self.power_loss();
        }
    }

    fn power_loss(&mut self) {
        let seed = self.random.u64(..);
        self.world.power_loss(seed);
        self.is_exact = false;
    }
}

async fn run(seed: u64) {
    live_and_die(seed, 9 + seed % 8, false).await;
}

async fn live_and_die(seed: u64, segments: u64, is_harsh: bool) {
    let mut run = Run {
        random: fastrand::Rng::with_seed(seed),
        world: World::new(segments, seed),
        states: vec![Model::default()],
        is_exact: true,
        detaching: Vec::new(),
        detaches: seed % 2 == 1,
        is_harsh,
        row_next: 0,
    };
    for life in 0..LIVES {
        LIVED.fetch_add(1, Ordering::Relaxed);
        run.live(life).await;
    }
    let store = run.world.open().await;
    run.check(&store, "at the end").await;
}

/// Nine segments, and a disk that fails every second flush, until all segments are durable in part and the reserve is used up.
#[test]
fn a_log_whose_reserve_is_used_up_by_failing_flushes_starts_again() {
    seeds::world(25_688, run);
}

#[test]
fn power_losses_lose_nothing_that_was_synced() {
    seeds::worlds(QUICK / LIVES, FULL / LIVES, run);
    let (freed, lives) = (FREED.load(Ordering::Relaxed), LIVED.load(Ordering::Relaxed));
    let detached = DETACHED.load(Ordering::Relaxed);
    assert!(seeds::is_one() || detached > lives / 40, "blobs were detached: {detached}");
    assert!(seeds::is_one() || freed > lives / 20, "reclaim had its part: {freed} segments");
}

#[test]
fn a_small_log_on_a_disk_that_fails_flushes_again_and_again_always_starts() {
    seeds::worlds(60, FULL / LIVES, async |seed| live_and_die(seed, 9, true).await);
}

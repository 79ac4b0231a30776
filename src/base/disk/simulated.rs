//! A [`Disk`] in memory whose power fails: what was not flushed is dropped, torn and reordered, by seed.
//!
//! What lives here: [`SimulatedDisk`]. It is a handle: clones share the disk, and it outlives what is opened on it, so
//! "the process died" is dropping everything and opening again. [`SimulatedDisk::power_loss`] gives the disk that the
//! next process finds.
//!
//! It grants what [`crate::base::disk`] promises and nothing more:
//! - each [`SECTOR_BYTES`](super::SECTOR_BYTES) written since the file's last sync is old, new or torn (a mix of both, or garbage);
//! - after a failed sync the pages that it covered may read as old at once, and no later sync makes them durable unless
//!   they are written again;
//! - creating and removing files is durable, and the call in flight when the power went may or may not have happened.
//!
//! Cheap on purpose: a file (`simulated/content.rs`) is a table of shared pages, written copy-on-write, so that a crash copies tables only.

mod content;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile};
use content::Content;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Arc<World>,
}

struct World {
    state: Mutex<State>,
}

struct State {
    files: HashMap<String, Arc<Mutex<Content>>>,
    capacity_bytes: u64,
    used_bytes: u64,
    random: fastrand::Rng,
    faults: Faults,
    counts: Counts,
}

#[derive(Default)]
struct Faults {
    off: bool,
    stop_after: Option<u64>,
    fail_syncs: u64,
    fail_sync_after: Option<u64>,
    fail_every_sync: Option<u64>,
    fail_writes: u64,
    fail_write_after: Option<u64>,
}

/// How often the disk was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that change or flush something: what [`SimulatedDisk::stop_after`] counts.
    pub operations: u64,
    /// Of them writes.
    pub writes: u64,
    /// Of them syncs.
    pub syncs: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

enum Outcome {
    Done,
    Fail,
    PowerGone,
}

fn power_is_off() -> io::Error {
    io::Error::other("simulated: the power is off")
}

impl SimulatedDisk {
    /// An empty disk of `capacity_bytes`; `seed` decides what failed syncs lose.
    pub fn new(capacity_bytes: u64, seed: u64) -> Self {
        Self::with(HashMap::new(), capacity_bytes, 0, seed)
    }

    fn with(files: HashMap<String, Arc<Mutex<Content>>>, capacity_bytes: u64, used_bytes: u64, seed: u64) -> Self {
        let state = State {
            files,
            capacity_bytes,
            used_bytes,
            random: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            counts: Counts::default(),
        };
        Self { world: Arc::new(World { state: Mutex::new(state) }) }
    }

    /// The disk as it is found after a power loss now. This one is dead from then on: every call fails.
    pub fn power_loss(&self, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut state = self.world.state.lock();
        state.faults.off = true;
        let mut names: Vec<&String> = state.files.keys().collect();
        names.sort();
        let mut files = HashMap::new();
        for name in names {
            let content = state.files[name].lock().after_power_loss(&mut random);
            files.insert(name.clone(), Arc::new(Mutex::new(content)));
        }
        Self::with(files, state.capacity_bytes, state.used_bytes, random.u64(..))
    }

    /// The disk with everything that was written, flushed or not, for a process that died without a power loss; faults are taken away.
    /// The disk before is dead from then on, so that what is left of the dead process cannot write any more.
    pub fn process_death(&self) -> Self {
        let mut state = self.world.state.lock();
        state.faults.off = true;
        let files = state.files.iter().map(|(name, content)| (name.clone(), Arc::new(Mutex::new(content.lock().clone()))));
        let files = files.collect();
        let seed = state.random.u64(..);
        Self::with(files, state.capacity_bytes, state.used_bytes, seed)
    }

    /// Cuts the power at the `operations`-th changing call from now: it and every later call fails.
    pub fn stop_after(&self, operations: u64) {
        let mut state = self.world.state.lock();
        state.faults.stop_after = Some(state.counts.operations + operations);
    }

    /// Fails the next `count` syncs, and loses what they should have kept.
    pub fn fail_next_syncs(&self, count: u64) {
        self.world.state.lock().faults.fail_syncs = count;
    }

    /// Fails the `nth` sync from now (1: the next).
    pub fn fail_nth_sync(&self, nth: u64) {
        let mut state = self.world.state.lock();
        state.faults.fail_sync_after = Some(state.counts.syncs + nth);
    }

    /// Fails every `nth` sync; 0 ends it.
    pub fn fail_every_sync(&self, nth: u64) {
        self.world.state.lock().faults.fail_every_sync = (nth > 0).then_some(nth);
    }

    /// Fails the next `count` writes; each may have written anything of its range.
    pub fn fail_next_writes(&self, count: u64) {
        self.world.state.lock().faults.fail_writes = count;
    }

    /// Fails the `nth` write from now (1: the next).
    pub fn fail_nth_write(&self, nth: u64) {
        let mut state = self.world.state.lock();
        state.faults.fail_write_after = Some(state.counts.writes + nth);
    }

    /// Changes the capacity, in bytes.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.world.state.lock().capacity_bytes = capacity_bytes;
    }

    /// How often the disk was asked.
    pub fn counts(&self) -> Counts {
        self.world.state.lock().counts
    }

    /// Turns over bits of one byte, durably: damage.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let mut byte = [0];
        self.peek(name, offset, &mut byte);
        self.poke(name, offset, &[byte[0] ^ mask]);
    }

    /// Zeroes a file from `from_bytes` on, durably: damage.
    pub fn cut(&self, name: &str, from_bytes: u64) {
        let content = self.world.state.lock().files.get(name).cloned();
        if let Some(content) = content {
            let len_bytes = content.lock().len_bytes;
            self.poke(name, from_bytes, &vec![0; usize::try_from(len_bytes.saturating_sub(from_bytes)).unwrap_or(0)]);
        }
    }

    /// The sectors that the range touches cannot be read (EIO) until they are written over.
    pub fn fail_reads(&self, name: &str, range: Range<u64>) {
        let content = self.world.state.lock().files.get(name).cloned();
        if let Some(content) = content {
            let sector = super::SECTOR_BYTES as u64;
            content.lock().bad.extend(range.start / sector..range.end.div_ceil(sector));
        }
    }

    /// Writes durably, past all faults.
    pub fn poke(&self, name: &str, offset: u64, bytes: &[u8]) {
        let content = self.world.state.lock().files.get(name).cloned();
        if let Some(content) = content {
            let mut content = content.lock();
            let dirty = std::mem::take(&mut content.dirty);
            content.write(offset, bytes);
            content.dirty = dirty;
        }
    }

    /// Reads past all faults; what is not there stays as it is in `buf`.
    pub fn peek(&self, name: &str, offset: u64, buf: &mut [u8]) {
        let content = self.world.state.lock().files.get(name).cloned();
        if let Some(content) = content {
            let _ = content.lock().read(offset, buf);
        }
    }
}

impl State {
    /// Counts a changing call and says what becomes of it.
    fn operation(&mut self) -> Outcome {
        if self.faults.off {
            return Outcome::PowerGone;
        }
        self.counts.operations += 1;
        if self.faults.stop_after.is_some_and(|stop| self.counts.operations >= stop) {
            self.faults.off = true;
            return Outcome::PowerGone;
        }
        Outcome::Done
    }

    fn write_operation(&mut self, bytes: usize) -> Outcome {
        let was_on = !self.faults.off;
        self.counts.writes += 1;
        self.counts.written_bytes += bytes as u64;
        let failed = self.faults.fail_writes > 0 || self.faults.fail_write_after == Some(self.counts.writes);
        self.faults.fail_writes = self.faults.fail_writes.saturating_sub(1);
        match self.operation() {
            // The write that the power cut met: it is in the cache, and the power loss decides how much of it stays.
            Outcome::PowerGone if was_on => Outcome::PowerGone,
            Outcome::Done if failed => Outcome::Fail,
            outcome => outcome,
        }
    }

    fn sync_operation(&mut self) -> Outcome {
        self.counts.syncs += 1;
        let syncs = self.counts.syncs;
        let failed = self.faults.fail_syncs > 0
            || self.faults.fail_sync_after == Some(syncs)
            || self.faults.fail_every_sync.is_some_and(|nth| syncs.is_multiple_of(nth));
        self.faults.fail_syncs = self.faults.fail_syncs.saturating_sub(1);
        match self.operation() {
            Outcome::Done if failed => Outcome::Fail,
            outcome => outcome,
        }
    }
}

impl Disk for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.world.state.lock();
        if state.faults.off {
            return Err(power_is_off());
        }
        Ok(state.files.iter().map(|(name, content)| (name.clone(), content.lock().len_bytes)).collect())
    }

    fn create(&self, name: &str, len_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.world.state.lock();
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let was_on = !state.faults.off;
        let outcome = state.operation();
        if state.used_bytes.saturating_add(len_bytes) > state.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let happens = matches!(outcome, Outcome::Done) || (was_on && state.random.bool());
        let content = Arc::new(Mutex::new(Content::new(len_bytes)));
        if happens {
            state.used_bytes += len_bytes;
            state.files.insert(name.to_owned(), content.clone());
        }
        match outcome {
            Outcome::Done => Ok(Arc::new(OpenFile { content, world: self.world.clone() })),
            _ => Err(power_is_off()),
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.world.state.lock();
        if state.faults.off {
            return Err(power_is_off());
        }
        let content = state.files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(OpenFile { content, world: self.world.clone() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.world.state.lock();
        let len_bytes = state.files.get(name).ok_or(io::ErrorKind::NotFound)?.lock().len_bytes;
        let was_on = !state.faults.off;
        let outcome = state.operation();
        if matches!(outcome, Outcome::Done) || (was_on && state.random.bool()) {
            state.files.remove(name);
            state.used_bytes -= len_bytes;
        }
        match outcome {
            Outcome::Done => Ok(()),
            _ => Err(power_is_off()),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.world.state.lock();
        Ok(state.capacity_bytes.saturating_sub(state.used_bytes))
    }

    fn blocks(&self) -> bool {
        false
    }
}

struct OpenFile {
    content: Arc<Mutex<Content>>,
    world: Arc<World>,
}

impl DiskFile for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.world.state.lock().faults.off {
            return Err(power_is_off());
        }
        self.content.lock().read(offset, buf)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut state = self.world.state.lock();
        let was_on = !state.faults.off;
        let outcome = state.write_operation(bytes);
        let keep_bytes = match outcome {
            Outcome::Done => bytes,
            Outcome::Fail => state.random.usize(..=bytes),
            Outcome::PowerGone if was_on => bytes,
            Outcome::PowerGone => 0,
        };
        drop(state);
        let mut content = self.content.lock();
        if offset + bytes as u64 > content.len_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "simulated: a write past the end"));
        }
        let mut at = 0;
        for part in parts {
            let part = &part[..part.len().min(keep_bytes - at)];
            content.write(offset + at as u64, part);
            at += part.len();
        }
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Fail => Err(io::Error::other("simulated: a write failed")),
            Outcome::PowerGone => Err(power_is_off()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.world.state.lock();
        let outcome = state.sync_operation();
        let mut content = self.content.lock();
        match outcome {
            Outcome::Done => {
                content.sync();
                Ok(())
            }
            Outcome::Fail => {
                content.fail_sync(&mut state.random);
                Err(io::Error::other("simulated: a sync failed"))
            }
            Outcome::PowerGone => Err(power_is_off()),
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.content.lock().len_bytes)
    }
}

#[cfg(test)]
mod tests;

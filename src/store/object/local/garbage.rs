//! Files that nothing names any more, until nobody reads them any more.
//!
//! A reader notes the epoch in which it began ([`Garbage::read`]); each release begins a new one. A file may go when every
//! reader that is left began after its release.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The most files that wait in memory; the index knows the others, and they go later.
const WAITING_MAX: usize = 65_536;

#[derive(Default)]
struct State {
    epoch: u64,
    readers: BTreeMap<u64, usize>,
    waiting: VecDeque<(u64, u64)>,
    overflowed: bool,
}

/// The files that wait for their readers.
#[derive(Default)]
pub struct Garbage {
    state: Mutex<State>,
    wake: Notify,
}

/// A read under way: files that were named when it began stay until it is dropped.
pub struct Reading {
    garbage: Arc<Garbage>,
    epoch: u64,
}

impl Garbage {
    /// Begins a read. Ask the index only afterwards.
    pub fn read(self: &Arc<Self>) -> Reading {
        let mut state = self.state.lock();
        let epoch = state.epoch;
        *state.readers.entry(epoch).or_default() += 1;
        Reading { garbage: self.clone(), epoch }
    }

    /// Takes files that a committed change released.
    pub fn release(&self, files: Vec<u64>) {
        if files.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        state.epoch += 1;
        let (epoch, room) = (state.epoch, WAITING_MAX.saturating_sub(state.waiting.len()));
        state.overflowed |= files.len() > room;
        state.waiting.extend(files.into_iter().take(room).map(|file| (epoch, file)));
        drop(state);
        self.wake.notify_one();
    }

    /// Files that may go now, at most `limit`.
    pub fn take(&self, limit: usize) -> Vec<u64> {
        let mut state = self.state.lock();
        let oldest = state.readers.keys().next().copied().unwrap_or(u64::MAX);
        let ready = state.waiting.iter().take(limit).take_while(|(epoch, _)| *epoch <= oldest).count();
        state.waiting.drain(..ready).map(|(_, file)| file).collect()
    }

    /// Whether files were left to the index, and nobody reads any: true once.
    pub fn take_overflow(&self) -> bool {
        let mut state = self.state.lock();
        let sweep = state.overflowed && state.waiting.is_empty() && state.readers.is_empty();
        state.overflowed &= !sweep;
        sweep
    }

    /// Waits until there may be something to take.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.garbage.state.lock();
        if let Some(count) = state.readers.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.epoch);
            }
        }
        let waiting = !state.waiting.is_empty() || state.overflowed;
        drop(state);
        if waiting {
            self.garbage.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_waits_for_the_readers_that_may_know_it() {
        let garbage = Arc::new(Garbage::default());
        let early = garbage.read();
        garbage.release(vec![1]);
        let late = garbage.read();
        garbage.release(vec![2]);
        assert!(garbage.take(10).is_empty());
        drop(early);
        assert_eq!(garbage.take(10), [1]);
        drop(late);
        assert_eq!(garbage.take(10), [2]);
    }

    #[test]
    fn memory_is_bounded_and_the_rest_is_swept_once_nobody_reads() {
        let garbage = Arc::new(Garbage::default());
        let reading = garbage.read();
        garbage.release((0..WAITING_MAX as u64 + 5).collect());
        assert!(!garbage.take_overflow());
        drop(reading);
        assert_eq!(garbage.take(usize::MAX).len(), WAITING_MAX);
        assert!(garbage.take_overflow());
        assert!(!garbage.take_overflow());
    }
}

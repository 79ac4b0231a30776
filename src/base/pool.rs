//! Memory that owners share, so that no owner, and no number of them, takes all of it.
//!
//! What lives here: [`Pool`]. An owner may take bytes as long as it then holds no more than it leaves free. Alone it has half; where
//! `n` of them hang, each has about one part of `n + 1`, and as much is free for the next.
//!
//! Invariants:
//! - Who holds nothing gets what it asks for at once, up to twice the capacity in all: however many others hang, it goes on.
//! - Never more than twice the capacity, and not more than the capacity but by those who held nothing.
//! - Within an owner, first come, first served.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::id::OwnerId;

/// See the module.
pub struct Pool {
    capacity_bytes: u64,
    state: Mutex<State>,
    /// Counts what was given back.
    freed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    used_bytes: u64,
    owners: HashMap<OwnerId, Lane>,
}

/// One owner's.
#[derive(Default)]
struct Lane {
    held_bytes: u64,
    /// Who is next.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Bytes of a pool; dropping it gives them back.
pub struct Taken {
    pool: Arc<Pool>,
    owner: OwnerId,
    bytes: u64,
}

impl Pool {
    /// An empty pool of `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Arc<Self> {
        Arc::new(Self { capacity_bytes: capacity_bytes.max(2), state: Mutex::default(), freed: watch::Sender::new(0) })
    }

    /// Waits for `bytes`. One that wants more than half of the pool is given half.
    pub async fn take(self: &Arc<Self>, owner: OwnerId, bytes: u64) -> Taken {
        let bytes = bytes.clamp(1, self.capacity_bytes / 2);
        let turn = self.state.lock().owners.entry(owner).or_default().turn.clone();
        let _turn = turn.lock().await;
        let mut freed = self.freed.subscribe();
        while !self.try_take(owner, bytes) {
            // The sender lives as long as the pool.
            let _ = freed.changed().await;
        }
        Taken { pool: self.clone(), owner, bytes }
    }

    fn try_take(&self, owner: OwnerId, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let used = state.used_bytes + bytes;
        let lane = state.owners.entry(owner).or_default();
        let fits = match lane.held_bytes {
            0 => used <= 2 * self.capacity_bytes,
            held => held + bytes <= self.capacity_bytes.saturating_sub(used),
        };
        if fits {
            lane.held_bytes += bytes;
            state.used_bytes = used;
        }
        fits
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.used_bytes -= self.bytes;
        if let Some(lane) = state.owners.get_mut(&self.owner) {
            lane.held_bytes -= self.bytes;
        }
        drop(state);
        self.pool.freed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Takes until it has to wait.
    async fn take_all(pool: &Arc<Pool>, owner: u32, bytes: u64) -> Vec<Taken> {
        let mut all = Vec::new();
        while let Ok(taken) = tokio::time::timeout(Duration::from_secs(1), pool.take(OwnerId(owner), bytes)).await {
            all.push(taken);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_hang_there_is_some_for_the_next() {
        let pool = Pool::new(1000);
        let mut hanging = Vec::new();
        let mut held = Vec::new();
        for owner in 1..=9 {
            let taken = take_all(&pool, owner, 10).await;
            held.push(taken.len());
            hanging.push(taken);
        }
        assert_eq!(held[..3], [50, 25, 12]);
        assert!(held.iter().all(|count| *count > 0), "{held:?}");
        assert!(pool.state.lock().used_bytes <= 1000 + 60);
        assert!(!take_all(&pool, 10, 500).await.is_empty(), "who has nothing waits for nobody");
        drop(hanging);
        assert_eq!(take_all(&pool, 11, 10).await.len(), 50);
        assert_eq!(pool.state.lock().used_bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_it_is_bounded_and_goes_on_in_turn() {
        let pool = Pool::new(1000);
        let mut all = Vec::new();
        for owner in 0..100 {
            all.extend(take_all(&pool, owner, 1 << 40).await);
        }
        assert_eq!(pool.state.lock().used_bytes, 2000);
        let waiting = [(300, 1), (10, 2)].map(|(bytes, place)| {
            let pool = pool.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(place)).await;
                pool.take(OwnerId(0), bytes).await
            })
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        all.clear();
        let [large, small] = waiting;
        assert_eq!((large.await.unwrap().bytes, small.await.unwrap().bytes), (300, 10));
    }
}

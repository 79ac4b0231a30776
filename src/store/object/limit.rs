//! Bounds what is asked of an endpoint at a time: requests under way, and bytes per second up and down.
//!
//! Invariants:
//! - First come, first served, per limit; a request that is given up (dropped) gives its place up too.
//! - Every limit can be changed while requests run or wait: who waits takes the new one into account at once.
//! - A body is not paced inside: it is sent as fast as it goes when the bytes before it are paid for, and whoever comes next waits
//!   until it is paid for. Over a few bodies the rate is kept.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::ObjectError;
use super::layer::{Answer, Layer, Request};

#[cfg(test)]
mod tests;

/// What at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests under way.
    pub concurrency: usize,
    /// Bytes per second sent; `None` is no limit.
    pub upload_bytes_per_second: Option<u64>,
    /// Bytes per second fetched; `None` is no limit.
    pub download_bytes_per_second: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { concurrency: 64, upload_bytes_per_second: None, download_bytes_per_second: None }
    }
}

/// The layer. Shared by reference: whoever holds it may change it.
pub struct Limit {
    settings: Mutex<Settings>,
    slots: Slots,
    upload: Rate,
    download: Rate,
}

impl Limit {
    /// With these limits; a concurrency of 0 is taken for 1.
    pub fn new(settings: Settings) -> Self {
        Self {
            slots: Slots::new(settings.concurrency.max(1)),
            upload: Rate::new(settings.upload_bytes_per_second),
            download: Rate::new(settings.download_bytes_per_second),
            settings: Mutex::new(settings),
        }
    }

    /// From now on. Requests under way go on.
    pub fn change(&self, settings: Settings) {
        self.slots.resize(settings.concurrency.max(1));
        self.upload.change(settings.upload_bytes_per_second);
        self.download.change(settings.download_bytes_per_second);
        *self.settings.lock() = settings;
    }

    /// As it is now.
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }
}

impl Layer for Limit {
    async fn around<T, C, F>(&self, request: Request<'_>, call: C) -> Result<T, ObjectError>
    where
        T: Answer,
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, ObjectError>> + Send,
    {
        // Bytes first: uploads that wait for bandwidth keep no slot from a read.
        self.upload.pay(request.up_bytes).await;
        let foreseen = request.down_bytes.unwrap_or(0);
        self.download.pay(foreseen).await;
        let _slot = self.slots.take().await;
        let answer = call().await;
        let fetched = answer.as_ref().map_or(0, Answer::down_bytes);
        self.download.settle(foreseen, fetched);
        answer
    }
}

/// A semaphore whose size can change.
struct Slots {
    semaphore: Semaphore,
    size: Mutex<Size>,
}

struct Size {
    now: usize,
    /// Permits that are still out and are to vanish when they come back.
    debt: usize,
}

struct Slot<'a> {
    slots: &'a Slots,
    permit: Option<SemaphorePermit<'a>>,
}

impl Slots {
    fn new(size: usize) -> Self {
        Self { semaphore: Semaphore::new(size), size: Mutex::new(Size { now: size, debt: 0 }) }
    }

    async fn take(&self) -> Slot<'_> {
        // The semaphore is never closed; were it, a request without a slot is better than none.
        Slot { slots: self, permit: self.semaphore.acquire().await.ok() }
    }

    fn resize(&self, to: usize) {
        let mut size = self.size.lock();
        if to < size.now {
            let fewer = size.now - to;
            size.debt += fewer - self.semaphore.forget_permits(fewer);
        } else {
            let more = to - size.now;
            let forgiven = more.min(size.debt);
            size.debt -= forgiven;
            self.semaphore.add_permits(more - forgiven);
        }
        size.now = to;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut size = self.slots.size.lock();
        if size.debt > 0
            && let Some(permit) = self.permit.take()
        {
            size.debt -= 1;
            permit.forget();
        }
    }
}

/// Bytes per second, as a debt: whoever finds none goes, and leaves the debt of its own bytes to be worn off.
struct Rate {
    state: Mutex<RateState>,
    /// Held by the one who waits for the debt; the others queue behind it.
    queue: tokio::sync::Mutex<()>,
    changed: Notify,
}

struct RateState {
    bytes_per_second: Option<u64>,
    /// When everything paid so far is worn off.
    free_at: Instant,
}

/// How soon a waiting body looks again, whatever it computed.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

impl Rate {
    fn new(bytes_per_second: Option<u64>) -> Self {
        let state = RateState { bytes_per_second, free_at: Instant::now() };
        Self { state: Mutex::new(state), queue: tokio::sync::Mutex::new(()), changed: Notify::new() }
    }

    fn change(&self, bytes_per_second: Option<u64>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let left = state.free_at.saturating_duration_since(now);
        let (old, new) = (state.bytes_per_second, bytes_per_second);
        let left = match (old, new) {
            (Some(old), Some(new)) => worth(left.as_secs_f64() * old as f64, new),
            _ => Duration::ZERO,
        };
        *state = RateState { bytes_per_second, free_at: now + left };
        drop(state);
        self.changed.notify_waiters();
    }

    async fn pay(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let _turn = self.queue.lock().await;
        loop {
            let changed = self.changed.notified();
            let Some(wait) = self.try_pay(bytes) else { return };
            // Time out: the debt is worn off. Changed: it is another one.
            let _ = timeout(wait.min(LOOK_AGAIN), changed).await;
        }
    }

    /// Pays where there is no debt, else says how long it lasts.
    fn try_pay(&self, bytes: u64) -> Option<Duration> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let rate = state.bytes_per_second?;
        if state.free_at > now {
            return Some(state.free_at - now);
        }
        state.free_at = now + worth(bytes as f64, rate);
        None
    }

    /// What was fetched is not what was foreseen: the difference is paid, or given back.
    fn settle(&self, foreseen: u64, fetched: u64) {
        let mut state = self.state.lock();
        let Some(rate) = state.bytes_per_second.filter(|_| foreseen != fetched) else { return };
        let now = Instant::now();
        let free_at = state.free_at.max(now);
        state.free_at = if fetched > foreseen {
            free_at + worth((fetched - foreseen) as f64, rate)
        } else {
            free_at.checked_sub(worth((foreseen - fetched) as f64, rate)).map_or(now, |sooner| sooner.max(now))
        };
        drop(state);
        self.changed.notify_waiters();
    }
}

/// How long so many bytes take; at most some years, whatever the rate.
fn worth(bytes: f64, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64((bytes / bytes_per_second.max(1) as f64).min(1e8))
}

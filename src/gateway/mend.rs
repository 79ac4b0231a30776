//! Tries again what failed: a share that did not open, a mount that was refused or that somebody took away, the embedded endpoint, volumes.
//!
//! Invariants: each waits twice as long after each failure, up to [`WAIT_MAX`]; nothing else waits for it. Why it failed is in `status`
//! until it works.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::shares::{Running, unmount};
use super::{Gateway, notices::About};

/// How often it is looked what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The first wait, and how long it gets.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// See [`WAIT_FIRST`].
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long clearing a mount away may take that is none any more.
const UNMOUNT_WAIT: Duration = Duration::from_secs(5);

/// When something that fails is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    due: Instant,
    wait: Duration,
}

impl Backoff {
    /// Failed for the first time, now.
    pub fn new() -> Self {
        Self { due: Instant::now() + WAIT_FIRST, wait: WAIT_FIRST }
    }

    /// Failed again, now.
    pub fn again(&mut self) {
        self.wait = (self.wait * 2).min(WAIT_MAX);
        self.due = Instant::now() + self.wait;
    }

    /// As [`Self::again`].
    fn later(mut self) -> Self {
        self.again();
        self
    }

    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// How long until then.
    pub fn left(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// Mends until the gateway stops.
pub async fn run(gateway: Arc<Gateway>) {
    let (mut embedded, mut volumes) = (Backoff::new(), Backoff::new());
    loop {
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if gateway.is_embedded_missing() && embedded.is_due() {
            match gateway.open_embedded().await {
                Ok(_) => embedded = Backoff::new(),
                Err(_) => embedded.again(),
            }
        }
        if gateway.are_volumes_missing() && volumes.is_due() {
            gateway.open_volumes().await;
            volumes = if gateway.are_volumes_missing() { volumes.later() } else { Backoff::new() };
        }
        gateway.mend_shares().await;
    }
}

impl Gateway {
    async fn mend_shares(self: &Arc<Self>) {
        let _guard = self.reloading.lock().await;
        if self.stop.is_cancelled() {
            return;
        }
        let due: Vec<String> = {
            let mut shares = self.shares.lock();
            let failed = shares.iter_mut().filter(|(_, running)| running.is_failed());
            failed.filter_map(|(name, running)| running.retry.get_or_insert_default().is_due().then(|| name.clone())).collect()
        };
        for name in due {
            self.mend_share(&name).await;
        }
    }

    /// Opens and mounts, where that is what a share lacks. It stays in `status` meanwhile.
    async fn mend_share(self: &Arc<Self>, name: &str) {
        let (config, share, dead) = {
            let mut shares = self.shares.lock();
            let Some(running) = shares.get_mut(name) else { return };
            (running.config.clone(), running.share.clone(), running.mount.take())
        };
        // Before the new one, which is at the same place.
        let _ = tokio::time::timeout(UNMOUNT_WAIT, unmount(dead)).await;
        let mut tried = Running::new(config);
        match share {
            Some(share) => tried.share = Some(share),
            None => match self.open_share(name, &tried.config).await {
                Ok(share) => tried.share = Some(share),
                Err(reason) => tried.reason = reason,
            },
        }
        self.mount(name, &mut tried).await;
        self.offer(name, &tried.config, tried.share.as_ref()).await;
        let mut shares = self.shares.lock();
        let Some(running) = shares.get_mut(name) else { return };
        if tried.reason.is_empty() {
            tracing::info!(share = name, "runs again");
        } else {
            if tried.reason != running.reason {
                tracing::error!(share = name, reason = tried.reason, "share");
            }
            tried.retry = running.retry;
            tried.retry.get_or_insert_default().again();
        }
        *running = tried;
    }

    /// Whether the gateway's own endpoint is wanted and could not be opened.
    fn is_embedded_missing(&self) -> bool {
        self.embedded.get().is_none() && self.notices.has(&About::Embedded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_up_to_a_minute() {
        let mut backoff = Backoff::new();
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(!backoff.is_due());
            waits.push(backoff.left().as_secs());
            tokio::time::sleep(backoff.left()).await;
            assert!(backoff.is_due());
            backoff.again();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}

//! Waiting until whoever listens has done with what was told: a change through one front end is answered when the caches of the others do not
//! contradict it any more (the kernel's, below FUSE).
//!
//! A [`Mark`] goes the way of all events, so what was told before it is done with when the last listener lets go of it.
//!
//! Invariants: nobody waits longer than [`WAIT_MAX`]; where a listener is stuck (the kernel may hold it up until a request that waits for room in
//! the cache is answered), one call waits so long and those after it do not wait at all until it goes on.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};

use crate::engine::file::{Changed, Event, Origin};

use super::share::Share;

/// How long a call waits for listeners.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Nothing that changed: a place in the order of what was told. Whoever listens drops it like any event.
#[derive(Clone, Debug)]
pub struct Mark(mpsc::Sender<Infallible>);

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for Mark {}

/// Whether a listener is stuck.
#[derive(Debug, Default)]
pub(super) struct Telling {
    is_stuck: AtomicBool,
}

impl Share {
    pub(super) async fn wait_until_told(&self) {
        if self.changes.receiver_count() == 0 || self.telling.is_stuck.load(Ordering::Relaxed) {
            return;
        }
        let mut let_go = mark(&self.changes);
        if tokio::time::timeout(WAIT_MAX, let_go.recv()).await.is_ok() {
            return;
        }
        if self.telling.is_stuck.swap(true, Ordering::Relaxed) {
            return;
        }
        let share = self.this.clone();
        tokio::spawn(async move {
            let_go.recv().await;
            if let Some(share) = share.upgrade() {
                share.telling.is_stuck.store(false, Ordering::Relaxed);
            }
        });
    }
}

/// Tells a mark; what comes back ends when everybody let go of it.
fn mark(changes: &broadcast::Sender<Event>) -> mpsc::Receiver<Infallible> {
    let (mark, let_go) = mpsc::channel(1);
    let _ = changes.send(Event { origin: Origin::default(), what: Changed::Mark(Mark(mark)) });
    let_go
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::engine::file::Vfs;
    use crate::engine::file::tests::{World, root};

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_listeners_and_not_for_one_that_is_stuck() {
        let world = World::new().await;
        let begin = Instant::now();
        world.share.told().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "nobody listens");
        let mut slow = world.share.changes();
        let (go_on, mut may) = mpsc::channel::<()>(1);
        let listening = tokio::spawn(async move {
            let mut told = Vec::new();
            while let Ok(event) = slow.recv().await {
                if let Changed::Entry { name, .. } = &event.what {
                    // Takes its time with each.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    told.push(name.clone());
                    if name == b"stuck" {
                        may.recv().await;
                    }
                    if name == b"end" {
                        return told;
                    }
                }
            }
            told
        });
        let begin = Instant::now();
        world.mkdir(&root(), "a", 0o755).await.unwrap();
        world.mkdir(&root(), "b", 0o755).await.unwrap();
        world.share.told().await;
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_millis(600) && waited < WAIT_MAX, "{waited:?}");
        world.mkdir(&root(), "stuck", 0o755).await.unwrap();
        let begin = Instant::now();
        world.share.told().await;
        assert_eq!(begin.elapsed().as_millis(), WAIT_MAX.as_millis());
        world.share.told().await;
        assert_eq!(begin.elapsed().as_millis(), WAIT_MAX.as_millis(), "once is enough");
        go_on.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begin = Instant::now();
        world.mkdir(&root(), "end", 0o755).await.unwrap();
        world.share.told().await;
        assert!(begin.elapsed() >= Duration::from_millis(300), "it goes on, so it is waited for again");
        assert_eq!(listening.await.unwrap(), [&b"a"[..], b"b", b"stuck", b"end"]);
    }
}

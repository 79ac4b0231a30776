//! What changed, for front ends that keep something of a share: caches to drop, watchers to tell.
//!
//! What lives here: [`Hub`], to which a share tells every change, [`Changes`], one listener's end of it, and generations, by which who keeps
//! something sees whether it is still true, without listening.
//!
//! Invariants:
//! - Telling waits for nobody, and nothing told is lost. What a listener has not taken yet is merged, one item per node and one per name in
//!   a directory, in the order of their first change; more than [`PENDING_MAX`] of them become [`Changed::Everything`].
//! - A listener that takes again is through with what it took before: [`Hub::told`] waits for that.
//! - The generation of some nodes is another one as soon as a change of one of them was told; it may be another one without. Telling comes after
//!   the change and before its answer.
//! - [`Hub::told`] waits for [`TOLD_MAX`] at most, and once per stall: nobody waits for a listener that has kept somebody waiting for so
//!   long, until it takes again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::{Changed, Origin};
use crate::base::id::NodeId;

/// Nodes and names that a listener may be behind before it has to forget what it knows.
pub const PENDING_MAX: usize = 16_384;

/// The longest that the answer to one front end waits for the caches of another.
const TOLD_MAX: Duration = Duration::from_secs(1);

/// Counters that the nodes of a share have together; a power of two.
const COUNTERS: usize = 1 << 14;

/// Where a share tells its changes.
#[derive(Debug)]
pub struct Hub {
    queues: RwLock<Vec<Weak<Queue>>>,
    /// How often the nodes of each counter changed.
    counters: Box<[AtomicU64]>,
    /// How often anything changed. Begins anywhere, so that no generation of an earlier hub comes again.
    all: AtomicU64,
    /// How often nobody knows what changed; begins as `all` does.
    everything: AtomicU64,
}

impl Default for Hub {
    fn default() -> Self {
        let begin = fastrand::u64(..);
        Self {
            queues: RwLock::default(),
            counters: std::iter::repeat_with(AtomicU64::default).take(COUNTERS).collect(),
            all: begin.into(),
            everything: begin.into(),
        }
    }
}

/// What changed since it was made. Dropping it ends the listening.
#[derive(Debug)]
pub struct Changes {
    queue: Arc<Queue>,
    /// As `State::pushed`, when it last took.
    taken: u64,
}

#[derive(Debug)]
struct Queue {
    /// Whose changes are not told here; others wait for it.
    except: Option<Origin>,
    state: Mutex<State>,
    ready: Notify,
    /// How many changes the listener is through with.
    done: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    list: Vec<Changed>,
    at: HashMap<Key, usize>,
    /// Changes told so far.
    pushed: u64,
    is_late: bool,
    is_over: bool,
}

/// What is merged.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Node(NodeId),
    Name(NodeId, Vec<u8>),
}

impl Hub {
    /// From now on, every change but those by `except`.
    pub fn listen(&self, except: Option<Origin>) -> Changes {
        let queue = Arc::new(Queue { except, state: Mutex::default(), ready: Notify::new(), done: watch::Sender::new(0) });
        let mut queues = self.queues.write();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&queue));
        Changes { queue, taken: 0 }
    }

    /// Tells everybody but who made the change. Nobody listening is fine.
    pub fn tell(&self, origin: Origin, what: Changed) {
        match &what {
            Changed::Attr(node) | Changed::Data(node, _) => self.count(&[*node]),
            Changed::Entry { parent, before, after, .. } => self.count(&[*parent, *before, *after]),
            Changed::Everything => {
                self.everything.fetch_add(1, Ordering::SeqCst);
                self.count(&[]);
            }
        }
        for queue in self.queues.read().iter().filter_map(Weak::upgrade).filter(|queue| queue.except != Some(origin)) {
            queue.push(what.clone());
        }
    }

    /// Gives nodes another generation.
    pub fn count(&self, nodes: &[NodeId]) {
        for node in nodes {
            self.counter(*node).fetch_add(1, Ordering::SeqCst);
        }
        self.all.fetch_add(1, Ordering::SeqCst);
    }

    /// The generation of nodes; of the whole share where none are named.
    pub fn generation(&self, nodes: Option<&[NodeId]>) -> u64 {
        let Some(nodes) = nodes else { return self.all.load(Ordering::SeqCst) };
        let counted = nodes.iter().map(|node| self.counter(*node).load(Ordering::SeqCst));
        counted.fold(self.everything.load(Ordering::SeqCst), u64::wrapping_add)
    }

    fn counter(&self, node: NodeId) -> &AtomicU64 {
        &self.counters[node.0 as usize % COUNTERS]
    }

    /// Waits until other front ends that keep caches are through with all that was told so far, within reason.
    pub async fn told(&self, origin: Origin) {
        let others = |queue: &Arc<Queue>| queue.except.is_some_and(|except| except != origin);
        let others: Vec<_> = self.queues.read().iter().filter_map(Weak::upgrade).filter(others).collect();
        let deadline = Instant::now() + TOLD_MAX;
        for queue in others {
            queue.wait(deadline).await;
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        for queue in self.queues.get_mut().iter().filter_map(Weak::upgrade) {
            queue.state.lock().is_over = true;
            queue.ready.notify_one();
        }
    }
}

impl Queue {
    fn push(&self, what: Changed) {
        self.state.lock().push(what);
        self.ready.notify_one();
    }

    async fn wait(&self, deadline: Instant) {
        let (pushed, is_late) = {
            let state = self.state.lock();
            (state.pushed, state.is_late)
        };
        let mut done = self.done.subscribe();
        if is_late || *done.borrow() >= pushed {
            return;
        }
        if timeout_at(deadline, done.wait_for(|done| *done >= pushed)).await.is_err() {
            self.state.lock().is_late = true;
            tracing::warn!(front_end = ?self.except, "a front end takes long to hear of changes: its clients may see old ones for a moment");
        }
    }
}

impl State {
    fn push(&mut self, what: Changed) {
        self.pushed += 1;
        self.add(what);
    }

    fn add(&mut self, what: Changed) {
        if matches!(self.list.first(), Some(Changed::Everything)) {
            return;
        }
        let known = Key::of(&what).map(|key| (self.at.get(&key).copied(), key));
        match known {
            Some((Some(at), _)) => {
                if let Some(between) = merge(&mut self.list[at], what) {
                    self.add(Changed::Attr(between));
                }
            }
            Some((None, key)) if self.list.len() < PENDING_MAX => {
                self.at.insert(key, self.list.len());
                self.list.push(what);
            }
            _ => {
                self.list = vec![Changed::Everything];
                self.at = HashMap::new();
            }
        }
    }
}

impl Key {
    /// None of everything.
    fn of(what: &Changed) -> Option<Self> {
        match what {
            Changed::Attr(node) | Changed::Data(node, _) => Some(Self::Node(*node)),
            Changed::Entry { parent, name, .. } => Some(Self::Name(*parent, name.clone())),
            Changed::Everything => None,
        }
    }
}

/// Makes one item of two about the same thing. Returns a node that the name had in between, which has lost it.
fn merge(item: &mut Changed, later: Changed) -> Option<NodeId> {
    match (item, later) {
        (Changed::Data(_, range), Changed::Data(_, more)) => *range = hull(range, &more),
        (item @ Changed::Attr(_), data @ Changed::Data(..)) => *item = data,
        (Changed::Entry { before: first, after, .. }, Changed::Entry { before, after: last, .. }) => {
            *after = last;
            return Some(before).filter(|between| between.0 != 0 && between != first);
        }
        _ => {}
    }
    None
}

fn hull(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    one.start.min(other.start)..one.end.max(other.end)
}

impl Changes {
    /// What changed since the last call, at least one thing; waits for it. `None` once the share is gone. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Vec<Changed>> {
        self.queue.state.lock().is_late = false;
        self.queue.done.send_replace(self.taken);
        loop {
            if let Some(list) = self.take() {
                return Some(list).filter(|list| !list.is_empty());
            }
            self.queue.ready.notified().await;
        }
    }

    /// As [`Self::next`], without waiting; `None` where nothing is new. An empty list is the end.
    fn take(&mut self) -> Option<Vec<Changed>> {
        let mut state = self.queue.state.lock();
        if state.list.is_empty() && !state.is_over {
            return None;
        }
        state.at.clear();
        self.taken = state.pushed;
        Some(std::mem::take(&mut state.list))
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.queue.done.send_replace(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Origin = Origin(1);
    const OTHER: Origin = Origin(2);

    fn entry(name: &[u8], before: u64, after: u64) -> Changed {
        Changed::Entry { parent: NodeId(9), name: name.to_vec(), before: NodeId(before), after: NodeId(after) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_is_merged_and_ours_is_not_told() {
        let hub = Hub::default();
        let (mut some, mut all) = (hub.listen(Some(OURS)), hub.listen(None));
        hub.tell(OTHER, Changed::Attr(NodeId(3)));
        hub.tell(OTHER, Changed::Data(NodeId(3), 10..20));
        hub.tell(OTHER, entry(b"n", 0, 3));
        hub.tell(OTHER, Changed::Data(NodeId(3), 50..60));
        hub.tell(OTHER, entry(b"n", 3, 4));
        hub.tell(OTHER, entry(b"n", 4, 0));
        hub.tell(OTHER, Changed::Attr(NodeId(3)));
        hub.tell(OURS, Changed::Attr(NodeId(5)));
        let told = vec![Changed::Data(NodeId(3), 10..60), entry(b"n", 0, 0), Changed::Attr(NodeId(4))];
        assert_eq!(some.next().await, Some(told.clone()));
        assert_eq!(all.next().await, Some([told, vec![Changed::Attr(NodeId(5))]].concat()));
        drop(hub);
        assert_eq!(some.next().await, None);
    }

    #[test]
    fn a_generation_is_of_its_nodes() {
        let hub = Hub::default();
        let generations = |hub: &Hub| [Some(&[NodeId(1), NodeId(2)][..]), Some(&[NodeId(9)]), None].map(|of| hub.generation(of));
        let differs = |before: [u64; 3], after: [u64; 3]| [0, 1, 2].map(|at| before[at] != after[at]);
        let mut before = generations(&hub);
        for (what, expected) in [
            (Changed::Attr(NodeId(2)), [true, false, true]),
            (Changed::Data(NodeId(3), 0..1), [false, false, true]),
            (entry(b"n", 0, 2), [true, true, true]),
            (entry(b"n", 2, 0), [true, true, true]),
            (Changed::Everything, [true, true, true]),
        ] {
            hub.tell(OURS, what);
            let after = generations(&hub);
            assert_eq!(differs(before, after), expected);
            before = after;
        }
        assert_ne!(generations(&Hub::default()), generations(&Hub::default()), "a share that is made anew");
    }

    #[tokio::test(start_paused = true)]
    async fn who_lags_forgets_everything_and_then_hears_again() {
        let hub = Hub::default();
        let mut changes = hub.listen(Some(OURS));
        for node in 0..2 * PENDING_MAX as u64 {
            hub.tell(OTHER, Changed::Attr(NodeId(node)));
        }
        assert_eq!(changes.next().await, Some(vec![Changed::Everything]));
        for _ in 0..2 * PENDING_MAX {
            hub.tell(OTHER, Changed::Data(NodeId(7), 0..1));
        }
        assert_eq!(changes.next().await, Some(vec![Changed::Data(NodeId(7), 0..1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_until_others_are_through_with_it() {
        let hub = Arc::new(Hub::default());
        let mut changes = hub.listen(Some(OURS));
        let began = Instant::now();
        hub.told(OTHER).await;
        hub.tell(OTHER, Changed::Attr(NodeId(1)));
        // Who listens waits for nobody; neither does anybody for a listener without a cache.
        let _watcher = hub.listen(None);
        hub.told(OURS).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let listener = tokio::spawn(async move {
            assert!(changes.next().await.is_some());
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = changes.next().await;
        });
        hub.told(OTHER).await;
        assert_eq!(began.elapsed(), Duration::from_millis(300));
        listener.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_costs_one_second_once_and_an_end_none() {
        let hub = Hub::default();
        let mut changes = hub.listen(Some(OURS));
        let began = Instant::now();
        for node in 0..10 {
            hub.tell(OTHER, Changed::Attr(NodeId(node)));
            hub.told(OTHER).await;
        }
        assert_eq!(began.elapsed(), TOLD_MAX);
        // It goes on: it is waited for again.
        assert_eq!(changes.next().await.map(|told| told.len()), Some(10));
        hub.tell(OTHER, Changed::Attr(NodeId(1)));
        hub.told(OTHER).await;
        assert_eq!(began.elapsed(), TOLD_MAX * 2);
        drop(changes);
        hub.told(OTHER).await;
        assert_eq!(began.elapsed(), TOLD_MAX * 2);
    }
}

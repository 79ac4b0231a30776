//! Readers against stage and apply, on threads.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::*;
use crate::store::meta::order::{Place as Spot, Range};
use crate::store::meta::tally::Tallies;

/// A database that holds a read, after it has read, and an apply, after it has committed, until it is told to go on.
struct Held {
    database: Arc<MemoryDatabase>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    has_read: Notify,
    read_on: Notify,
    has_committed: Notify,
    commit_on: Notify,
}

impl Gate {
    async fn read<T>(&self, read: T) -> T {
        self.has_read.notify_one();
        self.read_on.notified().await;
        read
    }
}

#[async_trait]
impl Backend for Held {
    async fn apply(&self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> Result<Tallies, MetaError> {
        let applied = self.database.apply(changes, checkpoint, durable).await;
        self.gate.has_committed.notify_one();
        self.gate.commit_on.notified().await;
        applied
    }

    async fn get(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        self.gate.read(self.database.get(key).await).await
    }

    async fn range(&self, range: &Range, from: &Spot, limit: usize) -> Result<Vec<Arc<Row>>, MetaError> {
        self.gate.read(self.database.range(range, from, limit).await).await
    }

    async fn blob(&self, blob: BlobId) -> Result<Option<BlobRow>, MetaError> {
        self.database.blob(blob).await
    }

    async fn page(&self, blob: BlobId, page: u64) -> Result<Option<Vec<u8>>, MetaError> {
        self.database.page(blob, page).await
    }

    async fn blobs(&self, after: BlobId, limit: usize, only_dirty: bool) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        self.database.blobs(after, limit, only_dirty).await
    }

    fn below_floor(&self) -> Option<u64> {
        None
    }

    async fn check(&self) -> Result<(), MetaError> {
        Ok(())
    }

    async fn close(&self) {}
}

/// A gated database in which `a` is 1, that is the only entry of node 1, and nothing is cached.
async fn held() -> (Arc<Meta>, Arc<Gate>) {
    let (database, meta) = in_memory().await;
    meta.stage(Seq(1), vec![put(value("a", 1)), put(entry(1, "a", 1, 3))]);
    meta.apply(through(1), true).await.unwrap();
    let gate = Arc::new(Gate::default());
    let loaded = database.load();
    (Arc::new(Meta::new(Arc::new(Held { database, gate: gate.clone() }), loaded)), gate)
}

fn get(meta: &Arc<Meta>, name: &'static str) -> tokio::task::JoinHandle<Option<Row>> {
    let meta = meta.clone();
    tokio::spawn(async move { meta.get(&Key::Value(name.into())).await.unwrap() })
}

#[tokio::test]
async fn a_row_that_was_applied_while_it_was_read_is_not_cached_as_it_was() {
    for name in ["a", "b"] {
        let (meta, gate) = held().await;
        let reader = get(&meta, name);
        gate.has_read.notified().await;
        meta.stage(Seq(2), vec![put(value("a", 2)), put(value("b", 2))]);
        gate.commit_on.notify_one();
        meta.apply(through(2), false).await.unwrap();
        meta.cache.clear();
        gate.read_on.notify_one();
        gate.has_read.notified().await;
        gate.read_on.notify_one();
        assert_eq!(reader.await.unwrap(), Some(value(name, 2)));
        assert_eq!(meta.try_get(&Key::Value(name.into())), Some(Some(value(name, 2))));
    }
}

#[tokio::test]
async fn a_row_that_was_staged_while_it_was_read_is_as_staged() {
    let (meta, gate) = held().await;
    let reader = get(&meta, "a");
    gate.has_read.notified().await;
    meta.stage(Seq(2), vec![Change::Drop(Key::Value("a".into()))]);
    gate.read_on.notify_one();
    assert_eq!(reader.await.unwrap(), None);
    gate.commit_on.notify_one();
    meta.apply(through(2), false).await.unwrap();
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(None));
}

#[tokio::test]
async fn a_range_that_was_applied_while_it_was_read_is_of_one_moment() {
    let (meta, gate) = held().await;
    let reader = tokio::spawn({
        let meta = meta.clone();
        async move { meta.entries(NodeId(1), 0, 10).await.unwrap() }
    });
    gate.has_read.notified().await;
    meta.stage(Seq(2), vec![Change::Drop(Key::Entry(NodeId(1), b"a".to_vec())), put(entry(1, "b", 2, 4))]);
    gate.commit_on.notify_one();
    meta.apply(through(2), false).await.unwrap();
    gate.read_on.notify_one();
    gate.has_read.notified().await;
    gate.read_on.notify_one();
    assert_eq!(reader.await.unwrap().iter().map(|row| &row.name[..]).collect::<Vec<_>>(), [b"b"]);
}

/// Committed, and not yet dropped from the overlay; and then given up by its caller.
#[tokio::test]
async fn between_commit_and_drop_nothing_is_missing_and_an_apply_may_be_given_up_there() {
    let (meta, gate) = held().await;
    meta.stage(Seq(2), vec![put(value("a", 2))]);
    let applying = tokio::spawn({
        let meta = meta.clone();
        async move { meta.apply(through(2), false).await }
    });
    gate.has_committed.notified().await;
    let reader = get(&meta, "b");
    gate.has_read.notified().await;
    meta.stage(Seq(3), vec![put(value("b", 3))]);
    gate.read_on.notify_one();
    assert_eq!(reader.await.unwrap(), Some(value("b", 3)));
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(Some(value("a", 2))));
    applying.abort();
    assert!(applying.await.unwrap_err().is_cancelled());
    assert_eq!(meta.checkpoint().1, Seq(1), "as if it had not been");
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(Some(value("a", 2))));
    gate.commit_on.notify_one();
    meta.apply(through(3), false).await.unwrap();
    assert_eq!(meta.checkpoint().1, Seq(3));
    assert_eq!(meta.staged_bytes(), 0);
}

/// One writer sets two rows and two entries to the same number, over and over; applies run beside it. Every reader must
/// see numbers that never go back, never below what was staged before it asked, and whole batches in listings.
async fn readers_see_the_latest(meta: Meta) {
    const APPLIES: u64 = 300;
    let meta = Arc::new(meta);
    let staged = Arc::new(AtomicU64::new(0));
    let applies = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (meta, staged, applies) = (meta.clone(), staged.clone(), applies.clone());
        async move {
            for seq in 1..1_000_000 {
                if applies.load(Ordering::SeqCst) >= APPLIES {
                    break;
                }
                // Cookies grow with each round, so a listing that mixes two rounds misses a name or has one twice.
                let cookie = 3 + 2 * seq;
                let entries = [entry(1, "a", seq, cookie), entry(1, "b", seq, cookie + 1)].map(put);
                meta.stage(Seq(seq), [put(value("a", seq)), put(value("b", seq))].into_iter().chain(entries).collect());
                staged.store(seq, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    let applier = tokio::spawn({
        let (meta, staged, applies) = (meta.clone(), staged.clone(), applies.clone());
        async move {
            let mut last = 0;
            for count in 1..=APPLIES {
                while staged.load(Ordering::SeqCst) <= last {
                    tokio::task::yield_now().await;
                }
                let seq = staged.load(Ordering::SeqCst);
                last = seq;
                meta.apply(through(seq.saturating_sub(seq % 3)), false).await.unwrap();
                if count % 3 == 0 {
                    meta.cache.clear();
                }
                applies.store(count, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    let readers: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let (meta, staged, applies) = (meta.clone(), staged.clone(), applies.clone());
            tokio::spawn(async move {
                let mut last = 0;
                while applies.load(Ordering::SeqCst) < APPLIES {
                    let floor = staged.load(Ordering::SeqCst).max(last);
                    let Some(Row::Value(row)) = meta.get(&Key::Value(name.into())).await.unwrap() else {
                        assert_eq!(floor, 0, "it was there");
                        tokio::task::yield_now().await;
                        continue;
                    };
                    last = u64::from_le_bytes(row.value.try_into().unwrap());
                    assert!(last >= floor, "{last} after {floor}");
                    let listed = meta.entries(NodeId(1), 0, 10).await.unwrap();
                    assert_eq!(listed.iter().map(|row| &row.name[..]).collect::<Vec<_>>(), [b"a", b"b"]);
                    assert_eq!(listed[0].node, listed[1].node, "a batch half seen");
                    assert!(listed[0].node.0 >= floor);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    writer.await.unwrap();
    applier.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    let rounds = staged.load(Ordering::SeqCst);
    assert!(rounds >= APPLIES);
    meta.apply(through(rounds), false).await.unwrap();
    meta.cache.clear();
    assert_eq!(meta.get(&Key::Value("a".into())).await.unwrap(), Some(value("a", rounds)));
    assert_eq!(meta.staged_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_sqlite_see_the_latest() {
    let directory = tempfile::tempdir().unwrap();
    readers_see_the_latest(Meta::open(Place::File(directory.path().join("meta.db"))).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_memory_see_the_latest() {
    readers_see_the_latest(in_memory().await.1).await;
}

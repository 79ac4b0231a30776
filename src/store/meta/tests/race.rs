//! Readers against stage and apply, on threads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// One writer sets two rows and two entries to the same number, over and over; applies run beside it. Every reader must
/// see numbers that never go back, never below what was staged before it asked, and whole batches in listings.
async fn readers_see_the_latest(meta: Meta) {
    const ROUNDS: u64 = 3_000;
    let meta = Arc::new(meta);
    let staged = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (meta, staged) = (meta.clone(), staged.clone());
        async move {
            for seq in 1..=ROUNDS {
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
        let (meta, staged) = (meta.clone(), staged.clone());
        async move {
            while staged.load(Ordering::SeqCst) < ROUNDS {
                let seq = staged.load(Ordering::SeqCst);
                meta.apply(through(seq.saturating_sub(seq % 3)), false).await.unwrap();
                if seq % 5 == 0 {
                    meta.cache.clear();
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let readers: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let (meta, staged) = (meta.clone(), staged.clone());
            tokio::spawn(async move {
                let mut last = 0;
                while last < ROUNDS {
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
    meta.apply(through(ROUNDS), false).await.unwrap();
    meta.cache.clear();
    assert_eq!(meta.get(&Key::Value("a".into())).await.unwrap(), Some(value("a", ROUNDS)));
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

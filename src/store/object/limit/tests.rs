use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::store::object::fault::{Action, Faults, Rule};
use crate::store::object::layer::layered;
use crate::store::object::memory::MemoryStore;
use crate::store::object::{Attributes, Body, Precondition, SharedStore};

/// A bucket that takes a second for each request, behind a limit.
fn slow(settings: Settings) -> (SharedStore, Arc<Limit>) {
    let faults = Arc::new(Faults::new(1));
    faults.add(Rule::new(Action::Delay(Duration::from_secs(1)..Duration::from_secs(1))));
    let limit = Arc::new(Limit::new(settings));
    (layered(layered(Arc::new(MemoryStore::default()), faults), limit.clone()), limit)
}

async fn heads(store: &SharedStore, count: usize) -> Duration {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.head("k").await })
        })
        .collect();
    for task in tasks {
        let _ = task.await.expect("a task");
    }
    begun.elapsed()
}

async fn put(store: &SharedStore, len: usize) {
    let body = Body::from(Bytes::from(vec![0; len]));
    store.put("k", body, &Attributes::default(), &Precondition::None).await.expect("put");
}

#[tokio::test(start_paused = true)]
async fn so_many_at_a_time_and_changeable() {
    let (store, limit) = slow(Settings { concurrency: 4, ..Settings::default() });
    assert_eq!(heads(&store, 12).await.as_secs(), 3);
    limit.change(Settings { concurrency: 12, ..limit.settings() });
    assert_eq!(heads(&store, 12).await.as_secs(), 1);
    limit.change(Settings { concurrency: 2, ..limit.settings() });
    assert_eq!(heads(&store, 12).await.as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_limit_lowered_under_load_holds_when_the_load_is_done() {
    let (store, limit) = slow(Settings { concurrency: 8, ..Settings::default() });
    let load = {
        let store = store.clone();
        tokio::spawn(async move { heads(&store, 8).await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    limit.change(Settings { concurrency: 1, ..limit.settings() });
    limit.change(Settings { concurrency: 3, ..limit.settings() });
    assert_eq!(load.await.expect("load").as_secs(), 1);
    assert_eq!(heads(&store, 9).await.as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_gives_its_slot_up() {
    let (store, _) = slow(Settings { concurrency: 1, ..Settings::default() });
    for _ in 0..3 {
        let _ = timeout(Duration::from_millis(10), store.head("k")).await.expect_err("too slow");
    }
    assert_eq!(heads(&store, 1).await.as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn uploads_keep_the_rate_over_several_bodies() {
    let limit = Arc::new(Limit::new(Settings { upload_bytes_per_second: Some(1_000), ..Settings::default() }));
    let store = layered(Arc::new(MemoryStore::default()), limit.clone());
    let begun = Instant::now();
    for _ in 0..11 {
        put(&store, 500).await;
    }
    assert_eq!(begun.elapsed().as_millis() / 10, 500, "ten bodies are paid for, the last goes on credit");
    let begun = Instant::now();
    store.get("k", None, None).await.expect("downloads are not limited");
    assert!(begun.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn downloads_are_paid_whether_foreseen_or_not() {
    let limit = Arc::new(Limit::new(Settings { download_bytes_per_second: Some(1_000), ..Settings::default() }));
    let store = layered(Arc::new(MemoryStore::default()), limit);
    put(&store, 2_000).await;
    let begun = Instant::now();
    store.get("k", None, None).await.expect("unforeseen");
    store.get("k", Some(0..1_000), None).await.expect("waits for two seconds");
    assert_eq!(begun.elapsed().as_secs(), 2);
    // Asks for a gigabyte and gets 500 bytes: only those are paid.
    store.get("k", Some(1_500..1_000_000_000), None).await.expect("waits for one more second");
    store.get("k", Some(0..1), None).await.expect("waits for half a second");
    assert_eq!(begun.elapsed().as_millis() / 100, 35);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_bandwidth_learns_of_a_change() {
    let limit = Arc::new(Limit::new(Settings { upload_bytes_per_second: Some(1), ..Settings::default() }));
    let store = layered(Arc::new(MemoryStore::default()), limit.clone());
    put(&store, 1_000_000).await;
    let begun = Instant::now();
    let waits = {
        let store = store.clone();
        tokio::spawn(async move { put(&store, 1).await })
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waits.is_finished());
    limit.change(Settings { upload_bytes_per_second: Some(100_000), ..limit.settings() });
    waits.await.expect("waits");
    let waited = begun.elapsed();
    assert_eq!((waited.as_millis() + 5) / 1_000, 15, "what is left of the debt is worn off at the new rate: {waited:?}");
    limit.change(Settings { upload_bytes_per_second: None, ..limit.settings() });
    put(&store, 1_000_000).await;
    put(&store, 1_000_000).await;
    assert_eq!(begun.elapsed(), waited);
}

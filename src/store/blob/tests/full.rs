//! The cache at its limit: files larger than it, owners beside each other, deletes that relieve it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::world::{OWNER, World, bytes};
use crate::base::id::{BlobId, OwnerId};
use crate::store::blob::{Batch, BlobChange, BlobError, BlobStore, Patience, Portion};
use crate::store::meta::{Key, MetaError, Row, ValueRow};

const SECOND: Patience = Patience::AtMost(Duration::from_secs(1));

/// Uploads a blob whenever the store is under pressure, until told to stop.
fn uploader(store: &Arc<BlobStore>, world: &World, id: BlobId) -> (tokio::task::JoinHandle<u64>, Arc<AtomicBool>) {
    let (store, remote, stop) = (store.clone(), world.remote.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut pressure = store.pressure(OWNER);
        let mut uploads = 0;
        while !stop.load(Ordering::Relaxed) {
            let _ = tokio::time::timeout(Duration::from_millis(100), pressure.changed()).await;
            if store.info(id).await.unwrap().is_dirty() {
                let generation = store.freeze(id).await.unwrap();
                let clean = generation.test_upload(id, &remote).await.unwrap();
                drop(generation);
                store.test_apply(clean).await;
                uploads += 1;
            }
        }
        uploads
    });
    (task, stopped)
}

#[tokio::test(start_paused = true)]
async fn while_checkpoints_fail_what_waits_for_them_is_bounded_and_heals() {
    let world = World::new(32, 1);
    let store = world.open().await;
    let change = |index: u64| {
        let mut batch = Batch::new();
        batch.put(Row::Value(ValueRow { name: format!("row {index}"), value: vec![1; 10_000] }));
        batch
    };
    world.database.fail_applies(u32::MAX);
    let mut done = 0;
    let refused = loop {
        match store.apply(OWNER, change(done)).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 1_000, "nobody is held up");
    };
    assert!(
        matches!(&refused, BlobError::Meta(MetaError::Failed(reason)) if reason.contains("wait for the database")),
        "{refused}"
    );
    assert!(done > 50 && store.meta().staged_bytes() < 2 << 20);
    assert!(store.checkpoint_failure().is_some(), "`status` can say so");
    // What waits when the database works again goes on.
    let waiting = tokio::spawn({
        let (store, batch) = (store.clone(), change(done));
        async move { store.apply(OWNER, batch).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!waiting.is_finished());
    world.database.fail_applies(0);
    waiting.await.unwrap().unwrap();
    assert!(store.meta().staged_bytes() < 1 << 20);
    assert_eq!(store.checkpoint_failure(), None);
}

#[tokio::test(start_paused = true)]
async fn a_file_of_four_times_the_cache_is_written_by_one_writer() {
    let mut world = World::new(12, 1);
    world.settings.wait = Duration::from_secs(60);
    let store = world.open().await;
    let id = store.test_create().await;
    let (task, stop) = uploader(&store, &world, id);
    let mut expected = Vec::new();
    while expected.len() < 48 << 20 {
        let part = bytes(expected.len() as u64, 300_000);
        store.write(id, expected.len() as u64, part.clone(), Patience::Default).await.unwrap();
        expected.extend_from_slice(&part);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(task.await.unwrap() >= 4);
    assert!(store.test_read(id).await.unwrap() == expected);
    assert!(store.log_usage().segments_free >= 3);
    store.test_accounts().await;
    store.sync().await.unwrap();
    drop(store);
    world.power_loss(5);
    let store = world.open().await;
    assert!(store.test_read(id).await.unwrap() == expected);
}

#[tokio::test(start_paused = true)]
async fn deleting_works_on_a_cache_full_of_dirty_bytes_and_relieves_it() {
    let mut world = World::new(12, 2);
    let store = world.open().await;
    let mut ids = Vec::new();
    let refused = loop {
        let id = store.test_create().await;
        ids.push(id);
        if let Err(error) = store.write(id, 0, bytes(1, 200_000), SECOND).await {
            break error;
        }
    };
    assert!(matches!(refused, BlobError::NoSpace));
    let used = store.usage(OWNER);
    assert!(used.dirty_bytes > 5 << 20 && used.oldest_dirty_ns > 0, "{used:?}");
    assert!(matches!(store.write(ids[0], 0, bytes(2, 200_000), SECOND).await, Err(BlobError::NoSpace)));
    // Truncating, removing and creating still work.
    store.test_apply(BlobChange::SetLength { id: ids[0], len_bytes: 0 }).await;
    for &id in &ids[1..10] {
        store.test_apply(BlobChange::Remove { id }).await;
    }
    assert!(store.usage(OWNER).dirty_bytes < used.dirty_bytes - 9 * 190_000);
    for round in 0..5 {
        store.write(ids[0], round * 200_000, bytes(3, 200_000), Patience::Default).await.unwrap();
    }
    store.test_accounts().await;
    store.sync().await.unwrap();
    drop(store);
    world.power_loss(1);
    let store = world.open().await;
    assert_eq!(store.info(ids[0]).await.unwrap().len_bytes, 1_000_000);
    assert!(matches!(store.info(ids[1]).await, Err(BlobError::NotFound)));
    assert_eq!(store.test_read(ids[10]).await.unwrap(), bytes(1, 200_000));
}

#[tokio::test(start_paused = true)]
async fn an_owner_with_a_dead_bucket_does_not_stall_the_others() {
    let world = World::new(16, 3);
    let store = world.open().await;
    let other = OwnerId(2);
    for owner in [OWNER, other] {
        let portion = Portion { guaranteed_bytes: 3 << 20, maximum_bytes: 6 << 20 };
        store.register(owner, world.remote.clone(), portion);
    }
    let first = store.test_create().await;
    let second = store.new_blob_id().await.unwrap();
    let mut batch = Batch::new();
    batch.blob(BlobChange::Create { id: second, owner: other, len_bytes: 0, source: Bytes::new() });
    store.apply(other, batch).await.unwrap();
    let mut offset = 0;
    while store.write(first, offset, bytes(1, 100_000), SECOND).await.is_ok() {
        offset += 100_000;
    }
    assert!((5 << 20..=6 << 20).contains(&store.usage(OWNER).dirty_bytes), "{:?}", store.usage(OWNER));
    let begun = tokio::time::Instant::now();
    for offset in (0..2_000_000).step_by(100_000) {
        store.write(second, offset, bytes(2, 100_000), SECOND).await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "not even slowed");
    assert!(matches!(store.write(first, 0, bytes(1, 100_000), SECOND).await, Err(BlobError::NoSpace)));
    // A waiting writer goes on as soon as bytes become clean.
    let waiting = {
        let store = store.clone();
        let patience = Patience::AtMost(Duration::from_secs(30));
        tokio::spawn(async move { store.write(first, 0, bytes(9, 100_000), patience).await })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    let generation = store.freeze(first).await.unwrap();
    let clean = generation.test_upload(first, &world.remote).await.unwrap();
    drop(generation);
    store.test_apply(clean).await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn writers_are_slowed_before_they_are_stopped() {
    let world = World::new(12, 4);
    let store = world.open().await;
    store.register(OWNER, world.remote.clone(), Portion { guaranteed_bytes: 0, maximum_bytes: 5 << 20 });
    let id = store.test_create().await;
    let mut pressure = store.pressure(OWNER);
    let mut times = Vec::new();
    for index in 0..50 {
        let begun = tokio::time::Instant::now();
        store.write(id, index * 100_000, bytes(1, 100_000), Patience::Default).await.unwrap();
        times.push(begun.elapsed());
    }
    assert_eq!(times[35], Duration::ZERO);
    assert!(times[44] > Duration::ZERO && times[49] > times[44], "{times:?}");
    assert!(pressure.has_changed().unwrap());
    pressure.mark_unchanged();
}

#[tokio::test(start_paused = true)]
async fn overwriting_the_same_bytes_for_ever_needs_no_uploads() {
    let world = World::new(12, 5);
    let store = world.open().await;
    let (id, still) = (store.test_create().await, store.test_create().await);
    store.write(still, 0, bytes(7, 500_000), Patience::Default).await.unwrap();
    for round in 0..300 {
        store.write(id, (round % 5) * 50_000, bytes(round, 250_000), Patience::Default).await.unwrap();
    }
    assert_eq!(store.test_read(still).await.unwrap(), bytes(7, 500_000));
    store.test_accounts().await;
}

#[tokio::test(start_paused = true)]
async fn memory_for_maps_is_bounded() {
    let mut world = World::new(32, 6);
    world.settings.memory_bytes = 100_000;
    let store = world.open().await;
    let mut ids = Vec::new();
    for index in 0..600 {
        let id = store.test_create().await;
        store.write(id, 0, bytes(index, 3_000), Patience::Default).await.unwrap();
        ids.push(id);
        if index % 50 == 49 {
            store.checkpoint().await.unwrap();
        }
    }
    let mut loaded = 0;
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(store.test_read(*id).await.unwrap(), bytes(index as u64, 3_000));
        loaded = loaded.max(ids.iter().filter(|id| store.try_info(**id).is_some()).count());
    }
    assert!(loaded < 300, "{loaded} blobs in memory");
}

#[tokio::test(start_paused = true)]
async fn names_go_on_changing_while_the_cache_is_full_of_dirty_bytes() {
    let world = World::new(12, 7);
    let store = world.open().await;
    let id = store.test_create().await;
    let mut offset = 0;
    while store.write(id, offset, bytes(1, 100_000), SECOND).await.is_ok() {
        offset += 100_000;
    }
    let begun = tokio::time::Instant::now();
    for index in 0..3_000_u64 {
        let mut batch = Batch::new();
        let value = bytes(index, 2_000).to_vec();
        batch.put(Row::Value(ValueRow { name: format!("row {}", index % 10), value }));
        store.apply(OWNER, batch).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let last = store.meta().get(&Key::Value("row 9".to_owned())).await.unwrap();
    assert!(matches!(last, Some(Row::Value(row)) if row.value == bytes(2_999, 2_000)));
    assert_eq!(store.read(id, 0..100_000).await.unwrap().concat(), bytes(1, 100_000));
}

#[tokio::test(start_paused = true)]
async fn many_small_records_are_read_in_one_piece() {
    let world = World::new(12, 8);
    let store = world.open().await;
    let id = store.test_create().await;
    let data = bytes(1, 60_000);
    for at in (0..60_000).step_by(300) {
        store.write(id, at as u64, data.slice(at..at + 200), Patience::Default).await.unwrap();
    }
    let read = store.read(id, 0..60_000).await.unwrap();
    assert_eq!(read.len(), 1);
    for (at, byte) in read[0].iter().enumerate() {
        assert_eq!(*byte, if at % 300 < 200 { data[at] } else { 0 });
    }
}

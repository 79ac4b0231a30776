//! Reading what is in S3: coalesced, ahead of a sequential reader, cached, and at the cache's limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::world::{OWNER, Remote, World, bytes};
use crate::base::id::{BlobId, OwnerId};
use crate::store::blob::state::State;
use crate::store::blob::{Batch, BlobChange, BlobError, BlobStore, FetchError, Patience, Portion};
use crate::store::object::ObjectError;

async fn foreign(store: &BlobStore, world: &World, data: &Bytes) -> BlobId {
    let id = store.new_blob_id().await.unwrap();
    let source = world.remote.put(data.clone());
    store.test_apply(BlobChange::Create { id, owner: OWNER, len_bytes: data.len() as u64, source }).await;
    id
}

#[tokio::test(start_paused = true)]
async fn readers_of_the_same_bytes_send_one_request() {
    let world = World::new(24, 1);
    let store = world.open().await;
    let data = bytes(1, 3_000_000);
    let id = foreign(&store, &world, &data).await;
    assert!(!store.info(id).await.unwrap().is_dirty());
    *world.remote.delay.lock() = Duration::from_millis(50);
    // Backwards, so that nobody takes them for one sequential reader.
    let offsets: Vec<u64> = (0..20).rev().map(|index| index * 1_000).collect();
    let readers = offsets.iter().map(|offset| store.read(id, *offset..offset + 5_000));
    for (offset, read) in offsets.iter().zip(futures_util::future::join_all(readers).await) {
        assert_eq!(read.unwrap().concat(), &data[*offset as usize..*offset as usize + 5_000]);
    }
    assert_eq!(*world.remote.fetches.lock(), vec![0..1 << 20]);
    // Cached, and still there after a restart.
    assert!(store.try_read(id, 0..1_000_000).is_some());
    store.close().await.unwrap();
    drop(store);
    let store = world.open().await;
    assert_eq!(store.read(id, 0..1_000_000).await.unwrap().concat(), &data[..1_000_000]);
    assert_eq!(world.remote.fetches.lock().len(), 1);
    store.test_accounts().await;
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_is_fetched_ahead() {
    let world = World::new(64, 1);
    let store = world.open().await;
    let data = bytes(1, 24 << 20);
    let id = foreign(&store, &world, &data).await;
    *world.remote.delay.lock() = Duration::from_millis(20);
    let begun = tokio::time::Instant::now();
    for offset in (0..24 << 20).step_by(128 << 10) {
        let read = store.read(id, offset..offset + (128 << 10)).await.unwrap().concat();
        assert!(read == data[offset as usize..offset as usize + (128 << 10)]);
    }
    let fetches = world.remote.fetches.lock().clone();
    let sent: u64 = fetches.iter().map(|range| range.end - range.start).sum();
    assert_eq!(sent, 24 << 20, "every byte once");
    assert!(fetches.len() <= 14, "{} requests", fetches.len());
    assert!(begun.elapsed() < Duration::from_millis(20 * 14), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cache_full_of_dirty_bytes_still_serves_reads() {
    let world = World::new(9, 2);
    let store = world.open().await;
    let data = bytes(1, 4_000_000);
    let id = foreign(&store, &world, &data).await;
    let dirty = store.test_create().await;
    let mut offset = 0;
    while store.write(dirty, offset, bytes(2, 100_000), Patience::AtMost(Duration::from_millis(1))).await.is_ok() {
        offset += 100_000;
    }
    for _ in 0..2 {
        assert!(store.test_read(id).await.unwrap() == data);
    }
    assert_eq!(store.read(dirty, 0..100_000).await.unwrap().concat(), bytes(2, 100_000));
}

#[tokio::test(start_paused = true)]
async fn reading_more_than_the_cache_takes_replaces_what_is_cold() {
    let world = World::new(12, 2);
    let store = world.open().await;
    let data = bytes(1, 4 << 20);
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(foreign(&store, &world, &data).await);
    }
    for id in &ids {
        assert!(store.test_read(*id).await.unwrap() == data);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let before = world.remote.fetches.lock().len();
    assert!(store.test_read(*ids.last().unwrap()).await.unwrap() == data);
    let again = world.remote.fetches.lock().len() - before;
    assert!(again <= 2, "the last is cached: {again} requests");
    store.test_accounts().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_while_a_fetch_is_under_way_wins() {
    let world = World::new(24, 1);
    let store = world.open().await;
    let data = bytes(1, 1_000_000);
    let id = foreign(&store, &world, &data).await;
    *world.remote.delay.lock() = Duration::from_millis(50);
    let reading = {
        let store = store.clone();
        tokio::spawn(async move { store.read(id, 0..1_000_000).await })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    store.write(id, 500, bytes(2, 1_000), Patience::Default).await.unwrap();
    store.test_apply(BlobChange::SetLength { id, len_bytes: 900_000 }).await;
    store.test_apply(BlobChange::SetLength { id, len_bytes: 950_000 }).await;
    assert_eq!(reading.await.unwrap().unwrap().concat(), data, "as it was when the read began");
    let mut expected = data[..900_000].to_vec();
    expected[500..1_500].copy_from_slice(&bytes(2, 1_000));
    expected.resize(950_000, 0);
    assert!(store.test_read(id).await.unwrap() == expected);
    store.test_accounts().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_and_not_remembered() {
    let world = World::new(24, 1);
    let store = world.open().await;
    let data = bytes(1, 10_000);
    let id = foreign(&store, &world, &data).await;
    for error in [FetchError::Changed, FetchError::Object(ObjectError::SlowDown)] {
        *world.remote.broken.lock() = Some(error);
        assert!(matches!(store.read(id, 0..10).await, Err(BlobError::Fetch(_))));
    }
    *world.remote.broken.lock() = None;
    assert_eq!(store.test_read(id).await.unwrap(), data);
}

#[tokio::test(start_paused = true)]
async fn dead_buckets_do_not_keep_another_owner_from_reading() {
    let world = World::new(24, 1);
    let store = world.open().await;
    let data = bytes(1, 10_000_000);
    for other in [7, 8, 9].map(OwnerId) {
        let dead = Arc::new(Remote::default());
        *dead.delay.lock() = Duration::from_secs(60);
        store.register(other, dead.clone(), Portion { guaranteed_bytes: 0, maximum_bytes: 1 << 20 });
        for _ in 0..60 {
            let id = store.new_blob_id().await.unwrap();
            let mut batch = Batch::new();
            batch.blob(BlobChange::Create { id, owner: other, len_bytes: 10_000_000, source: dead.put(data.clone()) });
            store.apply(other, batch).await.unwrap();
            let store = store.clone();
            tokio::spawn(async move { store.read(id, 0..8 << 20).await.map(|_| ()) });
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    *world.remote.delay.lock() = Duration::from_millis(20);
    let id = foreign(&store, &world, &data).await;
    let begun = tokio::time::Instant::now();
    assert!(store.test_read(id).await.unwrap() == data);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cut_shorter_than_a_plan_is_not_taken_for_it() {
    let world = World::new(24, 1);
    let store = world.open().await;
    let data = bytes(1, 3_000_000);
    for frozen in [false, true] {
        let id = foreign(&store, &world, &data).await;
        let generation = store.freeze(id).await.unwrap();
        *world.remote.delay.lock() = Duration::from_millis(50);
        let blob = store.blob(id).await.unwrap();
        // Somebody plans; before he fetches, the blob is cut, and somebody else fetches what is left of it.
        let early = Mutex::new(Some(blob.state.lock().plan(0..3_000_000).unwrap()));
        store.test_apply(BlobChange::SetLength { id, len_bytes: 500_000 }).await;
        let other = tokio::spawn({
            let store = store.clone();
            async move { store.read(id, 0..1_000).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let plan = |state: &mut State| match early.lock().take() {
            Some(early) => Ok(early),
            None if frozen => state.plan_frozen(generation.id, 0..3_000_000),
            None => state.plan(0..500_000),
        };
        let read = store.read_planned(&blob, plan).await.unwrap().concat();
        assert_eq!(read.len(), if frozen { 3_000_000 } else { 500_000 });
        assert!(read == data[..read.len()]);
        assert_eq!(other.await.unwrap().unwrap().concat(), &data[..1_000]);
    }
}

/// What S3 had is gone: what is here stays, the rest is zeros and told.
#[tokio::test(start_paused = true)]
async fn a_detached_blob_keeps_what_is_cached_and_what_is_written() {
    let mut world = World::new(64, 1);
    let store = world.open().await;
    let data = bytes(1, 5_000_000);
    let id = foreign(&store, &world, &data).await;
    store.read(id, 2 << 20..(2 << 20) + 10).await.unwrap();
    for (offset, part) in [(1_000_000_u64, bytes(2, 300_000)), (4_999_990, bytes(3, 10))] {
        store.write(id, offset, part, Patience::Default).await.unwrap();
    }
    let source = store.info(id).await.unwrap().source;
    let before = store.info(id).await.unwrap().modified_ns;
    assert_eq!(store.detach(id, &Bytes::from_static(b"another"), Patience::Default).await.unwrap(), vec![]);
    let lost = store.detach(id, &source, Patience::Default).await.unwrap();
    assert_eq!(lost, vec![0..1_000_000, 1_300_000..2 << 20, 3 << 20..4_999_990]);
    let mut expected = vec![0; 5_000_000];
    expected[2 << 20..3 << 20].copy_from_slice(&data[2 << 20..3 << 20]);
    expected[1_000_000..1_300_000].copy_from_slice(&bytes(2, 300_000));
    expected[4_999_990..].copy_from_slice(&bytes(3, 10));
    let requests = world.remote.fetches.lock().len();
    assert!(store.read(id, 0..5_000_000).await.unwrap().concat() == expected);
    assert_eq!(store.detach(id, &source, Patience::Default).await.unwrap(), vec![]);
    let info = store.info(id).await.unwrap();
    assert!(info.is_dirty());
    assert_eq!(info.modified_ns, before, "nobody wrote anything");
    store.test_accounts().await;
    store.sync().await.unwrap();
    drop(store);
    world.power_loss(7);
    let store = world.open().await;
    assert!(store.read(id, 0..5_000_000).await.unwrap().concat() == expected);
    assert_eq!(world.remote.fetches.lock().len(), requests);
    let all = 0..5_000_000;
    assert_eq!(store.freeze(id).await.unwrap().changed().await.unwrap(), vec![all]);
    store.test_accounts().await;
}

/// A blob that reads from elsewhere by now stays there, whoever wants it to read from yet another place.
#[tokio::test(start_paused = true)]
async fn a_late_rebase_changes_nothing() {
    let world = World::new(24, 1);
    let store = world.open().await;
    let id = foreign(&store, &world, &bytes(1, 1_000)).await;
    let first = store.info(id).await.unwrap().source;
    let (second, third) = (world.remote.put(bytes(1, 1_000)), world.remote.put(bytes(2, 1_000)));
    for source in [second.clone(), third] {
        store.test_apply(BlobChange::Rebase { id, instead_of: first.clone(), source }).await;
    }
    assert_eq!(store.info(id).await.unwrap().source, second);
}

//! One test per verb and per promise.

use bytes::Bytes;

use super::world::{OWNER, World, bytes};
use crate::base::id::BlobId;
use crate::store::blob::{Batch, BlobChange, BlobError, Patience};

const NOW: Patience = Patience::Default;

#[tokio::test(start_paused = true)]
async fn writes_read_back_and_survive_a_restart() {
    let world = World::new(12, 1);
    let store = world.open().await;
    let id = store.test_create().await;
    let data = bytes(1, 300_000);
    let info = store.write(id, 1_000, data.clone(), NOW).await.unwrap();
    assert_eq!(info.len_bytes, 301_000);
    let mut expected = vec![0; 1_000];
    expected.extend_from_slice(&data);
    assert_eq!(store.test_read(id).await.unwrap(), expected);
    assert_eq!(store.try_read(id, 500..2_000).unwrap().unwrap().concat(), &expected[500..2_000]);
    assert_eq!(store.append(id, Bytes::from_static(b"end"), NOW).await.unwrap().0, 301_000);
    expected.extend_from_slice(b"end");
    store.test_accounts().await;
    drop(store);

    let store = world.open().await;
    assert_eq!(store.test_read(id).await.unwrap(), expected);
    store.test_accounts().await;
    let id2 = store.new_blob_id().await.unwrap();
    assert!(id2 > id, "ids are never given twice");
    // A share and a volume that come at the same time.
    let (one, other) = tokio::join!(store.new_owner_id(), store.new_owner_id());
    assert_ne!(one.unwrap(), other.unwrap());
    assert!(matches!(store.read(id2, 0..1).await, Err(BlobError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn what_was_synced_survives_power_loss() {
    let mut world = World::new(12, 2);
    let store = world.open().await;
    let id = store.test_create().await;
    store.write(id, 0, bytes(1, 100_000), NOW).await.unwrap();
    store.sync().await.unwrap();
    drop(store);
    world.power_loss(3);
    let store = world.open().await;
    assert_eq!(store.test_read(id).await.unwrap(), bytes(1, 100_000));
}

#[tokio::test(start_paused = true)]
async fn truncated_bytes_do_not_come_back() {
    let world = World::new(12, 2);
    let store = world.open().await;
    let id = store.test_create().await;
    store.write(id, 0, bytes(1, 200_000), NOW).await.unwrap();
    let generation = store.freeze(id).await.unwrap();
    for len_bytes in [50_000, 150_000] {
        store.test_apply(BlobChange::SetLength { id, len_bytes }).await;
    }
    let mut expected = bytes(1, 50_000).to_vec();
    expected.resize(150_000, 0);
    assert_eq!(store.test_read(id).await.unwrap(), expected);
    // The upload of what was frozen before ends now: S3 has bytes that the truncation took.
    let clean = generation.test_upload(id, &world.remote).await.unwrap();
    store.test_apply(clean).await;
    drop(generation);
    store.evict(id).await.unwrap();
    assert_eq!(store.test_read(id).await.unwrap(), expected);
    assert!(store.info(id).await.unwrap().is_dirty());
    store.test_accounts().await;
    drop(store);
    let store = world.open().await;
    assert_eq!(store.test_read(id).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn truncated_bytes_do_not_come_back_by_a_replay() {
    let world = World::new(12, 2);
    let store = world.open().await;
    let id = store.test_create().await;
    store.test_apply(BlobChange::SetLength { id, len_bytes: 100 }).await;
    store.test_apply(BlobChange::SetLength { id, len_bytes: 50 }).await;
    store.write(id, 0, bytes(1, 200_000), NOW).await.unwrap();
    let generation = store.freeze(id).await.unwrap();
    // A longer cut than the one before: a replay does not know that something was frozen between them.
    for len_bytes in [120_000, 200_000] {
        store.test_apply(BlobChange::SetLength { id, len_bytes }).await;
    }
    let clean = generation.test_upload(id, &world.remote).await.unwrap();
    store.test_apply(clean).await;
    drop((generation, store));
    let store = world.open().await;
    let generation = store.freeze(id).await.unwrap();
    assert_eq!(generation.changed().await.unwrap(), vec![120_000..200_000]);
    let mut expected = bytes(1, 120_000).to_vec();
    expected.resize(200_000, 0);
    store.evict(id).await.unwrap();
    assert_eq!(store.test_read(id).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_generation_never_changes() {
    let world = World::new(12, 2);
    let store = world.open().await;
    let id = store.test_create().await;
    store.write(id, 0, bytes(1, 100_000), NOW).await.unwrap();
    let first = store.freeze(id).await.unwrap();
    let clean = first.test_upload(id, &world.remote).await.unwrap();
    store.test_apply(clean).await;
    store.evict(id).await.unwrap();
    store.write(id, 10, bytes(2, 1_000), NOW).await.unwrap();
    let second = store.freeze(id).await.unwrap();
    let frozen = second.test_bytes().await.unwrap();
    assert_eq!(second.changed().await.unwrap(), vec![10..1_010]);
    store.test_apply(BlobChange::Discard { id, range: 5..20_000 }).await;
    store.write(id, 99_000, bytes(3, 30_000), NOW).await.unwrap();
    store.test_apply(BlobChange::Remove { id }).await;
    store.checkpoint().await.unwrap();
    assert!(matches!(store.info(id).await, Err(BlobError::NotFound)));
    assert_eq!(second.test_bytes().await.unwrap(), frozen);
    assert_eq!(first.test_bytes().await.unwrap(), bytes(1, 100_000));
    drop((first, second));
    store.test_accounts().await;
    assert_eq!(store.usage(OWNER).dirty_bytes, 0);
    assert!(matches!(store.info(id).await, Err(BlobError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_blob_fails_the_whole_batch() {
    let world = World::new(12, 2);
    let store = world.open().await;
    let id = store.test_create().await;
    let mut batch = Batch::new();
    batch.blob(BlobChange::SetLength { id, len_bytes: 9 }).blob(BlobChange::Remove { id: BlobId(999_999) });
    assert!(matches!(store.apply(OWNER, batch).await, Err(BlobError::NotFound)));
    assert_eq!(store.info(id).await.unwrap().len_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn holes_are_told_apart_from_data() {
    let world = World::new(12, 2);
    let store = world.open().await;
    let id = store.test_create().await;
    store.write(id, 200_000, bytes(1, 10_000), NOW).await.unwrap();
    store.write(id, 210_000, bytes(2, 90_000), NOW).await.unwrap();
    store.test_apply(BlobChange::Discard { id, range: 220_000..230_000 }).await;
    for round in 0..2 {
        assert_eq!(store.next_data(id, 0).await.unwrap(), Some(200_000..220_000), "round {round}");
        assert_eq!(store.next_data(id, 225_000).await.unwrap(), Some(230_000..300_000));
        assert_eq!(store.next_data(id, 300_000).await.unwrap(), None);
        assert_eq!(store.allocated_bytes(id).await.unwrap(), 90_000);
        let generation = store.freeze(id).await.unwrap();
        let clean = generation.test_upload(id, &world.remote).await.unwrap();
        store.test_apply(clean).await;
        store.evict(id).await.unwrap();
    }
    assert_eq!(store.test_read(id).await.unwrap()[220_000..230_000], vec![0; 10_000]);
}

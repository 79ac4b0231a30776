//! Damage on the cache disk, and disks that fail.

use super::world::{World, bytes};
use crate::base::disk::Disk;
use crate::base::id::BlobId;
use crate::store::blob::{BlobError, BlobStore, Patience};

/// Turns over a bit wherever the disk has these bytes. Returns how often.
fn flip(world: &World, needle: &[u8]) -> usize {
    let mut found = 0;
    for (name, len_bytes) in world.disk.list().unwrap() {
        let mut content = vec![0; len_bytes as usize];
        world.disk.peek(&name, 0, &mut content);
        for at in content.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle).map(|(at, _)| at) {
            world.disk.flip(&name, at as u64, 0x10);
            found += 1;
        }
    }
    found
}

async fn upload(store: &std::sync::Arc<BlobStore>, world: &World, id: BlobId) {
    let generation = store.freeze(id).await.unwrap();
    let clean = generation.test_upload(id, &world.remote).await.unwrap();
    store.test_apply(clean).await;
}

#[tokio::test(start_paused = true)]
async fn damaged_clean_bytes_are_fetched_again() {
    let world = World::new(12, 1);
    let store = world.open().await;
    let id = store.test_create().await;
    let data = bytes(1, 100_000);
    store.write(id, 0, data.clone(), Patience::Default).await.unwrap();
    upload(&store, &world, id).await;
    assert_eq!(flip(&world, &data[50_000..50_016]), 1);
    assert_eq!(store.test_read(id).await.unwrap(), data);
    assert_eq!(world.remote.fetches.lock().len(), 1);
    assert!(!store.info(id).await.unwrap().damaged);
    store.test_accounts().await;
}

/// A power loss takes a segment of the read head whole, and a read may need all of its records.
#[tokio::test(start_paused = true)]
async fn many_damaged_records_of_one_read_are_fetched_again() {
    let world = World::new(12, 1);
    let store = world.open().await;
    let id = store.test_create().await;
    let parts: Vec<_> = (0..20).map(|part| bytes(part + 1, 2_000)).collect();
    for (part, data) in parts.iter().enumerate() {
        store.write(id, part as u64 * 2_000, data.clone(), Patience::Default).await.unwrap();
    }
    upload(&store, &world, id).await;
    for data in &parts {
        assert_eq!(flip(&world, &data[1_000..1_016]), 1);
    }
    assert_eq!(store.test_read(id).await.unwrap(), parts.concat());
}

#[tokio::test(start_paused = true)]
async fn damaged_dirty_bytes_are_told_and_the_rest_stays_readable() {
    let world = World::new(12, 1);
    let store = world.open().await;
    let (id, other) = (store.test_create().await, store.test_create().await);
    let data = bytes(1, 100_000);
    store.write(id, 0, data.clone(), Patience::Default).await.unwrap();
    store.write(other, 0, bytes(2, 100_000), Patience::Default).await.unwrap();
    // What is not flushed yet the log still has in memory.
    store.sync().await.unwrap();
    assert_eq!(flip(&world, &data[50_000..50_016]), 1);
    let lost = match store.test_read(id).await {
        Err(BlobError::Damaged(lost)) => lost,
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    };
    assert_eq!(lost, 49_152..53_248, "the checksum unit around byte 50,000");
    assert_eq!(store.read(id, 0..lost.start).await.unwrap().concat(), &data[..lost.start as usize]);
    assert_eq!(store.read(id, lost.end..100_000).await.unwrap().concat(), &data[lost.end as usize..]);
    assert_eq!(store.test_read(other).await.unwrap(), bytes(2, 100_000));
    assert!(store.info(id).await.unwrap().damaged && !store.info(other).await.unwrap().damaged);
    // Reclaim leaves it where it is.
    store.test_seal();
    store.reclaim().await.unwrap();
    assert_eq!(store.read(id, 0..lost.start).await.unwrap().concat(), &data[..lost.start as usize]);
    // Overwritten, it is whole again.
    store.write(id, lost.start, data.slice(lost.start as usize..lost.end as usize), Patience::Default).await.unwrap();
    assert_eq!(store.test_read(id).await.unwrap(), data);
}

#[tokio::test(start_paused = true)]
async fn maps_follow_what_a_failed_flush_moved() {
    let mut world = World::new(16, 1);
    let store = world.open().await;
    let id = store.test_create().await;
    store.sync().await.unwrap();
    let verifier = store.verifier();
    store.write(id, 0, bytes(1, 100_000), Patience::Default).await.unwrap();
    let generation = {
        world.disk.fail_next_syncs(1);
        assert!(matches!(store.sync().await, Err(BlobError::Log(_))));
        assert_ne!(store.verifier(), verifier);
        store.freeze(id).await.unwrap()
    };
    store.write(id, 0, bytes(2, 10), Patience::Default).await.unwrap();
    assert_eq!(generation.test_bytes().await.unwrap(), bytes(1, 100_000));
    store.checkpoint().await.unwrap();
    store.test_accounts().await;
    assert_eq!(generation.test_bytes().await.unwrap(), bytes(1, 100_000));
    let expected = store.test_read(id).await.unwrap();
    drop(generation);
    drop(store);
    world.power_loss(1);
    let store = world.open().await;
    assert_eq!(store.test_read(id).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn relocated_bytes_that_are_overwritten_stay_overwritten() {
    for crash in 0..20 {
        let mut world = World::new(12, crash);
        let store = world.open().await;
        let (id, dead) = (store.test_create().await, store.test_create().await);
        store.write(id, 0, bytes(1, 100_000), Patience::Default).await.unwrap();
        store.write(dead, 0, bytes(3, 300_000), Patience::Default).await.unwrap();
        store.write(dead, 0, bytes(4, 300_000), Patience::Default).await.unwrap();
        store.sync().await.unwrap();
        store.test_seal();
        assert_eq!(store.reclaim().await.unwrap(), 1);
        store.write(id, 40_000, bytes(2, 20_000), Patience::Default).await.unwrap();
        let mut expected = bytes(1, 100_000).to_vec();
        expected[40_000..60_000].copy_from_slice(&bytes(2, 20_000));
        if crash % 2 == 0 {
            store.sync().await.unwrap();
        }
        drop(store);
        world.power_loss(crash);
        let store = world.open().await;
        let seen = store.test_read(id).await.unwrap();
        assert!(seen == expected || (crash % 2 == 1 && seen == bytes(1, 100_000)), "crash {crash}");
        store.test_accounts().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_flipped_bit_is_ever_read_as_data() {
    let mut world = World::new(12, 1);
    let store = world.open().await;
    let mut expected = Vec::new();
    for index in 0..12 {
        let id = store.test_create().await;
        store.write(id, 0, bytes(index, 30_000), Patience::Default).await.unwrap();
        if index % 3 == 0 {
            upload(&store, &world, id).await;
        }
        expected.push((id, bytes(index, 30_000)));
        if index == 6 {
            store.checkpoint().await.unwrap();
        }
    }
    store.sync().await.unwrap();
    drop(store);
    let (names, pristine, database) = (world.disk.list().unwrap(), world.disk.clone(), world.database.clone());
    let mut random = fastrand::Rng::with_seed(1);
    let (mut lost, mut whole) = (0, 0);
    for seed in 0..150 {
        world.disk = pristine.process_death();
        world.database = std::sync::Arc::new((*database).clone());
        let (name, _) = &names[random.usize(..names.len())];
        let at = random.u64(..450_000);
        world.disk.flip(name, at, 1 << random.u8(..8));
        match world.try_open().await {
            Err(BlobError::Log(_)) => {}
            Err(error) => panic!("{error}"),
            Ok((store, _)) => {
                for (id, data) in &expected {
                    match store.test_read(*id).await {
                        Ok(seen) if seen == *data => whole += 1,
                        // The end of the log may be cut where the flip is: then it is an earlier state.
                        Ok(seen) => assert!(seen.is_empty(), "seed {seed}"),
                        Err(BlobError::NotFound | BlobError::Damaged(_)) => lost += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }
    assert!(lost > 0 && whole > 1_000, "{lost} lost, {whole} whole");
}

#[tokio::test(start_paused = true)]
async fn an_old_database_or_none_is_caught_up_from_the_log() {
    let mut world = World::new(12, 1);
    let store = world.open().await;
    let id = store.test_create().await;
    store.write(id, 0, bytes(1, 100_000), Patience::Default).await.unwrap();
    store.checkpoint().await.unwrap();
    let old = (*world.database).clone();
    store.write(id, 50_000, bytes(2, 100_000), Patience::Default).await.unwrap();
    upload(&store, &world, id).await;
    store.checkpoint().await.unwrap();
    let expected = store.test_read(id).await.unwrap();
    drop(store);
    for database in [old, crate::store::meta::MemoryDatabase::default()] {
        world.disk = world.disk.process_death();
        world.database = std::sync::Arc::new(database);
        let (store, _) = world.try_open().await.unwrap();
        assert_eq!(store.test_read(id).await.unwrap(), expected);
        store.test_accounts().await;
    }
}

/// Where the disk has these bytes.
fn place_of(world: &World, needle: &[u8]) -> (String, u64) {
    for (name, len_bytes) in world.disk.list().unwrap() {
        let mut content = vec![0; len_bytes as usize];
        world.disk.peek(&name, 0, &mut content);
        if let Some(at) = content.windows(needle.len()).position(|window| window == needle) {
            return (name, at as u64);
        }
    }
    panic!("not on the disk");
}

/// A store with a segment in which only `data` of the blob lives, and which is worth to be reclaimed.
async fn sparse_segment(world: &World, data: &bytes::Bytes) -> (std::sync::Arc<BlobStore>, BlobId) {
    let store = world.open().await;
    let (id, dead) = (store.test_create().await, store.test_create().await);
    store.write(id, 0, data.clone(), Patience::Default).await.unwrap();
    store.write(dead, 0, bytes(3, 300_000), Patience::Default).await.unwrap();
    store.sync().await.unwrap();
    store.test_seal();
    store.write(dead, 0, bytes(4, 300_000), Patience::Default).await.unwrap();
    store.sync().await.unwrap();
    (store, id)
}

#[tokio::test(start_paused = true)]
async fn a_sector_that_cannot_be_read_keeps_its_segment_and_no_other() {
    // Of the body, and of the record's header.
    for back_bytes in [-50_000_i64, 4096] {
        let world = World::new(12, 1);
        let data = bytes(1, 100_000);
        let (store, id) = sparse_segment(&world, &data).await;
        let (name, at) = place_of(&world, &data[..64]);
        let at = at.checked_add_signed(-back_bytes).unwrap();
        world.disk.fail_reads(&name, at..at + 1);
        // Another one, all dead, that is chosen later than the one that cannot be read.
        let other = store.test_create().await;
        store.write(other, 0, bytes(5, 100_000), Patience::Default).await.unwrap();
        store.test_seal();
        store.write(other, 0, bytes(6, 100_000), Patience::Default).await.unwrap();
        store.sync().await.unwrap();
        let mut freed = 0;
        for _ in 0..3 {
            freed += store.reclaim().await.unwrap();
        }
        assert!(freed >= 1, "the readable segments are free");
        let is_left = || store.log.segments().iter().any(|info| name.contains(&format!("{:06}", info.slot)));
        assert!(is_left(), "the other is left");
        assert_eq!(store.read(other, 0..100_000).await.unwrap().concat(), bytes(6, 100_000));
        // What is overwritten lives there no more: the segment is free, readable or not.
        store.write(id, 0, bytes(7, 100_000), Patience::Default).await.unwrap();
        store.sync().await.unwrap();
        assert!(store.reclaim().await.unwrap() >= 1 && !is_left());
        store.test_accounts().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_without_life_is_freed_unread() {
    let world = World::new(12, 1);
    let data = bytes(1, 100_000);
    let (store, id) = sparse_segment(&world, &data).await;
    store.write(id, 0, bytes(2, 100_000), Patience::Default).await.unwrap();
    store.sync().await.unwrap();
    let (name, _) = place_of(&world, &data[..64]);
    world.disk.fail_reads(&name, 8192..1 << 20);
    assert_eq!(store.reclaim().await.unwrap(), 1);
    assert_eq!(store.test_read(id).await.unwrap(), bytes(2, 100_000));
}

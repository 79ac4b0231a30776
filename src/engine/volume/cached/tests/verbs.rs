//! One thing at a time.

use super::*;
use crate::engine::volume::cached::attach::AttachError;
use crate::engine::volume::cached::snapshot::SnapshotError;
use crate::engine::volume::local::SnapshotStatus;
use crate::engine::volume::{DeviceError, Extent};
use crate::store::object::layer::Kind;

#[tokio::test(start_paused = true)]
async fn what_was_written_is_in_s3_and_on_another_gateway() {
    let world = World::new().await;
    let volume = world.create("db", 16 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 16 << 20]);
    for _ in 0..200 {
        let len = random.usize(1..40) * 512;
        let offset = random.u64(..(16 * MIB - len as u64) / 512) * 512;
        let bytes = noise(&mut random, len);
        write(&volume, &mut model, offset, &bytes).await;
    }
    drain(&volume).await;
    assert!(content_in_s3(&world, volume.id()).await == model);
    world.blobs.evict(volume.blob()).await.unwrap();
    assert!(content(&volume).await == model, "fetched");
    // The gateway is gone with its disk.
    let other = World::of("other", world.bucket.clone()).await;
    let refused = other.home.attach(volume.id(), None, false).await.err().unwrap();
    assert!(matches!(&refused, AttachError::Attached(gateway) if gateway == "gw"), "{refused}");
    let attached = other.home.attach(volume.id(), None, true).await.unwrap();
    assert!(content(&attached).await == model);
    assert_eq!(attached.name(), "db");
    // The first one comes back, and changes nothing.
    let before: Vec<String> = world.bucket.keys();
    write(&volume, &mut model.clone(), 0, &[7; 4096]).await;
    volume.hurry().await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(volume.is_fenced());
    assert!(content_in_s3(&world, volume.id()).await == model);
    assert_eq!(volume.read(0..512).await.unwrap_err(), DeviceError::Gone);
    let is_old = |key: &String| key.contains("/0000000000000001-");
    let stray: Vec<String> = world.bucket.keys().into_iter().filter(|key| !before.contains(key) && !is_old(key)).collect();
    assert_eq!(stray, Vec::<String>::new(), "only objects of the old epoch, which nobody reads");
    assert!(content(&attached).await == model);
}

#[tokio::test(start_paused = true)]
async fn an_idle_volume_asks_nothing_and_a_written_one_little() {
    let world = World::new().await;
    let volume = world.create("db", 64 * MIB).await;
    let begin = world.meter.counts().total();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.meter.counts().total(), begin, "idle");
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 64 << 20]);
    let puts = world.meter.counts().of(Kind::Put);
    for _ in 0..2_048 {
        let (offset, bytes) = (random.u64(..64 * 256) * 4096, noise(&mut random, 4096));
        write(&volume, &mut model, offset, &bytes).await;
    }
    drain(&volume).await;
    let puts = world.meter.counts().of(Kind::Put) - puts;
    // 8 MiB in segments of at most 256 KiB; a manifest for each batch of 2 MiB; checkpoints.
    assert!((32..=80).contains(&puts), "{puts} PUTs");
    assert!(content_in_s3(&world, volume.id()).await == model);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_written_takes_no_room() {
    let world = World::new().await;
    let volume = world.create("db", 64 * MIB).await;
    let free = world.blobs.log_usage().segments_free;
    assert_eq!(volume.extents(0..64 * MIB, 10).await.unwrap(), [Extent { range: 0..64 * MIB, is_mapped: false }]);
    assert!(content(&volume).await.iter().all(|byte| *byte == 0));
    assert_eq!(world.blobs.log_usage().segments_free, free, "zeroes are not cached");
    // A new disk is unmapped from end to end; nothing is new by that.
    volume.unmap(std::slice::from_ref(&(0..64 * MIB)), Stability::Cached).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(volume.recovery_point().since_count(), 0);
    let mut model = vec![0; 64 << 20];
    write(&volume, &mut model, 8 * MIB, &[1; 65_536]).await;
    let mapped = [
        Extent { range: 0..8 * MIB, is_mapped: false },
        Extent { range: 8 * MIB..8 * MIB + 65_536, is_mapped: true },
        Extent { range: 8 * MIB + 65_536..64 * MIB, is_mapped: false },
    ];
    assert_eq!(volume.extents(0..64 * MIB, 10).await.unwrap(), mapped);
    drain(&volume).await;
    world.blobs.evict(volume.blob()).await.unwrap();
    assert_eq!(volume.extents(0..64 * MIB, 10).await.unwrap(), mapped, "also where only S3 has it");
    volume.unmap(std::slice::from_ref(&(0..64 * MIB)), Stability::Durable).await.unwrap();
    assert!(!volume.extents(0..64 * MIB, 10).await.unwrap().iter().any(|extent| extent.is_mapped));
    drain(&volume).await;
    assert!(content_in_s3(&world, volume.id()).await.iter().all(|byte| *byte == 0));
}

#[tokio::test(start_paused = true)]
async fn checkpoints_leave_nothing_that_is_not_used() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 4 << 20]);
    for _ in 0..30 {
        for _ in 0..20 {
            let (offset, bytes) = (random.u64(..4 * 16) * 65_536, noise(&mut random, 65_536));
            write(&volume, &mut model, offset, &bytes).await;
        }
        drain(&volume).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let state = volume.recovery_point();
    assert!(state.checkpoint.is_some() && state.since_count() < 20, "{state:?}");
    assert!(content_in_s3(&world, volume.id()).await == model);
    world.blobs.evict(volume.blob()).await.unwrap();
    assert!(content(&volume).await == model);
    let kinds = |kind: &str| world.bucket.keys().iter().filter(|key| key.contains(kind)).count();
    assert_eq!((kinds("/checkpoints/"), kinds("/manifest")), (1, 1));
    assert!(kinds("/pages/") <= 4, "{}", kinds("/pages/"));
    let stored = world.bucket.total_bytes();
    assert!(stored < 24 << 20, "600 writes of 64 KiB to 64 places keep {stored} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_the_moment_at_which_it_was_taken() {
    let world = World::new().await;
    let volume = world.create("db", 8 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 8 << 20]);
    let mut taken = Vec::new();
    for round in 0..12 {
        for _ in 0..random.usize(1..20) {
            let (offset, bytes) = (random.u64(..8 * 256) * 4096, noise(&mut random, 4096));
            write(&volume, &mut model, offset, &bytes).await;
        }
        let snapshot = volume.snapshot(&format!("round {round}")).await.unwrap();
        assert_eq!(snapshot.status, SnapshotStatus::Pending);
        taken.push((snapshot.snapshot, model.clone()));
        if round % 3 == 0 {
            assert!(matches!(volume.delete_snapshot(snapshot.snapshot).await, Err(SnapshotError::Pending(_))));
            tokio::time::sleep(Duration::from_secs(random.u64(..30))).await;
        }
    }
    drain(&volume).await;
    assert!(volume.snapshots().iter().all(|snapshot| snapshot.status == SnapshotStatus::Completed), "{:?}", volume.snapshots());
    // Clones of each, on a gateway that has nothing but the bucket, also while others are deleted in any order.
    let other = World::of("other", world.bucket.clone()).await;
    random.shuffle(&mut taken);
    for (index, (snapshot, then)) in taken.iter().enumerate() {
        let from = Some((volume.id(), Some(*snapshot)));
        let wanted = Create { len_bytes: None, from, ..create(&format!("clone-{index}"), 0) };
        let clone = other.home.create(&wanted).await.unwrap();
        volume.delete_snapshot(*snapshot).await.unwrap();
        let bytes = noise(&mut random, 4096);
        write(&volume, &mut model, 4096 * index as u64, &bytes).await;
        drain(&volume).await;
        assert!(content(&clone).await == *then, "snapshot {index}");
        if index % 2 == 0 {
            let mut changed = then.clone();
            write(&clone, &mut changed, 65_536, &[index as u8 + 1; 8192]).await;
            drain(&clone).await;
            assert!(content_in_s3(&world, clone.id()).await == changed);
        }
        assert!(matches!(world.home.delete(&volume).await, Err(AttachError::HasClones(..))));
        other.home.delete(&clone).await.unwrap();
    }
    assert!(content_in_s3(&world, volume.id()).await == model);
    world.home.delete(&volume).await.unwrap();
    assert_eq!(world.bucket.keys(), Vec::<String>::new(), "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_volume_grows_and_never_shrinks() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let mut model = vec![0; 4 << 20];
    write(&volume, &mut model, 3 * MIB, &[1; 1 << 20]).await;
    volume.grow(512 * MIB).await.unwrap();
    assert!(volume.grow(4 * MIB).await.is_err());
    assert_eq!(volume.geometry().len_bytes(), 512 * MIB);
    model.resize(512 << 20, 0);
    write(&volume, &mut model, 512 * MIB - 4096, &[2; 4096]).await;
    let puts = world.meter.counts().of(Kind::Put);
    drain(&volume).await;
    assert!(world.meter.counts().of(Kind::Put) - puts <= 10, "what is new and empty is not sent");
    assert_eq!(volume.recovery_point().len_bytes, 512 * MIB);
    let world = world.again(None).await.unwrap();
    let volume = world.volume().await;
    assert_eq!(volume.geometry().len_bytes(), 512 * MIB);
    for part in 0..512 {
        let range = part * MIB..(part + 1) * MIB;
        let expected = &model[range.start as usize..range.end as usize];
        assert!(volume.read(range).await.unwrap().concat() == expected, "{part}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_moves_to_another_gateway() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let mut model = vec![0; 4 << 20];
    write(&volume, &mut model, 0, &[1; 100 << 10]).await;
    world.home.detach(&volume, Duration::from_secs(600)).await.unwrap();
    assert_eq!(volume.read(0..512).await.unwrap_err(), DeviceError::Gone);
    assert_eq!(world.home.open_all().await.unwrap().0.len(), 0);
    let other = World::of("other", world.bucket.clone()).await;
    let volume = other.home.attach(volume.id(), Some("moved"), false).await.unwrap();
    assert!(content(&volume).await == model);
    assert_eq!(volume.name(), "moved");
    assert!(matches!(other.home.attach(volume.id(), None, true).await, Err(AttachError::Here(_))));
    write(&volume, &mut model, 4096, &[3; 4096]).await;
    drain(&volume).await;
    assert!(content_in_s3(&world, volume.id()).await == model);
}

#[tokio::test(start_paused = true)]
async fn bad_requests_say_what_to_do() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let refused = async |wanted: Create| world.home.create(&wanted).await.err().unwrap().to_string();
    assert!(refused(create("db", 4 * MIB)).await.contains("choose another name"));
    assert!(refused(create("", 4 * MIB)).await.contains("no name for a volume"));
    assert!(refused(create("a/b", 4 * MIB)).await.contains("no name for a volume"));
    assert!(refused(create("x", 4 * MIB + 1)).await.contains("multiples"));
    assert!(refused(create("x", 0)).await.contains("between 1 MiB and 64 TiB"));
    let ghost = VolumeId([9; 16]);
    let of = |from| Create { from: Some(from), ..create("x", 4 * MIB) };
    assert!(refused(of((ghost, None))).await.contains("there is no volume"));
    assert!(refused(of((volume.id(), Some(ghost)))).await.contains("has no snapshot"));
    assert!(matches!(volume.delete_snapshot(ghost).await, Err(SnapshotError::Missing(_))));
    let beyond = volume.write(4 * MIB - 512, Bytes::from(vec![1; 1024]), Stability::Cached).await;
    assert!(matches!(beyond, Err(DeviceError::OutOfRange(_))));
}

//! What is dead goes from the bucket: what is overwritten, what is unmapped, what only a snapshot had.

use super::*;
use crate::base::seeds;
use crate::engine::volume::cached::Collection;
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, Body, ObjectStore, Precondition};

const HOUR: Duration = Duration::from_secs(3600);
const STEP: u64 = 16 << 10;

/// Everything is in S3, and what is to be cleaned is.
async fn rest(volume: &CachedVolume) {
    drain(volume).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
}

async fn fill(volume: &CachedVolume, model: &mut [u8], random: &mut fastrand::Rng, every: u64) {
    for at in (0..model.len() as u64 / STEP).filter(|at| !at.is_multiple_of(every)) {
        let bytes = noise(random, STEP as usize);
        write(volume, model, at * STEP, &bytes).await;
    }
}

async fn nothing_is_left_over(world: &World, volumes: &[Arc<CachedVolume>]) {
    for _ in 0..2 {
        world.home.collect(volumes, false).await.unwrap();
        tokio::time::sleep(25 * HOUR).await;
    }
    world.home.collect(volumes, false).await.unwrap();
    let found: Collection = world.home.collect(volumes, true).await.unwrap();
    assert_eq!(found.keys, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn segments_that_are_mostly_dead_are_rewritten_and_snapshots_keep_them() {
    let world = World::new().await;
    let volume = world.create("db", 8 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 8 << 20]);
    fill(&volume, &mut model, &mut random, u64::MAX).await;
    rest(&volume).await;
    assert!(world.bucket.total_bytes() < 9 << 20);
    let then = model.clone();
    let snapshot = volume.snapshot("").await.unwrap();
    let sent = world.meter.counts().up_bytes;
    fill(&volume, &mut model, &mut random, 4).await;
    rest(&volume).await;
    // 6 MiB of 8 are new. What is left of the first segments is a quarter, which the snapshot keeps anyway.
    let kept = world.bucket.total_bytes();
    assert!((14 << 20..15 << 20).contains(&kept), "{kept}");
    assert!(world.meter.counts().up_bytes - sent < 7 << 20, "nothing is rewritten in vain");
    volume.delete_snapshot(snapshot.snapshot).await.unwrap();
    rest(&volume).await;
    let after = world.bucket.total_bytes();
    assert!(after < 9 << 20, "{after}");
    assert!(world.meter.counts().up_bytes - sent < 10 << 20, "2 MiB are rewritten");
    assert!(then != model && content_in_s3(&world, volume.id()).await == model);
    world.blobs.evict(volume.blob()).await.unwrap();
    assert!(content(&volume).await == model);
    nothing_is_left_over(&world, std::slice::from_ref(&volume)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_unmapped_is_gone_from_the_bucket() {
    let world = World::new().await;
    let volume = world.create("db", 16 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 16 << 20]);
    fill(&volume, &mut model, &mut random, u64::MAX).await;
    rest(&volume).await;
    assert!(world.bucket.total_bytes() > 16 << 20);
    // All but one of sixteen blocks, which leaves a little of every segment.
    for at in (0..1024).filter(|at| at % 16 != 7) {
        let range = at * STEP..(at + 1) * STEP;
        model[range.start as usize..range.end as usize].fill(0);
        volume.unmap(std::slice::from_ref(&range), Stability::Cached).await.unwrap();
    }
    rest(&volume).await;
    let left = world.bucket.total_bytes();
    assert!(left < 3 << 19, "{left} bytes for 1 MiB");
    assert!(content_in_s3(&world, volume.id()).await == model);
    let begin = world.meter.counts().total();
    tokio::time::sleep(24 * HOUR).await;
    assert_eq!(world.meter.counts().total(), begin, "a cleaned volume rests");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_rewritten_and_nothing_waits_for_it() {
    let world = World::new().await;
    let volume = world.create("db", 8 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 8 << 20]);
    fill(&volume, &mut model, &mut random, u64::MAX).await;
    rest(&volume).await;
    for key in world.bucket.keys().into_iter().filter(|key| key.contains("/segments/")) {
        let mut bytes = world.bucket.object(&key).unwrap().bytes.to_vec();
        let half = bytes.len() / 2;
        bytes[half..].fill(7);
        world.bucket.put(&key, Body(vec![bytes.into()]), &Attributes::default(), &Precondition::None).await.unwrap();
    }
    fill(&volume, &mut model, &mut random, 4).await;
    rest(&volume).await;
    let bytes = noise(&mut random, 1 << 20);
    write(&volume, &mut model, 0, &bytes).await;
    rest(&volume).await;
    let gets = world.meter.counts().of(Kind::Get);
    tokio::time::sleep(24 * HOUR).await;
    assert_eq!(world.meter.counts().of(Kind::Get), gets, "it is not tried without end");
}

#[test]
fn whatever_is_done_the_content_is_right_and_the_bucket_has_little_more() {
    seeds::worlds(6, 600, async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::new().await;
        let volume = world.create("db", 4 * MIB).await;
        let mut model = vec![0; 4 << 20];
        let mut snapshots: Vec<(VolumeId, Vec<u8>)> = Vec::new();
        let mut clones: Vec<(Arc<CachedVolume>, Vec<u8>)> = Vec::new();
        for step in 0..random.usize(100..400) {
            let len = random.u64(1..=8) * STEP;
            let at = random.u64(..=(4 * MIB - len) / 512) * 512;
            let range = at as usize..(at + len) as usize;
            match random.u8(..40) {
                0..24 => {
                    let bytes = noise(&mut random, len as usize);
                    write(&volume, &mut model, at, &bytes).await;
                }
                24..29 => {
                    model[range].fill(0);
                    volume.unmap(std::slice::from_ref(&(at..at + len)), Stability::Cached).await.unwrap();
                }
                29..31 if snapshots.len() < 4 => {
                    snapshots.push((volume.snapshot("").await.unwrap().snapshot, model.clone()));
                }
                31 if !snapshots.is_empty() => {
                    drain(&volume).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let (snapshot, _) = snapshots.swap_remove(random.usize(..snapshots.len()));
                    volume.delete_snapshot(snapshot).await.unwrap();
                }
                32 if !snapshots.is_empty() && clones.len() < 3 => {
                    drain(&volume).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let (snapshot, then) = &snapshots[random.usize(..snapshots.len())];
                    let from = Some((volume.id(), Some(*snapshot)));
                    let wanted = Create { len_bytes: None, from, ..create(&format!("clone-{step}"), 0) };
                    clones.push((world.home.create(&wanted).await.unwrap(), then.clone()));
                }
                33 if !clones.is_empty() => {
                    let (clone, then) = clones.swap_remove(random.usize(..clones.len()));
                    assert!(content(&clone).await == then);
                    world.home.delete(&clone).await.unwrap();
                }
                34 => {
                    for (clone, then) in clones.iter_mut().take(1) {
                        let bytes = noise(&mut random, len as usize);
                        write(clone, then, at, &bytes).await;
                    }
                }
                35 => world.blobs.evict(volume.blob()).await.unwrap(),
                36 if step % 4 == 0 => {
                    let all: Vec<_> = clones.iter().map(|(clone, _)| clone.clone()).chain([volume.clone()]).collect();
                    world.home.collect(&all, false).await.unwrap();
                    tokio::time::sleep(25 * HOUR).await;
                    world.home.collect(&all, false).await.unwrap();
                }
                _ => tokio::time::sleep(Duration::from_millis(random.u64(..30_000))).await,
            }
            if step % 50 == 0 {
                assert!(content(&volume).await == model, "step {step}");
            }
        }
        for (clone, then) in clones {
            drain(&clone).await;
            assert!(content_in_s3(&world, clone.id()).await == then);
            world.home.delete(&clone).await.unwrap();
        }
        rest(&volume).await;
        for (snapshot, _) in snapshots {
            volume.delete_snapshot(snapshot).await.unwrap();
        }
        let bytes = noise(&mut random, 1 << 20);
        write(&volume, &mut model, MIB, &bytes).await;
        rest(&volume).await;
        assert!(content_in_s3(&world, volume.id()).await == model);
        world.blobs.evict(volume.blob()).await.unwrap();
        assert!(content(&volume).await == model);
        nothing_is_left_over(&world, std::slice::from_ref(&volume)).await;
        let live: u64 = model.chunks(512).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64 * 512;
        let stored = world.bucket.total_bytes();
        assert!(stored <= live * 2 + (3 << 19), "{stored} bytes for {live}");
    });
}

//! What an endpoint that is far away costs: objects go up, and come down, several at a time.

use super::*;
use crate::store::object::fault::{Action, Rule};
use crate::store::object::layer::Kind;

const LATENCY: Duration = Duration::from_millis(20);

fn slow(world: &World, kind: Kind) {
    world.faults.add(Rule::new(Action::Delay(LATENCY..LATENCY + Duration::from_nanos(1))).on(kind));
}

/// A volume whose bytes are in S3 only.
async fn cold(world: &World, len_bytes: u64) -> (Arc<CachedVolume>, Vec<u8>) {
    let volume = world.create("db", len_bytes).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; len_bytes as usize]);
    let bytes = noise(&mut random, len_bytes as usize);
    for (index, part) in bytes.chunks(1 << 20).enumerate() {
        write(&volume, &mut model, index as u64 * MIB, part).await;
    }
    drain(&volume).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.blobs.evict(volume.blob()).await.unwrap();
    (volume, model)
}

#[tokio::test(start_paused = true)]
async fn the_objects_of_a_batch_go_up_several_at_a_time_and_the_manifest_after_them() {
    let mut world = World::new().await;
    (world.home.settings.batch_bytes, world.home.settings.checkpoint_segments) = (8 << 20, 1_000);
    let volume = world.create("db", 16 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 16 << 20]);
    slow(&world, Kind::Put);
    let (puts, begin) = (world.meter.counts().of(Kind::Put), Instant::now());
    let bytes = noise(&mut random, 8 << 20);
    for (index, part) in bytes.chunks(1 << 20).enumerate() {
        write(&volume, &mut model, index as u64 * MIB, part).await;
    }
    while volume.usage().dirty_bytes > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let manifest = world.bucket.object(&Names::new("").manifest(volume.id())).unwrap();
        let manifest = crate::engine::volume::manifest::Manifest::decode(&manifest.bytes).unwrap();
        for name in manifest.state.segments_since() {
            assert!(world.bucket.object(&Names::new("").segment(name)).is_some(), "what is named is there");
        }
    }
    let (puts, took) = (world.meter.counts().of(Kind::Put) - puts, begin.elapsed());
    println!("{puts} PUTs in {took:?}");
    assert!(puts >= 33 && took < LATENCY * 10, "{puts} PUTs took {took:?}");
    assert!(content_in_s3(&world, volume.id()).await == model);
}

#[tokio::test(start_paused = true)]
async fn who_reads_from_front_to_back_does_not_wait_for_each_request() {
    let world = World::new().await;
    let (volume, model) = cold(&world, 16 * MIB).await;
    slow(&world, Kind::Get);
    let (gets, begin, step) = (world.meter.counts().of(Kind::Get), Instant::now(), 128 << 10);
    for at in (0..16 * MIB).step_by(step) {
        let read = volume.read(at..at + step as u64).await.unwrap().concat();
        assert!(read == model[at as usize..at as usize + step], "{at}");
    }
    let (gets, took) = (world.meter.counts().of(Kind::Get) - gets, begin.elapsed());
    println!("{gets} GETs in {took:?}");
    assert!(took < LATENCY * 24, "128 reads took {took:?}");
    assert!(gets <= 64 + 32, "a segment of 256 KiB is asked for about once: {gets}");
}

#[tokio::test(start_paused = true)]
async fn cold_reads_are_under_way_at_the_same_time() {
    let world = World::new().await;
    let (volume, model) = cold(&world, 16 * MIB).await;
    slow(&world, Kind::Get);
    // The map's page is known.
    volume.read(0..4096).await.unwrap();
    let begin = Instant::now();
    let volume = &volume;
    let reads = (1..33_u64).map(|index| async move {
        let at = (index * 37 % 64) * (256 << 10) + 64 * 1024;
        (at, volume.read(at..at + 4096).await.unwrap().concat())
    });
    for (at, bytes) in futures_util::future::join_all(reads).await {
        assert!(bytes == model[at as usize..at as usize + 4096], "{at}");
    }
    let took = begin.elapsed();
    println!("32 reads in {took:?}");
    assert!(took <= LATENCY * 3, "32 reads took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_hinted_at_is_there_when_it_is_read() {
    let world = World::new().await;
    let (volume, model) = cold(&world, 16 * MIB).await;
    volume.prefetch(8 * MIB..12 * MIB);
    volume.prefetch(15 * MIB..1 << 60);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gets = world.meter.counts().of(Kind::Get);
    for range in [8 * MIB..12 * MIB, 15 * MIB..16 * MIB] {
        let read = volume.blobs.try_read(volume.blob(), range.clone()).expect("it is here").unwrap().concat();
        assert!(read == model[range.start as usize..range.end as usize]);
    }
    assert_eq!(world.meter.counts().of(Kind::Get), gets);
}

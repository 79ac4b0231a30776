//! Objects that nothing names: found by the bucket alone, removed a day after they were found, and no others ever.

use super::*;
use crate::engine::volume::cached::Collection;
use crate::engine::volume::cached::attach::AttachError;
use crate::engine::volume::manifest::{Manifest, SnapshotRecord};
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, Body, ObjectStore, Precondition};

const HOUR: Duration = Duration::from_secs(3600);

async fn put(world: &World, key: &str) {
    let body = Body(vec![Bytes::from_static(b"stray")]);
    world.bucket.put(key, body, &Attributes::default(), &Precondition::None).await.unwrap();
}

async fn pass(world: &World, volumes: &[&Arc<CachedVolume>]) -> Collection {
    let volumes: Vec<Arc<CachedVolume>> = volumes.iter().map(|volume| (*volume).clone()).collect();
    world.home.collect(&volumes, false).await.unwrap()
}

fn name(volume: VolumeId, epoch: u64, number: u64) -> ObjectName {
    ObjectName { volume, epoch, number }
}

#[tokio::test(start_paused = true)]
async fn what_nothing_names_goes_a_day_after_it_was_found() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let mut model = vec![0; 4 << 20];
    write(&volume, &mut model, 0, &[1; 100 << 10]).await;
    drain(&volume).await;
    let other = World::of("other", world.bucket.clone()).await;
    let theirs = other.create("theirs", 4 * MIB).await;
    theirs.write(0, Bytes::from(vec![2; 100 << 10]), Stability::Cached).await.unwrap();
    drain(&theirs).await;
    let before = world.bucket.keys();
    let names = Names::new("");
    let (id, ghost) = (volume.id(), VolumeId([9; 16]));
    let ours = [
        names.segment(name(id, 0, 1)),
        names.segment(name(id, 1, 77)),
        names.pages(name(id, 1, 78)),
        names.checkpoint(name(id, 1, 79)),
        names.segment(name(theirs.id(), 0, 1)),
        names.segment(name(ghost, 1, 1)),
    ];
    let kept = [names.segment(name(theirs.id(), 1, 99)), names.segment(name(id, 2, 1)), format!("volumes/{id}/notes/mine")];
    for key in ours.iter().chain(&kept) {
        put(&world, key).await;
    }
    let all = world.bucket.keys();
    let dry = world.home.collect(std::slice::from_ref(&volume), true).await.unwrap();
    let mut expected = ours.to_vec();
    expected.sort();
    assert_eq!((dry.unreferenced, dry.removed, &dry.keys), (6, 0, &expected));
    tokio::time::sleep(30 * HOUR).await;
    let lists = world.meter.counts().of(Kind::List);
    assert_eq!(pass(&world, &[&volume]).await.removed, 0, "a dry run remembers nothing");
    assert_eq!(world.meter.counts().of(Kind::List) - lists, 1, "one listing");
    tokio::time::sleep(23 * HOUR).await;
    assert_eq!(pass(&world, &[&volume]).await.removed, 0);
    assert_eq!(world.bucket.keys(), all);
    // It is remembered over power losses.
    let world = world.again(Some(1)).await.unwrap();
    let volume = world.volume().await;
    tokio::time::sleep(HOUR).await;
    put(&world, &names.segment(name(id, 1, 80))).await;
    let dry = world.home.collect(std::slice::from_ref(&volume), true).await.unwrap();
    assert_eq!((dry.unreferenced, dry.removed, dry.removed_bytes), (7, 6, 30));
    let done = pass(&world, &[&volume]).await;
    assert_eq!((done.unreferenced, done.removed, done.removed_bytes), (7, 6, 30));
    let left: Vec<String> = world.bucket.keys().into_iter().filter(|key| !before.contains(key)).collect();
    let mut expected = kept.to_vec();
    expected.push(names.segment(name(id, 1, 80)));
    expected.sort();
    assert_eq!(left, expected);
    tokio::time::sleep(24 * HOUR).await;
    assert_eq!(pass(&world, &[&volume]).await.removed, 1, "what is found later waits as long");
    assert!(content_in_s3(&world, id).await == model && content(&volume).await == model);
    assert!(content_in_s3(&world, theirs.id()).await[..100 << 10] == [2; 100 << 10]);
}

#[tokio::test(start_paused = true)]
async fn what_a_gateway_left_that_was_cut_off_goes_and_what_it_published_stays() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let mut model = vec![0; 4 << 20];
    write(&volume, &mut model, 0, &[1; 600 << 10]).await;
    drain(&volume).await;
    let other = World::of("other", world.bucket.clone()).await;
    let attached = other.home.attach(volume.id(), None, true).await.unwrap();
    volume.write(0, Bytes::from(vec![9; 600 << 10]), Stability::Cached).await.unwrap();
    volume.hurry().await;
    tokio::time::sleep(HOUR).await;
    assert!(volume.is_fenced());
    for hours in [0, 24] {
        tokio::time::sleep(hours * HOUR).await;
        // Whoever does it.
        pass(&world, &[&volume]).await;
    }
    let found = pass(&other, &[&attached]).await;
    assert_eq!(found.unreferenced, 0, "{found:?}");
    assert_eq!(content(&attached).await, model);
    write(&attached, &mut model, 4096, &[3; 4096]).await;
    drain(&attached).await;
    assert!(content_in_s3(&world, volume.id()).await == model);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_or_kept_by_a_snapshot_or_a_clone_stays() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let (mut random, mut model) = (fastrand::Rng::with_seed(1), vec![0; 4 << 20]);
    let bytes = noise(&mut random, 2 << 20);
    write(&volume, &mut model, 0, &bytes).await;
    drain(&volume).await;
    let kept = volume.snapshot("").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (then, from) = (model.clone(), Some((volume.id(), Some(kept.snapshot))));
    let clone = world.home.create(&Create { len_bytes: None, from, ..create("clone", 0) }).await.unwrap();
    // The manifest hangs for days, with all segments of its batch in the bucket.
    world.faults.add(
        crate::store::object::fault::Rule::new(crate::store::object::fault::Action::Refuse(
            crate::store::object::ObjectError::SlowDown,
        ))
        .on(Kind::Put)
        .at(crate::store::object::fault::Keys::Is(Names::new("").manifest(volume.id()))),
    );
    let bytes = noise(&mut random, 2 << 20);
    write(&volume, &mut model, 0, &bytes).await;
    volume.hurry().await;
    for _ in 0..4 {
        tokio::time::sleep(24 * HOUR).await;
        let found = pass(&world, &[&volume, &clone]).await;
        assert_eq!((found.unreferenced, found.removed), (0, 0), "{found:?}");
    }
    world.faults.heal();
    drain(&volume).await;
    assert!(content_in_s3(&world, volume.id()).await == model);
    volume.delete_snapshot(kept.snapshot).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(24 * HOUR).await;
        pass(&world, &[&volume, &clone]).await;
    }
    world.blobs.evict(clone.blob()).await.unwrap();
    assert!(content(&clone).await == then, "a clone's pin keeps what it reads");
    // The pin of a clone that is gone goes as well, and then what it kept.
    let pin = Names::new("").snapshot(volume.id(), clone.id());
    let record = world.bucket.object(&pin).unwrap();
    world.home.delete(&clone).await.unwrap();
    world.bucket.put(&pin, Body(vec![record.bytes.clone()]), &Attributes::default(), &Precondition::None).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(24 * HOUR).await;
        pass(&world, &[&volume]).await;
    }
    assert!(world.bucket.object(&pin).is_none());
    world.home.delete(&volume).await.unwrap();
    assert_eq!(world.bucket.keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_ends_the_pass() {
    let world = World::new().await;
    let volume = world.create("db", 4 * MIB).await;
    let names = Names::new("");
    let stray = names.segment(name(volume.id(), 1, 77));
    put(&world, &stray).await;
    pass(&world, &[&volume]).await;
    tokio::time::sleep(25 * HOUR).await;
    let (future, broken) = (VolumeId([7; 16]), VolumeId([8; 16]));
    let manifest = Manifest { format: 2, ..Manifest::new(future, "future", 4 * MIB, 512) };
    let lost = State { checkpoint: Some(name(broken, 1, 1)), ..State::default() };
    let record = SnapshotRecord::new(broken, &Manifest::new(broken, "lost", 4 * MIB, 512), "", lost);
    for (key, body, reason) in [
        (names.manifest(future), manifest.encode(), "newer"),
        (names.manifest(future), b"{}".to_vec(), "volumes/0707"),
        (names.snapshot(volume.id(), broken), record.encode(), "checkpoint that is gone"),
    ] {
        world.bucket.put(&key, Body(vec![body.into()]), &Attributes::default(), &Precondition::None).await.unwrap();
        let refused: AttachError = world.home.collect(std::slice::from_ref(&volume), false).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
        assert!(world.bucket.object(&stray).is_some());
        world.bucket.delete(&key, None).await.unwrap();
    }
    assert_eq!(pass(&world, &[&volume]).await.removed, 1);
}

//! How many requests a change costs.

use std::time::Duration;

use bytes::Bytes;

use super::world::{OWNER, World, small_parts, small_settings};
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, Capabilities, ObjectStore, Precondition};
use crate::store::upload::Settings;

#[tokio::test(start_paused = true)]
async fn a_thousand_small_blobs_are_a_thousand_puts_and_nothing_else() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    for subject in 1..=1_000 {
        gateway.create(subject, &format!("d/{subject}"), format!("content {subject}").as_bytes()).await;
    }
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!(world.requests(Kind::Put), 1_000);
    assert_eq!(world.meter.counts().total(), 1_000);
    assert!(world.store.versions("d/17").len() == 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.jobs().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_renamed_directory_is_a_copy_each_and_few_deletes() {
    let world = World::new(small_parts(false), Settings::default());
    let gateway = world.open().await;
    for subject in 1..=1_000 {
        gateway.create(subject, &format!("old/{subject}"), b"x").await;
    }
    gateway.drain().await;
    let before = world.meter.counts();
    use crate::store::object::fault::{Action, Rule};
    world.faults.add(Rule::new(Action::Delay(Duration::from_millis(20)..Duration::from_millis(21))));
    for subject in 1..=1_000 {
        gateway.rename(subject, &format!("new/{subject}")).await;
    }
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    let counts = world.meter.counts();
    assert_eq!(counts.of(Kind::Copy) - before.of(Kind::Copy), 1_000);
    assert!(counts.of(Kind::DeleteMany) <= 10, "{}", counts.of(Kind::DeleteMany));
    assert_eq!(counts.total() - before.total(), 1_000 + counts.of(Kind::DeleteMany));
}

#[tokio::test(start_paused = true)]
async fn changes_within_the_delay_are_one_put_at_the_last_key() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    gateway.create(1, "first", b"one").await;
    gateway.touch(1, Duration::from_secs(2)).await;
    gateway.write(1, 3, b" two").await;
    gateway.touch(1, Duration::from_secs(2)).await;
    gateway.change(1, |want| want.mode = 0o600).await;
    gateway.rename(1, "last").await;
    gateway.drain().await;
    assert_eq!(world.meter.counts().total(), 1);
    assert_eq!(world.objects(), world.wanted());
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_its_date_and_each_wake_moves_it() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    gateway.create(1, "k", b"one").await;
    for _ in 0..10 {
        gateway.touch(1, Duration::from_secs(2)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.meter.counts().total(), 0);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(world.requests(Kind::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_that_are_there_are_not_sent_again() {
    for size in [100, 20_000] {
        let world = World::new(small_parts(true), small_settings());
        let gateway = world.open().await;
        let content: Vec<u8> = (0..size).map(|at| (at % 250) as u8).collect();
        gateway.create(1, "k", &content).await;
        gateway.drain().await;
        let before = world.meter.counts();
        gateway.write(1, 0, &content).await;
        gateway.drain().await;
        let counts = world.meter.counts();
        let (sent, copies) = (counts.total() - before.total(), counts.of(Kind::Copy));
        // Parts of 4 KiB have no digest of the whole: a large object is digested only where its parts are whole mebibytes.
        assert_eq!((sent, copies) == (1, 1), size == 100, "{size}: {sent}");
        assert_eq!(counts.up_bytes == before.up_bytes, size == 100);
    }
}

fn large() -> Settings {
    Settings { multipart_threshold_bytes: 3 << 20, part_bytes: 2 << 20, ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn large_bytes_that_are_there_are_not_sent_again_either() {
    let world = World::new(small_parts(true), large());
    let gateway = world.open().await;
    let content: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 249) as u8).collect();
    gateway.create(1, "k", &content).await;
    gateway.drain().await;
    assert_eq!(world.requests(Kind::MultipartPart), 3);
    let before = world.meter.counts();
    gateway.write(1, 0, &content).await;
    gateway.drain().await;
    let counts = world.meter.counts();
    assert_eq!((counts.total() - before.total(), counts.of(Kind::Copy)), (1, 1));
    assert_eq!(counts.up_bytes, before.up_bytes);
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_are_sent_where_the_object_is_gone_and_a_conflict_where_it_is_another() {
    for (settings, size) in [(Settings::default(), 100), (large(), 5_000_000)] {
        for theirs in [false, true] {
            let world = World::new(small_parts(true), settings.clone());
            let gateway = world.open().await;
            let content: Vec<u8> = (0..size).map(|at| (at % 249) as u8).collect();
            gateway.create(1, "k", &content).await;
            gateway.drain().await;
            if theirs {
                world
                    .store
                    .put("k", Bytes::from_static(b"theirs").into(), &Attributes::default(), &Precondition::None)
                    .await
                    .unwrap();
            } else {
                world.store.delete("k", None).await.unwrap();
            }
            gateway.write(1, 0, &content).await;
            gateway.drain().await;
            assert_eq!(gateway.model.conflicts.lock().len(), 1, "told, whatever becomes of it");
            assert_eq!(world.store.object("k.conflict").unwrap().bytes, content);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_touch_is_one_copy_in_place_without_a_body() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    gateway.create(1, "k", b"content").await;
    gateway.drain().await;
    let before = world.meter.counts();
    gateway.change(1, |want| want.mode = 0o755).await;
    gateway.drain().await;
    let counts = world.meter.counts();
    assert_eq!((counts.total() - before.total(), counts.of(Kind::Copy)), (1, 1));
    assert_eq!(counts.up_bytes, before.up_bytes);
    assert_eq!(world.store.object("k").unwrap().head.attributes.metadata["file-permissions"], "755");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_conditions_is_asked_by_head() {
    let capabilities =
        Capabilities { conditional_put: false, conditional_copy: false, conditional_delete: false, ..small_parts(true) };
    let world = World::new(capabilities, Settings::default());
    let gateway = world.open().await;
    gateway.create(1, "a", b"content").await;
    gateway.drain().await;
    gateway.rename(1, "b").await;
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!((world.requests(Kind::Put), world.requests(Kind::Copy), world.requests(Kind::Delete)), (1, 1, 1));
    assert_eq!(world.requests(Kind::Head), 3);
}

#[tokio::test(start_paused = true)]
async fn listings_are_told_what_was_touched() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    let clock = world.clock.clone();
    use crate::base::clock::Clock;
    gateway.create(1, "k", b"content").await;
    let asked_ns = clock.now_ns();
    gateway.drain().await;
    assert!(gateway.uploader.touched_since(OWNER, "k", asked_ns));
    assert!(!gateway.uploader.touched_since(OWNER, "other", asked_ns));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!gateway.uploader.touched_since(OWNER, "k", clock.now_ns()));
}

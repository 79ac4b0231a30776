//! Large objects: what is sent, what is copied, what is resumed; and memory.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::world::{World, small_parts, small_settings};
use crate::store::object::fault::{Action, Rule};
use crate::store::object::layer::{Answer, Kind, Layer, Request, layered};
use crate::store::object::{Capabilities, ObjectError};
use crate::store::upload::Settings;

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 7 % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn a_small_change_in_a_large_object_sends_little() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    gateway.create(1, "k", &content(1 << 20)).await;
    gateway.drain().await;
    for at in [0, 500_000, (1 << 20) - 100] {
        let before = world.meter.counts();
        gateway.write(1, at, b"changed").await;
        gateway.drain().await;
        let spent = world.meter.counts().since(&before);
        assert!(spent.up_bytes <= 4_096, "{} bytes sent", spent.up_bytes);
        assert!(spent.of(Kind::MultipartCopy) >= 1 && spent.total() <= 8, "{} requests", spent.total());
        assert!(world.objects() == world.wanted());
    }
}

#[tokio::test(start_paused = true)]
async fn with_the_sizes_of_s3_a_small_change_sends_one_smallest_part() {
    let world = World::new(Capabilities { versioned: false, ..Capabilities::AWS }, Settings::default());
    let gateway = world.open().await;
    gateway.create(1, "k", &content(48 << 20)).await;
    gateway.drain().await;
    assert_eq!(world.requests(Kind::MultipartPart), 6);
    let before = world.meter.counts();
    gateway.write(1, 20 << 20, &[9; 4096]).await;
    gateway.drain().await;
    let spent = world.meter.counts().since(&before);
    assert_eq!((spent.up_bytes, spent.of(Kind::MultipartCopy), spent.total()), (5 << 20, 2, 5));
    assert!(world.objects() == world.wanted());
}

#[tokio::test(start_paused = true)]
async fn without_part_copies_all_is_sent() {
    let world = World::new(Capabilities { part_copy: false, ..small_parts(true) }, small_settings());
    let gateway = world.open().await;
    gateway.create(1, "k", &content(50_000)).await;
    gateway.drain().await;
    gateway.write(1, 100, b"changed").await;
    gateway.drain().await;
    assert!(world.objects() == world.wanted());
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_after_a_restart() {
    let mut world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Delay(Duration::from_secs(2)..Duration::from_secs(3))).on(Kind::MultipartPart));
    gateway.create(1, "k", &content(200_000)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let parts = world.requests(Kind::MultipartPart);
    assert!((8..45).contains(&parts), "{parts}");
    world.crash(gateway).await;
    let gateway = world.open().await;
    gateway.drain().await;
    assert!(world.objects() == world.wanted());
    assert_eq!(world.requests(Kind::MultipartBegin), 1);
    // What was under way, and what came after the last record, was sent twice.
    assert!(world.requests(Kind::MultipartPart) <= 49 + 16, "{}", world.requests(Kind::MultipartPart));
    assert_eq!(gateway.uploader.counts()["multipart_resume"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_bytes_that_changed_since_is_aborted() {
    let mut world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Delay(Duration::from_secs(2)..Duration::from_secs(3))).on(Kind::MultipartPart));
    gateway.create(1, "k", &content(200_000)).await;
    gateway.create(2, "gone", &content(200_000)).await;
    gateway.create(3, "shrunk", &content(200_000)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.crash(gateway).await;
    world.faults.heal();
    world.faults.add(Rule::new(Action::Delay(Duration::from_secs(1)..Duration::from_secs(2))).on(Kind::Head));
    assert_eq!(world.store.pending().len(), 3);
    world.wants.lock().get_mut(&2).unwrap().key = None;
    world.wants.lock().get_mut(&3).unwrap().key = Some("moved".into());
    let gateway = world.open().await;
    gateway.write(1, 0, b"changed").await;
    gateway.drain().await;
    assert!(world.objects() == world.wanted());
    assert_eq!(world.store.pending(), Vec::<String>::new());
    assert_eq!(gateway.model.conflicts.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_part_does_not_begin_again() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::LoseRequest).on(Kind::MultipartPart).after(30).times(1));
    gateway.create(1, "k", &content(200_000)).await;
    gateway.drain().await;
    assert!(world.objects() == world.wanted());
    assert_eq!(world.requests(Kind::MultipartBegin), 1);
    assert!(world.requests(Kind::MultipartPart) <= 49 + 4);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_somebody_aborted_begins_again() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Refuse(ObjectError::NoSuchUpload)).on(Kind::MultipartPart).after(5).times(1));
    world.faults.add(Rule::new(Action::Refuse(ObjectError::NoSuchUpload)).on(Kind::MultipartCommit).times(1));
    gateway.create(1, "k", &content(60_000)).await;
    gateway.drain().await;
    assert!(world.objects() == world.wanted());
    assert_eq!(gateway.model.conflicts.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_base_that_is_replaced_is_told_to_the_planner() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    gateway.create(1, "k", &content(60_000)).await;
    gateway.drain().await;
    world.faults.add(Rule::new(Action::Refuse(ObjectError::PreconditionFailed)).on(Kind::MultipartCopy).times(1));
    gateway.write(1, 0, b"changed").await;
    gateway.drain().await;
    let ended: Vec<String> = gateway.model.ended.lock().iter().map(|(_, how)| how.clone()).collect();
    assert_eq!(ended, ["put", "put source changed", "put"]);
    assert_eq!(world.store.pending(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn objects_above_the_limit_of_a_copy_are_copied_in_parts() {
    let world = World::new(Capabilities { part_bytes_max: 30_000, ..small_parts(true) }, small_settings());
    let gateway = world.open().await;
    gateway.create(1, "k", &content(100_000)).await;
    gateway.drain().await;
    let before = world.meter.counts();
    gateway.rename(1, "moved").await;
    gateway.drain().await;
    gateway.change(1, |want| want.mode = 0o600).await;
    gateway.drain().await;
    let spent = world.meter.counts().since(&before);
    assert_eq!((spent.up_bytes, spent.of(Kind::Copy)), (0, 0));
    assert!(world.objects() == world.wanted());
    assert_eq!(world.store.object("moved").unwrap().head.attributes.metadata["file-permissions"], "600");
}

/// Bytes of bodies under way, and the most that there ever were.
#[derive(Default)]
struct InFlight {
    now: AtomicU64,
    most: AtomicU64,
}

impl Layer for InFlight {
    async fn around<T, C, F>(&self, request: Request<'_>, call: C) -> Result<T, ObjectError>
    where
        T: Answer,
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, ObjectError>> + Send,
    {
        let now = self.now.fetch_add(request.up_bytes, Ordering::SeqCst) + request.up_bytes;
        self.most.fetch_max(now, Ordering::SeqCst);
        let answer = call().await;
        self.now.fetch_sub(request.up_bytes, Ordering::SeqCst);
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_in_memory_are_bounded() {
    let mut world = World::new(small_parts(false), Settings { memory_bytes: 100 << 10, ..small_settings() });
    let in_flight = Arc::new(InFlight::default());
    world.bucket = layered(world.bucket.clone(), in_flight.clone());
    world.faults.add(Rule::new(Action::Delay(Duration::from_millis(50)..Duration::from_millis(90))));
    let gateway = world.open().await;
    for subject in 1..=60 {
        gateway.create(subject, &format!("k{subject}"), &content(15_000 + 1_000 * subject as usize)).await;
    }
    gateway.drain().await;
    assert!(world.objects() == world.wanted());
    let most = in_flight.most.load(Ordering::SeqCst);
    assert!((30_000..=50 << 10).contains(&most), "{most}");
}

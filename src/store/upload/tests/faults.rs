//! Lost answers, foreign writers, and everything at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::world::{Gateway, OWNER, World, small_parts, small_settings};
use crate::base::seeds;
use crate::store::blob::{Batch, BlobChange};
use crate::store::object::fault::{Action, Keys, Rule};
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, Capabilities, ObjectError, ObjectStore, Precondition, UploadId};
use crate::store::upload::Settings;

/// No false conflict, what is wanted is there, no upload is left open.
pub(super) async fn ends_well(world: &World, gateway: &Gateway, context: &str) {
    gateway.drain().await;
    assert_eq!(world.store.pending(), Vec::<String>::new(), "{context}");
    agrees(world, gateway, context);
}

pub(super) fn agrees(world: &World, gateway: &Gateway, context: &str) {
    assert_eq!(world.objects(), world.wanted(), "{context}");
    assert_eq!(gateway.model.conflicts.lock().len(), 0, "{context}");
}

/// Objects that were written at a key, without delete markers.
fn written(world: &World, key: &str) -> usize {
    world.store.versions(key).iter().filter(|version| version.object.is_some()).count()
}

/// Delete markers at a key.
fn markers(world: &World, key: &str) -> usize {
    world.store.versions(key).len() - written(world, key)
}

const LOSSES: [Action; 5] = [Action::LoseAnswer, Action::LoseRequest, Action::HangAfter, Action::Hang, Action::CutBody];

/// With and without conditions at the endpoint.
fn endpoints() -> [Capabilities; 2] {
    let conditional = small_parts(true);
    let plain = Capabilities { conditional_put: false, conditional_copy: false, conditional_delete: false, ..conditional };
    [conditional, plain]
}

#[tokio::test(start_paused = true)]
async fn the_lost_answer_of_any_write_makes_no_conflict_and_one_version() {
    let kinds = [
        Kind::Put,
        Kind::Copy,
        Kind::Delete,
        Kind::DeleteMany,
        Kind::MultipartBegin,
        Kind::MultipartPart,
        Kind::MultipartCopy,
        Kind::MultipartCommit,
        Kind::MultipartAbort,
    ];
    for capabilities in endpoints() {
        for kind in kinds {
            for action in LOSSES {
                // Also with the HEAD that asks what became of it.
                for deaf in [false, true] {
                    lost_answer(capabilities, kind, action.clone(), deaf).await;
                }
            }
        }
    }
}

async fn lost_answer(capabilities: Capabilities, kind: Kind, action: Action, deaf: bool) {
    let context = format!("{kind:?} {action:?}, deaf {deaf}, conditions {}", capabilities.conditional_put);
    let world = World::new(capabilities, small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(action.clone()).on(kind).times(1));
    if deaf && !matches!(kind, Kind::MultipartBegin | Kind::MultipartPart | Kind::MultipartCopy | Kind::MultipartAbort) {
        world.faults.add(Rule::new(Action::Hang).on(Kind::Head).times(1));
    }
    for step in 0..4 {
        match step {
            0 => {
                gateway.create(1, "small", b"content").await;
                gateway.create(2, "large", &[7; 40_000]).await;
            }
            1 => {
                gateway.write(2, 20_000, &[8; 100]).await;
                gateway.change(1, |want| want.mode = 0o600).await;
            }
            2 => {
                gateway.rename(1, "small moved").await;
                gateway.rename(2, "large moved").await;
            }
            _ => {
                gateway.remove(1).await;
                gateway.remove(2).await;
            }
        }
        gateway.drain().await;
        agrees(&world, &gateway, &format!("{context}, step {step}"));
        assert_eq!(world.store.pending(), Vec::<String>::new(), "{context}, step {step}");
    }
    for (key, versions) in [("small", 2), ("large", 2), ("small moved", 1), ("large moved", 1)] {
        assert_eq!((written(&world, key), markers(&world, key)), (versions, 1), "{context}: {key}");
    }
}

/// An upload that is not ours, and never ends.
async fn begin_of_others(world: &World, key: &str) -> UploadId {
    world.store.multipart_begin(key, &Attributes::default()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn uploads_whose_begin_was_not_answered_are_ended_and_no_others() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    let before = begin_of_others(&world, "large").await;
    let beside = begin_of_others(&world, "large too").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.faults.add(Rule::new(Action::HangAfter).on(Kind::MultipartBegin).times(3));
    gateway.create(1, "large", &[7; 40_000]).await;
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    let left: Vec<UploadId> = world.store.multipart_list("").await.unwrap().into_iter().map(|one| one.upload).collect();
    assert_eq!(left, [before, beside]);
    // Three were lost: one listing, and an abort each.
    assert_eq!((world.requests(Kind::MultipartList), world.requests(Kind::MultipartAbort)), (1, 3));
    assert_eq!(world.requests(Kind::MultipartBegin), 4);
    // What is never lost costs nothing.
    gateway.create(2, "larger", &[8; 50_000]).await;
    gateway.drain().await;
    assert_eq!((world.requests(Kind::MultipartList), world.requests(Kind::MultipartAbort)), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_lost_upload_is_ended_also_after_a_restart_and_where_nothing_is_uploaded_any_more() {
    for dies in [false, true] {
        let mut world = World::new(small_parts(true), small_settings());
        let mut gateway = world.open().await;
        world.faults.add(Rule::new(Action::HangAfter).on(Kind::MultipartBegin).times(1));
        gateway.create(1, "large", &[7; 40_000]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.store.pending(), ["large"]);
        if dies {
            world.crash(gateway).await;
            // Long after, and by another clock.
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            world.wants.lock().get_mut(&1).unwrap().key = None;
            gateway = world.open().await;
        } else {
            gateway.remove(1).await;
        }
        let other = begin_of_others(&world, "large").await;
        tokio::time::sleep(Duration::from_secs(if dies { 5 } else { 100 })).await;
        gateway.drain().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let left: Vec<UploadId> = world.store.multipart_list("").await.unwrap().into_iter().map(|one| one.upload).collect();
        // Within the seconds of the lost begin another's cannot be told from it.
        let told_apart = if dies { vec![other] } else { vec![] };
        assert_eq!(left, told_apart, "dies: {dies}");
        assert_eq!(gateway.jobs().await, [], "dies: {dies}");
        assert!(world.objects().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn where_uploads_cannot_be_listed_a_lost_one_is_left_and_holds_nothing_up() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::LoseAnswer).on(Kind::MultipartBegin).times(1));
    world.faults.add(Rule::new(Action::Refuse(ObjectError::Denied("no listing".into()))).on(Kind::MultipartList));
    gateway.create(1, "large", &[7; 40_000]).await;
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!((world.store.pending().len(), world.requests(Kind::MultipartList)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_file_is_removed_ends_and_its_room_comes_free() {
    for (kind, bytes) in
        [(Kind::Put, 10_000), (Kind::MultipartBegin, 40_000), (Kind::MultipartPart, 40_000), (Kind::MultipartCommit, 40_000)]
    {
        let world = World::new(small_parts(true), small_settings());
        let gateway = world.open().await;
        world.faults.add(Rule::new(Action::Hang).on(kind));
        gateway.create(1, "k", &vec![7; bytes]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let blob = world.wants.lock()[&1].blob;
        let mut batch = Batch::new();
        batch.blob(BlobChange::Remove { id: blob });
        gateway.blobs.apply(OWNER, batch).await.unwrap();
        gateway.remove(1).await;
        assert!(gateway.blobs.usage(OWNER).dirty_bytes >= bytes as u64, "{kind:?}: it is being sent");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(gateway.blobs.usage(OWNER).dirty_bytes, 0, "{kind:?}");
        world.faults.heal();
        ends_well(&world, &gateway, &format!("{kind:?}")).await;
        assert_eq!(written(&world, "k"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_nearly_done_when_its_file_is_removed_is_let_end() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Delay(Duration::from_millis(1_500)..Duration::from_millis(1_600))).on(Kind::Put));
    gateway.create(1, "k", b"content").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.remove(1).await;
    gateway.drain().await;
    assert_eq!((written(&world, "k"), world.requests(Kind::Put), world.requests(Kind::Head)), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_it_is_known_what_the_endpoint_does() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    gateway.create(3, "gone", b"old").await;
    gateway.drain().await;
    world.store.set_unknown(true);
    let before = world.meter.counts();
    gateway.create(1, "small", b"content").await;
    gateway.create(2, "large", &[7; 40_000]).await;
    gateway.remove(3).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.meter.counts().since(&before).total(), 0);
    // Somebody else comes first; and each answer is lost once.
    world
        .store
        .put("small", bytes::Bytes::from_static(b"foreign").into(), &Attributes::default(), &Precondition::None)
        .await
        .unwrap();
    for kind in [Kind::Put, Kind::MultipartCommit, Kind::Delete] {
        world.faults.add(Rule::new(Action::LoseAnswer).on(kind).times(1));
    }
    world.store.set_unknown(false);
    gateway.drain().await;
    assert_eq!(world.objects()["small"], b"foreign");
    assert_eq!(gateway.model.conflicts.lock().len(), 1);
    assert_eq!((written(&world, "small"), written(&world, "small.conflict"), written(&world, "large")), (1, 1, 1));
    assert_eq!(markers(&world, "gone"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_put_is_found_before_the_file_moves_on() {
    for capabilities in endpoints() {
        let world = World::new(capabilities, Settings::default());
        let gateway = world.open().await;
        world.faults.add(Rule::new(Action::LoseAnswer).on(Kind::Put).times(1));
        let looks_first = u64::from(!capabilities.conditional_put);
        world.faults.add(Rule::new(Action::Hang).on(Kind::Head).at(Keys::Is("old".into())).after(looks_first).times(1));
        gateway.create(1, "old", b"content").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        gateway.rename(1, "new").await;
        ends_well(&world, &gateway, "renamed").await;
        assert_eq!((written(&world, "old"), written(&world, "new")), (1, 1));
        assert_eq!((world.requests(Kind::Put), world.requests(Kind::Copy)), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_delete_is_found_before_the_name_is_used_again() {
    for capabilities in endpoints() {
        let world = World::new(capabilities, Settings::default());
        let gateway = world.open().await;
        gateway.create(1, "k", b"content").await;
        gateway.drain().await;
        world.faults.add(Rule::new(Action::LoseAnswer).on(Kind::Delete).times(1));
        if capabilities.conditional_delete {
            world.faults.add(Rule::new(Action::Hang).on(Kind::Head).times(1));
        }
        gateway.remove(1).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        gateway.change(1, |want| want.key = Some("k".into())).await;
        gateway.write(1, 0, b"CONTENT").await;
        ends_well(&world, &gateway, "made again").await;
        assert_eq!((written(&world, "k"), markers(&world, "k")), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_is_a_conflict_and_is_never_overwritten() {
    for capabilities in endpoints() {
        let world = World::new(capabilities, small_settings());
        let gateway = world.open().await;
        let foreign = |key: &'static str| {
            let store = world.store.clone();
            async move {
                store
                    .put(key, bytes::Bytes::from(format!("foreign {key}")).into(), &Attributes::default(), &Precondition::None)
                    .await
                    .unwrap();
            }
        };
        let theirs = |key: &str| world.store.object(key).unwrap().bytes == format!("foreign {key}");
        foreign("new").await;
        foreign("new large").await;
        gateway.create(1, "new", b"ours").await;
        gateway.create(2, "new large", &[1; 40_000]).await;
        gateway.create(3, "changed", b"ours").await;
        gateway.create(4, "moved", b"ours").await;
        gateway.create(5, "removed", b"ours").await;
        gateway.drain().await;
        for key in ["changed", "moved to", "removed"] {
            foreign(key).await;
        }
        gateway.write(3, 0, b"OURS").await;
        gateway.rename(4, "moved to").await;
        gateway.remove(5).await;
        gateway.drain().await;
        for key in ["new", "new large", "changed", "moved to", "removed"] {
            assert!(theirs(key), "{key}");
        }
        let mut conflicts: Vec<u64> = gateway.model.conflicts.lock().iter().map(|(subject, _)| *subject).collect();
        conflicts.sort_unstable();
        assert_eq!(conflicts, [1, 2, 3, 4, 5]);
        assert_eq!(world.store.object("changed.conflict").unwrap().bytes, "OURS");
        assert_eq!(world.store.object("new large.conflict").unwrap().bytes.len(), 40_000);
        assert_eq!(world.store.pending(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_somebody_deleted_is_a_conflict_with_nothing() {
    for capabilities in endpoints() {
        let world = World::new(capabilities, Settings::default());
        let gateway = world.open().await;
        gateway.create(1, "k", b"ours").await;
        gateway.drain().await;
        world.store.delete("k", None).await.unwrap();
        gateway.write(1, 0, b"OURS").await;
        gateway.drain().await;
        assert_eq!(*gateway.model.conflicts.lock(), [(1, None)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_done_before_a_crash_is_adopted_after_it() {
    for capabilities in endpoints() {
        for large in [false, true] {
            let mut world = World::new(capabilities, small_settings());
            let gateway = world.open().await;
            let content = vec![3; if large { 40_000 } else { 100 }];
            gateway.model.hold.store(true, Ordering::SeqCst);
            gateway.create(1, "k", &content).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(world.store.keys(), ["k"]);
            world.crash(gateway).await;
            let gateway = world.open().await;
            ends_well(&world, &gateway, "put").await;
            assert_eq!(written(&world, "k"), 1, "large {large}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_that_a_crash_cuts_off_is_adopted() {
    for capabilities in endpoints() {
        for size in [100, 40_000] {
            for change in ["chmod", "rename", "remove", "write"] {
                let context = format!("{change} of {size}, conditions {}", capabilities.conditional_put);
                let mut world = World::new(capabilities, small_settings());
                let gateway = world.open().await;
                gateway.create(1, "k", &vec![3; size]).await;
                gateway.drain().await;
                gateway.model.hold.store(true, Ordering::SeqCst);
                match change {
                    "chmod" => gateway.change(1, |want| want.mode = 0o600).await,
                    "rename" => gateway.rename(1, "moved").await,
                    "remove" => gateway.remove(1).await,
                    _ => gateway.write(1, 10, b"other").await,
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
                let before = world.store.versions("k").len() + world.store.versions("moved").len();
                world.crash(gateway).await;
                let gateway = world.open().await;
                ends_well(&world, &gateway, &context).await;
                let after = world.store.versions("k").len() + world.store.versions("moved").len();
                // A rename has its delete to come.
                assert_eq!(after - before, usize::from(change == "rename"), "{context}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_written_after_a_crash_replace_the_upload_that_was_never_recorded() {
    for size in [100, 40_000] {
        let mut world = World::new(small_parts(true), small_settings());
        let gateway = world.open().await;
        gateway.model.hold.store(true, Ordering::SeqCst);
        gateway.create(1, "k", &vec![3; size]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.crash(gateway).await;
        world.faults.add(Rule::new(Action::Delay(Duration::from_secs(1)..Duration::from_secs(2))));
        let gateway = world.open().await;
        gateway.write(1, 0, b"newer").await;
        ends_well(&world, &gateway, "newer bytes").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_could_not_be_recorded_is_found_again() {
    for capabilities in endpoints() {
        let world = World::new(capabilities, Settings::default());
        let gateway = world.open().await;
        gateway.model.fail_done.store(2, Ordering::SeqCst);
        gateway.create(1, "k", b"content").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        gateway.remove(1).await;
        ends_well(&world, &gateway, "removed").await;
        assert_eq!((written(&world, "k"), markers(&world, "k")), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn small_bodies_are_found_again_too() {
    for capabilities in endpoints() {
        let mut world = World::new(capabilities, Settings::default());
        let gateway = world.open().await;
        world.faults.add(Rule::new(Action::LoseAnswer).on(Kind::Put).times(1));
        gateway.link(1, "link", "target").await;
        ends_well(&world, &gateway, "lost").await;
        gateway.model.hold.store(true, Ordering::SeqCst);
        gateway.change(1, |want| want.content = b"another".to_vec()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.crash(gateway).await;
        let gateway = world.open().await;
        gateway.rename(1, "moved").await;
        ends_well(&world, &gateway, "crashed").await;
        assert_eq!((written(&world, "link"), markers(&world, "link"), written(&world, "moved")), (2, 1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_planner_that_panics_fails_its_job_only() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    gateway.model.panic_plan.store(3, Ordering::SeqCst);
    for subject in 1..=10 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    ends_well(&world, &gateway, "panic").await;
}

#[test]
fn in_any_weather_the_bucket_ends_as_it_should() {
    seeds::worlds(30, 5_000, async |seed| any_weather(seed, endpoints()[usize::from(seed % 3 == 0)]).await);
}

async fn any_weather(seed: u64, capabilities: Capabilities) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(capabilities, small_settings());
    let mut gateway = world.open().await;
    world.faults.chaos(0.15);
    let mut next = 0;
    let mut lives = 0;
    for step in 0..60 {
        let live: Vec<u64> =
            world.wants.lock().iter().filter(|(_, want)| want.key.is_some()).map(|(subject, _)| *subject).collect();
        match random.u8(..10) {
            0..3 => {
                next += 1;
                let size = if random.bool() { random.usize(..100) } else { random.usize(16_000..60_000) };
                gateway.create(next, &format!("k{next}"), &vec![random.u8(..); size]).await;
            }
            3..6 if !live.is_empty() => {
                let subject = live[random.usize(..live.len())];
                gateway.write(subject, random.usize(..40_000), &vec![random.u8(..); random.usize(1..3_000)]).await;
            }
            6 if !live.is_empty() => gateway.rename(live[random.usize(..live.len())], &format!("moved {step}")).await,
            7 if !live.is_empty() => {
                gateway.change(live[random.usize(..live.len())], |want| want.mode = step).await;
            }
            8 if !live.is_empty() => gateway.remove(live[random.usize(..live.len())]).await,
            9 if capabilities.conditional_put && random.u8(..3) == 0 => {
                lives += 1;
                world.crash(gateway).await;
                gateway = world.open().await;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..1_500))).await;
    }
    world.faults.heal();
    gateway.drain().await;
    assert_eq!(gateway.model.conflicts.lock().len(), 0, "seed {seed}, {lives} lives");
    let keys = |map: &std::collections::BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&world.objects()), keys(&world.wanted()), "seed {seed}, {lives} lives");
    assert!(world.objects() == world.wanted(), "seed {seed}, {lives} lives");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.jobs().await, [], "seed {seed}");
}

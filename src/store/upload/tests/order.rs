//! Order on keys, waking and waiting, restarts.

use std::sync::Arc;
use std::time::Duration;

use super::world::{Model, OWNER, Wants, Whole, World, small_parts, small_settings};
use crate::base::id::OwnerId;
use crate::store::blob::Portion;
use crate::store::object::fault::{Action, Death, Faults, Keys, Rule};
use crate::store::object::layer::{Kind, layered};
use crate::store::object::memory::MemoryStore;
use crate::store::object::{ObjectError, Outcome};
use crate::store::upload::Settings;

const LONG: Action = Action::Delay(Duration::from_secs(5)..Duration::from_secs(6));

#[tokio::test(start_paused = true)]
async fn a_write_during_an_upload_is_a_second_put_and_nothing_is_mixed() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.add(Rule::new(LONG).on(Kind::Put).times(1));
    gateway.create(1, "k", &[1; 9_000]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.write(1, 0, &[2; 4_096]).await;
    gateway.write(1, 8_000, &[2; 4_096]).await;
    gateway.drain().await;
    let versions = world.store.versions("k");
    let bodies: Vec<_> = versions.iter().map(|version| version.object.clone().unwrap().bytes.to_vec()).collect();
    assert_eq!(bodies, [vec![1; 9_000], world.wants.lock()[&1].content.clone()]);
    assert_eq!(gateway.model.conflicts.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_renames_comes_out_right() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    for subject in 1..=4 {
        gateway.create(subject, &format!("k{subject}"), format!("content {subject}").as_bytes()).await;
    }
    gateway.drain().await;
    world.faults.add(Rule::new(Action::Delay(Duration::ZERO..Duration::from_secs(1))));
    for subject in 1..=4 {
        gateway.rename(subject, &format!("k{}", subject + 1)).await;
    }
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!(gateway.model.conflicts.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_removed_and_made_again_ends_as_the_new_one() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Delay(Duration::ZERO..Duration::from_secs(1))));
    for round in 0..10_u64 {
        gateway.create(round, "k", format!("content {round}").as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(150 * round)).await;
        gateway.remove(round).await;
    }
    gateway.create(99, "k", b"the last").await;
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!(gateway.model.conflicts.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn finish_waits_for_one_job_and_says_why_it_fails() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    gateway.create(1, "k", b"content").await;
    gateway.touch(1, Duration::from_secs(3600)).await;
    assert_eq!(gateway.uploader.finish(OWNER, 1, Duration::from_secs(1)).await, Ok(()));
    assert_eq!(world.objects(), world.wanted());
    world.faults.kill(Death::Refusing);
    gateway.write(1, 0, b"CONTENT").await;
    let error = gateway.uploader.finish(OWNER, 1, Duration::from_secs(10)).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
    assert_eq!(gateway.uploader.finish(OWNER, 42, Duration::from_secs(1)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn finish_ends_in_time_where_nobody_answers_and_waits_for_a_slow_one() {
    let world = World::new(small_parts(true), small_settings());
    let gateway = world.open().await;
    world.faults.kill(Death::Silent);
    gateway.create(1, "k", b"content").await;
    let start = tokio::time::Instant::now();
    let error = gateway.uploader.finish(OWNER, 1, Duration::from_secs(3)).await.unwrap_err();
    assert!(error.contains("did not answer"), "{error}");
    assert_eq!(start.elapsed().as_millis() / 10, 300);
    world.faults.heal();
    tokio::time::sleep(Faults::PATIENCE * 2).await;
    // Parts arrive one by one: slower in all than the limit, faster each.
    let slow = Action::Delay(Duration::from_millis(1_500)..Duration::from_millis(1_600));
    world.faults.add(Rule::new(slow).on(Kind::MultipartPart));
    gateway.create(2, "large", &vec![7; 96 << 10]).await;
    let start = tokio::time::Instant::now();
    assert_eq!(gateway.uploader.finish(OWNER, 2, Duration::from_secs(3)).await, Ok(()));
    assert!(start.elapsed() > Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(world.objects(), world.wanted());
}

#[tokio::test(start_paused = true)]
async fn jobs_survive_a_restart() {
    let mut world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.kill(Death::Silent);
    for subject in 1..=20 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    world.crash(gateway).await;
    world.faults.heal();
    let gateway = world.open().await;
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.jobs().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_wake_in_any_instant_of_an_upload_is_not_lost() {
    for wait_us in (0..120_000).step_by(1_700) {
        let world = World::new(small_parts(true), Settings::default());
        let gateway = world.open().await;
        world.faults.add(Rule::new(Action::Delay(Duration::from_millis(5)..Duration::from_millis(6))));
        gateway.create(1, "k", b"one").await;
        tokio::time::sleep(Duration::from_micros(wait_us)).await;
        gateway.write(1, 0, b"two").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.objects(), world.wanted(), "woken after {wait_us} us");
        assert_eq!(gateway.jobs().await, [], "woken after {wait_us} us");
    }
}

#[tokio::test(start_paused = true)]
async fn dead_buckets_do_not_stop_another_owner() {
    let settings = Settings { memory_bytes: 64 << 10, ..Settings::default() };
    let world = World::new(small_parts(true), settings);
    let gateway = world.open().await;
    let mut dead = Vec::new();
    for other in [8, 9, 10].map(OwnerId) {
        let store = Arc::new(MemoryStore::new(world.clock.clone(), small_parts(true)));
        let faults = Arc::new(Faults::new(2));
        let bucket = layered(store.clone(), faults.clone());
        faults.kill(Death::Silent);
        let portion = Portion { guaranteed_bytes: 1 << 20, maximum_bytes: 100 << 20 };
        gateway.blobs.register(other, Arc::new(Whole(bucket.clone())), portion);
        let wants = Wants::default();
        let model = Arc::new(Model::new(other, gateway.blobs.clone(), wants.clone()));
        gateway.uploader.register(other, "gw", bucket, model).await.unwrap();
        for subject in 1..=50_u64 {
            let id = u64::from(other.0) * 1_000 + subject;
            gateway.create_for(other, &wants, id, &format!("k{subject}"), &[1; 8_000]).await;
        }
        dead.push((other, store, faults));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = tokio::time::Instant::now();
    for subject in 1..=50 {
        gateway.create(subject, &format!("k{subject}"), &[1; 8_000]).await;
    }
    gateway.drain().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(world.objects(), world.wanted());
    for (other, store, faults) in dead {
        faults.heal();
        assert!(gateway.uploader.drain(other, Some(Duration::from_secs(300)), &|_| false).await);
        assert_eq!(store.keys().len(), 50);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_few_requests_and_heals_by_itself() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.kill(Death::Refusing);
    for subject in 1..=500 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let during = world.meter.counts().total();
    assert!((50..1_500).contains(&during), "{during} requests in an hour");
    let status = gateway.uploader.status();
    assert_eq!(status.len(), 500);
    assert!(status.iter().any(|job| job.attempts >= 1 && job.error.contains("refused")));
    world.faults.heal();
    tokio::time::sleep(Duration::from_secs(125)).await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!(gateway.uploader.status(), []);
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_cost_few_requests_and_are_said_once() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Refuse(ObjectError::Credentials("InvalidAccessKeyId".into()))));
    for subject in 1..=500 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    assert_eq!(gateway.uploader.endpoint_trouble(OWNER), None);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let during = world.meter.counts().total();
    assert!((50..1_500).contains(&during), "{during} requests in an hour");
    let said = gateway.uploader.endpoint_trouble(OWNER);
    assert!(said.as_deref().is_some_and(|said| said.contains("InvalidAccessKeyId")), "{said:?}");
    // A new job asks no more than the others.
    gateway.create(501, "k501", b"content").await;
    assert!(
        gateway
            .uploader
            .finish(OWNER, 501, Duration::from_secs(3))
            .await
            .is_err_and(|error| error.contains("InvalidAccessKeyId"))
    );
    world.faults.heal();
    tokio::time::sleep(Duration::from_secs(125)).await;
    assert_eq!(world.objects(), world.wanted());
    assert_eq!((gateway.uploader.status(), gateway.uploader.endpoint_trouble(OWNER)), (vec![], None));
}

#[tokio::test(start_paused = true)]
async fn who_waits_presses_again_where_the_first_try_fails() {
    let settings = Settings { backoff_max: Duration::from_secs(3600), ..Settings::default() };
    let world = World::new(small_parts(true), settings);
    let gateway = world.open().await;
    world.faults.kill(Death::Refusing);
    for subject in 1..=20 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    for round in 0..5_u64 {
        gateway.create(100 + round, &format!("waited for {round}"), b"content").await;
        let start = tokio::time::Instant::now();
        let (finished, ()) = tokio::join!(gateway.uploader.finish(OWNER, 100 + round, Duration::from_secs(20)), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            world.faults.heal();
        });
        assert_eq!(finished, Ok(()), "round {round}");
        assert!(start.elapsed() < Duration::from_secs(10), "round {round}: {:?}", start.elapsed());
        world.faults.kill(Death::Refusing);
        for subject in 1..=20 {
            gateway.write(subject, 0, &round.to_le_bytes()).await;
        }
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn close_lets_what_runs_end_within_its_grace() {
    let mut world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.add(Rule::new(LONG).on(Kind::Put));
    gateway.create(1, "k", b"content").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.create(2, "late", b"content").await;
    let start = tokio::time::Instant::now();
    gateway.uploader.close(Duration::from_secs(1)).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(world.store.keys(), Vec::<String>::new());
    world.crash(gateway).await;
    let gateway = world.open().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.uploader.close(Duration::from_secs(60)).await;
    assert_eq!(world.objects(), world.wanted());
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_denied_hold_up_no_others() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::Refuse(ObjectError::Denied("by a policy".into()))).at(Keys::Below("denied/".into())));
    for subject in 1..=500 {
        gateway.create(subject, &format!("denied/{subject}"), b"content").await;
    }
    for subject in 501..=600 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.store.keys().len(), 100);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    gateway.create(1_000, "late", b"content").await;
    assert_eq!(gateway.uploader.finish(OWNER, 1_000, Duration::from_secs(3)).await, Ok(()));
    world.faults.heal();
    gateway.drain().await;
    assert_eq!(world.objects(), world.wanted());
}

#[tokio::test(start_paused = true)]
async fn keys_that_the_endpoint_fails_at_let_others_go_first() {
    let world = World::new(small_parts(true), Settings::default());
    let gateway = world.open().await;
    let broken = ObjectError::Unavailable { reason: "500".into(), outcome: Outcome::Refused };
    world.faults.add(Rule::new(Action::Refuse(broken)).at(Keys::Below("broken/".into())));
    for subject in 1..=50 {
        gateway.create(subject, &format!("broken/{subject}"), b"content").await;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // Who waits is tried at once.
    gateway.create(1_000, "waited for", b"content").await;
    assert_eq!(gateway.uploader.finish(OWNER, 1_000, Duration::from_secs(1)).await, Ok(()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for subject in 1_001..=1_100 {
        gateway.create(subject, &format!("k{subject}"), b"content").await;
    }
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert_eq!(world.store.keys().len(), 101);
}

//! Writes that arrive after they were given up.

use std::time::Duration;

use super::faults::{agrees, ends_well};
use super::world::{World, small_parts, small_settings};
use crate::store::object::fault::{Action, Rule};
use crate::store::object::layer::Kind;
use crate::store::object::{Body, ObjectStore, Precondition};
use crate::store::upload::Settings;

/// What was sent stays in the network after its connection was given up, and arrives when the file is elsewhere or nowhere.
#[tokio::test(start_paused = true)]
async fn a_write_that_arrives_after_it_was_given_up_leaves_nothing() {
    let bucket = small_parts(false);
    for (size, change, lives) in [(100, "remove", 1), (100, "rename", 1), (40_000, "remove", 1), (100, "remove", 2)] {
        let context = format!("{change} of {size}, {lives} lives");
        let mut world = World::new(bucket, small_settings());
        let mut gateway = world.open().await;
        for kind in [Kind::Put, Kind::MultipartCommit] {
            world.faults.add(Rule::new(Action::HangAfter).on(kind).times(1));
        }
        gateway.create(1, "k", &vec![3; size]).await;
        while world.store.object("k").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let late = world.store.object("k").unwrap();
        world.store.delete("k", None).await.unwrap();
        match change {
            "rename" => gateway.rename(1, "moved").await,
            _ => gateway.remove(1).await,
        }
        if lives == 2 {
            world.crash(gateway).await;
            gateway = world.open().await;
        }
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(world.objects().len(), 0, "{context}");
        world.store.put("k", Body(vec![late.bytes.clone()]), &late.head.attributes, &Precondition::Absent).await.unwrap();
        ends_well(&world, &gateway, &context).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(gateway.jobs().await, [], "{context}");
    }
}

/// Who needs the key of a write that was given up does not wait for what may still arrive: the one condition excludes the other.
#[tokio::test(start_paused = true)]
async fn a_new_file_at_the_key_of_a_lost_write_is_uploaded_at_once() {
    let world = World::new(small_parts(false), Settings::default());
    let gateway = world.open().await;
    world.faults.add(Rule::new(Action::LoseRequest).on(Kind::Put).times(1));
    gateway.create(1, "k", b"removed").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gateway.remove(1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(gateway.jobs().await.len(), 1, "it is looked for once more");
    gateway.create(2, "k", b"new").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    agrees(&world, &gateway, "new");
}

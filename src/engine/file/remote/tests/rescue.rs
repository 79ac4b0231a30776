//! Bytes that somebody else destroyed while part of the file was written here: what is cached or written meanwhile stays.

use crate::store::object::fault::{Action, Rule};

use super::*;

const MIB: usize = 1 << 20;

/// A large object of somebody's, open here for writing with its first bytes written and nothing else cached.
async fn partly_written(world: &World) -> (Gateway, Opened) {
    let gateway = world.gateway("gw").await;
    world.put("a", &"x".repeat(3 * MIB), &[]).await;
    let opened = gateway.open_to_write("a").await.unwrap();
    gateway.put_at(&opened, MIB / 2, b"ours").await;
    (gateway, opened)
}

fn ours(world: &World) -> String {
    let keys = world.keys();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
    world.body(&keys[1]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_written_meanwhile_is_neither_overwritten_nor_zeroed() {
    let world = World::new();
    let (gateway, opened) = partly_written(&world).await;
    world.put("a", "theirs", &[]).await;
    world.faults.add(Rule::new(Action::Delay(Duration::from_secs(5)..Duration::from_secs(6))).on(Kind::Get));
    let write = async {
        for number in 0..30_u64 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            gateway.put_at(&opened, MIB + 10 * number as usize, b"meanwhile!").await;
        }
        Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    };
    tokio::join!(gateway.drain(), write);
    gateway.drain().await;
    let body = ours(&world);
    assert_eq!(&body[MIB..MIB + 300], "meanwhile!".repeat(30));
    assert_eq!(&body[MIB / 2..MIB / 2 + 4], "ours");
    assert_eq!(body.len(), 3 * MIB);
}

#[tokio::test(start_paused = true)]
async fn what_was_cut_off_meanwhile_does_not_come_back() {
    let world = World::new();
    let (gateway, opened) = partly_written(&world).await;
    world.put("a", "theirs", &[]).await;
    world.faults.add(Rule::new(Action::Delay(Duration::from_secs(5)..Duration::from_secs(6))).on(Kind::Get));
    let cut = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        let set = SetAttr { size_bytes: Some(MIB as u64), ..SetAttr::default() };
        gateway.share.setattr(&gateway.who, opened.attr.node, Some(opened.handle), &set).await.unwrap();
        Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    };
    tokio::join!(gateway.drain(), cut);
    gateway.drain().await;
    assert_eq!(ours(&world).len(), MIB);
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_is_kept_wherever_it_begins() {
    let world = World::new();
    let (gateway, opened) = partly_written(&world).await;
    let io = Io::Handle(opened.handle);
    // A block of its own, in the middle.
    gateway.share.read(&gateway.who, io, MIB as u64 + 5, 10).await.unwrap();
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    world.put("a", "theirs", &[]).await;
    gateway.drain().await;
    let body = ours(&world);
    assert_eq!(&body[MIB..2 * MIB], "x".repeat(MIB));
    assert_eq!(&body[MIB / 2..MIB / 2 + 4], "ours");
    assert_eq!(&body[2 * MIB..], "\0".repeat(MIB));
}

/// No error that stays: the ranges that nobody has any more read as zeros, while the file is open too.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_held_open_can_be_read_though_its_object_is_gone() {
    let world = World::new();
    let (gateway, opened) = partly_written(&world).await;
    world.put("a", "theirs", &[]).await;
    let io = Io::Handle(opened.handle);
    let slices = gateway.share.read(&gateway.who, io, MIB as u64 / 2, 8).await.unwrap();
    assert_eq!(slices.concat(), b"ours\0\0\0\0");
    let slices = gateway.share.read(&gateway.who, io, 2 * MIB as u64, 4).await.unwrap();
    assert_eq!(slices.concat(), [0; 4]);
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    gateway.drain().await;
    assert_eq!(ours(&world).len(), 3 * MIB);
}

#[tokio::test(start_paused = true)]
async fn an_open_file_that_a_listing_found_replaced_is_read_at_once() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("a", "one", &[]).await;
    let opened = gateway.open("a", OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    world.put("a", "another", &[]).await;
    world.let_listings_age().await;
    gateway.names("").await.unwrap();
    let slices = gateway.share.read(&gateway.who, Io::Handle(opened.handle), 0, 100).await.unwrap();
    assert_eq!(slices.concat(), b"another");
}

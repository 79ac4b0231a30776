//! What others do to the bucket shows up after `refresh`; what of ours they write over is kept beside theirs.

use super::*;
use crate::store::object::fault::{Action, Keys, Rule};

async fn names(gateway: &Gateway, path: &str) -> Vec<String> {
    gateway.names(path).await.unwrap().into_iter().map(|(name, _)| name).collect()
}

#[tokio::test(start_paused = true)]
async fn new_changed_and_deleted_objects_show_up() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("a", "one", &[]).await;
    world.put("d/x", "deep", &[]).await;
    assert_eq!(names(&gateway, "").await, vec!["a", "d"]);
    assert_eq!(gateway.read("a").await.unwrap(), "one");
    assert_eq!(gateway.read("d/x").await.unwrap(), "deep");
    world.put("a", "two!", &[("file-permissions", "0600")]).await;
    world.put("b", "new", &[]).await;
    world.delete("d/x").await;
    assert_eq!(names(&gateway, "").await, vec!["a", "d"]);
    world.let_listings_age().await;
    let mut events = gateway.share.changes(None);
    assert_eq!(names(&gateway, "").await, vec!["a", "b"]);
    assert_eq!(gateway.read("a").await.unwrap(), "two!");
    assert_eq!(gateway.walk("a").await.unwrap().mode, 0o600);
    assert_eq!(gateway.read("b").await.unwrap(), "new");
    assert!(events.next().await.is_some());
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_of_a_replaced_object_looks_again() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("a", "one", &[]).await;
    let opened = gateway.open("a", OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    world.put("a", "another", &[]).await;
    let slices = gateway.share.read(&gateway.who, Io::Handle(opened.handle), 0, 100).await.unwrap();
    assert_eq!(slices.concat(), b"another");
}

/// Who has a clean file open, for whatever, has what the bucket has: nothing of it is lost by that.
#[tokio::test(start_paused = true)]
async fn a_clean_file_that_is_open_for_writing_becomes_what_replaced_it() {
    for is_listed in [false, true] {
        let world = World::new();
        let gateway = world.gateway("gw").await;
        world.put("a", "one one one", &[]).await;
        let opened = gateway.open("a", OpenHow { read: true, write: true, ..OpenHow::default() }).await.unwrap();
        let io = Io::Handle(opened.handle);
        world.put("a", "another", &[]).await;
        if is_listed {
            world.let_listings_age().await;
            gateway.names("").await.unwrap();
        }
        assert_eq!(gateway.share.read(&gateway.who, io, 0, 100).await.unwrap().concat(), b"another");
        gateway.share.write(&gateway.who, io, 2, Bytes::from_static(b"XX")).await.unwrap();
        assert_eq!(gateway.share.read(&gateway.who, io, 0, 100).await.unwrap().concat(), b"anXXher");
        // From here on it is ours.
        world.put("a", "theirs", &[]).await;
        assert_eq!(gateway.share.read(&gateway.who, io, 0, 100).await.unwrap().concat(), b"anXXher");
        Vfs::close(&*gateway.share, opened.handle).await.unwrap();
        gateway.drain().await;
        assert_eq!(world.body("a").as_deref(), Some("theirs"));
        let keys = world.keys();
        assert_eq!((keys.len(), world.body(&keys[1]).as_deref()), (2, Some("anXXher")), "{keys:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_through_an_open_file_goes_to_what_replaced_it() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("a", "one one one", &[]).await;
    let opened = gateway.open("a", OpenHow { write: true, append: true, ..OpenHow::default() }).await.unwrap();
    world.put("a", "another", &[]).await;
    world.let_listings_age().await;
    gateway.names("").await.unwrap();
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"!")).await.unwrap();
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["a"]);
    assert_eq!(world.body("a").as_deref(), Some("another!"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_of_an_open_file_is_an_error_only_where_its_bytes_are_nowhere() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("cached", "one", &[]).await;
    world.put("gone", "one", &[]).await;
    assert_eq!(gateway.read("cached").await.unwrap(), "one");
    let how = || OpenHow { read: true, write: true, ..OpenHow::default() };
    let (cached, gone) = (gateway.open("cached", how()).await.unwrap(), gateway.open("gone", how()).await.unwrap());
    world.delete("cached").await;
    world.delete("gone").await;
    let read = async |opened: &Opened| gateway.share.read(&gateway.who, Io::Handle(opened.handle), 0, 9).await;
    assert_eq!(read(&cached).await.unwrap().concat(), b"one");
    assert!(matches!(read(&gone).await, Err(VfsError::Io(_) | VfsError::Stale)));
    // What is written is kept, under its name.
    gateway.share.write(&gateway.who, Io::Handle(gone.handle), 0, Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(read(&gone).await.unwrap().concat(), b"new");
    Vfs::close(&*gateway.share, gone.handle).await.unwrap();
    Vfs::close(&*gateway.share, cached.handle).await.unwrap();
    gateway.drain().await;
    assert_eq!(world.body("gone").as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn both_are_kept_where_both_changed() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a.txt", "base").await.unwrap();
    gateway.drain().await;
    gateway.write("a.txt", "ours").await.unwrap();
    world.put("a.txt", "theirs", &[]).await;
    gateway.drain().await;
    let keys = world.keys();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(world.body("a.txt").as_deref(), Some("theirs"));
    assert!(keys[1].starts_with("a.txt.conflict-gw-20250101T"), "{keys:?}");
    assert_eq!(world.body(&keys[1]).as_deref(), Some("ours"));
    assert_eq!(gateway.read("a.txt").await.unwrap(), "theirs");
    assert_eq!(gateway.read(&keys[1]).await.unwrap(), "ours");
    world.let_listings_age().await;
    assert_eq!(names(&gateway, "").await, keys);
}

#[tokio::test(start_paused = true)]
async fn a_new_file_finds_a_foreign_one() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    names(&gateway, "").await;
    world.put("a", "theirs", &[]).await;
    gateway.write("a", "ours").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
    assert_eq!(world.keys().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_partly_written_file_keeps_what_was_cached_when_its_object_is_replaced() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("a", "0123456789", &[]).await;
    assert_eq!(gateway.read("a").await.unwrap(), "0123456789");
    let opened = gateway.open_to_write("a").await.unwrap();
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 3, Bytes::from_static(b"xyz")).await.unwrap();
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    world.put("a", "theirs", &[]).await;
    gateway.drain().await;
    let keys = world.keys();
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
    assert_eq!(world.body(&keys[1]).as_deref(), Some("012xyz6789"));
}

#[tokio::test(start_paused = true)]
async fn a_dirty_file_whose_object_was_deleted_is_written_anew() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "base").await.unwrap();
    gateway.drain().await;
    gateway.write("a", "ours").await.unwrap();
    world.delete("a").await;
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["a"]);
    assert_eq!(world.body("a").as_deref(), Some("ours"));
}

#[tokio::test(start_paused = true)]
async fn a_clean_file_follows_what_its_copy_finds() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    for name in ["renamed", "deleted", "chmod", "gone"] {
        gateway.write(name, "base").await.unwrap();
    }
    gateway.drain().await;
    gateway.rename("renamed", "r").await.unwrap();
    gateway.rename("deleted", "d").await.unwrap();
    gateway.chmod("chmod", 0o600).await.unwrap();
    gateway.chmod("gone", 0o600).await.unwrap();
    world.put("renamed", "theirs", &[]).await;
    world.delete("deleted").await;
    world.put("chmod", "theirs", &[]).await;
    world.delete("gone").await;
    gateway.drain().await;
    world.let_listings_age().await;
    assert_eq!(gateway.read("r").await.unwrap(), "theirs");
    assert_eq!(gateway.read("chmod").await.unwrap(), "theirs");
    assert_eq!(names(&gateway, "").await, vec!["chmod", "r"]);
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["chmod", "r"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_overwritten_by_others_is_not_deleted() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "base").await.unwrap();
    gateway.drain().await;
    gateway.remove("a").await.unwrap();
    world.put("a", "theirs", &[]).await;
    gateway.drain().await;
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
    assert_eq!(gateway.read("a").await.unwrap(), "theirs");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_not_taken_for_foreign() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.mkdir("d").await.unwrap();
    gateway.write("d/x", "x").await.unwrap();
    gateway.write("y", "y").await.unwrap();
    gateway.drain().await;
    gateway.rename("d", "e").await.unwrap();
    gateway.remove("y").await.unwrap();
    world.let_listings_age().await;
    // The bucket still has "d/", "d/x" and "y".
    assert_eq!(names(&gateway, "").await, vec!["e"]);
    gateway.drain().await;
    world.let_listings_age().await;
    assert_eq!(names(&gateway, "").await, vec!["e"]);
    assert_eq!(gateway.read("e/x").await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_served_while_s3_is_away() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("a", "one", &[]).await;
    world.put("d/x", "x", &[]).await;
    assert_eq!(gateway.read("a").await.unwrap(), "one");
    world.faults.kill(crate::store::object::fault::Death::Silent);
    world.let_listings_age().await;
    assert_eq!(names(&gateway, "").await, vec!["a", "d"]);
    assert_eq!(gateway.read("a").await.unwrap(), "one");
    assert!(matches!(gateway.names("d").await, Err(VfsError::Unavailable(_))));
    world.faults.heal();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(names(&gateway, "d").await, vec!["x"]);
}

#[tokio::test(start_paused = true)]
async fn strange_keys_are_left_alone() {
    let world = World::new();
    for key in ["a//b", "../x", "./y", "f", "f/g", &"n".repeat(300)] {
        world.put(key, "x", &[]).await;
    }
    let gateway = world.gateway("gw").await;
    assert_eq!(names(&gateway, "").await, vec!["a", "f"]);
    assert_eq!(names(&gateway, "a").await, Vec::<String>::new());
    assert_eq!(gateway.share.remote.strange.list().len(), 5);
    gateway.drain().await;
    assert_eq!(world.store.keys().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_long_listing_comes_in_pages() {
    let world = World::new();
    for number in 0..2500 {
        world.put(&format!("d/{number:04}"), "x", &[]).await;
    }
    let gateway = world.gateway("gw").await;
    assert_eq!(gateway.names("d").await.unwrap().len(), 2500);
    for number in (0..2500).step_by(3) {
        world.delete(&format!("d/{number:04}")).await;
    }
    world.let_listings_age().await;
    assert_eq!(gateway.names("d").await.unwrap().len(), 2500 - 834);
}

/// A world with a directory `w` and a listing of `big` that is slow in this way; its bucket has no deadline, as a listing of many pages has none.
async fn slow_listing(keys: usize, slow: Action) -> (World, Gateway) {
    let mut world = World::new();
    world.bucket = layered(layered(world.store.clone(), world.faults.clone()), world.meter.clone());
    world.faults.add(Rule::new(slow).on(Kind::List).at(Keys::Is("big/".into())));
    let gateway = world.gateway("gw").await;
    world.put("w/", "", &[]).await;
    for index in 0..keys {
        world.put(&format!("big/{index:04}"), "x", &[]).await;
    }
    assert_eq!(names(&gateway, "w").await, Vec::<String>::new());
    assert_eq!(gateway.walk("big").await.unwrap().kind, NodeKind::Directory);
    (world, gateway)
}

/// Writes, so that what was written first is no longer remembered.
async fn write_and_forget(gateway: &Gateway) {
    for wait_s in [1, 700] {
        tokio::time::sleep(Duration::from_secs(wait_s)).await;
        gateway.write("w/a", &format!("written after {wait_s}")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_takes_long_drops_nothing_that_it_finds() {
    let slow = Action::Delay(Duration::from_secs(301)..Duration::from_secs(302));
    let (_world, gateway) = slow_listing(2_500, slow).await;
    let (listed, ()) = tokio::join!(gateway.share.refresh("big"), write_and_forget(&gateway));
    listed.unwrap();
    assert_eq!(names(&gateway, "big").await.len(), 2_500);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_older_than_what_is_remembered_is_no_listing() {
    let slow = Action::DelayAnswer(Duration::from_secs(900)..Duration::from_secs(901));
    let (world, gateway) = slow_listing(1, slow).await;
    let (listed, ()) = tokio::join!(gateway.share.refresh("big"), write_and_forget(&gateway));
    assert!(listed.is_err(), "what is listed counts as touched, and is not told to be absent");
    world.faults.heal();
    assert_eq!(names(&gateway, "big").await, vec!["0000"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_before_anybody_looked_at_it_holds_up_no_rename() {
    let world = World::new();
    world.put("d/a", "x", &[]).await;
    world.put("d/b", "y", &[]).await;
    let gateway = world.gateway("gw").await;
    assert_eq!(gateway.names("d").await.unwrap().len(), 2);
    world.delete("d/a").await;
    gateway.rename("d", "e").await.unwrap();
    gateway.drain().await;
    let names: Vec<String> = gateway.names("e").await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(gateway.read("e/b").await.unwrap(), "y");
    assert!(world.keys().iter().all(|key| !key.starts_with("d/")), "{:?}", world.keys());
}

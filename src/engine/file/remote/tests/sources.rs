//! The object that a blob's bytes are in is never given up before they are had elsewhere: seen with nothing in the cache.

use super::*;
use crate::engine::file::share::ConflictPolicy;
use crate::store::object::fault::{Action, Rule};

/// A file with two names, of which the first is where its bytes are, all of it in the bucket alone.
async fn linked(world: &World) -> Gateway {
    let gateway = world.gateway("gw").await;
    gateway.write("a", "ours").await.unwrap();
    gateway.drain().await;
    gateway.link("a", "b").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["a", "b"]);
    // The rows of jobs that are over go a moment later; until then no listing is believed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.evict("a").await;
    gateway
}

#[tokio::test(start_paused = true)]
async fn the_name_where_the_bytes_are_is_removed() {
    let world = World::new();
    let gateway = linked(&world).await;
    let before = world.counts();
    gateway.remove("a").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["b"]);
    assert_eq!(gateway.read("b").await.unwrap(), "ours");
    assert_eq!(world.counts().of(Kind::Put), before.of(Kind::Put), "the bytes are there already");
    gateway.evict("b").await;
    gateway.chmod("b", 0o600).await.unwrap();
    gateway.drain().await;
    assert_eq!(gateway.read("b").await.unwrap(), "ours");
}

#[tokio::test(start_paused = true)]
async fn the_name_where_the_bytes_are_becomes_another_file() {
    let world = World::new();
    let gateway = linked(&world).await;
    gateway.remove("a").await.unwrap();
    gateway.write("a", "another").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.body("a").as_deref(), Some("another"));
    gateway.evict("b").await;
    assert_eq!(gateway.read("b").await.unwrap(), "ours");
}

#[tokio::test(start_paused = true)]
async fn somebody_deletes_the_name_where_the_bytes_are() {
    let world = World::new();
    let gateway = linked(&world).await;
    world.delete("a").await;
    assert_eq!(gateway.read("b").await.unwrap(), "ours", "before anybody lists");
    gateway.evict("b").await;
    world.let_listings_age().await;
    assert_eq!(gateway.tree().await.into_keys().collect::<Vec<_>>(), vec!["b"]);
    gateway.drain().await;
    gateway.evict("b").await;
    assert_eq!(gateway.read("b").await.unwrap(), "ours");
    assert_eq!(world.body("b").as_deref(), Some("ours"));
}

#[tokio::test(start_paused = true)]
async fn somebody_overwrites_the_name_where_the_bytes_are() {
    let world = World::new();
    let gateway = linked(&world).await;
    world.put("a", "theirs", &[]).await;
    assert_eq!(gateway.read("b").await.unwrap(), "ours", "before anybody lists");
    gateway.evict("b").await;
    world.let_listings_age().await;
    gateway.names("").await.unwrap();
    assert_eq!(gateway.read("a").await.unwrap(), "theirs");
    assert_eq!(gateway.read("b").await.unwrap(), "ours");
    gateway.drain().await;
    gateway.evict("b").await;
    assert_eq!(gateway.read("b").await.unwrap(), "ours");
    assert_eq!((world.body("a").as_deref(), world.body("b").as_deref()), (Some("theirs"), Some("ours")));
}

/// The file's own job finds it: by the copy in place that a chmod is.
#[tokio::test(start_paused = true)]
async fn a_copy_finds_the_name_where_the_bytes_are_overwritten() {
    for name in ["a", "b"] {
        let world = World::new();
        let gateway = linked(&world).await;
        gateway.chmod("a", 0o600).await.unwrap();
        world.put(name, "theirs", &[]).await;
        gateway.drain().await;
        world.let_listings_age().await;
        gateway.names("").await.unwrap();
        gateway.drain().await;
        let other = if name == "a" { "b" } else { "a" };
        assert_eq!(gateway.read(name).await.unwrap(), "theirs");
        assert_eq!(gateway.read(other).await.unwrap(), "ours");
        assert_eq!((world.body(name).as_deref(), world.body(other).as_deref()), (Some("theirs"), Some("ours")));
        assert_eq!(world.keys(), vec!["a", "b"]);
    }
}

/// Dirty bytes over those of an object that is gone: the rest is had from the other name, not lost.
#[tokio::test(start_paused = true)]
async fn a_partly_written_file_has_the_rest_from_its_other_name() {
    for overwritten in [true, false] {
        let world = World::new();
        let gateway = linked(&world).await;
        let opened = gateway.open_to_write("b").await.unwrap();
        gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"O")).await.unwrap();
        Vfs::close(&*gateway.share, opened.handle).await.unwrap();
        if overwritten {
            world.put("a", "theirs", &[]).await;
        } else {
            world.delete("a").await;
        }
        gateway.drain().await;
        world.let_listings_age().await;
        gateway.names("").await.unwrap();
        gateway.drain().await;
        assert_eq!(gateway.read("b").await.unwrap(), "Ours");
        assert_eq!(world.body("b").as_deref(), Some("Ours"));
        assert_eq!(world.body("a").as_deref(), Some(if overwritten { "theirs" } else { "Ours" }));
    }
}

/// Nobody has the bytes any more: the job ends nevertheless, with what there is.
#[tokio::test(start_paused = true)]
async fn a_name_that_was_not_copied_yet_does_not_fail_for_ever() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "ours").await.unwrap();
    gateway.drain().await;
    gateway.evict("a").await;
    gateway.link("a", "b").await.unwrap();
    world.put("a", "theirs", &[]).await;
    gateway.drain().await;
    world.let_listings_age().await;
    gateway.names("").await.unwrap();
    gateway.drain().await;
    for name in ["a", "b"] {
        gateway.evict(name).await;
        assert_eq!(Some(gateway.read(name).await.unwrap()), world.body(name), "{name}");
    }
    assert_eq!(world.body("a").as_deref(), Some("theirs"));
}

/// Somebody writes new bytes and keeps the metadata: the name says to be of the group and is not.
#[tokio::test(start_paused = true)]
async fn a_name_of_a_group_with_other_bytes_is_not_tied() {
    for evicted in [true, false] {
        let world = World::new();
        let gateway = linked(&world).await;
        if !evicted {
            gateway.read("a").await.unwrap();
        }
        world.put_alike("a", "theirs").await;
        world.let_listings_age().await;
        gateway.tree().await;
        gateway.drain().await;
        assert_eq!((world.body("a").as_deref(), world.body("b").as_deref()), (Some("theirs"), Some("ours")));
        gateway.evict("a").await;
        gateway.evict("b").await;
        assert_eq!(gateway.read("a").await.unwrap(), "theirs");
        assert_eq!(gateway.read("b").await.unwrap(), "ours");
        let tree = gateway.tree().await;
        gateway.stop().await;
        let second = world.gateway("two").await;
        assert_eq!(second.tree().await, tree);
    }
}

/// The ETag of what was sent in parts is not that of its copies.
#[tokio::test(start_paused = true)]
async fn a_large_file_has_its_names_again() {
    let world = World::new();
    let first = world.gateway("one").await;
    first.write("a", &"large ".repeat(3 << 20)).await.unwrap();
    first.drain().await;
    first.link("a", "b").await.unwrap();
    first.drain().await;
    let node = first.walk("a").await.unwrap();
    first.stop().await;
    let second = world.gateway("two").await;
    assert_eq!((second.walk("b").await.unwrap().nlink, second.walk("b").await.unwrap().mtime_ns), (2, node.mtime_ns));
    assert_eq!(second.walk("a").await.unwrap().node, second.walk("b").await.unwrap().node);
}

/// A file that came from elsewhere, renamed onto a key that somebody else wrote meanwhile.
#[tokio::test(start_paused = true)]
async fn local_wins_has_our_bytes_in_the_bucket_before_the_old_object_goes() {
    let world = World::with(Settings { conflict: ConflictPolicy::LocalWins, ..Settings::default() });
    let gateway = world.gateway("gw").await;
    world.put("x", "origin", &[]).await;
    assert_eq!(gateway.read("x").await.unwrap(), "origin");
    world.put("y", "foreign", &[]).await;
    gateway.rename("x", "y").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["y"]);
    assert_eq!(world.body("y").as_deref(), Some("origin"));
    gateway.evict("y").await;
    assert_eq!(gateway.read("y").await.unwrap(), "origin");
}

/// What was written again is acknowledged, though S3 had the bytes once.
#[tokio::test(start_paused = true)]
async fn the_same_bytes_again_where_the_object_is_gone_or_another() {
    for theirs in [None, Some("theirs")] {
        let world = World::new();
        let gateway = world.gateway("gw").await;
        gateway.write("a", "ours").await.unwrap();
        gateway.drain().await;
        match theirs {
            Some(body) => world.put("a", body, &[]).await,
            None => world.delete("a").await,
        }
        gateway.write("a", "ours").await.unwrap();
        gateway.drain().await;
        world.let_listings_age().await;
        gateway.names("").await.unwrap();
        gateway.drain().await;
        let keys = world.keys();
        assert_eq!(keys.len(), if theirs.is_some() { 2 } else { 1 }, "{keys:?}");
        let ours = keys.last().unwrap();
        assert_eq!(world.body(ours).as_deref(), Some("ours"));
        assert_eq!(gateway.read(ours).await.unwrap(), "ours");
        assert_eq!(world.body("a").as_deref(), Some(theirs.unwrap_or("ours")));
    }
}

/// A chmod marks the object; who keeps its metadata keeps the mark.
#[tokio::test(start_paused = true)]
async fn a_mark_that_is_known_does_not_make_other_bytes_ours() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    for name in ["written", "removed"] {
        gateway.write(name, "ours").await.unwrap();
    }
    gateway.drain().await;
    for name in ["written", "removed"] {
        gateway.chmod(name, 0o600).await.unwrap();
    }
    gateway.drain().await;
    for name in ["written", "removed"] {
        world.put_alike(name, "theirs").await;
    }
    gateway.write("written", "ours again").await.unwrap();
    gateway.remove("removed").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.body("written").as_deref(), Some("theirs"));
    assert_eq!(world.body("removed").as_deref(), Some("theirs"));
    let kept: Vec<String> = world.keys().into_iter().filter(|key| key.contains(".conflict-")).collect();
    assert_eq!(kept.iter().map(|key| world.body(key).unwrap()).collect::<Vec<_>>(), vec!["ours again"]);
}

/// A large file is uploaded by copying what did not change, which is in S3 alone then; and until its outcome is recorded, the object is another than the one
/// that the file is read from.
#[tokio::test(start_paused = true)]
async fn our_own_upload_is_not_taken_for_somebody_elses_while_its_answer_is_on_its_way() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    let content: String = (0..24_u32 << 12).map(|line| format!("{line:0255}\n")).collect();
    gateway.write("a", &content).await.unwrap();
    gateway.drain().await;
    gateway.evict("a").await;
    world.faults.add(Rule::new(Action::DelayAnswer(Duration::from_secs(3)..Duration::from_secs(4))).on(Kind::MultipartCommit));
    let before = world.store.object("a").unwrap().head.etag.clone();
    let opened = gateway.open_to_write("a").await.unwrap();
    gateway.put_at(&opened, 0, b"new").await;
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    while world.store.object("a").unwrap().head.etag == before {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let far = 20 << 20..20 << 20 | 1 << 16;
    let opened = gateway.open("a", OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    let read =
        async || gateway.share.read(&gateway.who, Io::Handle(opened.handle), far.start as u64, 1 << 16).await.unwrap().concat();
    assert!(read().await == content.as_bytes()[far.clone()], "while the answer is on its way");
    gateway.drain().await;
    gateway.evict("a").await;
    assert!(read().await == content.as_bytes()[far.clone()]);
    assert!(world.body("a").unwrap() == format!("new{}", &content[3..]));
}

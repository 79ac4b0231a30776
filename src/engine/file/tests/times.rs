//! Times: which verb moves which, and who may set them.

use super::*;

/// Times of a path: access, modification, change.
async fn times(world: &World, path: &str) -> (i64, i64, i64) {
    let attr = world.stat(path).await.unwrap();
    (attr.atime_ns, attr.mtime_ns, attr.ctime_ns)
}

/// Asserts which of modification and change time of a path move (`m`, `c`) by some verb.
macro_rules! moves {
    ($world:ident, $($path:literal: $which:literal),+ => $verb:expr) => {{
        let before = [$(times(&$world, $path).await),+];
        $verb.unwrap();
        let after = [$(times(&$world, $path).await),+];
        for (((path, which), before), after) in [$(($path, $which)),+].into_iter().zip(before).zip(after) {
            assert_eq!(after.1 > before.1, which.contains('m'), "mtime of {path:?} by {}", stringify!($verb));
            assert_eq!(after.2 > before.2, which.contains('c'), "ctime of {path:?} by {}", stringify!($verb));
        }
    }};
}

#[tokio::test(start_paused = true)]
async fn each_verb_moves_its_times() {
    let world = World::new().await;
    let who = root();
    world.mkdir(&who, "d", 0o755).await.unwrap();
    world.mkdir(&who, "e", 0o755).await.unwrap();
    moves!(world, "d": "mc", "": "" => world.put("d/f", b"x").await);
    moves!(world, "d": "mc", "": "" => world.mkdir(&who, "d/s", 0o755).await);
    moves!(world, "d": "mc", "d/f": "c", "e": "" => world.link(&who, "d/f", "d/g").await);
    moves!(world, "d": "", "d/f": "mc" => world.put("d/f", b"y").await);
    moves!(world, "d/f": "c", "d": "" => world.chmod(&who, "d/f", 0o600).await);
    moves!(world, "d/f": "c" => world.chown(&who, "d/f", Some(1), None).await);
    moves!(world, "d": "mc", "d/f": "c" => world.unlink(&who, "d/g").await);
    moves!(world, "d": "mc", "e": "mc" => world.rename(&who, "d/f", "e/f", Rename::Replace).await);
    moves!(world, "e": "mc", "e/f": "" => world.mkdir(&who, "e/z", 0o755).await);
    moves!(world, "e": "mc" => world.rmdir(&who, "e/z").await);
    let node = world.stat("e/f").await.unwrap().node;
    let io = Io::Node(node);
    let size = |size_bytes| SetAttr { size_bytes: Some(size_bytes), ..SetAttr::default() };
    moves!(world, "e/f": "mc" => world.set(&who, "e/f", size(100)).await);
    moves!(world, "e/f": "mc" => world.set(&who, "e/f", size(100)).await);
    moves!(world, "e/f": "mc" => world.share.allocate(&who, io, 0, 50, Allocate::Punch).await);
    moves!(world, "e/f": "mc" => world.share.allocate(&who, io, 0, 200, Allocate::Extend).await);
    moves!(world, "e/f": "mc" => world.share.allocate(&who, io, 0, 100, Allocate::Extend).await);
    moves!(world, "e/f": "" => world.share.write(&who, io, 0, Bytes::new()).await);
    moves!(world, "e/f": "" => world.share.read(&who, io, 0, 10).await);
    moves!(world, "e/f": "c" => world.share.setxattr(&who, node, b"user.a", b"1", SetXattr::Any).await);
    moves!(world, "e/f": "c" => world.share.removexattr(&who, node, b"user.a").await);
    let truncate = OpenHow { write: true, truncate: true, ..OpenHow::default() };
    moves!(world, "e/f": "mc" => world.open_file(&who, "e/f", &truncate).await);
    moves!(world, "e/f": "mc" => world.open_file(&who, "e/f", &truncate).await);
}

#[tokio::test(start_paused = true)]
async fn a_rename_changes_what_it_moves_and_not_its_content() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"x").await.unwrap();
    let before = world.stat("f").await.unwrap();
    world.rename(&who, "f", "g", Rename::Replace).await.unwrap();
    let after = world.stat("g").await.unwrap();
    assert!(after.mtime_ns == before.mtime_ns && after.ctime_ns > before.ctime_ns);
}

#[tokio::test(start_paused = true)]
async fn explicit_times_hold_until_the_next_write() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"x").await.unwrap();
    let set = SetAttr { atime: Some(SetTime::At(11)), mtime: Some(SetTime::At(-22)), ..SetAttr::default() };
    let attr = world.set(&who, "f", set).await.unwrap();
    assert_eq!((attr.atime_ns, attr.mtime_ns), (11, -22));
    let ctime = world.stat("f").await.unwrap().ctime_ns;
    world.chmod(&who, "f", 0o600).await.unwrap();
    assert_eq!(times(&world, "f").await.1, -22);
    assert!(times(&world, "f").await.2 > ctime);
    let world = world.process_death().await;
    assert_eq!(times(&world, "f").await.1, -22);
    world.put("f", b"y").await.unwrap();
    assert!(times(&world, "f").await.1 > START_NS);
    // With a length, the explicit time is the newer one; one that is left out stays.
    let set = SetAttr { size_bytes: Some(0), mtime: Some(SetTime::At(5)), ..SetAttr::default() };
    let attr = world.set(&who, "f", set).await.unwrap();
    assert_eq!((attr.size_bytes, attr.mtime_ns), (0, 5));
    let attr = world.set(&who, "f", SetAttr { atime: Some(SetTime::At(9)), ..SetAttr::default() }).await.unwrap();
    assert_eq!((attr.atime_ns, attr.mtime_ns), (9, 5));
}

#[tokio::test(start_paused = true)]
async fn who_may_set_times() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    let (owner, other) = (user(1, &[1]), user(2, &[2]));
    world.create(&owner, "d/f", 0o644).await.unwrap();
    let both = |time| SetAttr { atime: Some(time), mtime: Some(time), ..SetAttr::default() };
    let one = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
    assert!(world.set(&owner, "d/f", both(SetTime::At(5))).await.is_ok());
    assert_eq!(world.set(&other, "d/f", both(SetTime::At(5))).await, Err(VfsError::NotPermitted));
    assert_eq!(world.set(&other, "d/f", both(SetTime::Now)).await, Err(VfsError::AccessDenied));
    world.chmod(&root(), "d/f", 0o666).await.unwrap();
    assert!(world.set(&other, "d/f", both(SetTime::Now)).await.is_ok());
    assert_eq!(world.set(&other, "d/f", one).await, Err(VfsError::NotPermitted));
    assert_eq!(world.set(&other, "d/f", both(SetTime::At(5))).await, Err(VfsError::NotPermitted));
}

#[tokio::test(start_paused = true)]
async fn the_guard_of_setattr_compares_change_times() {
    let world = World::new().await;
    let who = root();
    let attr = world.put("f", b"x").await.unwrap();
    let guarded = |guard| SetAttr { mode: Some(0o600), guard_ctime_ns: Some(guard), ..SetAttr::default() };
    assert_eq!(world.set(&who, "f", guarded(attr.ctime_ns + 1)).await, Err(VfsError::NotSync));
    let attr = world.stat("f").await.unwrap();
    let changed = world.set(&who, "f", guarded(attr.ctime_ns)).await.unwrap();
    assert!(changed.mode == 0o600 && changed.change > attr.change);
}

#[tokio::test(start_paused = true)]
async fn access_times_are_relative_and_cost_nothing() {
    let world = World::new().await;

    world.put("f", b"x").await.unwrap();
    let before = world.stat("f").await.unwrap();
    world.bytes("f").await.unwrap();
    let first = world.stat("f").await.unwrap();
    assert!(first.atime_ns > before.mtime_ns && first.ctime_ns == before.ctime_ns);
    world.bytes("f").await.unwrap();
    assert_eq!(world.stat("f").await.unwrap().atime_ns, first.atime_ns);
    world.clock.advance(25 * 3600 * 1_000_000_000);
    world.bytes("f").await.unwrap();
    let later = world.stat("f").await.unwrap().atime_ns;
    assert!(later > first.atime_ns);
    // It is in the row after a while.
    tokio::time::sleep(Duration::from_secs(400)).await;
    let world = world.process_death().await;
    assert_eq!(world.stat("f").await.unwrap().atime_ns, later);
}

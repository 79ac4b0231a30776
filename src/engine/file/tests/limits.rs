//! Where the share says no: too many names, and shares that nothing may be changed on.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_has_at_most_65_000_names() {
    let world = World::with(Settings { upload_delay: Duration::from_secs(360_000), ..settings() }).await;
    let who = root();
    let node = world.create(&who, "0", 0o644).await.unwrap().node;
    let dir = world.share.root();
    for number in 1..65_000 {
        world.share.link(&who, node, dir, number.to_string().as_bytes()).await.unwrap();
    }
    assert_eq!(world.stat("64999").await.unwrap().nlink, 65_000);
    assert_eq!(world.share.link(&who, node, dir, b"65000").await, Err(VfsError::TooManyLinks));
    assert_eq!(world.stat("65000").await, Err(VfsError::NotFound));
    world.unlink(&who, "7").await.unwrap();
    world.share.link(&who, node, dir, b"65000").await.unwrap();
    assert_eq!(world.stat("0").await.unwrap().nlink, 65_000);
}

#[tokio::test(start_paused = true)]
async fn a_read_only_share_refuses_every_change_and_answers_everything_else() {
    let world = World::new().await;
    let who = root();
    world.mkdir(&who, "d", 0o777).await.unwrap();
    world.put("f", b"bytes").await.unwrap();
    let node = world.stat("f").await.unwrap().node;
    world.share.setxattr(&who, node, b"user.a", b"1", SetXattr::Any).await.unwrap();
    assert!(world.share.drain(None).await);
    world.share.stop().await;
    let share = world.open("demo", Settings { read_only: true, ..settings() }).await.unwrap();
    let world = World { share, ..world };
    let refused = Err(VfsError::ReadOnly);
    let size = |size_bytes| SetAttr { size_bytes: Some(size_bytes), ..SetAttr::default() };
    let times = SetAttr { mtime: Some(SetTime::Now), atime: Some(SetTime::At(5)), ..SetAttr::default() };
    for who in [root(), user(1001, &[])] {
        assert_eq!(world.mkdir(&who, "new", 0o755).await.map(drop), refused);
        assert_eq!(world.create(&who, "new", 0o644).await.map(drop), refused);
        assert_eq!(world.symlink(&who, "new", "f").await.map(drop), refused);
        assert_eq!(world.link(&who, "f", "new").await.map(drop), refused);
        let dir = world.share.root();
        for kind in [NodeKind::Fifo, NodeKind::Socket] {
            assert_eq!(world.share.mknod(&who, dir, b"new", kind, 0, Create { mode: 0o644 }).await.map(drop), refused);
        }
        assert_eq!(world.rename(&who, "f", "new", Rename::Replace).await, refused);
        assert_eq!(world.rename(&who, "f", "d", Rename::Exchange).await, refused);
        assert_eq!(world.unlink(&who, "f").await, refused);
        assert_eq!(world.rmdir(&who, "d").await, refused);
        assert_eq!(world.chmod(&who, "f", 0o600).await.map(drop), refused);
        assert_eq!(world.chown(&who, "f", Some(1), Some(1)).await.map(drop), refused);
        assert_eq!(world.set(&who, "f", times.clone()).await.map(drop), refused);
        assert_eq!(world.set(&who, "f", size(0)).await.map(drop), refused);
        for how in [
            OpenHow { write: true, ..OpenHow::default() },
            OpenHow { read: true, write: true, ..OpenHow::default() },
            OpenHow { write: true, truncate: true, ..OpenHow::default() },
            OpenHow { write: true, append: true, ..OpenHow::default() },
        ] {
            assert_eq!(world.open_file(&who, "f", &how).await.map(drop), refused, "{how:?}");
        }
        let io = Io::Node(node);
        assert_eq!(world.share.write(&who, io, 0, Bytes::from_static(b"x")).await.map(drop), refused);
        assert_eq!(world.share.allocate(&who, io, 0, 10, Allocate::Extend).await, refused);
        assert_eq!(world.share.copy_range(&who, io, 0, io, 10, 1).await.map(drop), refused);
        assert_eq!(world.share.setxattr(&who, node, b"user.b", b"1", SetXattr::Any).await, refused);
        assert_eq!(world.share.removexattr(&who, node, b"user.a").await, refused);
        assert_eq!(world.share.access(&who, node, AccessMask(6)).await, Ok(AccessMask(4)));
        // What exists answers as everywhere.
        let how = OpenHow { read: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() };
        let opened = world.open_file(&who, "f", &how).await.unwrap();
        assert!(!opened.created);
        assert_eq!(world.share.read(&who, Io::Handle(opened.handle), 0, 9).await.unwrap().concat(), b"bytes");
        world.share.close(opened.handle).await.unwrap();
        assert_eq!(world.share.getxattr(&who, node, b"user.a").await.unwrap(), b"1");
    }
    assert_eq!(world.list("").await, ["d", "f"]);
    assert_eq!(world.stat("f").await.unwrap().mode, 0o644);
    assert_eq!(world.uploader.status(), []);
}

/// For want of disk it is as by its settings, also where a file is open, but that files can be removed; and it heals.
#[tokio::test(start_paused = true)]
async fn below_the_floor_of_free_disk_a_share_is_read_only_until_there_is_more() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"bytes").await.unwrap();
    world.put("goes", b"bytes").await.unwrap();
    world.mkdir(&who, "d", 0o755).await.unwrap();
    let open = world.open_file(&who, "f", &OpenHow { write: true, ..OpenHow::default() }).await.unwrap();
    let io = Io::Handle(open.handle);
    assert!(world.share.drain(None).await);
    world.database.fail_applies(u32::MAX);
    assert!(world.blobs.meta().look_at_disk().is_some());
    assert!(world.share.is_short_of_disk());
    assert_eq!(world.create(&who, "new", 0o644).await.map(drop), Err(VfsError::ReadOnly));
    assert_eq!(world.rename(&who, "f", "g", Rename::Replace).await, Err(VfsError::ReadOnly));
    assert_eq!(world.share.write(&who, io, 0, Bytes::from_static(b"B")).await.map(drop), Err(VfsError::ReadOnly));
    assert!(world.stat("f").await.is_ok());
    // What gives room back is done.
    let size = |size_bytes| SetAttr { size_bytes: Some(size_bytes), ..SetAttr::default() };
    assert_eq!(world.set(&who, "f", size(6)).await.map(drop), Err(VfsError::ReadOnly));
    assert_eq!(world.set(&who, "f", SetAttr { mode: Some(0o600), ..size(2) }).await.map(drop), Err(VfsError::ReadOnly));
    assert_eq!(world.set(&who, "f", size(2)).await.unwrap().size_bytes, 2);
    world.unlink(&who, "goes").await.unwrap();
    world.rmdir(&who, "d").await.unwrap();
    assert_eq!(world.list("").await, ["f"]);
    let root = world.share.root();
    assert_eq!(world.share.access(&user(0, &[]), root, AccessMask(2)).await, Ok(AccessMask(2)));
    world.database.fail_applies(0);
    assert_eq!(world.blobs.meta().look_at_disk(), None);
    world.share.write(&who, io, 0, Bytes::from_static(b"B")).await.unwrap();
    world.create(&who, "new", 0o644).await.unwrap();
    assert!(world.share.drain(None).await);
}

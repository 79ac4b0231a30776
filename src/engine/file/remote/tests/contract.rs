//! The object contract: what one gateway writes, another that knows nothing reads.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_empty_gateway_sees_the_same_tree() {
    let world = World::with(Settings { prefix: "p/q/".into(), ..Settings::default() });
    let first = world.gateway("one").await;
    let who = &first.who;
    first.mkdir("dir").await.unwrap();
    first.mkdir("dir/empty").await.unwrap();
    first.write("dir/file.txt", "hello").await.unwrap();
    first.write("none", "").await.unwrap();
    first.chmod("dir/file.txt", 0o4751).await.unwrap();
    let node = first.walk("dir/file.txt").await.unwrap().node;
    let set = SetAttr { uid: Some(1000), gid: Some(100), mtime: Some(SetTime::At(123_456_789)), ..SetAttr::default() };
    first.share.setattr(who, node, None, &set).await.unwrap();
    first.share.setxattr(who, node, b"user.small", b"\x00\xff", SetXattr::Any).await.unwrap();
    first.share.setxattr(who, node, b"user.large", &[7; 5000], SetXattr::Any).await.unwrap();
    let (dir, _) = first.place("dir/x").await.unwrap();
    first.share.symlink(who, dir, b"link", b"../somewhere/else").await.unwrap();
    first.share.mknod(who, dir, b"fifo", NodeKind::Fifo, 0, Create { mode: 0o640 }).await.unwrap();
    let rdev = libc::makedev(10, 229) as u32;
    first.share.mknod(who, dir, b"dev", NodeKind::CharDevice, rdev, Create { mode: 0o660 }).await.unwrap();
    first.link("dir/file.txt", "hard").await.unwrap();
    first.link("dir/file.txt", "dir/empty/hard").await.unwrap();
    first.chmod("dir", 0o700).await.unwrap();
    first.drain().await;
    assert_eq!(world.metadata("p/q/dir/link", "file-permissions").as_deref(), Some("0120777"));
    assert_eq!(world.body("p/q/dir/link").as_deref(), Some("../somewhere/else"));
    assert_eq!(world.metadata("p/q/dir/", "file-permissions").as_deref(), Some("0040700"));
    assert_eq!(world.body("p/q/hard").as_deref(), Some("hello"));
    assert!(world.store.keys().iter().all(|key| key.starts_with("p/q/")));

    let before = world.counts();
    let second = world.gateway("two").await;
    assert_eq!(second.tree().await, first.tree().await);
    let node = second.walk("hard").await.unwrap().node;
    assert_eq!(second.walk("dir/file.txt").await.unwrap().node, node);
    assert_eq!(second.share.getxattr(&second.who, node, b"user.small").await.unwrap(), b"\x00\xff");
    assert_eq!(second.share.getxattr(&second.who, node, b"user.large").await.unwrap(), [7; 5000]);
    assert_eq!(second.walk("dir").await.unwrap().mtime_ns, first.walk("dir").await.unwrap().mtime_ns);
    second.drain().await;
    let counts = world.counts().since(&before);
    assert_eq!(counts.besides(&[Kind::Head, Kind::List, Kind::Get]), 0, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn hard_links_hold_after_a_change_by_the_second() {
    let world = World::new();
    let first = world.gateway("one").await;
    first.write("a", "one").await.unwrap();
    first.link("a", "b").await.unwrap();
    first.drain().await;
    assert_eq!((world.body("a").as_deref(), world.body("b").as_deref()), (Some("one"), Some("one")));
    first.stop().await;
    let second = world.gateway("two").await;
    assert_eq!(second.walk("b").await.unwrap().nlink, 2);
    second.write("b", "two").await.unwrap();
    assert_eq!(second.read("a").await.unwrap(), "two");
    second.drain().await;
    assert_eq!((world.body("a").as_deref(), world.body("b").as_deref()), (Some("two"), Some("two")));
    second.remove("a").await.unwrap();
    second.drain().await;
    assert_eq!(world.store.keys(), vec!["b"]);
    assert_eq!(world.metadata("b", "tidegate-link"), None);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_others_imply_gets_a_marker_when_it_must() {
    let world = World::new();
    world.put("d/x", "x", &[]).await;
    world.put("e/x", "x", &[]).await;
    world.put("f/x", "x", &[]).await;
    let gateway = world.gateway("gw").await;
    gateway.write("d/y", "y").await.unwrap();
    gateway.remove("e/x").await.unwrap();
    gateway.walk("f").await.unwrap();
    gateway.chmod("f", 0o700).await.unwrap();
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["d/x", "d/y", "e/", "f/", "f/x"]);
    world.let_listings_age().await;
    assert_eq!(gateway.names("").await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_roots_attributes_are_kept() {
    for prefix in ["", "p/"] {
        let world = World::with(Settings { prefix: prefix.into(), ..Settings::default() });
        let first = world.gateway("one").await;
        first.write("x", "x").await.unwrap();
        first.drain().await;
        assert_eq!(world.store.keys(), vec![format!("{prefix}x")]);
        first.chmod("", 0o1777).await.unwrap();
        first.drain().await;
        let second = world.gateway("two").await;
        second.names("").await.unwrap();
        assert_eq!(second.walk("").await.unwrap().mode, 0o1777, "{prefix:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_of_others_survives_a_chmod() {
    let world = World::new();
    world.put("a.txt", "x", &[("project", "apollo"), ("file-mtime", "1595002920000")]).await;
    let gateway = world.gateway("gw").await;
    assert_eq!(gateway.walk("a.txt").await.unwrap().mtime_ns, 1_595_002_920_000_000_000);
    gateway.chmod("a.txt", 0o600).await.unwrap();
    gateway.rename("a.txt", "b.txt").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.metadata("b.txt", "project").as_deref(), Some("apollo"));
    assert_eq!(world.metadata("b.txt", "file-permissions").as_deref(), Some("0100600"));
    assert_eq!(world.metadata("b.txt", "file-mtime").as_deref(), Some("1595002920000000000ns"));
}

#[tokio::test(start_paused = true)]
async fn storage_class_and_encryption_go_along() {
    let settings =
        Settings { storage_class: Some("STANDARD_IA".into()), encryption: Some("AES256".into()), ..Settings::default() };
    let world = World::with(settings);
    let gateway = world.gateway("gw").await;
    gateway.write("a", "x").await.unwrap();
    gateway.drain().await;
    gateway.rename("a", "b").await.unwrap();
    gateway.drain().await;
    let attributes = &world.store.object("b").unwrap().head.attributes;
    assert_eq!(attributes.storage_class.as_deref(), Some("STANDARD_IA"));
}

//! One upload per change: exactly these requests.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_new_file_is_one_put() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a.txt", "hello").await.unwrap();
    gateway.drain().await;
    sent(&world.counts(), &[(Kind::List, 1), (Kind::Put, 1)]);
    assert_eq!(world.body("a.txt").as_deref(), Some("hello"));
    assert_eq!(world.metadata("a.txt", "file-permissions").as_deref(), Some("0100644"));
    assert!(world.metadata("a.txt", "tidegate-generation").is_some());
}

#[tokio::test(start_paused = true)]
async fn it_goes_up_by_itself_after_the_delay() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a.txt", "hello").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert_eq!(world.keys(), Vec::<String>::new());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.keys(), vec!["a.txt"]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_new_files_are_a_thousand_puts() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.mkdir("d").await.unwrap();
    for number in 0..1000 {
        gateway.write(&format!("d/{number}"), "small").await.unwrap();
    }
    gateway.drain().await;
    let counts = world.counts();
    assert_eq!(world.keys().len(), 1001);
    assert!(counts.of(Kind::Put) <= 1002, "{counts:?}");
    assert!(counts.total() <= 1010, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn write_chmod_rename_within_the_delay_is_one_put() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a.tmp", "hello").await.unwrap();
    gateway.chmod("a.tmp", 0o600).await.unwrap();
    gateway.rename("a.tmp", "a.jpg").await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.keys(), vec!["a.jpg"]);
    assert_eq!(world.metadata("a.jpg", "file-permissions").as_deref(), Some("0100600"));
    assert_eq!(world.store.object("a.jpg").unwrap().head.attributes.content_type.as_deref(), Some("image/jpeg"));
    let counts = world.counts();
    sent(&counts, &[(Kind::List, 1), (Kind::Put, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_chmod_or_touch_is_one_copy_in_place_and_an_access_is_nothing() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "hello").await.unwrap();
    gateway.drain().await;
    let before = world.counts();
    gateway.chmod("a", 0o600).await.unwrap();
    let node = gateway.walk("a").await.unwrap().node;
    let touch = SetAttr { mtime: Some(SetTime::At(5)), ..SetAttr::default() };
    gateway.share.setattr(&gateway.who, node, None, &touch).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    sent(&world.counts().since(&before), &[(Kind::Copy, 1)]);
    assert_eq!(world.metadata("a", "file-mtime").as_deref(), Some("5ns"));
    let before = world.counts();
    let access = SetAttr { atime: Some(SetTime::At(7)), ..SetAttr::default() };
    gateway.share.setattr(&gateway.who, node, None, &access).await.unwrap();
    assert_eq!(gateway.read("a").await.unwrap(), "hello");
    gateway.drain().await;
    sent(&world.counts().since(&before), &[]);
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_again_send_no_body() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "hello").await.unwrap();
    gateway.drain().await;
    let before = world.counts();
    gateway.write("a", "hello").await.unwrap();
    gateway.drain().await;
    sent(&world.counts().since(&before), &[(Kind::Copy, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_and_new_file_is_one_version() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "one").await.unwrap();
    gateway.drain().await;
    let before = world.counts();
    gateway.remove("a").await.unwrap();
    gateway.write("a", "two").await.unwrap();
    gateway.drain().await;
    sent(&world.counts().since(&before), &[(Kind::Put, 1)]);
    assert_eq!(world.body("a").as_deref(), Some("two"));
}

#[tokio::test(start_paused = true)]
async fn deletes_are_collected() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    for number in 0..500 {
        gateway.write(&format!("{number}"), "x").await.unwrap();
    }
    gateway.drain().await;
    let before = world.counts();
    for number in 0..500 {
        gateway.remove(&format!("{number}")).await.unwrap();
    }
    gateway.drain().await;
    let counts = world.counts().since(&before);
    assert!(counts.total() <= 5, "{counts:?}");
    assert_eq!(world.store.keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_temporary_file_never_reaches_the_bucket() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "x").await.unwrap();
    gateway.remove("a").await.unwrap();
    gateway.drain().await;
    sent(&world.counts(), &[(Kind::List, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_open_file_waits_for_its_close() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    let opened = gateway.open_to_write("a").await.unwrap();
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"half")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.keys(), Vec::<String>::new());
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 4, Bytes::from_static(b" whole")).await.unwrap();
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.body("a").as_deref(), Some("half whole"));
    assert_eq!(world.counts().of(Kind::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn an_old_open_file_is_published_where_it_is_asked_for() {
    let world = World::with(Settings { upload_max_age: Some(Duration::from_secs(30)), ..Settings::default() });
    let gateway = world.gateway("gw").await;
    let opened = gateway.open_to_write("a").await.unwrap();
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"half")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(world.body("a").as_deref(), Some("half"));
    assert_eq!(world.metadata("a", "tidegate-open").as_deref(), Some("1"));
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    gateway.drain().await;
    assert_eq!(world.metadata("a", "tidegate-open"), None);
}

#[tokio::test(start_paused = true)]
async fn looking_at_what_is_known_sends_nothing() {
    let world = World::new();
    for number in 0..50 {
        world.put(&format!("d/{number}"), "x", &[]).await;
    }
    let gateway = world.gateway("gw").await;
    assert_eq!(gateway.names("d").await.unwrap().len(), 50);
    let first = world.counts();
    // The root and the directory are listed; that "d/" has no marker is one HEAD.
    assert_eq!((first.of(Kind::List), first.of(Kind::Head), first.total()), (2, 1, 3), "{first:?}");
    gateway.names("d").await.unwrap();
    assert_eq!(world.counts(), first);
    for number in 0..50 {
        gateway.walk(&format!("d/{number}")).await.unwrap();
        gateway.walk(&format!("d/{number}")).await.unwrap();
    }
    sent(&world.counts().since(&first), &[(Kind::Head, 50)]);
    let before = world.counts();
    world.let_listings_age().await;
    gateway.names("d").await.unwrap();
    gateway.walk("d/7").await.unwrap();
    sent(&world.counts().since(&before), &[(Kind::List, 2)]);
}

#[tokio::test(start_paused = true)]
async fn one_open_file_may_be_larger_than_what_may_be_dirty() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    let opened = gateway.open_to_write("a").await.unwrap();
    let chunk = Bytes::from(vec![7; 1 << 20]);
    for number in 0..100 {
        let offset = number << 20;
        gateway.share.write(&gateway.who, Io::Handle(opened.handle), offset, chunk.clone()).await.unwrap();
    }
    assert!(world.store.object("a").is_some(), "not published while it was open");
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    gateway.drain().await;
    assert_eq!(world.store.object("a").unwrap().bytes.len(), 100 << 20);
    assert_eq!(world.metadata("a", "tidegate-open"), None);
}

/// As NFSv3 clients write: nothing is opened or closed, so only quiet tells that a file is complete.
#[tokio::test(start_paused = true)]
async fn bursts_of_writes_without_an_open_are_one_put() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "").await.unwrap();
    let node = gateway.walk("a").await.unwrap().node;
    for burst in 0..20_u64 {
        let data = Bytes::from(vec![7; 100_000]);
        gateway.share.write(&gateway.who, Io::Node(node), burst * 100_000, data).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    sent(&world.counts(), &[(Kind::List, 1), (Kind::Put, 1)]);
    assert_eq!(world.store.object("a").unwrap().head.size_bytes, 2_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_line_a_second_for_ten_minutes_is_few_puts() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("log", "").await.unwrap();
    let node = gateway.walk("log").await.unwrap().node;
    for second in 0..600_u64 {
        gateway.share.write(&gateway.who, Io::Node(node), second * 5, Bytes::from_static(b"line\n")).await.unwrap();
        gateway.share.commit(&gateway.who, node).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    gateway.drain().await;
    let puts = world.counts().of(Kind::Put);
    assert!((1..=8).contains(&puts), "{puts}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_written_again_and_again_waits_longer_each_time() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "").await.unwrap();
    let node = gateway.walk("a").await.unwrap().node;
    // A write every 40 seconds for half an hour: 45 writes.
    for round in 0..45_u64 {
        gateway.share.write(&gateway.who, Io::Node(node), round, Bytes::from_static(b"x")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(40)).await;
    }
    let puts = world.counts().of(Kind::Put);
    assert!((2..=8).contains(&puts), "{puts}");
}

//! Names that change: instant here, copies and deletes there, and no byte of anybody lost on the way.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_file_is_copied_and_deleted() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "hello").await.unwrap();
    gateway.drain().await;
    let before = world.counts();
    gateway.rename("a", "b").await.unwrap();
    assert_eq!(gateway.read("b").await.unwrap(), "hello");
    gateway.drain().await;
    let counts = world.counts().since(&before);
    assert_eq!((counts.of(Kind::Copy), counts.of(Kind::Put), counts.of(Kind::Head)), (1, 0, 0), "{counts:?}");
    assert_eq!(world.keys(), vec!["b"]);
    assert_eq!(gateway.read("b").await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn reads_go_to_the_old_key_until_it_moved() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    world.put("d/e/x", "bytes", &[]).await;
    gateway.rename("d", "n").await.unwrap();
    assert_eq!(gateway.read("n/e/x").await.unwrap(), "bytes");
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["n/e/x"]);
    assert_eq!(gateway.read("n/e/x").await.unwrap(), "bytes");
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_a_thousand_is_a_thousand_copies() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.mkdir("old").await.unwrap();
    for number in 0..1000 {
        gateway.write(&format!("old/{number}"), &format!("body {number}")).await.unwrap();
    }
    gateway.drain().await;
    let before = world.counts();
    gateway.rename("old", "new").await.unwrap();
    assert_eq!(gateway.names("new").await.unwrap().len(), 1000);
    assert!(world.counts().since(&before).total() <= 1);
    gateway.drain().await;
    let counts = world.counts().since(&before);
    assert_eq!(counts.of(Kind::Copy), 1000, "{counts:?}");
    assert!(counts.of(Kind::DeleteMany) + counts.of(Kind::Delete) <= 10, "{counts:?}");
    assert!(counts.besides(&[Kind::Copy, Kind::DeleteMany, Kind::Delete]) <= 3, "{counts:?}");
    assert_eq!(world.keys().len(), 1001);
    assert!(world.keys().iter().all(|key| key.starts_with("new/")));
    assert_eq!(world.body("new/77").as_deref(), Some("body 77"));
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_names_moves_up() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    for number in 0..30 {
        gateway.write(&format!("log.{number}"), &format!("{number}")).await.unwrap();
    }
    gateway.drain().await;
    let before = world.counts();
    for number in (0..30).rev() {
        gateway.rename(&format!("log.{number}"), &format!("log.{}", number + 1)).await.unwrap();
    }
    gateway.write("log.0", "new").await.unwrap();
    gateway.drain().await;
    for number in 0..30 {
        assert_eq!(world.body(&format!("log.{}", number + 1)), Some(format!("{number}")));
    }
    assert_eq!(world.body("log.0").as_deref(), Some("new"));
    let counts = world.counts().since(&before);
    assert_eq!((counts.of(Kind::Copy), counts.of(Kind::Put)), (30, 1), "{counts:?}");
    assert_eq!(counts.besides(&[Kind::Copy, Kind::Put]), 0, "{counts:?}");
    assert_eq!(world.hidden_keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn two_names_are_swapped() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.write("a", "A").await.unwrap();
    gateway.write("b", "B").await.unwrap();
    gateway.drain().await;
    gateway.rename_how("a", "b", Rename::Exchange).await.unwrap();
    assert_eq!((gateway.read("a").await.unwrap(), gateway.read("b").await.unwrap()), ("B".into(), "A".into()));
    gateway.drain().await;
    assert_eq!((world.body("a").as_deref(), world.body("b").as_deref()), (Some("B"), Some("A")));
    assert_eq!(world.store.keys(), vec!["a", "b"]);
    assert_eq!((gateway.read("a").await.unwrap(), gateway.read("b").await.unwrap()), ("B".into(), "A".into()));
}

#[tokio::test(start_paused = true)]
async fn many_names_rotate() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    let name = |number: usize| format!("f{}", number % 7);
    for number in 0..7 {
        gateway.write(&name(number), &format!("body {number}")).await.unwrap();
    }
    gateway.drain().await;
    gateway.rename(&name(6), "tmp").await.unwrap();
    for number in (0..6).rev() {
        gateway.rename(&name(number), &name(number + 1)).await.unwrap();
    }
    gateway.rename("tmp", &name(0)).await.unwrap();
    // One of them is dirty too.
    gateway.write(&name(3), "changed").await.unwrap();
    gateway.drain().await;
    for number in 0..7 {
        let body = if number == 3 { "changed".to_owned() } else { format!("body {}", (number + 6) % 7) };
        assert_eq!(world.body(&name(number)), Some(body));
    }
    assert_eq!(world.hidden_keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn directories_are_swapped() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    for number in 0..20 {
        world.put(&format!("a/{number}"), &format!("A{number}"), &[]).await;
        world.put(&format!("b/s/{number}"), &format!("B{number}"), &[]).await;
        world.put(&format!("b/{number}"), &format!("b{number}"), &[]).await;
    }
    gateway.rename_how("a", "b", Rename::Exchange).await.unwrap();
    gateway.write("a/7", "changed").await.unwrap();
    gateway.drain().await;
    for number in 0..20 {
        assert_eq!(world.body(&format!("b/{number}")), Some(format!("A{number}")));
        assert_eq!(world.body(&format!("a/s/{number}")), Some(format!("B{number}")));
        let body = if number == 7 { "changed".into() } else { format!("b{number}") };
        assert_eq!(world.body(&format!("a/{number}")), Some(body));
    }
    assert_eq!(world.store.keys().len(), 60);
}

#[tokio::test(start_paused = true)]
async fn directories_are_renamed_again_and_into_each_other() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    for dir in ["a", "a/s", "a/s/t", "b"] {
        for number in 0..10 {
            world.put(&format!("{dir}/{number}"), &format!("{dir} {number}"), &[]).await;
        }
    }
    gateway.rename("a", "c").await.unwrap();
    gateway.rename("c/s", "b/s").await.unwrap();
    gateway.rename("c", "d").await.unwrap();
    gateway.rename("b", "d/b").await.unwrap();
    gateway.rename("d/b/s/t", "t").await.unwrap();
    gateway.mkdir("a").await.unwrap();
    gateway.write("a/0", "new").await.unwrap();
    gateway.drain().await;
    for (now, was) in [("d", "a"), ("d/b", "b"), ("d/b/s", "a/s"), ("t", "a/s/t")] {
        for number in 0..10 {
            assert_eq!(world.body(&format!("{now}/{number}")), Some(format!("{was} {number}")), "{now}/{number}");
        }
    }
    assert_eq!(world.body("a/0").as_deref(), Some("new"));
    assert_eq!(world.keys().iter().filter(|key| !key.ends_with('/')).count(), 41);
    assert_eq!(gateway.read("d/b/s/3").await.unwrap(), "a/s 3");
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_a_renamed_directory() {
    let world = World::new();
    for number in 0..200 {
        world.put(&format!("u/s/{number}"), &format!("u{number}"), &[]).await;
    }
    let gateway = world.gateway("gw").await;
    gateway.mkdir("a").await.unwrap();
    for number in 0..200 {
        gateway.write(&format!("a/{number}"), &format!("{number}")).await.unwrap();
    }
    gateway.drain().await;
    gateway.rename("a", "b").await.unwrap();
    gateway.rename("u", "v").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2050)).await;
    world.faults.kill(crate::store::object::fault::Death::Refusing);
    let (disk, database) = (gateway.disk.process_death(), Arc::new((*gateway.database).clone()));
    gateway.die().await;
    world.faults.heal();
    let gateway = world.gateway_on("gw", disk, database).await;
    assert_eq!(gateway.read("v/s/7").await.unwrap(), "u7");
    gateway.drain().await;
    for number in 0..200 {
        assert_eq!(world.body(&format!("b/{number}")), Some(format!("{number}")));
        assert_eq!(world.body(&format!("v/s/{number}")), Some(format!("u{number}")));
    }
    assert_eq!(world.keys().iter().filter(|key| !key.ends_with('/')).count(), 400);
}

#[tokio::test(start_paused = true)]
async fn an_unlinked_open_file_stays_readable_while_its_name_is_used_anew() {
    let world = World::new();
    world.put("a", "old bytes", &[]).await;
    let gateway = world.gateway("gw").await;
    let opened = gateway.open("a", OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    gateway.remove("a").await.unwrap();
    gateway.write("a", "new").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.body("a").as_deref(), Some("new"));
    let slices = gateway.share.read(&gateway.who, Io::Handle(opened.handle), 0, 100).await.unwrap();
    assert_eq!(slices.concat(), b"old bytes");
    Vfs::close(&*gateway.share, opened.handle).await.unwrap();
    gateway.drain().await;
    assert_eq!(world.store.keys(), vec!["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_tree_is_gone_there_too() {
    let world = World::new();
    let gateway = world.gateway("gw").await;
    gateway.mkdir("a").await.unwrap();
    gateway.mkdir("a/b").await.unwrap();
    gateway.write("a/b/x", "x").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.keys(), vec!["a/", "a/b/", "a/b/x"]);
    gateway.remove("a/b/x").await.unwrap();
    gateway.rmdir("a/b").await.unwrap();
    gateway.rmdir("a").await.unwrap();
    gateway.drain().await;
    assert_eq!(world.store.keys(), Vec::<String>::new());
    world.let_listings_age().await;
    assert_eq!(gateway.names("").await.unwrap(), vec![]);
}

/// The bytes of a file with several names are in one of its objects: that name may go.
#[tokio::test(start_paused = true)]
async fn a_name_that_goes_leaves_the_bytes_to_the_others() {
    for verb in ["remove", "rename"] {
        let world = World::new();
        let gateway = world.gateway("gw").await;
        gateway.write("a", "hello").await.unwrap();
        gateway.drain().await;
        gateway.link("a", "b").await.unwrap();
        gateway.drain().await;
        assert_eq!(world.keys(), vec!["a", "b"]);
        let node = gateway.walk("a").await.unwrap().node;
        gateway.blobs.evict(gateway.share.node(node).await.unwrap().blob).await.unwrap();
        if verb == "remove" {
            gateway.remove("a").await.unwrap();
        } else {
            gateway.remove("b").await.unwrap();
            gateway.rename("a", "b").await.unwrap();
        }
        gateway.drain().await;
        assert_eq!(world.keys(), vec!["b"]);
        assert_eq!(gateway.read("b").await.unwrap(), "hello", "{verb}");
    }
}

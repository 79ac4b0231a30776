//! Names: create, link, rename, remove, readdir.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_tree_comes_and_goes() {
    let world = World::new().await;
    let who = root();
    assert_eq!(world.stat("").await.unwrap().nlink, 2);
    world.mkdir(&who, "a", 0o755).await.unwrap();
    world.mkdir(&who, "a/b", 0o755).await.unwrap();
    world.put("a/f", b"hello").await.unwrap();
    assert_eq!(world.bytes("a/f").await.unwrap(), b"hello");
    assert_eq!((world.stat("").await.unwrap().nlink, world.stat("a").await.unwrap().nlink), (3, 3));
    assert_eq!(world.list("a").await, ["b", "f"]);
    assert_eq!(world.rmdir(&who, "a").await, Err(VfsError::NotEmpty));
    assert_eq!(world.rmdir(&who, "a/f").await, Err(VfsError::NotDirectory));
    assert_eq!(world.unlink(&who, "a/b").await, Err(VfsError::IsDirectory));
    assert_eq!(world.unlink(&who, "a/x").await, Err(VfsError::NotFound));
    assert_eq!(world.stat("a/f/x").await, Err(VfsError::NotDirectory));
    world.unlink(&who, "a/f").await.unwrap();
    world.rmdir(&who, "a/b").await.unwrap();
    world.rmdir(&who, "a").await.unwrap();
    assert_eq!(world.list("").await, [""; 0]);
    assert_eq!(world.stat("").await.unwrap().nlink, 2);
}

#[tokio::test(start_paused = true)]
async fn names_have_their_limits() {
    let world = World::new().await;
    let (who, dir) = (root(), world.share.root());
    let mkdir = async |name: &[u8]| world.share.mkdir(&who, dir, name, Create { mode: 0o755 }).await.map(|_| ());
    assert_eq!(mkdir(&[b'n'; 255]).await, Ok(()));
    assert_eq!(mkdir(&[b'n'; 256]).await, Err(VfsError::NameTooLong));
    assert_eq!(world.share.lookup(&who, dir, &[b'n'; 256]).await, Err(VfsError::NameTooLong));
    assert_eq!(mkdir(b"\xff").await, Err(VfsError::BadName));
    assert_eq!(world.share.lookup(&who, dir, b"\xff").await, Err(VfsError::NotFound));
    assert_eq!(mkdir(b"a/b").await, Err(VfsError::Invalid));
    assert_eq!(mkdir(b"").await, Err(VfsError::Invalid));
    assert_eq!(mkdir(b".").await, Err(VfsError::Exists));
    let mut at = dir;
    for _ in 0..15 {
        at = world.share.mkdir(&who, at, &[b'd'; 255], Create { mode: 0o755 }).await.unwrap().node;
    }
    // 15 × 256 bytes, and what is left of 4,095.
    world.share.mkdir(&who, at, &[b'd'; 255], Create { mode: 0o755 }).await.unwrap();
    let end = world.share.lookup(&who, at, &[b'd'; 255]).await.unwrap().node;
    assert_eq!(world.share.mkdir(&who, end, b"x", Create { mode: 0o755 }).await, Err(VfsError::NameTooLong));
}

#[tokio::test(start_paused = true)]
async fn create_meets_what_exists() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"old").await.unwrap();
    world.mkdir(&who, "d", 0o755).await.unwrap();
    let create = OpenHow { read: true, write: true, create: Some(Create { mode: 0o600 }), ..OpenHow::default() };
    let again = world.open_file(&who, "f", &create).await.unwrap();
    assert!(!again.created && again.attr.size_bytes == 3 && again.attr.mode == 0o644);
    world.share.close(again.handle).await.unwrap();
    assert_eq!(world.open_file(&who, "d", &create).await.unwrap_err(), VfsError::IsDirectory);
    let exclusive = OpenHow { exclusive: true, ..create.clone() };
    assert_eq!(world.open_file(&who, "f", &exclusive).await.unwrap_err(), VfsError::Exists);
    assert_eq!(world.mkdir(&who, "f", 0o755).await, Err(VfsError::Exists));
    assert_eq!(world.symlink(&who, "f", "x").await, Err(VfsError::Exists));
    assert_eq!(world.link(&who, "f", "d").await, Err(VfsError::Exists));
    // The verifier of an exclusive create makes its retry succeed, and nobody else's.
    let mine = OpenHow { verifier: Some(7), ..exclusive.clone() };
    let first = world.open_file(&who, "v", &mine).await.unwrap();
    let second = world.open_file(&who, "v", &mine).await.unwrap();
    assert!(first.created && !second.created && first.attr.node == second.attr.node);
    let other = OpenHow { verifier: Some(8), ..exclusive };
    assert_eq!(world.open_file(&who, "v", &other).await.unwrap_err(), VfsError::Exists);
    assert_eq!(world.share.listxattr(&who, first.attr.node).await.unwrap(), Vec::<Vec<u8>>::new());
}

#[tokio::test(start_paused = true)]
async fn links_count() {
    let world = World::new().await;
    let who = root();
    let file = world.put("a", b"x").await.unwrap().node;
    assert_eq!(world.link(&who, "a", "b").await.unwrap().nlink, 2);
    let before = world.stat("a").await.unwrap().ctime_ns;
    assert_eq!(world.rename(&who, "a", "b", Rename::Replace).await, Ok(()));
    assert_eq!(world.list("").await, ["a", "b"]);
    assert_eq!(world.stat("a").await.unwrap().ctime_ns, before);
    world.unlink(&who, "a").await.unwrap();
    let left = world.stat("b").await.unwrap();
    assert!(left.node == file && left.nlink == 1 && left.ctime_ns > before);
    world.mkdir(&who, "d", 0o755).await.unwrap();
    assert_eq!(world.link(&who, "d", "e").await, Err(VfsError::NotPermitted));
    world.unlink(&who, "b").await.unwrap();
    assert_eq!(world.share.getattr(&who, file).await, Err(VfsError::Stale));
    world.symlink(&who, "s", "target").await.unwrap();
    assert_eq!(world.link(&who, "s", "t").await.unwrap().nlink, 2);
    assert_eq!(world.symlink(&who, "e", "").await, Err(VfsError::NotFound));
    assert_eq!(world.symlink(&who, "e", &"x".repeat(4096)).await, Err(VfsError::NameTooLong));
    let link = world.symlink(&who, "e", &"x".repeat(4095)).await.unwrap();
    assert_eq!((link.size_bytes, link.mode), (4095, 0o777));
    assert_eq!(world.share.readlink(&who, link.node).await.unwrap().len(), 4095);
    assert_eq!(world.share.readlink(&who, world.share.root()).await, Err(VfsError::Invalid));
}

#[tokio::test(start_paused = true)]
async fn rename_replaces_and_refuses() {
    let world = World::new().await;
    let who = root();
    for dir in ["a", "a/b", "a/b/c", "full", "full/x", "empty"] {
        world.mkdir(&who, dir, 0o755).await.unwrap();
    }
    world.put("f", b"f").await.unwrap();
    let gone = world.put("g", b"g").await.unwrap().node;
    let replace = async |from: &str, to: &str| world.rename(&who, from, to, Rename::Replace).await;
    assert_eq!(replace("a", "a/b/n").await, Err(VfsError::Invalid));
    assert_eq!(replace("a", "a/n").await, Err(VfsError::Invalid));
    assert_eq!(replace("a/b/c", "a").await, Err(VfsError::NotEmpty));
    assert_eq!(replace("empty", "full").await, Err(VfsError::NotEmpty));
    assert_eq!(replace("f", "empty").await, Err(VfsError::IsDirectory));
    assert_eq!(replace("empty", "f").await, Err(VfsError::NotDirectory));
    assert_eq!(replace("none", "f").await, Err(VfsError::NotFound));
    assert_eq!(replace("a", "a").await, Ok(()));
    assert_eq!(world.rename(&who, "f", "g", Rename::NoReplace).await, Err(VfsError::Exists));
    assert_eq!(world.rename(&who, "f", "n", Rename::Exchange).await, Err(VfsError::NotFound));
    assert_eq!(replace("f", "g").await, Ok(()));
    assert_eq!(world.share.getattr(&who, gone).await, Err(VfsError::Stale));
    assert_eq!(world.bytes("g").await.unwrap(), b"f");
    assert_eq!(replace("a", "empty").await, Ok(()));
    assert_eq!(world.list("empty/b").await, ["c"]);
    assert_eq!(replace("empty/b", "full/b").await, Ok(()));
    let (from, to) = (world.stat("empty").await.unwrap(), world.stat("full").await.unwrap());
    assert_eq!((from.nlink, to.nlink), (2, 4));
    let up = world.share.lookup(&who, world.stat("full/b").await.unwrap().node, b"..").await.unwrap();
    assert_eq!(up.node, to.node);
}

#[tokio::test(start_paused = true)]
async fn exchange_swaps_across_directories() {
    let world = World::new().await;
    let who = root();
    for dir in ["p", "q", "p/d", "p/d/in"] {
        world.mkdir(&who, dir, 0o755).await.unwrap();
    }
    world.put("q/f", b"f").await.unwrap();
    world.rename(&who, "p/d", "q/f", Rename::Exchange).await.unwrap();
    assert_eq!(world.bytes("p/d").await.unwrap(), b"f");
    assert_eq!(world.list("q/f").await, ["in"]);
    assert_eq!((world.stat("p").await.unwrap().nlink, world.stat("q").await.unwrap().nlink), (2, 3));
    assert_eq!(world.rename(&who, "q", "q/f/in", Rename::Exchange).await, Err(VfsError::Invalid));
    assert_eq!(world.rename(&who, "q/f/in", "q", Rename::Exchange).await, Err(VfsError::Invalid));
}

#[tokio::test(start_paused = true)]
async fn an_open_file_outlives_its_name() {
    let world = World::new().await;
    let who = root();
    let how = OpenHow { read: true, write: true, create: Some(Create { mode: 0o600 }), ..OpenHow::default() };
    let open = world.open_file(&who, "f", &how).await.unwrap();
    let io = Io::Handle(open.handle);
    world.share.write(&who, io, 0, Bytes::from_static(b"still here")).await.unwrap();
    world.unlink(&who, "f").await.unwrap();
    assert_eq!(world.stat("f").await, Err(VfsError::NotFound));
    assert_eq!(world.share.getattr(&who, open.attr.node).await.unwrap().nlink, 0);
    assert_eq!(world.share.read(&who, io, 0, 100).await.unwrap().concat(), b"still here");
    assert_eq!(world.share.link(&who, open.attr.node, world.share.root(), b"g").await, Err(VfsError::NotFound));
    world.share.close(open.handle).await.unwrap();
    assert_eq!(world.share.getattr(&who, open.attr.node).await, Err(VfsError::Stale));
    assert_eq!(world.share.read(&who, io, 0, 1).await, Err(VfsError::BadHandle));
}

#[tokio::test(start_paused = true)]
async fn an_open_directory_outlives_its_name() {
    let world = World::new().await;
    let who = root();
    let dir = world.mkdir(&who, "d", 0o755).await.unwrap().node;
    let open = world.share.open(&who, Target::Node(dir), &OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    world.rmdir(&who, "d").await.unwrap();
    assert_eq!(world.share.mkdir(&who, dir, b"x", Create { mode: 0o755 }).await, Err(VfsError::NotFound));
    let mut names = Vec::new();
    let mut sink = |entry: DirEntry| {
        names.push(entry.name);
        true
    };
    assert_eq!(world.share.readdir(&who, dir, 0, true, &mut sink).await, Ok(true));
    assert_eq!(names.len(), 2);
    world.share.close(open.handle).await.unwrap();
    assert_eq!(world.share.getattr(&who, dir).await, Err(VfsError::Stale));
}

#[tokio::test(start_paused = true)]
async fn orphans_are_gone_after_a_crash() {
    let world = World::new().await;
    let who = root();
    let how = OpenHow { read: true, write: true, create: Some(Create { mode: 0o600 }), ..OpenHow::default() };
    let open = world.open_file(&who, "f", &how).await.unwrap();
    world.put("keep", b"kept").await.unwrap();
    world.unlink(&who, "f").await.unwrap();
    let world = world.process_death().await;
    assert_eq!(world.share.getattr(&who, open.attr.node).await, Err(VfsError::Stale));
    assert_eq!(world.list("").await, ["keep"]);
    assert_eq!(world.bytes("keep").await.unwrap(), b"kept");
}

#[tokio::test(start_paused = true)]
async fn cookies_stay_while_names_come_and_go() {
    let world = World::new().await;
    let who = root();
    for number in 0..40 {
        world.create(&who, &format!("f{number:02}"), 0o644).await.unwrap();
    }
    let dir = world.share.root();
    let mut seen = Vec::new();
    let mut cookie = 0;
    for round in 0.. {
        let from = cookie;
        let mut room = 7;
        let mut sink = |entry: DirEntry| {
            if room == 0 {
                return false;
            }
            room -= 1;
            cookie = entry.cookie;
            assert!(entry.attr.is_some_and(|attr| attr.node == entry.node && attr.kind == entry.kind));
            seen.push(String::from_utf8(entry.name).unwrap());
            true
        };

        let end = world.share.readdir(&who, dir, from, true, &mut sink).await.unwrap();
        if end {
            break;
        }
        // What was seen goes, something new comes at the end.
        if let Some(name) = seen.last().filter(|name| name.starts_with('f')) {
            world.unlink(&who, name).await.unwrap();
        }
        if round < 3 {
            world.create(&who, &format!("new{round}"), 0o644).await.unwrap();
        }
    }
    let old: Vec<_> = seen.iter().filter(|name| name.starts_with('f')).collect();
    assert_eq!(old.len(), 40);
    assert_eq!(seen.iter().filter(|name| name.starts_with("new")).count(), 3);
    assert_eq!(&seen[..2], [".", ".."]);
}

#[tokio::test(start_paused = true)]
async fn a_name_goes_at_the_last_close() {
    let world = World::new().await;
    let who = root();
    let doomed = OpenHow { read: true, create: Some(Create { mode: 0o644 }), delete_on_close: true, ..OpenHow::default() };
    let first = world.open_file(&who, "f", &doomed).await.unwrap();
    let second = world.open_file(&who, "f", &OpenHow { read: true, ..OpenHow::default() }).await.unwrap();
    world.share.close(first.handle).await.unwrap();
    assert!(world.stat("f").await.is_ok());
    world.share.close(second.handle).await.unwrap();
    assert_eq!(world.stat("f").await, Err(VfsError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn share_modes_are_kept() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"x").await.unwrap();
    let deny = OpenHow { read: true, deny_write: true, deny_delete: true, ..OpenHow::default() };
    let open = world.open_file(&who, "f", &deny).await.unwrap();
    let write = OpenHow { write: true, ..OpenHow::default() };
    assert_eq!(world.open_file(&who, "f", &write).await.unwrap_err(), VfsError::ShareViolation);
    assert_eq!(world.unlink(&who, "f").await, Err(VfsError::ShareViolation));
    assert_eq!(world.rename(&who, "f", "g", Rename::Replace).await, Err(VfsError::ShareViolation));
    world.share.close(open.handle).await.unwrap();
    let open = world.open_file(&who, "f", &write).await.unwrap();
    assert_eq!(world.open_file(&who, "f", &deny).await.unwrap_err(), VfsError::ShareViolation);
    world.share.close(open.handle).await.unwrap();
    world.unlink(&who, "f").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_share_keeps_its_place() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"of demo").await.unwrap();
    let moved = world.open("demo", Settings { bucket: "other".into(), ..settings() }).await;
    assert!(matches!(moved, Err(StartError::Moved { part: "bucket", given, .. }) if given == "other"));
    // The endpoint was not kept when this share was made; from the first open that says one on it is.
    let at = |endpoint: &str| Settings { endpoint: endpoint.into(), ..settings() };
    world.share.stop().await;
    world.open("demo", at("https://one.example")).await.unwrap().stop().await;
    let moved = world.open("demo", at("https://two.example")).await;
    let wanted = |kept: &str, given: &str| kept == "https://one.example" && given == "https://two.example";
    assert!(matches!(moved, Err(StartError::Moved { part: "endpoint", kept, given }) if wanted(&kept, &given)));
    world.open("demo", at("https://one.example")).await.unwrap();
    let other = world.open("second", settings()).await.unwrap();
    assert_ne!(other.root(), world.share.root());
    assert_ne!(other.owner(), world.share.owner());
    assert_eq!(other.lookup(&who, other.root(), b"f").await, Err(VfsError::NotFound));
    // A node of another share is no node of this one.
    assert_eq!(other.getattr(&who, world.share.root()).await, Err(VfsError::Stale));
}

#[tokio::test(start_paused = true)]
async fn every_change_is_told() {
    let world = World::new().await;
    let who = root();
    let mut changes = world.share.changes(None);
    let dir = world.share.root();
    let mut told = Vec::new();
    let node = world.put("f", b"x").await.unwrap().node;
    told.extend(changes.next().await.unwrap());
    world.rename(&who, "f", "g", Rename::Replace).await.unwrap();
    told.extend(changes.next().await.unwrap());
    world.chmod(&who, "g", 0o600).await.unwrap();
    told.extend(changes.next().await.unwrap());
    world.unlink(&who, "g").await.unwrap();
    told.extend(changes.next().await.unwrap());
    let entry = |name: &[u8], before, after| Changed::Entry { parent: dir, name: name.to_vec(), before, after };
    for wanted in [
        entry(b"f", NodeId(0), node),
        Changed::Data(node, 0..1),
        entry(b"f", node, NodeId(0)),
        entry(b"g", NodeId(0), node),
        Changed::Attr(node),
        entry(b"g", node, NodeId(0)),
    ] {
        assert!(told.contains(&wanted), "{wanted:?} in {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_the_caches_of_other_front_ends() {
    let world = World::new().await;
    let (ours, other) = (root(), Caller::root(Origin(77)));
    let node = world.put("f", b"x").await.unwrap().node;
    let _changes = world.share.changes(Some(ours.origin));
    let began = tokio::time::Instant::now();
    world.share.write(&ours, Io::Node(node), 0, Bytes::from_static(b"y")).await.unwrap();
    world.share.told(ours.origin).await;
    assert!(began.elapsed() < Duration::from_millis(500), "a front end waits for itself");
    world.share.getattr(&other, node).await.unwrap();
    world.share.told(other.origin).await;
    assert!(began.elapsed() < Duration::from_millis(500), "nothing changed");
    world.share.write(&other, Io::Node(node), 0, Bytes::from_static(b"z")).await.unwrap();
    world.share.told(other.origin).await;
    // Nobody took it: the answer goes out all the same, late.
    assert!((1000..1500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

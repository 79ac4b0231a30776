//! Permissions and owners: who may do what, and what a change takes away.

use super::*;

const ANA: u32 = 1001;
const BEN: u32 = 1002;

fn ana() -> Caller {
    user(ANA, &[ANA, 50])
}

fn ben() -> Caller {
    user(BEN, &[BEN, 50, 60])
}

#[tokio::test(start_paused = true)]
async fn one_class_decides() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    world.create(&ana(), "d/f", 0o640).await.unwrap();
    world.chown(&root(), "d/f", None, Some(50)).await.unwrap();
    let access = async |who: &Caller| {
        let node = world.stat("d/f").await.unwrap().node;
        world.share.access(who, node, AccessMask(7)).await.unwrap().0
    };
    assert_eq!((access(&ana()).await, access(&ben()).await, access(&user(9, &[9])).await), (6, 4, 0));
    // The owner's class decides for the owner, though the group has more.
    world.chmod(&root(), "d/f", 0o070).await.unwrap();
    assert_eq!((access(&ana()).await, access(&ben()).await), (0, 7));
    assert_eq!(access(&root()).await, 7);
    world.chmod(&root(), "d/f", 0o600).await.unwrap();
    assert_eq!(access(&root()).await, 6);
}

#[tokio::test(start_paused = true)]
async fn directories_ask_for_write_and_search() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o755).await.unwrap();
    world.create(&root(), "d/f", 0o644).await.unwrap();
    let denied = Err(VfsError::AccessDenied);
    assert_eq!(world.create(&ana(), "d/g", 0o644).await, denied);
    assert_eq!(world.mkdir(&ana(), "d/g", 0o755).await, denied);
    assert_eq!(world.symlink(&ana(), "d/g", "x").await, denied);
    assert_eq!(world.link(&ana(), "d/f", "d/g").await, denied);
    assert_eq!(world.unlink(&ana(), "d/f").await, Err(VfsError::AccessDenied));
    assert_eq!(world.rename(&ana(), "d/f", "d/g", Rename::Replace).await, Err(VfsError::AccessDenied));
    // What exists is told before what is denied.
    assert_eq!(world.mkdir(&ana(), "d/f", 0o755).await, Err(VfsError::Exists));
    world.chmod(&root(), "d", 0o744).await.unwrap();
    assert_eq!(world.walk(&ana(), "d/f").await, denied);
    world.chmod(&root(), "d", 0o733).await.unwrap();
    assert!(world.walk(&ana(), "d/f").await.is_ok());
    let dir = world.stat("d").await.unwrap().node;
    assert_eq!(world.share.readdir(&ana(), dir, 0, false, &mut |_| true).await, Err(VfsError::AccessDenied));
}

#[tokio::test(start_paused = true)]
async fn opening_asks_for_what_it_will_do() {
    let world = World::new().await;
    world.create(&root(), "f", 0o744).await.unwrap();
    let open = async |how: OpenHow| world.open_file(&ana(), "f", &how).await.map(|_| ());
    assert_eq!(open(OpenHow { read: true, ..OpenHow::default() }).await, Ok(()));
    assert_eq!(open(OpenHow { write: true, ..OpenHow::default() }).await, Err(VfsError::AccessDenied));
    assert_eq!(open(OpenHow { read: true, truncate: true, ..OpenHow::default() }).await, Err(VfsError::AccessDenied));
    assert_eq!(open(OpenHow { read: true, execute: true, ..OpenHow::default() }).await, Err(VfsError::AccessDenied));
    world.chmod(&root(), "f", 0o711).await.unwrap();
    assert_eq!(open(OpenHow { read: true, ..OpenHow::default() }).await, Err(VfsError::AccessDenied));
    assert_eq!(open(OpenHow { read: true, execute: true, ..OpenHow::default() }).await, Ok(()));
    // Who creates may write, whatever the mode.
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    let how = OpenHow { write: true, create: Some(Create { mode: 0 }), ..OpenHow::default() };
    let opened = world.open_file(&ana(), "d/none", &how).await.unwrap();
    world.share.write(&ana(), Io::Handle(opened.handle), 0, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(world.open_file(&ana(), "d/none", &how).await.unwrap_err(), VfsError::AccessDenied);
}

#[tokio::test(start_paused = true)]
async fn sticky_directories_protect_names() {
    let world = World::new().await;
    world.mkdir(&root(), "tmp", 0o1777).await.unwrap();
    world.create(&ana(), "tmp/a", 0o666).await.unwrap();
    world.create(&ben(), "tmp/b", 0o666).await.unwrap();
    assert_eq!(world.unlink(&ben(), "tmp/a").await, Err(VfsError::NotPermitted));
    assert_eq!(world.rename(&ben(), "tmp/a", "tmp/c", Rename::Replace).await, Err(VfsError::NotPermitted));
    assert_eq!(world.rename(&ben(), "tmp/b", "tmp/a", Rename::Replace).await, Err(VfsError::NotPermitted));
    assert_eq!(world.rename(&ben(), "tmp/b", "tmp/c", Rename::Replace).await, Ok(()));
    world.chown(&root(), "tmp", Some(BEN), None).await.unwrap();
    assert_eq!(world.unlink(&ben(), "tmp/a").await, Ok(()));
    // A directory of somebody else cannot change its parent: that writes its "..".
    world.mkdir(&root(), "open", 0o777).await.unwrap();
    world.mkdir(&ana(), "open/d", 0o755).await.unwrap();
    world.mkdir(&root(), "to", 0o777).await.unwrap();
    assert_eq!(world.rename(&ben(), "open/d", "to/d", Rename::Replace).await, Err(VfsError::AccessDenied));
    assert_eq!(world.rename(&ben(), "open/d", "open/e", Rename::Replace).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn modes_and_owners_change_by_the_rules() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    world.create(&ana(), "d/f", 0o644).await.unwrap();
    assert_eq!(world.chmod(&ben(), "d/f", 0o777).await, Err(VfsError::NotPermitted));
    assert_eq!(world.chmod(&ana(), "d/f", 0o6755).await.unwrap().mode, 0o6755);
    assert_eq!(world.chown(&ana(), "d/f", Some(BEN), None).await, Err(VfsError::NotPermitted));
    assert_eq!(world.chown(&ana(), "d/f", None, Some(60)).await, Err(VfsError::NotPermitted));
    assert_eq!(world.chown(&ben(), "d/f", None, Some(60)).await, Err(VfsError::NotPermitted));
    // To a group of one's own, and to what it is: allowed, and the privileges go.
    let changed = world.chown(&ana(), "d/f", Some(ANA), Some(50)).await.unwrap();
    assert_eq!((changed.uid, changed.gid, changed.mode), (ANA, 50, 0o755));
    world.chown(&root(), "d/f", Some(ANA), Some(60)).await.unwrap();
    assert_eq!(world.chmod(&ana(), "d/f", 0o2755).await.unwrap().mode, 0o755);
    assert_eq!(world.chmod(&root(), "d/f", 0o2755).await.unwrap().mode, 0o2755);
    // Without group execution the bit means locking, and stays.
    world.chmod(&root(), "d/f", 0o6705).await.unwrap();
    assert_eq!(world.chown(&root(), "d/f", Some(BEN), None).await.unwrap().mode, 0o2705);
    // Of a directory nothing is taken.
    world.chmod(&root(), "d", 0o6777).await.unwrap();
    assert_eq!(world.chown(&root(), "d", Some(ANA), Some(50)).await.unwrap().mode, 0o6777);
}

#[tokio::test(start_paused = true)]
async fn groups_are_inherited() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    world.chown(&root(), "d", None, Some(60)).await.unwrap();
    assert_eq!(world.create(&ana(), "d/plain", 0o644).await.unwrap().gid, ANA);
    world.chmod(&root(), "d", 0o2777).await.unwrap();
    let file = world.create(&ana(), "d/f", 0o2755).await.unwrap();
    assert_eq!((file.gid, file.mode), (60, 0o755));
    assert_eq!(world.create(&ben(), "d/g", 0o2755).await.unwrap().mode, 0o2755);
    let dir = world.mkdir(&ana(), "d/sub", 0o755).await.unwrap();
    assert_eq!((dir.gid, dir.mode), (60, 0o2755));
}

#[tokio::test(start_paused = true)]
async fn writing_takes_privileges_away() {
    let world = World::new().await;
    let file = world.create(&root(), "f", 0o6777).await.unwrap().node;
    let write = async |who: &Caller| {
        let opened = world.open_file(who, "f", &OpenHow { write: true, ..OpenHow::default() }).await.unwrap();
        world.share.write(who, Io::Handle(opened.handle), 0, Bytes::from_static(b"x")).await.unwrap();
        world.share.close(opened.handle).await.unwrap();
        world.stat("f").await.unwrap().mode
    };
    assert_eq!(write(&root()).await, 0o6777);
    assert_eq!(write(&ana()).await, 0o777);
    world.chmod(&root(), "f", 0o6777).await.unwrap();
    let cut = SetAttr { size_bytes: Some(0), ..SetAttr::default() };
    assert_eq!(world.share.setattr(&root(), file, None, &cut).await.unwrap().mode, 0o6777);
    assert_eq!(world.share.setattr(&ana(), file, None, &cut).await.unwrap().mode, 0o777);
}

#[tokio::test(start_paused = true)]
async fn devices_are_roots() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    let dir = world.stat("d").await.unwrap().node;
    let make =
        async |who: &Caller, name: &[u8], kind| world.share.mknod(who, dir, name, kind, 0x103, Create { mode: 0o600 }).await;
    assert_eq!(make(&ana(), b"c", NodeKind::CharDevice).await, Err(VfsError::NotPermitted));
    assert_eq!(make(&root(), b"c", NodeKind::CharDevice).await.unwrap().rdev, 0x103);
    let pipe = make(&ana(), b"p", NodeKind::Fifo).await.unwrap();
    assert_eq!((pipe.kind, pipe.rdev, pipe.size_bytes), (NodeKind::Fifo, 0, 0));
    assert_eq!(make(&ana(), b"s", NodeKind::Socket).await.unwrap().kind, NodeKind::Socket);
    assert_eq!(make(&ana(), b"f", NodeKind::File).await.unwrap().kind, NodeKind::File);
    assert_eq!(make(&ana(), b"d", NodeKind::Directory).await, Err(VfsError::Invalid));
    let cut = SetAttr { size_bytes: Some(0), ..SetAttr::default() };
    assert_eq!(world.share.setattr(&root(), pipe.node, None, &cut).await, Err(VfsError::Invalid));
    assert_eq!(world.share.setattr(&root(), dir, None, &cut).await, Err(VfsError::IsDirectory));
}

#[tokio::test(start_paused = true)]
async fn a_read_only_share_changes_nothing() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"x").await.unwrap();
    let node = world.stat("f").await.unwrap().node;
    let World { disk, database, bucket, clock, settings, .. } = world;
    let disk = disk.process_death();
    let database = Arc::new((*database).clone());
    let world = World::start(disk, database, bucket, clock, Settings { read_only: true, ..settings }).await;
    assert_eq!(world.bytes("f").await.unwrap(), b"x");
    let refused = VfsError::ReadOnly;
    assert_eq!(world.mkdir(&who, "d", 0o755).await.unwrap_err(), refused);
    assert_eq!(world.unlink(&who, "f").await.unwrap_err(), refused);
    assert_eq!(world.rename(&who, "f", "g", Rename::Replace).await.unwrap_err(), refused);
    assert_eq!(world.chmod(&who, "f", 0).await.unwrap_err(), refused);
    assert_eq!(world.link(&who, "f", "g").await.unwrap_err(), refused);
    assert_eq!(world.open_file(&who, "f", &OpenHow { write: true, ..OpenHow::default() }).await.unwrap_err(), refused);
    assert_eq!(world.share.write(&who, Io::Node(node), 0, Bytes::from_static(b"y")).await.unwrap_err(), refused);
    assert_eq!(world.share.setxattr(&who, node, b"user.a", b"", SetXattr::Any).await.unwrap_err(), refused);
    assert_eq!(world.share.access(&who, node, AccessMask(6)).await.unwrap(), AccessMask(4));
}

#[tokio::test(start_paused = true)]
async fn extended_attributes_have_spaces_and_limits() {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o777).await.unwrap();
    let file = world.create(&ana(), "d/f", 0o644).await.unwrap().node;
    let set = async |who: &Caller, name: &[u8], value: &[u8], how| world.share.setxattr(who, file, name, value, how).await;
    let get = async |who: &Caller, name: &[u8]| world.share.getxattr(who, file, name).await;
    assert_eq!(get(&ana(), b"user.a").await, Err(VfsError::NoAttribute));
    assert_eq!(set(&ana(), b"user.a", b"1", SetXattr::Replace).await, Err(VfsError::NoAttribute));
    let before = world.stat("d/f").await.unwrap().ctime_ns;
    assert_eq!(set(&ana(), b"user.a", b"1", SetXattr::Create).await, Ok(()));
    assert!(world.stat("d/f").await.unwrap().ctime_ns > before);
    assert_eq!(set(&ana(), b"user.a", b"1", SetXattr::Create).await, Err(VfsError::Exists));
    assert_eq!(set(&ben(), b"user.a", b"2", SetXattr::Any).await, Err(VfsError::AccessDenied));
    assert_eq!(set(&ana(), b"trusted.t", b"2", SetXattr::Any).await, Err(VfsError::NotPermitted));
    assert_eq!(set(&root(), b"trusted.t", b"2", SetXattr::Any).await, Ok(()));
    assert_eq!(set(&root(), b"security.s", b"", SetXattr::Any).await, Ok(()));
    assert_eq!(set(&root(), b"system.posix_acl_access", b"", SetXattr::Any).await, Err(VfsError::Unsupported));
    assert_eq!(set(&root(), b"user.", b"", SetXattr::Any).await, Err(VfsError::Invalid));
    assert_eq!(
        set(&root(), &[b"user.".as_slice(), &[b'x'; 251]].concat(), b"", SetXattr::Any).await,
        Err(VfsError::RangeTooSmall)
    );
    assert_eq!(set(&ana(), b"user.big", &[0; 65537], SetXattr::Any).await, Err(VfsError::RangeTooSmall));
    assert_eq!(set(&ana(), b"user.big", &[1; 65536], SetXattr::Any).await, Ok(()));
    assert_eq!(get(&ana(), b"user.big").await.unwrap().len(), 65536);
    assert_eq!(get(&ana(), b"trusted.t").await, Err(VfsError::NoAttribute));
    assert_eq!(get(&ana(), b"security.s").await.unwrap(), b"");
    let names = world.share.listxattr(&ana(), file).await.unwrap();
    assert_eq!(names, [b"security.s".to_vec(), b"user.a".to_vec(), b"user.big".to_vec()]);
    assert_eq!(world.share.listxattr(&root(), file).await.unwrap().len(), 4);
    assert_eq!(world.share.removexattr(&ana(), file, b"user.none").await, Err(VfsError::NoAttribute));
    assert_eq!(world.share.removexattr(&ana(), file, b"user.a").await, Ok(()));
    assert_eq!(get(&ana(), b"user.a").await, Err(VfsError::NoAttribute));
    let link = world.symlink(&ana(), "d/l", "f").await.unwrap().node;
    assert_eq!(world.share.setxattr(&ana(), link, b"user.a", b"", SetXattr::Any).await, Err(VfsError::NotPermitted));
    // They are gone with the node.
    world.unlink(&ana(), "d/f").await.unwrap();
    assert!(world.blobs.meta().xattrs(file).await.unwrap().is_empty());
}

//! Bytes: read, write, append, allocate, seek, copy, through handles and without.

use super::*;

async fn opened(world: &World, path: &str, how: OpenHow) -> Io {
    Io::Handle(world.open_file(&root(), path, &how).await.unwrap().handle)
}

fn create() -> OpenHow {
    OpenHow { read: true, write: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() }
}

#[tokio::test(start_paused = true)]
async fn files_have_holes_and_ends() {
    let world = World::new().await;
    let who = root();
    let io = opened(&world, "f", create()).await;
    let attr = world.share.write(&who, io, 10_000, Bytes::from_static(b"end")).await.unwrap();
    assert_eq!(attr.size_bytes, 10_003);
    let all = world.share.read(&who, io, 0, 20_000).await.unwrap().concat();
    assert!(all.len() == 10_003 && all[..10_000].iter().all(|byte| *byte == 0) && all.ends_with(b"end"));
    assert_eq!(world.share.read(&who, io, 10_003, 5).await.unwrap().concat(), b"");
    assert_eq!(world.share.read(&who, io, u64::MAX, 5).await.unwrap().concat(), b"");
    let limit = world.bucket_limit();
    assert_eq!(world.share.write(&who, io, limit, Bytes::from_static(b"x")).await, Err(VfsError::TooLarge));
    assert_eq!(world.share.write(&who, io, u64::MAX, Bytes::from_static(b"x")).await, Err(VfsError::TooLarge));
    let large = SetAttr { size_bytes: Some(limit + 1), ..SetAttr::default() };
    assert_eq!(world.set(&who, "f", large).await, Err(VfsError::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn handles_do_what_they_were_opened_for() {
    let world = World::new().await;
    let who = root();
    world.put("f", b"abc").await.unwrap();
    let (read, write) = (OpenHow { read: true, ..OpenHow::default() }, OpenHow { write: true, ..OpenHow::default() });
    let (read, write) = (opened(&world, "f", read).await, opened(&world, "f", write).await);
    assert_eq!(world.share.write(&who, read, 0, Bytes::from_static(b"x")).await, Err(VfsError::BadHandle));
    assert_eq!(world.share.read(&who, write, 0, 1).await, Err(VfsError::BadHandle));
    assert_eq!(world.share.allocate(&who, read, 0, 1, Allocate::Extend).await, Err(VfsError::BadHandle));
    let Io::Handle(handle) = write else { unreachable!() };
    let node = world.stat("f").await.unwrap().node;
    // A writer may truncate what it could not open again.
    world.chmod(&who, "f", 0o400).await.unwrap();
    world.chown(&who, "f", Some(7), None).await.unwrap();
    let cut = SetAttr { size_bytes: Some(1), ..SetAttr::default() };
    let nobody = user(9, &[9]);
    assert_eq!(world.share.setattr(&nobody, node, Some(handle), &cut).await.unwrap().size_bytes, 1);
    assert_eq!(world.share.setattr(&nobody, node, None, &cut).await, Err(VfsError::AccessDenied));
    // The owner may always, without a handle; others by the bits.
    let owner = user(7, &[7]);
    assert!(world.share.write(&owner, Io::Node(node), 0, Bytes::from_static(b"x")).await.is_ok());
    assert_eq!(world.share.write(&nobody, Io::Node(node), 0, Bytes::from_static(b"x")).await, Err(VfsError::AccessDenied));
    assert_eq!(world.share.read(&nobody, Io::Node(node), 0, 1).await, Err(VfsError::AccessDenied));
    let dir = world.share.root();
    assert_eq!(world.share.read(&who, Io::Node(dir), 0, 1).await, Err(VfsError::IsDirectory));
}

#[tokio::test(start_paused = true)]
async fn appends_go_to_the_end_whatever_the_offset() {
    let world = World::new().await;
    let who = root();
    let append = OpenHow { append: true, ..create() };
    let (first, second) = (opened(&world, "f", append.clone()).await, opened(&world, "f", append).await);
    for (io, text) in [(first, "one "), (second, "two "), (first, "three")] {
        world.share.write(&who, io, 0, Bytes::from_static(text.as_bytes())).await.unwrap();
    }
    assert_eq!(world.bytes("f").await.unwrap(), b"one two three");
}

#[tokio::test(start_paused = true)]
async fn ranges_are_allocated_punched_and_sought() {
    let world = World::new().await;
    let who = root();
    let io = opened(&world, "f", create()).await;
    world.share.write(&who, io, 0, Bytes::from(vec![7; 64 << 10])).await.unwrap();
    let allocate = async |offset, len, how| world.share.allocate(&who, io, offset, len, how).await;
    let size = async || world.stat("f").await.unwrap().size_bytes;
    assert_eq!(allocate(0, 0, Allocate::Extend).await, Err(VfsError::Invalid));
    assert_eq!(allocate(0, 1 << 20, Allocate::KeepSize).await, Ok(()));
    assert_eq!(size().await, 64 << 10);
    assert_eq!(allocate(0, 128 << 10, Allocate::Extend).await, Ok(()));
    assert_eq!(size().await, 128 << 10);
    assert_eq!(allocate(16 << 10, 16 << 10, Allocate::Punch).await, Ok(()));
    assert_eq!(allocate(120 << 10, 16 << 10, Allocate::ZeroKeepSize).await, Ok(()));
    assert_eq!(size().await, 128 << 10);
    assert_eq!(allocate(120 << 10, 16 << 10, Allocate::Zero).await, Ok(()));
    assert_eq!(size().await, 136 << 10);
    assert_eq!(allocate(0, 4096, Allocate::Collapse).await, Err(VfsError::Unsupported));
    assert_eq!(allocate(0, 4096, Allocate::Insert).await, Err(VfsError::Unsupported));
    assert_eq!(allocate(u64::MAX, 2, Allocate::Extend).await, Err(VfsError::TooLarge));
    let bytes = world.bytes("f").await.unwrap();
    let wanted: Vec<u8> =
        (0..136_u64 << 10).map(|at| if at < 16 << 10 || (32 << 10..64 << 10).contains(&at) { 7 } else { 0 }).collect();
    assert!(bytes == wanted);
    let seek = async |offset, what| world.share.seek(&who, io, offset, what).await;
    assert_eq!(seek(0, Seek::Data).await, Ok(0));
    assert_eq!(seek(0, Seek::Hole).await, Ok(16 << 10));
    assert_eq!(seek(20 << 10, Seek::Data).await, Ok(32 << 10));
    assert_eq!(seek(20 << 10, Seek::Hole).await, Ok(20 << 10));
    assert_eq!(seek(40 << 10, Seek::Hole).await, Ok(64 << 10));
    assert_eq!(seek(64 << 10, Seek::Data).await, Err(VfsError::NoSuchAddress));
    assert_eq!(seek(136 << 10, Seek::Hole).await, Err(VfsError::NoSuchAddress));
    let attr = world.stat("f").await.unwrap();
    assert!(attr.allocated_bytes < attr.size_bytes, "{attr:?}");
}

#[tokio::test(start_paused = true)]
async fn ranges_are_copied() {
    let world = World::new().await;
    let who = root();
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    world.put("a", &data).await.unwrap();
    let (from, to) = (opened(&world, "a", create()).await, opened(&world, "b", create()).await);
    assert_eq!(world.share.copy_range(&who, from, 100, to, 7, 5_000_000).await, Ok(2_999_900));
    let copied = world.bytes("b").await.unwrap();
    assert!(copied.len() == 2_999_907 && copied[7..] == data[100..]);
    assert_eq!(world.share.copy_range(&who, from, 3_000_000, to, 0, 10).await, Ok(0));
    assert_eq!(world.share.copy_range(&who, from, 0, from, 50, 100).await, Err(VfsError::Invalid));
    assert_eq!(world.share.copy_range(&who, from, 0, from, 100, 100).await, Ok(100));
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_survives_power_loss() {
    for seed in 0..20 {
        let world = World::new().await;
        let who = root();
        world.mkdir(&who, "d", 0o755).await.unwrap();
        let node = world.put("d/f", b"synced").await.unwrap().node;
        world.share.commit(&who, node).await.unwrap();
        let world = world.power_loss(seed).await;
        assert_eq!(world.bytes("d/f").await.unwrap(), b"synced", "seed {seed}");
        assert_eq!(world.stat("d/f").await.unwrap().node, node);
        // And it goes on: ids are new, rows are whole.
        let other = world.put("d/g", b"after").await.unwrap().node;
        assert_ne!(other, node);
        assert_eq!(world.list("d").await, ["f", "g"]);
    }
}

impl World {
    fn bucket_limit(&self) -> u64 {
        use crate::store::object::ObjectStore;
        self.bucket.capabilities().object_bytes_max
    }
}

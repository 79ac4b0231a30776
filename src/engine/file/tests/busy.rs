//! Files that are written all the time: they are uploaded now and again, and nobody waits for ever for them.

use super::*;
use crate::store::object::ObjectStore;

/// Writes to a new file each 100 ms, for ever.
async fn write_always(share: &Share, open: bool) {
    let how = OpenHow { write: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() };
    let opened = share.open(&root(), Target::Child(share.root(), b"busy"), &how).await.unwrap();
    let mut io = Io::Handle(opened.handle);
    if !open {
        share.close(opened.handle).await.unwrap();
        io = Io::Mapped(opened.attr.node);
    }
    for number in 0_u64.. {
        share.write(&root(), io, 0, number.to_le_bytes().to_vec().into()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn saved(world: &World) -> Option<u64> {
    let (_, bytes) = world.bucket.get("busy", None, None).await.ok()?;
    Some(u64::from_le_bytes(bytes[..].try_into().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn waiting_for_uploads_ends_when_what_was_written_before_is_there() {
    for open in [true, false] {
        let world = World::new().await;
        let wait = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(world.share.drain(Some(Duration::from_secs(10))).await, "it waits for what was written later");
        };
        tokio::select! {
            () = write_always(&world.share, open) => {}
            () = wait => {}
        }
        assert!(saved(&world).await.unwrap() >= 90, "not all of what was written before the wait");
    }
}

#[tokio::test(start_paused = true)]
async fn no_file_waits_longer_than_upload_max_age() {
    for open in [true, false] {
        let world = World::with(Settings { upload_max_age: Some(Duration::from_secs(20)), ..settings() }).await;
        let _ = tokio::time::timeout(Duration::from_secs(30), write_always(&world.share, open)).await;
        assert!(saved(&world).await.is_some_and(|number| number >= 190), "open: {open}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_kernel_writes_back_is_uploaded_as_soon_as_what_is_closed() {
    let world = World::new().await;
    let _ = tokio::time::timeout(Duration::from_secs(1), write_always(&world.share, false)).await;
    tokio::time::sleep(settings().upload_delay + Duration::from_secs(2)).await;
    assert!(saved(&world).await.is_some_and(|number| number >= 9), "it is no NFS client, whose files are quiet for longer");
}

//! What landed in the bucket and was not recorded when the power failed: it stays ours, whatever is done here before it is found again.

use super::*;
use crate::store::blob::Patience;
use crate::store::object::ObjectStore;
use crate::store::object::fault::{Action, Keys, Rule};
use crate::store::object::layer::Kind;

/// A gateway whose power failed after the file "d/a" landed in the bucket and before the answer came.
async fn landed() -> World {
    let world = World::new().await;
    world.mkdir(&root(), "d", 0o755).await.unwrap();
    world.share.drain(None).await;
    world.faults.add(Rule::new(Action::HangAfter).on(Kind::Put).at(Keys::Is("d/a".into())));
    world.put("d/a", b"first").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.bucket.head("d/a").await.is_ok(), "it should have landed");
    world.power_loss(7).await
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_does_not_come_back() {
    let world = landed().await;
    world.unlink(&root(), "d/a").await.unwrap();
    assert!(world.list("d").await.is_empty());
    assert!(world.share.drain(Some(Duration::from_secs(60))).await);
    assert!(world.bucket.head("d/a").await.is_err());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.list("d").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nor_does_a_removed_directory() {
    let world = landed().await;
    world.unlink(&root(), "d/a").await.unwrap();
    world.rmdir(&root(), "d").await.unwrap();
    world.share.refresh("").await.unwrap();
    assert!(world.list("").await.is_empty());
    assert!(world.share.drain(Some(Duration::from_secs(60))).await);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.list("").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_file_of_its_name_is_no_conflict() {
    for renamed in [false, true] {
        let world = landed().await;
        if renamed {
            world.rename(&root(), "d/a", "d/b", Rename::Replace).await.unwrap();
        } else {
            world.unlink(&root(), "d/a").await.unwrap();
        }
        world.symlink(&root(), "d/a", "elsewhere").await.unwrap();
        assert!(world.share.drain(Some(Duration::from_secs(60))).await);
        tokio::time::sleep(Duration::from_secs(300)).await;
        let names: &[&str] = if renamed { &["b", "a"] } else { &["a"] };
        assert_eq!(world.list("d").await, names);
        assert_eq!(world.stat("d/a").await.unwrap().kind, NodeKind::Symlink);
        assert_eq!(world.bucket.head("d/a").await.unwrap().size_bytes, 9);
    }
}

/// A write waits for room while the upload that makes room ends: its job is still there when its bytes come, at every moment.
#[tokio::test(start_paused = true)]
async fn a_write_that_waited_for_room_leaves_a_job_behind() {
    let world = World::new().await;
    let attr = world.put("a", b"first").await.unwrap();
    world.share.commit(&root(), attr.node).await.unwrap();
    let writing = world.share.remote.writing.begin(attr.node);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.bucket.head("a").await.is_ok(), "it is uploaded while a write waits");
    let blob = world.share.node(attr.node).await.unwrap().blob;
    assert!(!world.blobs.info(blob).await.unwrap().is_dirty());
    world.blobs.write(blob, 0, Bytes::from_static(b"later"), Patience::Default).await.unwrap();
    drop(writing);
    let world = world.process_death().await;
    assert!(world.share.has_job(attr.node).await.unwrap(), "dirty bytes without a job");
    assert!(world.share.drain(Some(Duration::from_secs(60))).await);
    let (_, body) = world.bucket.get("a", None, None).await.unwrap();
    assert_eq!(&body[..], b"later");
}

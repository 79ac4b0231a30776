//! Waiting for S3: no longer than the share allows, and not for the dead.

use super::*;
use crate::store::object::fault::Death;
use crate::store::object::{Attributes, Body, ObjectStore, Precondition};

/// A world whose bucket has an object of somebody else.
async fn foreign() -> World {
    let world = World::with(Settings { remote_timeout: Duration::from_secs(3), ..settings() }).await;
    let body = Body::from(Bytes::from_static(b"theirs"));
    world.bucket.put("far", body, &Attributes::default(), &Precondition::None).await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn a_dead_bucket_is_told_in_time() {
    let world = foreign().await;
    let node = world.stat("far").await.unwrap().node;
    world.put("near", b"ours").await.unwrap();
    world.faults.kill(Death::Silent);
    let start = tokio::time::Instant::now();
    let read = world.share.read(&root(), Io::Node(node), 0, 10).await;
    assert!(matches!(read, Err(VfsError::Unavailable(_))), "{read:?}");
    assert_eq!(start.elapsed().as_secs(), 3);
    // What is known goes on.
    assert_eq!(world.bytes("near").await.unwrap(), b"ours");
    assert_eq!(world.list("").await.len(), 2);
    assert_eq!(world.stat("far").await.unwrap().size_bytes, 6);
    world.share.commit(&root(), node).await.unwrap();
    world.faults.heal();
    // Who fetches for everybody may still be waiting for its own answer.
    tokio::time::sleep(Faults::PATIENCE).await;
    assert_eq!(world.bytes("far").await.unwrap(), b"theirs");
}

#[tokio::test]
async fn a_killed_reader_of_a_dead_bucket_is_gone_within_a_second() {
    let world = World::with(Settings { remote_timeout: Duration::from_secs(60), ..settings() }).await;
    let body = Body::from(Bytes::from_static(b"theirs"));
    world.bucket.put("far", body, &Attributes::default(), &Precondition::None).await.unwrap();
    let node = world.stat("far").await.unwrap().node;
    world.faults.kill(Death::Silent);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let who = Caller { pid: Some(child.id()), ..root() };
    let (read, killed) = tokio::join!(world.share.read(&who, Io::Node(node), 0, 10), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        child.kill().unwrap();
        tokio::time::Instant::now()
    });
    assert_eq!(read, Err(VfsError::Interrupted));
    assert!(killed.elapsed() < Duration::from_secs(1));
    child.wait().unwrap();
}

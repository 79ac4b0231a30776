//! Open files while the cache is short: the oldest is published, and no share pays for another's dead bucket.

use super::*;
use crate::store::object::ObjectStore;
use crate::store::object::fault::Death;

/// Opens a file that does not exist yet, and writes to it.
async fn open_and_write(share: &Share, name: &str, bytes: Vec<u8>) -> HandleId {
    let how = OpenHow { write: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() };
    let opened = share.open(&root(), Target::Child(share.root(), name.as_bytes()), &how).await.unwrap();
    share.write(&root(), Io::Handle(opened.handle), 0, bytes.into()).await.unwrap();
    opened.handle
}

#[tokio::test(start_paused = true)]
async fn a_share_on_a_dead_bucket_publishes_nothing_of_its_neighbours() {
    let world = World::new().await;
    let neighbour = world.open("neighbour", Settings { prefix: "n/".into(), ..settings() }).await.unwrap();
    let mut open = Vec::new();
    for name in ["a", "b", "c"] {
        open.push(open_and_write(&neighbour, name, vec![1; 1000]).await);
    }
    let handle = open_and_write(&world.share, "big", vec![2; 1 << 20]).await;
    world.faults.kill(Death::Silent);
    let who = root();
    let mut offset = 1 << 20;
    // Until the dead bucket's share is full, with writers that ask again and again.
    for _ in 0..60 {
        let write = world.share.write(&who, Io::Handle(handle), offset, vec![2; 1 << 20].into());
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), write).await {
            offset += 1 << 20;
        }
        for file in &open {
            neighbour.write(&root(), Io::Handle(*file), 0, vec![3; 1000].into()).await.unwrap();
        }
    }
    assert!(world.blobs.usage(world.share.owner()).dirty_bytes > 20 << 20, "it should be pressed");
    for name in ["n/a", "n/b", "n/c"] {
        assert!(world.bucket.head(name).await.is_err(), "{name} was uploaded half-written");
    }
    for file in open {
        neighbour.close(file).await.unwrap();
    }
    assert!(neighbour.drain(Some(Duration::from_secs(10))).await);
    assert_eq!(world.bucket.head("n/a").await.unwrap().size_bytes, 1000);
}

#[tokio::test(start_paused = true)]
async fn only_the_oldest_open_file_is_published() {
    let world = World::new().await;
    let mut open = Vec::new();
    for (name, mib) in [("clean", 0), ("old", 14), ("young", 14), ("youngest", 1)] {
        open.push((name, open_and_write(&world.share, name, vec![1; mib << 20]).await));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.bucket.head("old").await.is_ok(), "the cache is short, and the oldest open file stayed");
    for name in ["young", "youngest"] {
        assert!(world.bucket.head(name).await.is_err(), "{name} was uploaded half-written");
    }
    for (_, handle) in open {
        world.share.close(handle).await.unwrap();
    }
}

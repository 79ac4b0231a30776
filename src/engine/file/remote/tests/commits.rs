//! `durability = "remote"`: a commit that succeeds means that these bytes are in the bucket, and one that cannot says so in time.

use super::*;
use crate::engine::file::share::Durability;
use crate::store::blob::Patience;
use crate::store::object::fault::Death;

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_s3_where_the_share_says_so() {
    let durability = Durability::Remote;
    let world = World::with(Settings { durability, ..Settings::default() });
    let gateway = world.gateway("gw").await;
    let opened = gateway.open_to_write("a").await.unwrap();
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"hello")).await.unwrap();
    gateway.share.commit(&gateway.who, opened.attr.node).await.unwrap();
    assert_eq!(world.body("a").as_deref(), Some("hello"));
    world.faults.kill(Death::Refusing);
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"J")).await.unwrap();
    assert!(matches!(gateway.share.commit(&gateway.who, opened.attr.node).await, Err(VfsError::Unavailable(_))));
}

/// A share whose commits mean S3, and whose files wait for nothing else.
fn promised() -> World {
    let durability = Durability::Remote;
    let (upload_delay, remote_timeout) = (Duration::from_secs(3_600), Duration::from_secs(3));
    World::with(Settings { durability, upload_delay, remote_timeout, ..Settings::default() })
}

#[tokio::test(start_paused = true)]
async fn a_commit_during_an_outage_fails_in_time_and_after_it_means_these_bytes() {
    for death in [Death::Refusing, Death::Silent] {
        let world = promised();
        let gateway = world.gateway("gw").await;
        let opened = gateway.open_to_write("a").await.unwrap();
        let (io, node) = (Io::Handle(opened.handle), opened.attr.node);
        for round in 0..60_u64 {
            let body = format!("round {round:02}");
            gateway.share.write(&gateway.who, io, 0, Bytes::from(body.clone())).await.unwrap();
            if round % 20 == 10 {
                world.faults.kill(death);
                let start = Instant::now();
                let refused = gateway.share.commit(&gateway.who, node).await;
                assert!(matches!(refused, Err(VfsError::Unavailable(_))), "{refused:?}");
                assert_eq!(start.elapsed().as_millis() / 10, 300, "{death:?}");
                // Past the back-off, also in the midst of an attempt.
                tokio::time::sleep(Duration::from_millis(round * 170)).await;
                assert_ne!(world.body("a").as_deref(), Some(&*body));
                world.faults.heal();
            }
            let deadline = Instant::now() + Duration::from_secs(120);
            while let Err(error) = gateway.share.commit(&gateway.who, node).await {
                assert!(Instant::now() < deadline, "{error}");
            }
            assert_eq!(world.body("a").as_deref(), Some(&*body), "{death:?}");
            // Through all that comes after a job: its row goes a moment later.
            tokio::time::sleep(Duration::from_micros(round * 3_337)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_means_bytes_also_where_they_have_no_job() {
    let world = promised();
    let gateway = world.gateway("gw").await;
    let opened = gateway.open_to_write("a").await.unwrap();
    let node = opened.attr.node;
    gateway.share.write(&gateway.who, Io::Handle(opened.handle), 0, Bytes::from_static(b"hello")).await.unwrap();
    gateway.share.commit(&gateway.who, node).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!gateway.share.has_job(node).await.unwrap());
    let blob = gateway.share.node(node).await.unwrap().blob;
    gateway.blobs.write(blob, 0, Bytes::from_static(b"J"), Patience::Default).await.unwrap();
    gateway.share.commit(&gateway.who, node).await.unwrap();
    assert_eq!(world.body("a").as_deref(), Some("Jello"));
}

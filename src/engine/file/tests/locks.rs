//! Locks as callers see them: waiting, giving up, deadlock, death.

use super::*;

fn lock(owner: u64, range: std::ops::Range<u64>, kind: LockKind) -> Lock {
    Lock { owner: LockOwner { origin: Origin(1), owner, pid: 0 }, range, kind, flock: false }
}

const LONG: Option<Duration> = Some(Duration::from_secs(1000));

#[tokio::test(start_paused = true)]
async fn a_waiting_lock_is_granted_in_turn() {
    let world = World::new().await;
    let who = root();
    let node = world.put("f", b"x").await.unwrap().node;
    let share = world.share.clone();
    let take = async |owner, kind, wait| share.lock(&who, node, &lock(owner, 0..10, kind), wait).await;
    take(1, LockKind::Exclusive, None).await.unwrap();
    assert_eq!(take(2, LockKind::Shared, None).await, Err(VfsError::WouldBlock));
    assert_eq!(take(2, LockKind::Shared, Some(Duration::from_secs(1))).await, Err(VfsError::WouldBlock));
    let blocker = share.test_lock(&who, node, &lock(2, 3..4, LockKind::Shared)).await.unwrap().unwrap();
    assert_eq!((blocker.owner.owner, blocker.range), (1, 0..10));
    let (waited, _) = tokio::join!(take(2, LockKind::Exclusive, LONG), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        share.release_locks(node, lock(1, 0..1, LockKind::Unlock).owner).await;
    });
    assert_eq!(waited, Ok(()));
    assert_eq!(take(1, LockKind::Shared, None).await, Err(VfsError::WouldBlock));
    // Who gave up is not in anybody's way.
    let gave_up = tokio::time::timeout(Duration::from_secs(1), take(3, LockKind::Exclusive, LONG)).await;
    assert!(gave_up.is_err());
    take(2, LockKind::Unlock, None).await.unwrap();
    assert_eq!(take(4, LockKind::Exclusive, LONG).await, Ok(()));
    assert_eq!(share.lock(&who, node, &lock(4, 5..5, LockKind::Shared), None).await, Err(VfsError::Invalid));
}

#[tokio::test(start_paused = true)]
async fn crossed_locks_are_told() {
    let world = World::new().await;
    let who = root();
    let a = world.put("a", b"x").await.unwrap().node;
    let b = world.put("b", b"x").await.unwrap().node;
    let take = async |owner, node, wait| world.share.lock(&who, node, &lock(owner, 0..1, LockKind::Exclusive), wait).await;
    take(1, a, None).await.unwrap();
    take(2, b, None).await.unwrap();
    let (first, second) = tokio::join!(take(1, b, LONG), async {
        let crossed = take(2, a, LONG).await;
        world.share.release_locks(b, lock(2, 0..1, LockKind::Unlock).owner).await;
        crossed
    });
    assert_eq!((first, second), (Ok(()), Err(VfsError::Deadlock)));
}

#[tokio::test]
async fn a_killed_process_waits_no_longer() {
    let world = World::new().await;
    let node = world.put("f", b"x").await.unwrap().node;
    world.share.lock(&root(), node, &lock(1, 0..1, LockKind::Exclusive), None).await.unwrap();
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let who = Caller { pid: Some(child.id()), ..root() };
    let wanted = lock(2, 0..1, LockKind::Exclusive);
    let waiting = world.share.lock(&who, node, &wanted, LONG);
    let (waited, _) = tokio::join!(tokio::time::timeout(Duration::from_secs(5), waiting), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        child.kill().unwrap();
    });
    assert_eq!(waited.unwrap(), Err(VfsError::Interrupted));
    child.wait().unwrap();
}

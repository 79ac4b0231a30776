//! NLM: locks of clients on the locks that other front ends use.

use std::time::Duration;

use nfs3_types::nfs3::{nfs_fh3, stable_how};

use super::Served;
use super::client::Client;
use crate::engine::file::{Lock, LockKind, LockOwner, Origin, Vfs, VfsError};
use crate::protocol::nfs::nlm::PROGRAM;
use crate::protocol::nfs::xdr::Encode;

const GRANTED: u32 = 0;
const DENIED: u32 = 1;
const BLOCKED: u32 = 3;
const STALE: u32 = 7;

/// `nlm4_lock` of the owner `svid` of a client.
fn alock(client: &str, file: &nfs_fh3, svid: u32, offset: u64, len: u64) -> Vec<u8> {
    let mut args = Vec::new();
    args.opaque(client.as_bytes());
    args.opaque(&file.data);
    args.opaque(format!("{svid}@{client}").as_bytes());
    Encode::u32(&mut args, svid);
    Encode::u64(&mut args, offset);
    Encode::u64(&mut args, len);
    args
}

async fn call(client: &mut Client, procedure: u32, args: Vec<u8>) -> Vec<u8> {
    let answer = client.raw(PROGRAM, 4, procedure, &args).await;
    assert_eq!(answer[..28], [&[0, 0, 0, 1], [0; 16].as_slice(), &[0, 0, 0, 2], b"ck\0\0"].concat());
    answer[28..].to_vec()
}

fn cookie(flags: &[bool]) -> Vec<u8> {
    let mut args = Vec::new();
    args.opaque(b"ck");
    flags.iter().for_each(|flag| args.boolean(*flag));
    args
}

fn number(answer: &[u8]) -> u32 {
    u32::from_be_bytes(*answer.first_chunk().unwrap())
}

async fn lock(client: &mut Client, block: bool, exclusive: bool, alock: &[u8]) -> u32 {
    let args = [cookie(&[block, exclusive]), alock.to_vec(), vec![0; 8]].concat();
    number(&call(client, 2, args).await)
}

async fn unlock(client: &mut Client, alock: &[u8]) -> u32 {
    number(&call(client, 4, [cookie(&[]), alock.to_vec()].concat()).await)
}

async fn cancel(client: &mut Client, exclusive: bool, alock: &[u8]) -> u32 {
    number(&call(client, 3, [cookie(&[true, exclusive]), alock.to_vec()].concat()).await)
}

async fn test(client: &mut Client, exclusive: bool, alock: &[u8]) -> Vec<u8> {
    call(client, 1, [cookie(&[exclusive]), alock.to_vec()].concat()).await
}

async fn file(served: &Served) -> (Client, nfs_fh3) {
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    client.write(&file, 0, b"bytes", stable_how::UNSTABLE).await.unwrap();
    (client, file)
}

#[tokio::test]
async fn locks_exclude_each_other_and_are_told() {
    let served = Served::new().await;
    let (mut client, file) = file(&served).await;
    let (a, b) = (alock("ana", &file, 1, 10, 10), alock("ben", &file, 1, 15, 1));
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED);
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED, "asked again");
    assert_eq!(lock(&mut client, false, false, &b).await, DENIED);
    let holder = test(&mut client, false, &b).await;
    let mut expected = Vec::new();
    expected.absent(0);
    [DENIED, 1, 1].iter().for_each(|word| Encode::u32(&mut expected, *word));
    expected.opaque(b"1@ana");
    Encode::u64(&mut expected, 10);
    Encode::u64(&mut expected, 10);
    assert_eq!(holder, expected);
    assert_eq!(lock(&mut client, false, false, &alock("ben", &file, 1, 20, 0)).await, GRANTED);
    assert_eq!(unlock(&mut client, &a).await, GRANTED);
    assert_eq!(number(&test(&mut client, false, &b).await), GRANTED);
    assert_eq!(lock(&mut client, false, false, &b).await, GRANTED);
    let gone = nfs_fh3 { data: vec![1; 32].into() };
    assert_eq!(lock(&mut client, false, true, &alock("ana", &gone, 1, 0, 0)).await, STALE);
}

#[tokio::test]
async fn locks_are_those_of_the_other_front_ends() {
    let served = Served::new().await;
    let (mut client, file) = file(&served).await;
    let node = served.world.stat("f").await.unwrap().node;
    let who = crate::engine::file::tests::root();
    let mine = Lock {
        owner: LockOwner { origin: Origin(1), owner: 5, pid: 77 },
        range: 0..u64::MAX,
        kind: LockKind::Exclusive,
        flock: false,
    };
    served.world.share.lock(&who, node, &mine, None).await.unwrap();
    let theirs = alock("ana", &file, 9, 0, 0);
    assert_eq!(lock(&mut client, false, true, &theirs).await, DENIED);
    let holder = test(&mut client, true, &theirs).await;
    assert_eq!((number(&holder), number(&holder[8..])), (DENIED, 77));
    served.world.share.release_locks(node, mine.owner).await;
    assert_eq!(lock(&mut client, false, true, &theirs).await, GRANTED);
    assert_eq!(served.world.share.lock(&who, node, &mine, None).await, Err(VfsError::WouldBlock));
    assert_eq!(unlock(&mut client, &theirs).await, GRANTED);
    assert_eq!(served.world.share.lock(&who, node, &mine, None).await, Ok(()));
}

#[tokio::test]
async fn a_blocked_lock_is_had_by_asking_again_or_cancelled() {
    let served = Served::new().await;
    let (mut client, file) = file(&served).await;
    let (a, b) = (alock("ana", &file, 1, 0, 0), alock("ben", &file, 2, 0, 0));
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED);
    assert_eq!(lock(&mut client, true, true, &b).await, BLOCKED);
    assert_eq!(lock(&mut client, true, true, &b).await, BLOCKED);
    assert_eq!(cancel(&mut client, true, &b).await, GRANTED);
    assert_eq!(unlock(&mut client, &a).await, GRANTED);
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED, "nobody waits any more");
    assert_eq!(lock(&mut client, true, true, &b).await, BLOCKED);
    assert_eq!(unlock(&mut client, &a).await, GRANTED);
    // It is `ben`'s now, and a client that asks again while it is being called back learns so.
    let had = async {
        while lock(&mut client, true, true, &b).await != GRANTED {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), had).await.unwrap();
    assert_eq!(lock(&mut client, false, true, &a).await, DENIED);
    assert_eq!(unlock(&mut client, &b).await, GRANTED);
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED);
}

#[tokio::test]
async fn a_client_that_frees_all_has_nothing_left() {
    let served = Served::new().await;
    let (mut client, file) = file(&served).await;
    let (a, b) = (alock("ana", &file, 1, 0, 0), alock("ben", &file, 2, 0, 0));
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED);
    let mut args = Vec::new();
    args.opaque(b"ana");
    Encode::u32(&mut args, 3);
    client.raw(PROGRAM, 4, 23, &args).await;
    assert_eq!(lock(&mut client, false, true, &b).await, GRANTED);
    // A notice of the status monitor does the same.
    let mut args = Vec::new();
    args.opaque(b"ben");
    Encode::u32(&mut args, 5);
    client.raw(crate::protocol::nfs::nsm::PROGRAM, 1, 6, &args).await;
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED);
}

#[tokio::test]
async fn share_modes_keep_others_out() {
    let served = Served::new().await;
    let (mut client, file) = file(&served).await;
    let share = |name: &str, mode: u32, access: u32| {
        let mut args = cookie(&[]);
        args.opaque(name.as_bytes());
        args.opaque(&file.data);
        args.opaque(name.as_bytes());
        Encode::u32(&mut args, mode);
        Encode::u32(&mut args, access);
        args.boolean(false);
        args
    };
    assert_eq!(number(&call(&mut client, 20, share("ana", 2, 1)).await), GRANTED);
    assert_eq!(number(&call(&mut client, 20, share("ben", 0, 2)).await), DENIED);
    assert_eq!(number(&call(&mut client, 20, share("ben", 0, 1)).await), GRANTED);
    assert_eq!(number(&call(&mut client, 21, share("ana", 2, 1)).await), GRANTED);
    assert_eq!(number(&call(&mut client, 20, share("ben", 0, 3)).await), GRANTED);
}

/// What a client held before the restart is its own to take first.
#[tokio::test]
async fn after_a_restart_only_what_was_held_is_granted() {
    let directory = tempfile::tempdir().unwrap();
    let world = crate::engine::file::tests::World::new().await;
    let served = Served::with(world, super::open_rules(), Some(directory.path())).await;
    let (mut client, file) = file(&served).await;
    let a = alock("ana", &file, 1, 0, 0);
    assert_eq!(lock(&mut client, false, true, &a).await, GRANTED);
    served.nfs.drain().await;
    let world = served.world.process_death().await;
    let served = Served::with(world, super::open_rules(), Some(directory.path())).await;
    let mut client = served.client().await;
    const GRACE: u32 = 4;
    assert_eq!(lock(&mut client, false, true, &alock("ben", &file, 1, 0, 0)).await, GRACE);
    let reclaim = [cookie(&[false, true]), a, vec![0, 0, 0, 1, 0, 0, 0, 3]].concat();
    assert_eq!(number(&call(&mut client, 2, reclaim).await), GRANTED);
}

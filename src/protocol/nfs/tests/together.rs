//! Many calls at once: answers out of order, calls that are sent twice, a server that stops.

use std::collections::HashSet;
use std::time::Duration;

use nfs3_types::nfs3::*;

use super::client::{Client, mode, pack, place};
use super::{Served, open_rules};
use crate::engine::file::tests::World;
use crate::engine::file::tests::settings;
use crate::engine::file::{Origin, Vfs};
use crate::protocol::nfs::v3::PROGRAM;
use crate::store::object::fault::Death;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_are_in_flight_and_each_is_answered_once() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    let block = |number: u64| vec![number as u8; 65_000];
    let mut waiting = HashSet::new();
    for number in 0..200_u64 {
        let args = WRITE3args {
            file: file.clone(),
            offset: number * 65_000,
            count: 65_000,
            stable: stable_how::UNSTABLE,
            data: block(number).into(),
        };
        let (procedure, args) = match number % 2 {
            0 => (7, pack(&args)),
            _ => (1, pack(&GETATTR3args { object: file.clone() })),
        };
        let record = client.record(PROGRAM, 3, procedure, &args);
        client.send(&record).await;
        waiting.insert(client.xid);
    }
    while !waiting.is_empty() {
        let (xid, answer) = client.answer().await.unwrap();
        assert!(waiting.remove(&xid), "answered twice");
        assert_eq!(answer[20..24], [0; 4], "failed");
    }
    for number in (0..200).step_by(2) {
        let (bytes, _) = client.read(&file, number * 65_000, 65_000).await.unwrap();
        assert_eq!(bytes, block(number));
    }
}

#[tokio::test]
async fn a_call_that_is_sent_again_from_another_connection_is_done_once() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let remove = REMOVE3args { object: place(&root, "f") };
    client.file(&root, "f").await;
    let record = client.record(PROGRAM, 3, 12, &pack(&remove));
    client.send(&record).await;
    let (_, first) = client.answer().await.unwrap();
    let mut again = Client::connect(served.address).await;
    again.send(&record).await;
    let (_, second) = again.answer().await.unwrap();
    assert_eq!(first, second);
    assert_eq!(second[20..24], [0; 4], "not NOENT");
    assert_eq!(again.remove(&root, "f").await, nfsstat3::NFS3ERR_NOENT, "a new call is another thing");
    // One whose answer nobody took.
    let create = CREATE3args { where_: place(&root, "g"), how: createhow3::GUARDED(mode(0o600)) };
    let record = client.record(PROGRAM, 3, 8, &pack(&create));
    client.send(&record).await;
    drop(client);
    again.send(&record).await;
    let (_, answer) = again.answer().await.unwrap();
    assert_eq!(answer[20..24], [0; 4], "not EXIST");
}

#[tokio::test]
async fn a_full_cache_is_jukebox_within_ten_seconds_and_heals() {
    let mut slow = settings();
    slow.remote_timeout = Duration::from_secs(1);
    let served = Served::over(World::with(slow).await, open_rules()).await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    // The bucket takes nothing: the share's portion (32 MiB) fills up.
    served.world.faults.kill(Death::Refusing);
    let block = vec![7; 1 << 20];
    let mut refused = None;
    for number in 0..80 {
        let begin = tokio::time::Instant::now();
        let written = super::error(client.write(&file, number << 20, &block, stable_how::UNSTABLE).await);
        assert!(begin.elapsed() < Duration::from_secs(10));
        if written != nfsstat3::NFS3_OK {
            refused = Some((number, written));
            break;
        }
    }
    let (number, status) = refused.expect("the portion has no end");
    assert_eq!(status, nfsstat3::NFS3ERR_JUKEBOX);
    assert!(client.getattr(&file).await.is_ok());
    served.world.faults.heal();
    let healed = async {
        while super::error(client.write(&file, number << 20, &block, stable_how::UNSTABLE).await) != nfsstat3::NFS3_OK {}
    };
    tokio::time::timeout(Duration::from_secs(60), healed).await.expect("it does not heal");
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_took() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let mut sent = Vec::new();
    for number in 0..20 {
        let create = CREATE3args { where_: place(&root, &format!("{number}")), how: createhow3::GUARDED(mode(0o600)) };
        let record = client.record(PROGRAM, 3, 8, &pack(&create));
        client.send(&record).await;
        sent.push(client.xid);
    }
    let (first, _) = client.answer().await.unwrap();
    served.nfs.drain().await;
    let mut answered = vec![first];
    while let Ok((xid, _)) = client.answer().await {
        answered.push(xid);
    }
    let made = served.world.list("").await.len();
    assert_eq!(answered.len(), made, "what was done was answered, and nothing else");
    assert!(sent.len() >= made);
}

/// Change time of a directory before and after a CREATE, as its answer tells them.
async fn create_times(client: &mut Client, root: &nfs_fh3, text: &str) -> (Option<(u32, u32)>, (u32, u32)) {
    let args = CREATE3args { where_: place(root, text), how: createhow3::GUARDED(mode(0o644)) };
    let result: CREATE3res = client.call(8, &args).await;
    let Nfs3Result::Ok(ok) = result else { panic!("{result:?}") };
    let before = match ok.dir_wcc.before {
        Nfs3Option::Some(before) => Some((before.ctime.seconds, before.ctime.nseconds)),
        Nfs3Option::None => None,
    };
    let after = ok.dir_wcc.after.unwrap().ctime;
    (before, (after.seconds, after.nseconds))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wcc_data_is_the_calls_own_doing() {
    let served = Served::new().await;
    let (mut alone, root) = served.mounted().await;
    let (_, mut last) = create_times(&mut alone, &root, "first").await;
    for number in 0..20 {
        let (before, after) = create_times(&mut alone, &root, &format!("alone-{number}")).await;
        assert_eq!(before, Some(last), "nobody else was there");
        last = after;
    }
    let busy = (0..4).map(|number| {
        let (address, root) = (served.address, root.clone());
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut changes = Vec::new();
            for file in 0..100 {
                changes.push(create_times(&mut client, &root, &format!("busy-{number}-{file}")).await);
            }
            changes
        })
    });
    let mut own = Vec::new();
    for changes in futures_util::future::join_all(busy).await {
        own.extend(changes.unwrap().into_iter().filter_map(|(before, after)| before.map(|before| (before, after))));
    }
    // What is told to be one's own doing is nobody else's too.
    own.sort_unstable();
    for pair in own.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?}");
    }
    // A call that changes nothing tells of no change.
    let again: CREATE3res =
        alone.call(8, &CREATE3args { where_: place(&root, "first"), how: createhow3::GUARDED(mode(0o644)) }).await;
    let Nfs3Result::Err((nfsstat3::NFS3ERR_EXIST, failed)) = again else { panic!("{again:?}") };
    let Nfs3Option::Some(before) = failed.dir_wcc.before else { panic!("{failed:?}") };
    assert_eq!((before.ctime.seconds, before.ctime.nseconds), {
        let after = failed.dir_wcc.after.unwrap().ctime;
        (after.seconds, after.nseconds)
    });
}

#[tokio::test]
async fn a_change_is_answered_when_the_other_front_ends_know_of_it() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    let mut changes = served.world.share.changes(Some(Origin(99)));
    let slow = Duration::from_millis(200);
    tokio::spawn(async move {
        // What was taken is being told until more is asked for.
        while changes.next().await.is_some() {
            tokio::time::sleep(slow).await;
        }
    });
    let begin = tokio::time::Instant::now();
    client.file(&root, "g").await;
    assert!(begin.elapsed() >= slow, "{:?}", begin.elapsed());
    for how in [stable_how::FILE_SYNC, stable_how::UNSTABLE] {
        let begin = tokio::time::Instant::now();
        client.write(&file, 0, b"bytes", how).await.unwrap();
        assert!(begin.elapsed() >= slow, "{:?}", begin.elapsed());
    }
}

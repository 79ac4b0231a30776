//! Clients that do not mean well cost little, and nobody else's service.

use std::time::Duration;

use nfs3_types::nfs3::{GETATTR3args, nfsstat3};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Served;
use super::client::{Client, pack, place};
use crate::protocol::nfs::rpc::LAST_FRAGMENT;
use crate::protocol::nfs::v3::PROGRAM;
use crate::protocol::nfs::{mount, stats};

/// Whether the server ends the connection after these bytes, soon.
async fn cuts_off(served: &Served, bytes: &[u8]) -> bool {
    let mut client = served.client().await;
    let _ = client.socket.write_all(bytes).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), client.socket.read_to_end(&mut rest)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn what_is_no_record_of_calls_ends_the_connection() {
    let served = Served::new().await;
    for bytes in [
        &[0xff; 64][..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0x80, 0, 0, 4, 1, 2, 3, 4],
        &[0x80, 0, 0, 0],
        // A reply.
        &[0x80, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert!(cuts_off(&served, bytes).await, "{bytes:?}");
    }
    assert!(cuts_off(&served, &[0, 0, 0, 0].repeat(100)).await, "endless fragments");
    let (mut client, root) = served.mounted().await;
    assert!(client.getattr(&root).await.is_ok());
}

#[tokio::test]
async fn what_is_not_served_is_refused_as_the_rfc_says() {
    let served = Served::new().await;
    let mut client = served.client().await;
    let accepted = |stat: u32| [[0, 0, 0, 1], [0; 4], [0; 4], [0; 4], stat.to_be_bytes()].concat();
    assert_eq!(client.raw(100_999, 1, 0, &[]).await, accepted(1));
    let versions = [accepted(2), vec![0, 0, 0, 3, 0, 0, 0, 3]].concat();
    assert_eq!(client.raw(PROGRAM, 2, 0, &[]).await, versions);
    assert_eq!(client.raw(mount::PROGRAM, 1, 0, &[]).await, versions);
    assert_eq!(client.raw(PROGRAM, 3, 22, &[]).await, accepted(3));
    assert_eq!(client.raw(mount::PROGRAM, 3, 6, &[]).await, accepted(3));
    for procedure in 1..22 {
        assert_eq!(client.raw(PROGRAM, 3, procedure, &[]).await, accepted(4), "{procedure}");
        assert_eq!(client.raw(PROGRAM, 3, procedure, &[0xff; 400]).await, accepted(4), "{procedure}");
    }
    assert_eq!(client.raw(PROGRAM, 3, 0, &[]).await, accepted(0));
    assert!(served.nfs.status().refused >= 47);
}

/// Calls of every procedure with arguments that were changed at random: each is answered, none breaks anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_answered() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    let mut random = fastrand::Rng::with_seed(11);
    let handles = [pack(&root), pack(&file)];
    for round in 0..4000_u32 {
        let mut args = handles[random.usize(..2)].clone();
        for _ in 0..random.usize(..12) {
            match random.u32(..4) {
                0 => args.extend(pack(&place(&root, "f"))),
                1 => args.extend(random.u32(..4).to_be_bytes()),
                2 => args.extend(random.u32(..).to_be_bytes()),
                _ => args.extend([&[0, 0, 0, 1], b"x\0\0\0".as_slice()].concat()),
            }
        }
        for _ in 0..random.usize(..3) {
            let at = random.usize(..args.len());
            args[at] ^= 1 << random.u32(..8);
        }
        // Lengths beyond what a record may have would fill the cache in the end: only bytes that are there are written.
        let procedure = random.u32(1..23);
        let record = client.record(PROGRAM, 3, procedure, &args);
        client.send(&record).await;
        let (xid, _) = tokio::time::timeout(Duration::from_secs(20), client.answer()).await.unwrap().unwrap();
        assert_eq!(xid, client.xid, "round {round}");
    }
    assert!(client.getattr(&root).await.is_ok());
    assert_eq!(stats::NFS_PROCEDURES.len(), 22);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_slow_connections_cost_others_nothing() {
    let served = Served::new().await;
    let (mut good, root) = served.mounted().await;
    let mut idle = Vec::new();
    for number in 0..900 {
        let mut client = served.client().await;
        if number % 2 == 0 {
            // The beginning of a record of a megabyte, and no more.
            let mark = LAST_FRAGMENT | (1 << 20);
            client.send(&[&mark.to_be_bytes(), [0; 8].as_slice()].concat()).await;
        }
        idle.push(client);
        if number % 100 == 0 {
            assert!(good.getattr(&root).await.is_ok(), "{number}");
        }
    }
    assert!(served.nfs.status().connections <= 512);
    assert!(good.getattr(&root).await.is_ok());
    let mut another = Client::connect(served.address).await;
    assert_eq!(another.lookup(&root, "none").await, Err(nfsstat3::NFS3ERR_NOENT));
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_not_answered_without_end() {
    let served = Served::new().await;
    let (mut good, root) = served.mounted().await;
    let mut deaf = served.client().await;
    let args = pack(&GETATTR3args { object: root.clone() });
    let record = deaf.record(PROGRAM, 3, 1, &args);
    let flood = record.repeat(1000);
    let sent = async {
        for _ in 0..1000 {
            deaf.socket.write_all(&flood).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), sent).await.is_err(), "all of it was taken");
    assert!(good.getattr(&root).await.is_ok());
}

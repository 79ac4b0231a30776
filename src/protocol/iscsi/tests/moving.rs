//! Data: every way that it may come and go.

use super::*;
use crate::protocol::iscsi::pdu::{FINAL, Header, NO_TAG, at, request, response};
use initiator::{READS, WRITES, ten};

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 512) as u8 ^ (at % 241) as u8 ^ seed).collect()
}

#[tokio::test]
async fn data_comes_immediate_unsolicited_and_asked_for() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    let cases = [
        (0, 0, 512),
        (512, 0, 512),
        (512, 0, 4096),
        (0, 65_536, 65_536),
        (8192, 57_344, 65_536),
        (1024, 2048, 200_192),
        (0, 0, 1 << 20),
    ];
    for (number, (immediate, unsolicited, len)) in cases.into_iter().enumerate() {
        initiator.immediate_bytes = immediate;
        initiator.unsolicited_bytes = unsolicited;
        let data = pattern(len, number as u8);
        let outcome = initiator.write(16, &data).await;
        let left = len.saturating_sub(immediate + unsolicited);
        assert_eq!((outcome.status, outcome.r2ts as usize), (0, left.div_ceil(65_536)), "{number}");
        assert_eq!(initiator.read(16, (len / 512) as u16).await.data, data, "{number}");
    }
}

#[tokio::test]
async fn residuals_are_told() {
    let served = Served::new().await;
    let mut a = served.initiator("a").await;
    const OVER: u8 = 4;
    const UNDER: u8 = 2;
    for (cdb, flags, expected, residual, moved) in [
        (ten(0x28, 0, 1), READS, 512, (0, 0), 512),
        (ten(0x28, 0, 1), READS, 10_000, (UNDER, 9488), 512),
        (ten(0x28, 0, 1), READS, 200, (OVER, 312), 200),
        (ten(0x28, 0, 1), 0, 0, (OVER, 512), 0),
        (ten(0x28, 0, 2), READS, 512, (OVER, 512), 512),
        (vec![0; 6], READS, 100, (UNDER, 100), 0),
        (vec![0x12, 0, 0, 0, 36, 0], READS, 255, (UNDER, 219), 36),
    ] {
        let outcome = a.command(&cdb, flags, &[], expected).await;
        assert_eq!((outcome.status, outcome.residual, outcome.data.len()), (0, residual, moved), "{cdb:?} {expected}");
    }
    for (blocks, expected, residual) in
        [(1, 0, (OVER, 512)), (1, 10_000, (UNDER, 9488)), (1, 200, (OVER, 312)), (2, 512, (OVER, 512))]
    {
        let data = vec![7; expected];
        let flags = if expected > 0 { WRITES } else { 0 };
        let outcome = a.command(&ten(0x2a, 40, blocks), flags, &data, expected as u32).await;
        assert_eq!((outcome.status, outcome.residual), (0, residual), "{blocks} {expected}");
    }
    assert_eq!(a.read(40, 2).await.data, [[7; 512], [0; 512]].concat());
    let outcome = a.command(&ten(0x28, BLOCKS as u32, 1), READS, &[], 512).await;
    assert_eq!((outcome.status, outcome.residual), (2, (UNDER, 512)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commands_are_under_way_and_answered_as_they_are_done() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    served.disk.close();
    let mut tags = Vec::new();
    for number in 0..64 {
        let header = initiator.command_header(&ten(0x28, number, 1), READS, 512);
        tags.push(initiator.tag);
        initiator.send(header, &[]).await;
    }
    Served::until(|| served.disk.begun.load(Atomic::SeqCst) == 64).await;
    // What needs no medium is not held up.
    let header = initiator.command_header(&[0; 6], 0, 0);
    initiator.send(header, &[]).await;
    assert_eq!(initiator.receive().await.header.task(), initiator.tag);
    served.disk.open();
    for _ in 0..64 {
        let pdu = initiator.receive().await;
        assert_eq!((pdu.header.opcode(), pdu.data.len()), (response::DATA_IN, 512));
        let place = tags.iter().position(|tag| *tag == pdu.header.task()).unwrap();
        tags.swap_remove(place);
    }
    assert!(tags.is_empty());
}

#[tokio::test]
async fn pings_and_logout_are_answered() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    let mut ping = Header::new(request::NOP_OUT | 0x40, 55);
    ping.set(at::TRANSFER, NO_TAG);
    ping.set(at::COMMAND, initiator.command_number);
    initiator.send(ping, b"are you there?").await;
    let answer = initiator.receive().await;
    assert_eq!((answer.header.opcode(), &answer.data[..]), (response::NOP_IN, &b"are you there?"[..]));
    assert_eq!((answer.header.task(), answer.header.word(at::TRANSFER)), (55, NO_TAG));
    let mut header = Header::new(request::LOGOUT, 56);
    header.0[1] = FINAL | 1;
    header.0[21] = 9;
    header.set(at::COMMAND, initiator.command_number);
    initiator.send(header, &[]).await;
    assert_eq!(initiator.receive().await.header.0[2], 1, "there is no such connection");
    header.0[21] = 0;
    header.set(at::COMMAND, initiator.command_number + 1);
    initiator.send(header, &[]).await;
    assert_eq!(initiator.receive().await.header.0[2], 0);
    assert!(initiator.is_closed().await);
    Served::until(|| served.server.status().sessions.is_empty()).await;
}

//! Initiators that do not mean well cost little, and nobody else's service.

use tokio::io::AsyncWriteExt;

use super::*;
use crate::protocol::iscsi::pdu::{FINAL, Header, NO_TAG, at, request, response};
use initiator::{READS, WRITES, ten};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_logins_cost_sessions_nothing() {
    let served = Served::new().await;
    let mut good = served.initiator("good").await;
    let mut open = Vec::new();
    for number in 0..1000 {
        let mut initiator = Initiator::connect(served.address).await;
        if number % 2 == 0 {
            let header = initiator.login_header(0, None);
            // The eviction of an older one must not hinder this one's sending.
            let _ = initiator.socket.write_all(&header.0[..20]).await;
        }
        open.push(initiator);
        if number % 100 == 0 {
            assert!(good.is_well().await, "{number}");
        }
    }
    Served::until(|| served.server.status().logins <= 64).await;
    assert!(good.is_well().await);
    let mut new = served.initiator("new").await;
    assert!(new.is_well().await);
}

#[tokio::test]
async fn sessions_are_bounded() {
    let served = Served::with(Limits { sessions: 2, ..Limits::default() }, Admission::default()).await;
    let (_a, b) = (served.initiator("a").await, served.initiator("b").await);
    let mut c = Initiator::connect(served.address).await;
    assert_eq!(c.log_in("c", &[]).await, Err(0x0302));
    drop(b);
    Served::until(|| served.server.status().sessions.len() == 1).await;
    let mut c = Initiator::connect(served.address).await;
    assert_eq!(c.log_in("c", &[]).await, Ok(()));
}

#[tokio::test]
async fn huge_lengths_and_garbage_end_that_connection_only() {
    let served = Served::new().await;
    let mut good = served.initiator("good").await;
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..60 {
        let mut bad = served.initiator("bad").await;
        let mut bytes = [0_u8; 480];
        random.fill(&mut bytes);
        if round % 3 == 0 {
            bytes[..8].copy_from_slice(&[1, FINAL, 0, 0, 0, 0xff, 0xff, 0xff]);
        }
        let _ = bad.socket.write_all(&bytes).await;
        let _ = bad.socket.shutdown().await;
        assert!(bad.is_closed().await);
    }
    assert!(good.is_well().await);
    let mut raw = Initiator::connect(served.address).await;
    let _ = raw.socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n .............................").await;
    assert!(raw.is_closed().await);
}

#[tokio::test]
async fn commands_outside_the_window_are_dropped() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    let now = initiator.command_number;
    assert_eq!(initiator.command_max, now + 127);
    for number in [now - 1, now + 5000, now.wrapping_add(1 << 31), initiator.command_max + 1] {
        let mut header = initiator.command_header(&[0; 6], 0, 0);
        initiator.command_number = now;
        header.set(at::COMMAND, number);
        initiator.send(header, &[]).await;
    }
    // Ahead, but within: it waits for the one before it.
    let mut early = initiator.command_header(&[0; 6], 0, 0);
    initiator.command_number = now;
    early.set(at::COMMAND, now + 1);
    let early_tag = initiator.tag;
    initiator.send(early, &[]).await;
    let header = initiator.command_header(&[0; 6], 0, 0);
    initiator.send(header, &[]).await;
    assert_eq!(initiator.receive().await.header.task(), initiator.tag);
    assert_eq!(initiator.receive().await.header.task(), early_tag);
    initiator.command_number = now + 2;
    assert!(initiator.is_well().await);
}

#[tokio::test]
async fn the_window_closes_when_a_session_has_its_share_of_commands() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    served.disk.close();
    for number in 0..200 {
        let header = initiator.command_header(&ten(0x28, number, 1), READS, 512);
        initiator.send(header, &[]).await;
    }
    Served::until(|| served.disk.begun.load(Atomic::SeqCst) >= 127).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(served.disk.begun.load(Atomic::SeqCst) <= 128);
    served.disk.open();
    for _ in 0..127 {
        assert_eq!(initiator.receive().await.header.opcode(), response::DATA_IN);
    }
}

#[tokio::test]
async fn data_that_must_not_come_fails_its_command() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    let wrong: [fn(&mut Header); 4] = [
        |header| header.set(at::DATA, 5),
        |header| header.set(at::OFFSET, 512),
        |header| header.set(at::TRANSFER, 0xdead),
        |header| header.set(at::TRANSFER, NO_TAG),
    ];
    for change in wrong {
        let header = initiator.command_header(&ten(0x2a, 0, 8), WRITES, 4096);
        initiator.send(header, &[]).await;
        let r2t = initiator.receive().await;
        assert_eq!(r2t.header.opcode(), response::R2T);
        let mut data = Header::new(request::DATA_OUT, initiator.tag);
        data.set(at::TRANSFER, r2t.header.word(at::TRANSFER));
        change(&mut data);
        initiator.send(data, &[1; 4096]).await;
        let answer = initiator.receive().await;
        assert_eq!((answer.header.opcode(), answer.header.0[3], answer.data[4]), (response::RESPONSE, 2, 0x0b));
        assert!(initiator.is_well().await);
    }
    assert_eq!(initiator.read(0, 8).await.data, [0; 4096]);
    // More immediate data than was agreed on: whatever follows cannot be told from data.
    let header = initiator.command_header(&ten(0x2a, 0, 200), WRITES, 102_400);
    initiator.send(header, &[0; 70_000]).await;
    assert!(initiator.is_closed().await);
}

#[tokio::test]
async fn tags_that_are_in_use_are_rejected() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    for _ in 0..2 {
        let mut header = initiator.command_header(&ten(0x2a, 0, 8), WRITES, 4096);
        header.set(at::TASK, 999);
        initiator.send(header, &[]).await;
    }
    assert_eq!(initiator.receive().await.header.opcode(), response::R2T);
    let reject = initiator.receive().await;
    assert_eq!((reject.header.opcode(), reject.header.0[2], reject.data.len()), (response::REJECT, 0x07, 48));
    for (opcode, reason) in [(request::SNACK, 3), (0x1c, 5)] {
        let mut header = Header::new(opcode | 0x40, 1000);
        header.set(at::COMMAND, initiator.command_number);
        initiator.send(header, &[]).await;
        assert_eq!(initiator.receive().await.header.0[2], reason);
    }
}

#[tokio::test]
async fn what_a_stalled_initiator_was_not_granted_is_not_held() {
    let limits = Limits { bytes: 4 << 20, bytes_of_connection: 1 << 20, ..Limits::default() };
    let served = Served::with(limits, Admission::default()).await;
    let mut stalled = served.initiator("stalled").await;
    // Eight writes of half a megabyte each, whose data never comes: two of them are asked for.
    for number in 0..8 {
        let header = stalled.command_header(&ten(0x2a, number * 1024, 1024), WRITES, 524_288);
        stalled.send(header, &[]).await;
    }
    let mut asked = std::collections::HashSet::new();
    for _ in 0..2 {
        asked.insert(stalled.receive().await.header.task());
    }
    assert!(asked.len() == 2 && stalled.is_closed_or_silent().await);
    let mut good = served.initiator("good").await;
    good.immediate_bytes = 65_536;
    let data = vec![3; 512 << 10];
    assert_eq!(good.write(30_000, &data).await.status, 0);
    assert_eq!(good.read(30_000, 1024).await.data, data);
    // An abort of one that waits makes way for nothing, but is answered.
    let waiting = (1..=stalled.tag).rev().find(|tag| !asked.contains(tag)).unwrap();
    let abort = stalled.manage(1, waiting).await;
    let answer = stalled.receive().await;
    assert_eq!((answer.header.opcode(), answer.header.task()), (response::TASK_MANAGEMENT, abort));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_initiator_that_takes_nothing_is_not_read_for_without_end() {
    let limits = Limits { bytes: 64 << 20, bytes_of_connection: 4 << 20, ..Limits::default() };
    let served = Served::with(limits, Admission::default()).await;
    let mut deaf = served.initiator("deaf").await;
    for number in 0..100 {
        let header = deaf.command_header(&ten(0x28, number, 1024), READS, 524_288);
        deaf.send(header, &[]).await;
    }
    let mut good = served.initiator("good").await;
    assert_eq!(good.read(0, 8).await.status, 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // What the kernels' buffers take and what is held: a part of the fifty megabytes.
    assert!(served.disk.done.load(Atomic::SeqCst) < 60);
    for number in 0..100 {
        let mut received = 0;
        while received < 524_288 {
            received += deaf.receive().await.data.len();
        }
        assert_eq!(received, 524_288, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_owes_something_for_too_long_is_cut_off() {
    let served = Served::new().await;
    let mut silent = served.initiator("silent").await;
    let mut owing = served.initiator("owing").await;
    let header = owing.command_header(&ten(0x2a, 0, 8), WRITES, 4096);
    owing.send(header, &[]).await;
    assert_eq!(owing.receive().await.header.opcode(), response::R2T);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(owing.is_closed().await);
    let ping = silent.receive().await;
    assert_eq!((ping.header.opcode(), ping.header.task()), (response::NOP_IN, NO_TAG));
    let mut answer = Header::new(request::NOP_OUT | 0x40, NO_TAG);
    answer.set(at::TRANSFER, ping.header.word(at::TRANSFER));
    silent.send(answer, &[]).await;
    assert!(silent.is_well().await);
    tokio::time::sleep(Duration::from_secs(140)).await;
    assert!(silent.is_closed().await);
}

//! Task management: what is aborted has no effect, and no answer.

use super::*;
use crate::protocol::iscsi::pdu::response;
use initiator::{READS, WRITES, ten};

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const LOGICAL_UNIT_RESET: u8 = 5;

async fn begin(initiator: &mut Initiator, cdb: &[u8], flags: u8, immediate: &[u8], expected: u32) -> u32 {
    let header = initiator.command_header(cdb, flags, expected);
    initiator.send(header, immediate).await;
    initiator.tag
}

/// The response of a function, which has to be what comes next.
async fn managed(initiator: &mut Initiator, tag: u32) -> u8 {
    let pdu = initiator.receive().await;
    assert_eq!((pdu.header.opcode(), pdu.header.task()), (response::TASK_MANAGEMENT, tag), "{pdu:?}");
    pdu.header.0[2]
}

#[tokio::test]
async fn a_read_that_waits_for_its_device_is_given_up_at_once() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    served.disk.close();
    let read = begin(&mut initiator, &ten(0x28, 0, 1), READS, &[], 512).await;
    Served::until(|| served.disk.begun.load(Atomic::SeqCst) == 1).await;
    let abort = initiator.manage(ABORT_TASK, read).await;
    assert_eq!(managed(&mut initiator, abort).await, 0);
    let again = initiator.manage(ABORT_TASK, read).await;
    assert_eq!(managed(&mut initiator, again).await, 1, "there is no such task any more");
    served.disk.open();
    assert!(initiator.is_well().await, "and no response of it comes");
}

#[tokio::test]
async fn a_write_that_runs_is_waited_for() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    served.disk.close();
    let write = begin(&mut initiator, &ten(0x2a, 0, 1), WRITES, &[8; 512], 512).await;
    Served::until(|| served.disk.begun.load(Atomic::SeqCst) == 1).await;
    let abort = initiator.manage(ABORT_TASK, write).await;
    // Another session is not held up by it.
    let mut other = served.initiator("other").await;
    assert!(other.is_well().await);
    assert_eq!(served.disk.done.load(Atomic::SeqCst), 0);
    served.disk.open();
    assert_eq!(managed(&mut initiator, abort).await, 0);
    assert_eq!(served.disk.done.load(Atomic::SeqCst), 1, "nothing happens after the response");
    assert!(initiator.is_well().await);
}

#[tokio::test]
async fn a_write_whose_data_was_not_sent_has_no_effect() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    let write = begin(&mut initiator, &ten(0x2a, 0, 8), WRITES, &[], 4096).await;
    let r2t = initiator.receive().await;
    assert_eq!(r2t.header.opcode(), response::R2T);
    let abort = initiator.manage(ABORT_TASK_SET, 0).await;
    assert_eq!(managed(&mut initiator, abort).await, 0);
    // Data for it comes all the same, and is dropped.
    let transfer = r2t.header.word(crate::protocol::iscsi::pdu::at::TRANSFER);
    initiator.data_out(write, transfer, 0, &[1; 4096]).await;
    assert_eq!(initiator.read(0, 8).await.data, [0; 4096]);
}

#[tokio::test]
async fn a_reset_ends_the_tasks_of_all_sessions_and_all_hear_of_it() {
    let served = Served::new().await;
    let (mut a, mut b) = (served.initiator("a").await, served.initiator("b").await);
    let write = begin(&mut b, &ten(0x2a, 0, 8), WRITES, &[], 4096).await;
    let r2t = b.receive().await;
    served.disk.close();
    begin(&mut b, &ten(0x28, 0, 1), READS, &[], 512).await;
    Served::until(|| served.disk.begun.load(Atomic::SeqCst) == 1).await;
    let reset = a.manage(LOGICAL_UNIT_RESET, u32::MAX).await;
    assert_eq!(managed(&mut a, reset).await, 0);
    served.disk.open();
    b.data_out(write, r2t.header.word(crate::protocol::iscsi::pdu::at::TRANSFER), 0, &[1; 4096]).await;
    for initiator in [&mut a, &mut b] {
        let heard = initiator.command(&[0; 6], 0, &[], 0).await;
        assert_eq!(heard.sense[12..14], [0x29, 0x03]);
        assert!(initiator.is_well().await);
    }
    assert_eq!(a.read(0, 8).await.data, [0; 4096]);
}

#[tokio::test]
async fn functions_that_cannot_be_are_answered_so() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    for (function, expected) in [(ABORT_TASK, 1), (3, 5), (8, 4), (99, 5), (6, 0)] {
        let tag = initiator.manage(function, 4711).await;
        assert_eq!(managed(&mut initiator, tag).await, expected, "{function}");
    }
    initiator.settle().await;
    let cold = initiator.manage(7, u32::MAX).await;
    assert_eq!(managed(&mut initiator, cold).await, 0);
    assert!(initiator.is_closed().await);
}

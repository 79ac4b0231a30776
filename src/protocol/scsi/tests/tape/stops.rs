//! The ends of a medium, media that take no changes, faults, resets.

use super::*;
use crate::engine::tape::{Medium, MediumError, Properties};

#[tokio::test]
async fn early_warning_comes_before_the_end() {
    let deck = Deck::of(4 * MIB, false).await;
    let a = deck.initiator("a");
    let megabyte = vec![1; 1_000_000];
    let send = async || a.send(&write(megabyte.len()), &megabyte).await;
    // The warning is 2 MiB before the end: the record is written, EOM says that it is time to stop.
    assert_eq!([send().await.status, send().await.status], [Status::Good; 2]);
    for _ in 0..2 {
        assert_eq!(sensed(&send().await), (EOM, 0, 2, Some(0)));
    }
    assert_eq!(a.tell().await, (4, 0));
    assert_eq!(a.ok(&[0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await[0], 0x40);
    // What does not fit is not written.
    assert_eq!(sensed(&send().await), (0x0d | EOM, 0, 2, Some(1_000_000)));
    assert_eq!(a.tell().await, (4, 0));
    // Filemarks still do.
    assert_eq!(a.stops(&marks(2)).await, (EOM, 0, 2, Some(0)));
    assert_eq!(a.tell().await, (6, 2));
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.ok(&read(1_000_000), &[]).await, megabyte);
    // In fixed mode the residue counts blocks.
    a.set_block(500_000).await;
    a.ok(&[0x11, 3, 0, 0, 0, 0], &[]).await;
    assert_eq!(sensed(&a.send(&six(0x0a, FIXED, 2), &megabyte).await), (0x0d | EOM, 0, 2, Some(2)));
    a.ok(&[0x2b, 0, 0, 0, 0, 0, 3, 0, 0, 0], &[]).await;
    assert_eq!(
        sensed(&a.send(&six(0x0a, FIXED, 4), &[megabyte.clone(), megabyte.clone()].concat()).await),
        (0x0d | EOM, 0, 2, Some(2))
    );
    assert_eq!(a.tell().await, (5, 0));
}

#[tokio::test]
async fn worm_media_take_additions_only() {
    let deck = Deck::of(16 * MIB, true).await;
    let a = deck.initiator("a");
    a.ok(&write(3), b"one").await;
    a.ok(&marks(1), &[]).await;
    a.ok(&REWIND, &[]).await;
    let worm = triple(Condition::WORM_MEDIUM_OVERWRITE_ATTEMPTED);
    assert_eq!(a.fails(&write(3), b"two").await, worm);
    assert_eq!(a.fails(&marks(1), &[]).await, worm);
    assert_eq!(a.fails(&[0x19, 1, 0, 0, 0, 0], &[]).await, worm);
    assert_eq!(a.fails(&[4, 0, 0, 0, 0, 0], &[]).await, worm);
    a.ok(&[0x11, 3, 0, 0, 0, 0], &[]).await;
    a.ok(&write(3), b"two").await;
    let page = a.ok(&[0x1a, 8, 0x1d, 0, 255, 0], &[]).await;
    assert_eq!((page[1], page[6]), (0x5c, 1));
    // TapeAlert 60, told once.
    let alerts = async || a.ok(&[0x4d, 0, 0x6e, 0, 0, 0, 60, 0, 9, 0], &[]).await;
    assert_eq!(alerts().await[4..], [0, 60, 3, 1, 1]);
    assert_eq!(alerts().await[4..], [0, 60, 3, 1, 0]);
}

#[tokio::test]
async fn protected_media_are_read_only() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    a.ok(&write(3), b"one").await;
    a.ok(&REWIND, &[]).await;
    deck.reel.set_protected(true);
    deck.drive.load().await.unwrap();
    let protected = triple(Condition::WRITE_PROTECTED);
    assert_eq!(a.fails(&write(3), b"two").await, protected);
    assert_eq!(a.fails(&marks(1), &[]).await, protected);
    a.ok(&marks(0), &[]).await;
    assert_eq!(a.ok(&[0x1a, 0, 0, 0, 255, 0], &[]).await[2], 0x90);
    deck.reel.set_protected(false);
    // Software write protect, of the control mode page.
    a.ok(&[0x15, 0x10, 0, 0, 16, 0], &[0, 0, 0x10, 0, 0x0a, 10, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(a.fails(&write(3), b"two").await, triple(Condition::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED));
    assert_eq!(a.ok(&read(3), &[]).await, b"one");
}

#[tokio::test]
async fn faults_of_the_medium_have_their_sense() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    a.set_block(4).await;
    a.ok(&six(0x0a, FIXED, 4), &[3; 16]).await;
    a.ok(&marks(0), &[]).await;
    for (error, condition) in [
        (MediumError::Damaged(0), Condition::UNRECOVERED_READ_ERROR),
        (MediumError::Unreachable, Condition::LOGICAL_UNIT_COMMUNICATION_FAILURE),
        (MediumError::Archived, Condition::LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE),
        (MediumError::Full, Condition::SPACE_ALLOCATION_FAILED_WRITE_PROTECT),
        (MediumError::Io("no".to_owned()), Condition::WRITE_ERROR),
    ] {
        a.ok(&REWIND, &[]).await;
        deck.reel.fail_next(error);
        assert_eq!(a.fails(&six(0x08, FIXED, 2), &[]).await, triple(condition));
        assert_eq!(a.tell().await, (0, 0), "what cannot be read is not passed");
    }
    // BUSY: nothing has happened, and the same command does it.
    deck.reel.fail_next(MediumError::Busy);
    assert_eq!(a.send(&six(0x08, FIXED, 2), &[]).await.status, Status::Busy);
    assert_eq!(a.ok(&six(0x08, FIXED, 2), &[]).await, [3; 8]);
    a.ok(&[0x11, 3, 0, 0, 0, 0], &[]).await;
    deck.reel.fail_next(MediumError::Busy);
    assert_eq!(a.send(&six(0x0a, FIXED, 2), &[4; 8]).await.status, Status::Busy);
    a.ok(&six(0x0a, FIXED, 2), &[4; 8]).await;
    assert_eq!(a.tell().await, (6, 0));
    // A sync that fails: nobody knows what is on the tape, so nobody writes before somebody looked.
    deck.reel.fail_next(MediumError::Io("no".to_owned()));
    assert_eq!(a.fails(&marks(0), &[]).await, triple(Condition::WRITE_ERROR));
    assert_eq!(a.fails(&write(1), &[1]).await, triple(Condition::SEQUENTIAL_POSITIONING_ERROR));
    a.ok(&[0x11, 3, 0, 0, 0, 0], &[]).await;
    a.ok(&write(1), &[1]).await;
    let errors = a.ok(&[0x4d, 0, 0x42, 0, 0, 0, 6, 0, 255, 0], &[]).await;
    assert_eq!(errors[4..], [0, 6, 0, 4, 0, 0, 0, 2]);
}

#[tokio::test]
async fn after_a_restart_or_a_reset_the_position_is_lost() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    a.ok(&write(3), b"one").await;
    a.ok(&marks(1), &[]).await;
    deck.lun.reset().await;
    assert_eq!(a.fails(&READY, &[]).await, triple(Condition::BUS_DEVICE_RESET_FUNCTION_OCCURRED));
    let lost = triple(Condition::SEQUENTIAL_POSITIONING_ERROR);
    for (cdb, data) in [(write(3), &b"two"[..]), (marks(1), &[]), (read(3), &[]), (six(0x11, 0, 1), &[])] {
        assert_eq!(a.fails(&cdb, data).await, lost);
    }
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.ok(&read(3), &[]).await, b"one");

    // A restart: everything is new but the reel.
    let library = Library::new(Layout::new(1, 4, 2).unwrap(), "lib", Arc::new(Forgetful));
    let barcode = Barcode::new("TST001L5").unwrap();
    library.resume(DRIVE, Cartridge::new(barcode, deck.reel.clone())).await.unwrap();
    let (target, lun) = serve(Arc::new(Tape::new(library.drives()[0].clone(), &DriveModel::ALL[0])), Keeper::forgetful()).await;
    let b = Initiator { target: target.clone(), nexus: target.connect("iqn.b,i,0x1") };
    assert_eq!(b.fails(&write(3), b"two").await, triple(Condition::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED));
    assert_eq!(b.fails(&write(3), b"two").await, lost);
    b.ok(&READY, &[]).await;
    b.ok(&[0x11, 3, 0, 0, 0, 0], &[]).await;
    b.ok(&write(3), b"two").await;
    assert_eq!((deck.reel.extent().objects, lun.tasks()), (3, 0));
    assert_eq!(deck.reel.properties(), Properties { capacity_bytes: 64 * MIB, is_worm: false, is_protected: false });
}

#[tokio::test]
async fn a_reserved_drive_is_for_its_holder() {
    let deck = Deck::new().await;
    let (a, b) = (deck.initiator("a"), deck.initiator("b"));
    a.ok(&[0x16, 0, 0, 0, 0, 0], &[]).await;
    for cdb in [&READY[..], &read(1), &REWIND, &[0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(b.send(cdb, &[]).await.status, Status::ReservationConflict);
    }
    a.ok(&[0x17, 0, 0, 0, 0, 0], &[]).await;
    // Write exclusive, persistent: others may not even move the head, but look at what does not.
    let keys = |key: u8, service: u8| [&[0, 0, 0, 0, 0, 0, 0, key][..], &[0, 0, 0, 0, 0, 0, 0, service], &[0; 8]].concat();
    a.ok(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &keys(0, 7)).await;
    a.ok(&[0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0], &keys(7, 0)).await;
    for cdb in [&read(1)[..], &write(0), &six(0x11, 0, 0)] {
        assert_eq!(b.send(cdb, &[]).await.status, Status::ReservationConflict);
    }
    b.ok(&[5, 0, 0, 0, 0, 0], &[]).await;
    b.ok(&[0x44, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[]).await;
    b.ok(&[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0], &[]).await;
}

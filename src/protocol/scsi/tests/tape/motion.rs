//! Going elsewhere, loading and unloading.

use super::*;

/// Three files of four records, with marks between them, and the head at the end.
async fn three_files() -> (Deck, Initiator) {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    for file in 0..3_u8 {
        for record in 0..4 {
            a.ok(&write(2), &[file, record]).await;
        }
        a.ok(&marks(1), &[]).await;
    }
    (deck, a)
}

fn space(code: u8, count: i32) -> [u8; 6] {
    let [_, high, middle, low] = count.to_be_bytes();
    [0x11, code, high, middle, low, 0]
}

#[tokio::test]
async fn space_goes_over_records_and_marks() {
    let (_deck, a) = three_files().await;
    a.ok(&REWIND, &[]).await;
    a.ok(&space(1, 1), &[]).await;
    assert_eq!(a.ok(&read(2), &[]).await, [1, 0]);
    a.ok(&space(0, 2), &[]).await;
    assert_eq!(a.ok(&read(2), &[]).await, [1, 3]);
    a.ok(&space(0, -2), &[]).await;
    assert_eq!(a.ok(&read(2), &[]).await, [1, 2]);
    a.ok(&space(1, -1), &[]).await;
    assert_eq!(a.tell().await, (4, 0));
    a.ok(&space(0, 0), &[]).await;
    a.ok(&space(3, 0), &[]).await;
    assert_eq!(a.tell().await, (15, 3));
    let mut long = [0; 16];
    long[..2].copy_from_slice(&[0x91, 1]);
    long[4..12].copy_from_slice(&(-2_i64).to_be_bytes());
    a.ok(&long, &[]).await;
    assert_eq!(a.tell().await, (9, 1));
    assert_eq!(a.fails(&space(2, 1), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

#[tokio::test]
async fn space_stops_and_says_what_is_left() {
    let (_deck, a) = three_files().await;
    a.ok(&REWIND, &[]).await;
    // Over records into a mark: behind it, forwards; before it, backwards.
    assert_eq!(a.stops(&space(0, 6)).await, (FILEMARK, 0, 1, Some(2)));
    assert_eq!(a.tell().await, (5, 1));
    assert_eq!(a.stops(&space(0, -3)).await, (FILEMARK, 0, 1, Some(3)));
    assert_eq!(a.tell().await, (4, 0));
    // The ends.
    assert_eq!(a.stops(&space(0, -6)).await, (EOM, 0, 4, Some(2)));
    assert_eq!(a.tell().await, (0, 0));
    assert_eq!(a.stops(&space(1, 5)).await, (8, 0, 5, Some(2)));
    assert_eq!(a.tell().await, (15, 3));
    assert_eq!(a.stops(&space(0, 5)).await, (8, 0, 5, Some(5)));
    assert_eq!(a.stops(&space(1, -5)).await, (EOM, 0, 4, Some(2)));
    assert_eq!(a.tell().await, (0, 0));
}

#[tokio::test]
async fn locate_goes_to_objects_files_and_the_end() {
    let (_deck, a) = three_files().await;
    let ten = |to: u8, flags: u8, partition: u8| [0x2b, flags, 0, 0, 0, 0, to, 0, partition, 0];
    let sixteen = |to: u8, flags: u8, partition: u8| [0x92, flags, 0, partition, 0, 0, 0, 0, 0, 0, 0, to, 0, 0, 0, 0];
    a.ok(&ten(6, 0, 0), &[]).await;
    assert_eq!(a.ok(&read(2), &[]).await, [1, 1]);
    a.ok(&ten(11, 4, 0), &[]).await;
    assert_eq!(a.tell().await, (11, 2));
    a.ok(&sixteen(3, 0, 0), &[]).await;
    assert_eq!(a.tell().await, (3, 0));
    for (file, at) in [(0, 0), (1, 5), (2, 10), (3, 15)] {
        a.ok(&sixteen(file, 1 << 3, 0), &[]).await;
        assert_eq!(a.tell().await, (at, file.into()));
    }
    a.ok(&REWIND, &[]).await;
    a.ok(&sixteen(0, 3 << 3, 0), &[]).await;
    assert_eq!(a.tell().await, (15, 3));
    assert_eq!(a.stops(&ten(16, 0, 0)).await, (8, 0, 5, None));
    assert_eq!(a.stops(&sixteen(4, 1 << 3, 0)).await, (8, 0, 5, None));
    assert_eq!(a.tell().await, (15, 3));
    let invalid = triple(Condition::INVALID_FIELD_IN_CDB);
    assert_eq!(a.fails(&ten(0, 2, 1), &[]).await, invalid);
    assert_eq!(a.fails(&sixteen(0, 2, 1), &[]).await, invalid);
    assert_eq!(a.fails(&sixteen(0, 2 << 3, 0), &[]).await, invalid);
    a.ok(&ten(0, 2, 0), &[]).await;
}

#[tokio::test]
async fn positions_in_all_forms() {
    let (_deck, a) = three_files().await;
    a.ok(&[0x2b, 0, 0, 0, 0, 0, 6, 0, 0, 0], &[]).await;
    let form = async |action: u8, len: u8| a.ok(&[0x34, action, 0, 0, 0, 0, 0, 0, len, 0], &[]).await;
    for action in [0, 1] {
        assert_eq!(form(action, 0).await, [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let long = form(6, 0).await;
    assert_eq!((long.len(), long[0], long[15], long[23]), (32, 0, 6, 1));
    let extended = form(8, 32).await;
    assert_eq!((extended.len(), &extended[..4], extended[15], extended[23]), (32, &[0, 0, 0, 28][..], 6, 6));
    assert_eq!(form(8, 4).await.len(), 4);
    // A head that is lost says so.
    _deck.drive.reset().await;
    assert_eq!((form(0, 0).await[0], form(6, 0).await[0], form(8, 32).await[0]), (0x34, 0x0c, 0x34));
}

#[tokio::test]
async fn cartridges_are_loaded_unloaded_and_held() {
    let (deck, a) = three_files().await;
    let load = |flags: u8| [0x1b, 0, 0, 0, flags, 0];
    let absent = triple(Condition::MEDIUM_NOT_PRESENT);
    a.ok(&load(0), &[]).await;
    for cdb in [READY, REWIND, read(1), write(0), marks(0), load(0)] {
        if cdb == load(0) {
            a.ok(&cdb, &[]).await;
        } else {
            assert_eq!(a.fails(&cdb, &[]).await, absent, "{cdb:02x?}");
        }
    }
    a.ok(&load(1), &[]).await;
    assert_eq!(a.tell().await, (0, 0));
    a.ok(&load(8), &[]).await;
    for cdb in [REWIND, READY] {
        assert_eq!(a.fails(&cdb, &[]).await, triple(Condition::LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED));
    }
    a.ok(&load(1), &[]).await;
    assert_eq!(a.fails(&load(5), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    // Who prevents it keeps it in, from hosts and from the robot, until it is gone.
    let b = deck.initiator("b");
    b.ok(&[0x1e, 0, 0, 0, 1, 0], &[]).await;
    assert_eq!(a.fails(&load(0), &[]).await, triple(Condition::MEDIUM_REMOVAL_PREVENTED));
    assert!(deck.library.carry(DRIVE, SLOT).await.is_err());
    a.ok(&[0x1e, 0, 0, 0, 0, 0], &[]).await;
    assert!(deck.library.carry(DRIVE, SLOT).await.is_err(), "another's prevention is not over");
    deck.target.disconnect(&b.nexus);
    deck.library.carry(DRIVE, SLOT).await.unwrap();
    assert_eq!(a.fails(&load(1), &[]).await, absent);
    // All initiators hear of another medium, once.
    deck.library.carry(SLOT, DRIVE).await.unwrap();
    assert_eq!(a.fails(&READY, &[]).await, triple(Condition::NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED));
    a.ok(&READY, &[]).await;
}

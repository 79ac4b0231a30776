//! Reading and writing in both modes, with what does not fit.

use super::*;

#[tokio::test]
async fn records_of_any_length() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    assert_eq!(a.ok(&[5, 0, 0, 0, 0, 0], &[]).await, [0, 0x10, 0, 0, 0, 1]);
    for record in [vec![1; 100], vec![2; 1 << 20], vec![3; 1]] {
        a.ok(&write(record.len()), &record).await;
    }
    a.ok(&marks(1), &[]).await;
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.ok(&read(100), &[]).await, [1; 100]);
    // Shorter than asked for: the record, ILI, what is missing.
    let short = a.send(&read((1 << 20) + 5), &[]).await;
    assert_eq!((short.data.concat().len(), sensed(&short)), (1 << 20, (ILI, 0, 0, Some(5))));
    // A filemark is passed, and ends a read with nothing.
    assert_eq!(a.ok(&read(1), &[]).await, [3]);
    assert_eq!(a.stops(&read(512)).await, (FILEMARK, 0, 1, Some(512)));
    assert_eq!(a.tell().await, (4, 1));
    // The end of data is not.
    assert_eq!(a.stops(&read(512)).await, (8, 0, 5, Some(512)));
    assert_eq!(a.stops(&read(512)).await, (8, 0, 5, Some(512)));
    assert_eq!(a.tell().await, (4, 1));
    // Longer than asked for: its beginning, ILI, how much is missing as a negative number; the rest is passed.
    a.ok(&REWIND, &[]).await;
    let long = a.send(&read(64), &[]).await;
    assert_eq!((long.data.concat(), sensed(&long)), (vec![1; 64], (ILI, 0, 0, Some(-36))));
    assert_eq!(a.tell().await, (1, 0));
}

#[tokio::test]
async fn sili_keeps_quiet_about_short_records_and_about_long_ones_without_a_block_length() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    for len in [100, 200] {
        a.ok(&write(len), &vec![7; len]).await;
    }
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.ok(&six(0x08, SILI, 512), &[]).await.len(), 100);
    assert_eq!(a.ok(&six(0x08, SILI, 50), &[]).await.len(), 50);
    a.ok(&REWIND, &[]).await;
    a.set_block(512).await;
    assert_eq!(a.ok(&six(0x08, SILI, 512), &[]).await.len(), 100);
    let long = a.send(&six(0x08, SILI, 50), &[]).await;
    assert_eq!((long.data.concat().len(), sensed(&long)), (50, (ILI, 0, 0, Some(-150))));
    assert_eq!(a.fails(&six(0x08, SILI | FIXED, 1), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

#[tokio::test]
async fn blocks_of_one_length() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    assert_eq!(a.fails(&six(0x0a, FIXED, 1), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    a.set_block(512).await;
    a.ok(&six(0x0a, FIXED, 3), &[9; 1536]).await;
    a.ok(&marks(1), &[]).await;
    a.ok(&write(100), &[8; 100]).await;
    a.ok(&six(0x0a, FIXED, 1), &[9; 512]).await;
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.ok(&six(0x08, FIXED, 2), &[]).await, [9; 1024]);
    // Two blocks asked for, one there, then a filemark.
    let marked = a.send(&six(0x08, FIXED, 2), &[]).await;
    assert_eq!((marked.data.concat(), sensed(&marked)), (vec![9; 512], (FILEMARK, 0, 1, Some(1))));
    assert_eq!(a.tell().await, (4, 1));
    // A record of another length is passed and not given.
    let wrong = a.send(&six(0x08, FIXED, 4), &[]).await;
    assert_eq!((wrong.data.len(), sensed(&wrong)), (0, (ILI, 0, 0, Some(4))));
    assert_eq!(a.tell().await, (5, 1));
    let end = a.send(&six(0x08, FIXED, 5), &[]).await;
    assert_eq!((end.data.concat().len(), sensed(&end)), (512, (8, 0, 5, Some(4))));
}

#[tokio::test]
async fn what_is_too_long_or_not_whole_is_not_written() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let invalid = triple(Condition::INVALID_FIELD_IN_CDB);
    assert_eq!(a.fails(&write((1 << 20) + 1), &[1; 8]).await, invalid);
    assert_eq!(a.fails(&write(512), &[1; 511]).await, invalid);
    a.set_block(4096).await;
    assert_eq!(a.fails(&six(0x0a, FIXED, 2), &[1; 4096]).await, invalid);
    assert_eq!(a.fails(&six(0x0a, FIXED, 0xff_ffff), &[1; 4096]).await, invalid);
    assert_eq!(a.fails(&six(0x08, FIXED, 0xff_ffff), &[]).await, invalid);
    a.ok(&write(0), &[]).await;
    a.ok(&read(0), &[]).await;
    assert_eq!(a.tell().await, (0, 0));
}

#[tokio::test]
async fn overwriting_takes_what_follows() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    for _ in 0..4 {
        a.ok(&write(10), &[1; 10]).await;
        a.ok(&marks(1), &[]).await;
    }
    a.ok(&REWIND, &[]).await;
    a.ok(&write(10), &[2; 10]).await;
    assert_eq!(a.stops(&read(10)).await, (8, 0, 5, Some(10)));
    a.ok(&marks(2), &[]).await;
    assert_eq!(a.tell().await, (3, 2));
    // ERASE leaves nothing behind the head.
    a.ok(&REWIND, &[]).await;
    a.ok(&read(10), &[]).await;
    a.ok(&[0x19, 1, 0, 0, 0, 0], &[]).await;
    a.ok(&[0x11, 3, 0, 0, 0, 0], &[]).await;
    assert_eq!(a.tell().await, (1, 0));
    // FORMAT MEDIUM leaves nothing, and only begins at the beginning.
    assert_eq!(a.fails(&[4, 0, 0, 0, 0, 0], &[]).await, triple(Condition::POSITION_PAST_BEGINNING_OF_MEDIUM));
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.fails(&[4, 0, 1, 0, 0, 0], &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    a.ok(&[4, 0, 0, 0, 0, 0], &[]).await;
    assert_eq!(a.stops(&read(10)).await, (8, 0, 5, Some(10)));
}

#[tokio::test]
async fn what_is_synced_is_told_by_its_position() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let short = async || a.ok(&[0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
    assert_eq!(short().await[..12], [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    a.ok(&write(100), &[1; 100]).await;
    a.ok(&six(0x10, 1, 1), &[]).await;
    // Two objects of 140 and 40 bytes with their frames are in the buffer.
    assert_eq!(short().await, [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 180]);
    a.ok(&marks(0), &[]).await;
    assert_eq!(short().await, [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    a.ok(&write(1), &[1]).await;
    deck.reel.lose_power(false);
    assert_eq!(crate::engine::tape::Medium::extent(&*deck.reel).objects, 2);
}

#[tokio::test]
async fn without_a_buffer_every_write_is_durable() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    a.ok(&[0x15, 0x10, 0, 0, 4, 0], &[0, 0, 0, 0]).await;
    assert_eq!(a.ok(&[0x1a, 0, 0, 0, 255, 0], &[]).await[2], 0);
    a.ok(&write(100), &[1; 100]).await;
    assert_eq!(crate::engine::tape::Medium::extent(&*deck.reel).synced_objects, 1);
}

#[tokio::test]
async fn verify_reads_and_compares() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    a.set_block(100).await;
    a.ok(&six(0x0a, FIXED, 3), &[5; 300]).await;
    a.ok(&marks(1), &[]).await;
    a.ok(&REWIND, &[]).await;
    a.ok(&six(0x13, FIXED, 2), &[]).await;
    assert_eq!(a.tell().await, (2, 0));
    assert_eq!(a.stops(&six(0x13, FIXED, 2)).await, (FILEMARK, 0, 1, Some(1)));
    a.ok(&REWIND, &[]).await;
    let mut data = [5; 300];
    a.ok(&six(0x13, 3, 3), &data).await;
    a.ok(&REWIND, &[]).await;
    data[150] = 6;
    let wrong = a.send(&six(0x13, 3, 3), &data).await;
    assert_eq!(sensed(&wrong), (0x0e, 0x1d, 0, Some(2)));
    assert_eq!(a.tell().await, (2, 0));
    a.ok(&REWIND, &[]).await;
    assert_eq!(a.stops(&six(0x13, 0, 64)).await, (ILI, 0, 0, Some(-36)));
    assert_eq!(a.fails(&six(0x13, 3, 3), &data[..200]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

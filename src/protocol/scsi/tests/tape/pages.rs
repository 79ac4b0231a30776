//! What a drive says of itself and of its medium.

use super::*;

#[tokio::test]
async fn it_calls_itself_like_its_model() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let inquiry = a.ok(&[0x12, 0, 0, 0, 255, 0], &[]).await;
    assert_eq!((&inquiry[..2], &inquiry[8..36]), (&[1, 0x80][..], &b"IBM     ULT3580-TD5     D2AD"[..]));
    assert!(inquiry[58..].chunks(2).any(|version| version == [0x05, 0x20]));
    let page = async |code: u8| a.ok(&[0x12, 1, code, 0, 255, 0], &[]).await;
    assert_eq!(page(0).await[4..], [0, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    assert_eq!((&page(0x80).await[4..], &page(0xb1).await[4..]), (&b"lib-01"[..], &b"lib-01"[..]));
    assert_eq!(page(0x83).await[8..38], *b"IBM     ULT3580-TD5     lib-01");
    assert_eq!(page(0xb0).await[4], 1);
    // TapeAlert flags 3, 5, 6, 9 and 60.
    assert_eq!(page(0xb2).await[4..], [0b0010_1100, 0x80, 0, 0, 0, 0, 0, 0b0001_0000]);
    for opcode in deck.lun.opcodes() {
        let one = a.ok(&[0xa3, 0x0c, 3, opcode.code(), 0, opcode.action().unwrap_or(0), 0, 0, 1, 0, 0, 0], &[]).await;
        assert_eq!(&one[4..], opcode.usage, "{}", opcode.name);
    }
}

#[tokio::test]
async fn modes_are_sensed_and_selected() {
    let deck = Deck::new().await;
    let (a, b) = (deck.initiator("a"), deck.initiator("b"));
    // Page 0: the header and the block descriptor alone.
    assert_eq!(a.ok(&[0x1a, 0, 0, 0, 255, 0], &[]).await, [11, 0x58, 0x10, 8, 0x58, 0, 0, 0, 0, 0, 0, 0]);
    a.set_block(0x01_0203).await;
    assert_eq!(a.ok(&[0x1a, 0, 0, 0, 12, 0], &[]).await[9..], [1, 2, 3]);
    assert_eq!(b.fails(&READY, &[]).await, triple(Condition::MODE_PARAMETERS_CHANGED));
    // Without PF, as long as there are no pages.
    a.ok(&[0x15, 0, 0, 0, 12, 0], &[0, 0, 0x10, 8, 0x58, 0, 0, 0, 0, 0, 0, 0]).await;
    let wrong = triple(Condition::INVALID_FIELD_IN_PARAMETER_LIST);
    for list in [
        [0, 0, 0x10, 8, 0x44, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0x10, 0, 1],
        [0, 0, 0x20, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(a.fails(&[0x15, 0x10, 0, 0, 12, 0], &list).await, wrong);
    }
    let all = a.ok(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 2, 0, 0], &[]).await;
    assert_eq!(usize::from(u16::from_be_bytes([all[0], all[1]])) + 2, all.len());
    let (mut codes, mut at) = (Vec::new(), 16);
    while at < all.len() {
        codes.push(all[at]);
        at += 2 + usize::from(all[at + 1]);
    }
    assert_eq!((codes, at), (vec![0x01, 0x02, 0x0a, 0x0f, 0x10, 0x11, 0x1c, 0x1d], all.len()));
    assert_eq!(a.fails(&[0x1a, 0, 0x2a, 0, 255, 0], &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

#[tokio::test]
async fn two_pages_have_one_switch_for_compression() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let page = async |code: u8| a.ok(&[0x1a, 8, code, 0, 255, 0], &[]).await;
    let golden = [0, 0x58, 0x10, 0, 0x0f, 14, 0xc0, 0x80, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    golden.iter().zip(page(0x0f).await).enumerate().skip(1).for_each(|(at, (one, other))| assert_eq!(*one, other, "{at}"));
    let mut off = page(0x0f).await;
    off[..2].fill(0);
    off[6] &= 0x7f;
    a.ok(&[0x15, 0x10, 0, 0, off.len() as u8, 0], &off).await;
    assert_eq!((page(0x0f).await[6], page(0x0f).await[11], page(0x10).await[18]), (0x40, 0, 0));
    let mut on = page(0x10).await;
    on[..2].fill(0);
    on[18] = 1;
    a.ok(&[0x15, 0x10, 0, 0, on.len() as u8, 0], &on).await;
    assert_eq!(page(0x0f).await[6], 0xc0);
    on[12] = 0;
    assert_eq!(a.fails(&[0x15, 0x10, 0, 0, on.len() as u8, 0], &on).await, triple(Condition::INVALID_FIELD_IN_PARAMETER_LIST));
}

#[tokio::test]
async fn densities_are_reported() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let report = async |flags: u8| a.ok(&[0x44, flags, 0, 0, 0, 0, 0, 0, 255, 0], &[]).await;
    let drive = report(0).await;
    let fields = [0, 54, 0, 0, 0x58, 0x58, 0xa0, 0, 0, 0, 0x3b, 0x26, 0, 127, 5, 0, 0, 0x16, 0xe3, 0x60];
    assert_eq!((drive.len(), &drive[..20]), (56, &fields[..]));
    assert_eq!(drive[20..], *b"LTO-CVE U-516   Ultrium 5/16T       ");
    assert_eq!(report(1).await[16..20], 67_u32.to_be_bytes());
    let types = report(2).await;
    assert_eq!((types.len(), &types[..10], &types[24..]), (60, &[0, 58, 0, 0, 0x58, 0, 0, 52, 1, 0x58][..], &drive[20..]));
    deck.library.carry(DRIVE, SLOT).await.unwrap();
    assert_eq!(report(0).await, drive);
    assert_eq!(a.fails(&[0x44, 1, 0, 0, 0, 0, 0, 0, 255, 0], &[]).await, triple(Condition::MEDIUM_NOT_PRESENT));
}

#[tokio::test]
async fn logs_count_and_are_cleared() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    a.ok(&write(1000), &[1; 1000]).await;
    a.ok(&REWIND, &[]).await;
    a.ok(&read(1000), &[]).await;
    let page = async |code: u8| a.ok(&[0x4d, 0, 0x40 | code, 0, 0, 0, 0, 2, 0, 0], &[]).await;
    assert_eq!(page(0).await, [0, 0, 0, 7, 0, 0x02, 0x03, 0x0c, 0x11, 0x2e, 0x31]);
    for code in &page(0).await[4..] {
        let data = page(*code).await;
        assert_eq!((data[0], usize::from(u16::from_be_bytes([data[2], data[3]]))), (*code, data.len() - 4));
    }
    let sequential = page(0x0c).await;
    let values: Vec<_> =
        sequential[4..].chunks(12).take(4).map(|parameter| (parameter[1], parameter[10], parameter[11])).collect();
    assert_eq!(values, [(0, 3, 232), (1, 3, 232), (2, 3, 232), (3, 3, 232)]);
    assert_eq!(page(0x11).await[4..12], [0, 0, 3, 4, 0x31, 0x17, 0, 0]);
    a.ok(&[0x4c, 2, 0x40, 0, 0, 0, 0, 0, 0, 0], &[]).await;
    assert_eq!(page(0x0c).await[8..16], [0; 8]);
    deck.library.carry(DRIVE, SLOT).await.unwrap();
    assert_eq!(page(0x11).await[8..10], [0x11, 0x20]);
}

#[tokio::test]
async fn the_mediums_memory_is_read_and_written() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let get = |action: u8, from: u16| {
        let [high, low] = from.to_be_bytes();
        [0x8c, action, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 4, 0, 0, 0]
    };
    let put = |len: u8| [0x8d, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, len, 0, 0];
    assert_eq!(a.ok(&get(0, 0), &[]).await[4..17], [0, 0, 0x80, 0, 8, 0, 0, 0, 0, 0, 0, 0, 64]);
    assert_eq!(a.ok(&get(2, 0), &[]).await, [0, 2, 0, 1]);
    assert_eq!(a.ok(&get(3, 0), &[]).await, [0, 2, 0, 1]);
    let ids = async |action: u8| {
        let list = a.ok(&get(action, 0), &[]).await;
        list[4..].chunks(2).map(|id| u16::from_be_bytes([id[0], id[1]])).collect::<Vec<_>>()
    };
    let (there, possible) = (ids(1).await, ids(5).await);
    assert!(there.is_sorted() && possible.is_sorted());
    assert!(there.contains(&0x0806) && !there.contains(&0x0801) && possible.contains(&0x0801));
    assert!(there.iter().all(|id| possible.contains(id)));
    // The barcode, until a host writes another.
    assert_eq!(a.ok(&get(0, 0x0806), &[]).await[4..17], *b"\x08\x06\x01\0\x20TST001L5");

    let name = [&[0, 0, 0, 37, 8, 1, 1, 0, 32][..], &[b'x'; 32]].concat();
    a.ok(&put(41), &name).await;
    assert_eq!(a.ok(&get(0, 0x0801), &[]).await[4..41], name[4..]);
    deck.library.carry(DRIVE, SLOT).await.unwrap();
    deck.library.carry(SLOT, DRIVE).await.unwrap();
    a.send(&READY, &[]).await;
    assert_eq!(a.ok(&get(0, 0x0801), &[]).await[4..41], name[4..]);
    // Loads, and the drives that it was in.
    assert_eq!(a.ok(&get(0, 3), &[]).await[4..17], [0, 3, 0x80, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(a.ok(&get(0, 0x020b), &[]).await[9..23], *b"IBM     lib-01");
    // Without a value it goes.
    a.ok(&put(9), &[0, 0, 0, 5, 8, 1, 1, 0, 0]).await;
    assert!(!ids(1).await.contains(&0x0801));

    let wrong = triple(Condition::INVALID_FIELD_IN_PARAMETER_LIST);
    for list in [
        &[0, 0, 0, 6, 0, 3, 0, 0, 1, 9][..],
        &[0, 0, 0, 6, 8, 1, 0, 0, 1, 9],
        &[0, 0, 0, 7, 8, 5, 0, 0, 2, 9, 9],
        &[0, 0, 0, 6, 0x18, 0, 0, 0, 1, 9],
    ] {
        assert_eq!(a.fails(&put(list.len() as u8), list).await, wrong, "{list:02x?}");
    }
    let length = triple(Condition::PARAMETER_LIST_LENGTH_ERROR);
    for list in [&[0, 0, 0, 9, 8, 1, 1, 0, 1, 9][..], &[0, 0, 0, 5, 8, 1, 1, 0, 1], &[0, 0, 0], &[0, 0, 0, 2, 8, 1]] {
        assert_eq!(a.fails(&put(list.len() as u8), list).await, length, "{list:02x?}");
    }
    let invalid = triple(Condition::INVALID_FIELD_IN_CDB);
    assert_eq!(a.fails(&get(0, 0x1500), &[]).await, invalid);
    assert_eq!(a.fails(&[0x8c, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0, 0, 0], &[]).await, invalid);
}

#[tokio::test]
async fn there_is_no_encryption() {
    let deck = Deck::new().await;
    let a = deck.initiator("a");
    let ask = |protocol: u8, specific: u8| [0xa2, protocol, 0, specific, 0, 0, 0, 0, 0, 64, 0, 0];
    assert_eq!(a.ok(&ask(0, 0), &[]).await, [0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(a.ok(&ask(0, 1), &[]).await, [0; 4]);
    assert_eq!(a.fails(&ask(0x20, 0x10), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    assert_eq!(a.fails(&ask(0, 2), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

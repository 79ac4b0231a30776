//! The codec: there and back, its bytes pinned, and bytes from an enemy.

use proptest::prelude::*;

use super::*;
use crate::store::meta::arbitrary;

#[test]
fn an_empty_list_is_one_byte() {
    assert_eq!(&encode(&[])[..], [VERSION]);
    assert_eq!(decode(&[VERSION]), Ok(vec![]));
}

/// The format is in people's logs: this test changes only together with `VERSION`.
#[test]
fn the_bytes_are_pinned() {
    let entry = EntryRow { parent: NodeId(1), name: b"a".to_vec(), node: NodeId(300), kind: NodeKind::File, cookie: 3 };
    let changes = [Change::Put(Row::Entry(entry)), Change::Drop(Key::Job(OwnerId(2), 300))];
    let bytes = [2, 2, 7, 1, 1, b'a', 0xac, 0x02, 0o10, 3, 0x84, 3, 2, 0xac, 0x02];
    assert_eq!(&encode(&changes)[..], bytes);
}

#[test]
fn other_versions_and_damage_are_refused() {
    assert!(decode(&[]).is_err());
    assert!(decode(&[VERSION + 1]).is_err());
    assert!(decode(&[0]).is_err());
    for (body, what) in [
        (&[1, 9, 0][..], "an unknown table"),
        (&[1, 0, 0], "an unknown table"),
        (&[1, 0x81, 2, 1, 1], "more than the row's fields"),
        (&[1, 0x81, 0], "ends inside a field"),
        (&[1, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "ends inside a field"),
        (&[1, 0x81, 11, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0], "a number of more than 64 bits"),
        (&[1, 0x88, 2, 1, 0xff], "text that is not UTF-8"),
        (&[1, 0x87, 5, 0xff, 0xff, 0xff, 0xff, 0x1f], "a number of more than 32 bits"),
    ] {
        assert_eq!(decode(body).unwrap_err().what, what, "{body:?}");
    }
}

/// What version 1 wrote is in people's logs: an owner without an endpoint, and rows that did not change.
#[test]
fn a_body_of_version_1_is_read() {
    let body = [1, 7, 10, 2, 1, b's', 1, b'n', 1, b'b', 0, 0xac, 0x02, 0x88, 2, 1, b'v'];
    let owner = OwnerRow {
        owner: OwnerId(2),
        kind: "s".to_owned(),
        name: "n".to_owned(),
        bucket: "b".to_owned(),
        prefix: String::new(),
        root: NodeId(300),
        endpoint: String::new(),
    };
    assert_eq!(decode(&body), Ok(vec![Change::Put(Row::Owner(owner)), Change::Drop(Key::Value("v".to_owned()))]));
}

#[test]
fn a_cut_anywhere_never_gives_a_row_that_was_not_there() {
    let mut random = fastrand::Rng::with_seed(7);
    let changes: Vec<Change> = (0..8).map(|_| arbitrary::change(&mut random)).collect();
    let body = encode(&changes);
    for cut in 1..body.len() {
        if let Ok(fewer) = decode(&body[..cut]) {
            assert_eq!(fewer, changes[..fewer.len()]);
        }
    }
}

proptest! {
    #[test]
    fn there_and_back(seed: u64, count in 0_usize..20) {
        let mut random = fastrand::Rng::with_seed(seed);
        let changes: Vec<Change> = (0..count).map(|_| arbitrary::change(&mut random)).collect();
        prop_assert_eq!(decode(&encode(&changes)), Ok(changes));
    }

    #[test]
    fn hostile_bytes_are_refused_or_have_one_form(mut body: Vec<u8>) {
        if let Some(version) = body.first_mut() {
            *version = VERSION;
        }
        if let Ok(changes) = decode(&body) {
            prop_assert_eq!(decode(&encode(&changes)), Ok(changes));
        }
    }

    #[test]
    fn flipped_bytes_never_panic(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let changes: Vec<Change> = (0..4).map(|_| arbitrary::change(&mut random)).collect();
        let mut body = encode(&changes).to_vec();
        for _ in 0..3 {
            let at = random.usize(..body.len());
            body[at] = random.u8(..);
        }
        let _ = decode(&body);
    }
}

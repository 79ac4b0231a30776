//! A changer with a library in memory.

use super::tape::{DRIVE, MIB, PORT, SLOT, reel};
use super::*;
use crate::engine::tape::{Forgetful, Layout, Library};

struct Robot {
    library: Arc<Library>,
    lun: Arc<Lun>,
    target: Arc<Target>,
}

impl Robot {
    /// Two drives, five slots with two cartridges, three import/export slots.
    async fn new() -> Self {
        let library = Library::new(Layout::new(2, 5, 3).unwrap(), "lib", Arc::new(Forgetful));
        for number in 1..3 {
            library.resume(SLOT + u16::from(number), reel(number, 16 * MIB, false).1).await.unwrap();
        }
        let drives: Vec<_> = library.drives().iter().map(|drive| Tape::identity_of(drive, &DriveModel::ALL[0])).collect();
        let changer = Changer::new(library.clone(), &ChangerModel::ALL[0], "lib-00", &drives);
        let (target, lun) = serve(Arc::new(changer), Keeper::forgetful()).await;
        Self { library, lun, target }
    }

    fn initiator(&self, name: &str) -> Initiator {
        Initiator::new(&self.target, &self.lun, name)
    }
}

fn carry(from: u16, to: u16) -> [u8; 12] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [0xa5, 0, 0, 0, a, b, c, d, 0, 0, 0, 0]
}

/// READ ELEMENT STATUS: element type with VOLTAG, from where, how many, DVCID, allocation length.
fn status(kind: u8, from: u16, count: u16, flags: u8, allocation: u16) -> [u8; 12] {
    let ([a, b], [c, d], [e, f]) = (from.to_be_bytes(), count.to_be_bytes(), allocation.to_be_bytes());
    [0xb8, kind, a, b, c, d, flags, 0, e, f, 0, 0]
}

const VOLTAG: u8 = 0x10;

#[tokio::test]
async fn it_calls_itself_like_its_model_and_knows_its_elements() {
    let robot = Robot::new().await;
    let a = robot.initiator("a");
    let inquiry = a.ok(&[0x12, 0, 0, 0, 255, 0], &[]).await;
    assert_eq!((inquiry[0], &inquiry[8..36]), (8, &b"AWS     Gateway-VTL     0104"[..]));
    a.ok(&READY, &[]).await;
    let page = async |code: u8| a.ok(&[0x1a, 8, code, 0, 255, 0], &[]).await;
    let addresses = [0x1d, 18, 0, 0, 0, 1, 4, 0, 0, 5, 0x40, 0, 0, 3, 1, 0, 0, 2, 0, 0];
    assert_eq!(page(0x1d).await[4..], addresses);
    assert_eq!(page(0x1e).await[4..], [0x1e, 2, 0, 0]);
    let may = [0x1f, 18, 0x0e, 0, 0, 0x0e, 0x0e, 0x0e, 0, 0, 0, 0, 0, 0x0e, 0x0e, 0x0e, 0, 0, 0, 0];
    assert_eq!(page(0x1f).await[4..], may);
    assert_eq!(a.ok(&[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0], &[]).await, [0, 0, 0, 2, 0, 0x2e]);
    a.ok(&[7, 0, 0, 0, 0, 0], &[]).await;
    a.ok(&[0x37, 1, 4, 0, 0, 0, 0, 1, 0, 0], &[]).await;
}

#[tokio::test]
async fn elements_are_described() {
    let robot = Robot::new().await;
    let a = robot.initiator("a");
    // One slot, with its volume tag: the golden answer.
    let one = a.ok(&status(2 | VOLTAG, SLOT + 1, 1, 0, 255), &[]).await;
    let mut golden = vec![4, 1, 0, 1, 0, 0, 0, 60, 2, 0x80, 0, 52, 0, 0, 0, 52, 4, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    golden.extend(b"TST001L5                        \0\0\0\0\0\0\0\0");
    assert_eq!(one, golden);
    let empty = a.ok(&status(2 | VOLTAG, SLOT, 1, 0, 255), &[]).await;
    assert_eq!((empty[18], &empty[28..64]), (8, &[0; 36][..]));

    a.ok(&carry(SLOT + 1, DRIVE + 1), &[]).await;
    let drives = a.ok(&status(4 | VOLTAG, 0, 9, 1, 1000), &[]).await;
    let each = usize::from(u16::from_be_bytes([drives[10], drives[11]]));
    assert_eq!((drives[3], each, drives.len()), (2, 12 + 36 + 4 + 30, 16 + 2 * each));
    let (first, second) = (&drives[16..16 + each], &drives[16 + each..]);
    assert_eq!((first[2], &first[48..52], &first[52..]), (8, &[2, 1, 0, 30][..], &b"IBM     ULT3580-TD5     lib-01"[..]));
    // Full, the robot has to wait for it, and where it came from.
    assert_eq!((second[2], &second[9..12], &second[12..20]), (1, &[0x80, 4, 1][..], &b"TST001L5"[..]));
    assert!(second.ends_with(b"lib-02"));

    // All kinds: a page each.
    let all = a.ok(&status(0, 0, 0xffff, 0, 1000), &[]).await;
    assert_eq!((&all[..4], all[8], all.len()), (&[0, 0, 0, 11][..], 1, 8 + 4 * 8 + 11 * 16));
    let ports = a.ok(&status(3, 0, 9, 0, 1000), &[]).await;
    assert_eq!((ports.len(), ports[18]), (16 + 3 * 16, 0x38));
}

#[tokio::test]
async fn only_whole_descriptors_fit_an_answer() {
    let robot = Robot::new().await;
    let a = robot.initiator("a");
    let whole = a.ok(&status(2, 0, 9, 0, 1000), &[]).await;
    assert_eq!(whole.len(), 16 + 5 * 16);
    for (allocation, len) in [(95, 16 + 4 * 16), (32, 32), (31, 16), (16, 16), (15, 8), (8, 8), (4, 4), (0, 0)] {
        assert_eq!(a.ok(&status(2, 0, 9, 0, allocation), &[]).await, whole[..len], "{allocation}");
    }
    assert_eq!(a.fails(&status(2, SLOT + 5, 1, 0, 100), &[]).await, triple(Condition::INVALID_ELEMENT_ADDRESS));
    assert_eq!(a.fails(&status(5, 0, 1, 0, 100), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

#[tokio::test]
async fn cartridges_move_and_what_cannot_be_is_refused() {
    let robot = Robot::new().await;
    let a = robot.initiator("a");
    let (invalid, empty) = (triple(Condition::INVALID_ELEMENT_ADDRESS), triple(Condition::MEDIUM_SOURCE_ELEMENT_EMPTY));
    assert_eq!(a.fails(&carry(SLOT, DRIVE), &[]).await, empty);
    assert_eq!(a.fails(&carry(SLOT + 1, SLOT + 2), &[]).await, triple(Condition::MEDIUM_DESTINATION_ELEMENT_FULL));
    for (from, to) in [(SLOT + 1, 0), (0, SLOT), (SLOT + 1, 0xffff), (SLOT + 9, SLOT), (SLOT + 1, DRIVE + 2)] {
        assert_eq!(a.fails(&carry(from, to), &[]).await, invalid, "{from:#x} {to:#x}");
    }
    let mut other_hand = carry(SLOT + 1, DRIVE);
    other_hand[3] = 1;
    assert_eq!(a.fails(&other_hand, &[]).await, invalid);
    let mut inverted = carry(SLOT + 1, DRIVE);
    inverted[10] = 1;
    assert_eq!(a.fails(&inverted, &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));

    a.ok(&carry(SLOT + 1, DRIVE), &[]).await;
    let exchange = |from: u16, to: u16, onto: u16| {
        let bytes = [from, to, onto].map(u16::to_be_bytes).concat();
        [&[0xa6, 0, 0, 0][..], &bytes, &[0, 0]].concat()
    };
    a.ok(&exchange(SLOT + 2, DRIVE, SLOT + 2), &[]).await;
    assert_eq!(robot.library.drives()[0].status().barcode.unwrap().as_str(), "TST002L5");
    assert_eq!(a.fails(&exchange(SLOT, DRIVE, SLOT), &[]).await, empty);
    robot.library.drives()[0].prevent(true);
    assert_eq!(a.fails(&carry(DRIVE, SLOT), &[]).await, triple(Condition::MEDIUM_REMOVAL_PREVENTED));
    robot.library.drives()[0].prevent(false);
    a.ok(&carry(DRIVE, PORT + 2), &[]).await;

    let position = |to: u16| [&[0x2b, 0, 0, 0][..], &to.to_be_bytes(), &[0; 4]].concat();
    a.ok(&position(DRIVE), &[]).await;
    assert_eq!(a.fails(&position(1), &[]).await, invalid);
    assert_eq!(a.fails(&[0x37, 1, 0xff, 0, 0, 0, 0, 1, 0, 0], &[]).await, invalid);
}

#[tokio::test]
async fn the_door_can_be_locked() {
    let robot = Robot::new().await;
    let (a, b) = (robot.initiator("a"), robot.initiator("b"));
    let lid = |action: u8, at: u16| [&[0x1b, 0][..], &at.to_be_bytes(), &[action, 0]].concat();
    a.ok(&[0x1e, 0, 0, 0, 1, 0], &[]).await;
    assert!(robot.library.import(reel(9, MIB, false).1).await.is_err());
    assert_eq!(b.fails(&lid(0, PORT), &[]).await, triple(Condition::MEDIUM_REMOVAL_PREVENTED));
    b.ok(&lid(1, PORT), &[]).await;
    assert_eq!(b.fails(&lid(0, SLOT), &[]).await, triple(Condition::INVALID_ELEMENT_ADDRESS));
    assert_eq!(b.fails(&lid(2, PORT), &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    // The robot may still use the slots.
    b.ok(&carry(SLOT + 1, PORT), &[]).await;
    a.ok(&[0x1e, 0, 0, 0, 0, 0], &[]).await;
    b.ok(&lid(0, PORT), &[]).await;
    robot.library.import(reel(9, MIB, false).1).await.unwrap();
    // Everybody hears of what an operator did.
    for initiator in [&a, &b] {
        assert_eq!(initiator.fails(&READY, &[]).await, triple(Condition::IMPORT_OR_EXPORT_ELEMENT_ACCESSED));
        initiator.ok(&READY, &[]).await;
    }
    let imported = a.ok(&status(3 | VOLTAG, PORT + 1, 1, 0, 255), &[]).await;
    assert_eq!((imported[18], &imported[28..36]), (0x3b, &b"TST009L5"[..]));
}

#[tokio::test]
async fn cartridges_are_found_by_their_tags() {
    let robot = Robot::new().await;
    let (a, b) = (robot.initiator("a"), robot.initiator("b"));
    let ask = [0xb5, VOLTAG, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0];
    assert_eq!(a.fails(&ask, &[]).await, triple(Condition::COMMAND_SEQUENCE_ERROR));
    let send = |action: u8| [0xb6, 0, 0, 0, 0, action, 0, 0, 0, 40, 0, 0];
    let mut template = [b' '; 40];
    template[..6].copy_from_slice(b"TST*  ");
    template[32..].fill(0);
    a.ok(&send(5), &template).await;
    let found = a.ok(&ask, &[]).await;
    assert_eq!((found[3], found[4], &found[28..36], &found[80..88]), (2, 5, &b"TST001L5"[..], &b"TST002L5"[..]));
    template[..8].copy_from_slice(b"TST002L5");
    a.ok(&send(0), &template).await;
    assert_eq!(a.ok(&ask, &[]).await[..8], [4, 2, 0, 1, 0, 0, 0, 60]);
    template[0] = b'X';
    a.ok(&send(0), &template).await;
    assert_eq!(a.ok(&ask, &[]).await, [0; 8]);
    assert_eq!(b.fails(&ask, &[]).await, triple(Condition::COMMAND_SEQUENCE_ERROR));
    assert_eq!(a.fails(&send(8), &template).await, triple(Condition::INVALID_FIELD_IN_CDB));
    assert_eq!(
        a.fails(&[0xb6, 0, 0, 0, 0, 0, 0, 0, 0, 39, 0, 0], &template[..39]).await,
        triple(Condition::PARAMETER_LIST_LENGTH_ERROR)
    );
}

#[tokio::test]
async fn a_reserved_changer_only_tells() {
    let robot = Robot::new().await;
    let (a, b) = (robot.initiator("a"), robot.initiator("b"));
    a.ok(&[0x16, 0, 0, 0, 0, 0], &[]).await;
    assert_eq!(b.send(&carry(SLOT + 1, DRIVE), &[]).await.status, Status::ReservationConflict);
    assert_eq!(b.send(&status(2, 0, 9, 0, 100), &[]).await.status, Status::ReservationConflict);
    // CURDATA: what is known, without moving.
    b.ok(&status(2, 0, 9, 2, 100), &[]).await;
}

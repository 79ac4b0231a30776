//! Moves, and what is in their way.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;

/// Keeps what it was told, until it fails.
#[derive(Default)]
struct Notes {
    kept: Mutex<Vec<(String, u16)>>,
    fails: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Ledger for Notes {
    async fn keep(&self, moves: &[(Barcode, u16)]) -> Result<(), String> {
        if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            return Err("the disk is full".to_owned());
        }
        self.kept.lock().extend(moves.iter().map(|(barcode, to)| (barcode.to_string(), *to)));
        Ok(())
    }
}

fn tape(number: u8) -> Arc<Cartridge> {
    let mut id = ID;
    id[0] = number;
    cartridge(&format!("TST{number:03}L5"), &Arc::new(MemoryReel::new(id, 16 * MIB, false)))
}

const DRIVE: u16 = 0x100;
const SLOT: u16 = 0x400;
const PORT: u16 = 0x4000;

fn at(library: &Library, address: u16) -> Option<String> {
    let element = library.elements(None, 0, usize::MAX).into_iter().find(|element| element.address == address)?;
    element.barcode.map(|barcode| barcode.to_string())
}

#[tokio::test]
async fn cartridges_move_and_the_ledger_knows() {
    let notes = Arc::new(Notes::default());
    let library = Library::new(Layout::new(2, 3, 2).unwrap(), "lib", notes.clone());
    assert_eq!(library.import(tape(1)).await, Ok(PORT));
    assert_eq!(library.import(tape(2)).await, Ok(PORT + 1));
    assert!(library.take_visit() && !library.take_visit());
    assert_eq!(library.import(tape(3)).await, Err(LibraryError::Full));
    library.carry(PORT, SLOT).await.unwrap();
    library.carry(PORT + 1, DRIVE).await.unwrap();
    let element = library.elements(Some(Kind::Drive), 0, 1).remove(0);
    assert_eq!((element.source, element.is_accessible, element.is_import), (Some(PORT + 1), false, false));
    library.exchange(SLOT, DRIVE, SLOT).await.unwrap();
    assert_eq!((at(&library, DRIVE), at(&library, SLOT)), (Some("TST001L5".to_owned()), Some("TST002L5".to_owned())));
    assert_eq!(library.drives()[0].status().barcode.unwrap().as_str(), "TST001L5");
    library.exchange(SLOT, DRIVE, DRIVE + 1).await.unwrap();
    assert_eq!(at(&library, DRIVE + 1).unwrap(), "TST001L5");
    library.carry(DRIVE, PORT).await.unwrap();
    assert_eq!(library.take(PORT).await.unwrap().barcode.as_str(), "TST002L5");
    let last = notes.kept.lock().last().cloned();
    assert_eq!(last, Some(("TST002L5".to_owned(), PORT)));
    assert!(library.drives()[1].take_change());
}

#[tokio::test]
async fn what_cannot_be_changes_nothing() {
    let notes = Arc::new(Notes::default());
    let library = Library::new(Layout::new(1, 3, 2).unwrap(), "lib", notes.clone());
    library.resume(SLOT, tape(1)).await.unwrap();
    library.resume(SLOT + 1, tape(2)).await.unwrap();
    assert_eq!(library.carry(SLOT + 2, DRIVE).await, Err(LibraryError::SourceEmpty(SLOT + 2)));
    assert_eq!(library.carry(SLOT, SLOT + 1).await, Err(LibraryError::DestinationFull(SLOT + 1)));
    assert_eq!(library.carry(SLOT, 0).await, Err(LibraryError::NoElement(0)));
    assert_eq!(library.carry(0x3fff, SLOT).await, Err(LibraryError::NoElement(0x3fff)));
    assert_eq!(library.exchange(SLOT, DRIVE, SLOT).await, Err(LibraryError::SourceEmpty(DRIVE)));
    assert_eq!(library.exchange(SLOT, SLOT + 1, SLOT + 1).await, Err(LibraryError::DestinationFull(SLOT + 1)));
    assert_eq!(library.take(SLOT).await.unwrap_err(), LibraryError::NoElement(SLOT));
    assert_eq!(library.take(PORT).await.unwrap_err(), LibraryError::SourceEmpty(PORT));
    let again = tape(1);
    assert_eq!(library.import(again.clone()).await, Err(LibraryError::Duplicate(again.barcode.clone())));
    library.lock(true);
    assert_eq!(library.import(tape(3)).await, Err(LibraryError::Locked));
    assert_eq!(library.take(PORT).await.unwrap_err(), LibraryError::Locked);

    library.carry(SLOT, DRIVE).await.unwrap();
    library.drives()[0].prevent(true);
    assert_eq!(library.carry(DRIVE, SLOT).await, Err(LibraryError::Drive(DRIVE, Stop::Prevented)));
    assert_eq!(library.exchange(SLOT + 1, DRIVE, SLOT + 1).await, Err(LibraryError::Drive(DRIVE, Stop::Prevented)));
    library.drives()[0].prevent(false);
    notes.fails.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(library.carry(DRIVE, SLOT).await, Err(LibraryError::Ledger(_))));
    assert!(matches!(library.carry(SLOT + 1, SLOT + 2).await, Err(LibraryError::Ledger(_))));
    assert_eq!((at(&library, DRIVE).unwrap(), at(&library, SLOT + 1).unwrap()), ("TST001L5".to_owned(), "TST002L5".to_owned()));
}

#[tokio::test]
async fn after_a_restart_a_drive_is_lost_until_it_is_sent_somewhere() {
    let library = Library::new(Layout::default(), "lib", Arc::new(Forgetful));
    library.resume(DRIVE + 9, tape(1)).await.unwrap();
    let mut head = library.drives()[9].head().await.unwrap();
    assert_eq!(head.position(), Err(Stop::PositionLost));
    assert_eq!(head.write(Object::Filemark, false).await, Err(Stop::PositionLost));
    head.end_of_data().await.unwrap();
    head.write(Object::Filemark, false).await.unwrap();
}

#[test]
fn layouts_have_all_kinds_and_no_overlap() {
    let layout = Layout::default();
    assert_eq!((layout.drives.len(), layout.slots.len(), layout.ports.len()), (10, 1600, 1600));
    let large = Layout::new(768, 15_360, 32_768).unwrap();
    for (address, kind) in
        [(0, Kind::Robot), (0x3ff, Kind::Drive), (0x3fff, Kind::Storage), (0x4000, Kind::Port), (0xbfff, Kind::Port)]
    {
        assert_eq!(large.kind(address), Some(kind));
    }
    assert_eq!(large.kind(1), None);
    for (drives, slots, ports) in [(0, 1, 1), (769, 1, 1), (1, 0, 1), (1, 15_361, 1), (1, 1, 0), (1, 1, 32_769)] {
        assert!(Layout::new(drives, slots, ports).is_err());
    }
}

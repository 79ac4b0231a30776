//! A drive against a model, and a library with everything that goes wrong in one.

mod library;
mod model;

use std::sync::Arc;

use super::*;

const ID: [u8; 16] = *b"0123456789abcdef";
const MIB: u64 = 1 << 20;

fn cartridge(barcode: &str, reel: &Arc<MemoryReel>) -> Arc<Cartridge> {
    Cartridge::new(Barcode::new(barcode).unwrap(), reel.clone())
}

/// A library with one drive that has a cartridge, which is loaded.
async fn loaded(reel: &Arc<MemoryReel>) -> Arc<Library> {
    let library = Library::new(Layout::new(1, 4, 2).unwrap(), "lib", Arc::new(Forgetful));
    library.resume(0x400, cartridge("TST001L5", reel)).await.unwrap();
    library.carry(0x400, 0x100).await.unwrap();
    library
}

fn record(text: &str) -> Object {
    Object::Record(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn what_is_written_is_read_and_what_follows_is_gone() {
    let reel = Arc::new(MemoryReel::new(ID, 16 * MIB, false));
    let library = loaded(&reel).await;
    let drive = &library.drives()[0];
    let mut head = drive.head().await.unwrap();
    for object in [record("a"), Object::Filemark, record("bc"), Object::Filemark] {
        head.write(object, false).await.unwrap();
    }
    assert_eq!(head.place().await.unwrap().file, 2);
    head.rewind().await.unwrap();
    assert_eq!(head.read().await.unwrap(), "a");
    assert_eq!(head.read().await, Err(Stop::Filemark));
    assert_eq!(head.read().await.unwrap(), "bc");
    head.locate_file(1).await.unwrap();
    assert_eq!(head.position(), Ok(2));
    head.write(record("d"), false).await.unwrap();
    assert_eq!(head.read().await, Err(Stop::EndOfData));
    assert_eq!(head.place().await.unwrap().extent.objects, 3);
    head.locate(1).await.unwrap();
    head.erase().await.unwrap();
    assert_eq!(head.place().await.unwrap().extent.synced_objects, 1);
    drop(head);
    library.carry(0x100, 0x401).await.unwrap();
    assert_eq!(drive.head().await.err(), Some(Stop::NoMedium));
    assert_eq!((reel.chip().loads, reel.chip().written_bytes, reel.chip().read_bytes), (1, 4, 3));
}

#[tokio::test]
async fn media_that_take_no_changes_take_none() {
    let reel = Arc::new(MemoryReel::new(ID, 16 * MIB, true));
    let library = loaded(&reel).await;
    let mut head = library.drives()[0].head().await.unwrap();
    head.write(record("a"), false).await.unwrap();
    head.rewind().await.unwrap();
    assert_eq!(head.write(record("b"), false).await, Err(Stop::WormOverwrite));
    assert_eq!(head.erase().await, Err(Stop::WormOverwrite));
    head.end_of_data().await.unwrap();
    head.write(Object::Filemark, false).await.unwrap();
    reel.set_protected(true);
    assert_eq!(head.write(record("b"), false).await, Err(Stop::Protected));
    assert_eq!(reel.extent().objects, 2);
}

#[tokio::test]
async fn the_end_is_told_of_before_it_comes() {
    let reel = Arc::new(MemoryReel::new(ID, 4 * MIB, false));
    let library = loaded(&reel).await;
    let mut head = library.drives()[0].head().await.unwrap();
    let (mut before, mut behind) = (0, 0);
    let megabyte = || Object::Record(vec![7; RECORD_BYTES_MAX - 100].into());
    loop {
        match head.write(megabyte(), false).await {
            Ok(()) if head.is_past_warning() => behind += 1,
            Ok(()) => before += 1,
            Err(stop) => {
                assert_eq!(stop, Stop::EndOfMedium);
                break;
            }
        }
    }
    assert_eq!((before, behind), (2, 2));
    head.write(Object::Filemark, false).await.unwrap();
    head.rewind().await.unwrap();
    assert!(!head.is_past_warning());
}

#[tokio::test]
async fn a_sync_that_fails_loses_the_position() {
    let reel = Arc::new(MemoryReel::new(ID, 16 * MIB, false));
    let library = loaded(&reel).await;
    let drive = &library.drives()[0];
    let mut head = drive.head().await.unwrap();
    reel.fail_next(MediumError::Busy);
    assert_eq!(head.write(record("a"), false).await, Err(Stop::Medium(MediumError::Busy)));
    head.write(record("a"), false).await.unwrap();
    reel.fail_next(MediumError::Io("no".to_owned()));
    assert_eq!(head.sync().await, Err(Stop::Medium(MediumError::Io("no".to_owned()))));
    assert_eq!(head.write(record("b"), false).await, Err(Stop::PositionLost));
    assert_eq!(head.read().await, Err(Stop::PositionLost));
    head.rewind().await.unwrap();
    assert_eq!(head.read().await.unwrap(), "a");
    drop(head);
    assert_eq!(drive.counters().write_errors, 2);
    drive.reset().await;
    assert_eq!(drive.head().await.unwrap().position(), Err(Stop::PositionLost));
}

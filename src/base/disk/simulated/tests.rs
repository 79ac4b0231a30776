//! The simulated disk grants what the seam promises, and not more.

use super::*;
use crate::base::disk::SECTOR_BYTES;

fn read(disk: &SimulatedDisk, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    disk.peek("f", offset, &mut buf);
    buf
}

fn write(file: &Arc<dyn DiskFile>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(&[IoSlice::new(bytes)], offset)
}

#[test]
fn power_loss_keeps_what_was_synced_and_any_mix_of_the_rest() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimulatedDisk::new(1 << 20, seed);
        let file = disk.create("f", 64 << 10).unwrap();
        write(&file, 0, &[1; 8192]).unwrap();
        file.sync().unwrap();
        write(&file, 4096, &[2; 8192]).unwrap();
        let after = disk.power_loss(seed);
        assert!(write(&file, 0, b"x").is_err() && file.sync().is_err(), "the old disk is dead");
        assert_eq!(read(&after, 0, 4096), [1; 4096], "synced and not written since");
        assert_eq!(read(&after, 12288, 4096), [0; 4096], "never written");
        for (index, sector) in read(&after, 4096, 8192).chunks(SECTOR_BYTES).enumerate() {
            let old = if index < 8 { 1 } else { 0 };
            if sector.iter().all(|byte| *byte == 2) {
                kept += 1;
            } else if sector.iter().all(|byte| *byte == old) {
                lost += 1;
            } else {
                torn += 1;
            }
        }
    }
    assert!(kept > 100 && lost > 100 && torn > 100, "{kept} {lost} {torn}");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = SimulatedDisk::new(1 << 20, 7);
        let file = disk.create("f", 64 << 10).unwrap();
        write(&file, 100, &[3; 9000]).unwrap();
        read(&disk.power_loss(seed), 0, 64 << 10)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_dead_process_loses_nothing() {
    let disk = SimulatedDisk::new(1 << 20, 1);
    let file = disk.create("f", 8192).unwrap();
    write(&file, 0, &[5; 8192]).unwrap();
    let after = disk.process_death();
    assert_eq!(read(&after, 0, 8192), [5; 8192]);
    let lost = (0..20).any(|seed| read(&after.clone().power_loss(seed), 0, 8192) != [5; 8192]);
    assert!(lost, "it was not flushed either");
}

#[test]
fn what_a_failed_sync_gave_up_is_not_kept_by_the_next() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimulatedDisk::new(1 << 20, seed);
        let file = disk.create("f", 64 << 10).unwrap();
        write(&file, 0, &[1; 4096]).unwrap();
        disk.fail_nth_sync(1);
        assert!(file.sync().is_err());
        write(&file, 8192, &[2; 4096]).unwrap();
        file.sync().unwrap();
        let after = disk.power_loss(seed);
        lost += u32::from(read(&after, 0, 4096) != [1; 4096]);
        assert_eq!(read(&after, 8192, 4096), [2; 4096]);
    }
    assert!(lost > 40, "{lost}");
}

#[test]
fn faults_come_when_they_are_asked_for() {
    let disk = SimulatedDisk::new(16 << 10, 1);
    let file = disk.create("f", 8192).unwrap();
    assert_eq!(disk.create("g", 9000).err().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    assert_eq!(disk.free_bytes().unwrap(), 8192);
    disk.fail_nth_write(2);
    write(&file, 0, b"a").unwrap();
    write(&file, 0, b"a").unwrap_err();
    write(&file, 0, b"a").unwrap();
    disk.fail_every_sync(2);
    let results: Vec<bool> = (0..4).map(|_| file.sync().is_ok()).collect();
    assert_eq!(results, [true, false, true, false]);
    disk.stop_after(2);
    write(&file, 0, b"b").unwrap();
    write(&file, 0, b"c").unwrap_err();
    write(&file, 0, b"d").unwrap_err();
    assert!(disk.list().is_err());
    disk.flip("f", 1, 0x80);
    assert_eq!(read(&disk, 0, 2), [b'c', 0x80]);
    disk.cut("f", 1);
    assert_eq!(read(&disk, 0, 2), [b'c', 0]);
}

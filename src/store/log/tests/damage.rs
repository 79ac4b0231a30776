//! Damage on the disk: below a known durable mark it is reported and the rest is replayed; above it the log ends.

use super::*;

/// A log with `commits` commits of three records each (one of them small data, one larger, one name), and where each batch is.
async fn committed(disk: &SimulatedDisk, commits: u64) -> (Log, Vec<Appended>) {
    let log = open(disk, 8, Position::default()).log;
    let mut kept = Vec::new();
    for index in 0..commits {
        let batch = [data(1, index, bytes(index, 700)), name(&bytes(index, 90)), data(2, index, bytes(index, 40_000))];
        kept.push(log.append(Class::Write, &batch).unwrap());
        log.commit().await.unwrap();
    }
    (log, kept)
}

fn file(slot: u32) -> String {
    segment::file_name(slot)
}

#[tokio::test]
async fn a_flipped_byte_of_a_committed_header_is_reported_and_the_rest_is_replayed() {
    let disk = disk();
    let (log, kept) = committed(&disk, 10).await;
    let last = log.written();
    for (victim, batch) in kept.iter().enumerate().take(9) {
        for (record, at) in [(0, 0), (0, 50), (1, 30), (2, 97)] {
            let location = batch.records[record].1;
            let disk = disk.process_death();
            disk.flip(&file(location.slot), u64::from(location.offset_bytes + at), 0x10);
            let world = open(&disk, 8, Position::default());
            assert_eq!(world.recovered.damage.len(), 1, "{:?}", world.recovered.damage);
            let expected: Vec<u64> = kept
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != victim)
                .flat_map(|(_, b)| &b.records)
                .map(|r| r.0.0)
                .collect();
            assert_eq!(seqs(&world.found), expected, "batch {victim}, record {record}");
            assert_eq!(world.recovered.end, last);
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_of_the_newest_batch_ends_the_log_there() {
    let disk = disk();
    let (log, kept) = committed(&disk, 5).await;
    let newest = &kept[4];
    let places = newest.records.iter().flat_map(|(_, place)| [place.offset_bytes + 20, place.offset_bytes + 110]);
    for place in places {
        let disk = disk.process_death();
        disk.flip(&file(newest.records[0].1.slot), u64::from(place), 1);
        let world = open(&disk, 8, Position::default());
        assert!(world.recovered.damage.is_empty());
        assert_eq!(seqs(&world.found), (1..=12).collect::<Vec<_>>());
        assert_eq!(world.recovered.end, kept[3].end);
        assert!(world.log.last_seq() > log.last_seq(), "the numbers of what is lost are not given again");

        // What is behind the end stays dead, also when the byte comes back.
        world.log.append(Class::Write, &[name(b"after")]).unwrap();
        world.log.commit().await.unwrap();
        let disk = disk.process_death();
        disk.flip(&file(newest.records[0].1.slot), u64::from(place), 1);
        let world = open(&disk, 8, Position::default());
        assert!(world.recovered.damage.is_empty(), "{:?}", world.recovered.damage);
        assert_eq!(world.found.len(), 13);
        assert_eq!(&world.found[12].record.body[..], b"after");
    }
    // With a checkpoint that knows that it was durable, the log goes on behind it.
    let disk = disk.process_death();
    disk.flip(&file(newest.records[0].1.slot), u64::from(newest.records[0].1.offset_bytes), 1);
    let world = open(&disk, 8, newest.end);
    assert!(world.recovered.damage.is_empty(), "{:?}: covered", world.recovered.damage);
    let world = open(&disk, 8, kept[3].end);
    assert_eq!(world.found.len(), 0);
}

#[tokio::test]
async fn damaged_bodies_are_met_when_they_are_read_and_only_there() {
    let disk = disk();
    let (log, kept) = committed(&disk, 3).await;
    let location = kept[0].records[2].1;
    let body_at = u64::from(format::place(location.offset_bytes, 40_000).0);
    disk.flip(&file(location.slot), body_at + 9000, 4);
    let whole = bytes(0, 40_000);
    let mut buf = vec![0; 8192];
    log.read(location, 0, &mut buf).unwrap();
    assert_eq!(buf, whole[..8192]);
    log.read(location, 12288, &mut buf).unwrap();
    assert_eq!(buf, whole[12288..20480]);
    let error = log.read(location, 9500, &mut buf[..10]).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { slot, .. } if *slot == location.slot), "{error}");
    assert!(log.read(location, 0, &mut vec![0; 40_000]).is_err());

    let world = open(&disk.process_death(), 8, Position::default());
    assert_eq!((world.found.len(), world.recovered.damage.len()), (9, 0), "data is not read by a replay");
    // The body of a name is: its whole batch is dropped and reported.
    let name = kept[0].records[1].1;
    disk.flip(&file(name.slot), u64::from(format::place(name.offset_bytes, 90).0), 1);
    let world = open(&disk.process_death(), 8, Position::default());
    assert_eq!((world.found.len(), world.recovered.damage.len()), (6, 1));
}

#[tokio::test]
async fn a_head_is_read_from_the_disk_once() {
    let disk = disk();
    let (log, kept) = committed(&disk, 3).await;
    let location = kept[0].records[2].1;
    let whole = bytes(0, 40_000);
    let mut buf = vec![0; 4096];
    log.read(location, 32768, &mut buf).unwrap();
    disk.flip(&file(location.slot), u64::from(location.offset_bytes) + 9, 1);
    log.read(location, 24576, &mut buf).unwrap();
    assert_eq!(buf, whole[24576..28672], "a head that was verified is not asked for again");
    let error = log.read(location, 0, &mut buf).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { .. }), "what is read in one piece with its head is verified with it");
}

#[tokio::test]
async fn fetched_bodies_need_no_disk_for_a_moment() {
    let disk = disk();
    let (log, _) = committed(&disk, 1).await;
    let body = bytes(5, 300_000);
    let location = log.append_fetched(&Record { seq: Some(Seq(1)), ..data(9, 0, body.clone()) }).unwrap();
    assert_eq!(log.fetched(Location { life: location.life ^ 1, ..location }, 0..10), None, "another life's place");
    assert_eq!(log.fetched(location, 7..90_000).as_deref(), Some(&body[7..90_000]));
    assert_eq!(read(&log, location, body.len()).unwrap(), body);
}

#[tokio::test]
async fn the_log_cut_anywhere_keeps_what_is_before_the_cut() {
    let disk = disk();
    let (_, kept) = committed(&disk, 12).await;
    let slot = kept[0].records[0].1.slot;
    for cut in (8192..600_000).step_by(7919) {
        let disk = disk.process_death();
        disk.cut(&file(slot), cut);
        let world = open(&disk, 8, Position::default());
        let whole = kept.iter().take_while(|batch| u64::from(batch.end.offset()) <= cut).count();
        // A cut within the zeros that pad the last body changes nothing; one within a batch takes it.
        let found = world.found.len() / 3;
        assert!(found == whole || found == whole + 1, "cut {cut}: {found} of {whole}");
        world.log.append(Class::Write, &[name(b"x")]).unwrap();
    }
}

#[tokio::test]
async fn one_damaged_copy_of_a_segment_header_does_no_harm_two_are_reported() {
    let disk = disk();
    let (log, kept) = committed(&disk, 2).await;
    log.seal();
    log.append(Class::Write, &[name(b"next")]).unwrap();
    log.commit().await.unwrap();
    log.append(Class::Write, &[name(b"mark")]).unwrap();
    let slot = kept[0].records[0].1.slot;
    disk.flip(&file(slot), 20, 1);
    let world = open(&disk.process_death(), 8, Position::default());
    assert_eq!((world.found.len(), world.recovered.damage.len()), (8, 0));
    disk.flip(&file(slot), 4096 + 20, 1);
    // The first segment is gone, and the log does not reach back to the checkpoint.
    let error = try_open(&disk.process_death(), 8, Position::default()).err().unwrap();
    assert!(matches!(error, LogError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_segment_lost_in_the_middle_is_reported() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    let mut slots = Vec::new();
    for index in 0..3 {
        let appended = log.append(Class::Write, &[name(&[index])]).unwrap();
        slots.push(appended.records[0].1.slot);
        log.commit().await.unwrap();
        log.seal();
    }
    let disk = disk.process_death();
    disk.remove(&file(slots[1])).unwrap();
    let world = open(&disk, 8, Position::default());
    assert_eq!(world.found.iter().map(|f| f.record.body[0]).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(world.recovered.damage.len(), 1);
}

#[tokio::test]
async fn what_an_earlier_life_left_is_never_replayed() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    // Fill every file once with records that begin where those of the next life would.
    let mut checkpoint = Position::default();
    for round in 0..20 {
        for index in 0..6 {
            log.append(Class::Write, &[data(1, index, bytes(round, 100_000)), name(b"old")]).unwrap();
        }
        log.seal();
        checkpoint = log.commit().await.unwrap();
        for info in log.segments() {
            if info.sealed && info.end <= checkpoint {
                log.free(info.slot);
            }
        }
    }
    let appended = log.append(Class::Write, &[name(b"new")]).unwrap();
    log.commit().await.unwrap();
    let world = open(&disk.process_death(), 8, checkpoint);
    assert_eq!(world.found.len(), 1);
    assert_eq!(&world.found[0].record.body[..], b"new");
    assert_eq!(world.recovered.end, appended.end);
    assert!(world.recovered.damage.is_empty());
    let scanned = world.log.scan(appended.records[0].1.slot).unwrap();
    assert_eq!(scanned.len(), 1, "the rest of the file is of another life");
}

#[tokio::test]
async fn a_log_that_is_not_this_databases_is_refused_and_not_touched() {
    let mine = disk();
    let (log, kept) = committed(&mine, 2).await;
    let disk = mine.process_death();
    let before = disk.counts().operations;
    let refusal = |checkpoint| match try_open(&disk, 8, checkpoint) {
        Err(LogError::Refused(text)) => text,
        other => panic!("{:?}", other.err()),
    };
    assert!(refusal(Position::new(9, 8192)).contains("do not belong together"));
    drop(log);

    let mut header = vec![0; 8192];
    let slot = kept[0].records[0].1.slot;
    disk.peek(&file(slot), 0, &mut header);
    let mut newer = header.clone();
    newer[7] = 2;
    disk.poke(&file(slot), 0, &newer);
    assert!(refusal(Position::default()).contains("version 2"));
    disk.poke(&file(slot), 0, &header);

    let other = SimulatedDisk::new(1 << 30, 2);
    let (_, theirs) = committed(&other, 1).await;
    other.peek(&file(theirs[0].records[0].1.slot), 0, &mut header);
    let unused = disk.list().unwrap().into_iter().map(|(name, _)| name).find(|name| *name != file(slot)).unwrap();
    disk.poke(&unused, 0, &header);
    assert!(matches!(try_open(&disk, 8, Position::default()), Err(LogError::Refused(_))));
    assert_eq!(disk.counts().operations, before);
}

#[tokio::test]
async fn unreadable_blocks_below_the_mark_are_reported_and_the_rest_is_replayed() {
    let disk = disk();
    let (log, kept) = committed(&disk, 10).await;
    let last = log.written();
    for (victim, batch) in kept.iter().enumerate().take(9) {
        for record in 0..2 {
            let location = batch.records[record].1;
            let disk = disk.process_death();
            let at = u64::from(location.offset_bytes);
            disk.fail_reads(&file(location.slot), at..at + 1);
            let world = open(&disk, 8, Position::default());
            assert!(!world.recovered.damage.is_empty());
            let others = kept.iter().enumerate().filter(|(index, _)| *index != victim).flat_map(|(_, batch)| &batch.records);
            assert_eq!(seqs(&world.found), others.map(|record| record.0.0).collect::<Vec<_>>(), "batch {victim}");
            assert_eq!(world.recovered.end, last);
            // What shares a block with what cannot be read is lost with it, and nothing else.
            assert_eq!(world.log.scan(location.slot).unwrap().len(), 27);
            assert_eq!(read(&world.log, kept[9].records[2].1, 40_000).unwrap(), bytes(9, 40_000));
        }
    }
}

#[tokio::test]
async fn unreadable_blocks_above_the_mark_end_the_log_and_are_reported() {
    let disk = disk();
    let (_, kept) = committed(&disk, 5).await;
    let newest = kept[4].records[0].1;
    for at in [newest.offset_bytes, format::place(kept[4].records[2].1.offset_bytes, 40_000).0 + 8192] {
        let disk = disk.process_death();
        disk.fail_reads(&file(newest.slot), u64::from(at)..u64::from(at) + 1);
        let world = open(&disk, 8, Position::default());
        assert_eq!((world.found.len(), world.recovered.damage.len()), (12, 1), "{:?}", world.recovered.damage);
        assert_eq!(world.recovered.end, kept[3].end);
        world.log.append(Class::Write, &[name(b"after")]).unwrap();
        world.log.commit().await.unwrap();
        assert_eq!(open(&disk.process_death(), 8, Position::default()).found.len(), 13);
    }
}

#[tokio::test]
async fn one_unreadable_copy_of_a_segment_header_does_no_harm_a_dead_disk_refuses_the_start() {
    let disk = disk();
    let (_, kept) = committed(&disk, 5).await;
    let slot = kept[0].records[0].1.slot;
    let half = disk.process_death();
    half.fail_reads(&file(slot), 0..4096);
    let world = open(&half, 8, Position::default());
    assert_eq!((world.found.len(), world.recovered.damage.len()), (15, 0));
    drop(world);
    let dead = half.process_death();
    for from in [0, 8192] {
        let dead = dead.process_death();
        dead.fail_reads(&file(slot), from..1 << 20);
        let before = dead.counts().operations;
        assert!(matches!(try_open(&dead, 8, Position::default()), Err(LogError::Disk(_))));
        assert_eq!(dead.counts().operations, before, "nothing was changed");
    }
}

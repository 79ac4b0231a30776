//! A full log: reserves by class, the read head, segments that are freed and used again.

use super::*;
use crate::store::log::slots::Slots;

fn big(blob: u64) -> Record {
    data(blob, 0, vec![blob as u8; 300_000])
}

/// Appends until `Full`. Returns how many went in.
fn fill(log: &Log, class: Class) -> u64 {
    let mut count = 0;
    loop {
        match log.append(class, &[big(count)]) {
            Ok(_) => count += 1,
            Err(LogError::Full) => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_last_segments_are_for_names_and_for_moving() {
    let disk = disk();
    let log = open(&disk, 10, Position::default()).log;
    let usage = log.usage();
    assert_eq!((usage.segments, usage.segments_free), (10, 10));
    let written = fill(&log, Class::Write);
    assert_eq!(written, 7 * 3);
    assert_eq!((log.usage().segments_free, log.usage().writable_bytes / 300_000), (3, 0));
    // What still fits goes in.
    log.append(Class::Write, &[name(b"small")]).unwrap();
    assert_eq!(fill(&log, Class::Name), 3);
    assert!(matches!(log.append(Class::Write, &[name(b"small")]), Err(LogError::Full)), "names' room is not for writers");
    assert_eq!(log.usage().writable_bytes, 0);
    assert_eq!(fill(&log, Class::Move), 6);
    assert_eq!(log.usage().segments_free, 0);
    assert!(matches!(log.append(Class::Move, &[big(1)]), Err(LogError::Full)));
    let checkpoint = log.commit().await.unwrap();

    for (freed, info) in log.segments().into_iter().filter(|info| info.sealed).take(4).enumerate() {
        assert!(info.end < checkpoint);
        assert!(matches!(log.append(Class::Write, &[big(1)]), Err(LogError::Full)), "{freed} free");
        log.free(info.slot);
    }
    log.append(Class::Write, &[big(1)]).unwrap();
}

#[tokio::test]
async fn the_reserve_is_disk_space_and_not_a_promise() {
    let disk = SimulatedDisk::new(6 * MIB, 1);
    let log = open(&disk, 16, Position::default()).log;
    assert_eq!(disk.list().unwrap().len(), 3);
    assert_eq!(fill(&log, Class::Write), 3 * 3, "three of six files are reserved");
    assert_eq!(fill(&log, Class::Name), 3);
    assert_eq!(fill(&log, Class::Move), 2 * 3);
    disk.set_capacity(7 * MIB);
    assert_eq!(fill(&log, Class::Move), 3, "somebody made room on the disk");
}

/// Every segment is in use, and the first flush of a start fails: what it was for has to be written again, and there is no room for it.
#[tokio::test]
async fn a_start_that_has_no_room_uses_more_than_the_size_for_a_while() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    for class in [Class::Write, Class::Name, Class::Move] {
        while log.usage().segments_free > Slots::reserve(class) as u32 {
            log.append(class, &[big(1)]).unwrap();
            log.commit().await.unwrap();
            log.seal();
        }
    }
    drop(log);
    let disk = disk.process_death();
    let world = open(&disk, 8, Position::default());
    assert_eq!((world.found.len(), world.log.usage().segments_free), (8, 0));
    world.log.exceed_size(true);
    world.log.append(Class::Move, &[big(2)]).unwrap();
    world.log.exceed_size(false);
    world.log.seal();
    assert!(matches!(world.log.append(Class::Move, &[big(3)]), Err(LogError::Full)), "only while it starts");
    drop(world);

    let disk = disk.process_death();
    disk.fail_next_syncs(1);
    let world = open(&disk, 8, Position::default());
    assert_eq!(world.found.len(), 9);
    let checkpoint = world.log.commit().await.unwrap();
    assert!(matches!(world.log.append(Class::Write, &[big(3)]), Err(LogError::Full)));
    drop(world);
    let disk = disk.power_loss(7);
    let world = open(&disk, 8, Position::default());
    assert_eq!(world.found.len(), 9, "what was written again is durable");
    world.log.seal();
    for info in world.log.segments().into_iter().filter(|info| info.end < checkpoint) {
        world.log.free(info.slot);
    }
    for _ in 0..10 {
        world.log.append(Class::Write, &[big(3)]).unwrap();
    }
    assert_eq!(disk.list().unwrap().len(), 8, "the size holds again");
}

#[tokio::test]
async fn the_read_head_takes_no_more_than_its_share() {
    let disk = disk();
    let log = open(&disk, 16, Position::default()).log;
    let fetched = |index: u64| Record { seq: Some(Seq(index)), ..big(index) };
    let mut locations = Vec::new();
    let refused = loop {
        match log.append_fetched(&fetched(locations.len() as u64)) {
            Ok(location) => locations.push(location),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Full));
    assert_eq!(locations.len(), 12 * 3, "a quarter stays free");
    for (index, location) in locations.iter().enumerate() {
        assert_eq!(read(&log, *location, 300_000).unwrap(), big(index as u64).body);
    }
    assert_eq!(log.written(), Position::default(), "the write head does not know");
    let infos = log.segments();
    assert!(infos.iter().all(|info| info.read_head && info.end == Position::default()));
    let first = infos.iter().find(|info| info.slot == locations[0].slot).unwrap();
    assert_eq!(seqs(&log.scan(first.slot).unwrap()), [0, 1, 2]);

    // It may use again what was its own, but never the reserve.
    log.free(first.slot);
    log.append_fetched(&fetched(99)).unwrap();
    assert!(matches!(read(&log, locations[0], 10), Err(LogError::Corrupt { .. })), "an earlier life");
    assert_eq!(fill(&log, Class::Write), 3);
    let next = log.segments().into_iter().find(|info| info.slot == locations[3].slot).unwrap();
    log.free(next.slot);
    assert_eq!(fill(&log, Class::Write), 3, "writers take what the read head gave back");
    while log.append_fetched(&fetched(7)).is_ok() {}
    assert_eq!(log.usage().segments_free, 3);
}

#[tokio::test]
async fn segments_are_used_again_and_smaller_settings_take_effect() {
    let disk = disk();
    let log = open(&disk, 12, Position::default()).log;
    fill(&log, Class::Write);
    log.seal();
    let checkpoint = log.commit().await.unwrap();
    drop(log);
    let disk = disk.process_death();
    let world = open(&disk, 8, checkpoint);
    let log = world.log;
    assert!(world.found.is_empty());
    assert_eq!((log.usage().segments, log.usage().segments_free), (8, 3), "the reserve's files, nothing more");
    for info in log.segments() {
        log.free(info.slot);
    }
    log.append(Class::Write, &[name(b"x")]).unwrap();
    log.commit().await.unwrap();
    assert_eq!(log.usage().segments_free, 7);
    assert!(disk.list().unwrap().len() <= 8, "{:?}", disk.list());
}

#[tokio::test]
async fn what_the_database_does_not_name_is_free_after_a_start() {
    let disk = disk();
    let log = open(&disk, 10, Position::default()).log;
    fill(&log, Class::Write);
    log.seal();
    let checkpoint = log.commit().await.unwrap();
    let live: Vec<(u32, u32)> = log.segments().iter().take(2).map(|info| (info.slot, info.life)).collect();
    drop(log);
    let live = |slot, life| live.contains(&(slot, life));
    let known = Known { checkpoint, live: &live, ..Known::nothing() };
    let (log, _) = Log::open(Arc::new(disk.process_death()), settings(10), &known, &mut |_| {}).unwrap();
    // Two are named, and the one in which the checkpoint lies ties the log to it.
    assert_eq!((log.segments().len(), log.usage().segments_free), (3, 7));
    assert_eq!(fill(&log, Class::Write), 4 * 3);
}

#[tokio::test]
async fn the_log_of_another_database_is_refused_unchanged() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    log.append(Class::Write, &[big(1)]).unwrap();
    log.commit().await.unwrap();
    let id = log.id();
    drop(log);
    let disk = disk.process_death();
    let before = disk.counts();
    let known = Known { log: Some([7; 16]), ..Known::nothing() };
    let opened = Log::open(Arc::new(disk.clone()), settings(8), &known, &mut |_| panic!("nothing of it is replayed"));
    assert!(matches!(opened, Err(LogError::Foreign)));
    assert_eq!(disk.counts(), before);
    let known = Known { log: Some(id), ..Known::nothing() };
    assert_eq!(Log::open(Arc::new(disk), settings(8), &known, &mut |_| {}).unwrap().1.records, 1);
}

#[tokio::test]
async fn footers_name_the_blobs_of_a_sealed_segment() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    log.set_footer_names(Box::new(|blob| (blob.0 != 5).then(|| (OwnerId(9), format!("name of {blob}").into_bytes()))));
    let appended = log.append(Class::Write, &[data(4, 0, vec![1; 10]), data(5, 0, vec![2; 10])]).unwrap();
    log.seal();
    log.commit().await.unwrap();
    let footer = log.footer(appended.records[0].1.slot).unwrap();
    assert_eq!(footer, [(BlobId(4), OwnerId(9), b"name of 4".to_vec())]);
    let world = open(&disk.process_death(), 8, Position::default());
    assert_eq!(world.found.len(), 2, "a replay does not see it");
    assert_eq!(world.log.scan(appended.records[0].1.slot).unwrap().len(), 2);
    assert_eq!(world.log.footer(appended.records[0].1.slot).unwrap(), footer);

    // Salvage finds both without the database, and changes nothing.
    drop(world);
    let disk = disk.process_death();
    let operations = disk.counts().operations;
    let disk_of_log: Arc<dyn Disk> = Arc::new(disk.clone());
    let salvage = salvage::Salvage::open(&disk_of_log).unwrap();
    assert_eq!(salvage.names()[&BlobId(4)], (OwnerId(9), b"name of 4".to_vec()));
    let mut found = Vec::new();
    salvage.visit(&mut |record| found.push(record));
    assert_eq!(found.len(), 2);
    let mut buf = [0; 10];
    salvage.read(found[1].location, 0, &mut buf).unwrap();
    assert_eq!((buf, disk.counts().operations), ([2; 10], operations));
}

#[test]
fn what_cannot_fit_is_refused() {
    let log = open(&disk(), 8, Position::default()).log;
    let too_long = data(1, 0, vec![0; BODY_BYTES_MAX + 1]);
    assert!(matches!(log.append(Class::Write, &[too_long]), Err(LogError::Disk(_))));
    assert!(matches!(log.append(Class::Write, &[big(1), big(2), big(3), big(4)]), Err(LogError::Disk(_))));
    assert!(log.append(Class::Write, &[]).unwrap().records.is_empty());
    for bad in [Settings { size_bytes: 7 * MIB, segment_bytes: MIB }, Settings { size_bytes: 64 * MIB, segment_bytes: 3 * MIB }] {
        let opened = Log::open(Arc::new(disk()), bad, &Known::nothing(), &mut |_| {});
        assert!(matches!(opened, Err(LogError::Refused(_))));
    }
    assert_eq!(Settings::for_size(1 << 20).size_bytes, 32 * MIB);
}

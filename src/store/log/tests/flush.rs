//! Flushes that are shared, that fail, and that are asked for by nobody.

use super::*;

/// Appends `count` records of 3,000 bytes; `seed` makes their bytes.
fn append_some(log: &Log, seed: u64, count: u64) -> Vec<(Appended, Vec<u8>)> {
    let one = |index| {
        let body = bytes(seed * 1000 + index, 3000);
        (log.append(Class::Write, &[data(1, index, body.clone()), name(b"n")]).unwrap(), body)
    };
    (0..count).map(one).collect()
}

fn check(log: &Log, kept: &[(Appended, Vec<u8>)]) {
    for (appended, body) in kept {
        assert_eq!(read(log, appended.records[0].1, body.len()).unwrap(), *body);
    }
}

#[tokio::test]
async fn a_failed_flush_loses_nothing_and_tells_everybody() {
    for seed in 0..40 {
        let disk = SimulatedDisk::new(1 << 30, seed);
        let log = open(&disk, 16, Position::default()).log;
        let mut kept = append_some(&log, 1, 20);
        log.commit().await.unwrap();
        let (durable, verifier) = (log.durable(), log.verifier());
        kept.extend(append_some(&log, 2, 400));
        disk.fail_nth_sync(1 + seed % 2);
        let error = log.commit().await.unwrap_err();
        assert!(matches!(error, LogError::Flush(_)));
        assert_eq!(log.durable(), durable);
        assert_ne!(log.verifier(), verifier);
        check(&log, &kept);

        kept.extend(append_some(&log, 3, 20));
        if seed % 4 == 3 {
            disk.fail_next_syncs(2);
            log.commit().await.unwrap_err();
            log.commit().await.unwrap_err();
        }
        check(&log, &kept);
        log.commit().await.unwrap();
        assert_eq!(log.durable(), log.written());

        let world = open(&disk.power_loss(seed), 16, Position::default());
        assert!(world.recovered.damage.is_empty(), "{:?}", world.recovered.damage);
        assert_eq!(seqs(&world.found), (1..=2 * kept.len() as u64).collect::<Vec<_>>());
        for (found, (appended, body)) in world.found.iter().filter(|f| f.record.kind == Kind::Data).zip(&kept) {
            assert_eq!(found.seq, appended.records[0].0);
            assert_eq!(read(&world.log, found.location, body.len()).unwrap(), *body);
        }
    }
}

#[tokio::test]
async fn what_a_checkpoint_writes_down_after_a_failed_flush_is_good_after_a_power_loss() {
    let disk = disk();
    let log = open(&disk, 16, Position::default()).log;
    let kept = append_some(&log, 1, 30);
    disk.fail_nth_sync(1);
    log.commit().await.unwrap_err();
    log.commit().await.unwrap();
    let resolved: Vec<Location> = kept.iter().map(|(appended, _)| log.resolve(appended.records[0].1)).collect();
    assert!(kept.iter().zip(&resolved).all(|((appended, _), new)| appended.records[0].1 != *new));
    let world = open(&disk.power_loss(5), 16, log.durable());
    assert!(world.found.is_empty());
    for ((_, body), location) in kept.iter().zip(resolved) {
        assert_eq!(read(&world.log, location, body.len()).unwrap(), *body);
    }
}

#[tokio::test]
async fn a_retired_segment_is_reclaimed_like_any_other() {
    let disk = disk();
    let log = open(&disk, 16, Position::default()).log;
    let kept = append_some(&log, 1, 30);
    disk.fail_nth_sync(1);
    log.commit().await.unwrap_err();
    log.commit().await.unwrap();
    log.seal();
    let infos = log.segments();
    let retired = infos.iter().find(|info| info.retired).unwrap();
    let target = infos.iter().find(|info| !info.retired).unwrap();
    let scanned = log.scan(retired.slot).unwrap();
    assert_eq!(seqs(&scanned), (1..=60).collect::<Vec<_>>());
    assert!(scanned.iter().zip(kept.iter().flat_map(|(appended, _)| &appended.records)).all(|(a, b)| a.location == b.1));

    // What is asked for by its old place is not given away, whoever frees it.
    log.free(target.slot);
    check(&log, &kept);
    let moved: Vec<(Appended, Vec<u8>)> = scanned
        .iter()
        .filter(|found| found.record.kind == Kind::Data)
        .map(|found| {
            let body = read(&log, found.location, found.record.len as usize).unwrap();
            let record = Record { body: Bytes::from(body.clone()), ..found.record.clone() };
            (log.append(Class::Move, &[record]).unwrap(), body)
        })
        .collect();
    log.commit().await.unwrap();
    let free = log.usage().segments_free;
    log.free(retired.slot);
    log.commit().await.unwrap();
    log.free(target.slot);
    assert_eq!(log.usage().segments_free, free + 2);
    check(&log, &moved);
    assert!(matches!(read(&log, kept[0].0.records[0].1, 3000), Err(LogError::Corrupt { .. })));
}

#[tokio::test]
async fn with_no_segment_left_to_write_again_the_log_refuses_until_there_is_one() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    let first = append_some(&log, 1, 5);
    log.commit().await.unwrap();
    log.seal();
    let covered = log.segments();
    let kept = append_some(&log, 2, 5);
    disk.fail_every_sync(1);
    for _ in 0..12 {
        assert!(matches!(log.commit().await, Err(LogError::Flush(_))));
    }
    assert!(matches!(log.append(Class::Name, &[name(b"x")]), Err(LogError::Flush(_))));
    check(&log, &kept);
    check(&log, &first);
    disk.fail_every_sync(0);
    assert!(log.commit().await.is_err(), "still no room");
    log.free(covered[0].slot);
    // It ties the log to its checkpoint until there is a newer durable one, so that one is not given.
    assert!(log.commit().await.is_err());
    check(&log, &kept);
}

#[tokio::test]
async fn a_sync_that_fails_during_recovery_is_not_believed_either() {
    for seed in 0..5 {
        let disk = SimulatedDisk::new(1 << 30, seed);
        let log = open(&disk, 8, Position::default()).log;
        let kept = append_some(&log, 1, 20 + seed);
        drop(log);
        let disk = disk.process_death();
        disk.fail_nth_sync(1);
        let world = open(&disk, 8, Position::default());
        assert_eq!(world.found.len(), 2 * kept.len());
        check(&world.log, &kept);
        // What is appended next touches nothing of what was made durable.
        world.log.append(Class::Write, &[name(b"next")]).unwrap();
        for loss in 0..60 {
            let world = open(&disk.power_loss(loss), 8, Position::default());
            assert!(world.found.len() >= 2 * kept.len(), "seed {seed}, loss {loss}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committers_share_flushes_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(CountingDisk::new(dir.path()));
    let (log, _) = Log::open(disk.clone(), settings(8), &Known::nothing(), &mut |_| {}).unwrap();
    let log = Arc::new(log);
    let mut tasks = Vec::new();
    for task in 0..32u64 {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..10 {
                let appended = log.append(Class::Write, &[data(task, round, bytes(task, 500))]).unwrap();
                assert!(log.commit().await.unwrap() >= appended.end);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let syncs = disk.syncs.load(std::sync::atomic::Ordering::Relaxed);
    assert!(syncs <= 160, "{syncs} flushes for 320 commits");
    drop(log);

    let mut found = Vec::new();
    let disk = Arc::new(crate::base::disk::files::FilesDisk::new(dir.path()).unwrap());
    let (log, recovered) = Log::open(disk, settings(8), &Known::nothing(), &mut |f| found.push(f)).unwrap();
    assert_eq!((found.len(), recovered.damage.len()), (320, 0));
    for found in &found {
        assert_eq!(read(&log, found.location, 500).unwrap(), bytes(found.record.blob.0, 500));
    }
}

#[tokio::test]
async fn room_keeps_what_is_unflushed_bounded() {
    let disk = disk();
    let log = Log::open(
        Arc::new(disk.clone()),
        Settings { size_bytes: 512 * MIB, segment_bytes: 32 * MIB },
        &Known::nothing(),
        &mut |_| {},
    );
    let log = log.unwrap().0;
    for index in 0..80 {
        log.room().await.unwrap();
        assert!(log.usage().unflushed_bytes < UNFLUSHED_BYTES_MAX);
        log.append(Class::Write, &[data(1, index * MIB, vec![index as u8; 1 << 20])]).unwrap();
    }
    let syncs = disk.counts().syncs;
    assert!((3..=12).contains(&syncs), "{syncs}");
}

#[tokio::test]
async fn a_commit_with_nothing_new_asks_nothing_of_the_disk() {
    let disk = disk();
    let log = open(&disk, 8, Position::default()).log;
    append_some(&log, 1, 3);
    log.commit().await.unwrap();
    let before = disk.counts();
    log.commit().await.unwrap();
    assert_eq!(disk.counts(), before);
}

/// The read head is not flushed, and costs the write head nothing.
#[tokio::test]
async fn fetched_bytes_are_never_flushed() {
    let disk = disk();
    let log = open(&disk, 16, Position::default()).log;
    let record = Record { seq: Some(Seq(1)), ..data(4, 0, bytes(9, 9000)) };
    let location = log.append_fetched(&record).unwrap();
    log.commit().await.unwrap();
    assert_eq!(disk.counts().syncs, 0);
    assert_eq!(read(&log, location, 9000).unwrap(), record.body);
    append_some(&log, 1, 1);
    log.commit().await.unwrap();
    assert_eq!(disk.counts().syncs, 1);
    let mut lost = 0;
    for seed in 0..20 {
        let world = open(&disk.power_loss(seed), 16, Position::default());
        assert_eq!((world.found.len(), world.recovered.damage.len()), (2, 0));
        match read(&world.log, location, 9000) {
            Ok(body) => assert_eq!(body, record.body),
            Err(LogError::Corrupt { .. }) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(lost > 3, "{lost}");
}

/// [`FilesDisk`](crate::base::disk::files::FilesDisk) with its syncs counted.
struct CountingDisk {
    disk: crate::base::disk::files::FilesDisk,
    syncs: Arc<std::sync::atomic::AtomicU64>,
}

struct CountingFile {
    file: Arc<dyn crate::base::disk::DiskFile>,
    syncs: Arc<std::sync::atomic::AtomicU64>,
}

impl CountingDisk {
    fn new(dir: &std::path::Path) -> Self {
        let disk = crate::base::disk::files::FilesDisk::new(dir).unwrap();
        Self { disk, syncs: Arc::default() }
    }

    fn count(&self, file: Arc<dyn crate::base::disk::DiskFile>) -> Arc<dyn crate::base::disk::DiskFile> {
        Arc::new(CountingFile { file, syncs: self.syncs.clone() })
    }
}

impl Disk for CountingDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn create(&self, name: &str, len_bytes: u64) -> io::Result<Arc<dyn crate::base::disk::DiskFile>> {
        Ok(self.count(self.disk.create(name, len_bytes)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn crate::base::disk::DiskFile>> {
        Ok(self.count(self.disk.open(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn blocks(&self) -> bool {
        self.disk.blocks()
    }
}

impl crate::base::disk::DiskFile for CountingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.file.sync()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }
}

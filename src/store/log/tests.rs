//! The log against a list of records, through restarts, power losses, damage and failing flushes.

use bytes::Bytes;

use super::*;
use crate::base::disk::simulated::SimulatedDisk;

const MIB: u64 = 1 << 20;

fn settings(segments: u64) -> Settings {
    Settings { size_bytes: segments * MIB, segment_bytes: MIB }
}

fn disk() -> SimulatedDisk {
    SimulatedDisk::new(1 << 30, 1)
}

fn data(blob: u64, offset: u64, body: Vec<u8>) -> Record {
    Record {
        kind: Kind::Data,
        seq: None,
        owner: OwnerId(3),
        blob: BlobId(blob),
        offset,
        len: body.len() as u64,
        time_ns: 77,
        body: Bytes::from(body),
    }
}

fn name(body: &[u8]) -> Record {
    Record { kind: Kind::Name, len: 0, ..data(0, 0, body.to_vec()) }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut body = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut body);
    body
}

fn known(checkpoint: Position) -> Known<'static> {
    Known { checkpoint, ..Known::nothing() }
}

struct World {
    log: Log,
    recovered: Recovered,
    found: Vec<Scanned>,
}

fn try_open(disk: &SimulatedDisk, segments: u64, checkpoint: Position) -> Result<World, LogError> {
    let mut found = Vec::new();
    let (log, recovered) =
        Log::open(Arc::new(disk.clone()), settings(segments), &known(checkpoint), &mut |record| found.push(record))?;
    Ok(World { log, recovered, found })
}

fn open(disk: &SimulatedDisk, segments: u64, checkpoint: Position) -> World {
    try_open(disk, segments, checkpoint).unwrap()
}

fn seqs(found: &[Scanned]) -> Vec<u64> {
    found.iter().map(|found| found.seq.0).collect()
}

fn read(log: &Log, location: Location, len: usize) -> Result<Vec<u8>, LogError> {
    let mut buf = vec![0; len];
    log.read(location, 0, &mut buf)?;
    Ok(buf)
}

#[tokio::test]
async fn what_is_appended_is_read_and_replayed() {
    let disk = disk();
    let world = open(&disk, 8, Position::default());
    assert_eq!(world.recovered.end, Position::default());
    let (log, mut kept) = (world.log, Vec::new());
    for (index, len) in [0, 1, 100, 4095, 4096, 5000, 33_000, 70_001, 1 << 20, 10].into_iter().enumerate() {
        if len == 1 << 20 {
            continue;
        }
        let body = bytes(index as u64, len);
        let batch = [data(7, index as u64 * MIB, body.clone()), name(&body[..len.min(50)])];
        let appended = log.append(Class::Write, &batch).unwrap();
        kept.push((appended, body));
        if index % 3 == 0 {
            assert_eq!(log.commit().await.unwrap(), log.written());
        }
    }
    let check = |log: &Log| {
        for (appended, body) in &kept {
            let location = appended.records[0].1;
            assert_eq!(read(log, location, body.len()).unwrap(), *body);
            for (skip, len) in [(1, 10), (4000, 200), (4096, 100), (100, 9000), (65_000, 5001)] {
                let mut buf = vec![0; len];
                match body.get(skip..skip + len) {
                    Some(part) => {
                        log.read(location, skip as u32, &mut buf).unwrap();
                        assert_eq!(buf, part);
                    }
                    None => assert!(log.read(location, skip as u32, &mut buf).is_err()),
                }
            }
        }
    };
    check(&log);
    let end = log.written();
    drop(log);
    let world = open(&disk.process_death(), 8, Position::default());
    check(&world.log);
    assert_eq!((world.recovered.end, world.recovered.records), (end, 18));
    assert!(world.recovered.damage.is_empty());
    assert_eq!(seqs(&world.found), (1..=18).collect::<Vec<_>>());
    let names: Vec<&[u8]> = world.found.iter().filter(|f| f.record.kind == Kind::Name).map(|f| &f.record.body[..]).collect();
    let expected: Vec<&[u8]> = kept.iter().map(|(_, body)| &body[..body.len().min(50)]).collect();
    assert_eq!(names, expected);
    assert_eq!(world.log.last_seq(), Seq(18 + (1 << 20)));
}

mod damage;
mod flush;
mod full;
mod power;

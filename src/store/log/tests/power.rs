//! Power losses, dead processes, failing writes and flushes, in any order: what was committed is there, what was not is
//! there whole batch by whole batch as a prefix of the order, and no number is given twice.

use std::collections::HashSet;

use super::*;

/// A batch as the model remembers it.
struct Kept {
    records: Vec<(Seq, Location, Record)>,
    committed: bool,
}

struct Model {
    disk: SimulatedDisk,
    segments: u64,
    checkpoint: Position,
    seq_floor: Seq,
    log: Log,
    /// Batches that the checkpoint does not cover, in order.
    batches: Vec<Kept>,
    given: HashSet<u64>,
    random: fastrand::Rng,
}

impl Model {
    fn new(seed: u64, segments: u64) -> Self {
        let disk = SimulatedDisk::new(1 << 30, seed);
        let log = open(&disk, segments, Position::default()).log;
        let (batches, given) = (Vec::new(), HashSet::new());
        let random = fastrand::Rng::with_seed(seed);
        let (checkpoint, seq_floor) = (Position::default(), Seq(0));
        Self { disk, segments, checkpoint, seq_floor, log, batches, given, random }
    }

    fn batch(&mut self) -> Vec<Record> {
        let count = if self.random.u32(..4) == 0 { self.random.usize(2..6) } else { 1 };
        let record = |random: &mut fastrand::Rng| {
            let len = match random.u32(..12) {
                0 => random.usize(32 << 10..120 << 10),
                1..=4 => random.usize(..6000),
                _ => random.usize(..300),
            };
            let body = bytes(random.u64(..), len);
            if random.bool() { data(random.u64(1..9), random.u64(..MIB), body) } else { name(&body) }
        };
        (0..count).map(|_| record(&mut self.random)).collect()
    }

    fn append(&mut self) -> Result<(), LogError> {
        let batch = self.batch();
        let class = [Class::Write, Class::Name, Class::Move][self.random.usize(..3)];
        let before = self.log.last_seq();
        match self.log.append(class, &batch) {
            Ok(appended) => {
                let records = appended.records.iter().zip(batch);
                let records: Vec<_> = records.map(|((seq, location), record)| (*seq, *location, record)).collect();
                for (seq, ..) in &records {
                    assert!(self.given.insert(seq.0), "{seq} was given twice");
                }
                self.batches.push(Kept { records, committed: false });
                Ok(())
            }
            Err(error) => {
                // Where the power went during the write nobody has been told that it failed: it may be there.
                let numbered = self.log.last_seq().0 - before.0;
                if numbered > 0 && self.disk.list().is_err() {
                    let nowhere = Location { slot: 0, life: 0, offset_bytes: 0 };
                    let seqs = (before.0 + 1..).map(Seq);
                    let records = seqs.zip(batch).map(|(seq, record)| (seq, nowhere, record)).collect();
                    self.batches.push(Kept { records, committed: false });
                }
                Err(error)
            }
        }
    }

    async fn commit(&mut self) -> Result<(), LogError> {
        self.log.commit().await?;
        self.batches.iter_mut().for_each(|batch| batch.committed = true);
        Ok(())
    }

    /// Commits, lets the checkpoint cover everything, and frees what is before it.
    async fn checkpoint(&mut self) -> Result<(), LogError> {
        self.commit().await?;
        self.checkpoint = self.log.durable();
        self.seq_floor = self.log.last_seq();
        self.batches.clear();
        for info in self.log.segments() {
            if info.sealed && info.end <= self.checkpoint {
                self.log.free(info.slot);
            }
        }
        Ok(())
    }

    /// Every record that the checkpoint does not cover reads as it was written, wherever it is by now.
    fn check_reads(&self) {
        for (_, location, record) in self.batches.iter().flat_map(|batch| &batch.records) {
            if record.kind == Kind::Data {
                assert_eq!(read(&self.log, *location, record.body.len()).unwrap(), record.body);
            }
        }
    }

    fn reopen(&mut self, disk: SimulatedDisk, seed: u64) -> Result<(), LogError> {
        self.disk = disk;
        let mut found = Vec::new();
        let disk = Arc::new(self.disk.clone());
        let known = Known { checkpoint: self.checkpoint, seq_floor: self.seq_floor, ..Known::nothing() };
        let (log, recovered) = Log::open(disk, settings(self.segments), &known, &mut |f| found.push(f))?;
        // The power may have gone in a call whose failure the log could bear.
        self.disk.list()?;
        assert!(recovered.damage.is_empty(), "seed {seed}: {:?}", recovered.damage);
        self.log = log;
        self.seq_floor = self.log.last_seq();
        self.match_found(&found, seed);
        self.check_reads();
        Ok(())
    }

    /// The replay is a prefix of the batches with all that were committed.
    fn match_found(&mut self, found: &[Scanned], seed: u64) {
        let mut rest = found;
        let mut whole = 0;
        for batch in &mut self.batches {
            if rest.is_empty() {
                assert!(!batch.committed, "seed {seed}: a committed batch is missing");
                continue;
            }
            for (seq, location, record) in &mut batch.records {
                let Some((next, more)) = rest.split_first() else { panic!("seed {seed}: half a batch") };
                assert_eq!(next.seq, *seq, "seed {seed}");
                let body = if record.kind == Kind::Data { Bytes::new() } else { record.body.clone() };
                assert_eq!(next.record.body, body);
                assert_eq!((next.record.kind, next.record.blob, next.record.offset), (record.kind, record.blob, record.offset));
                *location = next.location;
                rest = more;
            }
            // Replayed is durable.
            batch.committed = true;
            whole += 1;
        }
        assert!(rest.is_empty(), "seed {seed}: records that nobody appended: {:?}", seqs(rest));
        self.batches.truncate(whole);
    }
}

async fn one_world(seed: u64) -> u32 {
    let mut model = Model::new(seed, 8 + seed % 3);
    let mut losses = 0;
    for _ in 0..model.random.u32(20..60) {
        if model.disk.list().is_err() {
            losses += model.lose_power(seed);
            continue;
        }
        match model.random.u32(..40) {
            0..=19 => {
                if let Err(LogError::Full) = model.append() {
                    model.checkpoint().await.unwrap_or(());
                }
            }
            20..=27 => model.commit().await.unwrap_or(()),
            28 => model.checkpoint().await.unwrap_or(()),
            29 => model.log.seal(),
            30 => model.disk.fail_nth_sync(model.random.u64(1..3)),
            31 => model.disk.fail_nth_write(model.random.u64(1..4)),
            32..=33 => {
                let disk = model.disk.process_death();
                model.reopen(disk, seed).unwrap();
            }
            34..=35 => model.disk.stop_after(model.random.u64(1..12)),
            36 => model.check_reads(),
            _ => {
                losses += model.lose_power(seed);
            }
        }
    }
    losses
}

impl Model {
    /// Loses power, sometimes again while the log is being recovered.
    fn lose_power(&mut self, seed: u64) -> u32 {
        let mut losses = 1;
        loop {
            let disk = self.disk.power_loss(self.random.u64(..));
            if self.random.u32(..4) == 0 {
                disk.stop_after(self.random.u64(1..4));
            }
            match self.reopen(disk, seed) {
                Ok(()) => return losses,
                Err(LogError::Disk(_) | LogError::Flush(_)) => losses += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn committed_records_survive_everything() {
    let worlds = std::env::var("TIDEGATE_LOG_WORLDS").ok().and_then(|worlds| worlds.parse().ok()).unwrap_or(300);
    let mut losses = 0;
    let first = std::env::var("TIDEGATE_LOG_FIRST").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + worlds {
        losses += one_world(seed).await;
    }
    assert!(losses > worlds as u32 * 2, "{losses}");
}

/// A fixed script with the power cut at each of its calls to the disk in turn.
#[tokio::test]
async fn the_power_may_go_at_every_call_to_the_disk() {
    for cut in 1.. {
        let mut finished = true;
        for seed in 0..8 {
            let mut model = Model::new(1000, 8);
            model.disk.stop_after(cut);
            finished = script(&mut model).await.is_ok();
            let disk = model.disk.power_loss(seed);
            model.reopen(disk, cut).unwrap();
            model.append().unwrap();
            model.commit().await.unwrap();
            let disk = model.disk.power_loss(seed);
            model.reopen(disk, cut).unwrap();
            assert!(model.batches.last().is_some_and(|batch| batch.committed));
        }
        if finished {
            assert!(cut > 45, "{cut}");
            return;
        }
    }
}

async fn script(model: &mut Model) -> Result<(), LogError> {
    for round in 0..12 {
        for _ in 0..3 {
            model.append()?;
        }
        model.commit().await?;
        if round % 4 == 3 {
            model.log.seal();
        }
        if round == 6 {
            model.checkpoint().await?;
        }
    }
    Ok(())
}

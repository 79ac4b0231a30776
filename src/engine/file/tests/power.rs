//! The share, its blobs and the log under power losses at any call to the disk, by seed, while a bucket takes what is uploaded.
//!
//! The log is so small that segments are reclaimed and bytes moved all the time. After a power loss the share is at one of the states between
//! the last commit and the loss; after the death of the process alone at the last. In the end the bucket is the tree.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::model::{Model, Seen, seen};
use super::random::Run;
use super::*;
use crate::base::disk::Disk;
use crate::base::seeds;
use crate::store::object::fault::{Action, Death, Rule};
use crate::store::object::layer::Kind;

/// Worlds of a quick and of a full run.
const QUICK: u64 = 60;
const FULL: u64 = 1_500;
/// Lives of one world: as many losses or deaths, and those while it recovers.
const LIVES: usize = 6;

/// Segments that were freed, and power losses, in all worlds.
static FREED: AtomicUsize = AtomicUsize::new(0);
static LOSSES: AtomicUsize = AtomicUsize::new(0);

/// What outlives a life.
struct Ground {
    disk: SimulatedDisk,
    database: Arc<MemoryDatabase>,
    bucket: Arc<MemoryStore>,
    clock: Arc<WorldClock>,
    settings: Settings,
    log: log::Settings,
}

impl Ground {
    fn new(random: &mut fastrand::Rng) -> Self {
        let delay = [Duration::from_millis(10), Duration::from_secs(2), Duration::from_secs(3600)][random.usize(..3)];
        Self {
            disk: SimulatedDisk::new(1 << 30, random.u64(..)),
            database: Arc::default(),
            bucket: Arc::default(),
            clock: Arc::default(),
            settings: Settings { upload_delay: delay, ..settings() },
            log: log::Settings { size_bytes: random.u64(9..17) << 20, segment_bytes: 1 << 20 },
        }
    }

    async fn start(&self) -> Result<World, String> {
        let Self { disk, database, bucket, clock, settings, log } = self;
        World::try_start(disk.clone(), database.clone(), bucket.clone(), clock.clone(), settings.clone(), log.clone()).await
    }

    /// The power goes.
    fn power_loss(&mut self, seed: u64) {
        LOSSES.fetch_add(1, Ordering::Relaxed);
        self.disk = self.disk.power_loss(seed);
        self.forget_database();
        self.database.power_loss(seed);
    }

    fn process_death(&mut self) {
        self.disk = self.disk.process_death();
        self.forget_database();
    }

    /// What is left of the dead process writes to a database that nobody sees.
    fn forget_database(&mut self) {
        self.database = Arc::new((*self.database).clone());
    }

    fn has_power(&self) -> bool {
        self.disk.list().is_ok()
    }
}

/// Answers of writes to the bucket are lost now and then.
fn weather(faults: &Faults) {
    for kind in [Kind::Put, Kind::Copy, Kind::Delete, Kind::DeleteMany] {
        faults.add(Rule::new(Action::LoseAnswer).on(kind).with_probability(0.1));
    }
}

/// One life: verbs, and the store's own business in between, until the power goes or it is enough.
///
/// # Errors
/// The power is gone.
async fn live(run: &mut Run) -> Result<(), String> {
    for _ in 0..run.random.usize(5..80) {
        let blobs = run.world.blobs.clone();
        match run.random.u8(..20) {
            0 | 5 => tokio::time::sleep(Duration::from_millis(run.random.u64(..4_000))).await,
            1 => {
                let commit = run.world.share.commit(&root(), run.world.share.root()).await;
                commit.map_err(|error| error.to_string())?;
                run.since_commit.drain(..run.since_commit.len() - 1);
            }
            2 => blobs.checkpoint().await.map_err(|error| error.to_string())?,
            3 => {
                // The segment that is written to becomes one that may be reclaimed.
                blobs.test_seal();
                let freed = blobs.test_reclaim().await.map_err(|error| error.to_string())?;
                FREED.fetch_add(freed, Ordering::Relaxed);
            }
            4 => blobs.evict_all(),
            _ => {
                let done = run.step().await;
                run.since_commit.push(run.model.seen());
                done.map_err(|error| error.to_string())?;
            }
        }
    }
    Ok(())
}

/// Starts, with the power going again meanwhile, some times. How often.
async fn lose_while_starting(ground: &mut Ground, random: &mut fastrand::Rng) -> u32 {
    let mut losses = 0;
    while random.u8(..3) == 0 {
        ground.disk.stop_after(random.u64(1..25));
        match ground.start().await {
            Ok(world) => world.faults.kill(Death::Refusing),
            Err(error) => assert!(!ground.has_power(), "{error}"),
        }
        ground.power_loss(random.u64(..));
        losses += 1;
    }
    losses
}

/// Asserts that what was found is one of the states that it may be; else tells how it differs from the nearest.
fn is_one_of(what: &str, found: &Seen, states: &[Seen]) {
    let differences = |state: &Seen| -> Vec<String> {
        let paths: BTreeSet<&String> = found.keys().chain(state.keys()).collect();
        let differ = paths.into_iter().filter(|path| found.get(*path) != state.get(*path));
        differ.map(|path| format!("{path:?}: found {:?}, was {:?}", found.get(path), state.get(path))).collect()
    };
    let nearest = states.iter().map(differences).min_by_key(Vec::len).unwrap();
    assert!(nearest.is_empty(), "{what}: of {} states the nearest differs: {nearest:#?}", states.len());
}

/// Every file is an object with its bytes, and nothing else is there.
fn agrees(tree: &Seen, bucket: &MemoryStore) {
    let files = tree.iter().filter(|(_, item)| matches!(item.kind, NodeKind::File | NodeKind::Symlink));
    let files: BTreeSet<&str> = files.map(|(path, _)| path.trim_start_matches('/')).collect();
    let keys = bucket.keys();
    let objects: BTreeSet<&str> =
        keys.iter().map(String::as_str).filter(|key| !key.ends_with('/') && !key.starts_with(".tidegate/")).collect();
    assert_eq!(files, objects);
    for (path, item) in tree {
        if let Some(object) = bucket.object(path.trim_start_matches('/')) {
            assert!(object.bytes == item.bytes, "the object of {path:?} has other bytes");
        }
    }
}

async fn world(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x00c0_ffee);
    let mut ground = Ground::new(&mut random);
    let mut run = Run::on(ground.start().await.unwrap(), seed, vec![root()]).await;
    weather(&run.world.faults);
    for life in 0..LIVES {
        if random.u8(..3) > 0 {
            ground.disk.stop_after(random.u64(1..150));
        }
        let lived = live(&mut run).await;
        // A task, or a verb that needed nothing of the disk, may have met the end of the power without a failure here.
        let has_power = ground.has_power();
        if let Err(error) = &lived {
            assert!(!has_power, "seed {seed} life {life}: {error}");
        }
        run.close_all();
        run.world.faults.kill(Death::Refusing);
        let is_death = has_power && random.u8(..5) == 0;
        if is_death {
            ground.process_death();
        } else {
            ground.power_loss(random.u64(..));
            if random.bool() {
                // Requests that were under way are given up before anybody starts.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        tracing::debug!(life, is_death, has_power, "the life ended");
        let losses = lose_while_starting(&mut ground, &mut random).await;
        if is_death && losses == 0 {
            // What was written is there, flushed or not.
            run.since_commit.drain(..run.since_commit.len() - 1);
        }
        run.world = ground.start().await.unwrap();
        weather(&run.world.faults);
        let found = seen(&run.world).await;
        is_one_of(&format!("seed {seed} life {life}"), &found, &run.since_commit);
        // Go on from what was found.
        run.model = Model::from_seen(&found);
        run.since_commit = vec![found];
    }
    run.world.faults.heal();
    assert!(run.world.share.drain(Some(Duration::from_secs(3600))).await, "seed {seed}: {:#?}", run.world.uploader.status());
    let found = seen(&run.world).await;
    is_one_of(&format!("seed {seed} at the end"), &found, &run.since_commit);
    agrees(&found, &ground.bucket);
}

#[test]
fn power_losses_at_any_moment_leave_a_state_at_or_after_the_last_commit() {
    seeds::worlds(QUICK, FULL, world);
    let (freed, losses) = (FREED.load(Ordering::Relaxed), LOSSES.load(Ordering::Relaxed));
    println!("{losses} power losses, {freed} segments freed");
    assert!(seeds::is_one() || freed > losses / 4, "reclaim had its part: {freed} segments in {losses} losses");
}

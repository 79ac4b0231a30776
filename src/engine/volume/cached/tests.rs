//! A cached volume on a simulated disk and a bucket in memory: against the model of a disk, over power losses, snapshots, other gateways.

mod clean;
mod collect;
mod power;
mod speed;
mod verbs;

use super::*;
use crate::base::clock::Clock;
use crate::base::disk::simulated::SimulatedDisk;
use crate::engine::volume::{BlockDevice, Stability};
use crate::store::blob::Portion;
use crate::store::log;
use crate::store::meta::{MemoryDatabase, Meta, Place};
use crate::store::object::fault::Faults;
use crate::store::object::layer::layered;
use crate::store::object::memory::MemoryStore;
use crate::store::object::meter::Meter;
use crate::store::upload;
use bytes::Bytes;
use tokio::time::Instant;

pub(super) const MIB: u64 = 1 << 20;

pub(super) struct WorldClock(Instant);

impl Clock for WorldClock {
    fn now_ns(&self) -> i64 {
        1_735_689_600_000_000_000 + i64::try_from(self.0.elapsed().as_nanos()).unwrap()
    }
}

/// What outlives a gateway, and the gateway.
pub(super) struct World {
    pub disk: SimulatedDisk,
    pub database: Arc<MemoryDatabase>,
    pub bucket: Arc<MemoryStore>,
    pub faults: Arc<Faults>,
    pub meter: Arc<Meter>,
    pub clock: Arc<WorldClock>,
    pub blobs: Arc<BlobStore>,
    pub home: Home,
}

impl World {
    pub async fn new() -> Self {
        Self::of("gw", Arc::default()).await
    }

    /// A new gateway of that id on a bucket.
    pub async fn of(gateway: &str, bucket: Arc<MemoryStore>) -> Self {
        let (disk, clock) = (SimulatedDisk::new(1 << 30, 1), Arc::new(WorldClock(Instant::now())));
        Self::start(gateway, disk, Arc::default(), bucket, clock).await.unwrap()
    }

    pub async fn start(
        gateway: &str,
        disk: SimulatedDisk,
        database: Arc<MemoryDatabase>,
        bucket: Arc<MemoryStore>,
        clock: Arc<WorldClock>,
    ) -> Result<Self, String> {
        let meta = Arc::new(Meta::open(Place::Memory(database.clone())).await.map_err(|error| error.to_string())?);
        let settings = blob::Settings {
            log: log::Settings { size_bytes: 64 << 20, segment_bytes: 1 << 20 },
            memory_bytes: 16 << 20,
            checkpoint_interval: Duration::from_secs(5),
            wait: Duration::from_secs(5),
        };
        let opened = BlobStore::open(Arc::new(disk.clone()), meta, clock.clone(), settings).await;
        let (blobs, report) = opened.map_err(|error| error.to_string())?;
        assert_eq!(report.damage, Vec::<String>::new());
        let (faults, meter) = (Arc::new(Faults::new(1)), Arc::new(Meter::new("test")));
        let home = Home {
            blobs: blobs.clone(),
            uploader: Uploader::start(blobs.clone(), upload::Settings::default()),
            bucket: layered(layered(bucket.clone(), faults.clone()), meter.clone()),
            endpoint: "s3".into(),
            bucket_name: "disks".into(),
            prefix: String::new(),
            gateway: gateway.into(),
            settings: Settings { batch_bytes: 2 << 20, checkpoint_segments: 6, ..Settings::default() },
            portion: Portion { guaranteed_bytes: 16 << 20, maximum_bytes: 32 << 20 },
        };
        Ok(Self { disk, database, bucket, faults, meter, clock, blobs, home })
    }

    /// The gateway after the power went, or after its process died.
    pub async fn again(self, seed: Option<u64>) -> Result<Self, String> {
        let disk = seed.map_or_else(|| self.disk.process_death(), |seed| self.disk.power_loss(seed));
        let database = Arc::new((*self.database).clone());
        if let Some(seed) = seed {
            database.power_loss(seed);
        }
        // What is left of the dead process reaches nobody.
        self.faults.kill(crate::store::object::fault::Death::Silent);
        Self::start(&self.home.gateway, disk, database, self.bucket, self.clock).await
    }

    pub async fn create(&self, name: &str, len_bytes: u64) -> Arc<CachedVolume> {
        self.home.create(&create(name, len_bytes)).await.unwrap()
    }

    pub async fn volume(&self) -> Arc<CachedVolume> {
        self.home.open_all().await.unwrap().0.remove(0)
    }
}

pub(super) fn create(name: &str, len_bytes: u64) -> Create {
    Create { name: name.into(), len_bytes: Some(len_bytes), block_bytes: 512, from: None }
}

/// All bytes of a volume.
pub(super) async fn content(volume: &CachedVolume) -> Vec<u8> {
    volume.read(0..volume.geometry().len_bytes()).await.unwrap().concat()
}

/// All bytes that S3 has of a volume, without its gateway.
pub(super) async fn content_in_s3(world: &World, id: VolumeId) -> Vec<u8> {
    let names = Names::new("");
    let manifest = world.bucket.object(&names.manifest(id)).unwrap();
    let manifest = crate::engine::volume::manifest::Manifest::decode(&manifest.bytes).unwrap();
    let len_bytes = manifest.state.len_bytes;
    let remote = Remote::new(world.bucket.clone(), names, id, manifest.state);
    remote.read(0..len_bytes).await.unwrap().to_vec()
}

pub(super) async fn write(volume: &CachedVolume, model: &mut [u8], offset: u64, bytes: &[u8]) {
    volume.write(offset, Bytes::copy_from_slice(bytes), Stability::Cached).await.unwrap();
    model[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
}

pub(super) async fn drain(volume: &CachedVolume) {
    assert!(volume.drain(Some(Duration::from_secs(36_000))).await, "not in S3");
}

/// Bytes that do not compress.
pub(super) fn noise(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

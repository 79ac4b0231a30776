//! Tests of the share's verbs in a simulated world: a disk and a database in memory whose power may fail, and a bucket in memory.

mod busy;
mod bytes;
mod limits;
mod locks;
mod model;
mod names;
mod owners;
mod power;
mod pressure;
mod random;
mod times;
mod together;
mod unrecorded;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ::bytes::Bytes;

use crate::base::clock::Clock;
use crate::base::disk::simulated::SimulatedDisk;
use crate::base::id::NodeId;
use crate::engine::file::share::{Settings, Share};
use crate::engine::file::start::{Parts, StartError};
use crate::engine::file::*;
use crate::store::blob::{self, BlobStore, Portion};
use crate::store::log;
use crate::store::meta::{MemoryDatabase, Meta, Place};
use crate::store::object::SharedStore;
use crate::store::object::fault::Faults;
use crate::store::object::layer::layered;
use crate::store::object::memory::MemoryStore;
use crate::store::upload::{self, Uploader};

/// 2025-01-01, nanoseconds since the Unix epoch.
pub(crate) const START_NS: i64 = 1_735_689_600_000_000_000;

/// Goes with tokio's time, and a microsecond further at each look, so that no two changes are at one time.
pub(crate) struct WorldClock {
    start: tokio::time::Instant,
    more_ns: AtomicI64,
}

impl Default for WorldClock {
    fn default() -> Self {
        Self { start: tokio::time::Instant::now(), more_ns: AtomicI64::new(START_NS) }
    }
}

impl WorldClock {
    pub(crate) fn advance(&self, by_ns: i64) {
        self.more_ns.fetch_add(by_ns, Ordering::Relaxed);
    }
}

impl Clock for WorldClock {
    fn now_ns(&self) -> i64 {
        let passed = i64::try_from(self.start.elapsed().as_nanos()).unwrap_or(i64::MAX);
        passed + self.more_ns.fetch_add(1_000, Ordering::Relaxed)
    }
}

/// One gateway with one share.
pub(crate) struct World {
    pub(crate) disk: SimulatedDisk,
    pub(crate) database: Arc<MemoryDatabase>,
    pub(crate) bucket: Arc<MemoryStore>,
    /// Between the share and its bucket.
    pub(crate) faults: Arc<Faults>,
    pub(crate) clock: Arc<WorldClock>,
    pub(crate) settings: Settings,
    pub(crate) blobs: Arc<BlobStore>,
    pub(crate) uploader: Arc<Uploader>,
    pub(crate) share: Arc<Share>,
}

pub(crate) fn settings() -> Settings {
    Settings { bucket: "demo".into(), ..Settings::default() }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(settings()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let clock = Arc::new(WorldClock::default());
        let disk = SimulatedDisk::new(256 << 20, 1);
        Self::start(disk, Arc::default(), Arc::new(MemoryStore::default()), clock, settings).await
    }

    pub(crate) async fn start(
        disk: SimulatedDisk,
        database: Arc<MemoryDatabase>,
        bucket: Arc<MemoryStore>,
        clock: Arc<WorldClock>,
        settings: Settings,
    ) -> Self {
        let log = log::Settings { size_bytes: 64 << 20, segment_bytes: 1 << 20 };
        Self::try_start(disk, database, bucket, clock, settings, log).await.unwrap()
    }

    /// As `start`, with a log of that size, on a disk that may fail.
    pub(crate) async fn try_start(
        disk: SimulatedDisk,
        database: Arc<MemoryDatabase>,
        bucket: Arc<MemoryStore>,
        clock: Arc<WorldClock>,
        settings: Settings,
        log: log::Settings,
    ) -> Result<Self, String> {
        let meta = Arc::new(Meta::open(Place::Memory(database.clone())).await.map_err(|error| error.to_string())?);
        let store = blob::Settings {
            log,
            memory_bytes: 16 << 20,
            checkpoint_interval: Duration::from_secs(5),
            wait: Duration::from_secs(5),
        };
        let opened = BlobStore::open(Arc::new(disk.clone()), meta, clock.clone(), store).await;
        let (blobs, report) = opened.map_err(|error| error.to_string())?;
        assert_eq!(report.damage, Vec::<String>::new());
        let uploader = Uploader::start(blobs.clone(), upload::Settings::default());
        let faults = Arc::new(Faults::new(1));
        let parts = Self::parts(&blobs, &uploader, layered(bucket.clone(), faults.clone()));
        let share = Share::open("demo", settings.clone(), parts).await.map_err(|error| error.to_string())?;
        Ok(Self { disk, database, bucket, faults, clock, settings, blobs, uploader, share })
    }

    fn parts(blobs: &Arc<BlobStore>, uploader: &Arc<Uploader>, bucket: SharedStore) -> Parts {
        Parts {
            blobs: blobs.clone(),
            uploader: uploader.clone(),
            bucket,
            gateway: "gw".into(),
            portion: Portion { guaranteed_bytes: 16 << 20, maximum_bytes: 32 << 20 },
        }
    }

    /// Another share on the same stores.
    pub(crate) async fn open(&self, name: &str, settings: Settings) -> Result<Arc<Share>, StartError> {
        Share::open(name, settings, Self::parts(&self.blobs, &self.uploader, self.bucket.clone())).await
    }

    /// The gateway after a power loss.
    pub(crate) async fn power_loss(self, seed: u64) -> Self {
        let disk = self.disk.power_loss(seed);
        let database = Arc::new((*self.database).clone());
        database.power_loss(seed);
        let Self { bucket, clock, settings, .. } = self;
        Self::start(disk, database, bucket, clock, settings).await
    }

    /// The gateway after its process died.
    pub(crate) async fn process_death(self) -> Self {
        let disk = self.disk.process_death();
        let database = Arc::new((*self.database).clone());
        let Self { bucket, clock, settings, .. } = self;
        Self::start(disk, database, bucket, clock, settings).await
    }

    /// The node at a path, for `who`.
    pub(crate) async fn walk(&self, who: &Caller, path: &str) -> Result<Attr, VfsError> {
        let mut attr = self.share.getattr(who, self.share.root()).await?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.share.lookup(who, attr.node, name.as_bytes()).await?;
        }
        Ok(attr)
    }

    /// A place for a name: the directory's node and the last part of the path.
    pub(crate) async fn place<'a>(&self, who: &Caller, path: &'a str) -> Result<(NodeId, &'a [u8]), VfsError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.walk(who, dir).await?.node, name.as_bytes()))
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<Attr, VfsError> {
        self.walk(&root(), path).await
    }

    pub(crate) async fn mkdir(&self, who: &Caller, path: &str, mode: u32) -> Result<Attr, VfsError> {
        let (dir, name) = self.place(who, path).await?;
        self.share.mkdir(who, dir, name, Create { mode }).await
    }

    /// Creates a file, as `open(O_CREAT | O_EXCL)` and `close`.
    pub(crate) async fn create(&self, who: &Caller, path: &str, mode: u32) -> Result<Attr, VfsError> {
        let how = OpenHow { write: true, create: Some(Create { mode }), exclusive: true, ..OpenHow::default() };
        let opened = self.open_file(who, path, &how).await?;
        self.share.close(opened.handle).await?;
        Ok(opened.attr)
    }

    pub(crate) async fn open_file(&self, who: &Caller, path: &str, how: &OpenHow) -> Result<Opened, VfsError> {
        let (dir, name) = self.place(who, path).await?;
        self.share.open(who, Target::Child(dir, name), how).await
    }

    /// Creates or replaces a file.
    pub(crate) async fn put(&self, path: &str, bytes: &[u8]) -> Result<Attr, VfsError> {
        let how = OpenHow { write: true, truncate: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() };
        let opened = self.open_file(&root(), path, &how).await?;
        let data = Bytes::copy_from_slice(bytes);
        let written = self.share.write(&root(), Io::Handle(opened.handle), 0, data).await;
        self.share.close(opened.handle).await?;
        written
    }

    pub(crate) async fn bytes(&self, path: &str) -> Result<Vec<u8>, VfsError> {
        let attr = self.stat(path).await?;
        Ok(self.share.read(&root(), Io::Node(attr.node), 0, u32::MAX).await?.concat())
    }

    pub(crate) async fn rename(&self, who: &Caller, from: &str, to: &str, how: Rename) -> Result<(), VfsError> {
        let (from, to) = (self.place(who, from).await?, self.place(who, to).await?);
        self.share.rename(who, from, to, how).await
    }

    pub(crate) async fn link(&self, who: &Caller, from: &str, to: &str) -> Result<Attr, VfsError> {
        let (node, to) = (self.walk(who, from).await?.node, self.place(who, to).await?);
        self.share.link(who, node, to.0, to.1).await
    }

    pub(crate) async fn symlink(&self, who: &Caller, path: &str, target: &str) -> Result<Attr, VfsError> {
        let (dir, name) = self.place(who, path).await?;
        self.share.symlink(who, dir, name, target.as_bytes()).await
    }

    pub(crate) async fn unlink(&self, who: &Caller, path: &str) -> Result<(), VfsError> {
        let (dir, name) = self.place(who, path).await?;
        self.share.remove(who, dir, name, Remove::File).await
    }

    pub(crate) async fn rmdir(&self, who: &Caller, path: &str) -> Result<(), VfsError> {
        let (dir, name) = self.place(who, path).await?;
        self.share.remove(who, dir, name, Remove::Directory).await
    }

    pub(crate) async fn chmod(&self, who: &Caller, path: &str, mode: u32) -> Result<Attr, VfsError> {
        self.set(who, path, SetAttr { mode: Some(mode), ..SetAttr::default() }).await
    }

    pub(crate) async fn chown(&self, who: &Caller, path: &str, uid: Option<u32>, gid: Option<u32>) -> Result<Attr, VfsError> {
        self.set(who, path, SetAttr { uid, gid, ..SetAttr::default() }).await
    }

    pub(crate) async fn set(&self, who: &Caller, path: &str, set: SetAttr) -> Result<Attr, VfsError> {
        let node = self.walk(who, path).await?.node;
        self.share.setattr(who, node, None, &set).await
    }

    /// Names in a directory, in the order of their cookies, without "." and "..".
    pub(crate) async fn list(&self, path: &str) -> Vec<String> {
        let dir = self.stat(path).await.unwrap().node;
        let mut names = Vec::new();
        let mut sink = |entry: DirEntry| {
            names.push(String::from_utf8(entry.name).unwrap());
            true
        };
        assert!(self.share.readdir(&root(), dir, 0, false, &mut sink).await.unwrap());
        names.split_off(2)
    }
}

pub(crate) fn root() -> Caller {
    Caller::root(Origin(1))
}

pub(crate) fn user(uid: u32, groups: &[u32]) -> Caller {
    let gid = groups.first().copied().unwrap_or(uid);
    Caller { uid, gid, groups: Arc::from(groups), pid: None, origin: Origin(1) }
}

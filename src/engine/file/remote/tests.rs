//! Tests of the bucket's side: a share on a simulated disk and a memory database, a bucket in memory whose requests are counted, fail and wait.

mod commits;
mod contract;
mod counts;
mod foreign;
mod model;
mod renames;
mod rescue;
mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::disk::simulated::SimulatedDisk;
use crate::base::id::NodeId;
use crate::engine::file::share::{Settings, Share};
use crate::engine::file::start::Parts;
use crate::engine::file::*;
use crate::store::blob::{self, BlobStore, Portion};
use crate::store::log;
use crate::store::meta::{MemoryDatabase, Meta, Place};
use crate::store::object::fault::Faults;
use crate::store::object::layer::{Kind, layered};
use crate::store::object::memory::MemoryStore;
use crate::store::object::meter::{Counts, Meter};
use crate::store::object::retry::{self, Retry};
use crate::store::object::{Attributes, ObjectStore, Precondition, SharedStore};
use crate::store::upload::{self, Uploader};

const START_NS: i64 = 1_735_689_600_000_000_000;

/// A clock that goes with the runtime's timers.
struct TimerClock {
    start: Instant,
    looks: AtomicI64,
}

impl TimerClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), looks: AtomicI64::new(0) })
    }
}

impl Clock for TimerClock {
    fn now_ns(&self) -> i64 {
        START_NS + self.start.elapsed().as_nanos() as i64 + self.looks.fetch_add(1, Ordering::Relaxed)
    }
}

/// What gateways come and go on.
struct World {
    store: Arc<MemoryStore>,
    faults: Arc<Faults>,
    meter: Arc<Meter>,
    bucket: SharedStore,
    clock: Arc<TimerClock>,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let clock = TimerClock::new();
        let store = MemoryStore::new(clock.clone(), MemoryStore::default().capabilities());
        Self::on(Arc::new(store), clock, settings)
    }

    fn on(store: Arc<MemoryStore>, clock: Arc<TimerClock>, settings: Settings) -> Self {
        let faults = Arc::new(Faults::new(1));
        let meter = Arc::new(Meter::new("test"));
        let retry = Retry::new(retry::Settings { deadline: Duration::from_secs(10), ..retry::Settings::default() });
        let bucket = layered(layered(layered(store.clone(), faults.clone()), meter.clone()), Arc::new(retry));
        let settings = Settings { bucket: "demo".into(), ..settings };
        Self { store, faults, meter, bucket, clock, settings }
    }

    /// A gateway that knows nothing.
    async fn gateway(&self, name: &str) -> Gateway {
        self.gateway_on(name, SimulatedDisk::new(512 << 20, 1), Arc::default()).await
    }

    async fn gateway_on(&self, name: &str, disk: SimulatedDisk, database: Arc<MemoryDatabase>) -> Gateway {
        let meta = Arc::new(Meta::open(Place::Memory(database.clone())).await.unwrap());
        let settings = blob::Settings {
            log: log::Settings { size_bytes: 128 << 20, segment_bytes: 1 << 20 },
            memory_bytes: 16 << 20,
            checkpoint_interval: Duration::from_secs(5),
            wait: Duration::from_secs(5),
        };
        let (blobs, _) = BlobStore::open(Arc::new(disk.clone()), meta, self.clock.clone(), settings).await.unwrap();
        let uploader = Uploader::start(blobs.clone(), upload::Settings::default());
        let parts = Parts {
            blobs: blobs.clone(),
            uploader: uploader.clone(),
            bucket: self.bucket.clone(),
            gateway: name.into(),
            portion: Portion { guaranteed_bytes: 16 << 20, maximum_bytes: 64 << 20 },
        };
        let share = Share::open("demo", self.settings.clone(), parts).await.unwrap();
        Gateway { share, blobs, uploader, disk, database, who: Caller::root(Origin(1)) }
    }

    /// Somebody else writes an object.
    async fn put(&self, key: &str, body: &str, metadata: &[(&str, &str)]) {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let attributes = Attributes { metadata, ..Attributes::default() };
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.store.put(key, body.into(), &attributes, &Precondition::None).await.unwrap();
    }

    /// As `put`, with the metadata that the object has: a script that changes the bytes alone.
    async fn put_alike(&self, key: &str, body: &str) {
        let attributes = self.store.object(key).unwrap().head.attributes.clone();
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.store.put(key, body.into(), &attributes, &Precondition::None).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        self.store.delete(key, None).await.unwrap();
    }

    fn body(&self, key: &str) -> Option<String> {
        self.store.object(key).map(|object| String::from_utf8_lossy(&object.bytes).into_owned())
    }

    /// The keys without the gateway's own.
    fn keys(&self) -> Vec<String> {
        self.store.keys().into_iter().filter(|key| !key.contains(".tidegate/")).collect()
    }

    fn hidden_keys(&self) -> Vec<String> {
        self.store.keys().into_iter().filter(|key| key.contains(".tidegate/")).collect()
    }

    fn metadata(&self, key: &str, name: &str) -> Option<String> {
        self.store.object(key)?.head.attributes.metadata.get(name).cloned()
    }

    fn counts(&self) -> Counts {
        self.meter.counts()
    }

    /// The listing of a directory is old from now on.
    async fn let_listings_age(&self) {
        tokio::time::advance(self.settings.refresh + Duration::from_secs(1)).await;
    }
}

/// A gateway with one share.
struct Gateway {
    share: Arc<Share>,
    blobs: Arc<BlobStore>,
    uploader: Arc<Uploader>,
    disk: SimulatedDisk,
    database: Arc<MemoryDatabase>,
    who: Caller,
}

impl Gateway {
    async fn walk(&self, path: &str) -> Result<Attr, VfsError> {
        let mut attr = self.share.getattr(&self.who, self.share.root()).await?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.share.lookup(&self.who, attr.node, name.as_bytes()).await?;
        }
        Ok(attr)
    }

    async fn place<'a>(&self, path: &'a str) -> Result<(NodeId, &'a [u8]), VfsError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.walk(dir).await?.node, name.as_bytes()))
    }

    async fn mkdir(&self, path: &str) -> Result<Attr, VfsError> {
        let (dir, name) = self.place(path).await?;
        self.share.mkdir(&self.who, dir, name, Create { mode: 0o755 }).await
    }

    async fn open(&self, path: &str, how: OpenHow) -> Result<Opened, VfsError> {
        let (dir, name) = self.place(path).await?;
        self.share.open(&self.who, Target::Child(dir, name), &how).await
    }

    async fn open_to_write(&self, path: &str) -> Result<Opened, VfsError> {
        self.open(path, OpenHow { read: true, write: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() }).await
    }

    /// Creates or replaces a file.
    async fn write(&self, path: &str, body: &str) -> Result<(), VfsError> {
        let how = OpenHow { write: true, truncate: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() };
        let opened = self.open(path, how).await?;
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.share.write(&self.who, Io::Handle(opened.handle), 0, body).await?;
        Vfs::close(&*self.share, opened.handle).await
    }

    async fn read(&self, path: &str) -> Result<String, VfsError> {
        let opened = self.open(path, OpenHow { read: true, ..OpenHow::default() }).await?;
        let slices = self.share.read(&self.who, Io::Handle(opened.handle), 0, 1 << 20).await;
        Vfs::close(&*self.share, opened.handle).await?;
        Ok(String::from_utf8_lossy(&slices?.concat()).into_owned())
    }

    /// Writes through a handle.
    async fn put_at(&self, opened: &Opened, offset: usize, body: &'static [u8]) {
        let io = Io::Handle(opened.handle);
        self.share.write(&self.who, io, offset as u64, Bytes::from_static(body)).await.unwrap();
    }

    /// What is clean of a file is in the bucket alone from now on.
    async fn evict(&self, path: &str) {
        let node = self.walk(path).await.unwrap().node;
        let blob = self.share.node(node).await.unwrap().blob;
        if blob.0 != 0 {
            self.blobs.evict(blob).await.unwrap();
        }
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), VfsError> {
        self.rename_how(from, to, Rename::Replace).await
    }

    async fn rename_how(&self, from: &str, to: &str, how: Rename) -> Result<(), VfsError> {
        let (from, to) = (self.place(from).await?, self.place(to).await?);
        self.share.rename(&self.who, from, to, how).await
    }

    async fn remove(&self, path: &str) -> Result<(), VfsError> {
        let (dir, name) = self.place(path).await?;
        self.share.remove(&self.who, dir, name, Remove::File).await
    }

    async fn rmdir(&self, path: &str) -> Result<(), VfsError> {
        let (dir, name) = self.place(path).await?;
        self.share.remove(&self.who, dir, name, Remove::Directory).await
    }

    async fn link(&self, path: &str, new: &str) -> Result<(), VfsError> {
        let node = self.walk(path).await?.node;
        let (dir, name) = self.place(new).await?;
        self.share.link(&self.who, node, dir, name).await.map(|_| ())
    }

    async fn chmod(&self, path: &str, mode: u32) -> Result<(), VfsError> {
        let node = self.walk(path).await?.node;
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.share.setattr(&self.who, node, None, &set).await.map(|_| ())
    }

    async fn names(&self, path: &str) -> Result<Vec<(String, NodeKind)>, VfsError> {
        let dir = self.walk(path).await?.node;
        let mut names = Vec::new();
        let mut sink = |entry: DirEntry| {
            names.push((String::from_utf8_lossy(&entry.name).into_owned(), entry.kind));
            true
        };
        self.share.readdir(&self.who, dir, 0, false, &mut sink).await?;
        names.retain(|(name, _)| name != "." && name != "..");
        names.sort_by(|a: &(String, NodeKind), b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// Everything that was changed is in the bucket.
    async fn drain(&self) {
        if !self.share.drain(Some(Duration::from_secs(3600))).await {
            panic!("not drained: {:#?}", self.uploader.status());
        }
    }

    /// Every path but the root's with a line that says what it is, in order.
    async fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(dir) = todo.pop() {
            for (name, _) in self.names(&dir).await.unwrap() {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let attr = self.walk(&path).await.unwrap();
                let content = match attr.kind {
                    NodeKind::Directory => {
                        todo.push(path.clone());
                        String::new()
                    }
                    NodeKind::File => self.read(&path).await.unwrap(),
                    NodeKind::Symlink => String::from_utf8(self.share.readlink(&self.who, attr.node).await.unwrap()).unwrap(),
                    _ => format!("{:x}", attr.rdev),
                };
                let mtime = if attr.kind == NodeKind::Directory { 0 } else { attr.mtime_ns };
                let nlink = if attr.kind == NodeKind::Directory { 0 } else { attr.nlink };
                let what = format!("{:?} {:o} {}:{} {mtime} x{nlink} {content:?}", attr.kind, attr.mode, attr.uid, attr.gid);
                tree.insert(path, what);
            }
        }
        tree
    }

    /// Ends it after its disk was taken away: what it still does reaches nobody.
    async fn die(self) {
        self.share.stop().await;
        self.uploader.close(Duration::ZERO).await;
        let _ = self.blobs.close().await;
    }

    async fn stop(self) {
        self.share.stop().await;
        self.uploader.close(Duration::ZERO).await;
        self.blobs.close().await.unwrap();
    }
}

/// Asserts that these requests were sent, and no others.
#[track_caller]
fn sent(counts: &Counts, expected: &[(Kind, u64)]) {
    for kind in Kind::ALL {
        let wanted = expected.iter().find(|(of, _)| *of == kind).map_or(0, |(_, count)| *count);
        assert_eq!(counts.of(kind), wanted, "{}: {counts:?}", kind.name());
    }
}

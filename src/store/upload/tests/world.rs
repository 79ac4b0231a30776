//! A small world for the upload engine: a gateway on a simulated disk, a bucket in memory with faults, and a planner whose owner is a map
//! from subjects to the key, mode and blob that each should have.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::disk::simulated::SimulatedDisk;
use crate::base::id::{BlobId, NodeId, OwnerId};
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{self, Batch, BlobChange, BlobError, BlobStore, FetchError, Layout, Patience, Portion};
use crate::store::log;
use crate::store::meta::{JobRow, Key, MemoryDatabase, Meta, ObjectRow, Place, Row};
use crate::store::object::fault::Faults;
use crate::store::object::layer::{Kind, layered};
use crate::store::object::memory::MemoryStore;
use crate::store::object::meter::Meter;
use crate::store::object::{Attributes, Capabilities, CopySource, ETag, Head, ObjectError, SharedStore};
use crate::store::upload::{Done, Expected, Op, Plan, Planner, Settings, Uploader};

pub const OWNER: OwnerId = OwnerId(7);

/// The wall clock of a world whose time is tokio's.
pub struct TestClock(Instant);

impl Clock for TestClock {
    fn now_ns(&self) -> i64 {
        1_735_689_600_000_000_000 + i64::try_from(self.0.elapsed().as_nanos()).unwrap()
    }
}

/// What a subject should be in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub key: Option<String>,
    pub mode: u64,
    pub blob: BlobId,
    pub content: Vec<u8>,
}

pub type Wants = Arc<Mutex<BTreeMap<u64, Want>>>;

/// What outlives a gateway.
pub struct World {
    pub disk: SimulatedDisk,
    database: Arc<MemoryDatabase>,
    pub clock: Arc<TestClock>,
    pub store: Arc<MemoryStore>,
    pub faults: Arc<Faults>,
    pub meter: Arc<Meter>,
    pub bucket: SharedStore,
    pub wants: Wants,
    pub settings: Settings,
}

/// A gateway's life.
pub struct Gateway {
    pub blobs: Arc<BlobStore>,
    pub uploader: Arc<Uploader>,
    pub model: Arc<Model>,
    clock: Arc<TestClock>,
    wants: Wants,
}

/// AWS with parts from 1 KiB on, so that small objects are large ones.
pub fn small_parts(versioned: bool) -> Capabilities {
    Capabilities { versioned, part_bytes_min: 1024, ..Capabilities::AWS }
}

pub fn small_settings() -> Settings {
    Settings { multipart_threshold_bytes: 16 << 10, part_bytes: 4 << 10, ..Settings::default() }
}

impl World {
    pub fn new(capabilities: Capabilities, settings: Settings) -> Self {
        let clock = Arc::new(TestClock(Instant::now()));
        let store = Arc::new(MemoryStore::new(clock.clone(), capabilities));
        let (faults, meter) = (Arc::new(Faults::new(1)), Arc::new(Meter::new("test")));
        let bucket = layered(layered(store.clone(), faults.clone()), meter.clone());
        Self {
            disk: SimulatedDisk::new(1 << 30, 1),
            database: Arc::default(),
            clock,
            store,
            faults,
            meter,
            bucket,
            wants: Wants::default(),
            settings,
        }
    }

    pub async fn open(&self) -> Gateway {
        let meta = Arc::new(Meta::open(Place::Memory(self.database.clone())).await.unwrap());
        let settings = blob::Settings {
            log: log::Settings { size_bytes: 256 << 20, segment_bytes: 4 << 20 },
            memory_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(30),
            wait: Duration::from_secs(10),
        };
        let (blobs, report) = BlobStore::open(Arc::new(self.disk.clone()), meta, self.clock.clone(), settings).await.unwrap();
        assert_eq!(report.damage, Vec::<String>::new());
        let portion = Portion { guaranteed_bytes: 1 << 20, maximum_bytes: 200 << 20 };
        blobs.register(OWNER, Arc::new(Whole(self.bucket.clone())), portion);
        let uploader = Uploader::start(blobs.clone(), self.settings.clone());
        let model = Arc::new(Model::new(OWNER, blobs.clone(), self.wants.clone()));
        uploader.register(OWNER, "gw", self.bucket.clone(), model.clone()).await.unwrap();
        Gateway { blobs, uploader, model, clock: self.clock.clone(), wants: self.wants.clone() }
    }

    /// The process dies; what it had in flight is gone.
    pub async fn crash(&mut self, gateway: Gateway) {
        let loops: Vec<_> = gateway.uploader.loops.lock().drain().collect();
        for (_, running) in loops {
            running.abort();
            let _ = running.await;
        }
        self.disk = self.disk.process_death();
    }

    pub fn requests(&self, kind: Kind) -> u64 {
        self.meter.counts().of(kind)
    }

    /// Keys and bytes as they are in the bucket.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.store.keys().into_iter().map(|key| (key.clone(), self.store.object(&key).unwrap().bytes.to_vec())).collect()
    }

    /// Keys and bytes as they should be.
    pub fn wanted(&self) -> BTreeMap<String, Vec<u8>> {
        self.wants.lock().values().filter_map(|want| Some((want.key.clone()?, want.content.clone()))).collect()
    }
}

impl Gateway {
    pub async fn create(&self, subject: u64, key: &str, content: &[u8]) {
        let blob = self.blobs.new_blob_id().await.unwrap();
        let want = Want { key: Some(key.into()), mode: 0o644, blob, content: Vec::new() };
        let mut batch = Batch::new();
        batch.blob(BlobChange::Create { id: blob, owner: OWNER, len_bytes: 0, source: Bytes::new() });
        self.blobs.apply(OWNER, batch).await.unwrap();
        self.wants.lock().insert(subject, want);
        self.write(subject, 0, content).await;
    }

    /// A new file of another owner.
    pub async fn create_for(&self, owner: OwnerId, wants: &Wants, subject: u64, key: &str, content: &[u8]) {
        let blob = self.blobs.new_blob_id().await.unwrap();
        let mut batch = Batch::new();
        batch.blob(BlobChange::Create { id: blob, owner, len_bytes: 0, source: Bytes::new() });
        batch.job(subject, JobChange::Ask { not_before_ns: self.clock.now_ns() });
        self.blobs.apply(owner, batch).await.unwrap();
        wants.lock().insert(subject, Want { key: Some(key.into()), mode: 0o644, blob, content: content.to_vec() });
        self.blobs.write(blob, 0, Bytes::copy_from_slice(content), Patience::Default).await.unwrap();
        self.uploader.wake(owner, subject, 0);
    }

    pub async fn write(&self, subject: u64, offset: usize, content: &[u8]) {
        let blob = {
            let mut wants = self.wants.lock();
            let want = wants.get_mut(&subject).unwrap();
            let end = offset + content.len();
            if want.content.len() < end {
                want.content.resize(end, 0);
            }
            want.content[offset..end].copy_from_slice(content);
            want.blob
        };
        self.blobs.write(blob, offset as u64, Bytes::copy_from_slice(content), Patience::Default).await.unwrap();
        self.touch(subject, Duration::ZERO).await;
    }

    pub async fn change(&self, subject: u64, change: impl FnOnce(&mut Want)) {
        change(self.wants.lock().get_mut(&subject).unwrap());
        self.touch(subject, Duration::ZERO).await;
    }

    /// A new symlink, say: bytes that the planner keeps.
    pub async fn link(&self, subject: u64, key: &str, target: &str) {
        let want = Want { key: Some(key.into()), mode: 0o777, blob: BlobId(0), content: target.into() };
        self.wants.lock().insert(subject, want);
        self.touch(subject, Duration::ZERO).await;
    }

    pub async fn rename(&self, subject: u64, key: &str) {
        self.change(subject, |want| want.key = Some(key.into())).await;
    }

    pub async fn remove(&self, subject: u64) {
        self.change(subject, |want| want.key = None).await;
    }

    /// Puts the job's row and wakes the uploader.
    pub async fn touch(&self, subject: u64, delay: Duration) {
        let now_ns = self.clock.now_ns();
        let not_before_ns = now_ns + i64::try_from(delay.as_nanos()).unwrap();
        let mut batch = Batch::new();
        batch.job(subject, JobChange::Ask { not_before_ns });
        self.blobs.apply(OWNER, batch).await.unwrap();
        self.uploader.wake(OWNER, subject, not_before_ns);
    }

    pub async fn drain(&self) {
        let drained = self.uploader.drain(OWNER, Some(Duration::from_secs(3600)), &|_| false).await;
        assert!(drained, "still there: {:?}", self.uploader.status());
    }

    pub async fn jobs(&self) -> Vec<JobRow> {
        self.blobs.meta().jobs(OWNER).await.unwrap()
    }
}

/// Objects at their own keys; a blob's source is key and ETag.
pub struct Whole(pub SharedStore);

pub fn source_of(key: &str, etag: &str) -> Bytes {
    Bytes::from(format!("{key}\0{etag}"))
}

#[async_trait]
impl Layout for Whole {
    async fn fetch(&self, _: BlobId, source: &[u8], range: Range<u64>) -> Result<Bytes, FetchError> {
        let source = String::from_utf8(source.to_vec()).unwrap();
        let (key, etag) = source.split_once('\0').unwrap();
        match self.0.get(key, Some(range), Some(&ETag(etag.into()))).await {
            Ok((_, bytes)) => Ok(bytes),
            Err(ObjectError::NotFound | ObjectError::PreconditionFailed) => Err(FetchError::Changed),
            Err(error) => Err(error.into()),
        }
    }
}

/// The planner: its state is what is wanted, and the object rows.
pub struct Model {
    owner: OwnerId,
    blobs: Arc<BlobStore>,
    wants: Wants,
    /// Operations that ended, in order.
    pub ended: Mutex<Vec<(u64, String)>>,
    pub conflicts: Mutex<Vec<(u64, Option<Box<Head>>)>>,
    /// `done` does not return any more: the gateway is about to die.
    pub hold: AtomicBool,
    /// So many calls of `done` fail.
    pub fail_done: AtomicU32,
    /// So many calls of `plan` panic.
    pub panic_plan: AtomicU32,
}

impl Model {
    pub fn new(owner: OwnerId, blobs: Arc<BlobStore>, wants: Wants) -> Self {
        Self {
            owner,
            blobs,
            wants,
            ended: Mutex::default(),
            conflicts: Mutex::default(),
            hold: AtomicBool::default(),
            fail_done: AtomicU32::default(),
            panic_plan: AtomicU32::default(),
        }
    }

    fn attributes(want: &Want) -> Attributes {
        let metadata = BTreeMap::from([("file-permissions".to_owned(), format!("{:o}", want.mode))]);
        Attributes { metadata, ..Attributes::default() }
    }
}

fn pinned(row: &ObjectRow) -> CopySource {
    CopySource { key: row.key.clone(), etag: Some(ETag(row.etag.clone())), version: None }
}

#[async_trait]
impl Planner for Model {
    async fn plan(&self, subject: u64) -> Result<Plan, BlobError> {
        assert!(!take(&self.panic_plan), "a planner that panics, as the test wants it");
        let Some(want) = self.wants.lock().get(&subject).cloned() else { return Ok(Plan::Settled) };
        let rows = self.blobs.meta().objects_of(NodeId(subject)).await?;
        let delete =
            |row: &ObjectRow| Plan::Run(Op::Delete { key: row.key.clone(), expected: Expected::Object(ETag(row.etag.clone())) });
        let Some(key) = want.key.clone() else { return Ok(rows.first().map_or(Plan::Settled, delete)) };
        if let Some(Row::Object(row)) = self.blobs.meta().get(&Key::Object(self.owner, key.clone())).await?
            && row.node != NodeId(subject)
        {
            return Ok(Plan::After(row.node.0));
        }
        let attributes = Self::attributes(&want);
        let here = rows.iter().find(|row| row.key == key);
        let other = rows.iter().find(|row| row.key != key);
        if want.blob == BlobId(0) {
            let is_there = here.is_some_and(|row| row.content_digest == want.content && row.attributes_digest == want.mode);
            return Ok(match (is_there, other) {
                (true, Some(other)) => delete(other),
                (true, None) => Plan::Settled,
                (false, _) => Plan::Run(Op::PutBytes {
                    key,
                    body: want.content.into(),
                    attributes,
                    expected: here.map_or(Expected::Absent, |row| Expected::Object(ETag(row.etag.clone()))),
                }),
            });
        }
        let info = self.blobs.info(want.blob).await?;
        // The row whose object has the newest bytes: an old key's may still wait for its delete.
        let best = rows.iter().max_by_key(|row| row.content_seq);
        let expected = here.map_or(Expected::Absent, |row| Expected::Object(ETag(row.etag.clone())));
        let is_best = |row: &ObjectRow| best.is_some_and(|best| best.content_seq == row.content_seq);
        let Some(best) = best.filter(|_| !info.is_dirty()) else {
            return Ok(Plan::Run(Op::PutBlob {
                key,
                blob: want.blob,
                attributes,
                expected,
                base: best.map(pinned),
                unless_digest: here
                    .filter(|row| is_best(row))
                    .map(|row| row.content_digest.clone())
                    .filter(|digest| !digest.is_empty()),
            }));
        };
        Ok(match (here.filter(|row| is_best(row)), other) {
            (None, _) => Plan::Run(Op::Copy {
                source: pinned(best),
                size_bytes: best.size_bytes,
                key,
                attributes: (best.attributes_digest != want.mode).then_some(attributes),
                expected,
            }),
            (Some(row), _) if row.attributes_digest != want.mode => Plan::Run(Op::Copy {
                source: pinned(row),
                size_bytes: row.size_bytes,
                key,
                attributes: Some(attributes),
                expected,
            }),
            (_, Some(old)) => delete(old),
            _ => Plan::Settled,
        })
    }

    async fn done(&self, subject: u64, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), BlobError> {
        if take(&self.fail_done) {
            return Err(BlobError::NotFound);
        }
        if self.hold.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let key = Key::Object(self.owner, op.target().to_owned());
        let want = self.wants.lock().get(&subject).cloned().unwrap();
        match done {
            Done::Written { etag, version, size_bytes, through, digest } => {
                let mut row = ObjectRow {
                    owner: self.owner,
                    key: op.target().to_owned(),
                    node: NodeId(subject),
                    etag: etag.0.clone(),
                    version: version.clone(),
                    size_bytes: *size_bytes,
                    modified_ns: 0,
                    attributes_digest: 0,
                    content_seq: *through,
                    content_digest: digest.clone().unwrap_or_default(),
                    storage_class: None,
                };
                let source = source_of(op.target(), &etag.0);
                match op {
                    Op::PutBlob { blob, attributes, .. } => {
                        row.attributes_digest = mode_of(attributes);
                        let (through, len_bytes) = (*through, *size_bytes);
                        batch.blob(BlobChange::CleanThrough { id: *blob, through, len_bytes, source });
                    }
                    Op::Copy { source: from, attributes, .. } => {
                        let Some(Row::Object(old)) = self.blobs.meta().get(&Key::Object(self.owner, from.key.clone())).await?
                        else {
                            panic!("a copy from where nothing is");
                        };
                        row.content_digest = old.content_digest;
                        row.content_seq = old.content_seq;
                        row.attributes_digest = attributes.as_ref().map_or(old.attributes_digest, mode_of);
                        let instead_of = self.blobs.info(want.blob).await?.source;
                        batch.blob(BlobChange::Rebase { id: want.blob, instead_of, source });
                    }
                    Op::PutBytes { attributes, body, .. } => {
                        row.attributes_digest = mode_of(attributes);
                        row.content_digest = body.to_vec();
                    }
                    Op::PutMade { .. } => panic!("nothing is made here"),
                    Op::Delete { .. } => panic!("a delete writes nothing"),
                }
                batch.put(Row::Object(row));
            }
            Done::Deleted => {
                batch.drop(key);
            }
            Done::Conflict(head) => {
                self.conflicts.lock().push((subject, head.clone()));
                batch.drop(key);
                if let Some(want) = self.wants.lock().get_mut(&subject)
                    && want.key.as_deref() == Some(op.target())
                {
                    want.key = Some(format!("{}.conflict", op.target()));
                }
            }
            Done::SourceChanged => {}
        }
        Ok(())
    }

    fn applied(&self, subject: u64, op: &Op, done: &Done) {
        let op = match op {
            Op::PutBlob { .. } => "put",
            Op::PutMade { .. } => "made",
            Op::PutBytes { .. } => "bytes",
            Op::Copy { .. } => "copy",
            Op::Delete { .. } => "delete",
        };
        let done = match done {
            Done::Written { .. } | Done::Deleted => "",
            Done::Conflict(_) => " conflict",
            Done::SourceChanged => " source changed",
        };
        self.ended.lock().push((subject, format!("{op}{done}")));
    }
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

fn mode_of(attributes: &Attributes) -> u64 {
    u64::from_str_radix(&attributes.metadata["file-permissions"], 8).unwrap()
}

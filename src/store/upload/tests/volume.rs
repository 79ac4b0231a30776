//! A tiny volume: ranges of a frozen generation become segment objects, and a manifest publishes them together.
//!
//! It has no format worth keeping; it shows that a log-structured layout can stand on the upload engine: an owner that holds its generation,
//! several objects of one generation in order, a consistent prefix in the bucket at any moment, through lost answers and dead processes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::world::{Gateway, World, small_parts, small_settings};
use crate::base::clock::Clock;
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::base::seeds;
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{Batch, BlobChange, BlobError, BlobStore, FetchError, Generation, Layout, Patience, Portion};
use crate::store::meta::{Key, Row, ValueRow};
use crate::store::object::fault::{Action, Rule};
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, Body, Capabilities, ETag, Head, ObjectError, ObjectStore, Precondition, SharedStore};
use crate::store::upload::{Done, Expected, GENERATION_MARK, Op, Plan, Planner};

const VOLUME: OwnerId = OwnerId(8);
const SUBJECT: u64 = 1;
const MANIFEST: &str = "volume/manifest";
/// Data of one segment object, in bytes.
const SEGMENT_BYTES: u64 = 20_000;
const VOLUME_BYTES: u64 = 120_000;

/// A stretch of the volume, and where it is in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    range: Range<u64>,
    key: String,
    etag: String,
    at: u64,
}

/// What is published: all of the volume up to a generation. Later stretches lie over earlier ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Manifest {
    generation: u64,
    len_bytes: u64,
    stretches: Vec<Stretch>,
}

impl Manifest {
    fn over(mut self, later: &[Stretch]) -> Self {
        self.stretches.extend_from_slice(later);
        self
    }
}

/// What the volume keeps between a segment's upload and the manifest's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    manifest_etag: Option<String>,
    /// Segments that no manifest has yet: key, ETag, generation.
    segments: Vec<(String, String, u64)>,
    stretches: Vec<Stretch>,
}

/// A segment is the ranges that its metadata names, one after the other.
fn ranges_of(attributes: &Attributes) -> Vec<Range<u64>> {
    serde_json::from_str(&attributes.metadata["ranges"]).unwrap()
}

fn stretches(ranges: &[Range<u64>], key: &str, etag: &str) -> Vec<Stretch> {
    let mut at = 0;
    let stretch = |range: &Range<u64>| {
        let stretch = Stretch { range: range.clone(), key: key.to_owned(), etag: etag.to_owned(), at };
        at += range.end - range.start;
        stretch
    };
    ranges.iter().map(stretch).collect()
}

/// Cuts ranges into segments.
fn segments(changed: &[Range<u64>]) -> Vec<Vec<Range<u64>>> {
    let (mut all, mut open, mut room) = (Vec::new(), Vec::new(), SEGMENT_BYTES);
    for range in changed {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + room);
            open.push(at..end);
            room -= end - at;
            at = end;
            if room == 0 {
                all.push(std::mem::take(&mut open));
                room = SEGMENT_BYTES;
            }
        }
    }
    if !open.is_empty() {
        all.push(open);
    }
    all
}

/// A generation, and the ranges of each of its segments.
type Held = (Generation, Vec<Vec<Range<u64>>>);

struct Volume {
    blobs: Arc<BlobStore>,
    blob: BlobId,
    held: tokio::sync::Mutex<Option<Held>>,
    /// What each generation had when it was frozen.
    frozen: Frozen,
    conflicts: Mutex<Vec<(String, Option<Box<Head>>)>>,
}

type Frozen = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

impl Volume {
    async fn kept(&self) -> Kept {
        match self.blobs.meta().get(&Key::Value("volume".into())).await.unwrap() {
            Some(Row::Value(row)) => serde_json::from_slice(&row.value).unwrap(),
            _ => Kept::default(),
        }
    }

    fn keep(kept: &Kept, batch: &mut Batch) {
        batch.put(Row::Value(ValueRow { name: "volume".into(), value: serde_json::to_vec(kept).unwrap() }));
    }

    async fn published(&self) -> Manifest {
        let source = self.blobs.info(self.blob).await.unwrap().source;
        if source.is_empty() { Manifest::default() } else { serde_json::from_slice(&source).unwrap() }
    }
}

#[async_trait]
impl Planner for Volume {
    async fn plan(&self, _: u64) -> Result<Plan, BlobError> {
        let mut held = self.held.lock().await;
        if held.is_none() {
            if !self.blobs.info(self.blob).await?.is_dirty() {
                return Ok(Plan::Settled);
            }
            let generation = self.blobs.freeze(self.blob).await?;
            let content = generation.read(0..generation.len_bytes).await?.concat();
            self.frozen.lock().insert(generation.seq.0, content);
            let changed = generation.changed().await?;
            *held = Some((generation, segments(&changed)));
        }
        let Some((generation, segments)) = &*held else { unreachable!() };
        let kept = self.kept().await;
        // What an earlier life made of another generation.
        if let Some((key, etag, _)) = kept.segments.iter().find(|(.., of)| *of != generation.seq.0) {
            return Ok(Plan::Run(Op::Delete { key: key.clone(), expected: Expected::Object(ETag(etag.clone())) }));
        }
        let key = |index: usize| format!("volume/{:08}-{index}", generation.seq.0);
        for (index, ranges) in segments.iter().enumerate() {
            if kept.segments.iter().any(|(there, ..)| *there == key(index)) {
                continue;
            }
            let metadata = BTreeMap::from([("ranges".to_owned(), serde_json::to_string(ranges).unwrap())]);
            return Ok(Plan::Run(Op::PutMade {
                key: key(index),
                blob: self.blob,
                generation: generation.seq,
                bytes_max: SEGMENT_BYTES,
                attributes: Attributes { metadata, ..Attributes::default() },
                expected: Expected::Absent,
            }));
        }
        let manifest = Manifest { generation: generation.seq.0, len_bytes: generation.len_bytes, ..self.published().await };
        Ok(Plan::Run(Op::PutBytes {
            key: MANIFEST.into(),
            body: serde_json::to_vec(&manifest.over(&kept.stretches)).unwrap().into(),
            attributes: Attributes::default(),
            expected: kept.manifest_etag.map_or(Expected::Absent, |etag| Expected::Object(ETag(etag))),
        }))
    }

    async fn make(&self, _: u64, op: &Op) -> Result<Vec<Bytes>, BlobError> {
        let Op::PutMade { attributes, generation: wanted, .. } = op else { return Err(BlobError::NotFound) };
        let held = self.held.lock().await;
        let Some((generation, _)) = held.as_ref().filter(|(held, _)| held.seq == *wanted) else {
            return Err(BlobError::NotFound);
        };
        let mut body = Vec::new();
        for range in ranges_of(attributes) {
            body.extend(generation.read(range).await?);
        }
        Ok(body)
    }

    async fn done(&self, _: u64, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), BlobError> {
        let mut kept = self.kept().await;
        match (op, done) {
            (Op::PutMade { key, generation, attributes, .. }, Done::Written { etag, through, size_bytes, .. }) => {
                let ranges = ranges_of(attributes);
                assert_eq!(through, generation);
                assert_eq!(*size_bytes, ranges.iter().map(|range| range.end - range.start).sum::<u64>());
                kept.segments.push((key.clone(), etag.0.clone(), generation.0));
                kept.stretches.extend(stretches(&ranges, key, &etag.0));
            }
            (Op::PutBytes { body, .. }, Done::Written { etag, .. }) => {
                let manifest: Manifest = serde_json::from_slice(body).unwrap();
                kept = Kept { manifest_etag: Some(etag.0.clone()), ..Kept::default() };
                let (through, len_bytes) = (Seq(manifest.generation), manifest.len_bytes);
                batch.blob(BlobChange::CleanThrough { id: self.blob, through, len_bytes, source: body.clone() });
            }
            (Op::Delete { key, .. }, Done::Deleted) => {
                kept.segments.retain(|(there, ..)| there != key);
                kept.stretches.retain(|stretch| stretch.key != *key);
            }
            (_, Done::Conflict(found)) => self.conflicts.lock().push((op.target().to_owned(), found.clone())),
            other => panic!("{other:?}"),
        }
        Self::keep(&kept, batch);
        Ok(())
    }

    fn applied(&self, _: u64, op: &Op, done: &Done) {
        // The generation is in the bucket: writers' later bytes are the next one's.
        if let (Op::PutBytes { .. }, Done::Written { .. }) = (op, done) {
            *self.held.try_lock().expect("one job, one round") = None;
        }
    }
}

/// How the volume's bytes are found in the bucket.
struct Segments(SharedStore);

#[async_trait]
impl Layout for Segments {
    async fn fetch(&self, _: BlobId, source: &[u8], range: Range<u64>) -> Result<Bytes, FetchError> {
        let manifest: Manifest = serde_json::from_slice(source).unwrap();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for stretch in &manifest.stretches {
            let part = range.start.max(stretch.range.start)..range.end.min(stretch.range.end);
            if part.start >= part.end {
                continue;
            }
            let from = stretch.at + part.start - stretch.range.start;
            let etag = ETag(stretch.etag.clone());
            let got = match self.0.get(&stretch.key, Some(from..from + (part.end - part.start)), Some(&etag)).await {
                Ok((_, got)) => got,
                Err(ObjectError::NotFound | ObjectError::PreconditionFailed) => return Err(FetchError::Changed),
                Err(error) => return Err(error.into()),
            };
            bytes[(part.start - range.start) as usize..(part.end - range.start) as usize].copy_from_slice(&got);
        }
        Ok(bytes.into())
    }
}

/// One life.
struct Life {
    gateway: Gateway,
    volume: Arc<Volume>,
}

impl Life {
    async fn begin(world: &World, blob: Option<BlobId>, frozen: &Frozen) -> Self {
        let gateway = world.open().await;
        let blobs = gateway.blobs.clone();
        blobs.register(
            VOLUME,
            Arc::new(Segments(world.bucket.clone())),
            Portion { guaranteed_bytes: 0, maximum_bytes: 100 << 20 },
        );
        let blob = match blob {
            Some(blob) => blob,
            None => {
                let id = blobs.new_blob_id().await.unwrap();
                let mut batch = Batch::new();
                batch.blob(BlobChange::Create { id, owner: VOLUME, len_bytes: 0, source: Bytes::new() });
                blobs.apply(VOLUME, batch).await.unwrap();
                id
            }
        };
        let volume = Volume { blobs, blob, held: Default::default(), frozen: frozen.clone(), conflicts: Mutex::default() };
        let volume = Arc::new(volume);
        gateway.uploader.register(VOLUME, "gw", world.bucket.clone(), volume.clone()).await.unwrap();
        Self { gateway, volume }
    }

    async fn write(&self, world: &World, content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        content.resize(content.len().max(offset + bytes.len()), 0);
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        let blobs = &self.gateway.blobs;
        blobs.write(self.volume.blob, offset as u64, Bytes::copy_from_slice(bytes), Patience::Default).await.unwrap();
        let mut batch = Batch::new();
        let not_before_ns = world.clock.now_ns();
        batch.job(SUBJECT, JobChange::Ask { not_before_ns });
        blobs.apply(VOLUME, batch).await.unwrap();
        self.gateway.uploader.wake(VOLUME, SUBJECT, not_before_ns);
    }

    async fn drain(&self) {
        let drained = self.gateway.uploader.drain(VOLUME, Some(Duration::from_secs(36_000)), &|_| false).await;
        assert!(drained, "still there: {:?}", self.gateway.uploader.status());
    }

    async fn read(&self) -> Vec<u8> {
        self.gateway.blobs.evict(self.volume.blob).await.unwrap();
        self.gateway.blobs.read(self.volume.blob, 0..u64::MAX).await.unwrap().concat()
    }
}

/// Every manifest that there ever was names a whole generation, out of segments that nobody wrote twice.
async fn every_manifest_is_one_generation(world: &World, frozen: &Frozen) -> usize {
    let versions = world.store.versions(MANIFEST);
    let layout = Segments(world.bucket.clone());
    for version in &versions {
        let body = version.object.as_ref().unwrap().bytes.clone();
        let manifest: Manifest = serde_json::from_slice(&body).unwrap();
        let bytes = layout.fetch(BlobId(0), &body, 0..manifest.len_bytes).await.unwrap();
        assert!(frozen.lock()[&manifest.generation] == bytes, "the manifest of generation {}", manifest.generation);
    }
    for key in world.store.keys() {
        assert!(key == MANIFEST || world.store.versions(&key).len() == 1, "{key} was written more than once");
    }
    versions.len()
}

#[tokio::test(start_paused = true)]
async fn ranges_of_a_generation_become_objects_while_writers_go_on() {
    let world = World::new(small_parts(true), small_settings());
    let (frozen, mut content) = (Frozen::default(), Vec::new());
    let life = Life::begin(&world, None, &frozen).await;
    life.write(&world, &mut content, 0, &[1; 50_000]).await;
    // The second of its three segments takes long; the volume is written to meanwhile.
    let slow = Action::Delay(Duration::from_secs(5)..Duration::from_secs(6));
    world.faults.add(Rule::new(slow).on(Kind::Put).after(1).times(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.store.keys().len(), 1);
    life.write(&world, &mut content, 30_000, &[2; 40_000]).await;
    life.drain().await;
    assert_eq!(every_manifest_is_one_generation(&world, &frozen).await, 2);
    assert_eq!((frozen.lock().len(), world.requests(Kind::Put)), (2, 3 + 1 + 2 + 1));
    assert_eq!(world.meter.counts().total() - world.requests(Kind::Get), 7, "nothing is asked that need not be");
    assert_eq!(life.read().await, content);
    assert_eq!(life.gateway.blobs.usage(VOLUME).dirty_bytes, 0);
    let mark = |key: &String| world.store.object(key).unwrap().head.attributes.metadata.contains_key(GENERATION_MARK);
    assert!(world.store.keys().iter().all(mark));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_has_at_the_key_stays() {
    let world = World::new(small_parts(true), small_settings());
    let (frozen, mut content) = (Frozen::default(), Vec::new());
    let life = Life::begin(&world, None, &frozen).await;
    let next = life.gateway.blobs.last_seq().0 + 1;
    for seq in next..next + 5 {
        let theirs = Body(vec![Bytes::from_static(b"theirs")]);
        let key = format!("volume/{seq:08}-0");
        world.store.put(&key, theirs, &Attributes::default(), &Precondition::None).await.unwrap();
    }
    life.write(&world, &mut content, 0, &[1; 10_000]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let conflicts = life.volume.conflicts.lock().clone();
    assert!(conflicts.iter().all(|(key, found)| key.ends_with("-0") && found.is_some()) && !conflicts.is_empty());
    assert!(world.objects().values().all(|bytes| bytes == b"theirs"));
}

/// Lost answers, refusals, dead processes: the bucket has one generation after the other, and in the end the last.
#[test]
fn the_bucket_has_a_consistent_prefix_whatever_happens() {
    seeds::worlds(40, 2_000, async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let plain = Capabilities { conditional_put: false, conditional_delete: false, ..small_parts(true) };
        let capabilities = if seed % 3 == 2 { plain } else { small_parts(true) };
        let mut world = World::new(capabilities, small_settings());
        let (frozen, mut content) = (Frozen::default(), Vec::new());
        let mut life = Life::begin(&world, None, &frozen).await;
        for _ in 0..4 {
            world.faults.chaos(f64::from(random.u32(..30)) / 100.0);
            for _ in 0..random.usize(1..8) {
                let offset = random.u64(..VOLUME_BYTES) as usize;
                let bytes = vec![random.u8(1..); random.usize(1..40_000)];
                life.write(&world, &mut content, offset, &bytes).await;
                tokio::time::sleep(Duration::from_millis(random.u64(..3_000))).await;
            }
            if random.bool() {
                let blob = life.volume.blob;
                world.crash(life.gateway).await;
                life = Life::begin(&world, Some(blob), &frozen).await;
            }
        }
        world.faults.heal();
        life.drain().await;
        assert!(life.volume.conflicts.lock().is_empty(), "{:?}", life.volume.conflicts.lock());
        every_manifest_is_one_generation(&world, &frozen).await;
        assert!(life.read().await == content);
        let manifest = life.volume.published().await;
        let named: Vec<&String> = manifest.stretches.iter().map(|stretch| &stretch.key).collect();
        let left = world.store.keys().into_iter().filter(|key| key != MANIFEST && !named.contains(&key)).collect::<Vec<_>>();
        assert_eq!(left, Vec::<String>::new(), "segments that nothing names");
    });
}

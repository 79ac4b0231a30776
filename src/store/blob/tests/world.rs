//! A simulated world for a blob store: a disk and a database whose power fails, and a remote that keeps every object.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::base::clock::SimulatedClock;
use crate::base::disk::simulated::SimulatedDisk;
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::blob::map::Piece;
use crate::store::blob::page::Ledger;
use crate::store::blob::{Batch, BlobChange, BlobError, BlobStore, FetchError, Generation, Layout, Portion, Report, Settings};
use crate::store::log;
use crate::store::meta::{MemoryDatabase, Meta, Place};

pub const OWNER: OwnerId = OwnerId(1);

/// Objects by source; they never go away.
#[derive(Default)]
pub struct Remote {
    objects: Mutex<HashMap<Vec<u8>, Bytes>>,
    next: AtomicU64,
    pub fetches: Mutex<Vec<Range<u64>>>,
    pub delay: Mutex<Duration>,
    pub broken: Mutex<Option<FetchError>>,
}

impl Remote {
    pub fn put(&self, bytes: Bytes) -> Bytes {
        let source = Bytes::from(format!("object {}", self.next.fetch_add(1, Ordering::Relaxed)));
        self.objects.lock().insert(source.to_vec(), bytes);
        source
    }

    pub fn object(&self, source: &[u8]) -> Bytes {
        self.objects.lock().get(source).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Layout for Remote {
    async fn fetch(&self, _: BlobId, source: &[u8], range: Range<u64>) -> Result<Bytes, FetchError> {
        let delay = *self.delay.lock();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(error) = self.broken.lock().clone() {
            return Err(error);
        }
        self.fetches.lock().push(range.clone());
        let object = self.objects.lock().get(source).cloned().ok_or(FetchError::Changed)?;
        Ok(object.slice(range.start as usize..range.end as usize))
    }
}

/// What outlives a process.
pub struct World {
    pub disk: SimulatedDisk,
    pub database: Arc<MemoryDatabase>,
    pub remote: Arc<Remote>,
    pub clock: Arc<SimulatedClock>,
    pub settings: Settings,
}

impl World {
    pub fn new(segments: u64, seed: u64) -> Self {
        Self {
            disk: SimulatedDisk::new(1 << 40, seed),
            database: Arc::new(MemoryDatabase::default()),
            remote: Arc::new(Remote::default()),
            clock: Arc::new(SimulatedClock::new(1_700_000_000_000_000_000)),
            settings: Settings {
                log: log::Settings { size_bytes: segments << 20, segment_bytes: 1 << 20 },
                memory_bytes: 64 << 20,
                checkpoint_interval: Duration::from_secs(60),
                wait: Duration::from_secs(5),
            },
        }
    }

    pub async fn try_open(&self) -> Result<(Arc<BlobStore>, Report), BlobError> {
        let meta = Arc::new(Meta::open(Place::Memory(self.database.clone())).await?);
        let disk = Arc::new(self.disk.clone());
        let (store, report) = BlobStore::open(disk, meta, self.clock.clone(), self.settings.clone()).await?;
        let portion = Portion { guaranteed_bytes: 0, maximum_bytes: u64::MAX };
        store.register(OWNER, self.remote.clone(), portion);
        Ok((store, report))
    }

    pub async fn open(&self) -> Arc<BlobStore> {
        let (store, report) = self.try_open().await.unwrap();
        assert_eq!(report.damage, Vec::<String>::new());
        store
    }

    /// The power goes, and comes back.
    pub fn power_loss(&mut self, seed: u64) {
        self.disk = self.disk.power_loss(seed);
        self.database.power_loss(seed.rotate_left(17));
    }
}

pub fn bytes(seed: u64, len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = vec![0; len];
    random.fill(&mut data);
    data.into()
}

impl BlobStore {
    pub async fn test_create(&self) -> BlobId {
        let id = self.new_blob_id().await.unwrap();
        self.test_apply(BlobChange::Create { id, owner: OWNER, len_bytes: 0, source: Bytes::new() }).await;
        id
    }

    pub async fn test_apply(&self, change: BlobChange) -> Seq {
        let mut batch = Batch::new();
        batch.blob(change);
        self.apply(OWNER, batch).await.unwrap()
    }

    pub async fn test_read(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        Ok(self.read(id, 0..u64::MAX).await?.concat())
    }

    /// The ranges of a blob below its remote length that S3 has.
    pub async fn test_not_dirty(&self, id: BlobId) -> Result<Vec<Range<u64>>, BlobError> {
        let blob = self.blob(id).await?;
        let missing = blob.state.lock().missing(&(0..u64::MAX));
        self.load_pages(&blob, &missing).await?;
        let state = blob.state.lock();
        let pieces = state.pieces(0..state.row().remote_len_bytes).into_iter();
        let clean = pieces.filter_map(|piece| match piece {
            Piece::Extent(extent) => (!state.is_dirty(&extent)).then(|| extent.range()),
            Piece::Gap(from, to) => Some(from..to),
        });
        Ok(clean.collect())
    }

    /// The accounts as the maps say that they should be.
    pub async fn test_ledger(&self) -> Ledger {
        let mut ids: Vec<BlobId> = self.meta.blobs(BlobId(0), 100_000).await.unwrap().into_iter().map(|(id, _)| id).collect();
        ids.extend(self.dirty.lock().iter().copied());
        ids.sort();
        ids.dedup();
        let mut ledger = Ledger::default();
        for id in ids {
            let Ok(blob) = self.blob(id).await else { continue };
            let missing = blob.state.lock().missing(&(0..u64::MAX));
            self.load_pages(&blob, &missing).await.unwrap();
            let state = blob.state.lock();
            let mut allocated = state.row().remote_len_bytes;
            for extent in state.extents_in(0..u64::MAX) {
                let below = extent.end().min(state.row().remote_len_bytes).saturating_sub(extent.offset);
                let Some(at) = extent.location() else {
                    allocated -= below;
                    continue;
                };
                allocated += extent.len - below;
                let live = ledger.segments.entry((at.slot, at.life)).or_default();
                if state.is_dirty(&extent) {
                    live.dirty_bytes += extent.len;
                    *ledger.owners.entry(state.row().owner).or_default() += extent.len;
                } else {
                    live.clean_bytes += extent.len;
                    assert!(extent.end() <= state.row().remote_len_bytes, "a clean extent past what S3 has");
                }
                assert!(extent.end() <= state.row().len_bytes);
            }
            assert_eq!(allocated, state.allocated_bytes(), "allocated bytes of {id}");
        }
        ledger
    }

    /// Forgets everything that may be forgotten.
    pub fn evict_all(&self) {
        for _ in 0..2 {
            self.evict_round();
        }
    }

    /// Ends the write head's segment, so that it can be a victim.
    pub fn test_seal(&self) {
        self.log.seal();
    }

    /// A round of reclaim. Says how many segments it freed.
    pub async fn test_reclaim(&self) -> Result<usize, BlobError> {
        self.reclaim().await
    }

    pub async fn test_accounts(&self) {
        let expected = self.test_ledger().await;
        let mut ledger = self.accounts.lock().ledger();
        ledger.owners.retain(|_, bytes| *bytes > 0);
        assert_eq!(ledger, expected);
    }
}

impl Generation {
    pub async fn test_bytes(&self) -> Result<Vec<u8>, BlobError> {
        Ok(self.read(0..u64::MAX).await?.concat())
    }

    /// Uploads it: the object that S3 has then.
    pub async fn test_upload(&self, id: BlobId, remote: &Remote) -> Result<BlobChange, BlobError> {
        let bytes = Bytes::from(self.test_bytes().await?);
        let source = remote.put(bytes);
        Ok(BlobChange::CleanThrough { id, through: self.seq, len_bytes: self.len_bytes, source })
    }
}

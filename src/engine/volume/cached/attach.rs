//! How a cached volume comes to be on a gateway, and goes: create, open, attach, clone, detach, delete.
//!
//! Attaching raises the manifest's epoch by compare-and-swap: from then on the manifest is another than the one that the gateway before knows, so nothing that it
//! still sends becomes part of the volume.
//!
//! Invariant: what is said here to be on a gateway is durable in its metadata, and what is said to be gone is in S3 whole.

mod error;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::error::AttachError;
pub(super) use self::error::absent;
use self::error::raced;
use super::work::Work;
use super::{CachedVolume, PAD_BYTES, Settings};
use crate::base::id::OwnerId;
use crate::engine::volume::listing;
use crate::engine::volume::local::{Local, Snapshot};
use crate::engine::volume::manifest::{Manifest, State};
use crate::engine::volume::names::{Names, VolumeId};
use crate::engine::volume::remote::{Remote, damaged};
use crate::store::blob::{Batch, BlobChange, BlobError, BlobStore, Portion};
use crate::store::meta::{OwnerRow, Row};
use crate::store::object::{Attributes, Body, ETag, ObjectError, Precondition, SharedStore};
use crate::store::upload::Uploader;

/// What `OwnerRow::kind` says of a volume that is gone: its number is never given again.
const KIND_GONE: &str = "gone";
/// The smallest volume, in bytes.
const LEN_BYTES_MIN: u64 = 1 << 20;
/// The largest, in bytes: twice AWS's.
const LEN_BYTES_MAX: u64 = 64 << 40;

/// Where volumes are, and what they need.
#[derive(Clone)]
pub struct Home {
    /// The gateway's blobs.
    pub blobs: Arc<BlobStore>,
    /// Its uploads.
    pub uploader: Arc<Uploader>,
    /// The bucket.
    pub bucket: SharedStore,
    /// The endpoint that it is at, as the configuration names it.
    pub endpoint: String,
    /// The bucket's name.
    pub bucket_name: String,
    /// Before all keys: empty, or ending in "/".
    pub prefix: String,
    /// This gateway's id.
    pub gateway: String,
    /// Of each volume.
    pub settings: Settings,
    /// Of each volume.
    pub portion: Portion,
}

/// A new volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// As its users call it.
    pub name: String,
    /// The length in bytes; `None`: as long as what it is cloned from.
    pub len_bytes: Option<u64>,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// A clone: of which volume, and which of its snapshots (`None`: its recovery point).
    pub from: Option<(VolumeId, Option<VolumeId>)>,
}

fn check_name(name: &str) -> Result<(), AttachError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if begins && name.len() <= 64 && name.chars().all(is_plain) { Ok(()) } else { Err(AttachError::BadName(name.to_owned())) }
}

fn check_size(len_bytes: u64, block_bytes: u32) -> Result<(), AttachError> {
    let is_block = matches!(block_bytes, 512 | 4096);
    let fits = (LEN_BYTES_MIN..=LEN_BYTES_MAX).contains(&len_bytes);
    if is_block && fits && len_bytes.is_multiple_of(u64::from(block_bytes)) {
        return Ok(());
    }
    Err(AttachError::BadSize { len_bytes, block_bytes })
}

impl Home {
    /// What `OwnerRow::kind` says of a volume.
    pub const KIND: &str = "volume";

    pub(super) fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    pub(super) async fn manifest(&self, volume: VolumeId) -> Result<(Manifest, ETag), AttachError> {
        let key = self.names().manifest(volume);
        let (head, bytes) =
            self.bucket.get(&key, None, None).await.map_err(|error| absent(error, AttachError::Missing(volume)))?;
        let etag = head.etag.ok_or_else(|| ObjectError::Corrupt(format!("{key} has no ETag")))?;
        Ok((Manifest::decode(&bytes).map_err(|error| damaged(&key, &error))?, etag))
    }

    async fn put_manifest(&self, manifest: &Manifest, condition: &Precondition) -> Result<ETag, AttachError> {
        let key = self.names().manifest(manifest.volume);
        let body = Body(vec![manifest.encode().into()]);
        self.bucket.ready().await?;
        let is_honoured = self.bucket.capabilities().conditional_put;
        if !is_honoured {
            self.look_first(&key, condition).await?;
        }
        let condition = if is_honoured { condition } else { &Precondition::None };
        Ok(self.bucket.put(&key, body, &Attributes::default(), condition).await.map_err(raced)?.etag)
    }

    /// Where the endpoint honours no conditions: what is there now decides, as far as that goes.
    async fn look_first(&self, key: &str, condition: &Precondition) -> Result<(), AttachError> {
        let found = match self.bucket.head(key).await {
            Ok(head) => head.etag,
            Err(ObjectError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        let is_expected = match condition {
            Precondition::None => true,
            Precondition::Absent => found.is_none(),
            Precondition::Matches(etag) => found.as_ref() == Some(etag),
        };
        if is_expected { Ok(()) } else { Err(AttachError::Raced) }
    }

    async fn owners(&self) -> Result<Vec<OwnerRow>, AttachError> {
        Ok(self.blobs.meta().owners().await.map_err(BlobError::from)?)
    }

    async fn check_free(&self, name: &str) -> Result<(), AttachError> {
        check_name(name)?;
        let is_taken = self.owners().await?.iter().any(|row| row.kind == Self::KIND && row.name == name);
        if is_taken { Err(AttachError::NameTaken(name.to_owned())) } else { Ok(()) }
    }

    /// A new volume.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn create(&self, create: &Create) -> Result<Arc<CachedVolume>, AttachError> {
        self.check_free(&create.name).await?;
        let volume = VolumeId::random();
        let state = match create.from {
            Some((from, snapshot)) => self.pinned(from, snapshot, volume).await?,
            None => State::default(),
        };
        let len_bytes = create.len_bytes.unwrap_or(state.len_bytes);
        check_size(len_bytes, create.block_bytes)?;
        if len_bytes < state.len_bytes {
            return Err(AttachError::TooSmall(state.len_bytes));
        }
        let mut manifest = Manifest::new(volume, &create.name, len_bytes, create.block_bytes);
        manifest.state = State { generation: 0, len_bytes, ..state };
        (manifest.epoch, manifest.gateway) = (1, self.gateway.clone());
        let etag = self.put_manifest(&manifest, &Precondition::Absent).await?;
        self.take(manifest, etag).await
    }

    /// A volume of the bucket, which another gateway had.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(&self, volume: VolumeId, name: Option<&str>, force: bool) -> Result<Arc<CachedVolume>, AttachError> {
        let (mut manifest, etag) = self.manifest(volume).await?;
        let mine = self.local_of(volume).await?;
        if let Some((row, _)) = mine {
            return Err(AttachError::Here(row.name));
        }
        if !manifest.gateway.is_empty() && manifest.gateway != self.gateway && !force {
            return Err(AttachError::Attached(manifest.gateway));
        }
        self.bucket.ready().await?;
        if !self.bucket.capabilities().conditional_put && !force {
            return Err(AttachError::Unconditional);
        }
        if let Some(name) = name {
            name.clone_into(&mut manifest.name);
        }
        self.check_free(&manifest.name).await?;
        manifest.epoch += 1;
        manifest.gateway.clone_from(&self.gateway);
        manifest.state.generation = 0;
        let etag = self.put_manifest(&manifest, &Precondition::Matches(etag)).await?;
        self.take(manifest, etag).await
    }

    /// A volume that this gateway has, if it has it.
    async fn local_of(&self, volume: VolumeId) -> Result<Option<(OwnerRow, Local)>, AttachError> {
        for row in self.owners().await?.into_iter().filter(|row| row.kind == Self::KIND) {
            if let Some(local) = Local::load(self.blobs.meta(), row.owner).await?.filter(|local| local.manifest.volume == volume)
            {
                return Ok(Some((row, local)));
            }
        }
        Ok(None)
    }

    /// Writes down that this gateway has a volume, and opens it.
    async fn take(&self, manifest: Manifest, etag: ETag) -> Result<Arc<CachedVolume>, AttachError> {
        let owner = self.blobs.new_owner_id().await?;
        let blob = self.blobs.new_blob_id().await?;
        let row = OwnerRow {
            owner,
            kind: Self::KIND.to_owned(),
            name: manifest.name.clone(),
            bucket: self.bucket_name.clone(),
            prefix: self.prefix.clone(),
            root: Default::default(),
            endpoint: self.endpoint.clone(),
        };
        let len_bytes = manifest.state.len_bytes + PAD_BYTES;
        let local = Local { manifest, etag: etag.0, blob, life: 0, is_fenced: false };
        let mut batch = Batch::new();
        batch.put(Row::Owner(row.clone())).put(local.row(owner));
        batch.blob(BlobChange::Create { id: blob, owner, len_bytes, source: Bytes::from_static(b"0") });
        self.blobs.apply(owner, batch).await?;
        self.blobs.sync().await?;
        self.open(&row).await
    }

    /// Opens a volume that this gateway has.
    ///
    /// # Errors
    /// `Blob`.
    pub async fn open(&self, row: &OwnerRow) -> Result<Arc<CachedVolume>, AttachError> {
        let owner = row.owner;
        let mut local = Local::load(self.blobs.meta(), owner).await?.ok_or(BlobError::NotFound)?;
        local.life += 1;
        let mut snapshots = Snapshot::load_all(self.blobs.meta(), owner).await?;
        let mut batch = CachedVolume::lose_pending(owner, &mut snapshots);
        batch.put(local.row(owner));
        self.blobs.apply(owner, batch).await?;
        let state = local.manifest.state.clone();
        let remote = Arc::new(Remote::new(self.bucket.clone(), self.names(), local.manifest.volume, state));
        self.blobs.register(owner, remote.layout(), self.portion);
        let info = self.blobs.info(local.blob).await?;
        let volume = Arc::new_cyclic(|weak: &Weak<CachedVolume>| CachedVolume {
            weak: weak.clone(),
            owner,
            blob: local.blob,
            block_bytes: local.manifest.block_bytes,
            blobs: self.blobs.clone(),
            uploader: self.uploader.clone(),
            bucket: self.bucket.clone(),
            names: self.names(),
            remote,
            settings: self.settings.clone(),
            staged: Mutex::default(),
            snapshots: Mutex::new(snapshots),
            listing: tokio::sync::Mutex::default(),
            work: Mutex::new(Work::Nothing),
            dealt: Mutex::default(),
            cleaning: Mutex::default(),
            queue: Mutex::default(),
            asked: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            written_bytes: AtomicU64::new(0),
            frozen_ns: AtomicU64::new(0),
            next_number: AtomicU64::new(0),
            len_bytes: AtomicU64::new(info.len_bytes - PAD_BYTES),
            is_fenced: AtomicBool::new(local.is_fenced),
            write_cache: AtomicBool::new(true),
            exclusive: tokio::sync::RwLock::default(),
            local: Mutex::new(local),
        });
        self.uploader.register(owner, &self.gateway, self.bucket.clone(), volume.clone()).await?;
        if info.is_dirty() {
            volume.note_written(0).await;
        }
        volume.heed_pressure();
        Ok(volume)
    }

    /// All volumes that this gateway has in this place; and, by name, those that could not be opened.
    ///
    /// # Errors
    /// `Blob`, where it is not known which there are.
    pub async fn open_all(&self) -> Result<(Vec<Arc<CachedVolume>>, Vec<(String, AttachError)>), AttachError> {
        self.open_besides(&[]).await
    }

    /// As [`Self::open_all`], but for those that are open.
    ///
    /// # Errors
    /// `Blob`, where it is not known which there are.
    pub async fn open_besides(
        &self,
        open: &[OwnerId],
    ) -> Result<(Vec<Arc<CachedVolume>>, Vec<(String, AttachError)>), AttachError> {
        let (mut volumes, mut failed) = (Vec::new(), Vec::new());
        for row in self.owners().await?.into_iter().filter(|row| !open.contains(&row.owner)) {
            if row.kind == Self::KIND
                && row.bucket == self.bucket_name
                && row.prefix == self.prefix
                && row.endpoint == self.endpoint
            {
                match self.open(&row).await {
                    Ok(volume) => volumes.push(volume),
                    Err(error) => failed.push((row.name, error)),
                }
            }
        }
        Ok((volumes, failed))
    }

    /// What the volumes of the bucket are, whoever has them.
    ///
    /// # Errors
    /// `Object`, `Fetch`.
    pub async fn list(&self) -> Result<Vec<Manifest>, AttachError> {
        let names = self.names();
        let (mut folders, mut manifests) = (Vec::new(), Vec::new());
        listing::each_page(&self.bucket, names.all(), Some("/"), |page| folders.extend(page.prefixes)).await?;
        for folder in folders {
            let id = folder.strip_prefix(names.all()).and_then(|id| id.trim_end_matches('/').parse().ok());
            let Some(id) = id else { continue };
            match self.manifest(id).await {
                Ok((manifest, _)) => manifests.push(manifest),
                // It is being removed.
                Err(AttachError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(manifests)
    }

    /// Gives a volume up for another gateway: everything is in S3 when this returns, and nothing of it is here any more. Its device must not be in use.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn detach(&self, volume: &Arc<CachedVolume>, limit: Duration) -> Result<(), AttachError> {
        if !volume.is_fenced() {
            if !volume.drain(Some(limit)).await {
                return Err(AttachError::NotDrained);
            }
            self.uploader.unregister(volume.owner).await;
            let (mut manifest, etag) = {
                let local = volume.local.lock();
                (local.manifest.clone(), ETag(local.etag.clone()))
            };
            manifest.gateway.clear();
            self.put_manifest(&manifest, &Precondition::Matches(etag)).await?;
        }
        self.forget(volume).await
    }

    /// Removes a volume here and in S3, with its snapshots. Its device must not be in use.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn delete(&self, volume: &Arc<CachedVolume>) -> Result<(), AttachError> {
        let id = volume.id();
        let own: BTreeSet<VolumeId> = volume.snapshots().iter().map(|snapshot| snapshot.snapshot).collect();
        let clones: Vec<String> =
            self.pins_of(id).await?.into_iter().filter(|pin| !own.contains(pin)).map(|pin| pin.to_string()).collect();
        if !clones.is_empty() {
            return Err(AttachError::HasClones(id, clones.join(", ")));
        }
        let origins = if volume.is_fenced() { BTreeSet::new() } else { self.origins(id, &volume.recovery_point()).await? };
        self.uploader.unregister(volume.owner).await;
        if !volume.is_fenced() {
            // The manifest first: what is left without it is nobody's.
            let names = self.names();
            self.bucket.delete(&names.manifest(id), None).await?;
            self.delete_all(&names.volume(id)).await?;
            for origin in origins {
                self.bucket.delete(&names.snapshot(origin, id), None).await?;
            }
        }
        self.forget(volume).await
    }

    async fn forget(&self, volume: &Arc<CachedVolume>) -> Result<(), AttachError> {
        self.uploader.unregister(volume.owner).await;
        let row = self.owners().await?.into_iter().find(|row| row.owner == volume.owner);
        let mut batch = Batch::new();
        if let Some(row) = row {
            batch.put(Row::Owner(OwnerRow { kind: KIND_GONE.to_owned(), name: volume.id().to_string(), ..row }));
        }
        batch.drop(Local::key(volume.owner)).drop(Snapshot::list_key(volume.owner));
        for snapshot in volume.snapshots() {
            batch.drop(Snapshot::key(volume.owner, snapshot.snapshot));
        }
        batch.blob(BlobChange::Remove { id: volume.blob });
        self.blobs.apply(volume.owner, batch).await?;
        self.blobs.sync().await?;
        volume.is_fenced.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn delete_all(&self, prefix: &str) -> Result<(), AttachError> {
        let keys = listing::keys(&self.bucket, prefix).await?;
        match listing::remove(&self.bucket, keys).await?.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }
}

impl CachedVolume {
    /// Uploads sooner where the log is short of room.
    fn heed_pressure(self: &Arc<Self>) {
        let mut pressure = self.blobs.pressure(self.owner);
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            while pressure.changed().await.is_ok() {
                let Some(volume) = weak.upgrade() else { return };
                volume.hurry().await;
            }
        });
    }
}

//! The gateway's volumes: opened, served by iSCSI, changed at an operator's word.
//!
//! What lives here: [`Volumes`], and what [`VolumeCommand`]s do. A volume is served as unit 0 of a target of its own, `<iscsi.name>:<volume>`.
//!
//! Invariants: nothing is asked of S3, no bucket is made, and nothing listens, before there is a volume. Commands are done one after the other. A target is withdrawn, and its
//! sessions have ended, before its volume goes. Who may reach a volume is a row of its own, whose secrets no answer carries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Gateway, buckets, portions};
use crate::base::id::OwnerId;
use crate::engine::volume::{BlockDevice, CachedVolume, Create, Home, Settings, SnapshotError, VolumeId};
use crate::protocol::admin::volumes::{SnapshotStatus, VolumeAnswer, VolumeCommand, VolumeStatus};
use crate::protocol::iscsi::{Admission, Chap, Credential, Iscsi};
use crate::protocol::scsi::{Disk, Keeper, LogicalUnitNumber, Lun};
use crate::store::blob::{Batch, BlobError};
use crate::store::meta::{Key, Row, ValueRow};

/// What notices have volumes under; no share has such a name.
pub(super) const NAME: &str = "[volumes]";
/// Secrets of CHAP have at least so many bytes (RFC 7143 §9.2.1: 96 bits), and at most so many, as with AWS.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 12..=16;

/// How a volume is served: a row (JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    initiators: BTreeSet<String>,
    /// Name and secret.
    initiator: Option<(String, String)>,
    target: Option<(String, String)>,
    /// Whether writes are acknowledged before they survive power loss.
    write_cache: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self { initiators: BTreeSet::new(), initiator: None, target: None, write_cache: true }
    }
}

struct Served {
    volume: Arc<CachedVolume>,
    target: String,
    access: Access,
}

/// See the module.
#[derive(Default)]
pub(super) struct Volumes {
    /// The bucket, once there is a volume.
    home: tokio::sync::OnceCell<Home>,
    served: Mutex<BTreeMap<String, Served>>,
    /// One command at a time.
    commanding: tokio::sync::Mutex<()>,
    /// Told when there is something to serve.
    used: Notify,
    /// Some could not be opened.
    is_failed: AtomicBool,
    /// One collection at a time.
    pub(super) collecting: tokio::sync::Mutex<()>,
    /// Somebody sees to it that there is one each day.
    is_collected: AtomicBool,
}

fn access_key(owner: OwnerId) -> String {
    format!("volume.{owner}.access")
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Access {
    fn admission(&self) -> Admission {
        let credential =
            |(name, secret): &(String, String)| Credential { name: name.clone(), secret: secret.clone().into_bytes() };
        Admission {
            initiators: self.initiators.iter().cloned().collect(),
            chap: self
                .initiator
                .as_ref()
                .map(|initiator| Chap { initiator: credential(initiator), target: self.target.as_ref().map(credential) }),
        }
    }

    fn check(&self) -> Result<(), String> {
        for (name, secret) in self.initiator.iter().chain(&self.target) {
            if name.is_empty() || !SECRET_BYTES.contains(&secret.len()) {
                return Err("CHAP needs a name, and a secret of 12 to 16 characters".into());
            }
        }
        match (&self.initiator, &self.target) {
            (None, Some(_)) => Err("mutual CHAP needs the initiator's name and secret too".into()),
            (Some((_, own)), Some((_, other))) if own == other => {
                Err("the target's secret must be another than the initiator's (RFC 7143 §9.2.1)".into())
            }
            _ => Ok(()),
        }
    }
}

impl Gateway {
    /// The iSCSI server.
    pub fn iscsi(&self) -> &Arc<Iscsi> {
        &self.iscsi
    }

    /// Returns when there is something to serve by iSCSI.
    pub async fn iscsi_used(&self) {
        let told = self.volumes.used.notified();
        if self.volumes.served.lock().is_empty() {
            told.await;
        }
    }

    /// Opens the volumes that this gateway has and does not serve, if there are any. What fails is a notice, and tried again.
    pub async fn open_volumes(self: &Arc<Self>) {
        let _one = self.volumes.commanding.lock().await;
        if let Err(reason) = self.try_open_volumes().await {
            self.volumes.is_failed.store(true, Ordering::Relaxed);
            self.notice(super::About::File(NAME.into()), format!("volumes are not served, which is tried again: {reason}"));
        } else if self.volumes.is_failed.swap(false, Ordering::Relaxed) {
            self.mended(&super::About::File(NAME.into()));
        }
    }

    /// Whether there are volumes that could not be opened.
    pub(super) fn are_volumes_missing(&self) -> bool {
        self.volumes.is_failed.load(Ordering::Relaxed)
    }

    async fn try_open_volumes(self: &Arc<Self>) -> Result<(), String> {
        let owners = self.blobs.meta().owners().await.map_err(words)?;
        if !owners.iter().any(|row| row.kind == Home::KIND) {
            return Ok(());
        }
        let served: Vec<OwnerId> = self.served_volumes().iter().map(|volume| volume.owner()).collect();
        let (volumes, failed) = self.home().await?.open_besides(&served).await.map_err(words)?;
        let mut reasons: Vec<String> = failed.into_iter().map(|(name, error)| format!("{name}: {error}")).collect();
        for volume in volumes {
            let name = volume.name();
            if let Err(reason) = self.serve_volume(volume).await {
                reasons.push(format!("{name}: {reason}"));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
    }

    pub(super) async fn home(self: &Arc<Self>) -> Result<&Home, String> {
        self.volumes.home.get_or_try_init(|| self.make_home()).await
    }

    async fn make_home(self: &Arc<Self>) -> Result<Home, String> {
        let config = &self.config.volumes;
        let s3 = config.s3.as_ref().unwrap_or(&self.config.s3);
        let (bucket, prefix) = (config.bucket.as_str(), config.prefix.as_str());
        let wanted = buckets::Wanted { who: NAME, name: NAME, bucket, prefix, s3, requester_pays: false };
        Ok(Home {
            blobs: self.blobs.clone(),
            uploader: self.uploader.clone(),
            bucket: buckets::open(self, wanted).await?,
            endpoint: s3.site(),
            bucket_name: bucket.to_owned(),
            prefix: prefix.to_owned(),
            gateway: self.id.clone(),
            settings: Settings { upload_interval: config.upload_interval.0, ..Settings::default() },
            // Until it is served.
            portion: portions::volume_portion(config.cache_maximum.map(|size| size.0), 0, self.cache_bytes),
        })
    }

    /// Offers a volume to initiators.
    async fn serve_volume(&self, volume: Arc<CachedVolume>) -> Result<(), String> {
        let name = volume.name();
        let access = self.access(volume.owner()).await.map_err(words)?;
        volume.set_write_cache(access.write_cache).await.map_err(words)?;
        let target = format!("{}:{name}", self.config.iscsi.name);
        let offered = self.iscsi.offer(&target, access.admission())?;
        let id = volume.id().to_string();
        let keeper = Keeper::file(self.config.data_dir.join("scsi").join(format!("{id}.json")));
        let disk = Disk::new(volume.clone() as Arc<dyn BlockDevice>, "VOLUME", &id);
        let lun = Lun::open(Arc::new(disk), keeper)
            .await
            .map_err(|error| format!("the reservations of {name} cannot be read: {error}"))?;
        let Some(number) = LogicalUnitNumber::new(0) else { return Ok(()) };
        offered.put(number, lun);
        self.volumes.served.lock().insert(name, Served { volume, target, access });
        self.volumes.used.notify_waiters();
        self.divide(&[]);
        if !self.volumes.is_collected.swap(true, Ordering::Relaxed)
            && let Some(gateway) = self.weak.upgrade()
        {
            tokio::spawn(super::collect::run(gateway));
        }
        Ok(())
    }

    async fn access(&self, owner: OwnerId) -> Result<Access, BlobError> {
        match self.blobs.meta().get(&Key::Value(access_key(owner))).await? {
            Some(Row::Value(row)) => Ok(serde_json::from_slice(&row.value).unwrap_or_default()),
            _ => Ok(Access::default()),
        }
    }

    async fn set_access(&self, name: &str, edit: impl FnOnce(&mut Access)) -> Result<VolumeAnswer, String> {
        let volume = self.volume(name)?;
        let mut access = self.access(volume.owner()).await.map_err(words)?;
        edit(&mut access);
        access.check()?;
        volume.set_write_cache(access.write_cache).await.map_err(words)?;
        let value = serde_json::to_vec(&access).map_err(words)?;
        let mut batch = Batch::new();
        batch.put(Row::Value(ValueRow { name: access_key(volume.owner()), value }));
        self.blobs.apply(volume.owner(), batch).await.map_err(words)?;
        self.blobs.sync().await.map_err(words)?;
        if let Some(served) = self.volumes.served.lock().get_mut(name) {
            self.iscsi.admit(&served.target, access.admission());
            served.access = access;
        }
        Ok(VolumeAnswer::Done)
    }

    fn volume(&self, name: &str) -> Result<Arc<CachedVolume>, String> {
        let served = self.volumes.served.lock().get(name).map(|served| served.volume.clone());
        served.ok_or_else(|| format!("there is no volume \"{name}\"; see `tidegate volume list`"))
    }

    /// A volume by its name here, or its id.
    fn volume_id(&self, name: &str) -> Result<VolumeId, String> {
        self.volume(name).map(|volume| volume.id()).or_else(|unknown| name.parse().map_err(|_| unknown))
    }

    /// Takes a volume from its initiators.
    async fn withdraw(&self, name: &str) -> Result<Arc<CachedVolume>, String> {
        let volume = self.volume(name)?;
        let target = self.volumes.served.lock().get(name).map(|served| served.target.clone()).unwrap_or_default();
        self.iscsi.withdraw(&target).await;
        Ok(volume)
    }

    /// Does what an operator says.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) async fn command_volume(self: &Arc<Self>, command: VolumeCommand) -> Result<VolumeAnswer, String> {
        match command {
            VolumeCommand::List => return Ok(VolumeAnswer::Volumes(self.volume_statuses())),
            // It may take long, and changes nothing that others change.
            VolumeCommand::Collect { dry_run } => return self.collect_volumes(dry_run).await.map(VolumeAnswer::Collected),
            _ => {}
        }
        let _one = self.volumes.commanding.lock().await;
        match command {
            VolumeCommand::List | VolumeCommand::Collect { .. } => Ok(VolumeAnswer::Volumes(self.volume_statuses())),
            VolumeCommand::ListBucket => self.volumes_in_bucket().await,
            VolumeCommand::Create { name, len_bytes, block_bytes, write_cache, from, snapshot } => {
                let from = from.map(|from| self.volume_id(&from)).transpose()?;
                let snapshot = snapshot.map(|id| id.parse().map_err(words)).transpose()?;
                let from = from.map(|from| (from, snapshot));
                let create = Create { name: name.clone(), len_bytes, block_bytes, from };
                self.serve_volume(self.home().await?.create(&create).await.map_err(words)?).await?;
                if !write_cache {
                    self.set_access(&name, |access| access.write_cache = false).await?;
                }
                self.shown(&name)
            }
            VolumeCommand::Attach { id, name, force } => {
                let volume =
                    self.home().await?.attach(id.parse().map_err(words)?, name.as_deref(), force).await.map_err(words)?;
                let name = volume.name();
                self.serve_volume(volume).await?;
                self.shown(&name)
            }
            VolumeCommand::Detach { name, limit_ms } => {
                let volume = self.withdraw(&name).await?;
                let gone = self.home().await?.detach(&volume, Duration::from_millis(limit_ms)).await;
                self.gone(&name, volume, gone.map_err(words)).await
            }
            VolumeCommand::Delete { name } => {
                let volume = self.withdraw(&name).await?;
                let gone = self.home().await?.delete(&volume).await;
                self.gone(&name, volume, gone.map_err(words)).await
            }
            VolumeCommand::Grow { name, len_bytes } => {
                self.volume(&name)?.grow(len_bytes).await.map_err(words)?;
                self.shown(&name)
            }
            VolumeCommand::WriteCache { name, on } => self.set_access(&name, |access| access.write_cache = on).await,
            VolumeCommand::Initiators { name, initiators } => {
                let initiators = initiators.iter().map(|name| name.to_ascii_lowercase()).collect();
                self.set_access(&name, |access| access.initiators = initiators).await
            }
            VolumeCommand::Chap { name, initiator, target } => {
                self.set_access(&name, |access| (access.initiator, access.target) = (initiator, target)).await
            }
            VolumeCommand::Snapshot { name, description } => {
                let taken = self.volume(&name)?.snapshot(&description).await.map_err(words)?;
                Ok(VolumeAnswer::Snapshots(
                    self.snapshots(&name)?.into_iter().filter(|shown| shown.id == taken.snapshot.to_string()).collect(),
                ))
            }
            VolumeCommand::Snapshots { name } => Ok(VolumeAnswer::Snapshots(self.snapshots(&name)?)),
            VolumeCommand::DeleteSnapshot { name, id } => {
                let id = id.parse().map_err(words)?;
                self.volume(&name)?.delete_snapshot(id).await.map_err(|error: SnapshotError| words(error))?;
                Ok(VolumeAnswer::Done)
            }
        }
    }

    /// A volume left, or did not and is served again.
    async fn gone(&self, name: &str, volume: Arc<CachedVolume>, gone: Result<(), String>) -> Result<VolumeAnswer, String> {
        if let Err(reason) = gone {
            self.serve_volume(volume).await?;
            return Err(reason);
        }
        self.volumes.served.lock().remove(name);
        self.divide(&[]);
        Ok(VolumeAnswer::Done)
    }

    fn shown(&self, name: &str) -> Result<VolumeAnswer, String> {
        let one: Vec<VolumeStatus> = self.volume_statuses().into_iter().filter(|shown| shown.name == name).collect();
        Ok(VolumeAnswer::Volumes(one))
    }

    fn snapshots(&self, name: &str) -> Result<Vec<SnapshotStatus>, String> {
        let shown = |snapshot: crate::engine::volume::Snapshot| SnapshotStatus {
            id: snapshot.snapshot.to_string(),
            volume: name.to_owned(),
            status: snapshot.status.to_string(),
            description: snapshot.description,
            created_s: snapshot.created_ns / 1_000_000_000,
            len_bytes: snapshot.state.map_or(0, |state| state.len_bytes),
        };
        Ok(self.volume(name)?.snapshots().into_iter().map(shown).collect())
    }

    /// All volumes that this gateway has.
    pub(super) fn volume_statuses(&self) -> Vec<VolumeStatus> {
        let sessions = self.iscsi.status().sessions;
        let served = self.volumes.served.lock();
        let shown = |(name, served): (&String, &Served)| {
            let (volume, state) = (&served.volume, served.volume.recovery_point());
            let geometry = volume.geometry();
            let here = sessions.iter().filter(|session| session.target == served.target);
            VolumeStatus {
                name: name.clone(),
                id: volume.id().to_string(),
                status: if volume.is_fenced() { "IRRECOVERABLE" } else { "AVAILABLE" }.to_owned(),
                len_bytes: geometry.len_bytes(),
                block_bytes: geometry.block_bytes,
                target: served.target.clone(),
                sessions: here.map(|session| format!("{} from {}", session.initiator, session.peer)).collect(),
                initiators: served.access.initiators.iter().cloned().collect(),
                chap: served.access.initiator.is_some(),
                write_cache: volume.has_write_cache(),
                dirty_bytes: volume.usage().dirty_bytes,
                recovery_point_s: state.at_ns / 1_000_000_000,
                gateway: self.id.clone(),
            }
        };
        served.iter().map(shown).collect()
    }

    async fn volumes_in_bucket(self: &Arc<Self>) -> Result<VolumeAnswer, String> {
        let shown = |manifest: crate::engine::volume::Manifest| VolumeStatus {
            name: manifest.name,
            id: manifest.volume.to_string(),
            status: if manifest.gateway.is_empty() { "DETACHED" } else { "ATTACHED" }.to_owned(),
            len_bytes: manifest.state.len_bytes,
            block_bytes: manifest.block_bytes,
            recovery_point_s: manifest.state.at_ns / 1_000_000_000,
            gateway: manifest.gateway,
            ..VolumeStatus::default()
        };
        let all = self.home().await?.list().await.map_err(words)?;
        Ok(VolumeAnswer::Volumes(all.into_iter().map(shown).collect()))
    }

    /// All volumes that are served.
    pub(super) fn served_volumes(&self) -> Vec<Arc<CachedVolume>> {
        self.volumes.served.lock().values().map(|served| served.volume.clone()).collect()
    }

    /// Returns when what is new on all volumes is in S3; `false` after `limit`.
    pub(super) async fn drain_volumes(&self, limit: Option<Duration>) -> bool {
        let volumes = self.served_volumes();
        let drained = futures_util::future::join_all(volumes.iter().map(|volume| volume.drain(limit))).await;
        drained.into_iter().all(|drained| drained)
    }
}

//! The composition root: builds a gateway bottom-up, runs it, drains it top-down. The only place that sees every layer.
//!
//! What lives here: [`Gateway`] and its start and end; `gateway/buckets.rs` puts a bucket's store together, `gateway/shares.rs` opens, closes
//! and reloads shares, `gateway/portions.rs` divides the cache, `gateway/watch.rs` notices changed files, `gateway/mend.rs` tries again
//! what failed, `gateway/disk.rs` watches the database's disk, `gateway/notices.rs` keeps what an operator should know, `gateway/volumes.rs` has the disks, `gateway/control.rs`
//! answers the admin address, `gateway/network.rs` and `gateway/smb.rs` offer shares on the network.
//!
//! Invariants:
//! - What can run runs: a share, an endpoint or a mount that fails is told in one line, shown in `status`, tried again, and holds up
//!   nothing else. Only the data directory, the database and the cache can keep a gateway from starting.
//! - One gateway per data directory: it is locked.
//! - A share is closed in this order: mount and export, uploads, share; the gateway: SMB, NFS and iSCSI, shares, uploader, blobs (which syncs), endpoint.

mod buckets;
mod collect;
mod control;
pub mod disk;
pub mod mend;
mod network;
pub mod notices;
mod portions;
mod shares;
mod smb;
mod volumes;
pub mod watch;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::base::clock::{Clock, SystemClock};
use crate::base::disk::files::FilesDisk;
use crate::base::id::OwnerId;
use crate::config::{Config, Endpoint, Size};
use crate::protocol::iscsi::Iscsi;
use crate::protocol::nfs::Nfs;
use crate::protocol::s3::{self, credentials};
use crate::protocol::smb::Smb;
use crate::store::blob::{self, Batch, BlobStore};
use crate::store::log;
use crate::store::meta::{Key, Meta, Place, Row, ValueRow};
use crate::store::object::local::Local;
use crate::store::object::meter;
use crate::store::upload::{self, Uploader};
pub(crate) use buckets::s3_settings;
use notices::{About, Notices};
use shares::Running;

/// The cache's size where nobody gave one, in bytes.
const CACHE_BYTES_DEFAULT: u64 = 10 << 30;
/// The smallest that it may come out as.
const CACHE_BYTES_MIN: u64 = 64 << 20;
/// How often the database learns what the log knows, at the latest.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// How long uploads under way may go on when the gateway ends.
const UPLOAD_GRACE: Duration = Duration::from_secs(5);
/// Pieces of damage that `status` tells one by one.
const DAMAGE_MAX: usize = 20;
/// The row that holds the gateway's id.
const GATEWAY_ID: &str = "gateway.id";

/// Why a gateway does not start; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory of its own cannot be used.
    #[error("{0} cannot be used: {1}")]
    Directory(PathBuf, io::Error),
    /// Another gateway has it.
    #[error("another gateway runs on {0}; stop it, or give this one another data_dir")]
    Locked(PathBuf),
    /// The database or the log.
    #[error("{0}")]
    Store(String),
}

/// A gateway that runs.
pub struct Gateway {
    /// For tasks that must not keep it alive, and for what it starts itself.
    weak: Weak<Self>,
    config: Config,
    id: String,
    clock: Arc<dyn Clock>,
    blobs: Arc<BlobStore>,
    uploader: Arc<Uploader>,
    /// The embedded endpoint's store and keys, once something uses it.
    embedded: OnceCell<(Arc<Local>, s3::Settings)>,
    /// Told when it is opened.
    embedded_used: Notify,
    nfs: Arc<Nfs>,
    iscsi: Arc<Iscsi>,
    volumes: volumes::Volumes,
    smb: Arc<Smb>,
    /// All of the cache, of which shares have portions, in bytes.
    cache_bytes: u64,
    /// What a share is guaranteed of it where its file says nothing, in bytes.
    default_guarantee: AtomicU64,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    /// Shares by name. Held only for look-ups; opening and closing is done under `reloading`.
    shares: Mutex<BTreeMap<String, Running>>,
    reloading: tokio::sync::Mutex<()>,
    notices: Notices,
    stop: CancellationToken,
    _lock: File,
}

impl Gateway {
    /// Builds everything up to the shares' stores. Shares are opened by [`Self::reload`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(mut config: Config) -> Result<Arc<Self>, StartError> {
        let metrics = install_metrics();
        let data = make_directory(&config.data_dir)?;
        let lock = lock(&data)?;
        let cache = make_directory(&config.cache_dir())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let disk = FilesDisk::new(&cache).map_err(|error| StartError::Directory(cache.clone(), error))?;
        let meta = Meta::open(Place::File(data.join("meta.db"))).await.map_err(|error| StartError::Store(error.to_string()))?;
        let settings = blob_settings(&config, &cache)?;
        let cache_bytes = settings.log.size_bytes;
        // What is in force from here on: the shares' guarantees are checked against it.
        config.cache.size = Some(Size(cache_bytes));
        let (blobs, report) = BlobStore::open(Arc::new(disk), Arc::new(meta), clock.clone(), settings)
            .await
            .map_err(|error| store_error(&error, &data, &cache))?;
        let id = gateway_id(&blobs).await.map_err(|error| StartError::Store(error.to_string()))?;
        let nfs_key = network::nfs_key(&blobs).await.map_err(|error| StartError::Store(error.to_string()))?;
        let uploader = Uploader::start(blobs.clone(), upload_settings(&config));
        let smb = smb::server(&config)?;
        let nfs = Nfs::new(&nfs_key, Some(&data.join("nfs"))).map_err(|error| StartError::Directory(data.join("nfs"), error))?;
        let gateway = Arc::new_cyclic(|weak: &Weak<Self>| Self {
            weak: weak.clone(),
            config,
            id,
            clock,
            blobs,
            uploader,
            embedded: OnceCell::new(),
            embedded_used: Notify::new(),
            nfs,
            iscsi: Iscsi::new(),
            volumes: volumes::Volumes::default(),
            smb,
            cache_bytes,
            default_guarantee: AtomicU64::new(0),
            metrics,
            shares: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            notices: Notices::default(),
            stop: CancellationToken::new(),
            _lock: lock,
        });
        gateway.tell_damage(&report.damage);
        if gateway.config.s3.kind() == Endpoint::Embedded {
            // Where that fails it is a notice, and tried again.
            let _ = gateway.open_embedded().await;
        }
        Ok(gateway)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The embedded endpoint's store and keys, where something uses it.
    pub fn embedded(&self) -> Option<(Arc<Local>, s3::Settings)> {
        self.embedded.get().cloned()
    }

    /// Returns when something uses the embedded endpoint.
    pub async fn embedded_opened(&self) {
        let told = self.embedded_used.notified();
        if self.embedded.get().is_none() {
            told.await;
        }
    }

    /// The embedded endpoint's store, opened by the first who asks.
    async fn open_embedded(&self) -> Result<Arc<Local>, String> {
        match self.embedded.get_or_try_init(|| self.make_embedded()).await {
            Ok((local, _)) => {
                self.mended(&About::Embedded);
                self.embedded_used.notify_waiters();
                Ok(local.clone())
            }
            Err(reason) => {
                self.notice(About::Embedded, reason.clone());
                Err(reason)
            }
        }
    }

    async fn make_embedded(&self) -> Result<(Arc<Local>, s3::Settings), String> {
        let directory = self.config.data_dir.join("s3");
        let failed = |error: &dyn std::fmt::Display| format!("the embedded S3 endpoint: {}: {error}", directory.display());
        let local = Local::open(&directory, self.clock.clone()).await.map_err(|error| failed(&error))?;
        let keys = credentials::load_or_create(&directory.join("credentials")).map_err(|error| failed(&error))?;
        Ok((local, keys))
    }

    /// Said in the log where it is news, and kept for `status` until it is [`Self::mended`].
    pub fn notice(&self, about: About, text: String) {
        self.notices.say(about, text);
    }

    /// What it was about is well.
    pub fn mended(&self, about: &About) {
        if self.notices.clear(about) {
            tracing::info!(?about, "works again");
        }
    }

    fn tell_damage(&self, damage: &[String]) {
        for (number, text) in damage.iter().take(DAMAGE_MAX).enumerate() {
            self.notice(About::Damage(number), text.clone());
        }
        let more = damage.get(DAMAGE_MAX..).unwrap_or_default();
        for text in more {
            tracing::warn!("{text}");
        }
        if !more.is_empty() {
            self.notice(About::Damage(DAMAGE_MAX), format!("{} more pieces of damage are in the log", more.len()));
        }
    }

    /// Ends everything: network clients and mounts first, the log's last sync at the end. Uploads go on at the next start.
    ///
    /// # Errors
    /// Where the last sync or checkpoint failed; everything that was acknowledged as synced is safe all the same.
    pub async fn drain(&self) -> Result<(), blob::BlobError> {
        self.stop.cancel();
        let _guard = self.reloading.lock().await;
        tokio::join!(self.smb.drain(), self.nfs.drain(), self.iscsi.drain());
        let running: Vec<_> = std::mem::take(&mut *self.shares.lock()).into_values().collect();
        for share in running {
            share.close().await;
        }
        self.uploader.close(UPLOAD_GRACE).await;
        let closed = self.blobs.close().await;
        self.blobs.meta().close().await;
        if let Some((embedded, _)) = self.embedded.get() {
            embedded.close().await;
        }
        closed
    }
}

/// What to do about it is said where it is known: two places that do not belong together are both named.
fn store_error(error: &blob::BlobError, data: &Path, cache: &Path) -> StartError {
    StartError::Store(match error {
        blob::BlobError::Log(log::LogError::Foreign) => format!(
            "the cache directory {} holds the log of another gateway than the database {} belongs to; nothing was changed. Put back \
             the cache directory or the database that belongs to the other, or give this gateway an empty cache.dir",
            cache.display(),
            data.join("meta.db").display()
        ),
        blob::BlobError::Log(error) => format!("{}: {error}", cache.display()),
        error => error.to_string(),
    })
}

/// One recorder per process; a second gateway of a test shares it.
fn install_metrics() -> metrics_exporter_prometheus::PrometheusHandle {
    use std::sync::OnceLock;
    static HANDLE: OnceLock<metrics_exporter_prometheus::PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::debug!("another recorder of metrics is installed");
            }
            meter::describe();
            handle
        })
        .clone()
}

fn make_directory(path: &Path) -> Result<PathBuf, StartError> {
    let made = fs::create_dir_all(path).and_then(|()| path.canonicalize());
    made.map_err(|error| StartError::Directory(path.to_path_buf(), error))
}

/// Takes the data directory for this process (flock(2)); the kernel gives it back when the process ends, however it ends.
pub(crate) fn lock(data: &Path) -> Result<File, StartError> {
    let path = data.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StartError::Directory(data.to_path_buf(), error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked(data.to_path_buf())),
        Err(error) => Err(StartError::Directory(path, error.into())),
    }
}

/// The cache's size where it is not given: a tenth of what is free on its disk, in whole MiB. `cache` need not exist yet.
pub(crate) fn cache_bytes_default(cache: &Path) -> io::Result<u64> {
    let existing = cache.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let space = rustix::fs::statvfs(existing)?;
    let mine: u64 = fs::read_dir(cache)
        .map_or(0, |files| files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum());
    let tenth = (space.f_bavail * space.f_frsize + mine) / 10;
    Ok(tenth.clamp(CACHE_BYTES_MIN, CACHE_BYTES_DEFAULT) >> 20 << 20)
}

fn blob_settings(config: &Config, cache: &Path) -> Result<blob::Settings, StartError> {
    let size_bytes = match config.cache.size {
        Some(size) => size.0,
        None => cache_bytes_default(cache).map_err(|error| StartError::Directory(cache.to_path_buf(), error))?,
    };
    Ok(blob::Settings {
        log: log::Settings::for_size(size_bytes),
        memory_bytes: config.cache.memory.0,
        checkpoint_interval: CHECKPOINT_INTERVAL,
        wait: config.cache.wait.0,
    })
}

fn upload_settings(config: &Config) -> upload::Settings {
    upload::Settings {
        concurrency: config.upload.concurrency,
        part_concurrency: config.upload.part_concurrency,
        memory_bytes: config.upload.memory.0,
        part_bytes: config.upload.part_size.0,
        ..upload::Settings::default()
    }
}

/// The gateway's id: eight hexadecimal digits, made at the first start. It is in conflict names and generation marks.
async fn gateway_id(blobs: &Arc<BlobStore>) -> Result<String, blob::BlobError> {
    if let Some(Row::Value(row)) = blobs.meta().get(&Key::Value(GATEWAY_ID.into())).await? {
        return Ok(String::from_utf8_lossy(&row.value).into_owned());
    }
    let id = format!("{:08x}", fastrand::u32(..));
    let mut batch = Batch::new();
    batch.put(Row::Value(ValueRow { name: GATEWAY_ID.into(), value: id.clone().into_bytes() }));
    blobs.apply(OwnerId(0), batch).await?;
    blobs.sync().await?;
    Ok(id)
}

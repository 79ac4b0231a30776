//! Opens, closes and reloads shares.
//!
//! Invariants: a bad file leaves its running share alone; the same name with another endpoint, bucket or prefix is refused; an unreadable or empty
//! directory of shares changes nothing. What can change while a share runs touches neither its mount nor what is open in it; only how its bucket is
//! reached makes it open anew. A share that goes is unmounted at once, and stays in `status` until it is drained.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::config::{ConfigError, NamedShare, ShareConfig};
use crate::engine::file::share::Share;
use crate::engine::file::start::{Parts, StartError, check_place};
use crate::engine::file::{Origin, Vfs};
use crate::protocol::fuse;
use crate::store::blob::Portion;

use super::mend::Backoff;
use super::notices::About;
use super::{Gateway, buckets, portions, volumes};

/// The front end number of FUSE mounts.
const FUSE_ORIGIN: Origin = Origin(1);
/// How long a removed share may take to upload what it has before it is closed with the rest kept in the cache.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// A share of the configuration, in whatever state.
pub(super) struct Running {
    pub(super) config: ShareConfig,
    /// `None` where it could not be opened.
    pub(super) share: Option<Arc<Share>>,
    pub(super) mount: Option<fuse::Mount>,
    /// Why it, or its mount, does not run; empty for nothing.
    pub(super) reason: String,
    /// Its file is gone: it uploads what it has.
    pub(super) is_leaving: bool,
    /// When what failed is tried again; `None` for nothing.
    pub(super) retry: Option<Backoff>,
}

impl Running {
    /// Neither open nor mounted yet.
    pub(super) fn new(config: ShareConfig) -> Self {
        Self { config, share: None, mount: None, reason: String::new(), is_leaving: false, retry: None }
    }

    /// Whether something of it does not run that should.
    pub(super) fn is_failed(&self) -> bool {
        let is_mounted = || self.mount.as_ref().is_some_and(fuse::Mount::is_alive);
        !self.is_leaving && (self.share.is_none() || (self.config.fuse.is_some() && !is_mounted()))
    }

    /// Unmounts, stops the uploads, closes.
    pub(super) async fn close(mut self) {
        unmount(self.mount.take()).await;
        if let Some(share) = self.share.take() {
            share.stop().await;
        }
    }
}

pub(super) async fn unmount(mount: Option<fuse::Mount>) {
    let Some(mount) = mount else { return };
    let path = mount.path().to_path_buf();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || mount.unmount()).await {
        tracing::warn!(path = %path.display(), %error, "unmounting failed");
    }
}

impl Gateway {
    /// Reads the shares' files and makes what runs agree with them.
    pub async fn reload(self: &Arc<Self>) {
        let _guard = self.reloading.lock().await;
        if self.stop.is_cancelled() {
            return;
        }
        let wanted = match self.config.load_shares() {
            Ok(shares) => shares,
            Err(error) => return self.notice(About::Shares, format!("{error}; the shares that run are left alone")),
        };
        if wanted.is_empty() && !self.shares.lock().is_empty() {
            let directory = self.config.shares_dir.display();
            return self.notice(About::Shares, format!("{directory} has no share; the shares that run are left alone"));
        }
        self.mended(&About::Shares);
        let names: BTreeSet<String> = wanted.iter().map(|(name, _)| name.clone()).collect();
        let is_gone = |(name, running): &(&String, &Running)| !names.contains(*name) && !running.is_leaving;
        let gone: Vec<String> = self.shares.lock().iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.remove(&name).await;
        }
        self.divide(&wanted);
        for (name, file) in wanted {
            match file {
                Ok(config) => self.bring(&name, config).await,
                Err(error) => self.refuse(&name, &error),
            }
        }
        self.notices.keep_shares(|name| names.contains(name) || name.starts_with(volumes::NAME));
    }

    fn refuse(&self, name: &str, error: &ConfigError) {
        self.notice(About::File(name.to_owned()), format!("{error}; the share is left as it is"));
    }

    /// Divides the cache anew among the shares that are wanted, those that run nevertheless, and the volumes.
    pub(super) fn divide(&self, wanted: &[NamedShare]) {
        let shares = self.shares.lock();
        let wanted: BTreeMap<&String, &ShareConfig> =
            wanted.iter().filter_map(|(name, config)| Some((name, config.as_ref().ok()?))).collect();
        let others = shares.iter().filter(|(name, _)| !wanted.contains_key(name)).map(|(_, running)| &running.config);
        let volumes = self.served_volumes();
        let default = portions::default_guarantee(wanted.values().copied().chain(others), volumes.len(), self.cache_bytes);
        self.default_guarantee.store(default, Ordering::Relaxed);
        for running in shares.values() {
            if let Some(share) = &running.share {
                self.blobs.set_portion(share.owner(), self.portion(&running.config));
            }
        }
        let maximum = self.config.volumes.cache_maximum.map(|size| size.0);
        for volume in volumes {
            self.blobs.set_portion(volume.owner(), portions::volume_portion(maximum, default, self.cache_bytes));
        }
    }

    /// Starts, changes or leaves one share.
    async fn bring(self: &Arc<Self>, name: &str, config: ShareConfig) {
        let before = {
            let mut shares = self.shares.lock();
            match shares.get(name) {
                // What of it does not run is tried again in `mend.rs`.
                Some(running) if running.config == config && !running.is_leaving => {
                    drop(shares);
                    return self.mended(&About::File(name.to_owned()));
                }
                Some(running) if running.share.is_some() => match config.moved_from(&running.config, name, &self.config) {
                    Some(error) => {
                        drop(shares);
                        return self.refuse(name, &error);
                    }
                    None => shares.remove(name),
                },
                _ => shares.remove(name),
            }
        };
        self.mended(&About::File(name.to_owned()));
        let running = match before {
            Some(running) if running.share.is_some() && self.reaches_alike(&running.config, &config) => {
                self.change(name, Running { is_leaving: false, ..running }, config).await
            }
            Some(running) => {
                self.offer(name, &config, None).await;
                running.close().await;
                self.open(name, config).await
            }
            None => self.open(name, config).await,
        };
        if !running.reason.is_empty() {
            tracing::error!(share = name, reason = running.reason, "the share, or its mount, does not run");
        }
        self.offer(name, &running.config, running.share.as_ref()).await;
        self.shares.lock().insert(name.to_owned(), running);
    }

    /// Changes a share while it runs. It is mounted anew only where its mount is what changed.
    async fn change(self: &Arc<Self>, name: &str, running: Running, config: ShareConfig) -> Running {
        let same_mount = running.config.fuse == config.fuse && running.mount.is_some() == config.fuse.is_some();
        if let Some(share) = &running.share {
            share.change(config.settings(&self.config));
            self.blobs.set_portion(share.owner(), self.portion(&config));
        }
        let mut running = Running { config, ..running };
        if !same_mount {
            unmount(running.mount.take()).await;
            (running.reason, running.retry) = (String::new(), None);
            self.mount(name, &mut running).await;
        }
        tracing::info!(share = name, "changed while it runs");
        running
    }

    async fn remove(self: &Arc<Self>, name: &str) {
        tracing::info!(share = name, "removed from the configuration: uploading what it has");
        self.nfs.unexport(name);
        self.smb.unoffer(name).await;
        let (share, mount) = {
            let mut shares = self.shares.lock();
            let Some(running) = shares.get_mut(name) else { return };
            running.is_leaving = true;
            (running.share.clone(), running.mount.take())
        };
        // The mount goes at once: nobody should write to a share that is leaving.
        unmount(mount).await;
        let (gateway, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move { gateway.leave(name, share).await });
    }

    /// Closes a share once everything of it is in S3, unless its file came back meanwhile.
    async fn leave(self: Arc<Self>, name: String, share: Option<Arc<Share>>) {
        if let Some(share) = &share
            && !share.drain(Some(DRAIN_MAX)).await
            && !self.stop.is_cancelled()
        {
            tracing::warn!(share = name, "closed before everything was uploaded; it is kept in the cache");
        }
        let _guard = self.reloading.lock().await;
        let is_it = |running: &Running| match (&running.share, &share) {
            (Some(now), Some(then)) => running.is_leaving && Arc::ptr_eq(now, then),
            (now, then) => running.is_leaving && now.is_none() && then.is_none(),
        };
        let left = {
            let mut shares = self.shares.lock();
            if shares.get(&name).is_some_and(is_it) { shares.remove(&name) } else { None }
        };
        if let Some(running) = left {
            running.close().await;
            if let Some(share) = &share {
                // Nothing is kept free for who is gone.
                let maximum_bytes = self.cache_bytes;
                self.blobs.set_portion(share.owner(), Portion { guaranteed_bytes: 0, maximum_bytes });
            }
            tracing::info!(share = name, "closed");
        }
    }

    async fn open(self: &Arc<Self>, name: &str, config: ShareConfig) -> Running {
        let mut running = Running::new(config);
        match self.open_share(name, &running.config).await {
            Ok(share) => running.share = Some(share),
            Err(reason) => running.reason = reason,
        }
        self.mount(name, &mut running).await;
        running
    }

    /// Mounts a share where its file says so.
    pub(super) async fn mount(&self, name: &str, running: &mut Running) {
        if let (Some(share), Some(config)) = (&running.share, &running.config.fuse) {
            let settings = fuse::Settings { cache: config.cache.0, ..fuse::Settings::at(&config.mount) };
            let (vfs, name) = (share.clone() as Arc<dyn Vfs>, name.to_owned());
            let mounted =
                tokio::task::spawn_blocking(move || fuse::mount(&name, vfs, FUSE_ORIGIN, &settings, &Handle::current())).await;
            match mounted {
                Ok(Ok(mount)) => running.mount = Some(mount),
                Ok(Err(error)) => running.reason = error.to_string(),
                Err(error) => running.reason = error.to_string(),
            }
        }
    }

    /// How many bytes of a share may wait in the cache.
    fn portion(&self, config: &ShareConfig) -> Portion {
        portions::portion(config, self.default_guarantee.load(Ordering::Relaxed), self.cache_bytes)
    }

    /// Whether the bucket is reached in the same way, so that the store under the share can stay.
    fn reaches_alike(&self, before: &ShareConfig, after: &ShareConfig) -> bool {
        (before.s3(&self.config), before.requester_pays) == (after.s3(&self.config), after.requester_pays)
    }

    pub(super) async fn open_share(self: &Arc<Self>, name: &str, config: &ShareConfig) -> Result<Arc<Share>, String> {
        let settings = config.settings(&self.config);
        let explain = |error: StartError| match error {
            StartError::Moved { part, kept, given } => config.moved(name, &self.config, part, &kept, &given).to_string(),
            error => error.to_string(),
        };
        check_place(name, &settings, &self.blobs).await.map_err(explain)?;
        let who = format!("share \"{name}\"");
        let (bucket, prefix, requester_pays) = (&config.bucket, &config.prefix, config.requester_pays);
        let wanted = buckets::Wanted { who: &who, name, bucket, prefix, s3: config.s3(&self.config), requester_pays };
        let parts = Parts {
            blobs: self.blobs.clone(),
            uploader: self.uploader.clone(),
            bucket: buckets::open(self, wanted).await?,
            gateway: self.id.clone(),
            portion: self.portion(config),
        };
        Share::open(name, settings, parts).await.map_err(explain)
    }
}

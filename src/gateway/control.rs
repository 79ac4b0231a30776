//! What the admin address asks of a gateway.

use std::time::Duration;

use async_trait::async_trait;

use super::Gateway;
use super::shares::Running;
use crate::base::id::OwnerId;
use crate::protocol::admin::volumes::{VolumeAnswer, VolumeCommand};
use crate::protocol::admin::{CacheStatus, Control, ShareStatus, Status, UploadStatus};
use crate::store::upload::JobStatus;

/// Jobs in an answer.
const UPLOADS_MAX: usize = 100;

impl Gateway {
    async fn share_status(&self, name: &str, part: SharePart, jobs: &[JobStatus]) -> ShareStatus {
        let mut status = ShareStatus {
            name: name.to_owned(),
            state: part.state.to_owned(),
            reason: part.reason,
            bucket: part.bucket,
            prefix: part.prefix,
            mount: part.mount,
            ..ShareStatus::default()
        };
        if let Some(owner) = part.owner {
            let usage = self.blobs.usage(owner);
            status.dirty_bytes = usage.dirty_bytes;
            status.dirty_bytes_max = usage.maximum_bytes;
            status.oldest_dirty_s = self.age_s(usage.oldest_dirty_ns);
            status.nodes = self.blobs.meta().counts(owner).await.map_or(0, |counts| counts.nodes);
            let mine = jobs.iter().filter(|job| job.owner == owner);
            status.jobs = mine.clone().count() as u64;
            if let Some(trouble) = self.uploader.endpoint_trouble(owner) {
                let said = format!("nothing is uploaded: {trouble}; it is tried again, by one upload at a time");
                status.reason = [status.reason, said].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
            }
            status.failing = mine.filter(|job| job.attempts > 0).count() as u64;
        }
        status
    }

    /// Seconds since `since_ns`; 0 where that is 0.
    fn age_s(&self, since_ns: i64) -> u64 {
        if since_ns == 0 { 0 } else { u64::try_from((self.clock.now_ns() - since_ns) / 1_000_000_000).unwrap_or(0) }
    }

    /// What was said, and what is only known by looking.
    fn all_notices(&self) -> Vec<String> {
        let mut notices = self.notices.all();
        if let Some(failure) = self.blobs.checkpoint_failure() {
            notices.push(format!(
                "the database in {} cannot be written: {failure}; nothing is lost, and what is written meanwhile is in the cache's log \
                 until that is full",
                self.config.data_dir.display()
            ));
        }
        notices
    }

    fn owner(&self, share: &str) -> Result<OwnerId, String> {
        let shares = self.shares.lock();
        let running = shares.get(share).ok_or_else(|| format!("there is no share \"{share}\"; see `tidegate share list`"))?;
        let share = running.share.as_ref().ok_or_else(|| running.reason.clone())?;
        Ok(share.owner())
    }
}

/// What `status` copies out of a share under the lock.
struct SharePart {
    owner: Option<OwnerId>,
    state: &'static str,
    reason: String,
    bucket: String,
    prefix: String,
    mount: String,
}

impl SharePart {
    fn of(running: &Running) -> Self {
        let state = match &running.share {
            Some(_) if running.is_leaving => "draining",
            Some(share) if share.is_short_of_disk() => "read-only",
            Some(_) => "running",
            None => "failed",
        };
        let lost = running.mount.as_ref().is_some_and(|mount| !mount.is_alive());
        let mut reasons = Vec::new();
        match &running.retry {
            _ if lost => reasons.push("somebody unmounted it; it is mounted again".to_owned()),
            Some(retry) if !running.reason.is_empty() => {
                reasons.push(format!("{}; tried again in {} s", running.reason, retry.left().as_secs() + 1));
            }
            _ if !running.reason.is_empty() => reasons.push(running.reason.clone()),
            _ => {}
        }
        if state == "read-only" {
            reasons
                .push("files can only be removed until the gateway's data_dir has free disk again; see the notices".to_owned());
        }
        Self {
            owner: running.share.as_ref().map(|share| share.owner()),
            state,
            reason: reasons.join("; "),
            bucket: running.config.bucket.clone(),
            prefix: running.config.prefix.clone(),
            mount: running.mount.as_ref().map(|mount| mount.path().display().to_string()).unwrap_or_default(),
        }
    }
}

#[async_trait]
impl Control for Gateway {
    async fn status(&self) -> Status {
        let parts: Vec<_> = self.shares.lock().iter().map(|(name, running)| (name.clone(), SharePart::of(running))).collect();
        let mut jobs = self.uploader.status();
        jobs.sort_by_key(|job| (job.key.is_empty(), job.since_ns));
        let name_of = |owner: OwnerId| {
            parts.iter().find(|(_, part)| part.owner == Some(owner)).map_or_else(|| owner.to_string(), |(name, _)| name.clone())
        };
        let uploads = jobs.iter().take(UPLOADS_MAX).map(|job| UploadStatus {
            share: name_of(job.owner),
            key: job.key.clone(),
            age_s: self.age_s(job.since_ns),
            sent_bytes: job.progress_bytes.0,
            total_bytes: job.progress_bytes.1,
            attempts: job.attempts,
            error: job.error.clone(),
        });
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            gateway: self.id.clone(),
            uploads: uploads.collect(),
            uploads_total: jobs.len() as u64,
            cache: {
                let usage = self.blobs.log_usage();
                CacheStatus { segments: usage.segments, segments_free: usage.segments_free, writable_bytes: usage.writable_bytes }
            },
            notices: self.all_notices(),
            nfs: self.nfs_status(),
            volumes: self.volume_statuses(),
            smb: self.smb_status(),
            ..Status::default()
        };
        for (name, part) in parts {
            status.shares.push(self.share_status(&name, part, &jobs).await);
        }
        status
    }

    async fn refresh(&self, share: &str, path: &str) -> Result<(), String> {
        self.owner(share)?;
        let running = self.shares.lock().get(share).and_then(|running| running.share.clone());
        match running {
            Some(share) => share.refresh(path).await.map_err(|error| error.to_string()),
            None => Err(format!("the share \"{share}\" does not run")),
        }
    }

    async fn reload_users(&self) -> Result<(), String> {
        Self::reload_users(self).await
    }

    async fn end_sessions(&self, user: &str) -> Result<(), String> {
        match self.smb.end_sessions(user).await {
            true => Ok(()),
            false => Err(format!("there is no user \"{user}\" who may log on; see `tidegate user list`")),
        }
    }

    async fn wait_for_uploads(&self, share: Option<&str>, limit: Option<Duration>) -> Result<bool, String> {
        if let Some(share) = share {
            self.owner(share)?;
        }
        let wanted = |name: &str| share.is_none_or(|share| share == name);
        let shares: Vec<_> = {
            let running = self.shares.lock();
            running.iter().filter(|(name, _)| wanted(name)).filter_map(|(_, running)| running.share.clone()).collect()
        };
        let all = futures_util::future::join_all(shares.iter().map(|share| share.drain(limit)));
        let volumes = async { share.is_some() || self.drain_volumes(limit).await };
        let (shares, volumes) = futures_util::future::join(all, volumes).await;
        Ok(volumes && shares.into_iter().all(|drained| drained))
    }

    async fn volume(&self, command: VolumeCommand) -> Result<VolumeAnswer, String> {
        let gateway = self.weak.upgrade().ok_or("the gateway is ending")?;
        gateway.command_volume(command).await
    }

    fn metrics(&self) -> String {
        let usage = self.blobs.log_usage();
        metrics::gauge!("tidegate_cache_segments").set(usage.segments);
        metrics::gauge!("tidegate_cache_segments_free").set(usage.segments_free);
        metrics::gauge!("tidegate_cache_unflushed_bytes").set(usage.unflushed_bytes as f64);
        for (name, running) in self.shares.lock().iter() {
            let Some(share) = &running.share else { continue };
            let usage = self.blobs.usage(share.owner());
            metrics::gauge!("tidegate_share_dirty_bytes", "share" => name.clone()).set(usage.dirty_bytes as f64);
            metrics::gauge!("tidegate_share_oldest_dirty_seconds", "share" => name.clone())
                .set(self.age_s(usage.oldest_dirty_ns) as f64);
        }
        self.nfs_metrics();
        self.smb_metrics();
        self.metrics.run_upkeep();
        self.metrics.render()
    }
}

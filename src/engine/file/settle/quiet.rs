//! When a node is uploaded: after it was quiet, or because somebody waits, or because the cache is short.
//!
//! Invariants: quiet ends at most [`PATIENCE`] (and `upload_max_age`) after the job began, however often the node changes; an open file is published as it is
//! only where this share is short of cache (then the oldest, and no other while that is on its way), `upload_max_age` has passed, or
//! somebody waits for it to be in S3.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::id::NodeId;
use crate::engine::file::share::Share;
use crate::engine::file::{NodeKind, VfsError};
use crate::store::blob::{BlobError, BlobInfo};
use crate::store::meta::{JobRow, NodeRow, Row};

use super::{DIRECTORY_QUIET, View};

/// The longest that changes in a row put off an upload.
const PATIENCE: Duration = Duration::from_secs(300);
/// As [`PATIENCE`], of a directory whose entries change.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a published file may take before the next one is published in its place.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(30);

/// The open file that was published last because the cache is short.
#[derive(Clone, Copy)]
struct Published {
    /// Of its job then.
    since_ns: i64,
    node: NodeId,
    at: Instant,
}

fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Share {
    /// As [`Self::not_before`], of a file before its names and objects are read, which a burst of new files would wait for.
    pub(super) async fn left_alone_until(&self, id: NodeId) -> Result<Option<i64>, VfsError> {
        let Some(Ok(row)) = self.try_node(id) else { return Ok(None) };
        if row.kind != NodeKind::File || row.links == 0 {
            return Ok(None);
        }
        match self.blobs.info(row.blob).await {
            Ok(info) => self.quiet_until(&row, Some(&info), false).await,
            Err(BlobError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Until when the node is left alone; `None`: it may be uploaded now.
    pub(super) async fn not_before(&self, view: &View, row: &NodeRow) -> Result<Option<i64>, VfsError> {
        let settled = view.objects.iter().any(|object| view.desires(&object.key));
        self.quiet_until(row, view.info.as_ref(), settled).await
    }

    /// `is_settled`: a directory has its object.
    async fn quiet_until(&self, row: &NodeRow, info: Option<&BlobInfo>, is_settled: bool) -> Result<Option<i64>, VfsError> {
        if self.remote.is_published(row.node) {
            return Ok(None);
        }
        let mut changed_ns = row.ctime_ns;
        if let Some(info) = info.filter(|info| info.is_dirty()) {
            changed_ns = changed_ns.max(info.modified_ns);
        }
        let (upload_delay, stateless_delay, age_max) = {
            let settings = self.settings();
            (settings.upload_delay, settings.stateless_delay, settings.upload_max_age.unwrap_or(Duration::MAX))
        };
        let delay = upload_delay.max(self.remote.stateless.delay(row.node, stateless_delay).unwrap_or_default());
        let implicit =
            row.kind == NodeKind::Directory && row.ctime_ns == row.mtime_ns && (is_settled || row.birth_ns != row.mtime_ns);
        let (quiet, patience) = if implicit { (delay.max(DIRECTORY_QUIET), DIRECTORY_PATIENCE) } else { (delay, PATIENCE) };
        let patience = patience.max(quiet).min(age_max);
        let since_ns = self.job(row.node).await?.map_or(changed_ns, |job| job.since_ns);
        let due_ns = changed_ns.saturating_add(ns(quiet)).min(since_ns.saturating_add(ns(patience)));
        Ok((due_ns > self.now_ns()).then_some(due_ns))
    }

    /// Until when a dirty file that is open for writing is held back.
    pub(super) async fn held_until(&self, node: NodeId) -> Result<i64, VfsError> {
        let Some(age) = self.settings().upload_max_age else { return Ok(i64::MAX) };
        let since_ns = self.job(node).await?.map_or_else(|| self.now_ns(), |job| job.since_ns);
        let until_ns = since_ns.saturating_add(ns(age));
        if until_ns <= self.now_ns() {
            self.remote.published.lock().insert(node);
        }
        Ok(until_ns)
    }

    pub(super) async fn job(&self, node: NodeId) -> Result<Option<JobRow>, VfsError> {
        let key = self.job_key(node);
        let row = match self.meta().try_get(&key) {
            Some(known) => known,
            None => self.meta().get(&key).await?,
        };
        Ok(row.and_then(|row| if let Row::Job(job) = row { Some(job) } else { None }))
    }

    /// Publishes the oldest open file each time the share is short of cache: one at a time.
    pub(in crate::engine::file) async fn run_publisher(share: Weak<Self>, mut pressure: watch::Receiver<u64>) {
        let mut last = None;
        while pressure.changed().await.is_ok() {
            let Some(share) = share.upgrade() else { return };
            match share.publish_oldest(last).await {
                Ok(published) => last = published,
                Err(error) => {
                    tracing::warn!(share = share.name(), %error, "no open file could be published though the cache is short");
                }
            }
        }
    }

    /// Publishes the file that is held back longest, unless the last one is still on its way. Where that takes long, the next one gets its
    /// turn instead: a file that cannot be uploaded does not keep others, and what a dead bucket does not take is not published meanwhile.
    async fn publish_oldest(&self, last: Option<Published>) -> Result<Option<Published>, VfsError> {
        let stuck = last.filter(|last| self.remote.published.lock().contains(&last.node));
        if stuck.is_some_and(|last| last.at.elapsed() < PUBLISH_PATIENCE) {
            return Ok(stuck);
        }
        let held = self.held_back().await?;
        let after = stuck.map_or(0, |last| held.partition_point(|one| *one <= (last.since_ns, last.node)));
        let (earlier, later) = held.split_at(after);
        for (since_ns, node) in later.iter().chain(earlier) {
            if !self.is_publishable(*node).await? {
                continue;
            }
            let mut published = self.remote.published.lock();
            if let Some(last) = stuck {
                published.remove(&last.node);
            }
            published.insert(*node);
            drop(published);
            tracing::info!(share = self.name(), %node, "published while it is open: the cache is short");
            self.uploader.wake(self.owner, node.0, self.now_ns());
            return Ok(Some(Published { since_ns: *since_ns, node: *node, at: Instant::now() }));
        }
        Ok(stuck)
    }

    /// Files with a job that may be waiting for a close, or for the end of writes that know no close; the oldest job first.
    async fn held_back(&self) -> Result<Vec<(i64, NodeId)>, VfsError> {
        let mut held = Vec::new();
        for node in self.handles.written().into_iter().chain(self.remote.stateless.files()) {
            if let Some(job) = self.job(node).await? {
                held.push((job.since_ns, node));
            }
        }
        held.sort_unstable();
        held.dedup();
        Ok(held)
    }

    /// Whether uploading it frees anything.
    async fn is_publishable(&self, id: NodeId) -> Result<bool, VfsError> {
        let row = match self.node(id).await {
            Ok(row) => row,
            Err(VfsError::Stale) => return Ok(false),
            Err(error) => return Err(error),
        };
        if row.links == 0 || row.blob.0 == 0 {
            return Ok(false);
        }
        match self.blobs.info(row.blob).await {
            Ok(info) => Ok(info.is_dirty()),
            Err(BlobError::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

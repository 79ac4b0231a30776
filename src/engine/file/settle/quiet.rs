//! When a node is uploaded: after it was quiet, or because somebody waits, or because the cache is short.
//!
//! Invariants: quiet ends at most [`PATIENCE`] after the job began, however often the node changes; an open file is published as it is
//! only where the cache is short, `upload_max_age` has passed, or somebody waits for it to be in S3.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;

use crate::base::id::NodeId;
use crate::engine::file::share::Share;
use crate::engine::file::{NodeKind, VfsError};
use crate::store::meta::{JobRow, NodeRow, Row};

use super::{DIRECTORY_QUIET, View};

/// The longest that changes in a row put off an upload.
const PATIENCE: Duration = Duration::from_secs(300);
/// As [`PATIENCE`], of a directory whose entries change.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(60);
/// How many open files are published at one signal that the cache is short.
const PUBLISH_AT_ONCE: usize = 4;

fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Share {
    /// Until when the node is left alone; `None`: it may be uploaded now.
    pub(super) async fn not_before(&self, view: &View, row: &NodeRow) -> Result<Option<i64>, VfsError> {
        if self.remote.is_urgent(view.id) {
            return Ok(None);
        }
        let mut changed_ns = row.ctime_ns;
        if let Some(info) = view.info.as_ref().filter(|info| info.is_dirty()) {
            changed_ns = changed_ns.max(info.modified_ns);
        }
        let (upload_delay, stateless_delay) = {
            let settings = self.settings();
            (settings.upload_delay, settings.stateless_delay)
        };
        let delay = upload_delay.max(self.remote.stateless.delay(view.id, stateless_delay).unwrap_or_default());
        let settled = view.objects.iter().any(|object| view.desires(&object.key));
        let implicit =
            row.kind == NodeKind::Directory && row.ctime_ns == row.mtime_ns && (settled || row.birth_ns != row.mtime_ns);
        let (quiet, patience) = if implicit { (delay.max(DIRECTORY_QUIET), DIRECTORY_PATIENCE) } else { (delay, PATIENCE) };
        let since_ns = self.job(view.id).await?.map_or(changed_ns, |job| job.since_ns);
        let due_ns = changed_ns.saturating_add(ns(quiet)).min(since_ns.saturating_add(ns(patience.max(quiet))));
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

    /// Publishes the oldest open files each time the cache is short.
    pub(in crate::engine::file) async fn run_publisher(share: Weak<Self>, mut pressure: watch::Receiver<u64>) {
        while pressure.changed().await.is_ok() {
            let Some(share) = share.upgrade() else { return };
            if let Err(error) = share.publish_oldest().await {
                tracing::warn!(share = share.name(), %error, "no open file could be published though the cache is short");
            }
        }
    }

    async fn publish_oldest(&self) -> Result<(), VfsError> {
        let mut open: Vec<(i64, NodeId)> = Vec::new();
        for job in self.meta().jobs(self.owner).await? {
            let node = NodeId(job.subject);
            if self.handles.opens(node).writers > 0 {
                open.push((job.since_ns, node));
            }
        }
        open.sort_unstable();
        for (_, node) in open.into_iter().take(PUBLISH_AT_ONCE) {
            self.remote.published.lock().insert(node);
            tracing::info!(%node, "published while it is open: the cache is short");
            self.uploader.wake(self.owner, node.0, self.now_ns());
        }
        Ok(())
    }
}

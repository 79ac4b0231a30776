//! The bucket's side of a share: what it keeps in memory, its tasks, and the hooks that the verbs call.
//!
//! What lives here: [`Remote`]; [`Share::attach`] and its end; [`Share::unsettle`] and its kin. What is to be uploaded is in `settle.rs`, what
//! others wrote in `refresh.rs`, renamed directories in `moves.rs`.
//!
//! Invariant: nothing here is needed after a restart. What must survive is in rows: jobs, moves, objects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::id::{BlobId, NodeId, Seq};
use crate::engine::file::VfsError;
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{Batch, BlobError, BlobInfo, Portion};
use crate::store::meta::{Key, NodeRow, Row};

use super::keys::Strange;
use super::layout::WholeLayout;
use super::moves::Moves;
use super::refresh::Listings;
use super::settle::{DIRECTORY_QUIET, Settler, Stateless};
use super::share::{Share, Why};

/// How often a job that was over too early is begun again for one `commit`.
const SETTLE_TRIES: u32 = 3;

/// What the bucket's side keeps in memory.
#[derive(Default)]
pub(super) struct Remote {
    pub(super) listings: Listings,
    pub(super) moves: Moves,
    /// Keys that no path can name.
    pub(super) strange: Strange,
    /// Open files that are to be published as they are.
    pub(super) published: Mutex<HashSet<NodeId>>,
    /// Open files whose objects say that they are open.
    pub(super) marked_open: Mutex<HashSet<NodeId>>,
    /// Files that are written without having been opened.
    pub(super) stateless: Stateless,
    /// Nodes that somebody waits for: their quiet time is over.
    pub(super) urgent: Mutex<Urgent>,
    /// When something below a key prefix was deleted here, nanoseconds since the Unix epoch.
    pub(super) deleted: Deleted,
    /// Nodes that bytes are being written to.
    pub(super) writing: Writing,
    /// Nodes that are being given a job.
    kicks: AtomicUsize,
    stop: CancellationToken,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// Who does not wait for quiet.
#[derive(Default)]
pub(super) struct Urgent {
    /// Drains under way: nobody does.
    drains: usize,
    /// These do not: how many wait for each.
    nodes: HashMap<NodeId, u32>,
}

/// Nodes that bytes are on their way to, with how many writes; `None`: nobody may begin one, because the node is about to get another blob.
#[derive(Default)]
pub(super) struct Writing(Mutex<HashMap<NodeId, Option<u32>>>);

impl Writing {
    /// A write begins; it ends when the answer is dropped. `None` where nobody may: whoever said so has the node's guard until then.
    pub(super) fn begin(&self, node: NodeId) -> Option<impl Drop + '_> {
        let mut writing = self.0.lock();
        *writing.entry(node).or_insert(Some(0)).as_mut()? += 1;
        Some(Guarded(move || {
            let mut writing = self.0.lock();
            if let Some(Some(count)) = writing.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    writing.remove(&node);
                }
            }
        }))
    }

    /// Nobody begins a write until the answer is dropped; `None` where there is one. Under the node's guard.
    pub(super) fn close(&self, node: NodeId) -> Option<impl Drop + '_> {
        let mut writing = self.0.lock();
        if writing.contains_key(&node) {
            return None;
        }
        writing.insert(node, None);
        Some(Guarded(move || {
            self.0.lock().remove(&node);
        }))
    }

    /// Whether there is a write.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.0.lock().get(&node).is_some_and(Option::is_some)
    }
}

impl Urgent {
    fn release(&mut self, node: NodeId) {
        if let Some(count) = self.nodes.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.nodes.remove(&node);
            }
        }
    }
}

/// Prefixes below which an object was deleted lately: a listing asked for earlier may still show them.
pub(super) struct Deleted(moka::sync::Cache<String, i64>);

impl Default for Deleted {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(20_000).time_to_live(Duration::from_secs(900)).build())
    }
}

impl Deleted {
    /// An object was deleted at `now_ns`.
    pub(super) fn note(&self, key: &str, now_ns: i64) {
        for (at, _) in key.match_indices('/') {
            self.0.insert(key[..=at].to_owned(), now_ns);
        }
    }

    /// Whether something below `prefix` was deleted after `since_ns`.
    pub(super) fn since(&self, prefix: &str, since_ns: i64) -> bool {
        self.0.get(prefix).is_some_and(|at| at >= since_ns)
    }
}

impl Remote {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Whether a node's quiet time counts for nothing now.
    pub(super) fn is_urgent(&self, node: NodeId) -> bool {
        let urgent = self.urgent.lock();
        urgent.drains > 0 || urgent.nodes.contains_key(&node)
    }

    /// Whether an open file is to be uploaded as it is.
    pub(super) fn is_published(&self, node: NodeId) -> bool {
        self.published.lock().contains(&node) || self.is_urgent(node)
    }
}

impl Share {
    /// At the end of [`Share::open`]: tells the blob store how bytes are fetched and the uploader who plans, takes up the jobs and moves of an
    /// earlier life, and starts the tasks.
    ///
    /// # Errors
    /// `Io` of the metadata.
    pub(super) async fn attach(self: &Arc<Self>, portion: Portion) -> Result<(), VfsError> {
        self.blobs.register(self.owner, Arc::new(WholeLayout::new(self.bucket.clone())), portion);
        self.load_moves().await?;
        let planner = Arc::new(Settler::new(self));
        self.uploader.register(self.owner, &self.gateway, self.bucket.clone(), planner).await?;
        let mut tasks = self.remote.tasks.lock().await;
        let stop = self.remote.stop.clone();
        let (mover, stop_mover) = (Self::run_moves(Arc::downgrade(self)), stop.clone());
        tasks.spawn(async move { stop_mover.run_until_cancelled(mover).await.unwrap_or(()) });
        let publisher = Self::run_publisher(Arc::downgrade(self), self.blobs.pressure(self.owner));
        tasks.spawn(async move { stop.run_until_cancelled(publisher).await.unwrap_or(()) });
        Ok(())
    }

    /// Ends the tasks; running uploads end first. What is not done is in the rows.
    pub(super) async fn detach(&self) {
        self.remote.stop.cancel();
        let mut tasks = self.remote.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
        self.uploader.unregister(self.owner).await;
    }

    /// Adds the node's job to a batch that changes it.
    pub(super) fn unsettle(&self, batch: &mut Batch, node: &NodeRow, why: Why) {
        self.unsettle_id(batch, node.node, why);
    }

    /// As [`Self::unsettle`], also for a node that is gone.
    pub(super) fn unsettle_id(&self, batch: &mut Batch, node: NodeId, why: Why) {
        let now = self.now_ns();
        let delay =
            if why == Why::Implicit { self.settings().upload_delay.max(DIRECTORY_QUIET) } else { self.settings().upload_delay };
        let due = now.saturating_add(i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX));
        batch.job(node.0, JobChange::Ask { not_before_ns: due });
    }

    /// After the batch was applied, or the last writer closed: the uploader looks at the node's job.
    pub(super) fn settle_soon(&self, node: NodeId) {
        if self.remote.marked_open.lock().contains(&node) && self.handles.opens(node).writers == 0 {
            self.remote.marked_open.lock().remove(&node);
            return self.kick(node);
        }
        match self.meta().try_get(&self.job_key(node)) {
            Some(Some(Row::Job(job))) => self.uploader.wake(self.owner, node.0, job.not_before_ns),
            Some(_) => {}
            None => self.uploader.wake(self.owner, node.0, self.now_ns()),
        }
    }

    /// Before the first write that makes a clean file dirty: its job is in the log before its data.
    pub(super) async fn unsettle_content(&self, node: NodeId) -> Result<(), VfsError> {
        let mut batch = Batch::new();
        self.unsettle_id(&mut batch, node, Why::Content);
        self.blobs.apply(self.owner, batch).await?;
        self.settle_soon(node);
        Ok(())
    }

    /// Whether the node has a job.
    pub(super) async fn has_job(&self, node: NodeId) -> Result<bool, VfsError> {
        let key = self.job_key(node);
        Ok(match self.meta().try_get(&key) {
            Some(known) => known.is_some(),
            None => self.meta().get(&key).await?.is_some(),
        })
    }

    pub(super) fn job_key(&self, node: NodeId) -> Key {
        Key::Job(self.owner, node.0)
    }

    /// Gives a node a job from a place that may not change anything itself.
    pub(super) fn kick(&self, node: NodeId) {
        let Some(share) = self.this.upgrade() else { return };
        self.remote.kicks.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let _over = Guarded(|| {
                share.remote.kicks.fetch_sub(1, Ordering::SeqCst);
            });
            if let Err(error) = share.unsettle_content(node).await {
                tracing::warn!(%node, %error, "a node could not be given a job");
            }
        });
    }

    /// Keys that were seen in the bucket and that no path can name, with the reason: the first thousand, for `status`.
    pub fn strange_keys(&self) -> Vec<(String, &'static str)> {
        self.remote.strange.list()
    }

    /// Everything that was changed before this call is in S3: `false` where `limit` came first.
    pub async fn drain(&self, limit: Option<Duration>) -> bool {
        self.remote.urgent.lock().drains += 1;
        let _over = Guarded(|| self.remote.urgent.lock().drains -= 1);
        let work = async {
            self.remote.moves.idle().await;
            while self.remote.kicks.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let written = self.blobs.last_seq();
            let is_in = |node| self.is_uploaded_through(NodeId(node), written);
            self.uploader.drain(self.owner, limit, &is_in).await
        };
        match limit {
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(false),
            None => work.await,
        }
    }

    /// Whether S3 has what was written to a file up to `seq`, though it was written again since.
    fn is_uploaded_through(&self, node: NodeId, seq: Seq) -> bool {
        let Some(Ok(row)) = self.try_node(node) else { return false };
        self.blobs.try_info(row.blob).is_some_and(|info| info.is_dirty() && info.clean_through > seq)
    }

    /// One node is in S3, as far as it was changed before this call: `commit` with `durability = "remote"`. Its bytes are the judge of that, not
    /// its job alone: where a job is over and they are not in S3, it is given another.
    ///
    /// # Errors
    /// `Unavailable` in the words of its job's last failure; after `remote_timeout` where S3 is away.
    pub(super) async fn settle_now(&self, node: NodeId) -> Result<(), VfsError> {
        *self.remote.urgent.lock().nodes.entry(node).or_default() += 1;
        let _over = Guarded(|| self.remote.urgent.lock().release(node));
        let limit = self.settings().remote_timeout;
        let wanted = self.dirty_through(node).await?;
        for _ in 0..SETTLE_TRIES {
            self.uploader.finish(self.owner, node.0, limit).await.map_err(VfsError::Unavailable)?;
            let clean_through = match self.dirty_through(node).await? {
                Some((blob, info)) if wanted.as_ref().is_some_and(|(before, _)| *before == blob) => info.clean_through,
                _ => return Ok(()),
            };
            if wanted.as_ref().is_none_or(|(_, before)| clean_through >= before.modified_seq) {
                return Ok(());
            }
            tracing::warn!(%node, "a job was over before the bytes were in S3; it goes on");
            self.unsettle_content(node).await?;
        }
        Err(VfsError::Unavailable("the file is not in S3 yet; it is kept and will be uploaded".into()))
    }

    /// The blob of a node that has a name, where S3 lacks something of it.
    async fn dirty_through(&self, node: NodeId) -> Result<Option<(BlobId, BlobInfo)>, VfsError> {
        let row = match self.node(node).await {
            Ok(row) if row.links > 0 && row.blob.0 != 0 => row,
            Ok(_) | Err(VfsError::Stale) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.blobs.info(row.blob).await {
            Ok(info) => Ok(Some((row.blob, info)).filter(|(_, info)| info.is_dirty())),
            Err(BlobError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs something when it is dropped, also where the future that has it is.
struct Guarded<F: FnMut()>(F);

impl<F: FnMut()> Drop for Guarded<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests;

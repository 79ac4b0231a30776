//! What others write into the bucket, as it becomes the tree: listings when a directory is looked at, one HEAD when an object is.
//!
//! What lives here: freshness, and that everybody who asks for the same thing waits for one answer ([`Listings`]); `refresh/merge.rs` is how a
//! listing becomes entries, `refresh/foreign.rs` what a foreign change does to a node that is known, `refresh/look.rs` the HEAD.
//!
//! Invariants:
//! - A directory is listed by LIST alone, at most once per `refresh`, and only when somebody looks at it. A listing that fails costs nobody what is
//!   known already.
//! - A key that a job has, or that a job finished with since its page of the listing was asked for, is ignored in it. So is what a directory that is
//!   being moved still hides.
//! - What is dirty here is never touched by a listing: its upload finds the foreign object by its precondition.
//! - One HEAD per ETag of an object that is looked at, none for one that is only listed.

mod foreign;
mod look;
mod merge;
mod now;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::base::id::NodeId;
use crate::engine::file::VfsError;
use crate::store::meta::NodeRow;
use crate::store::object::ListRequest;

use super::keys::KEY_BYTES_MAX;
use super::share::{FLAG_ATTRIBUTES_UNKNOWN, FLAG_LISTED, Share};
use merge::Merge;

/// Flag of a directory row: others imply it by the keys below it; it has no attributes of its own that S3 should know.
pub const FLAG_IMPLIED: u64 = 1 << 16;

/// How long a directory that is known waits for a new listing, before what is known is told.
const STALE_WAIT: Duration = Duration::from_secs(3);
/// How long after a listing failed nobody asks for it again, where the directory is known.
const FAILED_NS: i64 = 5_000_000_000;
/// Directories that are to be listed at the next look, at most.
const EXPIRED_MAX: usize = 10_000;

type Flight = Shared<BoxFuture<'static, Result<(), VfsError>>>;
type Flights = Mutex<HashMap<NodeId, Flight>>;

/// Questions to the bucket that are under way, and what is known of their ends.
#[derive(Default)]
pub(super) struct Listings {
    lists: Flights,
    looks: Flights,
    /// Directories whose listing is old, whatever its age.
    expired: Mutex<HashSet<NodeId>>,
    /// When the last listing failed, nanoseconds since the Unix epoch.
    failed: Mutex<HashMap<NodeId, i64>>,
}

impl Listings {
    /// The directory is listed at the next look.
    pub(super) fn expire(&self, dir: NodeId) {
        let mut expired = self.expired.lock();
        if expired.len() < EXPIRED_MAX {
            expired.insert(dir);
        }
    }

    fn note_failed(&self, dir: NodeId, now_ns: i64) {
        let mut failed = self.failed.lock();
        if failed.len() >= EXPIRED_MAX {
            failed.retain(|_, at| now_ns - *at < FAILED_NS);
        }
        failed.insert(dir, now_ns);
    }
}

impl Share {
    /// Whether what is known of a directory's entries may be told without asking the bucket.
    pub(super) fn is_fresh(&self, dir: &NodeRow) -> bool {
        if dir.flags & FLAG_LISTED == 0 || self.remote.listings.expired.lock().contains(&dir.node) {
            return false;
        }
        let refresh_ns = i64::try_from(self.settings().refresh.as_nanos()).unwrap_or(i64::MAX);
        self.now_ns().saturating_sub(dir.listed_ns) < refresh_ns
    }

    /// Before a lookup, a readdir, or a check for emptiness, in a directory that is not [`Self::is_fresh`]: lists it. Called without guards,
    /// may be dropped. Where it was listed once and S3 does not answer now, what is known stands: no failure.
    pub(super) async fn ensure_listed(&self, dir: NodeId) -> Result<(), VfsError> {
        let row = self.node(dir).await?;
        if self.is_fresh(&row) {
            return Ok(());
        }
        if row.flags & FLAG_LISTED == 0 {
            return self.list_shared(dir).await;
        }
        let now = self.now_ns();
        let failed = self.remote.listings.failed.lock().get(&dir).is_some_and(|at| now - *at < FAILED_NS);
        let prefix = self.dir_prefix(dir).await?;
        if failed || prefix.len() > KEY_BYTES_MAX || self.remote.moves.covers(&prefix) {
            return Ok(());
        }
        match tokio::time::timeout(STALE_WAIT, self.list_shared(dir)).await {
            Ok(Err(VfsError::Stale)) => Err(VfsError::Stale),
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                self.remote.listings.note_failed(dir, self.now_ns());
                Ok(())
            }
        }
    }

    /// One listing for everybody who asks while it is under way; it goes on where they give up.
    async fn list_shared(&self, dir: NodeId) -> Result<(), VfsError> {
        let share = self.this.upgrade().ok_or(VfsError::Stale)?;
        join(&self.remote.listings.lists, dir, move || {
            async move {
                let listed = share.list(dir).await;
                if let Err(error) = &listed
                    && *error != VfsError::Stale
                {
                    tracing::warn!(share = share.name(), %dir, %error, "a directory could not be listed");
                }
                share.remote.listings.lists.lock().remove(&dir);
                listed
            }
            .boxed()
        })
        .await
    }

    /// Lists a directory, page by page, and merges what is there.
    pub(super) async fn list(self: &Arc<Self>, dir: NodeId) -> Result<(), VfsError> {
        let row = self.node(dir).await?;
        let is_first = row.flags & FLAG_LISTED == 0;
        let prefix = if is_first { self.listing_prefix(dir).await? } else { self.dir_prefix(dir).await? };
        let mut merge = Merge::new(self, dir, prefix.clone(), is_first);
        let mut token = None;
        loop {
            let request = ListRequest { prefix: prefix.clone(), delimiter: Some("/".into()), token, ..ListRequest::default() };
            merge.ask();
            let page = self.bucket.list(&request).await?;
            token = page.next.clone();
            merge.page(page).await?;
            if token.is_none() {
                break;
            }
        }
        merge.finish().await?;
        self.remote.listings.failed.lock().remove(&dir);
        Ok(())
    }

    /// Before attributes, permissions or bytes of a node with `FLAG_ATTRIBUTES_UNKNOWN` are told or used: one HEAD per ETag. Afterwards the
    /// node has its attributes and, where it is a file, its blob. Called without guards, may be dropped.
    pub(super) async fn ensure_attributes(&self, node: NodeId) -> Result<(), VfsError> {
        if self.node(node).await?.flags & FLAG_ATTRIBUTES_UNKNOWN == 0 {
            return Ok(());
        }
        let share = self.this.upgrade().ok_or(VfsError::Stale)?;
        join(&self.remote.listings.looks, node, move || {
            async move {
                let seen = share.look(node).await;
                share.remote.listings.looks.lock().remove(&node);
                seen
            }
            .boxed()
        })
        .await
    }
}

/// The flight under way for a node, or a new one. It ends also where nobody waits for it any more.
fn join(flights: &Flights, node: NodeId, begin: impl FnOnce() -> BoxFuture<'static, Result<(), VfsError>>) -> Flight {
    let mut flights = flights.lock();
    if let Some(flight) = flights.get(&node) {
        return flight.clone();
    }
    let task = tokio::spawn(begin());
    let flight = async move { task.await.unwrap_or_else(|error| Err(VfsError::Io(error.to_string()))) }.boxed().shared();
    flights.insert(node, flight.clone());
    flight
}

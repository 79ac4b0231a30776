//! Renamed directories: the rename is done at once, in the tree; the objects below follow, in the background.
//!
//! A [`MoveRow`] says that a directory was renamed and that not all below it know. It is worked off in two passes over the directory, each a walk
//! that keeps a path of cookies and nothing else:
//! 1. directories that were never listed are listed, at the old prefix (`source_prefix` of the row, until this pass is over): from then on
//!    every object below is known by its row;
//! 2. every node that has objects gets a job, so many at a time as the queue bears. Each job finds by itself that its object is at
//!    a key that its names no longer give, whatever has been renamed meanwhile.
//!
//! Then the row goes: the jobs carry the rest. After a restart both passes begin anew, and find most of it done.
//!
//! Invariants: while pass 1 is not over, nobody writes a key below the old prefix that no row knows, and no listing is believed there; pass 1
//! needs LISTs alone, so it never waits for a job; a directory that is renamed again is walked again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::base::id::{NodeId, Seq};
use crate::engine::file::{NodeKind, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::{EntryRow, Key, MoveRow, NodeRow, Row};

use super::share::{FLAG_LISTED, Share, Why};

/// Entries that are read at a time.
const PAGE: usize = 256;
/// Jobs that a walk lets wait in the queue.
const JOBS_MAX: u64 = 4096;
/// How long a walk waits for the queue before it goes on all the same.
const JOBS_PATIENCE: Duration = Duration::from_secs(30);
const JOBS_POLL: Duration = Duration::from_millis(50);
/// First and longest wait after a failed walk.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The moves that are not worked off.
pub(super) struct Moves {
    list: Mutex<Vec<Move>>,
    begun: Arc<Notify>,
    ended: watch::Sender<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Move {
    node: NodeId,
    prefix: String,
    /// Pass 1 is over.
    is_listed: bool,
    /// Which rename it was: a walk for an earlier one is not enough.
    seq: Seq,
}

impl Default for Moves {
    fn default() -> Self {
        Self { list: Mutex::default(), begun: Arc::default(), ended: watch::Sender::new(0) }
    }
}

impl Moves {
    fn hidden(&self, by: impl Fn(&str) -> bool) -> bool {
        self.list.lock().iter().any(|one| !one.is_listed && by(&one.prefix))
    }

    /// Whether there may be an object at a key that no row knows of.
    pub(super) fn may_hide(&self, key: &str) -> bool {
        self.hidden(|prefix| key.starts_with(prefix))
    }

    /// Whether the whole of a directory is such.
    pub(super) fn covers(&self, dir_prefix: &str) -> bool {
        self.hidden(|prefix| dir_prefix.starts_with(prefix))
    }

    /// Whether a part of a directory is such.
    pub(super) fn touches(&self, dir_prefix: &str) -> bool {
        self.hidden(|prefix| dir_prefix.starts_with(prefix) || prefix.starts_with(dir_prefix))
    }

    /// Whether something was renamed that is, or is below, a directory.
    pub(super) fn begins_below(&self, dir_prefix: &str) -> bool {
        self.hidden(|prefix| prefix.starts_with(dir_prefix))
    }

    /// Whether all jobs that follow from renames are in the queue.
    pub(super) fn is_idle(&self) -> bool {
        self.list.lock().is_empty()
    }

    /// Returns when they are.
    pub(super) async fn idle(&self) {
        let mut ended = self.ended.subscribe();
        while !self.is_idle() {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }

    fn begin(&self, new: Move) {
        let mut list = self.list.lock();
        list.retain(|old| (old.node, &old.prefix) != (new.node, &new.prefix));
        list.push(new);
        self.begun.notify_one();
    }

    fn first(&self, listed: bool) -> Option<Move> {
        self.list.lock().iter().find(|one| one.is_listed == listed).cloned()
    }

    /// Pass 1 of this rename is over.
    fn listed(&self, done: &Move) {
        for one in self.list.lock().iter_mut().filter(|one| *one == done) {
            one.is_listed = true;
        }
    }

    /// Says whether it is gone: not if the directory was renamed again.
    fn end(&self, done: &Move) -> bool {
        let mut list = self.list.lock();
        let before = list.len();
        list.retain(|one| one != done);
        let is_gone = list.len() < before;
        drop(list);
        self.ended.send_modify(|count| *count += 1);
        is_gone
    }
}

impl Share {
    /// In the batch that renames a directory, under its guard: objects below it are still at `old_prefix` ([`Self::listing_prefix`] as it
    /// was). The caller puts the row.
    pub(super) fn begin_move(&self, batch: &mut Batch, dir: &mut NodeRow, old_prefix: String) {
        let seq = Seq(u64::try_from(self.now_ns()).unwrap_or(0));
        dir.source_prefix.get_or_insert_with(|| old_prefix.clone());
        batch.put(Row::Move(MoveRow { owner: self.owner, node: dir.node, prefix: old_prefix.clone(), seq }));
        self.remote.moves.begin(Move { node: dir.node, prefix: old_prefix, is_listed: false, seq });
    }

    /// Takes up the moves of an earlier life.
    pub(super) async fn load_moves(&self) -> Result<(), VfsError> {
        for row in self.meta().moves(self.owner).await? {
            self.remote.moves.begin(Move { node: row.node, prefix: row.prefix, is_listed: false, seq: row.seq });
        }
        Ok(())
    }

    /// Where a directory that was never listed has its objects: below the old prefix of whatever was renamed above it last.
    ///
    /// # Errors
    /// As [`Self::dir_prefix`].
    pub(super) async fn listing_prefix(&self, dir: NodeId) -> Result<String, VfsError> {
        let mut names = Vec::new();
        let mut at = dir;
        let mut prefix = loop {
            if let Some(prefix) = self.node(at).await?.source_prefix {
                break prefix;
            }
            let Some((parent, name)) = self.place_of(at).await? else { break self.prefix.clone() };
            names.push(name);
            at = parent;
        };
        for name in names.iter().rev() {
            prefix.push_str(std::str::from_utf8(name).map_err(|_| VfsError::BadName)?);
            prefix.push('/');
        }
        Ok(prefix)
    }

    /// The task that works moves off, until it is dropped.
    pub(super) async fn run_moves(share: Weak<Self>) {
        let mut wait = BACKOFF.0;
        loop {
            let Some(strong) = share.upgrade() else { return };
            match strong.work_off_moves().await {
                Ok(true) => wait = BACKOFF.0,
                Ok(false) => {
                    wait = BACKOFF.0;
                    let begun = strong.remote.moves.begun.clone();
                    drop(strong);
                    begun.notified().await;
                }
                Err(error) => {
                    tracing::warn!(share = strong.name(), %error, "a renamed directory could not be walked");
                    drop(strong);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// One step: says whether there was one.
    async fn work_off_moves(&self) -> Result<bool, VfsError> {
        self.list_moved().await?;
        let Some(one) = self.remote.moves.first(true) else { return Ok(false) };
        self.walk(one.node, Pass::Jobs).await?;
        let _guard = self.guards.lock(&[one.node]).await;
        if self.remote.moves.end(&one) {
            let mut batch = Batch::new();
            batch.drop(Key::Move(self.owner, one.node, one.prefix));
            self.apply(batch).await?;
        }
        Ok(true)
    }

    /// Pass 1 of every move that has not had it.
    async fn list_moved(&self) -> Result<(), VfsError> {
        while let Some(one) = self.remote.moves.first(false) {
            // A rename that is under way has its rows when its guard is free.
            drop(self.guards.lock(&[one.node]).await);
            self.walk(one.node, Pass::List).await?;
            let _guard = self.guards.lock(&[one.node]).await;
            self.remote.moves.listed(&one);
            let is_last = !self.remote.moves.list.lock().iter().any(|other| other.node == one.node && !other.is_listed);
            if let Ok(mut row) = self.node(one.node).await
                && is_last
                && row.source_prefix.take().is_some()
            {
                let mut batch = Batch::new();
                batch.put(Row::Node(row));
                self.apply(batch).await?;
            }
        }
        Ok(())
    }

    /// Walks a directory and all below it.
    async fn walk(&self, top: NodeId, pass: Pass) -> Result<(), VfsError> {
        let mut path = vec![(top, 0_u64)];
        while let Some((dir, after)) = path.pop() {
            match self.walk_page(dir, after, pass).await {
                Ok((page, subdirectory)) => {
                    if let Some(last) = page {
                        path.push((dir, last));
                    }
                    path.extend(subdirectory.map(|node| (node, 0)));
                }
                Err(VfsError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Some entries after a cookie, up to and with the first directory. Returns where to go on, and that directory.
    async fn walk_page(&self, dir: NodeId, after: u64, pass: Pass) -> Result<(Option<u64>, Option<NodeId>), VfsError> {
        if pass == Pass::List && self.node(dir).await?.flags & FLAG_LISTED == 0 {
            self.ensure_listed(dir).await?;
        }
        let mut entries = self.meta().entries(dir, after, PAGE).await?;
        let is_last = entries.len() < PAGE;
        let subdirectory = entries.iter().position(|entry| entry.kind == NodeKind::Directory);
        if let Some(at) = subdirectory {
            entries.truncate(at + 1);
        }
        if pass == Pass::Jobs {
            self.give_jobs(&entries).await?;
        }
        let go_on = (!is_last || subdirectory.is_some()).then(|| entries.last().map_or(after, |entry| entry.cookie));
        Ok((go_on, subdirectory.and_then(|at| entries.get(at)).map(|entry| entry.node)))
    }

    /// Jobs for nodes that have objects. What has none has a job already, or nothing to move.
    async fn give_jobs(&self, entries: &[EntryRow]) -> Result<(), VfsError> {
        let mut batch = Batch::new();
        let mut nodes = Vec::new();
        for entry in entries {
            if !self.meta().objects_of(entry.node).await?.is_empty() {
                self.unsettle_id(&mut batch, entry.node, Why::Names);
                nodes.push(entry.node);
            }
        }
        if nodes.is_empty() {
            return Ok(());
        }
        self.apply(batch).await?;
        for node in nodes {
            self.settle_soon(node);
        }
        let patience = tokio::time::Instant::now() + JOBS_PATIENCE;
        while self.meta().counts(self.owner).await?.jobs > JOBS_MAX && tokio::time::Instant::now() < patience {
            Box::pin(self.list_moved()).await?;
            tokio::time::sleep(JOBS_POLL).await;
        }
        Ok(())
    }
}

/// What a walk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Lists what was never listed.
    List,
    /// Gives jobs.
    Jobs,
}

//! When the bucket is not what was expected: somebody else wrote a key that we were about to write, or deleted what we were about to change.
//!
//! What is clean here follows the bucket. What is dirty is kept: by the policy `keep-both` ours is renamed to `NAME.conflict-GATEWAY-TIME` and uploaded
//! there, and the foreign object is what the name names from now on; by `local-wins` ours replaces it under its ETag; by `remote-wins` ours is given up.
//! Markers, overflows and link groups have no bytes of anybody: ours replace them.
//!
//! The row of a foreign object has no content of ours (`content_seq` 0), whatever is to be written over it.
//!
//! Where the blob reads from an object that is somebody else's now, or gone, it reads from another name's object with the same bytes; where there is
//! none, what of it is cached becomes ours to upload.
//!
//! Invariants: rows change here in batches of their own, under guards; the operation is planned again afterwards and finds another state. Nothing is
//! given up silently: every conflict is a line in the log, with the ranges that nobody has any more.

use crate::base::id::{NodeId, Seq};
use crate::engine::file::{Changed, Origin, VfsError};
use crate::store::blob::{Batch, Patience};
use crate::store::meta::{EntryRow, Key, NodeRow, ObjectRow, Row};
use crate::store::object::{ETag, Head, Listed};
use crate::store::upload::{GENERATION_MARK, Op};

use super::attributes;
use super::keys;
use super::layout::Source;
use super::settle::{View, new_object};
use super::share::{ConflictPolicy, Share, Why};
use super::tree::touch;

/// Names that are tried for one conflict.
const NAMES_TRIED: u32 = 1000;

impl Share {
    /// `op` was not done: `found` is at its key instead of what was expected.
    pub(super) async fn conflict(&self, node: NodeId, op: &Op, found: Option<&Head>, batch: &mut Batch) -> Result<(), VfsError> {
        let key = op.target();
        let view = self.view(node).await?;
        let desired = view.desired.iter().find(|desired| desired.key == key);
        let foreign = found.and_then(|head| Some((head, head.etag.clone()?)));
        let Some((head, etag)) = foreign else {
            return self.destroyed(&view, op, batch).await;
        };
        if let Some(row) = self.unrecorded(key, head, &etag).await? {
            batch.put(Row::Object(row));
            return Ok(());
        }
        if keys::is_hidden(&self.prefix, key) || key.ends_with('/') {
            let mut row = new_object(self, node, key, &etag, head.version.as_ref(), head.size_bytes);
            if head.size_bytes > 0 && !keys::is_hidden(&self.prefix, key) {
                // Somebody keeps bytes there, which no directory has: left alone.
                self.remote.strange.note(key, "a directory's marker with bytes");
                row.attributes_digest = attributes_digest(op);
            }
            batch.put(Row::Object(row));
            return Ok(());
        }
        let modified_ns = head.modified_ns;
        let listed = Listed {
            key: key.to_owned(),
            size_bytes: head.size_bytes,
            etag: etag.clone(),
            modified_ns,
            storage_class: head.attributes.storage_class.clone(),
        };
        let Some(entry) = desired.and_then(|desired| desired.entry.clone()).filter(|_| !matches!(op, Op::Delete { .. })) else {
            self.forget_object(key, batch).await?;
            self.expire_directory_of(key).await;
            return Ok(());
        };
        let is_ours_overwritten = view.object(key).is_some();
        if is_ours_overwritten && !view.is_dirty() {
            tracing::info!(key, "overwritten by somebody else: the file follows");
            self.adopt_now(&entry, &listed, true).await?;
            return Ok(());
        }
        if is_ours_overwritten {
            self.let_go(&view, key).await?;
        }
        match self.settings().conflict {
            ConflictPolicy::KeepBoth => self.keep_both(&view, &entry, &listed).await,
            ConflictPolicy::LocalWins => {
                tracing::warn!(key, "conflict: what somebody else wrote is replaced by ours (local-wins)");
                batch.put(Row::Object(new_object(self, node, key, &etag, head.version.as_ref(), head.size_bytes)));
                Ok(())
            }
            ConflictPolicy::RemoteWins => {
                tracing::warn!(key, "conflict: ours is given up for what somebody else wrote (remote-wins)");
                self.give_up(&entry, &listed).await
            }
        }
    }

    /// The row of an object that a removed node of ours wrote later than its row says: the power failed before that was recorded, and then the node
    /// was removed. Its mark says so; an older one is somebody's copy.
    async fn unrecorded(&self, key: &str, head: &Head, etag: &ETag) -> Result<Option<ObjectRow>, VfsError> {
        let Some(row) = self.object(key).await? else { return Ok(None) };
        let family = format!("{}-{}-", self.gateway, row.node);
        let mark = head.attributes.metadata.get(GENERATION_MARK).and_then(|mark| mark.strip_prefix(&family));
        let generation = mark.and_then(|mark| mark.split('-').next()?.parse().ok()).map(Seq);
        let is_later = generation.is_some_and(|generation| generation > row.content_seq);
        if !is_later || self.node(row.node).await.is_ok_and(|row| row.links > 0) {
            return Ok(None);
        }
        let (etag, version) = (etag.0.clone(), head.version.clone());
        Ok(Some(ObjectRow { etag, version, size_bytes: head.size_bytes, attributes_digest: 0, ..row }))
    }

    /// What was expected at the operation's key is gone.
    async fn destroyed(&self, view: &View, op: &Op, batch: &mut Batch) -> Result<(), VfsError> {
        let key = op.target();
        let Some(object) = view.object(key).cloned() else { return self.forget_object(key, batch).await };
        let entry = view.desired.iter().find(|desired| desired.key == key).and_then(|desired| desired.entry.clone());
        let is_bytes = !key.ends_with('/') && !keys::is_hidden(&self.prefix, key);
        if let Some(entry) = entry.filter(|_| is_bytes && !view.is_dirty()) {
            tracing::info!(key, "deleted by somebody else: the file is gone here too");
            self.vanish_now(&entry, &object, true).await?;
            return Ok(());
        }
        if is_bytes {
            self.let_go(view, key).await?;
        }
        self.forget_object(key, batch).await
    }

    /// The object that `op` reads is not the one that was known.
    pub(super) async fn source_changed(&self, node: NodeId, op: &Op, batch: &mut Batch) -> Result<(), VfsError> {
        let view = self.view(node).await?;
        let read = view.info.as_ref().and_then(|info| Source::decode(&info.source)).map(|source| source.key);
        let Some(key) = op.sources().first().map(|key| (*key).to_owned()).or(read) else { return Ok(()) };
        let known = view.object(&key).cloned();
        if let Some(object) = known.filter(|_| !view.is_dirty()) {
            tracing::info!(key, "changed by somebody else while it was about to be copied: the file follows");
            return self.check_source_now(node, &object, true).await;
        }
        self.let_go(&view, &key).await?;
        self.expire_directory_of(&key).await;
        self.forget_own(node, &key, batch).await
    }

    async fn forget_own(&self, node: NodeId, key: &str, batch: &mut Batch) -> Result<(), VfsError> {
        match self.object(key).await? {
            Some(object) if object.node == node => self.forget_object(key, batch).await,
            _ => Ok(()),
        }
    }

    async fn forget_object(&self, key: &str, batch: &mut Batch) -> Result<(), VfsError> {
        if self.object(key).await?.is_some() {
            batch.drop(Key::Object(self.owner, key.to_owned()));
        }
        Ok(())
    }

    /// The directory that a key is in is listed at the next look.
    async fn expire_directory_of(&self, key: &str) {
        let parent = key.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| format!("{parent}/"));
        let dir = match parent {
            Some(parent) if parent.len() > self.prefix.len() => {
                self.entry_at(&parent).await.ok().flatten().map(|entry| entry.node)
            }
            _ => Some(self.root),
        };
        if let Some(dir) = dir {
            self.remote.listings.expire(dir);
        }
    }

    /// Ours gets another name; the foreign object gets the name.
    async fn keep_both(&self, view: &View, entry: &EntryRow, foreign: &Listed) -> Result<(), VfsError> {
        let _guard = self.guards.lock(&[entry.parent, entry.node]).await;
        if self.entry(entry.parent, &entry.name).await?.as_ref() != Some(entry) {
            return Ok(());
        }
        let Some(name) = self.conflict_name(entry).await? else { return Ok(()) };
        let now = self.now_ns();
        let mut dir = self.node(entry.parent).await?;
        let mut known = self.known(entry.node).await?;
        known.changed(now);
        let theirs = self.unknown_row(crate::engine::file::NodeKind::File, foreign.modified_ns).await?;
        let mut batch = Batch::new();
        self.drop_entry(&mut batch, &mut dir, entry);
        self.add_entry(&mut batch, &mut dir, &name, entry.node, entry.kind);
        self.add_entry(&mut batch, &mut dir, &entry.name, theirs.node, theirs.kind);
        touch(&mut dir, now);
        batch.put(Row::Object(self.foreign_object(theirs.node, foreign)));
        batch.put(Row::Node(theirs.clone()));
        self.unsettle(&mut batch, &known.row, Why::Names);
        batch.put(Row::Node(known.row));
        batch.put(Row::Node(dir));
        self.apply(batch).await?;
        let kept = String::from_utf8_lossy(&name).into_owned();
        tracing::warn!(
            share = self.name(),
            key = foreign.key,
            kept,
            "conflict: somebody else wrote this key; ours is kept beside it"
        );
        self.settle_soon(view.id);
        self.tell(Origin(0), Changed::Entry { parent: entry.parent, name, before: NodeId(0), after: entry.node });
        let (parent, name) = (entry.parent, entry.name.clone());
        self.tell(Origin(0), Changed::Entry { parent, name, before: entry.node, after: theirs.node });
        Ok(())
    }

    /// A name for ours that nobody has.
    async fn conflict_name(&self, entry: &EntryRow) -> Result<Option<Vec<u8>>, VfsError> {
        let name = String::from_utf8_lossy(&entry.name);
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.now_ns())).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ");
        let tail = format!(".conflict-{}-{time}", self.gateway);
        let prefix = self.dir_prefix(entry.parent).await?;
        for count in 1..NAMES_TRIED {
            let tail = if count == 1 { tail.clone() } else { format!("{tail}-{count}") };
            let room = keys::NAME_BYTES_MAX.saturating_sub(tail.len());
            let name = format!("{}{tail}", &name[..name.floor_char_boundary(room)]);
            let taken = self.entry(entry.parent, name.as_bytes()).await?.is_some();
            if !taken && self.object(&format!("{prefix}{name}")).await?.is_none() {
                return Ok(Some(name.into_bytes()));
            }
        }
        Ok(None)
    }

    /// Ours is given up, dirty or not; where it has other names, only under this one.
    async fn give_up(&self, entry: &EntryRow, foreign: &Listed) -> Result<(), VfsError> {
        let _guard = self.guards.lock(&[entry.parent, entry.node]).await;
        if self.entry(entry.parent, &entry.name).await?.as_ref() != Some(entry) {
            return Ok(());
        }
        let row: NodeRow = self.node(entry.node).await?;
        let mut batch = Batch::new();
        let event = if row.links > 1 {
            let view = self.view(entry.node).await?;
            self.part(&view, entry, row, foreign, &mut batch).await?
        } else if self.handles.opens(entry.node).writers > 0 {
            return Err(VfsError::Unavailable("somebody has the file open for writing".into()));
        } else {
            self.refill(row, foreign, &mut batch).await?
        };
        self.apply(batch).await?;
        self.settle_soon(entry.node);
        self.tell(Origin(0), event);
        self.tell(Origin(0), Changed::Attr(entry.node));
        Ok(())
    }

    /// The object at `key` is not ours any more. See the module.
    pub(super) async fn let_go(&self, view: &View, key: &str) -> Result<(), VfsError> {
        let (Some(row), Some(info)) = (&view.row, &view.info) else { return Ok(()) };
        if !view.reads_from(key) {
            return Ok(());
        }
        if let Some(change) = view.read_from_twin(&self.prefix) {
            let mut batch = Batch::new();
            batch.blob(change);
            self.apply(batch).await?;
            return Ok(());
        }
        let lost = self.blobs.detach(row.blob, &info.source, Patience::Default).await?;
        if !lost.is_empty() {
            tracing::error!(key, ?lost, "somebody else destroyed bytes that were not in the cache: they read as zeros now");
        }
        Ok(())
    }
}

fn attributes_digest(op: &Op) -> u64 {
    match op {
        Op::PutBlob { attributes, .. } | Op::PutBytes { attributes, .. } => attributes::digest(attributes),
        Op::Copy { attributes: Some(attributes), .. } => attributes::digest(attributes),
        Op::PutMade { .. } | Op::Copy { .. } | Op::Delete { .. } => 0,
    }
}

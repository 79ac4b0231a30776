//! What a foreign change does to a node that is known and clean: other bytes, or no object any more.
//!
//! Invariants: nothing that is dirty, has a job, or is being written to is touched, and that is looked at under the guards; whoever has
//! the node open, also for writing, keeps the node, with its new bytes or with none. What is deleted keeps its name while it is open for writing, so
//! that what is written next is not written to a file without one.

use std::time::Duration;

use crate::base::id::{BlobId, NodeId, Seq};
use crate::engine::file::layout::Source;
use crate::engine::file::settle::View;
use crate::engine::file::share::{FLAG_ATTRIBUTES_UNKNOWN, Share, Why};
use crate::engine::file::tree::{Known, touch};
use crate::engine::file::{Changed, NodeKind, Origin, VfsError};
use crate::store::blob::{Batch, BlobChange, BlobInfo};
use crate::store::meta::{EntryRow, Key, NodeRow, ObjectRow, Row};
use crate::store::object::{ETag, Head, Listed, ObjectError};
use crate::store::upload::is_marked_by;

use super::FLAG_IMPLIED;

/// Between two looks at whether the outcome of our own write is recorded.
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

impl Share {
    /// Whether something of the node waits to be uploaded.
    async fn is_busy(&self, known: &Known, by_its_job: bool) -> Result<bool, VfsError> {
        let dirty = known.info.as_ref().is_some_and(BlobInfo::is_dirty);
        Ok(dirty || (!by_its_job && self.has_job(known.row.node).await?))
    }

    /// The entry's object was overwritten by somebody else. Says whether that changed anything here.
    pub(in crate::engine::file) async fn adopt(&self, entry: &EntryRow, object: &Listed) -> Result<bool, VfsError> {
        self.adopt_now(entry, object, false).await
    }

    /// As [`Self::adopt`]; `by_its_job`: asked for by the node's own job, which is then no reason to leave it alone.
    pub(in crate::engine::file) async fn adopt_now(
        &self,
        entry: &EntryRow,
        object: &Listed,
        by_its_job: bool,
    ) -> Result<bool, VfsError> {
        let _guard = self.guards.lock(&[entry.parent, entry.node]).await;
        if self.entry(entry.parent, &entry.name).await?.as_ref() != Some(entry) {
            return Ok(false);
        }
        let Some(_no_writes) = self.remote.writing.close(entry.node) else { return Ok(false) };
        let known = self.known(entry.node).await?;
        // Who writes to a node of several names does not say through which.
        let is_parted = known.row.links > 1 && self.handles.opens(entry.node).writers > 0;
        if is_parted || self.is_busy(&known, by_its_job).await? {
            return Ok(false);
        }
        tracing::debug!(key = object.key, node = %entry.node, "overwritten by somebody else: the file follows");
        let view = self.view(entry.node).await?;
        let mut batch = Batch::new();
        let event = if known.row.links > 1 && is_key_of(&view, entry, &object.key) {
            self.part(&view, entry, known.row, object, &mut batch).await?
        } else {
            self.refill(known.row, object, &mut batch).await?
        };
        self.apply(batch).await?;
        self.settle_soon(entry.node);
        self.tell(Origin(0), event);
        self.tell(Origin(0), Changed::Attr(entry.node));
        Ok(true)
    }

    /// A node gets the bytes of another object; what it is besides is unknown until somebody looks. Under its guard.
    pub(in crate::engine::file) async fn refill(
        &self,
        mut row: NodeRow,
        object: &Listed,
        batch: &mut Batch,
    ) -> Result<Changed, VfsError> {
        let node = row.node;
        if row.blob != BlobId(0) {
            batch.blob(BlobChange::Remove { id: row.blob });
        }
        for name in self.meta().names_of(node, 2).await? {
            if name.kind != NodeKind::File {
                batch.put(Row::Entry(EntryRow { kind: NodeKind::File, ..name }));
            }
        }
        row.kind = NodeKind::File;
        row.blob = BlobId(0);
        row.target = Vec::new();
        row.flags |= FLAG_ATTRIBUTES_UNKNOWN;
        row.mtime_ns = object.modified_ns;
        row.ctime_ns = self.now_ns().max(row.ctime_ns + 1);
        row.times_seq = Seq(0);
        batch.put(Row::Node(row));
        batch.put(Row::Object(self.foreign_object(node, object)));
        Ok(Changed::Data(node, 0..u64::MAX))
    }

    /// One of several names was overwritten: it is a node of its own from now on. Under the guards of both. Where the others' bytes were in its
    /// object, they are had from theirs from now on; where none of theirs has them yet, their job finds out.
    pub(in crate::engine::file) async fn part(
        &self,
        view: &View,
        entry: &EntryRow,
        mut row: NodeRow,
        object: &Listed,
        batch: &mut Batch,
    ) -> Result<Changed, VfsError> {
        batch.blobs.extend(view.read_from_twin(&self.prefix).filter(|_| view.reads_from(&object.key)));
        let new = self.unknown_row(NodeKind::File, object.modified_ns).await?;
        row.links -= 1;
        row.ctime_ns = self.now_ns().max(row.ctime_ns + 1);
        batch.put(Row::Entry(EntryRow { node: new.node, kind: new.kind, ..entry.clone() }));
        batch.put(Row::Object(self.foreign_object(new.node, object)));
        self.unsettle(batch, &row, Why::Names);
        batch.put(Row::Node(row));
        let event = Changed::Entry { parent: entry.parent, name: entry.name.clone(), before: entry.node, after: new.node };
        batch.put(Row::Node(new));
        Ok(event)
    }

    /// The entry's object was deleted by somebody else. Says whether that changed anything here.
    pub(in crate::engine::file) async fn vanish(&self, entry: &EntryRow, object: &ObjectRow) -> Result<bool, VfsError> {
        self.vanish_now(entry, object, false).await
    }

    /// As [`Self::vanish`]; `by_its_job` as in [`Self::adopt_now`].
    pub(in crate::engine::file) async fn vanish_now(
        &self,
        entry: &EntryRow,
        object: &ObjectRow,
        by_its_job: bool,
    ) -> Result<bool, VfsError> {
        let _guard = self.guards.lock(&[entry.parent, entry.node]).await;
        let same_entry = self.entry(entry.parent, &entry.name).await?.as_ref() == Some(entry);
        let same_object = self.object(&object.key).await?.is_some_and(|now| now.etag == object.etag && now.node == object.node);
        if !same_entry || !same_object {
            return Ok(false);
        }
        let known = self.known(entry.node).await?;
        if self.handles.opens(entry.node).writers > 0 || self.is_busy(&known, by_its_job).await? {
            return Ok(false);
        }
        let view = self.view(entry.node).await?;
        let mut batch = Batch::new();
        batch.drop(Key::Object(self.owner, object.key.clone()));
        if known.row.links > 1 {
            batch.blobs.extend(view.read_from_twin(&self.prefix).filter(|_| view.reads_from(&object.key)));
            if !is_key_of(&view, entry, &object.key) {
                // No name says that it is to be there: none goes with it.
                self.unsettle(&mut batch, &known.row, Why::Content);
                self.apply(batch).await?;
                self.settle_soon(entry.node);
                return Ok(true);
            }
        }
        self.unname_here(entry, known, batch).await?;
        Ok(true)
    }

    /// A directory of which the bucket has nothing any more, if nothing is in it here either.
    pub(in crate::engine::file) async fn vanish_directory(&self, entry: &EntryRow) -> Result<bool, VfsError> {
        let _guard = self.guards.lock(&[entry.parent, entry.node]).await;
        if self.entry(entry.parent, &entry.name).await?.as_ref() != Some(entry) {
            return Ok(false);
        }
        let known = self.known(entry.node).await?;
        let is_new = known.row.flags & FLAG_IMPLIED == 0 && self.meta().objects_of(entry.node).await?.is_empty();
        if is_new || self.has_job(entry.node).await? || !self.is_empty(entry.node).await? {
            return Ok(false);
        }
        let mut batch = Batch::new();
        for object in self.meta().objects_of(entry.node).await? {
            batch.drop(Key::Object(self.owner, object.key));
        }
        self.unname_here(entry, known, batch).await?;
        self.places.forget(entry.node);
        Ok(true)
    }

    /// Takes the name away and tells. Under the guards of the directory and the node.
    async fn unname_here(&self, entry: &EntryRow, known: Known, mut batch: Batch) -> Result<(), VfsError> {
        let now = self.now_ns();
        let mut dir = self.node(entry.parent).await?;
        self.drop_entry(&mut batch, &mut dir, entry);
        touch(&mut dir, now);
        batch.put(Row::Node(dir));
        self.unname(&mut batch, known, now).await?;
        self.apply(batch).await?;
        self.settle_soon(entry.node);
        let (parent, name) = (entry.parent, entry.name.clone());
        self.tell(Origin(0), Changed::Entry { parent, name, before: entry.node, after: NodeId(0) });
        Ok(())
    }

    /// The name of a node that an object at `key` is of, else any.
    pub(super) async fn name_at(&self, node: NodeId, key: &str) -> Result<Option<EntryRow>, VfsError> {
        let named = self.entry_at(key).await?.filter(|entry| entry.node == node);
        Ok(match named {
            Some(entry) => Some(entry),
            None => self.meta().names_of(node, 1).await?.pop(),
        })
    }

    /// A read found that the object is not the one that was known (`FetchError::Changed`): look again, so that the read can be tried again. Where the
    /// file has bytes of its own to upload, it keeps them: the conflict comes with its upload, but no read fails until then.
    pub(in crate::engine::file) async fn content_changed(&self, node: NodeId) -> Result<(), VfsError> {
        loop {
            let since_ns = self.now_ns();
            let view = self.view(node).await?;
            let Some(read) = view.info.as_ref().and_then(|info| Source::decode(&info.source)) else { return Ok(()) };
            let found = self.found_at(&read.key).await?;
            if found.as_ref().is_some_and(|(_, etag)| etag.0 == read.etag) {
                return Ok(());
            }
            // What we wrote there ourselves, and whose outcome is on its way: in a moment the file reads from it. Taken for somebody else's, what is in
            // S3 alone would be given up.
            let is_ours = found.as_ref().is_some_and(|(head, _)| is_marked_by(&self.gateway, head));
            if is_ours && self.uploader.touched_since(self.owner, &read.key, since_ns) {
                tokio::time::sleep(OUTCOME_PAUSE).await;
                continue;
            }
            if view.is_dirty() || view.twin(&self.prefix).is_some() {
                return self.let_go(&view, &read.key).await;
            }
            return match view.source(&self.prefix) {
                Some(source) => self.follow(node, source, found, false).await,
                None => self.unsettle_content(node).await,
            };
        }
    }

    async fn found_at(&self, key: &str) -> Result<Option<(Head, ETag)>, VfsError> {
        match self.bucket.head(key).await {
            Ok(head) => Ok(head.etag.clone().map(|etag| (head, etag))),
            Err(ObjectError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the bucket for the object that a node's bytes are in, and follows what is there now. `by_its_job` as in [`Self::adopt_now`].
    pub(in crate::engine::file) async fn check_source_now(
        &self,
        node: NodeId,
        source: &ObjectRow,
        by_its_job: bool,
    ) -> Result<(), VfsError> {
        let found = self.found_at(&source.key).await?;
        self.follow(node, source, found, by_its_job).await
    }

    /// The node becomes what was found at the key of its object, if that is another one.
    async fn follow(
        &self,
        node: NodeId,
        source: &ObjectRow,
        found: Option<(Head, ETag)>,
        by_its_job: bool,
    ) -> Result<(), VfsError> {
        let Some(entry) = self.name_at(node, &source.key).await? else { return Ok(()) };
        match found {
            Some((_, etag)) if etag.0 == source.etag => Ok(()),
            Some((head, etag)) => {
                let (key, size_bytes, modified_ns) = (source.key.clone(), head.size_bytes, head.modified_ns);
                let object = Listed { key, size_bytes, etag, modified_ns, storage_class: head.attributes.storage_class };
                self.adopt_now(&entry, &object, by_its_job).await?;
                self.ensure_attributes(node).await
            }
            None => {
                // A copy to the next key may have taken it away meanwhile: then the row is another one.
                self.vanish_now(&entry, source, by_its_job).await?;
                Ok(())
            }
        }
    }
}

/// Whether the entry's object is to be at `key`.
fn is_key_of(view: &View, entry: &EntryRow, key: &str) -> bool {
    view.desired.iter().any(|desired| desired.key == key && desired.entry.as_ref() == Some(entry))
}

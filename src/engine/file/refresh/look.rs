//! The HEAD: what an object is, once somebody asks.
//!
//! Invariant: rows are changed under the guards of the node and of its directories, and only where the object is still the one that was
//! asked for; else it is asked again.

use std::sync::Arc;

use crate::base::id::{BlobId, NodeId, Seq};
use crate::engine::file::attributes::{self, Posix};
use crate::engine::file::keys;
use crate::engine::file::layout::Source;
use crate::engine::file::overflow;
use crate::engine::file::share::{FLAG_ATTRIBUTES_UNKNOWN, FLAG_XATTRS, Share};
use crate::engine::file::{Changed, NodeKind, Origin, VfsError};
use crate::store::blob::{Batch, BlobChange};
use crate::store::meta::{EntryRow, NodeRow, ObjectRow, Row, XattrRow};
use crate::store::object::{ETag, Head, ObjectError};

use super::FLAG_IMPLIED;

/// How often an object may change while it is looked at.
const RACES_MAX: usize = 8;
/// The longest symlink target, in bytes (Linux `PATH_MAX`).
const TARGET_BYTES_MAX: u64 = 4096;

/// What was found of an object.
struct Found {
    head: Head,
    etag: ETag,
    posix: Posix,
    target: Vec<u8>,
}

impl Share {
    /// Asks the bucket what a node is.
    pub(super) async fn look(self: &Arc<Self>, node: NodeId) -> Result<(), VfsError> {
        for _ in 0..RACES_MAX {
            let row = self.node(node).await?;
            if row.flags & FLAG_ATTRIBUTES_UNKNOWN == 0 {
                return Ok(());
            }
            let object = self.main_object(node).await?;
            let is_over = match (&object, row.kind) {
                (Some(object), _) => self.look_at(&row, object).await?,
                (None, NodeKind::Directory) => self.look_for_marker(&row).await?,
                (None, _) => return self.nothing_known(&row).await,
            };
            if is_over {
                return Ok(());
            }
        }
        Err(VfsError::Unavailable("the object changes faster than it can be looked at".into()))
    }

    /// A node whose object is not known any more: its directory is listed again.
    async fn nothing_known(&self, row: &NodeRow) -> Result<(), VfsError> {
        for name in self.meta().names_of(row.node, 2).await? {
            self.remote.listings.expire(name.parent);
        }
        Err(VfsError::Stale)
    }

    /// A directory that was only implied: it may have a marker.
    async fn look_for_marker(&self, row: &NodeRow) -> Result<bool, VfsError> {
        let key = if row.node == self.root { keys::root_key(&self.prefix) } else { self.listing_prefix(row.node).await? };
        match self.bucket.head(&key).await {
            Ok(head) => {
                let Some(found) = self.find(&key, "", head, true).await? else { return Ok(false) };
                self.learn(row, &self.new_foreign(row.node, &key, &found), found, None).await
            }
            Err(ObjectError::NotFound) => {
                let _guard = self.guards.lock(&[row.node]).await;
                let mut now = self.node(row.node).await?;
                now.flags = now.flags & !FLAG_ATTRIBUTES_UNKNOWN | if row.node == self.root { 0 } else { FLAG_IMPLIED };
                let mut batch = Batch::new();
                batch.put(Row::Node(now));
                self.apply(batch).await?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn look_at(self: &Arc<Self>, row: &NodeRow, object: &ObjectRow) -> Result<bool, VfsError> {
        let is_marker = row.kind == NodeKind::Directory;
        let name = self.meta().names_of(row.node, 1).await?.pop().map(|name| name.name).unwrap_or_default();
        let name = String::from_utf8_lossy(&name);
        match self.bucket.head(&object.key).await {
            Ok(head) => {
                let Some(found) = self.find(&object.key, &name, head, is_marker).await? else { return Ok(false) };
                let link = found.posix.link.clone();
                let seen = self.new_foreign(row.node, &object.key, &found);
                let is_over = self.learn(row, &seen, found, Some(object)).await?;
                if let Some(group) = link.filter(|_| is_over && !is_marker) {
                    self.tie(row.node, &group).await?;
                }
                Ok(is_over)
            }
            Err(ObjectError::NotFound) if is_marker => {
                let _guard = self.guards.lock(&[row.node]).await;
                let mut batch = Batch::new();
                batch.drop(Row::Object(object.clone()).key());
                self.apply(batch).await?;
                Ok(false)
            }
            Err(ObjectError::NotFound) => self.look_at_nothing(row, object).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The object is gone: moved by us meanwhile, or deleted by somebody.
    async fn look_at_nothing(&self, row: &NodeRow, object: &ObjectRow) -> Result<bool, VfsError> {
        if self.main_object(row.node).await?.as_ref() != Some(object) {
            return Ok(false);
        }
        let Some(name) = self.name_at(row.node, &object.key).await? else { return Err(VfsError::Stale) };
        if self.vanish(&name, object).await? {
            Err(VfsError::Stale)
        } else {
            Err(VfsError::Unavailable("the object is gone".into()))
        }
    }

    /// Everything that the object's attributes lead to. `None`: it changed meanwhile.
    async fn find(&self, key: &str, name: &str, head: Head, is_marker: bool) -> Result<Option<Found>, VfsError> {
        let Some(etag) = head.etag.clone() else {
            return Err(VfsError::Io(format!("the endpoint tells no ETag of {key}")));
        };
        let decoded = attributes::decode(&head.attributes, head.modified_ns, name, is_marker, &self.rules());
        let mut posix = decoded.posix;
        let mut target = Vec::new();
        if posix.kind == NodeKind::Symlink {
            match self.bucket.get(key, Some(0..TARGET_BYTES_MAX), Some(&etag)).await {
                Ok((_, bytes)) => target = bytes.to_vec(),
                Err(ObjectError::PreconditionFailed | ObjectError::NotFound) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if target.is_empty() || target.contains(&0) {
                posix.kind = NodeKind::File;
            }
        }
        if let Some(more) = decoded.overflow.filter(|name| overflow::is_name(name)) {
            let at = keys::overflow_key(&self.prefix, &more);
            match self.bucket.get(&at, Some(0..overflow::BODY_BYTES_MAX), None).await {
                Ok((_, body)) => posix.xattrs.extend(overflow::decode(&body).unwrap_or_default()),
                Err(ObjectError::NotFound) => {
                    tracing::warn!(key, overflow = more, "extended attributes of an object are missing")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(Found { head, etag, posix, target }))
    }

    /// The row of the object that was found.
    fn new_foreign(&self, node: NodeId, key: &str, found: &Found) -> ObjectRow {
        ObjectRow {
            owner: self.owner,
            key: key.to_owned(),
            node,
            etag: found.etag.0.clone(),
            version: found.head.version.clone(),
            size_bytes: found.head.size_bytes,
            modified_ns: found.head.modified_ns,
            attributes_digest: attributes::digest(&found.head.attributes),
            content_seq: Seq(0),
            content_digest: Vec::new(),
            storage_class: found.head.attributes.storage_class.clone(),
        }
    }

    /// Puts what was found into the rows. `before`: the object row that was asked for. `false`: things changed meanwhile.
    async fn learn(&self, row: &NodeRow, object: &ObjectRow, found: Found, before: Option<&ObjectRow>) -> Result<bool, VfsError> {
        let names = self.meta().names_of(row.node, 2).await?;
        let mut guarded: Vec<NodeId> = names.iter().map(|name| name.parent).collect();
        guarded.push(row.node);
        let _guard = self.guards.lock(&guarded).await;
        let mut now = self.node(row.node).await?;
        let same = self.main_object(row.node).await?.as_ref() == before && self.meta().names_of(row.node, 2).await? == names;
        if !same || now.flags & FLAG_ATTRIBUTES_UNKNOWN == 0 {
            return Ok(now.flags & FLAG_ATTRIBUTES_UNKNOWN == 0);
        }
        let mut batch = Batch::new();
        let mut object = object.clone();
        self.fill(&mut now, &found, &mut batch).await?;
        if now.kind == NodeKind::File {
            let source = Source {
                key: object.key.clone(),
                etag: object.etag.clone(),
                version: object.version.clone(),
                size_bytes: object.size_bytes,
            };
            (now.blob, now.times_seq) = self.new_remote_blob(&source).await?;
            object.content_seq = now.times_seq;
        }
        for name in names.into_iter().filter(|name| name.kind != now.kind) {
            batch.put(Row::Entry(EntryRow { kind: now.kind, ..name }));
        }
        let node = now.node;
        batch.put(Row::Object(object));
        batch.put(Row::Node(now));
        self.apply(batch).await?;
        self.tell(Origin(0), Changed::Attr(node));
        Ok(true)
    }

    /// Attributes into the node's row and those of its extended attributes.
    async fn fill(&self, row: &mut NodeRow, found: &Found, batch: &mut Batch) -> Result<(), VfsError> {
        let posix = &found.posix;
        if row.kind != NodeKind::Directory {
            row.kind = posix.kind;
            row.target.clone_from(&found.target);
        }
        (row.mode, row.uid, row.gid, row.rdev) = (posix.mode, posix.uid, posix.gid, posix.rdev);
        (row.atime_ns, row.mtime_ns, row.birth_ns) = (posix.atime_ns, posix.mtime_ns, posix.birth_ns);
        row.ctime_ns = row.ctime_ns.max(found.head.modified_ns).max(posix.mtime_ns);
        row.flags &= !(FLAG_ATTRIBUTES_UNKNOWN | FLAG_IMPLIED);
        if row.flags & FLAG_XATTRS != 0 {
            for old in self.meta().xattrs(row.node).await? {
                batch.drop(Row::Xattr(old).key());
            }
            row.flags &= !FLAG_XATTRS;
        }
        for (name, value) in &posix.xattrs {
            row.flags |= FLAG_XATTRS;
            batch.put(Row::Xattr(XattrRow { node: row.node, name: name.clone(), value: value.clone() }));
        }
        Ok(())
    }

    /// A blob whose bytes are all in an object, and the number that its node's times must have to count.
    async fn new_remote_blob(&self, source: &Source) -> Result<(BlobId, Seq), VfsError> {
        let id = self.blobs.new_blob_id().await?;
        let mut batch = Batch::new();
        batch.blob(BlobChange::Create { id, owner: self.owner, len_bytes: source.size_bytes, source: source.encode() });
        self.apply(batch).await?;
        Ok((id, self.blobs.info(id).await?.modified_seq))
    }
}

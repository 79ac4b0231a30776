//! What follows from an operation that ended: the rows of its object, where the blob's bytes are now.
//!
//! Invariant: a batch names what S3 has, never what it will have; a blob that was removed meanwhile is left out of it, and its new object
//! is known as one of the removed node, so that it is deleted.

use crate::base::id::{BlobId, NodeId, Seq};
use crate::engine::file::VfsError;
use crate::engine::file::attributes;
use crate::engine::file::layout::Source;
use crate::engine::file::linkgroup;
use crate::engine::file::share::Share;
use crate::store::blob::{Batch, BlobChange, BlobError};
use crate::store::meta::{Key, ObjectRow, Row};
use crate::store::object::{Attributes, CopySource};
use crate::store::upload::{Done, Op};

use super::{new_object, source_of};

impl Share {
    /// Puts what follows from `op` into the batch that makes it known.
    pub(super) async fn record(&self, node: NodeId, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), VfsError> {
        match done {
            Done::Written { etag, version, size_bytes, through, digest } => {
                let mut object = new_object(self, node, op.target(), etag, version.as_ref(), *size_bytes);
                match op {
                    Op::PutBlob { blob, attributes, .. } => {
                        object.attributes_digest = attributes::digest(attributes);
                        object.content_seq = *through;
                        object.content_digest = digest.clone().unwrap_or_default();
                        self.clean_through(*blob, *through, &object, batch).await?;
                    }
                    Op::PutBytes { attributes, body, .. } => {
                        object.attributes_digest = attributes::digest(attributes);
                        object.content_digest = linkgroup::digest(body);
                    }
                    Op::Copy { source, attributes, .. } => {
                        object.storage_class = attributes.as_ref().and_then(|attributes| attributes.storage_class.clone());
                        object.storage_class.take_if(|class| Some(&*class) == self.settings().storage_class.as_ref());
                        self.record_copy(&mut object, source, attributes.as_ref(), batch).await?;
                    }
                    Op::PutMade { .. } | Op::Delete { .. } => {}
                }
                batch.put(Row::Object(object));
            }
            Done::Deleted => {
                if self.object(op.target()).await?.is_some_and(|object| object.node == node) {
                    batch.drop(Key::Object(self.owner, op.target().to_owned()));
                }
            }
            Done::Conflict(found) => self.conflict(node, op, found.as_deref(), batch).await?,
            Done::SourceChanged => self.source_changed(node, op, batch).await?,
        }
        Ok(())
    }

    /// The batch is applied.
    pub(super) fn recorded(&self, node: NodeId, op: &Op, done: &Done) {
        match (op, done) {
            (Op::Delete { key, .. }, _) => self.remote.deleted.note(key, self.now_ns()),
            (Op::PutBlob { attributes, .. }, Done::Written { .. }) => {
                self.remote.stateless.uploaded(node);
                self.remote.published.lock().remove(&node);
                if attributes::is_open(attributes) {
                    self.remote.marked_open.lock().insert(node);
                }
            }
            _ => {}
        }
    }

    async fn clean_through(&self, blob: BlobId, through: Seq, object: &ObjectRow, batch: &mut Batch) -> Result<(), VfsError> {
        if self.blob_exists(blob).await? {
            let source = source_of(object).encode();
            batch.blob(BlobChange::CleanThrough { id: blob, through, len_bytes: object.size_bytes, source });
        }
        Ok(())
    }

    async fn blob_exists(&self, blob: BlobId) -> Result<bool, VfsError> {
        match self.blobs.info(blob).await {
            Ok(_) => Ok(true),
            Err(BlobError::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The copy has its source's content. Where the blob's bytes were in the source and no name keeps it there, they are in the copy now.
    async fn record_copy(
        &self,
        object: &mut ObjectRow,
        source: &CopySource,
        attributes: Option<&Attributes>,
        batch: &mut Batch,
    ) -> Result<(), VfsError> {
        let view = self.view(object.node).await?;
        let etag = source.etag.as_ref().map_or("", |etag| &etag.0);
        let from = view.object(&source.key).filter(|from| from.etag == etag);
        object.attributes_digest = attributes.map_or(from.map_or(0, |from| from.attributes_digest), attributes::digest);
        if let Some(from) = from {
            object.content_seq = from.content_seq;
            object.content_digest.clone_from(&from.content_digest);
        }
        let (Some(row), Some(info)) = (&view.row, &view.info) else { return Ok(()) };
        let is_source = Source::decode(&info.source).is_some_and(|now| now.key == source.key && now.etag == etag);
        if is_source && let Some(content) = view.content(&self.prefix) {
            object.content_seq = content;
        }
        if is_source && (object.key == source.key || !view.desires(&source.key)) {
            let instead_of = info.source.clone();
            batch.blob(BlobChange::Rebase { id: row.blob, instead_of, source: source_of(object).encode() });
        }
        Ok(())
    }
}

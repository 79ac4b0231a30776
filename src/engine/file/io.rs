//! Bytes: reading, writing, committing.
//!
//! Invariants:
//! - A write counts (`Writing`) from before its job is looked at until it is in the log: what replaces a node's blob (a foreign change to a clean
//!   file) does so under the node's guard, while there is no write and none may begin. Who finds a blob gone looks for the node's new one.
//! - A plain write of a dirty file makes data records only.

use bytes::Bytes;

use crate::base::id::{BlobId, NodeId};
use crate::engine::file::{Attr, Caller, Changed, Io, NodeKind, VfsError};
use crate::store::blob::{BlobError, BlobInfo, FetchError, Patience};
use crate::store::meta::{NodeRow, Row};

use super::handle::Writing;
use super::permit;
use super::share::{Durability, Share};
use super::tree::Known;
use super::watch::{EndsBy, watched};

/// How often a read or write looks again for bytes that somebody replaced meanwhile.
const ATTEMPTS: usize = 4;

/// A file that may be written, for the time of a write.
pub(super) struct Writable<'a> {
    pub(super) row: NodeRow,
    pub(super) append: bool,
    _writing: Option<Writing<'a>>,
}

/// # Errors
/// `IsDirectory`, `Invalid` where the node has no bytes.
fn check_file(row: &NodeRow) -> Result<(), VfsError> {
    match row.kind {
        NodeKind::File => Ok(()),
        NodeKind::Directory => Err(VfsError::IsDirectory),
        _ => Err(VfsError::Invalid),
    }
}

impl Share {
    /// A file that may be read.
    pub(super) async fn readable(&self, who: &Caller, io: Io) -> Result<NodeRow, VfsError> {
        match io {
            Io::Handle(id) => {
                let handle = self.handles.get(id)?;
                if !handle.how.read && !handle.how.execute {
                    return Err(VfsError::BadHandle);
                }
                // A listing may have found another object since it was opened.
                let row = self.attributed(who, handle.node).await?;
                check_file(&row)?;
                Ok(row)
            }
            Io::Mapped(node) => {
                let row = self.node(node).await?;
                check_file(&row)?;
                Ok(row)
            }
            Io::Node(node) => {
                let row = self.attributed(who, node).await?;
                check_file(&row)?;
                // A program is read by whoever may execute it (RFC 1813 §4.4).
                if !permit::owns(&row, who) && permit::granted(&row, who) & (permit::READ | permit::EXECUTE) == 0 {
                    return Err(VfsError::AccessDenied);
                }
                Ok(row)
            }
        }
    }

    /// A file that may be written; it has a writer until the answer is dropped.
    pub(super) async fn writable(&self, who: &Caller, io: Io) -> Result<Writable<'_>, VfsError> {
        self.check_writable()?;
        match io {
            Io::Handle(id) => {
                let handle = self.handles.get(id)?;
                if !handle.how.write {
                    return Err(VfsError::BadHandle);
                }
                // A listing may have found another object since it was opened.
                let row = self.attributed(who, handle.node).await?;
                check_file(&row)?;
                Ok(Writable { row, append: handle.how.append, _writing: None })
            }
            Io::Node(node) | Io::Mapped(node) => {
                self.attributed(who, node).await?;
                let _guard = self.guards.lock(&[node]).await;
                let row = self.node(node).await?;
                check_file(&row)?;
                if matches!(io, Io::Node(_)) && !permit::owns(&row, who) {
                    permit::check(&row, who, permit::WRITE)?;
                }
                Ok(Writable { row, append: false, _writing: Some(self.handles.writing(node)) })
            }
        }
    }

    pub(super) async fn do_read(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError> {
        let row = self.readable(who, io).await?;
        let range = offset..offset.saturating_add(u64::from(len_bytes));
        let slices = self.read_range(who, row, range).await?;
        Ok(slices)
    }

    /// The bytes of a range, looking again where somebody changed the object meanwhile.
    pub(super) async fn read_range(
        &self,
        who: &Caller,
        mut row: NodeRow,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<Bytes>, VfsError> {
        let limit = Some(self.settings().remote_timeout);
        let mut failed = VfsError::Stale;
        for _ in 0..ATTEMPTS {
            match watched(who, limit, EndsBy::Death, self.blobs.read(row.blob, range.clone())).await? {
                Ok(slices) => {
                    self.note_read(&row);
                    return Ok(slices);
                }
                Err(BlobError::Fetch(FetchError::Changed)) => {
                    watched(who, limit, EndsBy::Death, self.content_changed(row.node)).await??;
                    failed = VfsError::Io("the object in S3 changes faster than it can be read".into());
                }
                Err(BlobError::NotFound) => {
                    failed = VfsError::Stale;
                    self.attributed(who, row.node).await?;
                }
                Err(error) => return Err(error.into()),
            }
            row = self.node(row.node).await?;
        }
        Err(failed)
    }

    /// As `do_read` where handle, row, map and bytes are in memory or on disk.
    pub(super) fn read_in_memory(&self, io: Io, offset: u64, len_bytes: u32) -> Option<Result<Vec<Bytes>, VfsError>> {
        let Io::Handle(id) = io else { return None };
        let handle = self.handles.get(id).ok()?;
        if !handle.how.read || handle.kind != NodeKind::File {
            return None;
        }
        let row = self.node_in_memory(handle.node)?;
        let Row::Node(row) = &*row else { return None };
        let slices = self.blobs.try_read(row.blob, offset..offset.saturating_add(u64::from(len_bytes)))?.ok()?;
        self.note_read(row);
        Some(Ok(slices))
    }

    /// Marks the access time.
    fn note_read(&self, row: &NodeRow) {
        let modified = self.blobs.try_info(row.blob).map_or(row.mtime_ns, |info| row.mtime_ns.max(info.modified_ns));
        self.accessed(row, modified, row.ctime_ns);
    }

    pub(super) async fn do_write(&self, who: &Caller, io: Io, offset: u64, data: Bytes) -> Result<Attr, VfsError> {
        let target = self.writable(who, io).await?;
        let len_bytes = data.len() as u64;
        if len_bytes == 0 {
            return self.attr_now(target.row.node).await;
        }
        let node = target.row.node;
        self.drop_privileges(who, &target.row).await?;
        if matches!(io, Io::Node(_)) {
            self.remote.stateless.written(node);
        }
        let (start, info) = self.put_bytes(who, &target, offset, data).await?;
        self.tell(who.origin, Changed::Data(node, start..start + len_bytes));
        let row = self.node(node).await?;
        drop(target);
        if matches!(io, Io::Node(_)) {
            self.settle_soon(node);
        }
        Ok(self.attr_of(&Known { row, info: Some(info) }))
    }

    /// Writes to whatever blob the node has; returns where, and the blob's state after it. The node's job is in the log before its
    /// bytes, and is not over before they are there.
    pub(super) async fn put_bytes(
        &self,
        who: &Caller,
        target: &Writable<'_>,
        offset: u64,
        data: Bytes,
    ) -> Result<(u64, BlobInfo), VfsError> {
        let limit = self.bucket.capabilities().object_bytes_max;
        let (node, mut blob) = (target.row.node, target.row.blob);
        let _writing = loop {
            match self.remote.writing.begin(node) {
                Some(writing) => break writing,
                // It is about to get another blob.
                None => drop(self.guards.lock(&[node]).await),
            }
        };
        for _ in 0..ATTEMPTS {
            match self.put_bytes_to(who, (node, blob), target.append, offset, data.clone(), limit).await? {
                // What others wrote took its place: that is asked for, and written to.
                Err(BlobError::NotFound) => blob = self.attributed(who, node).await?.blob,
                other => return Ok(other?),
            }
        }
        Err(VfsError::Stale)
    }

    async fn put_bytes_to(
        &self,
        who: &Caller,
        (node, blob): (NodeId, BlobId),
        append: bool,
        offset: u64,
        data: Bytes,
        limit: u64,
    ) -> Result<Result<(u64, BlobInfo), BlobError>, VfsError> {
        let before = match self.blobs.try_info(blob) {
            Some(info) => info,
            None => match self.blobs.info(blob).await {
                Ok(info) => info,
                Err(error) => return Ok(Err(error)),
            },
        };
        let start = if append { before.len_bytes } else { offset };
        if start.checked_add(data.len() as u64).is_none_or(|end| end > limit) {
            return Err(VfsError::TooLarge);
        }
        if !before.is_dirty() {
            self.unsettle_content(node).await?;
        }
        let write = async {
            match append {
                true => self.blobs.append(blob, data, Patience::Default).await,
                false => self.blobs.write(blob, offset, data, Patience::Default).await.map(|info| (offset, info)),
            }
        };
        watched(who, None, EndsBy::Death, write).await
    }

    pub(super) async fn do_commit(&self, who: &Caller, node: NodeId) -> Result<(), VfsError> {
        self.blobs.sync().await?;
        if self.settings().durability == Durability::Remote {
            watched(who, None, EndsBy::Death, self.settle_now(node)).await??;
        }
        Ok(())
    }
}

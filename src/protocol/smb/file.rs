//! What a client has open: a file, a directory, or something without bytes.
//!
//! Invariants: it is closed in the share when it goes, however it goes; what is written is in the share's log before it is answered, and FLUSH is
//! the share's commit. An open stays with its node, whatever the node is called meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use smb_server::{DirEntry, DirWatch, FileInfo, FileTimes, Handle, SmbError, SmbResult};

use super::tree::Tree;
use super::watch::Watch;
use super::{convert, listing};
use crate::base::id::NodeId;
use crate::engine::file::{Attr, HandleId, Io, NodeKind, SetAttr, SetTime, VfsError};

/// `FILE_ATTRIBUTE_READONLY` (MS-FSCC 2.6).
const READ_ONLY: u32 = 1;

/// See the file's header.
pub(super) struct Open {
    tree: Arc<Tree>,
    name: String,
    node: NodeId,
    kind: NodeKind,
    /// None of what has no bytes to be read or written through this.
    handle: Option<HandleId>,
}

impl Open {
    pub(super) fn new(tree: Arc<Tree>, name: &str, attr: &Attr, handle: Option<HandleId>) -> Self {
        tree.counts.open_files.fetch_add(1, Ordering::Relaxed);
        tree.counts.opens.fetch_add(1, Ordering::Relaxed);
        Self { tree, name: name.to_owned(), node: attr.node, kind: attr.kind, handle }
    }

    fn io(&self) -> SmbResult<Io> {
        self.handle.map(Io::Handle).ok_or(SmbError::AccessDenied)
    }

    async fn attr(&self) -> SmbResult<Attr> {
        self.tree.getattr(self.node).await.map_err(|error| self.tree.failed("stat", error))
    }

    async fn set(&self, handle: Option<HandleId>, set: &SetAttr) -> SmbResult<()> {
        let tree = &self.tree;
        tree.vfs.setattr(&tree.who, self.node, handle, set).await.map_err(|error| tree.failed("set", error))?;
        tree.told().await;
        Ok(())
    }

    async fn write_all(&self, offset: u64, data: Bytes) -> SmbResult<u32> {
        let (tree, io) = (&self.tree, self.io()?);
        let count = u32::try_from(data.len()).map_err(|_| SmbError::NotSupported)?;
        tree.vfs.write(&tree.who, io, offset, data).await.map_err(|error| tree.failed("write", error))?;
        tree.told().await;
        tree.counts.written_bytes.fetch_add(u64::from(count), Ordering::Relaxed);
        Ok(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tree.counts.open_files.fetch_sub(1, Ordering::Relaxed);
        let Some(handle) = self.handle.take() else { return };
        // The crate lets an open go without closing it where its connection's task ends.
        let vfs = self.tree.vfs.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = vfs.close(handle).await {
                    tracing::debug!(%error, "an SMB open was closed late");
                }
            });
        }
    }
}

#[async_trait]
impl Handle for Open {
    async fn read(&self, offset: u64, len: u32) -> SmbResult<Bytes> {
        let (tree, io) = (&self.tree, self.io()?);
        let read = match tree.vfs.try_read(&tree.who, io, offset, len) {
            Some(read) => read,
            None => tree.vfs.read(&tree.who, io, offset, len).await,
        };
        let mut pieces = read.map_err(|error| tree.failed("read", error))?;
        let bytes = match pieces.len() {
            0 => Bytes::new(),
            1 => pieces.swap_remove(0),
            _ => {
                let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
                joined.freeze()
            }
        };
        tree.counts.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn write(&self, offset: u64, data: &[u8]) -> SmbResult<u32> {
        self.write_all(offset, Bytes::copy_from_slice(data)).await
    }

    async fn write_owned(&self, offset: u64, data: Vec<u8>) -> SmbResult<u32> {
        self.write_all(offset, Bytes::from(data)).await
    }

    async fn flush(&self) -> SmbResult<()> {
        let tree = &self.tree;
        let flushed = match self.kind {
            NodeKind::File => tree.vfs.commit(&tree.who, self.node).await,
            _ => tree.vfs.sync().await,
        };
        flushed.map_err(|error| tree.failed("flush", error))
    }

    async fn stat(&self) -> SmbResult<FileInfo> {
        Ok(convert::info(&self.name, &self.attr().await?))
    }

    async fn set_times(&self, times: FileTimes) -> SmbResult<()> {
        let at = |time: Option<u64>| time.map(|time| SetTime::At(convert::nanoseconds(time)));
        let set = SetAttr {
            atime: at(times.last_access_time),
            mtime: at(times.last_write_time),
            birth_ns: times.creation_time.map(convert::nanoseconds),
            ..SetAttr::default()
        };
        // A change time of its own is not kept: it says when the last change was.
        if set == SetAttr::default() { Ok(()) } else { self.set(None, &set).await }
    }

    async fn set_attributes(&self, attributes: u32) -> SmbResult<()> {
        if self.kind == NodeKind::Directory {
            return Ok(());
        }
        let mode = self.attr().await?.mode;
        let wanted = match attributes & READ_ONLY != 0 {
            true => mode & !convert::WRITE_BITS,
            false if mode & convert::WRITE_BITS == 0 => mode | convert::OWNER_WRITE,
            false => mode,
        };
        // Archive, hidden, system and the like are taken and not kept: the crate cannot report them.
        if wanted == mode { Ok(()) } else { self.set(None, &SetAttr { mode: Some(wanted), ..SetAttr::default() }).await }
    }

    async fn truncate(&self, len: u64) -> SmbResult<()> {
        self.io()?;
        self.set(self.handle, &SetAttr { size_bytes: Some(len), ..SetAttr::default() }).await
    }

    async fn list_dir(&self, pattern: Option<&str>) -> SmbResult<Vec<DirEntry>> {
        listing::list(&self.tree, self.node, pattern).await.map_err(|error| self.tree.failed("list", error))
    }

    async fn close(mut self: Box<Self>) -> SmbResult<()> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        self.tree.vfs.close(handle).await.map_err(|error| self.tree.failed("close", error))
    }

    async fn link_count(&self) -> SmbResult<u32> {
        match self.tree.getattr(self.node).await {
            // For a directory POSIX counts its subdirectories, Windows its names.
            Ok(attr) if attr.kind == NodeKind::Directory => Ok(attr.nlink.min(1)),
            Ok(attr) => Ok(attr.nlink),
            Err(VfsError::Stale | VfsError::NotFound) => Ok(0),
            Err(error) => Err(self.tree.failed("stat", error)),
        }
    }

    async fn dir_is_empty(&self) -> SmbResult<bool> {
        listing::is_empty(&self.tree, self.node).await.map_err(|error| self.tree.failed("list", error))
    }

    async fn watch(&self) -> SmbResult<Option<Box<dyn DirWatch>>> {
        let watch = Watch::new(self.tree.clone(), self.node).await.map_err(|error| self.tree.failed("watch", error))?;
        Ok(Some(Box::new(watch)))
    }
}

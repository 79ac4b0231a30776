//! What a range occupies: `fallocate`, `SEEK_DATA` and `SEEK_HOLE`.
//!
//! Reserving is a promise that S3 keeps; the cache is not reserved. Collapsing and inserting ranges would move all that follows: refused.

use crate::base::id::NodeId;
use crate::engine::file::{Allocate, Caller, Changed, Io, Seek, VfsError};
use crate::store::blob::{Batch, BlobChange};
use crate::store::meta::Row;

use super::permit;
use super::share::{Share, Why};

impl Share {
    pub(super) async fn do_allocate(
        &self,
        who: &Caller,
        io: Io,
        offset: u64,
        len_bytes: u64,
        how: Allocate,
    ) -> Result<(), VfsError> {
        if len_bytes == 0 {
            return Err(VfsError::Invalid);
        }
        if matches!(how, Allocate::Collapse | Allocate::Insert) {
            return Err(VfsError::Unsupported);
        }
        let target = self.writable(who, io).await?;
        let end = offset.checked_add(len_bytes).ok_or(VfsError::TooLarge)?;
        if end > self.bucket.capabilities().object_bytes_max {
            return Err(VfsError::TooLarge);
        }
        let node = target.row.node;
        self.change_range(who, node, offset..end, how).await?;
        drop(target);
        self.settle_soon(node);
        self.tell(who.origin, Changed::Data(node, offset..end));
        Ok(())
    }

    async fn change_range(&self, who: &Caller, node: NodeId, range: std::ops::Range<u64>, how: Allocate) -> Result<(), VfsError> {
        let _guard = self.guards.lock(&[node]).await;
        let mut known = self.known(node).await?;
        let id = known.row.blob;
        let len_bytes = known.info.as_ref().map_or(0, |info| info.len_bytes);
        let mut batch = Batch::new();
        if matches!(how, Allocate::Extend | Allocate::Zero) && range.end > len_bytes {
            batch.blob(BlobChange::SetLength { id, len_bytes: range.end });
        }
        if matches!(how, Allocate::Punch | Allocate::Zero | Allocate::ZeroKeepSize) && range.start < len_bytes {
            batch.blob(BlobChange::Discard { id, range: range.start..range.end.min(len_bytes) });
        }
        let why = if batch.blobs.is_empty() { Why::Attributes } else { Why::Content };
        let mode = if who.uid == 0 { known.row.mode } else { permit::without_privileges(&known.row) };
        if batch.blobs.is_empty() || mode != known.row.mode {
            known.row.mode = mode;
            known.modified(self.now_ns());
            batch.put(Row::Node(known.row.clone()));
        }
        self.unsettle(&mut batch, &known.row, why);
        self.apply(batch).await?;
        Ok(())
    }

    pub(super) async fn do_seek(&self, who: &Caller, io: Io, offset: u64, what: Seek) -> Result<u64, VfsError> {
        let node = match io {
            Io::Handle(id) => self.handles.get(id)?.node,
            Io::Node(_) | Io::Mapped(_) => self.readable(who, io).await?.node,
        };
        let known = self.known(node).await?;
        let len_bytes = known.info.as_ref().map_or(0, |info| info.len_bytes);
        if offset >= len_bytes {
            return Err(VfsError::NoSuchAddress);
        }
        let blob = known.row.blob;
        if what == Seek::Data {
            let next = self.blobs.next_data(blob, offset).await?.ok_or(VfsError::NoSuchAddress)?;
            return Ok(next.start.max(offset));
        }
        let mut at = offset;
        loop {
            match self.blobs.next_data(blob, at).await? {
                Some(data) if data.start <= at && at < data.end => at = data.end,
                _ => return Ok(at.min(len_bytes)),
            }
            if at >= len_bytes {
                return Ok(len_bytes);
            }
        }
    }
}

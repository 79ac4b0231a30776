//! Copying bytes between files of the share without a round trip to the client.

use crate::engine::file::{Caller, Changed, Io, VfsError};

use super::share::Share;

/// How much one call copies at most: the client asks again for the rest.
const COPY_BYTES_MAX: u64 = 16 << 20;

/// How much is in memory at a time.
const STEP_BYTES: u64 = 1 << 20;

impl Share {
    pub(super) async fn do_copy_range(
        &self,
        who: &Caller,
        from: Io,
        from_offset: u64,
        to: Io,
        to_offset: u64,
        len_bytes: u64,
    ) -> Result<u64, VfsError> {
        let source = self.readable(who, from).await?;
        let target = self.writable(who, to).await?;
        if target.append {
            return Err(VfsError::BadHandle);
        }
        let (from_end, to_end) = (from_offset.checked_add(len_bytes), to_offset.checked_add(len_bytes));
        let (Some(from_end), Some(to_end)) = (from_end, to_end) else { return Err(VfsError::TooLarge) };
        let node = target.row.node;
        if source.node == node && from_offset < to_end && to_offset < from_end {
            return Err(VfsError::Invalid);
        }
        let len_bytes = len_bytes.min(COPY_BYTES_MAX);
        let mut copied = 0;
        while copied < len_bytes {
            let at = from_offset + copied;
            let slices = self.read_range(who, source.clone(), at..at + STEP_BYTES.min(len_bytes - copied)).await?;
            if slices.iter().all(|slice| slice.is_empty()) {
                break;
            }
            if copied == 0 {
                self.drop_privileges(who, &target.row).await?;
            }
            for slice in slices.into_iter().filter(|slice| !slice.is_empty()) {
                let bytes = slice.len() as u64;
                self.put_bytes(who, &target, to_offset + copied, slice).await?;
                copied += bytes;
            }
        }
        drop(target);
        self.settle_soon(node);
        self.tell(who.origin, Changed::Data(node, to_offset..to_offset + copied));
        Ok(copied)
    }
}

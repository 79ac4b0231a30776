//! The digest of an object's content: a SHA-256 over the SHA-256 of each mebibyte, so that parts are digested side by side.
//!
//! Format: one byte with the version (1), then 32 bytes. Kept in `ObjectRow::content_digest`, never sent.

use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// What one leaf covers, in bytes.
pub(super) const LEAF_BYTES: u64 = 1 << 20;

/// The digests of the leaves of one stretch of content that begins at a leaf's start.
pub(super) type Leaves = Vec<[u8; 32]>;

/// Whether every part begins at a leaf's start, so that parts can be digested by themselves.
pub(super) fn fits<'a>(parts: impl IntoIterator<Item = &'a Range<u64>>) -> bool {
    parts.into_iter().all(|part| part.start % LEAF_BYTES == 0)
}

/// Digests a stretch of content that begins at a leaf's start. Gives way to others after each leaf.
pub(super) async fn leaves(slices: &[Bytes]) -> Leaves {
    let mut leaves = Vec::new();
    let mut hash = Sha256::new();
    let mut room = LEAF_BYTES as usize;
    for slice in slices {
        let mut rest = &slice[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            hash.update(now);
            room -= now.len();
            rest = later;
            if room == 0 {
                leaves.push(hash.finalize_reset().into());
                room = LEAF_BYTES as usize;
                tokio::task::yield_now().await;
            }
        }
    }
    if room < LEAF_BYTES as usize {
        leaves.push(hash.finalize().into());
    }
    leaves
}

/// The digest of the whole from its leaves in order.
pub(super) fn root<'a>(leaves: impl IntoIterator<Item = &'a [u8; 32]>) -> Vec<u8> {
    let mut hash = Sha256::new();
    for leaf in leaves {
        hash.update(leaf);
    }
    let mut digest = vec![1];
    digest.extend_from_slice(&hash.finalize());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slices_and_parts_do_not_matter_but_every_byte_does() {
        let content: Vec<u8> = (0..5 * LEAF_BYTES / 2).map(|at| (at % 251) as u8).collect();
        let whole = leaves(&[Bytes::from(content.clone())]).await;
        let sliced: Vec<Bytes> = content.chunks(70_001).map(Bytes::copy_from_slice).collect();
        assert_eq!(leaves(&sliced).await, whole);
        let (front, back) = content.split_at(2 * LEAF_BYTES as usize);
        let mut parts = leaves(&[Bytes::copy_from_slice(front)]).await;
        parts.extend(leaves(&[Bytes::copy_from_slice(back)]).await);
        assert_eq!(root(&parts), root(&whole));
        let mut other = content;
        other[2_000_000] ^= 1;
        assert_ne!(root(&leaves(&[Bytes::from(other)]).await), root(&whole));
    }
}

//! File handles: 32 bytes that name an export and a node, and that nobody but this gateway can make.
//!
//! ```text
//! byte 0      1..4    4..12       12..20    20..32
//! version 1   zero    export id   node id   HMAC-SHA-256 of bytes 0..20 (RFC 2104), its first 12 bytes
//! ```
//!
//! Invariants: a handle depends on nothing but the key, the export's name and the node, so it survives a restart; node ids are never
//! reused, so a handle never comes to mean another file. The key is the gateway's, kept in its data directory.

use sha2::{Digest, Sha256};

use crate::base::id::NodeId;

/// What a handle is long, in bytes.
pub(super) const HANDLE_BYTES: usize = 32;
const VERSION: u8 = 1;
const SIGNED_BYTES: usize = 20;
/// The block of SHA-256, in bytes.
const BLOCK_BYTES: usize = 64;

/// A handle.
pub(super) type Handle = [u8; HANDLE_BYTES];

/// Makes and checks handles. The two states are HMAC's inner and outer hash after the key.
#[derive(Clone)]
pub(super) struct Sealer {
    inner: Sha256,
    outer: Sha256,
}

impl Sealer {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let keyed = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            Sha256::new_with_prefix(block)
        };
        Self { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    fn mac(&self, signed: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(signed).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }

    pub(super) fn seal(&self, export: u64, node: NodeId) -> Handle {
        let mut handle = [0; HANDLE_BYTES];
        handle[0] = VERSION;
        handle[4..12].copy_from_slice(&export.to_be_bytes());
        handle[12..20].copy_from_slice(&node.0.to_be_bytes());
        let mac = self.mac(&handle[..SIGNED_BYTES]);
        handle[SIGNED_BYTES..].copy_from_slice(&mac[..HANDLE_BYTES - SIGNED_BYTES]);
        handle
    }

    /// What a handle names; `None` where it is not one of ours.
    pub(super) fn open(&self, handle: &[u8]) -> Option<(u64, NodeId)> {
        let handle: &Handle = handle.try_into().ok()?;
        let mac = self.mac(&handle[..SIGNED_BYTES]);
        // Every byte is compared, whatever the first difference: the time says nothing.
        let difference = mac.iter().zip(&handle[SIGNED_BYTES..]).fold(0, |sum, (a, b)| sum | (a ^ b));
        if difference != 0 || handle[0] != VERSION {
            return None;
        }
        let number = |at: usize| handle[at..].first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        Some((number(4)?, NodeId(number(12)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_opened_by_its_key_alone() {
        let sealer = Sealer::new(&[7; 32]);
        let handle = sealer.seal(0x0102_0304_0506_0708, NodeId(99));
        assert_eq!(sealer.open(&handle), Some((0x0102_0304_0506_0708, NodeId(99))));
        assert_eq!(Sealer::new(&[7; 32]).open(&handle), Some((0x0102_0304_0506_0708, NodeId(99))));
        assert_eq!(Sealer::new(&[8; 32]).open(&handle), None);
        for bit in 0..HANDLE_BYTES * 8 {
            let mut forged = handle;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open(&forged), None, "bit {bit}");
        }
        for len in [0, 1, 20, 31] {
            assert_eq!(sealer.open(&handle[..len]), None);
        }
        assert_eq!(sealer.open(&[0; 64]), None);
    }

    #[test]
    fn the_mac_is_hmac_sha_256() {
        // RFC 4231 §4.4 with its key of 20 bytes filled up with zeroes, as HMAC does it.
        let mut key = [0; 32];
        key[..20].fill(0xaa);
        let mac = Sealer::new(&key).mac(&[0xdd; 50]);
        assert_eq!(hex::encode(mac), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }
}

//! XDR (RFC 4506) for messages of strangers: every length is checked against its limit and against what is there before anything is
//! allocated, opaque bytes are slices of the record (no copy).
//!
//! Why not `nfs3_types`' own decoder: it allocates what a length field says (4 GiB for an opaque, 16 GiB for a list of groups) before it
//! looks whether the bytes are there. Its types and constants are used, and in tests it is the other side: what is encoded here is decoded there.

use bytes::{Buf, Bytes};

/// Arguments that are not what the procedure takes; answered with GARBAGE_ARGS (RFC 5531 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbage;

/// A cursor over a message.
#[derive(Clone, Debug)]
pub(super) struct Decoder(Bytes);

impl Decoder {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &Bytes {
        &self.0
    }

    pub(super) fn u32(&mut self) -> Result<u32, Garbage> {
        self.0.try_get_u32().map_err(|_| Garbage)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Garbage> {
        self.0.try_get_u64().map_err(|_| Garbage)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Garbage> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbage),
        }
    }

    /// An optional value (XDR `*`, or a union over a boolean).
    pub(super) fn option<T>(&mut self, some: impl FnOnce(&mut Self) -> Result<T, Garbage>) -> Result<Option<T>, Garbage> {
        if self.boolean()? { some(self).map(Some) } else { Ok(None) }
    }

    /// Variable-length opaque of at most `bytes_max`, with its padding.
    pub(super) fn opaque(&mut self, bytes_max: usize) -> Result<Bytes, Garbage> {
        let len = usize::try_from(self.u32()?).map_err(|_| Garbage)?;
        if len > bytes_max {
            return Err(Garbage);
        }
        self.fixed(len)
    }

    /// `len` bytes with their padding. The padding of the last value of a message may be missing (some clients leave it out).
    pub(super) fn fixed(&mut self, len: usize) -> Result<Bytes, Garbage> {
        if self.0.len() < len {
            return Err(Garbage);
        }
        let value = self.0.split_to(len);
        let padding = len.next_multiple_of(4) - len;
        self.0.advance(padding.min(self.0.len()));
        Ok(value)
    }
}

/// Appends values in XDR.
pub(super) trait Encode {
    fn bytes(&mut self, bytes: &[u8]);

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    fn boolean(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Variable-length opaque or string.
    fn opaque(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes(value);
        self.bytes(&[0; 3][..padding(value.len())]);
    }

    /// So many zero words: absent optional values.
    fn absent(&mut self, words: usize) {
        for _ in 0..words {
            self.u32(0);
        }
    }
}

impl Encode for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Bytes of padding after an opaque of `len` bytes.
pub(super) fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// What an opaque of `len` bytes takes.
pub(super) fn opaque_bytes(len: usize) -> usize {
    4 + len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(bytes: &[u8]) -> Decoder {
        Decoder::new(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        bytes.u32(7);
        bytes.u64(1 << 40);
        bytes.boolean(true);
        bytes.opaque(b"abcde");
        bytes.absent(1);
        assert_eq!(bytes.len() % 4, 0);
        let mut decoder = decoder(&bytes);
        assert_eq!((decoder.u32(), decoder.u64(), decoder.boolean()), (Ok(7), Ok(1 << 40), Ok(true)));
        assert_eq!(decoder.opaque(5).unwrap(), "abcde");
        assert_eq!(decoder.option(Decoder::u32), Ok(None));
        assert!(decoder.rest().is_empty());
    }

    #[test]
    fn a_length_is_checked_before_it_is_believed() {
        assert_eq!(decoder(&[0xff; 8]).opaque(usize::MAX), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0, 9, 1, 2, 3, 4]).opaque(64), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0, 4, 1, 2, 3, 4]).opaque(3), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0, 2]).boolean(), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0]).u32(), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0, 3, 1, 2, 3]).opaque(3).unwrap(), [1, 2, 3].as_slice());
    }
}

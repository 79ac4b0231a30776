//! A command descriptor block (SPC-4 §4.2): bytes whose length is said by the operation code's group.
//!
//! Invariant: reading a field never fails, it is zero where the block ends; a block that is too short for its opcode is refused before.

/// The longest block that is served, in bytes.
pub const CDB_BYTES_MAX: usize = 32;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; CDB_BYTES_MAX],
    len: usize,
}

impl Cdb {
    /// The block that begins with these bytes; transports pad them. What is beyond [`CDB_BYTES_MAX`] is cut off.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(CDB_BYTES_MAX);
        let mut block = [0; CDB_BYTES_MAX];
        block[..len].copy_from_slice(&bytes[..len]);
        Self { bytes: block, len }
    }

    /// The operation code.
    pub fn code(&self) -> u8 {
        self.bytes[0]
    }

    /// Bytes that the initiator sent.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The service action, where the opcode has them.
    pub fn action(&self) -> u8 {
        self.bytes[1] & 0x1f
    }

    /// A byte.
    pub fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Whether a bit of a byte is set.
    pub fn bit(&self, at: usize, bit: u8) -> bool {
        self.byte(at) >> bit & 1 == 1
    }

    /// A big-endian number of up to eight bytes.
    pub fn number(&self, at: usize, len: usize) -> u64 {
        (at..at + len).fold(0, |number, at| number << 8 | u64::from(self.byte(at)))
    }

    /// The same, as a length of parameters or an allocation: at most 32 bits.
    pub fn length(&self, at: usize, len: usize) -> usize {
        usize::try_from(self.number(at, len.min(4))).unwrap_or(usize::MAX)
    }
}

/// A big-endian number in parameters; zero where they end.
pub(super) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    (at..at + len).fold(0, |number, at| number << 8 | u64::from(bytes.get(at).copied().unwrap_or(0)))
}

//! The fields that rows are made of, as bytes: variable-length numbers, fixed numbers, lengths with bytes.
//!
//! Invariant: reading never goes beyond the given bytes, never panics, and never allocates more than they hold.

use super::Malformed;

/// Appends fields.
#[derive(Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    /// LEB128: seven bits a byte, least significant first, the high bit says that more follow.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Eight bytes, little-endian: for what has no small values (times, digests).
    pub fn fixed(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A time, as `fixed` in two's complement.
    pub fn time(&mut self, value_ns: i64) {
        self.fixed(value_ns.cast_unsigned());
    }

    /// The length as `number`, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// 0 for none; else the length plus one as `number`, then the bytes.
    pub fn optional(&mut self, value: Option<&str>) {
        match value {
            None => self.number(0),
            Some(text) => {
                self.number(text.len() as u64 + 1);
                self.0.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// Takes fields off the front of bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begins in the whole, for messages.
    at: usize,
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub const fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or_else(|| self.malformed("ends inside a field"))?;
        self.bytes = rest;
        self.at += len;
        Ok(head)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than 64 bits"))
    }

    pub fn number_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| self.malformed("a number of more than 32 bits"))
    }

    pub fn fixed(&mut self) -> Result<u64, Malformed> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn time(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(u64::cast_signed)
    }

    /// The next `len` bytes as a reader of their own.
    pub fn part(&mut self, len: u64) -> Result<Self, Malformed> {
        let at = self.at;
        self.slice(len).map(|bytes| Self { bytes, at })
    }

    fn slice(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| self.malformed("a length beyond memory"))?;
        self.take(len)
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let len = self.number()?;
        self.slice(len).map(<[u8]>::to_vec)
    }

    fn utf8(&mut self, len: u64) -> Result<String, Malformed> {
        let malformed = self.malformed("text that is not UTF-8");
        std::str::from_utf8(self.slice(len)?).map(str::to_owned).map_err(|_| malformed)
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        let len = self.number()?;
        self.utf8(len)
    }

    pub fn optional(&mut self) -> Result<Option<String>, Malformed> {
        match self.number()? {
            0 => Ok(None),
            len => self.utf8(len - 1).map(Some),
        }
    }
}

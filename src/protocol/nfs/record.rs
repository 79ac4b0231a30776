//! Record marking (RFC 5531 §11): a stream of fragments into records, within limits that are checked before anything is allocated.
//!
//! A record of one fragment (the rule) is a slice of the buffer that it was received in, so a WRITE's payload is not copied; fragments of a
//! longer chain are put together, which copies them once.

use bytes::{Buf, Bytes, BytesMut};

use super::rpc::LAST_FRAGMENT;

/// The largest READ or WRITE, in bytes.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// The largest record: a WRITE of [`PAYLOAD_BYTES_MAX`] with its header (at most 24 + 2 × 408 + 104 bytes), rounded up.
pub(super) const RECORD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + 4096;
/// Fragments of one record. Real clients send one to three.
const FRAGMENTS_MAX: usize = 64;
/// What is read at a time where nothing larger is known to come.
const READ_BYTES: usize = 64 << 10;

/// A stream that is no record stream, or one beyond the limits: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("a record of over {RECORD_BYTES_MAX} bytes")]
    TooLong,
    #[error("a record of over {FRAGMENTS_MAX} fragments")]
    TooManyFragments,
}

/// What was received and is not a whole record yet.
#[derive(Debug, Default)]
pub(super) struct Records {
    buffer: BytesMut,
    /// The fragments before the one that `buffer` begins with.
    assembled: BytesMut,
    fragments: usize,
}

impl Records {
    /// The next whole record, if it is here.
    ///
    /// # Errors
    /// See [`RecordError`]; found as soon as the fragment's header is here.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, RecordError> {
        loop {
            let Some((len, is_last)) = self.header()? else { return Ok(None) };
            if self.buffer.len() < 4 + len {
                return Ok(None);
            }
            self.buffer.advance(4);
            let fragment = self.buffer.split_to(len);
            if is_last && self.fragments == 0 {
                return Ok(Some(fragment.freeze()));
            }
            self.assembled.extend_from_slice(&fragment);
            self.fragments += 1;
            if is_last {
                self.fragments = 0;
                return Ok(Some(std::mem::take(&mut self.assembled).freeze()));
            }
        }
    }

    /// Length and kind of the fragment that the buffer begins with.
    fn header(&self) -> Result<Option<(usize, bool)>, RecordError> {
        let Some(mark) = self.buffer.first_chunk::<4>().map(|mark| u32::from_be_bytes(*mark)) else { return Ok(None) };
        let len = usize::try_from(mark & !LAST_FRAGMENT).map_err(|_| RecordError::TooLong)?;
        if self.assembled.len() + len > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong);
        }
        if self.fragments >= FRAGMENTS_MAX {
            return Err(RecordError::TooManyFragments);
        }
        Ok(Some((len, mark & LAST_FRAGMENT != 0)))
    }

    /// Bytes that the record under way will take at least, 0 where none is.
    pub(super) fn pending_bytes(&self) -> usize {
        let fragment = self.header().ok().flatten().map_or(self.buffer.len(), |(len, _)| 4 + len);
        self.assembled.len() + fragment
    }

    /// Whether nothing of a next record was received.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.fragments == 0
    }

    /// Where to receive to.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        let missing = self.header().ok().flatten().map_or(0, |(len, _)| (4 + len).saturating_sub(self.buffer.len()));
        if self.buffer.capacity() - self.buffer.len() < missing.max(1) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
        &mut self.buffer
    }

    /// Gives the memory back while the connection is idle.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(last: bool, bytes: &[u8]) -> Vec<u8> {
        let mark = u32::try_from(bytes.len()).unwrap() | if last { LAST_FRAGMENT } else { 0 };
        [&mark.to_be_bytes(), bytes].concat()
    }

    fn all(stream: &[u8], step: usize) -> Result<Vec<Vec<u8>>, RecordError> {
        let (mut records, mut found) = (Records::default(), Vec::new());
        for piece in stream.chunks(step) {
            records.room().extend_from_slice(piece);
            while let Some(record) = records.next()? {
                found.push(record.to_vec());
            }
        }
        Ok(found)
    }

    #[test]
    fn records_come_out_whole_however_they_arrive() {
        let stream = [
            fragment(true, b"one"),
            fragment(false, b"tw"),
            fragment(false, b""),
            fragment(true, b"o"),
            fragment(true, b""),
            fragment(true, &[7; 100_000]),
        ]
        .concat();
        for step in [1, 3, 4, 5, 1000, 1 << 20] {
            let records = all(&stream, step).unwrap();
            assert_eq!(records, [b"one".to_vec(), b"two".to_vec(), vec![], vec![7; 100_000]], "{step}");
        }
    }

    #[test]
    fn limits_hold_before_anything_is_received() {
        assert_eq!(all(&[0xff, 0xff, 0xff, 0xff], 4), Err(RecordError::TooLong));
        assert_eq!(all(&[0x7f, 0xff, 0xff, 0xff], 1), Err(RecordError::TooLong));
        let mark = u32::try_from(RECORD_BYTES_MAX + 1).unwrap() | LAST_FRAGMENT;
        assert_eq!(all(&mark.to_be_bytes(), 4), Err(RecordError::TooLong));
        let halves = [fragment(false, &vec![0; RECORD_BYTES_MAX]), fragment(true, b"x")].concat();
        assert_eq!(all(&halves, 1 << 16), Err(RecordError::TooLong));
        let endless = fragment(false, b"").repeat(FRAGMENTS_MAX + 1);
        assert_eq!(all(&endless, 4), Err(RecordError::TooManyFragments));
    }

    #[test]
    fn memory_is_taken_for_what_comes_and_given_back() {
        let mut records = Records::default();
        assert!(records.is_empty() && records.pending_bytes() == 0);
        records.room().extend_from_slice(&(LAST_FRAGMENT | 500_000).to_be_bytes());
        assert_eq!(records.pending_bytes(), 500_004);
        assert!(records.room().capacity() >= 500_004 && !records.is_empty());
        records.room().extend_from_slice(&[1; 500_000]);
        let record = records.next().unwrap().unwrap();
        assert_eq!(record.len(), 500_000);
        records.rest();
        assert!(records.is_empty() && records.buffer.capacity() == 0);
    }
}

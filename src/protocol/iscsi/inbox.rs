//! A stream into units (RFC 7143 §11.1), within limits that are checked before anything is allocated.
//!
//! Invariant: the data of a unit is a slice of the buffer that it was received in: it is not copied here.

use bytes::{Bytes, BytesMut};

use super::pdu::{HEADER_BYTES, Header, Pdu};

/// What is read at a time where nothing larger is known to come, in bytes.
const READ_BYTES: usize = 64 << 10;
const DIGEST_BYTES: usize = 4;

/// A stream that is no stream of units, or one beyond the limits: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("a data segment of {0} bytes")]
    TooLong(usize),
    #[error("a header whose digest is wrong")]
    HeaderDigest,
    #[error("data whose digest is wrong")]
    DataDigest,
}

/// Which digests are in use (§13.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) header: bool,
    pub(super) data: bool,
}

/// What was received and is not a whole unit yet.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: BytesMut,
    pub(super) digests: Digests,
    /// The longest data segment.
    pub(super) data_bytes_max: usize,
}

impl Inbox {
    pub(super) fn new(data_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), digests: Digests::default(), data_bytes_max }
    }

    /// The header that the buffer begins with, and the bytes of the whole unit.
    fn next_header(&self) -> Result<Option<(Header, usize)>, Fault> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>().map(|bytes| Header(*bytes)) else { return Ok(None) };
        let data_bytes = header.data_bytes();
        if data_bytes > self.data_bytes_max {
            return Err(Fault::TooLong(data_bytes));
        }
        let header_digest = if self.digests.header { DIGEST_BYTES } else { 0 };
        let data_digest = if self.digests.data && data_bytes > 0 { DIGEST_BYTES } else { 0 };
        let head = HEADER_BYTES + header.more_bytes() + header_digest;
        Ok(Some((header, head + data_bytes.next_multiple_of(4) + data_digest)))
    }

    /// The next whole unit, if it is here.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(super) fn next(&mut self) -> Result<Option<Pdu>, Fault> {
        let Some((header, total)) = self.next_header()? else { return Ok(None) };
        if self.buffer.len() < total {
            return Ok(None);
        }
        let mut unit = self.buffer.split_to(total).freeze();
        let head_bytes = HEADER_BYTES + header.more_bytes();
        let head = unit.split_to(head_bytes);
        if self.digests.header && !digest_is(&head, &unit.split_to(DIGEST_BYTES)) {
            return Err(Fault::HeaderDigest);
        }
        let data_bytes = header.data_bytes();
        let padded = unit.split_to(data_bytes.next_multiple_of(4));
        if self.digests.data && data_bytes > 0 && !digest_is(&padded, &unit) {
            return Err(Fault::DataDigest);
        }
        Ok(Some(Pdu { header, more: head.slice(HEADER_BYTES..), data: padded.slice(..data_bytes) }))
    }

    /// Whether nothing of a next unit was received.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Where to receive to.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        let total = self.next_header().ok().flatten().map_or(0, |(_, total)| total);
        let missing = total.saturating_sub(self.buffer.len());
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

/// CRC32C as it is on the wire (§13.1).
pub(super) fn digest(parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)).to_le_bytes()
}

fn digest_is(covered: &Bytes, expected: &Bytes) -> bool {
    digest(&[covered]) == expected[..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::iscsi::outbox::Outbox;
    use crate::protocol::iscsi::pdu::request;

    fn unit(data: &[u8]) -> (Header, Bytes) {
        let mut header = Header::new(request::NOP_OUT, 7);
        header.set_data_bytes(data.len());
        (header, Bytes::copy_from_slice(data))
    }

    fn stream(digests: Digests, units: &[&[u8]]) -> Vec<u8> {
        let mut outbox = Outbox::new(digests);
        for data in units {
            let (header, data) = unit(data);
            outbox.push(header, vec![data], None);
        }
        outbox.take_all()
    }

    const ALL_DIGESTS: [Digests; 4] = [
        Digests { header: false, data: false },
        Digests { header: true, data: false },
        Digests { header: false, data: true },
        Digests { header: true, data: true },
    ];

    #[test]
    fn units_come_out_whole_however_they_arrive() {
        let long = vec![9; 70_001];
        let units: [&[u8]; 5] = [b"", b"abc", b"abcd", &long, b"x"];
        for digests in ALL_DIGESTS {
            let stream = stream(digests, &units);
            for step in [1, 7, 48, 1000, 1 << 20] {
                let mut inbox = Inbox { digests, ..Inbox::new(1 << 18) };
                let mut found = Vec::new();
                for piece in stream.chunks(step) {
                    inbox.room().extend_from_slice(piece);
                    while let Some(pdu) = inbox.next().unwrap() {
                        assert_eq!((pdu.header.task(), pdu.more.len()), (7, 0));
                        found.push(pdu.data);
                    }
                }
                assert_eq!(found, units);
                assert!(inbox.is_empty());
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found_by_the_digests() {
        let digests = Digests { header: true, data: true };
        let stream = stream(digests, &[b"some data"]);
        // Bits of the length change how much is waited for; all others are found at once.
        for bit in (0..stream.len() * 8).filter(|bit| !(32..64).contains(bit)) {
            let mut wrong = stream.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let mut inbox = Inbox { digests, ..Inbox::new(1 << 18) };
            inbox.room().extend_from_slice(&wrong);
            assert!(matches!(inbox.next(), Err(Fault::HeaderDigest | Fault::DataDigest)), "{bit}");
        }
    }

    #[test]
    fn the_digest_is_the_standards() {
        // RFC 7143 appendix A.4.
        assert_eq!(digest(&[&[0; 32]]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(digest(&[&[0xff; 16], &[0xff; 16]]), [0x43, 0xab, 0xa8, 0x62]);
    }

    #[test]
    fn limits_hold_before_anything_is_allocated() {
        let mut inbox = Inbox::new(8192);
        let (mut header, _) = unit(&[]);
        header.set_data_bytes(8193);
        inbox.room().extend_from_slice(&header.0);
        assert_eq!(inbox.next(), Err(Fault::TooLong(8193)));
        header.set_data_bytes(8192);
        let mut inbox = Inbox::new(8192);
        inbox.room().extend_from_slice(&header.0);
        assert_eq!(inbox.next(), Ok(None));
        assert!(inbox.room().capacity() < 2 * READ_BYTES);
    }

    #[test]
    fn garbage_is_never_more_than_garbage() {
        let mut random = fastrand::Rng::with_seed(4);
        for round in 0..20_000 {
            let digests = ALL_DIGESTS[random.usize(..4)];
            let mut stream = stream(digests, &[b"hello", &[1; 100]]);
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..stream.len());
                stream[at] = random.u8(..);
            }
            let mut inbox = Inbox { digests, ..Inbox::new(4096) };
            inbox.room().extend_from_slice(&stream);
            for _ in 0..100 {
                match inbox.next() {
                    Ok(Some(pdu)) => assert!(pdu.data.len() <= 4096, "{round}"),
                    _ => break,
                }
            }
            assert!(inbox.room().capacity() <= 4 * READ_BYTES);
        }
    }
}

//! The body of a `CleanThrough` record: what the log cannot say of a blob in its own fields.
//!
//! Format, little endian: version (1 byte, [`VERSION`]), tag (1 byte), length in bytes (8), then the source, to the end.
//! Tags: 1 clean-through (`Record::offset` is the number), 2 create (`length` is remote), 3 rebase (`length` is unused).
//! The other kinds of record need no body, or (`Data`, `Name`) have one that is not the blob's.

use bytes::{BufMut, Bytes, BytesMut};

/// The version that is written.
const VERSION: u8 = 1;
/// Version, tag and length.
const HEAD_BYTES: usize = 10;

/// What a `CleanThrough` record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// S3 has the blob up to a number.
    Clean = 1,
    /// The blob is new.
    Create = 2,
    /// The same bytes are elsewhere.
    Rebase = 3,
}

/// Encodes a body.
pub fn encode(tag: Tag, len_bytes: u64, source: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(HEAD_BYTES + source.len());
    body.put_u8(VERSION);
    body.put_u8(tag as u8);
    body.put_u64_le(len_bytes);
    body.put_slice(source);
    body.freeze()
}

/// Decodes a body; `None` where it is of another version, or no such body.
pub fn decode(body: &Bytes) -> Option<(Tag, u64, Bytes)> {
    let (head, _) = body.split_first_chunk::<HEAD_BYTES>()?;
    if head[0] != VERSION {
        return None;
    }
    let tag = match head[1] {
        1 => Tag::Clean,
        2 => Tag::Create,
        3 => Tag::Rebase,
        _ => return None,
    };
    let len_bytes = u64::from_le_bytes(head[2..].try_into().ok()?);
    Some((tag, len_bytes, body.slice(HEAD_BYTES..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back() {
        for tag in [Tag::Clean, Tag::Create, Tag::Rebase] {
            let body = encode(tag, u64::MAX - 7, b"key and etag");
            assert_eq!(decode(&body), Some((tag, u64::MAX - 7, Bytes::from_static(b"key and etag"))));
        }
        assert_eq!(decode(&Bytes::from_static(b"\x01\x01")), None);
        assert_eq!(decode(&Bytes::from_static(b"\x02\x01\0\0\0\0\0\0\0\0")), None);
        assert_eq!(decode(&Bytes::from_static(b"\x01\x09\0\0\0\0\0\0\0\0")), None);
    }
}

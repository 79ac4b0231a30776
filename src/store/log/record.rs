//! What is appended to the log and what a scan finds: records, their kinds and classes, and places in the log.

use bytes::Bytes;

pub use crate::base::id::Position;
use crate::base::id::{BlobId, OwnerId, Seq};

/// Where a record is: the slot of its segment file, the short form of that file's life, and the record's byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Which segment file.
    pub slot: u32,
    /// The first 32 bits of the life id: a location into an earlier life of the file is seen to be stale.
    pub life: u32,
    /// Offset of the record's header in the segment, in bytes.
    pub offset_bytes: u32,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// `body` is the bytes of `blob` at `offset`.
    Data = 1,
    /// `offset..offset + len` of `blob` reads as zeros.
    Discard = 2,
    /// `blob` is `len` bytes long; what was beyond is gone.
    SetLength = 3,
    /// `blob` is gone, with all its bytes.
    RemoveBlob = 4,
    /// S3 has `blob` up to the sequence number in `offset`; `body` says as what (opaque to the log).
    CleanThrough = 5,
    /// `body` is row changes of [`crate::store::meta`] (opaque to the log).
    Name = 6,
    /// Last in a sealed segment: `body` says for each blob in it its owner and last name (see `format.rs`).
    Footer = 7,
}

/// Who appends, and so which reserve may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// New bytes.
    Write,
    /// Names, tombstones, clean-through: what relieves a full log.
    Name,
    /// What reclaim moves out of a victim; keeps its sequence number.
    Move,
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// `None`: the log gives the next number. `Some`: a moved record keeps its own.
    pub seq: Option<Seq>,
    /// Whose portion it is; told back by the scan.
    pub owner: OwnerId,
    /// The blob, or 0.
    pub blob: BlobId,
    /// See [`Kind`].
    pub offset: u64,
    /// See [`Kind`]; for `Data` the body's length.
    pub len: u64,
    /// When the client did it, nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// At most [`BODY_BYTES_MAX`](super::BODY_BYTES_MAX) bytes.
    pub body: Bytes,
}

/// What `append` did.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The number and place of each record, in the order given.
    pub records: Vec<(Seq, Location)>,
    /// The end of the batch in the write head.
    pub end: Position,
}

/// A record as a scan finds it.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The record; `seq` is set. The body of `Data` is empty: read it by `location`.
    pub record: Record,
    /// Its number.
    pub seq: Seq,
    /// Where it is.
    pub location: Location,
    /// The end of its batch in the write head; 0 for the read head.
    pub end: Position,
}

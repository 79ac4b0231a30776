//! The local log: an append-only sequence of checksummed records in preallocated segment files on the cache disk.
//! Write cache, upload buffer, journal of the namespace and disk read cache in one.
//!
//! What lives here: [`Log`], its records, positions and errors. `log/format.rs` is the layout on disk, byte by byte,
//! with its version; `log/segment.rs` one segment file; `log/commit.rs` the group commit; `log/recover.rs` the scan
//! after a start. The log knows nothing of maps, rows or S3: [`crate::store::blob`] says which records still matter.
//!
//! Invariants:
//! 1. `append` returned: the records are in the file (`pwrite`), whole; a dead process loses none of them, and the
//!    records of one batch are replayed all or not at all. Batches are in the file in the order of their sequence numbers.
//! 2. `commit` returned `Ok`: everything appended before the call survives power loss. One `fdatasync` serves everybody
//!    who waits; who comes during one is served by the next; nobody lingers. At most [`UNFLUSHED_BYTES_MAX`] are
//!    unflushed: past it `room` waits.
//! 3. A failed `fdatasync` is never retried on the same file: the segment is retired (never appended to again), what is
//!    not known durable in it is rewritten into another segment, every waiter gets [`LogError::Flush`], and
//!    [`Log::verifier`] changes.
//! 4. Every life of a segment file has a random id which seeds the checksums: what an earlier life left is never taken
//!    for a record. Damage at or below a known durable mark is corruption and is reported; above it, the log ends there.
//!    A mark is known from the database's checkpoint and from every later record (each carries the mark of its time).
//! 5. A record is never rewritten in place, and no block of 4 KiB that a commit covered is written again.
//! 6. Two heads: writes (and what `Class::Move` moves of them) go to the write head; fetched bytes to the read head,
//!    which is never flushed and may be lost at a crash. Positions order the write head only.
//! 7. The last segments are reserved: two for [`Class::Move`], one for [`Class::Name`]; [`Class::Write`] and the read
//!    head get [`LogError::Full`] before them. The read head never takes what writers need: it takes a free segment only while more
//!    than a quarter of all segments are free or when it recycles its own.
//! 8. A segment is reused only after `free`, which its caller calls when a durable checkpoint no longer names it.

use std::io;

use bytes::Bytes;

use crate::base::id::{BlobId, OwnerId, Seq};

/// The most bytes that are written and not flushed at any time.
pub const UNFLUSHED_BYTES_MAX: u64 = 32 << 20;

/// The largest body of one record; longer writes are several records.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// The unit of body checksums: a read verifies only the units that it touches.
pub const BLOCK_BYTES: usize = 4096;

/// A place in the order of the write head: the segment's ordinal (upper 32 bits) and the byte offset in it (lower 32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

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
    /// At most [`BODY_BYTES_MAX`] bytes.
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

/// Plain values of the log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All segment files together, in bytes.
    pub size_bytes: u64,
    /// One segment file; a power of two from 1 MiB to 256 MiB, at most an eighth of `size_bytes`.
    pub segment_bytes: u64,
}

impl Settings {
    /// The settings of a cache of `size_bytes`: 64 segments of at least 4 MiB and at most 64 MiB each, never fewer than 8.
    pub fn for_size(size_bytes: u64) -> Self {
        let segment_bytes = (size_bytes / 64).next_power_of_two().clamp(4 << 20, 64 << 20);
        Self { size_bytes: size_bytes.max(8 * segment_bytes), segment_bytes }
    }
}

/// How full the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Segment files that the size allows.
    pub segments: u32,
    /// Of them not in use.
    pub segments_free: u32,
    /// Bytes appended and not yet flushed.
    pub unflushed_bytes: u64,
    /// What `Class::Write` may still append before `Full`, in bytes.
    pub writable_bytes: u64,
}

/// One segment as reclaim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Which file.
    pub slot: u32,
    /// The life's short id.
    pub life: u32,
    /// Whether it belongs to the read head.
    pub read_head: bool,
    /// Whether it is sealed (only sealed ones can be victims).
    pub sealed: bool,
    /// Bytes used by records.
    pub used_bytes: u64,
    /// The position of its end (write head), to compare with a checkpoint's.
    pub end: Position,
}

/// What recovery found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Records that were visited.
    pub records: u64,
    /// The end of the log.
    pub end: Position,
    /// Damage at or below a durable mark, in words for an operator, each with segment and offset.
    pub damage: Vec<String>,
}

/// Why the log refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No segment is left for this class; reclaim, then try again.
    #[error("the cache is full")]
    Full,
    /// A flush failed: what was not yet durable may be lost, though it can still be read.
    #[error("flushing the cache disk failed: {0}")]
    Flush(String),
    /// The disk failed otherwise.
    #[error("the cache disk failed: {0}")]
    Disk(#[from] io::Error),
    /// The record at this location is damaged, or the location is of an earlier life.
    #[error("record at segment {slot} offset {offset_bytes} is damaged: {reason}")]
    Corrupt {
        /// The segment file.
        slot: u32,
        /// The record in it.
        offset_bytes: u32,
        /// What is wrong.
        reason: String,
    },
    /// The files in the cache directory are not what the database says, or of another version. Nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// The log. Shared by reference; every method takes `&self`.
pub struct Log {
    _private: (),
}

#[allow(unused_variables, clippy::unused_async)]
impl Log {
    /// Opens the log on `disk`, or makes a new one where the disk has no segment. Records of the write head from
    /// `checkpoint` on are given to `visit` in the order of their place (see [`Scanned`]: `Data` without bodies), then
    /// the log is ready to append. Numbers continue above `seq_floor` and above every number seen, with a gap of 2^20
    /// so that no number that was lost is given again.
    ///
    /// `referenced` are the slots that the database's maps name, with the life that they expect: a slot that is gone or
    /// lives another life is told in `Recovered::damage`, not an error. `checkpoint` in a life that is no longer there,
    /// when any segment is, means that database and log do not belong together: `Refused`.
    ///
    /// # Errors
    /// `Refused` (another version, another gateway's log, a gap between checkpoint and log) and `Disk`.
    pub fn open(
        disk: std::sync::Arc<dyn crate::base::disk::Disk>,
        settings: Settings,
        checkpoint: Position,
        seq_floor: Seq,
        visit: &mut dyn FnMut(Scanned),
    ) -> Result<(Self, Recovered), LogError> {
        todo!()
    }

    /// Appends a batch to the write head, all or nothing. Bounded by memory speed; the caller calls [`Self::room`]
    /// before, without holding locks.
    ///
    /// # Errors
    /// `Full`, `Disk`; then nothing of the batch will be replayed.
    pub fn append(&self, class: Class, batch: &[Record]) -> Result<Appended, LogError> {
        todo!()
    }

    /// Puts fetched bytes (`Kind::Data` with the number of the blob's clean-through) into the read head.
    ///
    /// # Errors
    /// `Full` where the read head may not grow: serve the bytes uncached.
    pub fn append_fetched(&self, record: &Record) -> Result<Location, LogError> {
        todo!()
    }

    /// Waits until less than [`UNFLUSHED_BYTES_MAX`] are unflushed, flushing if need be.
    ///
    /// # Errors
    /// `Flush`.
    pub async fn room(&self) -> Result<(), LogError> {
        todo!()
    }

    /// Group commit: returns when everything appended before this call is durable.
    ///
    /// # Errors
    /// `Flush`: see invariant 3.
    pub async fn commit(&self) -> Result<Position, LogError> {
        todo!()
    }

    /// Fills `buf` with the body of the `Data` record at `location` from `skip_bytes` on, verifying only the checksum
    /// units that it touches.
    ///
    /// # Errors
    /// `Corrupt`, `Disk`.
    pub fn read(&self, location: Location, skip_bytes: u32, buf: &mut [u8]) -> Result<(), LogError> {
        todo!()
    }

    /// The end of what is appended.
    pub fn written(&self) -> Position {
        todo!()
    }

    /// The end of what is durable.
    pub fn durable(&self) -> Position {
        todo!()
    }

    /// The highest number given.
    pub fn last_seq(&self) -> Seq {
        todo!()
    }

    /// Changes at every start and whenever unflushed data may have been lost (the NFS write verifier, RFC 1813 §3.3.7).
    pub fn verifier(&self) -> u64 {
        todo!()
    }

    /// How full the log is.
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// All segments in use.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }

    /// The records of one segment, in order, bodies of `Data` left out; stops at damage.
    ///
    /// # Errors
    /// `Disk`.
    pub fn scan(&self, slot: u32) -> Result<Vec<Scanned>, LogError> {
        todo!()
    }

    /// Gives a sealed segment's file back for reuse. No location in it may be asked for again.
    pub fn free(&self, slot: u32) {
        todo!()
    }

    /// Seals the write head's segment, so that it can be a victim. `names` gives the footer: owner and last name of a blob.
    ///
    /// # Errors
    /// As `append`.
    pub fn set_footer_names(&self, names: Box<dyn Fn(BlobId) -> Option<(OwnerId, Vec<u8>)> + Send + Sync>) {
        todo!()
    }
}

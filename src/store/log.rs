//! The local log: an append-only sequence of checksummed records in preallocated segment files on the cache disk.
//! Write cache, upload buffer, journal of the namespace and disk read cache in one.
//!
//! What lives here: [`Log`], its settings and errors. `log/record.rs` is what is appended, and where it is; `log/format.rs` is the layout on disk, byte by byte,
//! with its version; `log/segment.rs` one segment file (`log/heads.rs`: what is kept of its large records); `log/slots.rs` which files are free and for whom; `log/write.rs` the
//! two heads; `log/commit.rs` the group commit and failed flushes; `log/recover.rs` the start, out of the files that `log/recover/files.rs` finds; `log/read.rs`
//! reads a record (`log/fetched.rs` has some in memory), `log/scan.rs` a segment; `log/usage.rs` says how full the log is; `log/salvage.rs` reads a log without its database. The log knows nothing of maps, rows or S3: [`crate::store::blob`] says which records still matter.
//!
//! Invariants:
//! 1. `append` returned: the records are in the file (`pwrite`), whole; a dead process loses none of them, and the
//!    records of one batch are replayed all or not at all. Batches are in the file in the order of their sequence numbers.
//! 2. `commit` returned `Ok`: everything appended before the call survives power loss. One `fdatasync` serves everybody
//!    who waits; who comes during one is served by the next; nobody lingers. At most [`UNFLUSHED_BYTES_MAX`], and half a
//!    segment, are unflushed: past it `room` waits. So the reserve can take what a failed flush makes the log write again.
//! 3. A failed `fdatasync` is never retried on the same file: the segment is retired (never appended to again), what is
//!    not known durable in it is rewritten into another segment, numbers kept, from memory; every waiter gets [`LogError::Flush`],
//!    and [`Log::verifier`] changes. The old places of such records are good for this process only: a checkpoint writes down
//!    what [`Log::resolve`] says. [`SegmentInfo::retired`] ones are the first to be reclaimed.
//! 4. Every life of a segment file has a random id which seeds the checksums: what an earlier life left is never taken
//!    for a record. Damage at or below a known durable mark is corruption and is reported; above it, the log ends there.
//!    Blocks that the disk cannot read (EIO) are damage too, reported wherever they are: they stop neither a start nor a scan, as long as the
//!    disk reads most of what it is asked for. One that does not refuses the start, and nothing is changed.
//!    A mark is known from the database's checkpoint and from every later record (each carries the mark of its time).
//! 5. A record is never rewritten in place, and no block of 4 KiB that a commit covered is written again.
//! 6. Two heads: writes (and what `Class::Move` moves of them) go to the write head; fetched bytes to the read head,
//!    which is never flushed and may be lost at a crash. Positions order the write head only.
//! 7. The last segments are reserved: two for [`Class::Move`], one for [`Class::Name`]; [`Class::Write`] and the read
//!    head get [`LogError::Full`] before them. The read head never takes what writers need: it takes a free segment only while more
//!    than a quarter of all segments are free or when it recycles its own.
//! 8. A segment is reused only after `free`, which its caller calls when a durable checkpoint no longer names it and lies
//!    at or beyond its end. The newest durable segment is kept even then: it ties the log to its checkpoint.
//!    After a start every segment is in use that holds something after the checkpoint, or something that the database names
//!    ([`Known::live`]); the others are free at once.
//! 9. *No start fails because the log is full.* What has to be written again at a start (at most what two flushes cover: about a segment)
//!    mostly finds room: writers leave three segments; what they leave is there again after a start by 8; of a retired segment a start keeps
//!    only what was durable, and gives up one that has nothing of that. But flushes that fail now and again leave retired segments that
//!    are durable in part, which only a later checkpoint gives up; while the process lives they use the reserve up (then nothing is appended until a start),
//!    and at the next start all of them may be named and the reserve not be there. So a start may write a few segments more than the size
//!    allows ([`Log::exceed_size`]), as far as the disk has room; the caller reclaims before it ends, and files above the size go as segments are freed.
//! 10. A log has a random id, which is in every segment and in the database: the log of another gateway is refused unchanged.

mod commit;
mod fetched;
mod format;
mod heads;
mod read;
mod record;
mod recover;
pub mod salvage;
mod scan;
mod segment;
mod slots;
mod state;
mod usage;
mod write;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::base::disk::Disk;
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::log::state::{Inner, Redirects, Shared};

pub use record::{Appended, Class, Kind, Location, Position, Record, Scanned};
pub use usage::{SegmentInfo, Usage};

/// The most bytes that are written and not flushed at any time.
pub const UNFLUSHED_BYTES_MAX: u64 = 32 << 20;

/// The largest body of one record; longer writes are several records.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// The unit of body checksums: a read verifies only the units that it touches.
pub const BLOCK_BYTES: usize = 4096;

/// Owner and last name of a blob, for footers.
pub type Names = Box<dyn Fn(BlobId) -> Option<(OwnerId, Vec<u8>)> + Send + Sync>;

/// The random id of a log.
pub type LogId = [u8; 16];

/// What the database knows of the log that it belongs to.
pub struct Known<'a> {
    /// Where its last checkpoint is: replay begins there.
    pub checkpoint: Position,
    /// Numbers up to here were given.
    pub seq_floor: Seq,
    /// The log's id; `None`: a new database.
    pub log: Option<LogId>,
    /// Whether the checkpoint names something in a segment, by its slot and the short form of its life.
    pub live: &'a dyn Fn(u32, u32) -> bool,
}

impl Known<'_> {
    /// What a new database knows.
    pub fn nothing() -> Self {
        Self { checkpoint: Position::default(), seq_floor: Seq(0), log: None, live: &|_, _| true }
    }
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

impl Settings {
    fn check(&self) -> Result<(), LogError> {
        let segment = self.segment_bytes;
        let sane = segment.is_power_of_two() && (1 << 20..=format::SEGMENT_BYTES_MAX).contains(&segment);
        if sane && self.size_bytes / 8 >= segment {
            return Ok(());
        }
        Err(LogError::Refused(format!(
            "a log of {} bytes in segments of {segment} bytes cannot be: eight segments at least, each a power of two from 1 to 256 MiB",
            self.size_bytes
        )))
    }
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
    /// The files are a log that belongs to another database. Nothing was changed.
    #[error("the log in the cache directory belongs to another gateway's database")]
    Foreign,
}

/// The log. Shared by reference; every method takes `&self`.
pub struct Log {
    shared: Arc<Shared>,
}

impl Log {
    /// Opens the log on `disk`, or makes a new one where the disk has no segment. Records of the write head from
    /// `known.checkpoint` on are given to `visit` in the order of their place (see [`Scanned`]: `Data` without bodies, no footers),
    /// whole batches only; then the log is ready to append, and everything visited is durable. Numbers continue above
    /// `known.seq_floor` and above every number seen, with a gap of 2^20 so that no number that was lost is given again,
    /// provided that the caller keeps [`Self::last_seq`] durably as the next `seq_floor` before it appends.
    ///
    /// A location in a segment that is gone or lives another life is `Corrupt` when it is read; [`Self::segments`] says
    /// which lives there are. After a refusal nothing has been changed, though `visit` may have been called.
    ///
    /// # Errors
    /// `Refused` (another version, a log that does not reach back to the checkpoint), `Foreign` (another gateway's log), `Disk`.
    pub fn open(
        disk: Arc<dyn Disk>,
        settings: Settings,
        known: &Known<'_>,
        visit: &mut dyn FnMut(Scanned),
    ) -> Result<(Self, Recovered), LogError> {
        settings.check()?;
        let opened = recover::open(&disk, &settings, known, visit)?;
        let segments = opened.slots.used().map(|used| (used.segment.slot(), used.segment.clone())).collect();
        let table = Arc::new(RwLock::new(segments));
        let end = opened.recovered.end;
        let inner = Inner {
            slots: opened.slots,
            log_id: opened.log_id,
            table: table.clone(),
            write: None,
            next_ordinal: opened.next_ordinal,
            last_seq: opened.last_seq,
            written: end,
            durable: opened.durable,
            unsynced: Vec::new(),
            unflushed: VecDeque::new(),
            unflushed_bytes: 0,
            flushing: false,
            failures: 0,
            failed_from: Position::default(),
            failure: String::new(),
            stranded: false,
            may_be_durable: true,
            unflushed_bytes_max: UNFLUSHED_BYTES_MAX.min(settings.segment_bytes / 2),
            verifier: u64::from_le_bytes(random_id()[..8].try_into().unwrap_or_default()),
            names: None,
            arena: Vec::new(),
        };
        let shared = Shared {
            disk,
            inner: Mutex::new(inner),
            read_head: Mutex::new(None),
            table,
            redirects: Redirects::default(),
            heads: heads::Heads::new(),
            fetched: fetched::Fetched::default(),
            flushed: Notify::new(),
        };
        let log = Self { shared: Arc::new(shared) };
        log.exceed_size(true);
        log.flush_recovered(&opened.unsynced)?;
        log.exceed_size(false);
        let mut recovered = opened.recovered;
        recovered.end = log.written();
        Ok((log, recovered))
    }

    /// Appends a batch to the write head, all or nothing. Bounded by memory speed; the caller calls [`Self::room`]
    /// before, without holding locks. A batch takes at most [`Self::batch_bytes_max`].
    ///
    /// # Errors
    /// `Full`, `Disk`, and `Flush` while nothing can be made durable; then nothing of the batch will be replayed.
    pub fn append(&self, class: Class, batch: &[Record]) -> Result<Appended, LogError> {
        let bytes = format::batch_bytes(batch.iter());
        let too_long = batch.iter().any(|record| record.body.len() > BODY_BYTES_MAX);
        if too_long || bytes > self.batch_bytes_max() {
            return Err(LogError::Disk(io::Error::new(io::ErrorKind::InvalidInput, "a batch longer than a segment holds")));
        }
        let summed = batch.iter().map(|record| (record.clone(), format::table_of(&record.body))).collect();
        let mut inner = self.shared.inner.lock();
        if batch.is_empty() {
            return Ok(Appended { records: Vec::new(), end: inner.written });
        }
        if inner.stranded {
            return Err(LogError::Flush(inner.failure.clone()));
        }
        inner.make_room(class, bytes)?;
        let seqs: Vec<Seq> = batch.iter().map(|record| inner.number(record.seq)).collect();
        match inner.write_batch(summed, seqs.clone()) {
            Ok((locations, end)) => Ok(Appended { records: seqs.into_iter().zip(locations).collect(), end }),
            Err(error) => {
                inner.write_failed(&self.shared.redirects);
                Err(error)
            }
        }
    }

    /// The longest batch, in bytes: bodies, 128 bytes for each record, and 4 KiB for each body of 32 KiB and more (plus 4 for each 4 KiB).
    pub fn batch_bytes_max(&self) -> u64 {
        write::batch_bytes_max(self.shared.inner.lock().slots.segment_bytes())
    }

    /// Puts fetched bytes (`Kind::Data` with the number of the blob's clean-through) into the read head.
    ///
    /// # Errors
    /// `Full` where the read head may not grow: serve the bytes uncached. `Disk`.
    pub fn append_fetched(&self, record: &Record) -> Result<Location, LogError> {
        let bytes = format::batch_bytes(std::iter::once(record));
        let seq = record.seq.unwrap_or_default();
        let batch = [(record.clone(), format::table_of(&record.body))];
        let mut head = self.shared.read_head.lock();
        if record.body.len() > BODY_BYTES_MAX || bytes > self.batch_bytes_max() {
            return Err(LogError::Full);
        }
        if head.as_ref().is_none_or(|head| !head.fits(bytes)) {
            let mut inner = self.shared.inner.lock();
            if let Some(full) = head.take() {
                inner.close_head(&full);
            }
            *head = Some(inner.open_read_segment()?);
        }
        let Some(open) = head.as_mut() else { return Err(LogError::Full) };
        let mut arena = Vec::new();
        match open.write(&batch, &[seq], Position::default(), &mut arena) {
            Ok(locations) => {
                let location = locations.first().copied().ok_or(LogError::Full)?;
                self.shared.fetched.insert(location, record.body.clone());
                Ok(location)
            }
            Err(error) => {
                if let Some(failed) = head.take() {
                    self.shared.inner.lock().close_head(&failed);
                }
                Err(error)
            }
        }
    }

    /// Waits until less than may be (invariant 2) is unflushed, flushing if need be.
    ///
    /// # Errors
    /// `Flush`.
    pub async fn room(&self) -> Result<(), LogError> {
        self.shared.room().await
    }

    /// Group commit: returns when everything appended before this call is durable.
    ///
    /// # Errors
    /// `Flush`: see invariant 3.
    pub async fn commit(&self) -> Result<Position, LogError> {
        self.shared.commit().await
    }

    /// The end of what is appended.
    pub fn written(&self) -> Position {
        self.shared.inner.lock().written
    }

    /// The end of what is durable.
    pub fn durable(&self) -> Position {
        self.shared.inner.lock().durable
    }

    /// The highest number given.
    pub fn last_seq(&self) -> Seq {
        self.shared.inner.lock().last_seq
    }

    /// Changes at every start and whenever unflushed data may have been lost (the NFS write verifier, RFC 1813 §3.3.7).
    pub fn verifier(&self) -> u64 {
        self.shared.inner.lock().verifier
    }

    /// The log's id, for [`Known::log`].
    pub fn id(&self) -> LogId {
        self.shared.inner.lock().log_id
    }

    /// While a start is not over: [`Class::Move`] may use a few segments more than the size allows, where none is free (invariant 9).
    pub fn exceed_size(&self, may_exceed: bool) {
        self.shared.inner.lock().slots.set_may_exceed(may_exceed);
    }

    /// Gives a sealed segment's file back for reuse. No location in it may be asked for again.
    pub fn free(&self, slot: u32) {
        let mut inner = self.shared.inner.lock();
        let Some(used) = inner.slots.get_mut(slot).filter(|used| used.sealed) else { return };
        used.free_later = true;
        inner.release_freed(&self.shared.redirects);
    }

    /// Seals the write head's segment, so that it can be a victim; the next append opens another.
    pub fn seal(&self) {
        self.shared.inner.lock().seal();
    }

    /// Who gives owner and last name of a blob for the footers that salvage reads. It is called with the log's lock held: it
    /// may take no lock under which the log is called.
    pub fn set_footer_names(&self, names: Names) {
        self.shared.inner.lock().names = Some(names);
    }
}

/// 16 random bytes: lives and ids of logs.
fn random_id() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let mut id = [0; 16];
    for half in id.chunks_mut(8) {
        // The keys of a new `RandomState` come from the system's entropy.
        half.copy_from_slice(&RandomState::new().hash_one(0u8).to_le_bytes());
    }
    id
}

#[cfg(test)]
mod tests;

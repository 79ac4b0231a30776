//! One segment file in one life: reading a record by its place, and walking from batch to batch.
//!
//! Invariants: a [`Segment`] never changes; who holds one may read it while its file is already recycled, and is told
//! `Corrupt` then. Lengths from the disk are used only after the record's checksum and bounds were checked. A block that the disk
//! cannot read is damage like a wrong checksum, and takes nothing with it but itself ([`read_around`]); a disk that reads nothing is an error.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use crate::base::disk::DiskFile;
use crate::store::log::format::{
    self, HEADER_BYTES, NotASegment, RECORD_FIXED, RECORD_HEADER_MAX, RECORD_MAGIC, RecordHeader, SUSPECT, SUSPECT_AT,
    SegmentHeader,
};
use crate::store::log::heads::{Head, Heads};
use crate::store::log::{BLOCK_BYTES, Location, LogError, Position};

/// The name of a slot's file.
pub fn file_name(slot: u32) -> String {
    format!("{slot:06}.seg")
}

/// The slot of a file's name; `None` for files that are not ours.
pub fn slot_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let slot = digits.parse().ok()?;
    (file_name(slot) == name).then_some(slot)
}

/// What the disk could not read.
pub struct Unreadable {
    pub bytes: u64,
    /// Of the first block.
    pub error: io::Error,
}

/// Fills `buf` from `at`. Blocks that the disk cannot read become zeros, which no checksum takes for what was there.
pub fn read_around(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> Result<(), Unreadable> {
    let Err(error) = file.read_at(buf, at) else { return Ok(()) };
    let mut unreadable = Unreadable { bytes: 0, error };
    let (mut at, mut rest) = (at, buf);
    while !rest.is_empty() {
        let len = (BLOCK_BYTES - at as usize % BLOCK_BYTES).min(rest.len());
        let (block, later) = rest.split_at_mut(len);
        if file.read_at(block, at).is_err() {
            block.fill(0);
            unreadable.bytes += len as u64;
        }
        (at, rest) = (at + len as u64, later);
    }
    if unreadable.bytes == 0 { Ok(()) } else { Err(unreadable) }
}

/// As [`read_around`], where some of it can be read.
fn read_some(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<()> {
    match read_around(file, buf, at) {
        Err(unreadable) if unreadable.bytes == buf.len() as u64 => Err(unreadable.error),
        _ => Ok(()),
    }
}

/// A long body is read and verified in pieces of this length: the next is read ahead by the kernel meanwhile, and what is verified is
/// still in the processor's cache.
const PIECE_BYTES: usize = 128 << 10;

/// One life of one segment file.
pub struct Segment {
    pub header: SegmentHeader,
    pub seed: u32,
    pub file: Arc<dyn DiskFile>,
    /// A process before this one failed to flush it.
    pub suspect: bool,
}

impl Segment {
    pub fn new(header: SegmentHeader, file: Arc<dyn DiskFile>) -> Self {
        Self { header, seed: format::life_seed(&header.life), file, suspect: false }
    }

    /// Reads the header of a segment file: the first whole one of its two copies.
    pub fn load(file: Arc<dyn DiskFile>) -> io::Result<Result<Self, NotASegment>> {
        let mut bytes = vec![0; HEADER_BYTES as usize];
        if file.len_bytes()? < bytes.len() as u64 {
            return Ok(Err(NotASegment::Damaged));
        }
        let is_read = match read_around(&*file, &mut bytes, 0) {
            Err(unreadable) if unreadable.bytes == bytes.len() as u64 => return Err(unreadable.error),
            whole => whole.is_ok(),
        };
        let first = SegmentHeader::decode(&bytes);
        let header = match first {
            Err(NotASegment::Damaged) => SegmentHeader::decode(&bytes[BLOCK_BYTES..]),
            decided => decided,
        };
        if header == Err(NotASegment::Damaged) && is_read && bytes.iter().all(|byte| *byte == 0) {
            return Ok(Err(NotASegment::Unused));
        }
        let suspect = bytes[SUSPECT_AT..].starts_with(&SUSPECT);
        Ok(header.map(|header| Self { suspect, ..Self::new(header, file) }))
    }

    /// Leaves word that a flush failed. Only a process that finds the same page cache needs it, so nothing is flushed.
    pub fn mark_suspect(&self) {
        if let Err(error) = self.file.write_at(&[io::IoSlice::new(&SUSPECT)], SUSPECT_AT as u64) {
            tracing::warn!(slot = self.slot(), %error, "cannot mark a segment whose flush failed");
        }
    }

    pub fn slot(&self) -> u32 {
        self.header.slot
    }

    pub fn short_life(&self) -> u32 {
        format::short_life(&self.header.life)
    }

    pub fn location(&self, at: u32) -> Location {
        Location { slot: self.slot(), life: self.short_life(), offset_bytes: at }
    }

    /// The position of an offset; 0 in the read head.
    pub fn position(&self, at: u32) -> Position {
        Position::new(self.header.ordinal, at)
    }

    pub fn bytes(&self) -> u64 {
        self.header.segment_bytes
    }

    fn corrupt(&self, at: u32, reason: &str) -> LogError {
        LogError::Corrupt { slot: self.slot(), offset_bytes: at, reason: reason.to_owned() }
    }

    /// Fills `buf` with the body of the record at `at`, from `skip` on. One read of the disk where the record is small or its head is
    /// among `heads`.
    pub fn read(&self, at: u32, skip: u32, buf: &mut [u8], heads: Option<&Heads>) -> Result<(), LogError> {
        thread_local! {
            static NEAR: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        // Header, table and what is wanted of a body that is just behind them.
        let inline = skip as usize + buf.len().div_ceil(BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES;
        if inline <= 4 * BLOCK_BYTES {
            return NEAR.with_borrow_mut(|near| {
                let header = self.read_head(at, RECORD_HEADER_MAX + inline, near)?;
                self.read_body(&header, near, skip, buf)
            });
        }
        let place = self.location(at);
        if let Some(head) = heads.and_then(|heads| heads.get(place)) {
            return self.read_body(&head.header, &head.bytes, skip, buf);
        }
        let mut bytes = Vec::new();
        let header = self.read_head(at, RECORD_HEADER_MAX, &mut bytes)?;
        self.read_body(&header, &bytes, skip, buf)?;
        if let Some(heads) = heads {
            bytes.truncate(header.header_bytes());
            heads.insert(place, Arc::new(Head { header, bytes: bytes.into() }));
        }
        Ok(())
    }

    /// Reads `wanted` bytes from the record at `at` on, fewer at the segment's end, and verifies its header.
    fn read_head(&self, at: u32, wanted: usize, head: &mut Vec<u8>) -> Result<RecordHeader, LogError> {
        let left = self.bytes().saturating_sub(u64::from(at));
        head.resize(wanted.min(usize::try_from(left).unwrap_or(usize::MAX)), 0);
        read_some(&*self.file, head, u64::from(at))?;
        RecordHeader::decode(head, &self.header.life, self.seed, at, self.bytes())
            .ok_or_else(|| self.corrupt(at, "no record of this life begins here"))
    }

    /// Fills `buf` with the body from `skip` on; `head` is what was read from the record's beginning on: header and table at least.
    fn read_body(&self, header: &RecordHeader, head: &[u8], skip: u32, buf: &mut [u8]) -> Result<(), LogError> {
        let at = header.at;
        let end = u64::from(skip) + buf.len() as u64;
        if end > u64::from(header.body_len) {
            return Err(self.corrupt(at, "the record is shorter than what is asked of it"));
        }
        let mut done = 0;
        let mut unit_bytes = Vec::new();
        let mut unit = skip as usize / BLOCK_BYTES;
        while done < buf.len() {
            let start = unit * BLOCK_BYTES;
            let len = BLOCK_BYTES.min(header.body_len as usize - start);
            let from = (skip as usize + done) - start;
            let take = (len - from).min(buf.len() - done);
            let place = header.body_at as usize + start;
            let in_head = (place - at as usize)..(place - at as usize + len);
            let bytes: &[u8] = if let Some(bytes) = head.get(in_head) {
                buf[done..done + take].copy_from_slice(&bytes[from..from + take]);
                bytes
            } else if from == 0 && take == len {
                // Whole units go straight to where they are wanted, all at once.
                return self.read_units(header, head, unit, &mut buf[done..]);
            } else {
                unit_bytes.resize(len, 0);
                self.file.read_at(&mut unit_bytes, place as u64)?;
                buf[done..done + take].copy_from_slice(&unit_bytes[from..from + take]);
                &unit_bytes
            };
            self.check_unit(header, head, unit, bytes)?;
            done += take;
            unit += 1;
        }
        Ok(())
    }

    /// Fills `buf` from the beginning of unit `unit` on.
    fn read_units(&self, header: &RecordHeader, head: &[u8], unit: usize, buf: &mut [u8]) -> Result<(), LogError> {
        let start = unit * BLOCK_BYTES;
        let to_end = start + buf.len() == header.body_len as usize;
        if buf.len() > PIECE_BYTES {
            self.file.will_read(header.body_at as u64 + start as u64, buf.len() as u64);
        }
        for (piece, bytes) in buf.chunks_mut(PIECE_BYTES).enumerate() {
            let before = piece * PIECE_BYTES;
            read_some(&*self.file, bytes, header.body_at as u64 + (start + before) as u64)?;
            for (index, bytes) in bytes.chunks(BLOCK_BYTES).enumerate() {
                if bytes.len() == BLOCK_BYTES || to_end {
                    self.check_unit(header, head, unit + before / BLOCK_BYTES + index, bytes)?;
                }
            }
        }
        let rest = if to_end { 0 } else { buf.len() % BLOCK_BYTES };
        if rest > 0 {
            // The last unit is wanted in part, and its checksum needs the whole.
            let index = unit + buf.len() / BLOCK_BYTES;
            let mut whole = vec![0; BLOCK_BYTES.min(header.body_len as usize - index * BLOCK_BYTES)];
            self.file.read_at(&mut whole, header.body_at as u64 + (index * BLOCK_BYTES) as u64)?;
            self.check_unit(header, head, index, &whole)?;
            let at = buf.len() - rest;
            buf[at..].copy_from_slice(&whole[..rest]);
        }
        Ok(())
    }

    fn check_unit(&self, header: &RecordHeader, head: &[u8], unit: usize, bytes: &[u8]) -> Result<(), LogError> {
        if format::table_entry(head, unit) == Some(crc32c::crc32c(bytes)) {
            return Ok(());
        }
        let block = header.body_at as usize + unit * BLOCK_BYTES;
        Err(self.corrupt(header.at, &format!("the checksum of the 4 KiB at {block} does not match")))
    }
}

/// Reads a segment's records in order, through a window.
pub struct Walk<'a> {
    segment: &'a Segment,
    window: Vec<u8>,
    window_at: u32,
    /// Nothing at or beyond this offset is looked at.
    limit: u32,
    /// What the disk could not read, in bytes (about: windows overlap).
    unreadable_bytes: u64,
}

/// How much a walk reads at once.
const WINDOW_BYTES: usize = 64 << 10;
/// A walk fails where more than this part of a segment cannot be read.
const UNREADABLE_PART: u64 = 4;

impl<'a> Walk<'a> {
    /// A walk that ends before `limit` (an offset).
    pub fn new(segment: &'a Segment, limit: u32) -> Self {
        let end = u32::try_from(segment.bytes()).unwrap_or(u32::MAX);
        Self { segment, window: Vec::new(), window_at: 0, limit: limit.min(end), unreadable_bytes: 0 }
    }

    /// Whether the disk could not read some of what was looked at.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable_bytes > 0
    }

    /// At least `wanted` bytes from `at` on, fewer at the end of the segment.
    fn bytes(&mut self, at: u32, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.segment.bytes().saturating_sub(u64::from(at))).unwrap_or(0);
        let wanted = wanted.min(left);
        let have = at >= self.window_at && (at - self.window_at) as usize + wanted <= self.window.len();
        if !have {
            self.window.resize(WINDOW_BYTES.max(wanted).min(left), 0);
            self.window_at = at;
            if let Err(unreadable) = read_around(&*self.segment.file, &mut self.window, u64::from(at)) {
                self.unreadable_bytes += unreadable.bytes;
                // So much is no damage any more: the disk fails.
                if self.unreadable_bytes > self.segment.bytes() / UNREADABLE_PART {
                    self.window.clear();
                    return Err(unreadable.error);
                }
            }
        }
        Ok(&self.window[(at - self.window_at) as usize..])
    }

    /// The record at exactly `at`.
    fn record(&mut self, at: u32) -> io::Result<Option<RecordHeader>> {
        if at >= self.limit {
            return Ok(None);
        }
        let (life, seed, segment_bytes) = (self.segment.header.life, self.segment.seed, self.segment.bytes());
        let bytes = self.bytes(at, RECORD_FIXED)?;
        if bytes.len() < RECORD_FIXED || bytes[..4] != RECORD_MAGIC {
            return Ok(None);
        }
        let bytes = self.bytes(at, RECORD_HEADER_MAX)?;
        Ok(RecordHeader::decode(bytes, &life, seed, at, segment_bytes))
    }

    /// The whole batch that begins at exactly `at`, into `out`. `false` where there is none.
    pub fn batch_at(&mut self, at: u32, out: &mut Vec<RecordHeader>) -> io::Result<bool> {
        out.clear();
        let Some(first) = self.record(at)? else { return Ok(false) };
        let (previous, total) = (first.batch_previous, first.batch_after);
        let mut next = Some(first);
        while let Some(record) = next {
            let before = out.len() as u64;
            let fits = u64::from(record.batch_before) == before
                && u64::from(record.batch_after) + before == u64::from(total)
                && record.batch_previous == previous
                && record.end() <= self.limit;
            if !fits {
                return Ok(false);
            }
            out.push(record);
            if record.batch_after == 0 {
                return Ok(true);
            }
            next = self.record(record.end())?;
        }
        Ok(false)
    }

    /// The next whole batch at `at` or behind: where batches follow each other, at `at` or at the next block; after damage, wherever one begins.
    pub fn next_batch(&mut self, at: u32, out: &mut Vec<RecordHeader>) -> io::Result<bool> {
        let block = format::align(at, BLOCK_BYTES as u32);
        if self.batch_at(at, out)? && out[0].batch_previous == at {
            return Ok(true);
        }
        if block != at && self.batch_at(block, out)? && out[0].batch_previous == at {
            return Ok(true);
        }
        let mut candidate = at;
        while let Some(found) = self.find_magic(candidate)? {
            if self.batch_at(found, out)? {
                return Ok(true);
            }
            candidate = found + 8;
        }
        Ok(false)
    }

    /// The next multiple of 8 from `at` on where a record might begin.
    fn find_magic(&mut self, at: u32) -> io::Result<Option<u32>> {
        let mut at = format::align(at, 8);
        while at < self.limit {
            let limit = self.limit;
            let bytes = self.bytes(at, WINDOW_BYTES)?;
            if bytes.len() < 8 {
                break;
            }
            if let Some(index) = bytes.chunks_exact(8).position(|chunk| chunk[..4] == RECORD_MAGIC) {
                let found = at + index as u32 * 8;
                return Ok((found < limit).then_some(found));
            }
            at += (bytes.len() / 8 * 8) as u32;
        }
        Ok(None)
    }
}

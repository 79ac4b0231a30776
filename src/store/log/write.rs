//! The two heads: encoding batches into segments, opening and sealing them.
//!
//! Invariants: all of a batch goes to the file in one write, at the end of one segment; what a flush has covered lies
//! in blocks that are never written again ([`Head::tail`] moves to a block when a flush begins); the footer's room is
//! kept free until the segment is sealed.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::disk::DiskFile;
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::log::format::{self, HEADER_BYTES, RecordHeader, SegmentHeader};
use crate::store::log::segment::Segment;
use crate::store::log::slots::{Slots, Used};
use crate::store::log::state::{Inner, Unflushed};
use crate::store::log::{Class, Kind, Location, LogError, Position, Record};

/// The most blobs that a footer names.
const FOOTER_BLOBS_MAX: usize = 4096;

/// The room that is kept for the footer, in bytes.
pub fn footer_room(segment_bytes: u64) -> u32 {
    (segment_bytes / 64).min(32 << 10) as u32
}

/// The most that one batch may take in a segment, in bytes.
pub fn batch_bytes_max(segment_bytes: u64) -> u64 {
    segment_bytes - u64::from(HEADER_BYTES) - u64::from(footer_room(segment_bytes)) - 4096
}

/// A record with the checksums of its body.
pub type Summed = (Record, Vec<u32>);

/// A segment that is being appended to.
pub struct Head {
    pub segment: Arc<Segment>,
    /// Where the last batch ended.
    pub end: u32,
    /// Where the next one begins.
    pub tail: u32,
    pub opened_for: Class,
    blobs: BTreeMap<BlobId, OwnerId>,
}

impl Head {
    fn new(segment: Arc<Segment>, opened_for: Class) -> Self {
        Self { segment, end: HEADER_BYTES, tail: HEADER_BYTES, opened_for, blobs: BTreeMap::new() }
    }

    /// The first byte that batches may not use.
    pub fn limit(&self) -> u64 {
        self.segment.bytes() - u64::from(footer_room(self.segment.bytes()))
    }

    pub fn fits(&self, bytes: u64) -> bool {
        u64::from(self.tail) + bytes <= self.limit()
    }

    /// Writes a batch at the tail. Moves the tail only when the write came back.
    pub fn write(
        &mut self,
        batch: &[Summed],
        seqs: &[Seq],
        mark: Position,
        arena: &mut Vec<u8>,
    ) -> Result<Vec<Location>, LogError> {
        let (end, locations) = Self::encode_and_write(&self.segment, (self.end, self.tail), batch, seqs, mark, arena)?;
        for (record, _) in batch.iter().filter(|(record, _)| record.kind == Kind::Data) {
            if self.blobs.len() < FOOTER_BLOBS_MAX {
                self.blobs.insert(record.blob, record.owner);
            }
        }
        (self.end, self.tail) = (end, end);
        Ok(locations)
    }

    fn encode_and_write(
        segment: &Segment,
        (previous, tail): (u32, u32),
        batch: &[Summed],
        seqs: &[Seq],
        mark: Position,
        arena: &mut Vec<u8>,
    ) -> Result<(u32, Vec<Location>), LogError> {
        enum Piece<'a> {
            Arena(Range<usize>),
            Body(&'a [u8]),
        }
        arena.clear();
        let (mut at, mut pieces, mut from) = (tail, Vec::with_capacity(2 * batch.len()), 0);
        let mut locations = Vec::with_capacity(batch.len());
        for (index, ((record, table), seq)) in batch.iter().zip(seqs).enumerate() {
            let (body_at, end) = format::place(at, record.body.len());
            let header = RecordHeader {
                at,
                batch_previous: previous,
                batch_before: index as u32,
                batch_after: (batch.len() - 1 - index) as u32,
                kind: record.kind,
                seq: *seq,
                blob: record.blob,
                offset: record.offset,
                len: record.len,
                time_ns: record.time_ns,
                mark,
                owner: record.owner,
                body_at,
                body_len: record.body.len() as u32,
            };
            header.encode(table, &segment.header.life, segment.seed, arena);
            pad(arena, (body_at - at) as usize - header.header_bytes());
            if record.body.len() < 1024 {
                arena.extend_from_slice(&record.body);
            } else {
                pieces.push(Piece::Arena(from..arena.len()));
                pieces.push(Piece::Body(&record.body));
                from = arena.len();
            }
            pad(arena, (end - body_at) as usize - record.body.len());
            locations.push(segment.location(at));
            at = end;
        }
        pieces.push(Piece::Arena(from..arena.len()));
        let slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Arena(range) => IoSlice::new(&arena[range.clone()]),
                Piece::Body(body) => IoSlice::new(body),
            })
            .filter(|slice| !slice.is_empty())
            .collect();
        segment.file.write_at(&slices, u64::from(tail))?;
        Ok((at, locations))
    }
}

fn pad(arena: &mut Vec<u8>, bytes: usize) {
    arena.resize(arena.len() + bytes, 0);
}

impl Inner {
    /// A new life in a file that was taken. The header is encoded, not written.
    fn new_segment(&mut self, slot: u32, file: Arc<dyn DiskFile>, read_head: bool) -> Arc<Segment> {
        let header = SegmentHeader {
            slot,
            life: super::random_id(),
            log: self.log_id,
            read_head,
            segment_bytes: self.slots.segment_bytes(),
            ordinal: if read_head { 0 } else { self.next_ordinal },
            previous: if read_head { Position::default() } else { self.written },
            mark: self.durable,
            next_seq: Seq(self.last_seq.0 + 1),
        };
        if !read_head {
            self.next_ordinal += 1;
        }
        Arc::new(Segment::new(header, file))
    }

    /// Opens a segment of the write head; `write_header` may be left for later.
    pub fn open_segment(&mut self, class: Class, write_header: bool) -> Result<(), LogError> {
        let (slot, file) = self.slots.take(class)?;
        let segment = self.new_segment(slot, file.clone(), false);
        if write_header && let Err(error) = write_header_of(&segment) {
            self.slots.put_back(slot, file);
            return Err(error.into());
        }
        self.adopt(&segment);
        self.written = segment.position(HEADER_BYTES);
        self.unsynced.push(segment.clone());
        self.write = Some(Head::new(segment, class));
        Ok(())
    }

    /// Opens a segment of the read head.
    pub fn open_read_segment(&mut self) -> Result<Head, LogError> {
        let (slot, file) = self.slots.take_for_reads()?;
        let segment = self.new_segment(slot, file.clone(), true);
        if let Err(error) = write_header_of(&segment) {
            self.slots.put_back(slot, file);
            return Err(error.into());
        }
        self.adopt(&segment);
        Ok(Head::new(segment, Class::Write))
    }

    fn adopt(&mut self, segment: &Arc<Segment>) {
        let tail = u32::try_from(segment.bytes()).unwrap_or(u32::MAX);
        let segment = segment.clone();
        self.table.write().insert(segment.slot(), segment.clone());
        self.slots.insert(Used { segment, sealed: false, retired: false, tail, free_later: false });
    }

    /// Ends the write head's segment, with a footer where there are names.
    pub fn seal(&mut self) {
        let Some(mut head) = self.write.take() else { return };
        if let Some(footer) = self.footer(&head) {
            let seq = self.last_seq;
            let (arena, mark) = (&mut self.arena, self.durable);
            // A footer that cannot be written is only missed by salvage; the next segment's header ends the log before it.
            if head.write(&[footer], &[seq], mark, arena).is_ok() {
                self.written = head.segment.position(head.end);
                self.mark_dirty(&head.segment);
            }
        }
        self.close_head(&head);
    }

    /// Notes that a head takes no more.
    pub fn close_head(&mut self, head: &Head) {
        if let Some(used) = self.slots.get_mut(head.segment.slot()) {
            (used.sealed, used.tail) = (true, head.end);
        }
    }

    fn footer(&self, head: &Head) -> Option<Summed> {
        let names = self.names.as_ref()?;
        let names: Vec<_> = head.blobs.keys().filter_map(|blob| names(*blob).map(|name| (*blob, name))).collect();
        let room = u64::from(footer_room(head.segment.bytes())).min(head.segment.bytes() - u64::from(head.tail));
        let room = room.saturating_sub(512) as usize;
        let body = format::encode_footer(names.iter().map(|(blob, (owner, name))| (*blob, *owner, &name[..])), room);
        let record = Record {
            kind: Kind::Footer,
            seq: None,
            owner: OwnerId(0),
            blob: BlobId(0),
            offset: 0,
            len: 0,
            time_ns: 0,
            body: Bytes::from(body),
        };
        let table = format::table_of(&record.body);
        (!names.is_empty()).then_some((record, table))
    }

    /// Makes sure that the write head has a segment with room for `bytes`.
    pub fn make_room(&mut self, class: Class, bytes: u64) -> Result<(), LogError> {
        if let Some(head) = &self.write {
            if !self.slots.may_share(class, head.opened_for) {
                return Err(LogError::Full);
            }
            if head.fits(bytes) {
                return Ok(());
            }
            if self.slots.free_count() <= Slots::reserve(class) {
                return Err(LogError::Full);
            }
        }
        self.seal();
        self.open_segment(class, true)
    }

    /// The number of a record: its own, or the next.
    pub fn number(&mut self, own: Option<Seq>) -> Seq {
        let seq = own.unwrap_or(Seq(self.last_seq.0 + 1));
        self.last_seq = self.last_seq.max(seq);
        seq
    }

    /// Notes that a segment has bytes that are not flushed.
    pub fn mark_dirty(&mut self, segment: &Arc<Segment>) {
        if !self.unsynced.iter().any(|other| Arc::ptr_eq(other, segment)) {
            self.unsynced.push(segment.clone());
        }
    }

    /// Writes a batch to the write head, which has room for it, and remembers it until it is flushed.
    pub fn write_batch(&mut self, batch: Vec<Summed>, seqs: Vec<Seq>) -> Result<(Vec<Location>, Position), LogError> {
        let Some(head) = self.write.as_mut() else { return Err(LogError::Full) };
        let before = head.tail;
        let locations = head.write(&batch, &seqs, self.durable, &mut self.arena)?;
        let (segment, bytes) = (head.segment.clone(), u64::from(head.end - before));
        self.written = segment.position(head.end);
        self.mark_dirty(&segment);
        self.unflushed_bytes += bytes;
        let end = self.written;
        self.unflushed.push_back(Unflushed { batch, seqs, locations: locations.clone(), end, bytes });
        Ok((locations, end))
    }
}

pub fn write_header_of(segment: &Segment) -> std::io::Result<()> {
    segment.file.write_at(&[IoSlice::new(&segment.header.encode())], 0)
}

//! Opening the log: which segments count, where the log ends, what is damaged, and the replay.
//!
//! In four steps, none of which writes anything but missing reserve files:
//! 1. *Headers.* Every segment file is opened. Each header of the write head says where the log ended when it was opened
//!    (`previous`), so from the newest back to the checkpoint they are a chain; what lies between `previous` and the segment is
//!    not part of the log (it was retired, or an earlier recovery ended the log there).
//! 2. *Batches.* The chain is walked by record headers. Each batch says where the one before it ended, so a batch that is missing
//!    is noticed even where what follows is whole. Every record carries the durable mark of its time: the highest is what
//!    is known to have been durable.
//! 3. *The end.* A gap at or below the mark is corruption: reported, and the log goes on behind it. The first gap above the mark,
//!    or the first batch above it with a wrong body checksum, ends the log. What the disk cannot read is such a gap, and reported too; only a
//!    disk that can read hardly anything refuses the start.
//! 4. *Replay.* Whole batches up to the end are visited; then what a dead process had not flushed is flushed, and the log
//!    goes on in a fresh segment (opened by the first append), whose header cuts off whatever is behind the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::disk::{Disk, DiskFile};
use crate::base::id::Seq;
use crate::store::log::format::{self, HEADER_BYTES, NotASegment, RecordHeader};
use crate::store::log::segment::{self, Segment, Walk};
use crate::store::log::slots::{Slots, Used};
use crate::store::log::state::Unflushed;
use crate::store::log::{Kind, Known, LogError, LogId, Position, Record, Recovered, Scanned, Settings};

/// Numbers that are left out after a start, so that none is given twice that a crash took back.
const SEQ_GAP: u64 = 1 << 20;

/// A whole batch of the walk, or a segment's header, which counts as an empty one.
#[derive(Clone, Copy)]
struct Span {
    /// Where what comes before it ended.
    previous: Position,
    end: Position,
    /// Where it begins in its segment; 0 for a segment's header.
    at: u32,
    /// Index in the chain.
    segment: usize,
}

/// What recovery hands to the log.
pub struct Opened {
    pub slots: Slots,
    pub log_id: LogId,
    pub recovered: Recovered,
    pub next_ordinal: u64,
    pub last_seq: Seq,
    /// Batches of the chain above what is known durable: where each begins.
    pub unsynced: Vec<(Arc<Segment>, u32)>,
    /// What is known durable: the highest mark, or the batch end next below.
    pub durable: Position,
}

struct Files {
    slots: Slots,
    log_id: Option<LogId>,
    /// Segments of the write head by ordinal.
    written: BTreeMap<u64, Arc<Segment>>,
    /// Files that were created and never used, and files whose header is damaged.
    unused: Vec<(u32, Arc<dyn DiskFile>)>,
    unreadable: Vec<(u32, Arc<dyn DiskFile>)>,
    any: bool,
}

/// See [`crate::store::log::Log::open`].
pub fn open(
    disk: &Arc<dyn Disk>,
    settings: &Settings,
    known: &Known<'_>,
    visit: &mut dyn FnMut(Scanned),
) -> Result<Opened, LogError> {
    let (checkpoint, seq_floor) = (known.checkpoint, known.seq_floor);
    let mut files = Files::open(disk, settings)?;
    if files.log_id.zip(known.log).is_some_and(|(found, known)| found != known) {
        return Err(LogError::Foreign);
    }
    let mut damage = Vec::new();
    let (chain, reached) = files.chain(checkpoint);
    let mut walked = Walked { last_seq: seq_floor, mark: checkpoint, spans: Vec::new() };
    for (index, link) in chain.iter().enumerate() {
        walked.segment(index, link, checkpoint, &mut damage)?;
    }
    files.check_reach(reached, checkpoint, walked.mark)?;
    if !files.any && checkpoint != Position::default() {
        damage.push(format!("the cache directory is empty: everything after the checkpoint at {checkpoint} is lost"));
    }
    let (spans, mut end) = walked.settle(checkpoint, &mut damage);
    let mut replay = Replay { chain: &chain, mark: walked.mark, damage: &mut damage, records: 0, unsynced: Vec::new() };
    end = replay.run(&spans, end, visit)?;
    let (records, unsynced) = (replay.records, replay.unsynced);

    let recovered = Recovered { records, end, damage };
    let newest = files.written.keys().next_back().copied().unwrap_or(0);
    let next_ordinal = newest.max(end.ordinal()) + 1;
    let no_files = files.unused.is_empty() && files.unreadable.is_empty();
    let fresh = !files.any && no_files && seq_floor == Seq(0);
    let last_seq = if fresh { Seq(0) } else { Seq(walked.last_seq.0.saturating_add(SEQ_GAP)) };
    let durable = unsynced.first().map_or(end, |first| first.previous);
    let unsynced = unsynced.iter().map(|span| (chain[span.segment].segment.clone(), span.at)).collect();
    files.settle(&chain, known, end, !recovered.damage.is_empty())?;
    Ok(Opened {
        log_id: files.log_id.unwrap_or_else(super::random_id),
        slots: files.slots,
        recovered,
        next_ordinal,
        last_seq,
        unsynced,
        durable,
    })
}

/// A segment of the chain, and where it stops counting.
struct Link {
    segment: Arc<Segment>,
    limit: u32,
}

impl Files {
    fn open(disk: &Arc<dyn Disk>, settings: &Settings) -> Result<Self, LogError> {
        let slots = Slots::new(disk.clone(), settings.size_bytes, settings.segment_bytes);
        let (written, unused, unreadable) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut files = Self { slots, log_id: None, written, unused, unreadable, any: false };
        let mut listed: Vec<u32> = disk.list()?.iter().filter_map(|(name, _)| segment::slot_of(name)).collect();
        listed.sort_unstable();
        for slot in listed {
            let file = disk.open(&segment::file_name(slot))?;
            match Segment::load(file.clone())? {
                Ok(segment) => files.add(slot, Arc::new(segment))?,
                Err(NotASegment::Unused) => files.unused.push((slot, file)),
                Err(NotASegment::Damaged) => files.unreadable.push((slot, file)),
                Err(NotASegment::Version(version)) => {
                    return Err(LogError::Refused(format!(
                        "{} is of version {version} of the log's format, which this program does not know; use the newer program that wrote it",
                        segment::file_name(slot)
                    )));
                }
            }
        }
        Ok(files)
    }

    fn add(&mut self, slot: u32, segment: Arc<Segment>) -> Result<(), LogError> {
        let name = segment::file_name(slot);
        let header = segment.header;
        if header.slot != slot || segment.file.len_bytes()? != header.segment_bytes {
            return Err(LogError::Refused(format!(
                "{name} was written as {} with {} bytes; put the segment files back as they were",
                segment::file_name(header.slot),
                header.segment_bytes
            )));
        }
        if *self.log_id.get_or_insert(header.log) != header.log {
            return Err(LogError::Refused(format!(
                "{name} belongs to another gateway's log than the segments before it; take it out of the cache directory"
            )));
        }
        self.any = true;
        if !header.read_head
            && let Some(other) = self.written.insert(header.ordinal, segment.clone())
        {
            if other.header.life == header.life {
                return Err(LogError::Refused(format!(
                    "{name} is a copy of {}; take one of them out of the cache directory",
                    segment::file_name(other.slot())
                )));
            }
            // One was given up, its file used by the read head, and a power loss brought its header back after another start
            // had given its ordinal again. Numbers leap at each start: the higher is the later.
            let (newer, older) = if other.header.next_seq > header.next_seq { (other, segment) } else { (segment, other) };
            self.unused.push((older.slot(), older.file.clone()));
            self.slots.forget(older.slot());
            self.written.insert(header.ordinal, newer.clone());
            self.use_slot(newer);
            return Ok(());
        }
        self.use_slot(segment);
        Ok(())
    }

    fn use_slot(&mut self, segment: Arc<Segment>) {
        let tail = u32::try_from(segment.bytes()).unwrap_or(u32::MAX);
        self.slots.insert(Used { segment, sealed: true, retired: false, tail, free_later: false });
    }

    /// The segments from the checkpoint on that are part of the log, in order, and whether they reach back to it.
    fn chain(&self, checkpoint: Position) -> (Vec<Link>, bool) {
        let mut chain = Vec::new();
        let (mut newest_left, mut limit) = (u64::MAX, Position(u64::MAX));
        let mut reached = false;
        while let Some((ordinal, segment)) = self.written.range(..=newest_left).next_back() {
            if *ordinal < checkpoint.ordinal() {
                break;
            }
            let limit_here = if *ordinal == limit.ordinal() { limit.offset() } else { u32::MAX };
            chain.push(Link { segment: segment.clone(), limit: limit_here });
            limit = segment.header.previous;
            if limit <= checkpoint || *ordinal == checkpoint.ordinal() {
                reached = true;
                break;
            }
            newest_left = limit.ordinal().min(ordinal - 1);
        }
        chain.reverse();
        (chain, reached)
    }

    /// Whether log and checkpoint belong together. The segment where the log was last durable is never reused before
    /// another is, so only a log that was never flushed may fail to reach back.
    fn check_reach(&self, reached: bool, checkpoint: Position, mark: Position) -> Result<(), LogError> {
        if reached || !self.any || mark == Position::default() {
            return Ok(());
        }
        Err(LogError::Refused(format!(
            "the cache directory and the database do not belong together: the database's checkpoint is at {checkpoint}, and \
             the log does not reach back to it. Put back the database or the cache directory that belongs to the other, or \
             use `tidegate check --salvage`"
        )))
    }

    /// Ends the chain's last segments where the log ends, gives up segments that are no part of it, and sorts the rest.
    fn settle(&mut self, chain: &[Link], known: &Known<'_>, end: Position, damaged: bool) -> std::io::Result<()> {
        let checkpoint = known.checkpoint;
        for link in chain {
            let ordinal = link.segment.header.ordinal;
            if let Some(used) = self.slots.get_mut(link.segment.slot()) {
                let at_end = if ordinal == end.ordinal() { end.offset().max(HEADER_BYTES) } else { u32::MAX };
                used.tail = used.tail.min(link.limit).min(at_end);
            }
        }
        let in_chain = |ordinal: u64| chain.iter().any(|link| link.segment.header.ordinal == ordinal);
        let cut: Vec<u32> = self
            .written
            .values()
            .filter(|segment| segment.header.ordinal > checkpoint.ordinal())
            .filter(|segment| segment.header.ordinal > end.ordinal() || !in_chain(segment.header.ordinal))
            .map(|segment| segment.slot())
            .collect();
        let dead = if damaged { Vec::new() } else { self.dead(known) };
        for slot in cut.into_iter().chain(dead) {
            self.slots.release(slot);
        }
        for (slot, file) in std::mem::take(&mut self.unreadable) {
            // What an unreadable file holds may be what is missing: somebody may want to look at it.
            if damaged { self.slots.quarantine(slot) } else { self.slots.add_free(slot, file) }
        }
        for (slot, file) in std::mem::take(&mut self.unused) {
            self.slots.add_free(slot, file);
        }
        self.slots.fill_reserve()
    }
}

impl Files {
    /// Segments that the checkpoint covers and does not name: they were free, or could have been.
    fn dead(&self, known: &Known<'_>) -> Vec<u32> {
        let covered = |segment: &Segment| segment.header.read_head || segment.header.ordinal < known.checkpoint.ordinal();
        let segments = self.slots.used().map(|used| &*used.segment);
        let dead = segments.filter(|segment| covered(segment) && !(known.live)(segment.slot(), segment.short_life()));
        dead.map(Segment::slot).collect()
    }
}

struct Walked {
    last_seq: Seq,
    mark: Position,
    spans: Vec<Span>,
}

impl Walked {
    fn segment(&mut self, index: usize, link: &Link, checkpoint: Position, damage: &mut Vec<String>) -> Result<(), LogError> {
        let segment = &*link.segment;
        let header = &segment.header;
        self.mark = self.mark.max(header.mark);
        self.last_seq = self.last_seq.max(Seq(header.next_seq.0.saturating_sub(1)));
        let mut at = HEADER_BYTES;
        if header.ordinal == checkpoint.ordinal() && checkpoint.offset() > HEADER_BYTES {
            at = checkpoint.offset();
        } else {
            let end = segment.position(HEADER_BYTES);
            self.spans.push(Span { previous: header.previous, end, at: 0, segment: index });
        }
        let mut walk = Walk::new(segment, link.limit);
        let mut batch = Vec::new();
        while walk.next_batch(at, &mut batch)? {
            let (first, last) = (&batch[0], &batch[batch.len() - 1]);
            at = last.end();
            for record in &batch {
                self.last_seq = self.last_seq.max(record.seq);
                self.mark = self.mark.max(record.mark);
            }
            let previous = segment.position(first.batch_previous);
            self.spans.push(Span { previous, end: segment.position(at), at: first.at, segment: index });
        }
        if walk.is_unreadable() {
            damage.push(format!("the disk cannot read some blocks of {}", segment::file_name(segment.slot())));
        }
        Ok(())
    }

    /// The spans that count, and the end of the log as far as headers tell.
    fn settle(&self, checkpoint: Position, damage: &mut Vec<String>) -> (Vec<Span>, Position) {
        let mut end = checkpoint;
        let mut spans = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            if span.previous > end {
                if span.previous > self.mark {
                    break;
                }
                damage.push(format!("records of the log between {end} and {} are damaged", span.previous));
            }
            end = span.end;
            spans.push(*span);
        }
        if end < self.mark {
            damage.push(format!("records of the log between {end} and {} are damaged", self.mark));
            end = self.mark;
        }
        (spans, end)
    }
}

struct Replay<'a> {
    chain: &'a [Link],
    mark: Position,
    damage: &'a mut Vec<String>,
    records: u64,
    unsynced: Vec<Span>,
}

impl Replay<'_> {
    /// Visits the batches. Returns where the log ends.
    fn run(&mut self, spans: &[Span], end: Position, visit: &mut dyn FnMut(Scanned)) -> Result<Position, LogError> {
        let mut headers = Vec::new();
        let mut walk: Option<(usize, Walk<'_>)> = None;
        for span in spans {
            let durable = span.end <= self.mark;
            if !durable {
                self.unsynced.push(*span);
            }
            if span.at == 0 {
                continue;
            }
            let link = &self.chain[span.segment];
            let walk = match &mut walk {
                Some((index, walk)) if *index == span.segment => walk,
                other => &mut other.insert((span.segment, Walk::new(&link.segment, link.limit))).1,
            };
            let whole = walk.batch_at(span.at, &mut headers)?;
            match whole.then(|| read_batch(&link.segment, &headers, span.end, durable)) {
                Some(Ok(batch)) => {
                    self.records += batch.len() as u64;
                    batch.into_iter().filter(|found| found.record.kind != Kind::Footer).for_each(&mut *visit);
                }
                Some(Err(error @ (LogError::Corrupt { .. } | LogError::Disk(_)))) if durable => {
                    self.damage.push(format!("the batch that ends at {} is damaged: {error}", span.end));
                }
                None if durable => self.damage.push(format!("the batch that ends at {} is unreadable", span.end)),
                Some(Err(LogError::Corrupt { .. } | LogError::Disk(_))) | None => {
                    self.unsynced.pop();
                    return Ok(span.previous.max(self.mark));
                }
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(end)
    }
}

/// The records of a batch. Bodies of data are checked, not kept, and that only where they may have been lost.
fn read_batch(segment: &Segment, headers: &[RecordHeader], end: Position, durable: bool) -> Result<Vec<Scanned>, LogError> {
    let mut batch = Vec::with_capacity(headers.len());
    let mut scratch = Vec::new();
    for header in headers {
        let is_data = header.kind == Kind::Data;
        scratch.resize(header.body_len as usize, 0);
        if !is_data || !durable {
            segment.read(header.at, 0, &mut scratch, None)?;
        }
        let body = if is_data { Bytes::new() } else { Bytes::copy_from_slice(&scratch) };
        batch.push(scanned(segment, header, end, body));
    }
    Ok(batch)
}

fn scanned(segment: &Segment, header: &RecordHeader, end: Position, body: Bytes) -> Scanned {
    let record = Record {
        kind: header.kind,
        seq: Some(header.seq),
        owner: header.owner,
        blob: header.blob,
        offset: header.offset,
        len: header.len,
        time_ns: header.time_ns,
        body,
    };
    Scanned { record, seq: header.seq, location: segment.location(header.at), end }
}

/// The body of a segment's footer.
pub fn footer(segment: &Segment) -> Result<Option<Bytes>, LogError> {
    let all = scan_all(segment, u32::MAX)?;
    Ok(all.into_iter().rev().find(|found| found.record.kind == Kind::Footer).map(|found| found.record.body))
}

/// The records of one segment up to `tail`, as far as they are whole; without the footer.
pub fn scan(segment: &Segment, tail: u32) -> Result<Vec<Scanned>, LogError> {
    let mut found = scan_all(segment, tail)?;
    found.retain(|found| found.record.kind != Kind::Footer);
    Ok(found)
}

fn scan_all(segment: &Segment, tail: u32) -> Result<Vec<Scanned>, LogError> {
    let mut walk = Walk::new(segment, tail);
    let (mut at, mut headers, mut found) = (HEADER_BYTES, Vec::new(), Vec::new());
    while walk.next_batch(at, &mut headers)? {
        let Some(last) = headers.last() else { break };
        at = last.end();
        let end = if segment.header.read_head { Position::default() } else { segment.position(at) };
        match read_batch(segment, &headers, end, true) {
            Ok(batch) => found.extend(batch),
            Err(LogError::Corrupt { .. } | LogError::Disk(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The batch at `at` with its bodies, as if it had just been appended. `None` for a segment's header.
pub fn read_again(segment: &Segment, at: u32) -> Result<Option<Unflushed>, LogError> {
    let mut headers = Vec::new();
    if at >= HEADER_BYTES {
        Walk::new(segment, u32::MAX).batch_at(at, &mut headers)?;
    }
    let Some(last) = headers.last() else { return Ok(None) };
    let end = segment.position(last.end());
    let bytes = u64::from(last.end() - at);
    let mut batch = Vec::with_capacity(headers.len());
    for header in &headers {
        let mut body = vec![0; header.body_len as usize];
        segment.read(header.at, 0, &mut body, None)?;
        let table = format::table_of(&body);
        batch.push((scanned(segment, header, end, Bytes::from(body)).record, table));
    }
    let seqs = headers.iter().map(|header| header.seq).collect();
    let locations = headers.iter().map(|header| segment.location(header.at)).collect();
    Ok(Some(Unflushed { batch, seqs, locations, end, bytes }))
}

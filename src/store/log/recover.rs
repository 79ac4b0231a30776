//! Opening the log: where it ends, what is damaged, and the replay. Which segments count is in `recover/files.rs`.
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

mod files;

use std::sync::Arc;

use crate::base::disk::Disk;
use crate::base::id::Seq;
use crate::store::log::format::HEADER_BYTES;
use crate::store::log::scan::{self, read_batch};
use crate::store::log::segment::{self, Segment, Walk};
use crate::store::log::slots::Slots;
use crate::store::log::{Kind, Known, Log, LogError, LogId, Position, Recovered, Scanned, Settings};
use files::{Files, Link};

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

impl Log {
    /// What a dead process wrote and did not flush was visited, so it must not be lost any more. It is read before it is
    /// flushed: afterwards it could be gone.
    pub(super) fn flush_recovered(&self, unsynced: &[(Arc<Segment>, u32)]) -> Result<(), LogError> {
        let mut inner = self.shared.inner.lock();
        for (segment, at) in unsynced {
            if let Some(batch) = scan::read_again(segment, *at)? {
                inner.unflushed_bytes += batch.bytes;
                inner.unflushed.push_back(batch);
            }
        }
        inner.unsynced = unsynced.iter().map(|(segment, _)| segment.clone()).collect();
        inner.unsynced.dedup_by(|a, b| Arc::ptr_eq(a, b));
        // A flush that failed in the process before cannot be made good by flushing again.
        let suspect = inner.unsynced.iter().any(|segment| segment.suspect);
        let failure =
            if suspect { Some("in an earlier process".to_owned()) } else { inner.flush_now().err().map(|e| e.to_string()) };
        if let Some(failure) = failure {
            inner.flush_failed(failure, &self.shared.redirects);
            if !inner.stranded
                && let Err(error) = inner.flush_now()
            {
                // What was just written again is as suspect as what it replaces, and the next process has to know.
                inner.flush_failed(error.to_string(), &self.shared.redirects);
            }
        }
        Ok(())
    }
}

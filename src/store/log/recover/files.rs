//! The files of the log: which segments there are, which of them the log consists of, and what becomes of the rest.
//!
//! Invariant: nothing is changed before the replay is over ([`Files::settle`]); a refusal leaves everything as it was.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::base::disk::{Disk, DiskFile};
use crate::store::log::format::{HEADER_BYTES, NotASegment};
use crate::store::log::segment::{self, Segment};
use crate::store::log::slots::{Slots, Used};
use crate::store::log::{Known, LogError, LogId, Position, Settings};

/// What is in the cache directory.
pub struct Files {
    pub slots: Slots,
    pub log_id: Option<LogId>,
    /// Segments of the write head by ordinal.
    pub written: BTreeMap<u64, Arc<Segment>>,
    /// Files that were created and never used, and files whose header is damaged.
    pub unused: Vec<(u32, Arc<dyn DiskFile>)>,
    pub unreadable: Vec<(u32, Arc<dyn DiskFile>)>,
    pub any: bool,
}

/// A segment of the chain, and where it stops counting.
pub struct Link {
    pub segment: Arc<Segment>,
    pub limit: u32,
}

impl Files {
    /// Opens every segment file.
    pub fn open(disk: &Arc<dyn Disk>, settings: &Settings) -> Result<Self, LogError> {
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
    pub fn chain(&self, checkpoint: Position) -> (Vec<Link>, bool) {
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
    pub fn check_reach(&self, reached: bool, checkpoint: Position, mark: Position) -> Result<(), LogError> {
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
    pub fn settle(&mut self, chain: &[Link], known: &Known<'_>, end: Position, damaged: bool) -> io::Result<()> {
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

    /// Segments that the checkpoint covers and does not name: they were free, or could have been.
    fn dead(&self, known: &Known<'_>) -> Vec<u32> {
        let covered = |segment: &Segment| segment.header.read_head || segment.header.ordinal < known.checkpoint.ordinal();
        let segments = self.slots.used().map(|used| &*used.segment);
        let dead = segments.filter(|segment| covered(segment) && !(known.live)(segment.slot(), segment.short_life()));
        dead.map(Segment::slot).collect()
    }
}

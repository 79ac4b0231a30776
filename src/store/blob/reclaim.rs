//! Reclaim: making segments free again.
//!
//! A round chooses victims, clears them, makes a durable checkpoint, and frees what nothing names any more. Clearing looks
//! at each data record of the segment: what is dirty, or kept for a generation, is moved to the write head and keeps its
//! number; what is clean is dropped, or copied to the read head where it is hot.
//!
//! Invariants: the accounts only choose; the maps decide. A segment is freed when a durable checkpoint was made after
//! the last map that named it changed, and when the accounts agree that nothing in it lives. Where nothing lives, nothing is read. What
//! cannot be read, be it damaged or the disk's fault, is left where it is, with its segment, and keeps no other segment from being freed;
//! after [`STUCK_FOR`] it is tried again, and at once when nothing in it lives any more.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::map::Extent;
use super::state::{Blob, State};
use super::{BlobError, BlobStore};
use crate::base::id::OwnerId;
use crate::store::log::{Class, Kind, LogError, Record, Scanned, SegmentInfo};

/// Victims of one round.
const VICTIMS_MAX: usize = 8;
/// Free segments from which on nobody has to hurry: the log's three reserved ones, and two.
const LOW_WATER_MIN: u32 = LOG_RESERVE + 2;
/// Segments that the log reserves.
const LOG_RESERVE: u32 = 3;

/// How long a segment that could not be cleared is left alone.
const STUCK_FOR: Duration = Duration::from_secs(600);

/// Rounds of reclaim at a start.
const START_ROUNDS_MAX: usize = 16;

/// How clearing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleared {
    /// Nothing in it lives.
    Wholly,
    /// Something does that was busy: next time.
    NotYet,
    /// Something does that cannot be read or was not found.
    Stuck,
}

/// A segment that may be a victim.
struct Candidate {
    info: SegmentInfo,
    /// What would have to be moved, in bytes of the log.
    move_bytes: u64,
    /// How much it is worth to have it free: higher is better.
    score: u64,
    /// When it was last read.
    last_read: u32,
}

/// What moving `bytes` costs in the log, about: headers, checksums, padding.
fn footprint(bytes: u64) -> u64 {
    bytes + bytes / 64 + 512 * u64::from(bytes > 0)
}

/// With fewer free segments than this, reclaim begins by itself.
fn low_water(segments: u32) -> u32 {
    LOW_WATER_MIN.max(4 + segments / 16)
}

impl BlobStore {
    /// Whether a round should be made without anybody asking.
    pub(super) fn is_low(&self) -> bool {
        let usage = self.log.usage();
        usage.segments_free < low_water(usage.segments)
    }

    /// At a start: reclaims until the log's reserve is there, or nothing more can be done for it. A flush that failed may have
    /// used it up, and the next one needs it (invariant 9 of [`crate::store::log`]).
    pub(super) async fn restore_reserve(&self) -> Result<(), BlobError> {
        for _ in 0..START_ROUNDS_MAX {
            if self.log.usage().segments_free >= LOG_RESERVE || self.reclaim().await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The read head found no room: its coldest segments may be replaced.
    pub(super) fn reclaim_for_reads(&self) {
        self.reads_want_room.store(true, Ordering::Relaxed);
        self.reclaim_wanted.notify_one();
    }

    /// One round. Says how many segments it freed.
    pub(super) async fn reclaim(&self) -> Result<usize, BlobError> {
        let _one = self.reclaiming.lock().await;
        {
            let _barrier = self.barrier.write();
            self.follow_log();
        }
        let mut victims = self.victims();
        if self.log_was_full.swap(false, Ordering::Relaxed) && victims.is_empty() {
            // What is dead may be in the segment that is written to.
            self.log.seal();
            victims = self.victims();
        }
        let mut cleared = Vec::new();
        for victim in victims {
            match self.clear(&victim).await {
                Ok(Cleared::Wholly) => cleared.push(victim),
                Ok(Cleared::NotYet) => {}
                Ok(Cleared::Stuck) => {
                    self.stuck.lock().insert((victim.slot, victim.life), Instant::now());
                }
                Err(BlobError::Log(LogError::Full)) => break,
                Err(error) => return Err(error),
            }
        }
        if cleared.is_empty() {
            return Ok(0);
        }
        self.make_checkpoint(true).await?;
        let mut freed = 0;
        for victim in cleared {
            if self.accounts.lock().live(victim.slot, victim.life) == (0, 0) {
                self.log.free(victim.slot);
                self.heat.forget(victim.slot, victim.life);
                freed += 1;
            }
        }
        self.heat.tick();
        self.tell_space();
        Ok(freed)
    }

    /// The best victims, as many as fit into the reserve together.
    fn victims(&self) -> Vec<SegmentInfo> {
        let segments = self.log.segments();
        let lives: BTreeSet<(u32, u32)> = segments.iter().map(|info| (info.slot, info.life)).collect();
        let mut stuck = self.stuck.lock();
        stuck.retain(|key, since| lives.contains(key) && since.elapsed() < STUCK_FOR);
        let all_dead = |info: &SegmentInfo| self.accounts.lock().live(info.slot, info.life) == (0, 0);
        let may_be = |info: &SegmentInfo| info.sealed && (!stuck.contains_key(&(info.slot, info.life)) || all_dead(info));
        let sealed = segments.into_iter().filter(may_be);
        let mut candidates: Vec<Candidate> = sealed.filter_map(|info| self.candidate(info)).collect();
        candidates.sort_by_key(|candidate| (std::cmp::Reverse(candidate.score), candidate.last_read, candidate.info.end));
        let mut budget = self.settings.log.segment_bytes;
        let mut victims = Vec::new();
        for candidate in candidates {
            if victims.len() < VICTIMS_MAX && candidate.move_bytes <= budget {
                budget -= candidate.move_bytes;
                victims.push(candidate.info);
            }
        }
        // A clean cache is worth keeping: no more of it goes than is wanted.
        let usage = self.log.usage();
        let wanted = (low_water(usage.segments).saturating_sub(usage.segments_free) as usize).max(2);
        let mut taken = 0;
        victims.retain(|info| {
            taken += usize::from(!all_dead(info));
            all_dead(info) || taken <= wanted
        });
        victims
    }

    fn candidate(&self, info: SegmentInfo) -> Option<Candidate> {
        let (must, clean) = self.accounts.lock().live(info.slot, info.life);
        let move_bytes = footprint(must);
        let gain = self.settings.log.segment_bytes.saturating_sub(move_bytes);
        // Moving nearly all of it would free nothing.
        if gain < self.settings.log.segment_bytes / 32 {
            return None;
        }
        let (last_read, hot) = self.heat.of(info.slot, info.life);
        let hot = hot.min(clean);
        let dead = gain.saturating_sub(clean);
        let preferred = if info.read_head && self.reads_want_room.load(Ordering::Relaxed) { gain } else { 0 };
        Some(Candidate { info, move_bytes, score: dead + (clean - hot) / 2 + hot / 8 + preferred, last_read })
    }

    async fn clear(&self, victim: &SegmentInfo) -> Result<Cleared, BlobError> {
        let live = || self.accounts.lock().live(victim.slot, victim.life);
        let before = live();
        if before == (0, 0) {
            return Ok(Cleared::Wholly);
        }
        let records = match self.log.scan(victim.slot) {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(slot = victim.slot, %error, "a segment of the cache cannot be read");
                return Ok(Cleared::Stuck);
            }
        };
        let mut is_readable = true;
        for scanned in records {
            if scanned.record.kind == Kind::Data && scanned.location.life == victim.life {
                is_readable &= self.clear_record(&scanned).await?;
            }
        }
        // What lives in records that the scan passed over is not found: then nothing became less.
        let after = live();
        Ok(if after == (0, 0) {
            Cleared::Wholly
        } else if is_readable && after != before {
            Cleared::NotYet
        } else {
            Cleared::Stuck
        })
    }

    /// Clears what lives in one record. `false`: it cannot be read.
    async fn clear_record(&self, scanned: &Scanned) -> Result<bool, BlobError> {
        let id = scanned.record.blob;
        let blob = match self.table.get(id) {
            Some(blob) => blob,
            None => match self.blob(id).await {
                Ok(blob) => blob,
                Err(BlobError::NotFound) => return Ok(true),
                Err(error) => return Err(error),
            },
        };
        let range = scanned.record.offset..scanned.record.offset.saturating_add(scanned.record.len);
        let (moves, copies) = loop {
            let missing = {
                let _barrier = self.barrier.read();
                let mut state = blob.state.lock();
                let missing = state.missing(&range);
                if missing.is_empty() {
                    break self.drop_cold(&blob, &mut state, scanned, range);
                }
                missing
            };
            self.load_pages(&blob, &missing).await?;
        };
        for extent in copies {
            self.copy_hot(&blob, scanned, &extent);
        }
        let mut is_readable = true;
        for range in moves {
            is_readable &= self.move_bytes(&blob, scanned, range).await?;
        }
        Ok(is_readable)
    }

    /// Drops what is clean and cold. Returns what has to be moved, and what is worth a copy.
    fn drop_cold(&self, blob: &Blob, state: &mut State, scanned: &Scanned, range: Range<u64>) -> (Vec<Range<u64>>, Vec<Extent>) {
        let at = scanned.location;
        let here = state.extents_in(range.clone()).filter(|extent| extent.location() == Some(at));
        let (clean, dirty): (Vec<Extent>, Vec<Extent>) = here.partition(|extent| state.is_droppable(extent));
        let kept = state.generations.iter().flat_map(|frozen| frozen.kept.at(range.clone(), at));
        let moves = merged(dirty.iter().map(Extent::range).chain(kept.map(|(range, _)| range)).collect());
        if self.heat.is_hot(at) {
            return (moves, clean);
        }
        if !clean.is_empty() {
            self.change(blob.id, state, |state, delta| {
                state.drop_clean(range, Some(at), delta);
            });
        }
        (moves, Vec::new())
    }

    /// Copies hot bytes to the read head, or drops them where it has no room.
    fn copy_hot(&self, blob: &Blob, scanned: &Scanned, extent: &Extent) {
        let at = scanned.location;
        let body = self.body(scanned, &extent.range());
        let _barrier = self.barrier.read();
        let mut state = blob.state.lock();
        if !state.missing(&extent.range()).is_empty() {
            return;
        }
        let record = body.map(|body| record(scanned, extent.range(), extent.seq, body));
        match record.and_then(|record| self.log.append_fetched(&record)) {
            Ok(to) => self.change(blob.id, &mut state, |state, delta| {
                state.relocate(extent.range(), |extent| extent.location() == Some(at), to, extent.offset, delta);
            }),
            Err(_) => self.change(blob.id, &mut state, |state, delta| {
                state.drop_clean(extent.range(), Some(at), delta);
            }),
        }
    }

    /// Moves bytes that only the log has. `false`: they cannot be read.
    async fn move_bytes(&self, blob: &Arc<Blob>, scanned: &Scanned, range: Range<u64>) -> Result<bool, BlobError> {
        let at = scanned.location;
        let body = match self.body(scanned, &range) {
            Ok(body) => body,
            Err(error) => {
                self.tell_damage(blob, scanned, range, error);
                return Ok(false);
            }
        };
        let record = record(scanned, range.clone(), scanned.seq, body);
        self.log.room().await?;
        loop {
            let missing = {
                let _barrier = self.barrier.read();
                let mut state = blob.state.lock();
                let missing = state.missing(&range);
                if missing.is_empty() {
                    let appended = self.log.append(Class::Move, std::slice::from_ref(&record))?;
                    let Some((_, to)) = appended.records.first().copied() else { return Ok(false) };
                    self.change(blob.id, &mut state, |state, delta| {
                        state.relocate(range.clone(), |extent| extent.location() == Some(at), to, range.start, delta);
                        state.relocate_kept(range.clone(), at, to, range.start, delta);
                    });
                    return Ok(true);
                }
                missing
            };
            self.load_pages(blob, &missing).await?;
        }
    }

    fn body(&self, scanned: &Scanned, range: &Range<u64>) -> Result<Bytes, LogError> {
        let mut body = BytesMut::zeroed((range.end - range.start) as usize);
        let skip_bytes = u32::try_from(range.start - scanned.record.offset).unwrap_or(u32::MAX);
        self.log.read(scanned.location, skip_bytes, &mut body)?;
        Ok(body.freeze())
    }

    /// See [`BlobStore::evict`].
    pub(super) async fn evict_clean(&self, id: crate::base::id::BlobId) -> Result<(), BlobError> {
        let blob = self.blob(id).await?;
        loop {
            let missing = {
                let _barrier = self.barrier.read();
                let mut state = blob.state.lock();
                let whole = 0..state.row().len_bytes;
                let missing = state.missing(&whole);
                if missing.is_empty() {
                    self.change(id, &mut state, |state, delta| {
                        state.drop_clean(whole, None, delta);
                    });
                    return Ok(());
                }
                missing
            };
            self.load_pages(&blob, &missing).await?;
        }
    }
}

/// A part of a record as a record of its own, with its number.
fn record(scanned: &Scanned, range: Range<u64>, seq: crate::base::id::Seq, body: Bytes) -> Record {
    Record {
        kind: Kind::Data,
        seq: Some(seq),
        owner: OwnerId(scanned.record.owner.0),
        blob: scanned.record.blob,
        offset: range.start,
        len: range.end - range.start,
        time_ns: scanned.record.time_ns,
        body,
    }
}

/// Ranges in order, those that touch as one.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

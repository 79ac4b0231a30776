//! Group commit, and what happens when a flush fails.
//!
//! One caller leads: it flushes what is written so far for everybody; who comes meanwhile waits for it and then, if that
//! did not cover him, leads or follows the next. On a disk that blocks, the flush runs on a thread of its own, so a
//! caller that goes away does not take the flush with it.
//!
//! *A failed flush* (invariant 3) loses whatever was not known durable, so nothing of it is read back: its batches are
//! still in memory ([`Unflushed`]), and are written again, numbers kept, into fresh segments. All segments with such
//! batches are retired. The header of the first fresh segment is written last and says that the log ended at the
//! durable mark before it: with it the new copies count and the old do not, without it the other way round. Records
//! that moved so are still found by their old place ([`Redirects`]) as long as this process lives;
//! a checkpoint must name the new one, which [`crate::store::log::Log::resolve`] tells. A segment that redirects point
//! to is not reused before the retired one is freed.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::store::log::segment::Segment;
use crate::store::log::slots::Used;
use crate::store::log::state::{Inner, Redirect, Redirects, Shared, Unflushed};
use crate::store::log::write::write_header_of;
use crate::store::log::{BLOCK_BYTES, Class, Kind, Location, LogError, Position, Scanned, format};

impl Shared {
    /// Returns when everything appended before is durable.
    pub async fn commit(self: &Arc<Self>) -> Result<Position, LogError> {
        let (target, failures) = {
            let inner = self.inner.lock();
            (inner.written, inner.failures)
        };
        self.wait_for(failures, |inner| inner.durable >= target, target).await
    }

    /// Returns when less than the limit is unflushed.
    pub async fn room(self: &Arc<Self>) -> Result<(), LogError> {
        let (unflushed, limit, failures, target) = {
            let inner = self.inner.lock();
            (inner.unflushed_bytes, inner.unflushed_bytes_max, inner.failures, inner.written)
        };
        // A flush is started before anybody has to wait for it.
        if unflushed < limit / 2 {
            return Ok(());
        }
        if unflushed < limit {
            self.start_flush();
            return Ok(());
        }
        let enough = |inner: &Inner| inner.unflushed_bytes < limit;
        self.wait_for(failures, enough, target).await.map(drop)
    }

    async fn wait_for(
        self: &Arc<Self>,
        failures: u64,
        done: impl Fn(&Inner) -> bool,
        target: Position,
    ) -> Result<Position, LogError> {
        loop {
            let flushed = self.flushed.notified();
            tokio::pin!(flushed);
            flushed.as_mut().enable();
            {
                let inner = self.inner.lock();
                if inner.failures != failures && inner.failed_from < target {
                    return Err(LogError::Flush(inner.failure.clone()));
                }
                if done(&inner) {
                    return Ok(inner.durable);
                }
            }
            self.start_flush();
            flushed.await;
        }
    }

    /// Starts a flush unless one is under way.
    fn start_flush(self: &Arc<Self>) {
        {
            let mut inner = self.inner.lock();
            if inner.flushing {
                return;
            }
            inner.flushing = true;
        }
        if self.disk.blocks() {
            let shared = self.clone();
            tokio::task::spawn_blocking(move || shared.flush());
        } else {
            self.flush();
        }
    }

    /// One flush. `flushing` is set.
    fn flush(&self) {
        let (begun, failures) = {
            let mut inner = self.inner.lock();
            (inner.begin_flush(&self.redirects), inner.failures)
        };
        let result = match begun {
            Ok((segments, upto)) => sync_all(&segments).map(|()| upto).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let mut inner = self.inner.lock();
        match result {
            // What another failure made us write again meanwhile is not what was flushed here.
            Ok(_) if inner.failures != failures => {}
            Ok(upto) => {
                inner.flushed(upto);
                inner.release_freed(&self.redirects);
            }
            Err(failure) => inner.flush_failed(failure, &self.redirects),
        }
        inner.flushing = false;
        drop(inner);
        self.flushed.notify_waiters();
    }
}

fn sync_all(segments: &[Arc<Segment>]) -> io::Result<()> {
    segments.iter().try_for_each(|segment| segment.file.sync())
}

impl Inner {
    /// What is to be flushed, oldest first, and up to where that makes the log durable.
    fn begin_flush(&mut self, redirects: &Redirects) -> Result<(Vec<Arc<Segment>>, Position), LogError> {
        if self.stranded {
            self.rewrite(redirects)?;
        }
        Ok(self.take_unsynced())
    }

    /// What is not flushed, and its end. What is appended from now on touches no block that flushing it makes durable.
    fn take_unsynced(&mut self) -> (Vec<Arc<Segment>>, Position) {
        if let Some(head) = &mut self.write {
            head.tail = format::align(head.end, BLOCK_BYTES as u32);
        }
        (std::mem::take(&mut self.unsynced), self.written)
    }

    /// Flushes everything, here and now.
    pub fn flush_now(&mut self) -> Result<(), LogError> {
        if self.stranded {
            return Err(LogError::Flush(self.failure.clone()));
        }
        let (segments, upto) = self.take_unsynced();
        sync_all(&segments)?;
        self.flushed(upto);
        Ok(())
    }

    /// Ends the lives of segments that were given back, as far as they may be reused: not while moved records that lie
    /// there are asked for by their old place, and not the newest that is durable, which ties the log to its checkpoint.
    pub fn release_freed(&mut self, redirects: &Redirects) {
        let (mut slots, durable) = (Vec::new(), self.durable.ordinal());
        for used in self.slots.used().filter(|used| used.free_later) {
            let header = &used.segment.header;
            if header.read_head || header.ordinal < durable {
                slots.push(header.slot);
            }
        }
        for slot in slots.into_iter().filter(|slot| !redirects.point_to(*slot)) {
            redirects.forget(slot);
            self.table.write().remove(&slot);
            self.slots.release(slot);
        }
    }

    fn flushed(&mut self, upto: Position) {
        self.durable = self.durable.max(upto);
        self.may_be_durable = false;
        while self.unflushed.front().is_some_and(|batch| batch.end <= upto) {
            if let Some(batch) = self.unflushed.pop_front() {
                self.unflushed_bytes -= batch.bytes;
            }
        }
    }

    /// Retires whatever is not known durable, and writes it again.
    pub fn flush_failed(&mut self, failure: String, redirects: &Redirects) {
        tracing::error!(failure, "flushing the cache disk failed; what was not durable is written again elsewhere");
        self.failures += 1;
        self.failed_from = self.durable;
        self.failure = failure;
        self.verifier = self.verifier.wrapping_add(1);
        if !self.stranded
            && let Err(error) = self.rewrite(redirects)
        {
            tracing::error!(%error, "no other segment could take what was not durable");
        }
    }

    /// Writes `unflushed` into fresh segments. `stranded` afterwards says whether that failed.
    fn rewrite(&mut self, redirects: &Redirects) -> Result<(), LogError> {
        self.stranded = true;
        self.retire();
        let (durable, written) = (self.durable, self.written);
        self.written = durable;
        let first_ordinal = self.next_ordinal;
        let batches: Vec<Unflushed> = self.unflushed.drain(..).collect();
        let bytes = std::mem::take(&mut self.unflushed_bytes);
        match self.rewrite_batches(&batches) {
            Ok(()) => {
                self.redirect(&batches, redirects);
                self.stranded = false;
                Ok(())
            }
            Err(error) => {
                // Nothing of the attempt counts: without its first header the old copies are the log.
                self.write = None;
                self.unsynced.clear();
                self.discard_from(first_ordinal);
                (self.unflushed, self.unflushed_bytes, self.written) = (batches.into(), bytes, written);
                Err(error)
            }
        }
    }

    /// The segments with something that is not durable take nothing more.
    fn retire(&mut self) {
        if let Some(head) = self.write.take() {
            self.close_head(&head);
        }
        self.unsynced.clear();
        let durable = self.durable;
        let unflushed = |used: &&Used| !used.segment.header.read_head && used.end() > durable;
        let slots: Vec<u32> = self.slots.used().filter(unflushed).map(|used| used.segment.slot()).collect();
        for slot in slots {
            if let Some(used) = self.slots.get_mut(slot) {
                used.retired = true;
                used.segment.mark_suspect();
            }
        }
    }

    fn rewrite_batches(&mut self, batches: &[Unflushed]) -> Result<(), LogError> {
        self.open_segment(Class::Move, false)?;
        let first = self.write.as_ref().map(|head| head.segment.clone());
        for batch in batches {
            let bytes = format::batch_bytes(batch.batch.iter().map(|(record, _)| record));
            let fits = self.write.as_ref().is_some_and(|head| head.fits(bytes));
            if !fits {
                self.seal();
                self.open_segment(Class::Move, true)?;
            }
            self.write_batch(batch.batch.clone(), batch.seqs.clone())?;
        }
        if self.may_be_durable {
            // The header takes the old copies' place: the new ones must be durable before it is written.
            sync_all(&self.unsynced)?;
        }
        first.map_or(Ok(()), |segment| write_header_of(&segment)).map_err(LogError::Disk)
    }

    fn redirect(&mut self, old: &[Unflushed], redirects: &Redirects) {
        for (old, new) in old.iter().zip(&self.unflushed) {
            for (index, (record, _)) in old.batch.iter().enumerate() {
                let mut record = record.clone();
                record.seq = Some(old.seqs[index]);
                if record.kind == Kind::Data {
                    record.body = bytes::Bytes::new();
                }
                let scanned = Scanned { seq: old.seqs[index], record, location: old.locations[index], end: old.end };
                redirects.insert(Redirect { to: new.locations[index], scanned });
            }
        }
    }

    /// Gives up segments that an attempt opened.
    fn discard_from(&mut self, first_ordinal: u64) {
        let opened = |header: &format::SegmentHeader| !header.read_head && header.ordinal >= first_ordinal;
        let slots: Vec<u32> =
            self.slots.used().filter(|used| opened(&used.segment.header)).map(|used| used.segment.slot()).collect();
        for slot in slots {
            self.table.write().remove(&slot);
            self.slots.release(slot);
        }
    }

    /// A write to the head's segment failed: nothing of it may ever be replayed, so the log goes on in another segment (a
    /// reserved one if need be), whose header, durable at once, says that this one ended before. Where there is none, the
    /// batch's beginning is at least overwritten.
    pub fn write_failed(&mut self, redirects: &Redirects) {
        if let Some(head) = self.write.take() {
            let _ = head.segment.file.write_at(&[IoSlice::new(&[0; format::RECORD_FIXED])], u64::from(head.tail));
            self.close_head(&head);
        }
        let opened = self.open_segment(Class::Move, true);
        if let (Ok(()), Some(head)) = (opened, &self.write)
            && let Err(error) = head.segment.file.sync()
        {
            self.flush_failed(error.to_string(), redirects);
        }
    }

    /// What is not flushed is in memory: the bytes of a record that cannot be read back since its flush failed.
    pub fn read_unflushed(&self, location: Location, skip: usize, buf: &mut [u8]) -> bool {
        let batch = self.unflushed.iter().find_map(|unflushed| {
            let index = unflushed.locations.iter().position(|other| *other == location)?;
            unflushed.batch.get(index)
        });
        let bytes = batch.and_then(|(record, _)| record.body.get(skip..skip + buf.len()));
        bytes.map(|bytes| buf.copy_from_slice(bytes)).is_some()
    }
}

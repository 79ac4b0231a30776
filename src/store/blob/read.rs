//! Reading: a plan under the blob's lock says where each byte is, then the bytes are got without it.
//!
//! What the log has never changes in its place, and what S3 has is pinned by its source; only a segment may be freed in
//! between, which the log tells, or a run be shorter than what is wanted of it: then the plan is made again. A damaged record is dropped and fetched again where it was
//! clean; else its bytes are lost, and said to be, and no others.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::fetch::{Fetching, Remote};
use super::plan::{Held, Part, Plan, extend, stretches};
use super::state::{Blob, State};
use super::{BlobError, BlobStore, FetchError};
use crate::base::buffers::Buffer;
use crate::base::id::BlobId;
use crate::store::log::{BLOCK_BYTES, Location, LogError, Scanned};

/// How often a plan is made again before its failure is believed.
const PLANS_MAX: usize = 16;
/// How much of a map is looked through at a time, in bytes of the blob.
const LOOK_BYTES: u64 = 1 << 30;
/// Small neighbours are read into one buffer of at most so many bytes.
const BUFFER_BYTES_MAX: u64 = 1 << 20;
/// Zeros between them are copied up to this length, in bytes.
const ZEROS_COPIED_MAX: u64 = 64 << 10;
/// Zeros are handed out as slices of one block of them.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Why a plan did not work out.
enum Failed {
    /// Something moved: make another.
    Stale(BlobError),
    /// A clean record was damaged and is dropped: make another, however often, since each time there is one less.
    Dropped,
    /// This is how it is.
    Final(BlobError),
}

fn add_zeros(mut len: u64, out: &mut Vec<Bytes>) {
    while len > 0 {
        let part = len.min(ZEROS.len() as u64);
        out.push(Bytes::from_static(&ZEROS[..part as usize]));
        len -= part;
    }
}

impl BlobStore {
    /// See [`BlobStore::read`].
    pub(super) async fn read_range(&self, id: BlobId, range: Range<u64>) -> Result<Vec<Bytes>, BlobError> {
        let blob = self.blob(id).await?;
        let plan = |state: &mut State| {
            let len = state.row().len_bytes;
            let range = range.start.min(len)..range.end.min(len);
            let plan = state.plan(range.clone())?;
            if state.row().remote_len_bytes > 0
                && let Some(ahead) = state.ahead.on_read(&range)
            {
                self.fetch_ahead(&blob, state, ahead);
            }
            Ok(plan)
        };
        self.read_planned(&blob, plan).await
    }

    /// See [`BlobStore::next_data`].
    pub(super) async fn find_data(&self, id: BlobId, offset: u64) -> Result<Option<Range<u64>>, BlobError> {
        let blob = self.blob(id).await?;
        let mut found: Option<Range<u64>> = None;
        let mut at = offset;
        loop {
            let missing = {
                let state = blob.state.lock();
                let len = state.row().len_bytes;
                if at >= len {
                    return Ok(found);
                }
                let part = at..len.min(at.saturating_add(LOOK_BYTES));
                match state.plan(part.clone()) {
                    Ok(parts) => {
                        if let Some(range) = extend(&mut found, at, &parts) {
                            return Ok(Some(range));
                        }
                        at = part.end;
                        continue;
                    }
                    Err(missing) => missing,
                }
            };
            self.load_pages(&blob, &missing).await?;
        }
    }

    /// See [`BlobStore::try_read`].
    pub(super) fn try_read_range(&self, id: BlobId, range: Range<u64>) -> Option<Result<Vec<Bytes>, BlobError>> {
        let blob = self.table.get(id)?;
        let (one, many);
        let parts: &[Part] = {
            let mut state = blob.state.lock();
            if state.removed {
                return Some(Err(BlobError::NotFound));
            }
            let len = state.row().len_bytes;
            let range = range.start.min(len)..range.end.min(len);
            let parts = if let Some(part) = state.plan_one(&range) {
                one = [part];
                &one[..]
            } else {
                many = state.plan(range.clone()).ok()?;
                &many[..]
            };
            if !parts.iter().all(Part::is_here) {
                return None;
            }
            if state.row().remote_len_bytes > 0
                && let Some(ahead) = state.ahead.on_read(&range)
            {
                self.fetch_ahead(&blob, &state, ahead);
            }
            parts
        };
        blob.recent.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut out = Vec::with_capacity(parts.len());
        self.read_here(parts, &mut out).ok()?;
        Some(Ok(out))
    }

    /// Plans, and says where the stretches are.
    pub(super) async fn stretches_planned(
        &self,
        blob: &Arc<Blob>,
        at: u64,
        plan: impl Fn(&State) -> Plan,
    ) -> Result<Vec<(Range<u64>, Held)>, BlobError> {
        loop {
            let planned = plan(&blob.state.lock());
            match planned {
                Ok(parts) => return Ok(stretches(at, &parts)),
                Err(missing) => self.load_pages(blob, &missing).await?,
            }
        }
    }

    /// See [`BlobStore::stretches`].
    pub(super) async fn find_stretches(&self, id: BlobId, range: Range<u64>) -> Result<Vec<(Range<u64>, Held)>, BlobError> {
        let blob = self.blob(id).await?;
        let len = blob.state.lock().row().len_bytes;
        let range = range.start.min(len)..range.end.min(len);
        self.stretches_planned(&blob, range.start, |state| state.plan(range.clone())).await
    }

    /// Plans and reads, again where something moved in between.
    pub(super) async fn read_planned(
        &self,
        blob: &Arc<Blob>,
        plan: impl Fn(&mut State) -> Plan,
    ) -> Result<Vec<Bytes>, BlobError> {
        let mut failures = 0;
        loop {
            let planned = plan(&mut blob.state.lock());
            let parts = match planned {
                Ok(parts) => parts,
                Err(missing) => {
                    self.load_pages(blob, &missing).await?;
                    continue;
                }
            };
            match self.run(blob, parts).await {
                Ok(bytes) => return Ok(bytes),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Dropped) => {}
                Err(Failed::Stale(error)) => {
                    failures += 1;
                    if failures >= PLANS_MAX {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn run(&self, blob: &Arc<Blob>, parts: Vec<Part>) -> Result<Vec<Bytes>, Failed> {
        // All requests are under way, and what is here is read, before anything is waited for: segments may go meanwhile.
        let mut got: Vec<Result<Vec<Bytes>, (&Remote, Fetching)>> = Vec::new();
        for group in parts.chunk_by(|a, b| a.is_here() && b.is_here()) {
            got.push(if let [Part::Remote(remote)] = group {
                Err((remote, self.start_fetch(blob, remote).map_err(Failed::Final)?))
            } else {
                let mut bytes = Vec::new();
                self.read_here(group, &mut bytes).map_err(|(part, error)| self.on_damage(blob, part, error))?;
                Ok(bytes)
            });
        }
        let mut out = Vec::with_capacity(got.len());
        for group in got {
            match group {
                Ok(bytes) => out.extend(bytes),
                Err((remote, fetching)) => {
                    let bytes = fetching.bytes(&remote.range).await.map_err(|error| Self::on_fetch_error(blob, remote, error))?;
                    if bytes.iter().map(|part| part.len() as u64).sum::<u64>() != remote.range.end - remote.range.start {
                        // The blob was cut after the plan, and a run for what was left is shorter than what is wanted.
                        return Err(Failed::Stale(FetchError::Changed.into()));
                    }
                    out.extend(bytes);
                }
            }
        }
        Ok(out)
    }

    /// Reads parts that are not remote, into as few buffers as that takes. An error comes with its part.
    fn read_here<'a>(&self, mut parts: &'a [Part], out: &mut Vec<Bytes>) -> Result<(), (&'a Part, LogError)> {
        while let Some((first, rest)) = parts.split_first() {
            if let Part::Zero(len) = first {
                add_zeros(*len, out);
                parts = rest;
                continue;
            }
            if let Some(bytes) = self.just_fetched(first) {
                out.push(bytes);
                parts = rest;
                continue;
            }
            let mut len = first.len();
            let joins = |part: &&Part| {
                len += part.len();
                len <= BUFFER_BYTES_MAX && !matches!(part, Part::Zero(zeros) if *zeros > ZEROS_COPIED_MAX)
            };
            let (group, later) = parts.split_at(1 + rest.iter().take_while(joins).count());
            // All of it is overwritten, part by part.
            let mut buffer = Buffer::stale(group.iter().map(Part::len).sum::<u64>() as usize);
            let mut at = 0;
            for part in group {
                let end = at + part.len() as usize;
                match part {
                    Part::Log { location, skip_bytes, clean, .. } => {
                        self.log.read(*location, *skip_bytes, &mut buffer[at..end]).map_err(|error| (part, error))?;
                        if *clean {
                            self.heat.touch(*location);
                        }
                    }
                    Part::Zero(_) | Part::Remote(_) => buffer[at..end].fill(0),
                }
                at = end;
            }
            out.push(buffer.freeze());
            parts = later;
        }
        Ok(())
    }

    /// The bytes of a part that memory still has.
    fn just_fetched(&self, part: &Part) -> Option<Bytes> {
        let Part::Log { range, location, skip_bytes, clean: true } = part else { return None };
        let (start, len) = (*skip_bytes as usize, usize::try_from(range.end - range.start).ok()?);
        let bytes = self.log.fetched(*location, start..start + len)?;
        self.heat.touch(*location);
        Some(bytes)
    }

    /// The source changed since the plan was made: another plan may do.
    fn on_fetch_error(blob: &Blob, remote: &Remote, error: FetchError) -> Failed {
        let moved = remote.epoch.is_some_and(|epoch| blob.state.lock().source_epoch != epoch);
        if moved { Failed::Stale(error.into()) } else { Failed::Final(error.into()) }
    }

    /// A record could not be read: it moved, or S3 has it, or it is lost.
    fn on_damage(&self, blob: &Blob, part: &Part, error: LogError) -> Failed {
        let Part::Log { range, location, skip_bytes, .. } = part else { return Failed::Final(error.into()) };
        let (range, location, skip_bytes) = (range.clone(), *location, *skip_bytes);
        let _barrier = self.barrier.read();
        let mut state = blob.state.lock();
        if !state.missing(&range).is_empty() {
            return Failed::Stale(error.into());
        }
        let mut dropped = 0;
        self.change(blob.id, &mut state, |state, delta| dropped = state.drop_clean(range.clone(), Some(location), delta));
        if dropped > 0 {
            // A power loss takes whole segments of the read head: that is no damage.
            if self.log.segments().iter().any(|info| (info.slot, info.life) == (location.slot, location.life)) {
                tracing::warn!(blob = blob.id.0, ?range, %error, "cached bytes are damaged; they are fetched again");
            }
            return Failed::Dropped;
        }
        let is_there = state.extents_in(range.clone()).any(|extent| extent.location() == Some(location))
            || state.generations.iter().any(|frozen| !frozen.kept.at(range.clone(), location).is_empty());
        if !is_there {
            return Failed::Stale(error.into());
        }
        if !matches!(error, LogError::Corrupt { .. }) {
            tracing::error!(blob = blob.id.0, ?range, %error, "bytes that were not uploaded yet cannot be read");
            return Failed::Final(error.into());
        }
        self.change(blob.id, &mut state, |state, _| state.set_damaged(true));
        let lost = self.lost_part(&range, location, skip_bytes);
        tracing::error!(blob = blob.id.0, ?lost, %error, "bytes that were not uploaded yet are damaged");
        Failed::Final(BlobError::Damaged(lost))
    }

    /// Reclaim could not read what it should move.
    pub(super) fn tell_damage(&self, blob: &Blob, scanned: &Scanned, range: Range<u64>, error: LogError) {
        let skip_bytes = u32::try_from(range.start - scanned.record.offset).unwrap_or(u32::MAX);
        // What follows from it is for readers; here it is only told and marked.
        let part = Part::Log { range, location: scanned.location, skip_bytes, clean: false };
        let _ = self.on_damage(blob, &part, error);
    }

    /// The first stretch of checksum units of a range that cannot be read.
    fn lost_part(&self, range: &Range<u64>, location: Location, skip_bytes: u32) -> Range<u64> {
        let mut lost = range.end..range.end;
        let mut at = range.start;
        while at < range.end {
            let in_body = u64::from(skip_bytes) + (at - range.start);
            let end = (at + BLOCK_BYTES as u64 - in_body % BLOCK_BYTES as u64).min(range.end);
            let mut unit = vec![0; (end - at) as usize];
            let skip = u32::try_from(in_body).unwrap_or(u32::MAX);
            let is_lost = self.log.read(location, skip, &mut unit).is_err();
            if is_lost && lost.start == range.end {
                lost = at..end;
            } else if is_lost && lost.end == at {
                lost.end = end;
            } else if lost.start < range.end {
                break;
            }
            at = end;
        }
        if lost.is_empty() { range.clone() } else { lost }
    }
}

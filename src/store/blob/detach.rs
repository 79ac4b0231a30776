//! Detaching: what S3 had of a blob is gone, and the blob goes on with what is here.
//!
//! Step by step under the blob's lock: in each a stretch of the map is looked at, clean bytes are written again as the blob's own, and what is only
//! remote becomes a hole, all by one append. So a write is before a step or after it, never under it.
//!
//! It is not admitted by the owner's portion, which may be full of bytes that cannot be uploaded before this is done.
//!
//! Invariant: a byte that the log has is never given up; one that was written after the source was frozen is not touched.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::map::{Extent, Piece, Place};
use super::state::{Blob, State};
use super::write::Tried;
use super::{BlobError, BlobStore, Patience};
use crate::base::id::BlobId;
use crate::store::log::{Class, Kind, LogError, Record};

/// Records of one step: each begins a block of the log, whatever its length.
const RECORDS_MAX: usize = if cfg!(test) { 4 } else { 32 };

/// What one step says of its stretch.
struct Step {
    /// Where the next begins; `None`: there is nothing left.
    next: Option<u64>,
    /// What only the source had.
    lost: Vec<Range<u64>>,
}

impl BlobStore {
    /// See [`BlobStore::detach`].
    pub(super) async fn detach_from(&self, id: BlobId, source: &Bytes, patience: Patience) -> Result<Vec<Range<u64>>, BlobError> {
        let deadline = self.deadline(patience);
        let blob = self.blob(id).await?;
        let owner = blob.state.lock().row().owner;
        let mut lost: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        loop {
            self.keep_up(deadline).await?;
            self.log.room().await?;
            let mut space = self.space.subscribe();
            match self.try_detach(&blob, source, at)? {
                Tried::Done(step) => {
                    for range in step.lost {
                        match lost.last_mut() {
                            Some(last) if last.end == range.start => last.end = range.end,
                            _ => lost.push(range),
                        }
                    }
                    match step.next {
                        Some(next) => at = next,
                        None => return Ok(lost),
                    }
                }
                Tried::Load(pages) => self.load_pages(&blob, &pages).await?,
                Tried::Full => self.wait_for_space(owner, &mut space, deadline).await?,
            }
        }
    }

    fn try_detach(&self, blob: &Blob, source: &Bytes, at: u64) -> Result<Tried<Step>, BlobError> {
        let _barrier = self.barrier.read();
        let mut state = blob.state.lock();
        if state.removed {
            return Err(BlobError::NotFound);
        }
        let limit = state.row().remote_len_bytes;
        if state.source != *source || at >= limit {
            return Ok(Tried::Done(Step { next: None, lost: Vec::new() }));
        }
        let stretch = at..limit.min(at + self.body_bytes_max as u64);
        let missing = state.missing(&stretch);
        if !missing.is_empty() {
            return Ok(Tried::Load(missing));
        }
        let (mut records, mut lost) = (Vec::new(), Vec::new());
        let mut next = stretch.start;
        for piece in state.pieces(stretch) {
            if records.len() >= RECORDS_MAX {
                break;
            }
            next = piece.end();
            match piece {
                Piece::Extent(extent) if state.is_dirty(&extent) => {}
                Piece::Extent(extent) => match self.bytes_here(&extent) {
                    Some(body) => records.push(own(blob.id, &state, Kind::Data, extent.range(), body)),
                    None => {
                        if extent.location().is_some() {
                            lost.push(extent.range());
                        }
                        records.push(own(blob.id, &state, Kind::Discard, extent.range(), Bytes::new()));
                    }
                },
                Piece::Gap(from, to) => {
                    lost.push(from..to);
                    records.push(own(blob.id, &state, Kind::Discard, from..to, Bytes::new()));
                }
            }
        }
        let step = Step { next: Some(next), lost };
        if records.is_empty() {
            return Ok(Tried::Done(step));
        }
        let appended = match self.log.append(Class::Write, &records) {
            Ok(appended) => appended,
            Err(LogError::Full) => return Ok(Tried::Full),
            Err(error) => return Err(error.into()),
        };
        for (record, (seq, location)) in records.iter().zip(appended.records) {
            self.change(blob.id, &mut state, |state, delta| match record.kind {
                Kind::Data => state.write(seq, location, record.offset, record.len, record.time_ns, delta),
                _ => {
                    state.replay(seq, record, delta);
                }
            });
        }
        Ok(Tried::Done(step))
    }

    /// The bytes of an extent in the log; `None` for a hole, and where they cannot be read any more.
    fn bytes_here(&self, extent: &Extent) -> Option<Bytes> {
        let Place::Log { location, skip_bytes } = extent.place else { return None };
        let mut bytes = BytesMut::zeroed(usize::try_from(extent.len).ok()?);
        self.log.read(location, skip_bytes, &mut bytes).ok()?;
        Some(bytes.freeze())
    }
}

/// The record that makes a range the blob's own. Its bytes are as old as they were.
fn own(blob: BlobId, state: &State, kind: Kind, range: Range<u64>, body: Bytes) -> Record {
    let (owner, time_ns) = (state.row().owner, state.row().modified_ns);
    Record { kind, seq: None, owner, blob, offset: range.start, len: range.end - range.start, time_ns, body }
}

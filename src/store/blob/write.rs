//! Writing: admission by the owner's portion, the record, then the map.
//!
//! A write waits before it takes a lock: for its portion, for room in the log, for its pages. Under the locks it only
//! appends and inserts; where something is missing there it lets go, gets it, and tries again.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::delta::Delta;
use super::state::{Blob, State};
use super::{BlobError, BlobInfo, BlobStore, Patience};
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::log::{BODY_BYTES_MAX, Class, Kind, LogError, Record};

/// The largest length of a blob: POSIX `off_t`.
const LEN_MAX: u64 = i64::MAX as u64;

/// After so many changes a checkpoint is made, so that a start has little to replay.
const CHANGES_MAX: u64 = 100_000;
/// Who waits says so again at this interval.
const WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// What a try under the locks came to.
pub(super) enum Tried<T> {
    /// Done.
    Done(T),
    /// These pages have to be loaded first.
    Load(Vec<u64>),
    /// The log is full.
    Full,
}

/// Bytes of a portion that are promised to a write.
struct Reservation<'a> {
    store: &'a BlobStore,
    owner: OwnerId,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.store.accounts.lock().release(self.owner, self.bytes);
        self.store.tell_space();
    }
}

impl BlobStore {
    /// See [`BlobStore::write`].
    pub(super) async fn write_at(&self, id: BlobId, offset: u64, data: Bytes, patience: Patience) -> Result<BlobInfo, BlobError> {
        let deadline = self.deadline(patience);
        let blob = self.blob(id).await?;
        self.write_records(&blob, offset, data, deadline).await
    }

    /// See [`BlobStore::append`].
    pub(super) async fn append_at_end(
        &self,
        id: BlobId,
        mut data: Bytes,
        patience: Patience,
    ) -> Result<(u64, BlobInfo), BlobError> {
        let deadline = self.deadline(patience);
        let blob = self.blob(id).await?;
        let _appending = blob.appending.lock().await;
        let first = data.split_to(data.len().min(self.body_bytes_max));
        let first_len = first.len() as u64;
        let (offset, info) = self.write_record(&blob, None, first, deadline).await?;
        if data.is_empty() {
            return Ok((offset, info));
        }
        Ok((offset, self.write_records(&blob, offset + first_len, data, deadline).await?))
    }

    async fn write_records(
        &self,
        blob: &Blob,
        mut offset: u64,
        mut data: Bytes,
        deadline: Instant,
    ) -> Result<BlobInfo, BlobError> {
        loop {
            let part = data.split_to(data.len().min(self.body_bytes_max));
            let len = part.len() as u64;
            let (_, info) = self.write_record(blob, Some(offset), part, deadline).await?;
            if data.is_empty() {
                return Ok(info);
            }
            offset += len;
        }
    }

    /// One record; at the end of the blob where `offset` is `None`.
    async fn write_record(
        &self,
        blob: &Blob,
        offset: Option<u64>,
        data: Bytes,
        deadline: Instant,
    ) -> Result<(u64, BlobInfo), BlobError> {
        let (owner, end) = {
            let state = blob.state.lock();
            (state.row().owner, offset.unwrap_or(state.row().len_bytes).saturating_add(data.len() as u64))
        };
        if end > LEN_MAX {
            return Err(BlobError::TooLong);
        }
        let _reserved = self.reserve(owner, data.len() as u64, deadline).await?;
        loop {
            self.keep_up(deadline).await?;
            self.log.room().await?;
            let mut space = self.space.subscribe();
            match self.try_write(blob, offset, &data)? {
                Tried::Done(done) => return Ok(done),
                Tried::Load(pages) => self.load_pages(blob, &pages).await?,
                Tried::Full => self.wait_for_space(owner, &mut space, deadline).await?,
            }
        }
    }

    fn try_write(&self, blob: &Blob, offset: Option<u64>, data: &Bytes) -> Result<Tried<(u64, BlobInfo)>, BlobError> {
        let _barrier = self.barrier.read();
        let mut state = blob.state.lock();
        if state.removed {
            return Err(BlobError::NotFound);
        }
        let offset = offset.unwrap_or(state.row().len_bytes);
        let len = data.len() as u64;
        if len == 0 {
            return Ok(Tried::Done((offset, state.info())));
        }
        if offset.saturating_add(len) > LEN_MAX {
            return Err(BlobError::TooLong);
        }
        let missing = state.missing(&(offset..offset + len));
        if !missing.is_empty() {
            return Ok(Tried::Load(missing));
        }
        let time_ns = self.clock.now_ns();
        let record = Record {
            kind: Kind::Data,
            seq: None,
            owner: state.row().owner,
            blob: blob.id,
            offset,
            len,
            time_ns,
            body: data.clone(),
        };
        let (seq, location) = match self.log.append(Class::Write, &[record]) {
            Ok(appended) => appended.records.first().copied().ok_or(LogError::Full)?,
            Err(LogError::Full) => return Ok(Tried::Full),
            Err(error) => return Err(error.into()),
        };
        self.change(blob.id, &mut state, |state, delta| state.write(seq, location, offset, len, time_ns, delta));
        Ok(Tried::Done((offset, state.info())))
    }

    /// Changes a blob, whose lock and the barrier are held: notes it for the next checkpoint and books the difference.
    pub(super) fn change(&self, id: BlobId, state: &mut State, change: impl FnOnce(&mut State, &mut Delta)) {
        let mut delta = state.delta();
        let before = state.dirty_since_ns;
        change(state, &mut delta);
        if !state.listed {
            state.listed = true;
            self.dirty.lock().insert(id);
            if self.is_memory_full() {
                // Only a checkpoint unpins what changed.
                self.checkpoint_wanted.notify_one();
            }
        }
        if self.changes.fetch_add(1, Ordering::Relaxed) == CHANGES_MAX {
            self.checkpoint_wanted.notify_one();
        }
        self.count_extents(delta.extents);
        let mut accounts = self.accounts.lock();
        if state.dirty_since_ns != before {
            accounts.since(delta.owner, id, state.dirty_since_ns);
        }
        if accounts.book(&delta) {
            drop(accounts);
            self.tell_space();
        }
    }

    /// A blob that was just made, and that nobody else sees yet.
    pub(super) fn note_new(&self, id: BlobId, state: &mut State) {
        state.listed = true;
        self.dirty.lock().insert(id);
        self.accounts.lock().since(state.row().owner, id, state.dirty_since_ns);
    }

    /// Waits for the owner's portion.
    async fn reserve(&self, owner: OwnerId, bytes: u64, deadline: Instant) -> Result<Reservation<'_>, BlobError> {
        loop {
            let mut space = self.space.subscribe();
            let (admitted, pressed) = {
                let mut accounts = self.accounts.lock();
                (accounts.reserve(owner, bytes), accounts.is_pressed(owner))
            };
            if pressed {
                self.pressure.tell(owner);
            }
            match admitted {
                Some(delay) => {
                    let reservation = Reservation { store: self, owner, bytes };
                    if !delay.is_zero() {
                        tokio::time::sleep_until(deadline.min(Instant::now() + delay)).await;
                    }
                    return Ok(reservation);
                }
                None => Self::wait_a_while(&mut space, deadline).await?,
            }
        }
    }

    /// Asks for reclaim, and waits until something became free since `space` was subscribed.
    pub(super) async fn wait_for_space(
        &self,
        owner: OwnerId,
        space: &mut watch::Receiver<u64>,
        deadline: Instant,
    ) -> Result<(), BlobError> {
        self.pressure.tell(owner);
        self.press_heaviest();
        self.log_was_full.store(true, Ordering::Relaxed);
        self.reclaim_wanted.notify_one();
        Self::wait_a_while(space, deadline).await
    }

    /// Waits until something became free, or it is time to ask again.
    pub(super) async fn wait_a_while(space: &mut watch::Receiver<u64>, deadline: Instant) -> Result<(), BlobError> {
        let until = deadline.min(Instant::now() + WAIT_INTERVAL);
        if tokio::time::timeout_at(until, space.changed()).await.is_err() && Instant::now() >= deadline {
            return Err(BlobError::NoSpace);
        }
        Ok(())
    }

    pub(super) fn deadline(&self, patience: Patience) -> Instant {
        let wait = match patience {
            Patience::Default => self.settings.wait,
            Patience::AtMost(wait) => wait,
        };
        // A wait past what the clock can count is as good as a year.
        Instant::now().checked_add(wait).unwrap_or_else(|| Instant::now() + Duration::from_secs(365 * 86_400))
    }

    /// Wakes whoever waits for a portion or for the log.
    pub(super) fn tell_space(&self) {
        if self.space.receiver_count() > 0 {
            self.space.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The largest body of one record: a small log takes smaller ones, so that a segment has several.
    pub(super) fn body_bytes_max_of(segment_bytes: u64) -> usize {
        BODY_BYTES_MAX.min(usize::try_from(segment_bytes / 8).unwrap_or(BODY_BYTES_MAX))
    }

    /// The highest number given: everything that was written before this call has it or a lower one.
    pub fn last_seq(&self) -> Seq {
        self.log.last_seq()
    }
}

//! Fetching from S3: whole blocks, each once however many read it, kept in the log's read head for the next reader.
//!
//! Invariants: what a run fetched is what its source pins, whoever waits for it; it enters the map only where there
//! still is a gap, and only while the blob's source is the one it was fetched from. Bytes under way are bounded over
//! all blobs, and no owner takes so many that others wait for its bucket ([`Pool`]). Bytes that the log does not take are
//! handed to who waits, and remembered shortly.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::state::{Blob, State};
use super::{BlobError, BlobStore, FetchError, Layout};
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::base::pool::Pool;
use crate::store::log::{Kind, LogError, Record};
use crate::store::object::{ObjectError, Outcome};

/// What one request fetches at most, in bytes.
const RUN_BYTES_MAX: u64 = 4 << 20;
/// What is under way of all owners, in bytes.
const FETCHING_BYTES_MAX: u64 = 128 << 20;
/// Blocks that are being fetched beyond which hints are not taken.
const HINTED_BLOCKS_MAX: usize = 4_096;
/// Runs that the log did not take and that are remembered.
const LOOSE_MAX: usize = 8;

/// Remote bytes that a plan names.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// Where in the blob.
    pub range: Range<u64>,
    /// Where the remote part ends.
    pub limit: u64,
    /// What has them.
    pub source: Bytes,
    /// The blob's epoch of that source; `None`: it is an older one, and what is fetched is not cached.
    pub epoch: Option<u64>,
}

type Answer = Option<Result<Bytes, FetchError>>;

/// One request.
struct Run {
    range: Range<u64>,
    answer: watch::Receiver<Answer>,
}

/// By blob, epoch and block.
type Key = (BlobId, u64, u64);

/// All requests under way.
pub(super) struct Fetches {
    running: Mutex<HashMap<Key, Arc<Run>>>,
    /// Fetched, not cached.
    loose: Mutex<VecDeque<(BlobId, u64, Arc<Run>)>>,
    memory: Arc<Pool>,
    /// The log took nothing last time: fetching ahead would be in vain.
    full: AtomicBool,
}

impl Fetches {
    pub fn new() -> Self {
        Self {
            running: Mutex::default(),
            loose: Mutex::default(),
            memory: Pool::new(FETCHING_BYTES_MAX),
            full: AtomicBool::new(false),
        }
    }

    /// A run that has this block, or had it just now.
    fn find(&self, running: &HashMap<Key, Arc<Run>>, blob: BlobId, epoch: u64, block: u64) -> Option<Arc<Run>> {
        running.get(&(blob, epoch, block)).cloned().or_else(|| {
            let loose = self.loose.lock();
            let has = |(id, at, run): &&(BlobId, u64, Arc<Run>)| {
                *id == blob && *at == epoch && run.range.start <= block && block < run.range.end
            };
            loose.iter().find(has).map(|(_, _, run)| run.clone())
        })
    }
}

/// The runs that a remote part waits for, in order. Together they may have less than it: a run ends where the blob's remote bytes ended
/// when it began.
pub(super) struct Fetching(Vec<Arc<Run>>);

impl Fetching {
    /// The bytes of a range that the runs cover.
    pub async fn bytes(self, range: &Range<u64>) -> Result<Vec<Bytes>, FetchError> {
        let mut out = Vec::with_capacity(self.0.len());
        for run in self.0 {
            let mut answer = run.answer.clone();
            let bytes = match answer.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or_else(|| Err(ended()))?,
                Err(_) => return Err(ended()),
            };
            let common = run.range.start.max(range.start)..run.range.end.min(range.end);
            if common.start < common.end {
                let from = (common.start - run.range.start) as usize;
                out.push(bytes.slice(from..from + (common.end - common.start) as usize));
            }
        }
        Ok(out)
    }
}

fn ended() -> FetchError {
    let reason = "the gateway is ending".to_owned();
    FetchError::Object(ObjectError::Unavailable { reason, outcome: Outcome::Refused })
}

impl BlobStore {
    /// Starts what is not under way yet for a remote part.
    pub(super) fn start_fetch(&self, blob: &Arc<Blob>, remote: &Remote) -> Result<Fetching, BlobError> {
        let owner = blob.state.lock().row().owner;
        let layout = self.layouts.read().get(&owner).cloned().ok_or_else(|| FetchError::from(unregistered()))?;
        let layout = (owner, layout);
        let Some(epoch) = remote.epoch else {
            let runs = pieces(&remote.range).map(|range| self.spawn_run(blob, remote, range, None, &layout));
            return Ok(Fetching(runs.collect()));
        };
        let mut running = self.fetches.running.lock();
        let mut runs: Vec<Arc<Run>> = Vec::new();
        let block = layout.1.block_bytes();
        let mut at = remote.range.start / block * block;
        while at < remote.range.end {
            let run = match self.fetches.find(&running, blob.id, epoch, at) {
                Some(run) => run,
                None => {
                    let end = self.run_end(&running, (blob.id, epoch, at), block, remote);
                    let run = self.spawn_run(blob, remote, at..end, Some(epoch), &layout);
                    for at in (at..end).step_by(block as usize) {
                        running.insert((blob.id, epoch, at), run.clone());
                    }
                    run
                }
            };
            at = run.range.end.next_multiple_of(block).max(at + block);
            runs.push(run);
        }
        Ok(Fetching(runs))
    }

    /// How far a run from `start` goes: to the next block that somebody else fetches, at most.
    fn run_end(&self, running: &HashMap<Key, Arc<Run>>, (id, epoch, start): Key, block: u64, remote: &Remote) -> u64 {
        let wanted = remote.range.end.next_multiple_of(block).min(start + RUN_BYTES_MAX);
        let mut end = start + block;
        while end < wanted && self.fetches.find(running, id, epoch, end).is_none() {
            end += block;
        }
        end.min(remote.limit)
    }

    fn spawn_run(
        &self,
        blob: &Arc<Blob>,
        remote: &Remote,
        range: Range<u64>,
        epoch: Option<u64>,
        (owner, layout): &(OwnerId, Arc<dyn Layout>),
    ) -> Arc<Run> {
        let (sender, answer) = watch::channel(None);
        let run = Arc::new(Run { range: range.clone(), answer });
        let (weak, memory, owner) = (self.weak.clone(), self.fetches.memory.clone(), *owner);
        let (blob, source, layout, this) = (blob.clone(), remote.source.clone(), layout.clone(), run.clone());
        tokio::spawn(async move {
            let _memory = memory.take(owner, range.end - range.start).await;
            let mut result = layout.fetch(blob.id, &source, range.clone()).await;
            if let Ok(bytes) = &result
                && bytes.len() as u64 != range.end - range.start
            {
                let reason = format!("{} bytes came for {range:?}", bytes.len());
                result = Err(ObjectError::Corrupt(reason).into());
            }
            // Readers need not wait for the log; the run is found until the map knows its bytes.
            let fetched = result.as_ref().ok().cloned();
            let _ = sender.send(Some(result));
            if let (Some(store), Some(epoch)) = (weak.upgrade(), epoch) {
                if let Some(bytes) = fetched {
                    store.keep_fetched(&blob, epoch, &this, &bytes, &*layout).await;
                }
                store.end_run((blob.id, epoch), &range, layout.block_bytes());
            }
        });
        run
    }

    fn end_run(&self, (id, epoch): (BlobId, u64), range: &Range<u64>, block: u64) {
        let mut running = self.fetches.running.lock();
        for at in range.clone().step_by(block as usize) {
            running.remove(&(id, epoch, at));
        }
    }

    /// Puts fetched bytes into the log and the map.
    async fn keep_fetched(&self, blob: &Arc<Blob>, epoch: u64, run: &Arc<Run>, bytes: &Bytes, layout: &dyn Layout) {
        let chunk_bytes = self.body_bytes_max as u64;
        let kept_whole = if layout.is_thin() { layout.block_bytes().min(chunk_bytes) } else { chunk_bytes };
        loop {
            let missing = match self.try_keep((blob, epoch), &run.range, bytes, kept_whole, layout.is_thin()) {
                Ok(None) => return self.fetches.full.store(false, Ordering::Relaxed),
                Ok(Some(missing)) => missing,
                Err(error) => {
                    if !matches!(error, LogError::Full) {
                        tracing::warn!(%error, "fetched bytes could not be cached");
                    }
                    self.fetches.full.store(true, Ordering::Relaxed);
                    self.reclaim_for_reads();
                    let mut loose = self.fetches.loose.lock();
                    loose.push_back((blob.id, epoch, run.clone()));
                    if loose.len() > LOOSE_MAX {
                        loose.pop_front();
                    }
                    return;
                }
            };
            if self.load_pages(blob, &missing).await.is_err() {
                return;
            }
        }
    }

    /// In records of at most `record_bytes`. `Some`: pages of the map that have to be loaded first.
    fn try_keep(
        &self,
        (blob, epoch): (&Blob, u64),
        range: &Range<u64>,
        bytes: &Bytes,
        record_bytes: u64,
        is_thin: bool,
    ) -> Result<Option<Vec<u64>>, LogError> {
        let _barrier = self.barrier.read();
        let mut state = blob.state.lock();
        if state.removed || state.source_epoch != epoch {
            return Ok(None);
        }
        let missing = state.missing(range);
        if !missing.is_empty() {
            return Ok(Some(missing));
        }
        for (from, to) in state.remote_gaps(range.clone()) {
            for part in chunks(from..to, record_bytes) {
                let start = (part.start - range.start) as usize;
                let len = part.end - part.start;
                let body = bytes.slice(start..start + len as usize);
                if is_thin && body.iter().all(|byte| *byte == 0) {
                    self.change(blob.id, &mut state, |state, delta| state.put_fetched_zeros(part.clone(), delta));
                    continue;
                }
                let record = Record {
                    kind: Kind::Data,
                    seq: Some(state.row().clean_through.max(Seq(1))),
                    owner: state.row().owner,
                    blob: blob.id,
                    offset: part.start,
                    len,
                    time_ns: 0,
                    body,
                };
                let location = self.log.append_fetched(&record)?;
                self.change(blob.id, &mut state, |state, delta| state.put_fetched(part.clone(), location, part.start, delta));
            }
        }
        Ok(None)
    }

    /// See [`BlobStore::prefetch`].
    pub(super) fn prefetch_range(&self, id: BlobId, range: Range<u64>) {
        let is_busy = self.fetches.running.lock().len() >= HINTED_BLOCKS_MAX;
        let (Some(blob), Some(store), false) = (self.table.get(id), self.weak.upgrade(), is_busy) else { return };
        tokio::spawn(async move {
            let missing = {
                let state = blob.state.lock();
                state.missing(&(range.start..range.end.min(state.row().len_bytes).max(range.start)))
            };
            if store.load_pages(&blob, &missing).await.is_ok() {
                store.fetch_ahead(&blob, &blob.state.lock(), range);
            }
        });
    }

    /// Starts fetching ahead of a sequential reader, as far as the map is in memory and the log takes it.
    pub(super) fn fetch_ahead(&self, blob: &Arc<Blob>, state: &State, ahead: Range<u64>) {
        let limit = state.row().remote_len_bytes;
        let ahead = ahead.start.min(limit)..ahead.end.min(limit);
        if ahead.is_empty() || self.fetches.full.load(Ordering::Relaxed) || !state.missing(&ahead).is_empty() {
            return;
        }
        let gaps = state.remote_gaps(ahead);
        let Some(store) = self.weak.upgrade().filter(|_| !gaps.is_empty()) else { return };
        let (blob, source, epoch) = (blob.clone(), state.source.clone(), Some(state.source_epoch));
        // Not here: the blob's lock is held.
        tokio::spawn(async move {
            for (from, to) in gaps {
                let _ = store.start_fetch(&blob, &Remote { range: from..to, limit, source: source.clone(), epoch });
            }
        });
    }
}

/// A range in parts that one request fetches.
fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    chunks(range.clone(), RUN_BYTES_MAX)
}

fn chunks(range: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(size.max(1) as usize).map(move |start| start..(start + size).min(end))
}

fn unregistered() -> ObjectError {
    let reason = "its share, volume or library is not running".to_owned();
    ObjectError::Unavailable { reason, outcome: Outcome::Refused }
}

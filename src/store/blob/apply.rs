//! Applying a batch: names and blob changes in one atomic batch of the log, then in the maps and the metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::delta::Delta;
use super::jobs::{JobChange, Rows};
use super::record::{self, Tag};
use super::state::{Blob, State};
use super::write::Tried;
use super::{Batch, BlobChange, BlobError, BlobStore, Patience};
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::log::{Class, Kind, LogError, Record, Scanned};
use crate::store::meta::{Change, codec};

/// From so many bytes of staged rows on a checkpoint is made.
const STAGED_BYTES_MAX: u64 = 8 << 20;

impl BlobChange {
    /// The blob that it changes.
    pub fn id(&self) -> BlobId {
        match self {
            Self::Create { id, .. }
            | Self::SetLength { id, .. }
            | Self::Discard { id, .. }
            | Self::Remove { id }
            | Self::CleanThrough { id, .. }
            | Self::Rebase { id, .. } => *id,
        }
    }

    /// Whether there is still something to change.
    fn is_due(&self, states: &BTreeMap<BlobId, MutexGuard<'_, State>>) -> bool {
        match self {
            Self::Rebase { id, instead_of, .. } => states.get(id).is_none_or(|state| state.source == *instead_of),
            _ => true,
        }
    }

    /// Its record.
    fn record(&self, owner: OwnerId, time_ns: i64) -> Record {
        let (kind, offset, len, body) = match self {
            Self::Create { len_bytes, source, .. } => {
                (Kind::CleanThrough, 0, *len_bytes, record::encode(Tag::Create, *len_bytes, source))
            }
            Self::SetLength { len_bytes, .. } => (Kind::SetLength, 0, *len_bytes, Bytes::new()),
            Self::Discard { range, .. } => (Kind::Discard, range.start, range.end.saturating_sub(range.start), Bytes::new()),
            Self::Remove { .. } => (Kind::RemoveBlob, 0, 0, Bytes::new()),
            Self::CleanThrough { through, len_bytes, source, .. } => {
                (Kind::CleanThrough, through.0, *len_bytes, record::encode(Tag::Clean, *len_bytes, source))
            }
            Self::Rebase { source, .. } => (Kind::CleanThrough, 0, 0, record::encode(Tag::Rebase, 0, source)),
        };
        let owner = if let Self::Create { owner, .. } = self { *owner } else { owner };
        Record { kind, seq: None, owner, blob: self.id(), offset, len, time_ns, body }
    }
}

/// The pages that a record of a blob needs in memory, and that are not.
pub(super) fn missing(record: &Record, state: &State) -> Vec<u64> {
    let end = record.offset.saturating_add(record.len);
    match record.kind {
        Kind::Data | Kind::Discard => state.missing(&(record.offset..end)),
        Kind::SetLength => state.missing(&(record.len..u64::MAX)),
        Kind::RemoveBlob => state.missing(&(0..u64::MAX)),
        Kind::CleanThrough if record.offset > 0 => state.missing_for_clean(record.len),
        Kind::CleanThrough | Kind::Name | Kind::Footer => Vec::new(),
    }
}

/// A data record that was moved: what still has its number is there now.
pub(super) fn moved(state: &mut State, scanned: &Scanned, delta: &mut Delta) {
    let range = scanned.record.offset..scanned.record.offset.saturating_add(scanned.record.len);
    state.relocate(range, |extent| extent.seq == scanned.seq, scanned.location, scanned.record.offset, delta);
}

impl State {
    /// What a record of a blob that exists does, when it is written and when it is replayed. Says whether it was understood.
    pub(super) fn replay(&mut self, seq: Seq, record: &Record, delta: &mut Delta) -> bool {
        match record.kind {
            Kind::SetLength => self.set_length(seq, record.len, record.time_ns, delta),
            Kind::Discard => {
                self.discard(seq, record.offset..record.offset.saturating_add(record.len), record.time_ns, delta);
            }
            Kind::RemoveBlob => self.remove(delta),
            Kind::CleanThrough => match record::decode(&record.body) {
                Some((Tag::Clean, len_bytes, source)) => self.clean_through(Seq(record.offset), len_bytes, source, delta),
                Some((Tag::Rebase, _, source)) => self.rebase(source),
                _ => return false,
            },
            Kind::Data | Kind::Name | Kind::Footer => return false,
        }
        true
    }
}

/// Row changes as bodies of records of at most `max` bytes.
fn bodies(changes: Vec<Change>, max: usize, out: &mut Vec<(Vec<Change>, Bytes)>) -> Result<(), BlobError> {
    if changes.is_empty() {
        return Ok(());
    }
    let body = codec::encode(&changes);
    if body.len() <= max {
        out.push((changes, body));
        return Ok(());
    }
    if changes.len() == 1 {
        return Err(BlobError::TooLong);
    }
    let mut first = changes;
    let second = first.split_off(first.len() / 2);
    bodies(first, max, out)?;
    bodies(second, max, out)
}

/// A batch on its way.
struct Prepared {
    owner: OwnerId,
    names: Vec<(Vec<Change>, Bytes)>,
    jobs: Vec<(u64, JobChange)>,
    job_rows: Rows,
    changes: Vec<BlobChange>,
    /// The blobs that it changes and does not create.
    blobs: BTreeMap<BlobId, Arc<Blob>>,
}

impl BlobStore {
    /// See [`BlobStore::apply`].
    pub(super) async fn apply_batch(&self, owner: OwnerId, batch: Batch) -> Result<Seq, BlobError> {
        if batch.is_empty() {
            return Ok(self.last_seq());
        }
        let mut prepared = self.prepare(owner, batch).await?;
        let deadline = self.deadline(Patience::Default);
        loop {
            self.keep_up(deadline).await?;
            self.log.room().await?;
            let mut space = self.space.subscribe();
            match self.try_apply(&prepared)? {
                (_, Tried::Done(seq)) => {
                    if self.meta.staged_bytes() > STAGED_BYTES_MAX {
                        self.checkpoint_wanted.notify_one();
                    }
                    return Ok(seq);
                }
                (id, Tried::Load(pages)) => match prepared.blobs.get(&id) {
                    Some(blob) => self.load_pages(blob, &pages).await?,
                    None => prepared.job_rows = self.job_rows(owner, &prepared.jobs).await?,
                },
                (_, Tried::Full) => self.wait_for_space(owner, &mut space, deadline).await?,
            }
        }
    }

    async fn prepare(&self, owner: OwnerId, batch: Batch) -> Result<Prepared, BlobError> {
        let mut names = Vec::new();
        bodies(batch.changes, self.body_bytes_max, &mut names)?;
        let job_rows = self.job_rows(owner, &batch.jobs).await?;
        let mut prepared = Prepared { owner, names, jobs: batch.jobs, job_rows, changes: batch.blobs, blobs: BTreeMap::new() };
        let mut created = Vec::new();
        for change in &prepared.changes {
            let id = change.id();
            if matches!(change, BlobChange::Create { .. }) {
                created.push(id);
            } else if !created.contains(&id) && !prepared.blobs.contains_key(&id) {
                prepared.blobs.insert(id, self.blob(id).await?);
            }
        }
        Ok(prepared)
    }

    /// Under the locks: appends, then changes maps and rows. With `Load`, the blob whose pages they are.
    fn try_apply(&self, batch: &Prepared) -> Result<(BlobId, Tried<Seq>), BlobError> {
        let _barrier = self.barrier.read();
        let _names = self.names.lock();
        let mut states: BTreeMap<BlobId, MutexGuard<'_, State>> = BTreeMap::new();
        for (id, blob) in &batch.blobs {
            states.insert(*id, blob.state.lock());
        }
        let Some(jobs) = self.job_changes(batch.owner, &batch.jobs, &batch.job_rows) else {
            return Ok((BlobId(0), Tried::Load(Vec::new())));
        };
        let mut names = batch.names.clone();
        bodies(jobs, self.body_bytes_max, &mut names)?;
        let time_ns = self.clock.now_ns();
        let changes: Vec<&BlobChange> = batch.changes.iter().filter(|change| change.is_due(&states)).collect();
        let records = records(batch.owner, &names, &changes, time_ns);
        if records.is_empty() {
            return Ok((BlobId(0), Tried::Done(self.last_seq())));
        }
        for record in &records[names.len()..] {
            let Some(state) = states.get(&record.blob) else { continue };
            if state.removed {
                return Err(BlobError::NotFound);
            }
            let missing = missing(record, state);
            if !missing.is_empty() {
                return Ok((record.blob, Tried::Load(missing)));
            }
        }
        let appended = match self.log.append(Class::Name, &records) {
            Ok(appended) => appended,
            Err(LogError::Full) => return Ok((BlobId(0), Tried::Full)),
            Err(error) => return Err(error.into()),
        };
        let names_count = names.len();
        let mut numbers = appended.records.iter().map(|(seq, _)| *seq);
        for ((changes, _), seq) in names.into_iter().zip(&mut numbers) {
            self.meta.stage(seq, changes);
        }
        let mut made: BTreeMap<BlobId, State> = BTreeMap::new();
        for ((change, record), seq) in changes.into_iter().zip(&records[names_count..]).zip(numbers) {
            let id = change.id();
            if let BlobChange::Create { owner, len_bytes, source, .. } = change {
                let mut state = State::create(*owner, *len_bytes, source.clone(), seq, time_ns);
                self.note_new(id, &mut state);
                made.insert(id, state);
                continue;
            }
            let state = match made.get_mut(&id) {
                Some(state) => state,
                None => match states.get_mut(&id) {
                    Some(state) => &mut **state,
                    None => continue,
                },
            };
            self.change(id, state, |state, delta| {
                state.replay(seq, record, delta);
            });
        }
        for (id, state) in made {
            self.table.insert(Blob::new(id, state));
        }
        let last = appended.records.last().map_or_else(|| self.last_seq(), |(seq, _)| *seq);
        self.jobs_changed(batch.owner, &batch.jobs, last);
        Ok((BlobId(0), Tried::Done(last)))
    }
}

fn records(owner: OwnerId, names: &[(Vec<Change>, Bytes)], changes: &[&BlobChange], time_ns: i64) -> Vec<Record> {
    let names = names.iter().map(|(_, body)| Record {
        kind: Kind::Name,
        seq: None,
        owner,
        blob: BlobId(0),
        offset: 0,
        len: 0,
        time_ns,
        body: body.clone(),
    });
    names.chain(changes.iter().map(|change| change.record(owner, time_ns))).collect()
}

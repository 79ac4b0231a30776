//! Opening: the last checkpoint, then the log's records after it, in their order.
//!
//! Replay runs the functions that the writers ran ([`State::replay`], [`State::write`]), on the state that the checkpoint
//! has, so it ends where they were. Two things are not replayed, since they change no byte: what was fetched, and what was
//! dropped. A record with a number that is not above all before it is a moved one: the extents that still have its number
//! are where it is now, and nothing else follows from it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::accounts::Accounts;
use super::apply::moved;
use super::cache::Table;
use super::checkpoint::{ACCOUNTS, LOG_ID};
use super::fetch::Fetches;
use super::heat::Heat;
use super::ids::Ids;
use super::page::{self, Ledger};
use super::record::{self, Tag};
use super::state::{Blob, State};
use super::{BlobError, BlobStore, Report, Settings};
use crate::base::clock::Clock;
use crate::base::disk::Disk;
use crate::base::id::{BlobId, Seq};
use crate::store::log::{self, Kind, Known, Log, LogId, Position, Scanned};
use crate::store::meta::{Checkpoint, Meta, MetaError, codec};

/// Segments that dirty bytes leave: the log's three reserved ones, and two that reclaim turns round with.
const RESERVED: u64 = 5;
/// Blob rows that are read at a time.
const ROWS: usize = 1_000;

/// The accounts of the last checkpoint.
pub(super) async fn load_ledger(meta: &Meta) -> Result<Ledger, MetaError> {
    let Some(bytes) = meta.page(ACCOUNTS.0, ACCOUNTS.1).await? else { return Ok(Ledger::default()) };
    let refused = || MetaError::Refused("the accounts in the database are damaged: restore the database".to_owned());
    page::decode_ledger(&bytes).ok_or_else(refused)
}

/// Which log the database belongs to; `None` where it is new.
async fn known_log(meta: &Meta) -> Result<Option<LogId>, MetaError> {
    let Some(bytes) = meta.page(LOG_ID.0, LOG_ID.1).await? else { return Ok(None) };
    let refused = |_| MetaError::Refused("the log's id in the database is damaged: restore the database".to_owned());
    Ok(Some(LogId::try_from(bytes).map_err(refused)?))
}

/// What all owners together may have dirty: the log without its reserves and what reclaim needs to turn round.
fn capacity_bytes(settings: &log::Settings) -> u64 {
    let segments = settings.size_bytes / settings.segment_bytes;
    segments.saturating_sub(RESERVED).max(1) * (settings.segment_bytes / 100 * 90)
}

/// Segments that hold dirty bytes by the last checkpoint, and that the log does not have any more.
fn missing_segments(log: &Log, ledger: &Ledger) -> Vec<String> {
    let lives: HashSet<(u32, u32)> = log.segments().iter().map(|info| (info.slot, info.life)).collect();
    let lost = ledger.segments.iter().filter(|(key, live)| live.dirty_bytes > 0 && !lives.contains(key));
    lost.map(|((slot, _), live)| format!("segment {slot} is gone, with {} bytes that were not uploaded yet", live.dirty_bytes))
        .collect()
}

/// See [`BlobStore::open`].
pub(super) async fn open(
    disk: Arc<dyn Disk>,
    meta: Arc<Meta>,
    clock: Arc<dyn Clock>,
    settings: Settings,
) -> Result<(Arc<BlobStore>, Report), BlobError> {
    let (position, applied) = meta.checkpoint();
    let ledger = load_ledger(&meta).await?;
    let mut records = Vec::new();
    let mut visit = |scanned| records.push(scanned);
    if position != Position::default() {
        // The log uses again what this checkpoint does not name: so it has to stay the last one, whatever happens now.
        meta.apply(Checkpoint { position, applied, ..Checkpoint::default() }, true).await?;
    }
    let live = |slot, life| ledger.segments.contains_key(&(slot, life));
    let known = Known { checkpoint: position, seq_floor: applied, log: known_log(&meta).await?, live: &live };
    let (log, recovered) = Log::open(disk, settings.log.clone(), &known, &mut visit)?;
    let mut report = Report { records: 0, damage: recovered.damage };
    report.damage.extend(missing_segments(&log, &ledger));
    let accounts = Accounts::new(ledger, capacity_bytes(&settings.log));
    let store = build(log, meta, clock, settings, accounts);
    store.load_dirty().await?;
    store.replay(applied, records, &mut report).await?;
    store.load_ids().await?;
    let weak = store.weak.clone();
    store.log.set_footer_names(Box::new(move |id| weak.upgrade()?.name_of(id)));
    store.log.exceed_size(true);
    store.make_checkpoint(true).await?;
    store.restore_reserve().await?;
    store.log.exceed_size(false);
    store.start_tasks();
    Ok((store, report))
}

fn build(log: Log, meta: Arc<Meta>, clock: Arc<dyn Clock>, settings: Settings, accounts: Accounts) -> Arc<BlobStore> {
    let verifier = log.verifier();
    Arc::new_cyclic(|weak| BlobStore {
        weak: weak.clone(),
        log,
        meta,
        clock,
        body_bytes_max: BlobStore::body_bytes_max_of(settings.log.segment_bytes),
        settings,
        layouts: RwLock::default(),
        last_owner: tokio::sync::Mutex::default(),
        node_ids: Ids::new("ids.node"),
        blob_ids: Ids::new("ids.blob"),
        table: Table::new(),
        memory: AtomicI64::new(0),
        eviction_waits: AtomicBool::new(false),
        accounts: Mutex::new(accounts),
        barrier: RwLock::new(()),
        names: Mutex::new(()),
        asked: Mutex::default(),
        dirty: Mutex::default(),
        frozen: Mutex::default(),
        next_generation: AtomicU64::new(1),
        // Where a flush failed at the start, what was replayed is named by old places: the first checkpoint follows.
        followed: AtomicU64::new(!verifier),
        checkpointing: tokio::sync::Mutex::new(()),
        checkpoint_wanted: Arc::new(Notify::new()),
        reclaiming: tokio::sync::Mutex::new(()),
        reclaim_wanted: Arc::new(Notify::new()),
        reads_want_room: AtomicBool::new(false),
        log_was_full: AtomicBool::new(false),
        stuck: Mutex::default(),
        heat: Heat::default(),
        fetches: Fetches::new(),
        space: watch::Sender::new(0),
        pressure: super::pressure::Pressure::default(),
        changes: AtomicU64::new(0),
        checkpoint_failure: Mutex::new(None),
        tasks: Mutex::default(),
    })
}

impl BlobStore {
    /// Ids go on where the marks are, those in the replayed part of the log included.
    async fn load_ids(&self) -> Result<(), BlobError> {
        self.node_ids.load(&self.meta).await?;
        self.blob_ids.load(&self.meta).await?;
        Ok(())
    }

    /// Replays records onto the checkpoint whose changes are applied up to `applied`.
    pub(super) async fn replay(&self, applied: Seq, records: Vec<Scanned>, report: &mut Report) -> Result<(), BlobError> {
        let mut seq_max = applied;
        for scanned in records {
            let is_moved = scanned.seq <= seq_max;
            seq_max = seq_max.max(scanned.seq);
            report.records += 1;
            if scanned.record.kind == Kind::Name {
                if !is_moved {
                    self.replay_names(&scanned, report);
                }
            } else if scanned.record.kind != Kind::Footer
                && let Err(error) = self.replay_blob(&scanned, is_moved).await
            {
                match error {
                    BlobError::NotFound => report.damage.push(format!(
                        "record {} of blob {} at segment {} offset {}: the blob is not known",
                        scanned.seq, scanned.record.blob, scanned.location.slot, scanned.location.offset_bytes
                    )),
                    other => return Err(other),
                }
            }
        }
        Ok(())
    }

    fn replay_names(&self, scanned: &Scanned, report: &mut Report) {
        match codec::decode(&scanned.record.body) {
            Ok(changes) => self.meta.stage(scanned.seq, changes),
            Err(error) => report.damage.push(format!("names in record {}: {error}", scanned.seq)),
        }
    }

    async fn replay_blob(&self, scanned: &Scanned, is_moved: bool) -> Result<(), BlobError> {
        let record = &scanned.record;
        if is_moved && record.kind != Kind::Data {
            return Ok(());
        }
        if record.kind == Kind::CleanThrough
            && let Some((Tag::Create, len_bytes, source)) = record::decode(&record.body)
        {
            self.replay_create(record.blob, State::create(record.owner, len_bytes, source, scanned.seq, record.time_ns));
            return Ok(());
        }
        let blob = match self.blob(record.blob).await {
            // It was removed since: its moved records say nothing any more.
            Err(BlobError::NotFound) if is_moved => return Ok(()),
            other => other?,
        };
        loop {
            let missing = {
                let mut state = blob.state.lock();
                let missing = super::apply::missing(record, &state);
                if missing.is_empty() {
                    self.change(record.blob, &mut state, |state, delta| match record.kind {
                        Kind::Data if is_moved => moved(state, scanned, delta),
                        Kind::Data => {
                            state.write(scanned.seq, scanned.location, record.offset, record.len, record.time_ns, delta);
                        }
                        _ => {
                            state.expect_frozen();
                            state.replay(scanned.seq, record, delta);
                        }
                    });
                    return Ok(());
                }
                missing
            };
            self.load_pages(&blob, &missing).await?;
        }
    }

    fn replay_create(&self, id: BlobId, mut state: State) {
        self.note_new(id, &mut state);
        self.table.insert(Blob::new(id, state));
    }

    /// Since when blobs are dirty, as of the checkpoint; replay goes on from there.
    pub(super) async fn load_dirty(&self) -> Result<(), BlobError> {
        let mut after = BlobId(0);
        loop {
            let rows = self.meta.dirty_blobs(after, ROWS).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = *last;
            for (id, row) in rows {
                self.accounts.lock().since(row.owner, id, row.modified_ns);
            }
        }
    }
}

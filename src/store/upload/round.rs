//! The rounds of a job, and how an outcome gets into the log.
//!
//! A round: plan → take the keys → plan again → run → [`Planner::done`] → apply → release the keys; then the next round, until the
//! plan is settled, or asks to wait. A settled job's row is dropped a moment later, many in one batch: until then a restart plans it once more
//! and finds nothing to do, so the row never goes before everything that it stands for is recorded.
//!
//! [`Planner::done`]: super::Planner::done

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::deletes::Collected;
use super::queue::Look;
use super::run::{Content, Failure, Suspect};
use super::schedule::{Owner, SWEEP_ROWS};
use super::{Done, Op, Plan};
use crate::store::blob::{Batch, BlobError};
use crate::store::meta::{Change, JobRow, Key, Row};

/// Operations of one job in a row, before others get its slot.
const ROUNDS: u32 = 16;
/// Outcomes of deletes that are recorded in one batch.
const OUTCOMES: usize = 200;
/// The least time that a job waits whose plan says so.
const WAIT_MIN: Duration = Duration::from_millis(20);

/// How a round ended.
enum Round {
    /// There may be more to do.
    Again,
    /// The job is where the queue was told.
    Over,
}

impl Owner {
    /// Works on one job until it has to wait for something.
    pub(super) async fn work(self: Arc<Self>, subject: u64) {
        for _ in 0..ROUNDS {
            let look = self.queue.lock().look(subject);
            match self.round(subject, look).await {
                Ok(Round::Over) => return self.changed.notify_one(),
                Ok(Round::Again) if self.stop.is_cancelled() => break,
                Ok(Round::Again) => {
                    if !self.queue.lock().go_on(subject, look, Instant::now()) {
                        return self.changed.notify_one();
                    }
                }
                Err(failure) => return self.fail(subject, failure).await,
            }
        }
        self.queue.lock().leave(subject, Instant::now());
        self.changed.notify_one();
    }

    async fn plan(&self, subject: u64) -> Result<Plan, Failure> {
        let failure = |error: BlobError| Failure { text: error.to_string(), endpoint: false, suspect: None };
        self.planner.plan(subject).await.map_err(failure)
    }

    async fn round(self: &Arc<Self>, subject: u64, look: Look) -> Result<Round, Failure> {
        let suspect = self.queue.lock().suspect(subject);
        if let Some(suspect) = suspect {
            let _keys = self.keys.lock(suspect.op.target(), &suspect.op.sources()).await;
            match self.runner.resolve(&suspect).await? {
                Some(done) => self.conclude(subject, &suspect.op, &done).await?,
                None => self.queue.lock().clear(subject),
            }
            return Ok(Round::Again);
        }
        let op = match self.plan(subject).await? {
            Plan::Run(op) => op,
            Plan::Settled => {
                self.runner.pending.abandon(&self.runner, subject).await?;
                self.runner.pending.concluded(subject, true);
                self.queue.lock().settle(subject, look, Instant::now());
                self.ended.send_modify(|count| *count += 1);
                return Ok(Round::Over);
            }
            Plan::Wait(at_ns) => {
                let at = self.instant(at_ns).max(Instant::now() + WAIT_MIN);
                self.queue.lock().wait(subject, look, at);
                return Ok(Round::Over);
            }
            Plan::After(other) => {
                self.queue.lock().park(subject, look, other, Instant::now());
                return Ok(Round::Over);
            }
        };
        let keys = self.keys.lock(op.target(), &op.sources()).await;
        if self.plan(subject).await? != Plan::Run(op.clone()) {
            return Ok(Round::Again);
        }
        let progress = self.queue.lock().working(subject, op.target());
        if op.is_delete() {
            self.runner.pending.abandon(&self.runner, subject).await?;
            self.queue.lock().collect(subject);
            self.deletes.add(Collected { subject, op, look, since: Instant::now(), guard: keys });
            return Ok(Round::Over);
        }
        let done = self.runner.run(subject, &op, &progress).await?;
        self.conclude(subject, &op, &done).await?;
        self.setback(subject, &done)?;
        Ok(Round::Again)
    }

    /// Sends collected deletes and records what became of them, many in one batch.
    pub(super) async fn delete(self: Arc<Self>, collected: Vec<Collected>) {
        let intent = |one: &Collected| (one.subject, Suspect { op: one.op.clone(), kin: None, content: Content::default() });
        if let Err(error) = self.runner.pending.intend_all(&self.runner, collected.iter().map(intent).collect()).await {
            for one in collected {
                self.fail(one.subject, Failure { text: error.to_string(), endpoint: false, suspect: None }).await;
            }
            return;
        }
        let ops: Vec<&Op> = collected.iter().map(|one| &one.op).collect();
        let outcomes = self.runner.delete(&ops).await;
        let mut deleted = collected.into_iter().zip(outcomes).peekable();
        while deleted.peek().is_some() {
            self.record_deletes(deleted.by_ref().take(OUTCOMES)).await;
        }
        self.changed.notify_one();
    }

    async fn record_deletes(&self, deleted: impl Iterator<Item = (Collected, Result<Done, Failure>)> + Send) {
        let (mut all, mut done) = (Batch::new(), Vec::new());
        for (one, outcome) in deleted {
            let recorded = match outcome {
                Ok(outcome) => self.record(one.subject, &one.op, &outcome).await.map(|batch| (batch, outcome)),
                Err(failure) => Err(failure),
            };
            match recorded {
                Ok((batch, outcome)) => {
                    all.changes.extend(batch.changes);
                    all.blobs.extend(batch.blobs);
                    done.push((one, outcome));
                }
                Err(failure) => self.fail(one.subject, failure).await,
            }
        }
        let applied = self.apply(all).await;
        for (one, outcome) in done {
            let ended = match &applied {
                Ok(()) => {
                    self.made_known(one.subject, &one.op, &outcome);
                    self.setback(one.subject, &outcome)
                }
                Err(text) => Err(self.unrecorded(one.subject, text.clone())),
            };
            match ended {
                Ok(()) => self.queue.lock().resume(one.subject, one.look, Instant::now()),
                Err(failure) => self.fail(one.subject, failure).await,
            }
        }
    }

    /// Records an outcome. The keys are still held.
    async fn conclude(&self, subject: u64, op: &Op, done: &Done) -> Result<(), Failure> {
        let batch = self.record(subject, op, done).await?;
        self.apply(batch).await.map_err(|text| self.unrecorded(subject, text))?;
        self.made_known(subject, op, done);
        Ok(())
    }

    /// An outcome that could not be recorded: the operation is looked for again before anything else.
    fn unrecorded(&self, subject: u64, text: String) -> Failure {
        Failure { text, endpoint: false, suspect: self.runner.pending.intent(subject).map(Box::new) }
    }

    /// What follows from an outcome: the planner's part, and the job's row where it tells of trouble or an upload that are over.
    async fn record(&self, subject: u64, op: &Op, done: &Done) -> Result<Batch, Failure> {
        let mut batch = Batch::new();
        let planned = self.planner.done(subject, op, done, &mut batch).await;
        planned.map_err(|error| self.unrecorded(subject, error.to_string()))?;
        let key = Key::Job(self.id, subject);
        let is_told = batch.changes.iter().any(|change| match change {
            Change::Put(row) => row.key() == key,
            Change::Drop(dropped) => *dropped == key,
        });
        if let (false, Some(Row::Job(mut row))) = (is_told, self.row(&key).await?)
            && (row.attempts, row.error.len(), row.multipart.len()) != (0, 0, 0)
        {
            row.attempts = 0;
            row.error.clear();
            row.multipart = self.runner.pending.encoded_after(subject, matches!(done, Done::Written { .. }));
            batch.put(Row::Job(row));
        }
        Ok(batch)
    }

    async fn row(&self, key: &Key) -> Result<Option<Row>, Failure> {
        Ok(self.blobs().meta().get(key).await.map_err(BlobError::from)?)
    }

    async fn apply(&self, batch: Batch) -> Result<(), String> {
        if batch.changes.is_empty() && batch.blobs.is_empty() {
            return Ok(());
        }
        fail::fail_point!("upload-before-apply");
        self.blobs().apply(self.id, batch).await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// The batch of an outcome is applied.
    fn made_known(&self, subject: u64, op: &Op, done: &Done) {
        self.runner.pending.concluded(subject, matches!(done, Done::Written { .. }));
        self.finished.lock().add(op.target(), self.blobs().clock().now_ns());
        if !matches!(done, Done::Conflict(_) | Done::SourceChanged) {
            self.queue.lock().succeeded(subject, Instant::now());
        }
        self.planner.applied(subject, op, done);
    }

    /// A conflict or a changed source is the planner's to deal with; one that goes on is a failure.
    fn setback(&self, subject: u64, done: &Done) -> Result<(), Failure> {
        let text = match done {
            Done::Conflict(_) => "another object than expected is at the key, again and again",
            Done::SourceChanged => "the source of a copy changes again and again",
            _ => return Ok(()),
        };
        if self.queue.lock().set_back(subject) {
            return Err(Failure { text: text.into(), endpoint: false, suspect: None });
        }
        Ok(())
    }

    /// An attempt failed: the job waits, and its row tells why where that is news.
    async fn fail(&self, subject: u64, failure: Failure) {
        self.runner.counts.add("failed");
        tracing::debug!(owner = %self.id, subject, error = failure.text, "an attempt to upload failed");
        let trouble = self.queue.lock().failed(subject, failure, Instant::now());
        self.ended.send_modify(|count| *count += 1);
        self.changed.notify_one();
        if let Some(trouble) = trouble
            && let Ok(Some(Row::Job(row))) = self.row(&Key::Job(self.id, subject)).await
        {
            let mut batch = Batch::new();
            batch.put(Row::Job(JobRow { attempts: trouble.attempts, error: trouble.error, ..row }));
            // Only `status` after a restart would miss it.
            let _ = self.apply(batch).await;
        }
    }

    /// Drops the rows of settled jobs.
    pub(super) async fn sweep(self: &Arc<Self>) {
        let swept = self.queue.lock().sweep(SWEEP_ROWS);
        let (mut batch, mut rows) = (Batch::new(), HashMap::new());
        for (subject, _) in &swept {
            let key = Key::Job(self.id, *subject);
            if let Ok(Some(Row::Job(row))) = self.row(&key).await {
                rows.insert(*subject, row);
                batch.drop(key);
            }
        }
        let gone = self.apply(batch).await.is_ok();
        for (subject, look) in swept {
            let needs_row = self.queue.lock().swept(subject, look, gone);
            if needs_row && let Some(row) = rows.remove(&subject) {
                self.clone().restore_row(subject, Some(row)).await;
            }
        }
        self.changed.notify_one();
    }

    /// Puts the row of a job that was dropped or changed by somebody at the same time as by us.
    pub(super) async fn restore_row(self: Arc<Self>, subject: u64, dropped: Option<JobRow>) {
        let fresh = || JobRow {
            owner: self.id,
            subject,
            since_ns: self.queue.lock().since_ns(subject),
            not_before_ns: self.blobs().clock().now_ns(),
            attempts: 0,
            error: String::new(),
            multipart: Vec::new(),
            note: Vec::new(),
        };
        let (row, there) = match self.row(&Key::Job(self.id, subject)).await {
            Ok(Some(Row::Job(row))) => (row, true),
            Ok(_) => (dropped.unwrap_or_else(fresh), false),
            Err(_) => return,
        };
        let multipart = self.runner.pending.encoded(subject);
        if there && row.multipart == multipart {
            return;
        }
        let mut batch = Batch::new();
        batch.put(Row::Job(JobRow { multipart, ..row }));
        if let Err(error) = self.apply(batch).await {
            tracing::error!(owner = %self.id, subject, error, "a job's row could not be restored");
        }
    }
}

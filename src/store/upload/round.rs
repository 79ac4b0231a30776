//! The rounds of a job, and how an outcome gets into the log.
//!
//! A round: plan → take the keys → plan again → run → [`Planner::done`] → apply → release the keys; then the next round, until the
//! plan is settled, or asks to wait. A settled job's row is dropped a moment later, many in one batch: until then a restart plans it once more
//! and finds nothing to do, so the row never goes before everything that it stands for is recorded. Nor does it go where somebody asked since
//! the plan ([`JobChange::Over`]).
//!
//! [`Planner::done`]: super::Planner::done

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Progress;
use super::deletes::Collected;
use super::queue::{Look, Swept};
use super::run::{Content, Failure, Suspect};
use super::schedule::{Owner, SWEEP_ROWS};
use super::{Done, Expected, Op, Plan};
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{Batch, BlobError};
use crate::store::meta::Key;

/// Operations of one job in a row, before others get its slot.
const ROUNDS: u32 = 16;
/// Outcomes of deletes that are recorded in one batch.
const OUTCOMES: usize = 200;
/// How long an upload may go on that nobody wants any more.
const UNWANTED: Duration = Duration::from_secs(2);
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
            let planned_after = self.blobs().asked_through();
            let look = self.queue.lock().look(subject, planned_after);
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

    /// Whether a suspect that is not to be seen could leave an object that nobody knows. Not where its condition is that of an object, which is gone or
    /// replaced by then, nor where its key is written next: one of the two conditions fails then.
    async fn may_still_happen(&self, subject: u64, suspect: &Suspect) -> Result<bool, Failure> {
        if suspect.op.is_delete() || matches!(suspect.op.expected(), Expected::Object(_)) {
            return Ok(false);
        }
        Ok(!matches!(self.plan(subject).await?, Plan::Run(next) if !next.is_delete() && next.target() == suspect.op.target()))
    }

    async fn round(self: &Arc<Self>, subject: u64, look: Look) -> Result<Round, Failure> {
        let suspect = self.queue.lock().suspect(subject);
        if let Some(suspect) = suspect {
            let _keys = self.keys.lock(suspect.op.target(), &suspect.op.sources()).await;
            match self.runner.resolve(&suspect).await? {
                Some(done) => self.conclude(subject, &suspect.op, &done).await?,
                None if self.may_still_happen(subject, &suspect).await?
                    && self.queue.lock().wait_for_straggler(subject, look, Instant::now()) =>
                {
                    return Ok(Round::Over);
                }
                None => {
                    self.runner.pending.retract(subject);
                    self.queue.lock().clear(subject, Instant::now());
                }
            }
            return Ok(Round::Again);
        }
        let op = match self.plan(subject).await? {
            Plan::Run(op) => op,
            Plan::Settled => {
                self.runner.pending.abandon(&self.runner, subject, &Progress::default()).await?;
                self.runner.end_lost(subject).await?;
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
        if let Some(other) = self.runner.pending.other(op.target(), subject) {
            // Nobody works on this key, so the outcome of the other's operation is open: it may have written what would be taken for foreign.
            self.queue.lock().park(subject, look, other, Instant::now());
            return Ok(Round::Over);
        }
        let progress = self.queue.lock().working(subject, look, op.target());
        if op.is_delete() {
            self.runner.pending.abandon(&self.runner, subject, &Progress::default()).await?;
            self.queue.lock().collect(subject);
            self.deletes.add(Collected { subject, op, look, since: Instant::now(), guard: keys });
            return Ok(Round::Over);
        }
        let done = self.attempt(subject, &op, &progress).await?;
        self.conclude(subject, &op, &done).await?;
        self.setback(subject, &done)?;
        Ok(Round::Again)
    }

    /// Runs an operation. Where its file is removed meanwhile, the bytes that it sends are kept from whoever needs their room: it is given a moment to
    /// come to its end, and then is cut off from the endpoint.
    async fn attempt(&self, subject: u64, op: &Op, progress: &Progress) -> Result<Done, Failure> {
        let mut running = std::pin::pin!(self.runner.run(&*self.planner, subject, op, progress));
        let unwanted = async {
            loop {
                progress.woken.notified().await;
                if self.is_unwanted(subject, op).await {
                    tokio::time::sleep(UNWANTED).await;
                    if self.is_unwanted(subject, op).await {
                        return progress.cut();
                    }
                }
            }
        };
        tokio::select! {
            ended = &mut running => ended,
            () = unwanted => running.await,
        }
    }

    /// Whether nothing of what an upload sends will be kept.
    async fn is_unwanted(&self, subject: u64, op: &Op) -> bool {
        let is_upload = matches!(op, Op::PutBlob { .. });
        is_upload
            && match self.plan(subject).await {
                Ok(Plan::Settled | Plan::After(_)) => true,
                Ok(Plan::Run(Op::Delete { key, .. })) => key == op.target(),
                Ok(Plan::Run(_) | Plan::Wait(_)) | Err(_) => false,
            }
    }

    /// Sends collected deletes and records what became of them, many in one batch.
    pub(super) async fn delete(self: Arc<Self>, collected: Vec<Collected>) {
        let intent = |one: &Collected| (one.subject, Suspect { op: one.op.clone(), kin: None, content: Content::default() });
        let intents = collected.iter().map(intent).collect();
        let intended = self.runner.pending.intend_all(&self.runner, intents).await;
        if let Err(error) = match intended {
            Ok(()) => self.blobs().sync().await.map(|_| ()),
            failed => failed,
        } {
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
                    all.extend(batch);
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
        let under_way = self.runner.pending.encoded_after(subject, matches!(done, Done::Written { .. }));
        batch.job(subject, JobChange::UnderWay(under_way));
        batch.job(subject, JobChange::Trouble { attempts: 0, error: String::new() });
        Ok(batch)
    }

    async fn apply(&self, batch: Batch) -> Result<(), String> {
        if batch.is_empty() {
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
        if failure.suspect.is_none() && self.queue.lock().suspect(subject).is_none() {
            self.runner.pending.retract(subject);
        }
        let trouble = self.queue.lock().failed(subject, failure, Instant::now());
        self.ended.send_modify(|count| *count += 1);
        self.changed.notify_one();
        if let Some(trouble) = trouble {
            let mut batch = Batch::new();
            batch.job(subject, JobChange::Trouble { attempts: trouble.attempts, error: trouble.error });
            // Only `status` after a restart would miss it.
            let _ = self.apply(batch).await;
        }
    }

    /// Drops the rows of settled jobs.
    pub(super) async fn sweep(&self) {
        let swept = self.queue.lock().sweep(SWEEP_ROWS);
        let mut batch = Batch::new();
        for (subject, look) in &swept {
            batch.job(*subject, JobChange::Over { planned_after: look.planned_after });
        }
        let applied = self.apply(batch).await.is_ok();
        for (subject, _) in swept {
            // A row that stays was asked for meanwhile; one that cannot be seen without waiting is not there any more.
            let stays = matches!(self.blobs().meta().try_get(&Key::Job(self.id, subject)), Some(Some(_)));
            let outcome = match (applied, stays) {
                (false, _) => Swept::NotYet,
                (true, true) => Swept::Asked,
                (true, false) => Swept::Gone,
            };
            self.queue.lock().swept(subject, outcome, Instant::now());
        }
        self.changed.notify_one();
    }
}

//! One owner's scheduler: one task that starts what is due, and one task per job that is worked on.
//!
//! What lives here: [`Owner`], its loop ([`Owner::drive`]), the rounds of a job, and how an outcome gets into the log. What may run when is
//! decided by `queue.rs`, synchronously; here is only what waits.
//!
//! A round of a job: plan → take the keys → plan again → run → [`Planner::done`] → apply → release the keys; then the next round, until the
//! plan is settled, or asks to wait. A settled job's row is dropped a moment later, many in one batch: until then a restart plans it once more
//! and finds nothing to do, so the row never goes before everything that it stands for is recorded.
//!
//! Lock order: queue, deletes, keys and finished keys are each locked alone, and never across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::deletes::{Collected, Deletes, Next};
use super::finished::Finished;
use super::keys::KeyLocks;
use super::queue::{Look, Queue, Trouble, Woken};
use super::run::{Content, Failure, Runner, Suspect};
use super::{Done, Op, Plan, Planner};
use crate::base::id::OwnerId;
use crate::store::blob::{Batch, BlobError, BlobStore};
use crate::store::meta::{Change, JobRow, Key, Row};

/// Operations of one job in a row, before others get its slot.
const ROUNDS: u32 = 16;
/// How long settled jobs are collected, so that their rows go in one batch.
const SWEEP_LINGER: Duration = Duration::from_millis(100);
/// Rows of one such batch.
const SWEEP_ROWS: usize = 1_000;
/// Outcomes of deletes that are recorded in one batch.
const OUTCOMES: usize = 200;
/// The least time that a job waits whose plan says so.
const WAIT_MIN: Duration = Duration::from_millis(20);

/// One owner: its jobs, and what is needed to work on them.
pub(super) struct Owner {
    pub(super) id: OwnerId,
    pub(super) runner: Runner,
    pub(super) planner: Arc<dyn Planner>,
    pub(super) queue: Mutex<Queue>,
    pub(super) keys: Arc<KeyLocks>,
    pub(super) deletes: Deletes,
    pub(super) finished: Mutex<Finished>,
    /// Subjects that were woken and whose row was dropped or changed at the same time.
    rowless: Mutex<Vec<u64>>,
    /// The loop has something to look at.
    changed: Notify,
    /// Counts endings and failures, for those who wait.
    pub(super) ended: watch::Sender<u64>,
    /// Nothing new is started.
    stop: CancellationToken,
    /// How long `stop` lets running operations go on, in milliseconds; below 0: until they end.
    grace_ms: AtomicI64,
}

/// How a round ended.
enum Round {
    /// There may be more to do.
    Again,
    /// The job is where the queue was told.
    Over,
}

/// The tasks of the loop, with the subjects that they work on.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    subjects: HashMap<Id, Vec<u64>>,
    sweep: Option<Id>,
    settled_since: Option<Instant>,
}

impl Owner {
    pub(super) fn new(runner: Runner, planner: Arc<dyn Planner>, seed: u64) -> Self {
        let queue = Queue::new(runner.settings.backoff_min, runner.settings.backoff_max, seed);
        Self {
            id: runner.owner,
            runner,
            planner,
            queue: Mutex::new(queue),
            keys: Arc::default(),
            deletes: Deletes::default(),
            finished: Mutex::default(),
            rowless: Mutex::default(),
            changed: Notify::new(),
            ended: watch::Sender::new(0),
            stop: CancellationToken::new(),
            grace_ms: AtomicI64::new(-1),
        }
    }

    fn blobs(&self) -> &Arc<BlobStore> {
        &self.runner.blobs
    }

    /// When the wall clock will say `at_ns`, as timers count.
    pub(super) fn instant(&self, at_ns: i64) -> Instant {
        let wait_ns = at_ns.saturating_sub(self.blobs().clock().now_ns());
        Instant::now() + Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(0))
    }

    /// Takes up what a row says.
    pub(super) fn restore(&self, row: JobRow) {
        let suspect = self.runner.pending.adopt(row.subject, &row.multipart).map(Box::new);
        let date = self.instant(row.not_before_ns);
        let trouble = Trouble { attempts: row.attempts, error: row.error };
        self.queue.lock().restore(row.subject, row.since_ns, date, trouble, suspect, Instant::now());
    }

    /// See [`super::Uploader::wake`].
    pub(super) fn wake(&self, subject: u64, not_before_ns: i64) {
        let date = self.instant(not_before_ns);
        let how = self.queue.lock().wake(subject, self.blobs().clock().now_ns(), date);
        // The row of a job that was just swept may have been dropped after the batch that this wake tells of; and that batch may have put
        // the row of a job at work as it was before its intent.
        let is_lost = match (how, self.blobs().meta().try_get(&Key::Job(self.id, subject))) {
            (Woken::New, row) => row == Some(None),
            (Woken::AtWork, Some(Some(Row::Job(row)))) => row.multipart.is_empty() && self.runner.pending.has(subject),
            _ => false,
        };
        if is_lost {
            self.rowless.lock().push(subject);
        }
        self.changed.notify_one();
    }

    /// Makes jobs due.
    pub(super) fn hurry(&self, subjects: impl IntoIterator<Item = u64>) {
        let mut queue = self.queue.lock();
        for subject in subjects {
            queue.hurry(subject, Instant::now());
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Starts nothing more; what runs is given `grace`, or all the time that it needs.
    pub(super) fn stop(&self, grace: Option<Duration>) {
        let grace_ms = grace.map_or(-1, |grace| i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        self.grace_ms.store(grace_ms, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Whether the loop has been told to end.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The loop, until `stop`.
    pub(super) async fn drive(self: Arc<Self>) {
        let mut tasks = Tasks::default();
        while !self.stop.is_cancelled() {
            let wake_at = self.turn(&mut tasks, false);
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(wake_at) => {}
                Some(ended) = tasks.set.join_next_with_id() => self.reap(&mut tasks, ended),
                () = self.stop.cancelled() => {}
            }
        }
        let grace_ms = self.grace_ms.load(Ordering::Relaxed);
        let wind_down = self.wind_down(&mut tasks);
        match u64::try_from(grace_ms) {
            Ok(grace_ms) => drop(tokio::time::timeout(Duration::from_millis(grace_ms), wind_down).await),
            Err(_) => wind_down.await,
        }
        tasks.set.shutdown().await;
        // As many times as there are batches now, so that this ends where the log fails.
        let batches = self.queue.lock().settled().div_ceil(SWEEP_ROWS);
        for _ in 0..batches {
            self.sweep().await;
        }
        self.ended.send_modify(|count| *count += 1);
    }

    /// Lets what runs come to its end, collected deletes too.
    async fn wind_down(self: &Arc<Self>, tasks: &mut Tasks) {
        loop {
            self.turn(tasks, true);
            match tasks.set.join_next_with_id().await {
                Some(ended) => self.reap(tasks, ended),
                None => return,
            }
        }
    }

    /// Starts what is to be started. Says when to look again if nothing happens.
    fn turn(self: &Arc<Self>, tasks: &mut Tasks, stopping: bool) -> Instant {
        let now = Instant::now();
        let mut again = now + Duration::from_secs(3600);
        let slots = self.runner.settings.concurrency.max(1);
        if !stopping {
            let started = self.queue.lock().start(now, slots);
            for subject in started {
                tasks.spawn(vec![subject], self.clone().work(subject));
            }
            for subject in std::mem::take(&mut *self.rowless.lock()) {
                tasks.spawn(Vec::new(), self.clone().restore_row(subject, None));
            }
        }
        let (busy, due, settled) = {
            let queue = self.queue.lock();
            (queue.is_busy(now), queue.next_due(slots), queue.settled())
        };
        again = due.map_or(again, |due| again.min(due));
        let linger = self.runner.settings.delete_linger;
        loop {
            match self.deletes.next(now, linger, busy, stopping) {
                Next::Send(collected) => {
                    let subjects = collected.iter().map(|one| one.subject).collect();
                    tasks.spawn(subjects, self.clone().delete(collected));
                }
                Next::At(at) => break again = again.min(at),
                Next::Nothing => break,
            }
        }
        if settled > 0 && tasks.sweep.is_none() && !stopping {
            let since = *tasks.settled_since.get_or_insert(now);
            if settled >= SWEEP_ROWS || since + SWEEP_LINGER <= now {
                tasks.settled_since = None;
                let owner = self.clone();
                tasks.sweep = Some(tasks.spawn(Vec::new(), async move { owner.sweep().await }));
            } else {
                again = again.min(since + SWEEP_LINGER);
            }
        }
        again
    }

    /// A task ended. One that panicked counts as a failed attempt of its subjects.
    fn reap(&self, tasks: &mut Tasks, ended: Result<(Id, ()), JoinError>) {
        let (id, failed) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error.to_string())),
        };
        if tasks.sweep == Some(id) {
            tasks.sweep = None;
        }
        let subjects = tasks.subjects.remove(&id).unwrap_or_default();
        if let Some(text) = failed {
            tracing::error!(owner = %self.id, error = text, "a task of the upload engine failed");
            for subject in subjects {
                let failure = Failure { text: text.clone(), endpoint: false, suspect: None };
                self.queue.lock().failed(subject, failure, Instant::now());
            }
            self.ended.send_modify(|count| *count += 1);
        }
    }

    /// Works on one job until it has to wait for something.
    async fn work(self: Arc<Self>, subject: u64) {
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
    async fn delete(self: Arc<Self>, collected: Vec<Collected>) {
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
    async fn sweep(self: &Arc<Self>) {
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
    async fn restore_row(self: Arc<Self>, subject: u64, dropped: Option<JobRow>) {
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

impl Tasks {
    fn spawn(&mut self, subjects: Vec<u64>, task: impl Future<Output = ()> + Send + 'static) -> Id {
        let id = self.set.spawn(task).id();
        self.subjects.insert(id, subjects);
        id
    }
}

//! One owner's scheduler: one task that starts what is due, and one task per job that is worked on.
//!
//! What lives here: [`Owner`] and its loop ([`Owner::drive`]). What may run when is decided by `queue.rs`, synchronously; what a job's task does
//! is in `round.rs`.
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

use super::Planner;
use super::deletes::{Deletes, Next};
use super::finished::Finished;
use super::keys::KeyLocks;
use super::queue::{Queue, Trouble};
use super::run::{Failure, Runner};
use crate::base::id::OwnerId;
use crate::store::blob::BlobStore;
use crate::store::meta::JobRow;

/// How long settled jobs are collected, so that their rows go in one batch.
const SWEEP_LINGER: Duration = Duration::from_millis(100);
/// Rows of one such batch.
pub(super) const SWEEP_ROWS: usize = 1_000;

/// One owner: its jobs, and what is needed to work on them.
pub(super) struct Owner {
    pub(super) id: OwnerId,
    pub(super) runner: Runner,
    pub(super) planner: Arc<dyn Planner>,
    pub(super) queue: Mutex<Queue>,
    pub(super) keys: Arc<KeyLocks>,
    pub(super) deletes: Deletes,
    pub(super) finished: Mutex<Finished>,
    /// The loop has something to look at.
    pub(super) changed: Notify,
    /// Counts endings and failures, for those who wait.
    pub(super) ended: watch::Sender<u64>,
    /// Nothing new is started.
    pub(super) stop: CancellationToken,
    /// How long `stop` lets running operations go on, in milliseconds; below 0: until they end.
    grace_ms: AtomicI64,
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
            changed: Notify::new(),
            ended: watch::Sender::new(0),
            stop: CancellationToken::new(),
            grace_ms: AtomicI64::new(-1),
        }
    }

    pub(super) fn blobs(&self) -> &Arc<BlobStore> {
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
        // What an earlier life left open is looked for before anybody plans on its key.
        let date = if suspect.is_some() { Instant::now() } else { self.instant(row.not_before_ns) };
        let trouble = Trouble { attempts: row.attempts, error: row.error };
        self.queue.lock().restore(row.subject, row.since_ns, date, trouble, suspect, Instant::now());
    }

    /// See [`super::Uploader::wake`].
    pub(super) fn wake(&self, subject: u64, not_before_ns: i64) {
        let date = self.instant(not_before_ns);
        self.queue.lock().wake(subject, self.blobs().clock().now_ns(), date);
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

    /// As [`Self::hurry`], for somebody who waits for this job.
    pub(super) fn press(&self, subject: u64) {
        self.queue.lock().press(subject, Instant::now());
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
}

impl Tasks {
    fn spawn(&mut self, subjects: Vec<u64>, task: impl Future<Output = ()> + Send + 'static) -> Id {
        let id = self.set.spawn(task).id();
        self.subjects.insert(id, subjects);
        id
    }
}

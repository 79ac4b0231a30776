//! The upload engine: what must happen in a bucket, in which order, until it has happened.
//!
//! What lives here: [`Uploader`] (the scheduler), [`Planner`] (an owner's answer to "what is to be done for this subject
//! now"). `upload/op.rs` is what there is to do, [`Op`], and how it ends, [`Done`]; `upload/schedule.rs` is the loop of one owner, `upload/round.rs` the rounds of a job, `upload/queue.rs` which job is due
//! (synchronous), `upload/keys.rs` the order per key, `upload/run.rs` runs one operation, `upload/multipart.rs` plans and resumes multipart
//! uploads, `upload/pending.rs` keeps what is under way in the job's row, `upload/deletes.rs` collects deletes, `upload/adopt.rs` is the rule for lost answers, `upload/digest.rs` the digest of content,
//! `upload/finished.rs` what was touched lately, `upload/budget.rs` memory and counts.
//!
//! The queue is durable: a [`JobRow`](crate::store::meta::JobRow) per subject says *that* something is to be done, never what. When a job is
//! due its owner plans from the state as it is then, so that create + write + chmod + rename within the delay is one PUT at the
//! final key, and so that a restart needs to remember nothing but the subject (and a multipart upload under way).
//!
//! Invariants:
//! 1. Operations on one key never overlap, nor does a write or delete of K overlap an operation that reads K; who asked first goes first.
//!    After it has its keys, a job is planned again, and only what is still the plan is run.
//! 2. A generation that is uploaded is frozen and durable here; the object that appears has the bytes of one generation.
//! 3. What is about to be sent is in the job's row first, durably (`upload/pending.rs`), so what landed is known as ours whatever happens next. `Planner::done` fills the batch that makes the outcome known; it
//!    is applied in one piece. If the gateway dies before that, or cannot learn the outcome, that operation is looked for in the bucket by its
//!    generation mark (invariant 4) before anything else is done for the subject, and recorded if it is there. The row goes a moment after the
//!    plan is settled.
//! 4. Every object that we write carries the metadata `tidegate-generation`, unique to content and gateway. After a 412, a 409 or a lost
//!    answer one HEAD decides: our mark → adopted as success; the expected old ETag still there → tried again; anything else → foreign
//!    ([`Done::Conflict`]). Nothing foreign is ever overwritten or deleted unseen: conditions where the endpoint honours them, else a HEAD
//!    just before.
//! 5. Failed attempts back off with full jitter up to `backoff_max`; a failing job holds its own keys only while it runs, and holds up no
//!    other owner. Nothing gives up for ever. Only what tells of the whole endpoint (no answer, 5xx, no such bucket, credentials that it does not know) makes all jobs of an owner wait,
//!    and not who is in `finish`: keys that a policy denies are their own jobs' trouble.
//! 6. Bodies in memory are bounded by `memory_bytes` over all owners, each of which leaves room for others and has its own concurrency.

mod adopt;
mod budget;
mod deletes;
mod digest;
mod finished;
mod keys;
mod multipart;
mod op;
mod pending;
mod queue;
mod round;
mod run;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::budget::{Budget, Counts};
use self::run::Runner;
use self::schedule::Owner;
use crate::base::id::OwnerId;
use crate::base::pool::Pool;
use crate::store::blob::{Batch, BlobError, BlobStore};
use crate::store::object::SharedStore;
pub use adopt::is_marked_by;
pub use op::{Done, Expected, Op};

/// How often `drain` asks whether what it waits for is in S3 though its job goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The longest time between two tries for somebody who waits.
const PRESS_MAX: Duration = Duration::from_secs(4);

/// The metadata name that marks an object as one generation of ours.
pub const GENERATION_MARK: &str = "tidegate-generation";

/// Plain values of the upload engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Operations of one owner at a time.
    pub concurrency: usize,
    /// Parts of one multipart upload at a time.
    pub part_concurrency: usize,
    /// Bodies in memory over all owners, in bytes.
    pub memory_bytes: u64,
    /// Objects from this size on are sent in parts, in bytes.
    pub multipart_threshold_bytes: u64,
    /// The size of a part where the object has less than 10,000 of them, in bytes.
    pub part_bytes: u64,
    /// First and longest wait after a failure.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// How long deletes are collected for one `DeleteObjects`.
    pub delete_linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 16,
            part_concurrency: 4,
            memory_bytes: 256 << 20,
            multipart_threshold_bytes: 16 << 20,
            part_bytes: 8 << 20,
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            delete_linger: Duration::from_millis(50),
        }
    }
}

/// What an owner wants done for a subject.
#[expect(clippy::large_enum_variant, reason = "a plan lives for one round of one job")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the job is over.
    Settled,
    /// Nothing before this time (nanoseconds since the Unix epoch).
    Wait(i64),
    /// Nothing before this other subject's job is over or has moved on (it needs a key of ours first).
    After(u64),
    /// This; then plan again.
    Run(Op),
}

/// An owner's part: plans from its state, and records outcomes in it.
#[async_trait]
pub trait Planner: Send + Sync + 'static {
    /// What is to be done for `subject` now. Must not change anything. Called often.
    ///
    /// # Errors
    /// Counted as a failed attempt.
    async fn plan(&self, subject: u64) -> Result<Plan, BlobError>;

    /// `op` ended as `done`: adds to `batch` what follows from it (object rows, clean-through, conflict names, jobs of others). The
    /// uploader adds its own job row to the same batch and applies it. The subject's key locks are still held.
    ///
    /// # Errors
    /// Counted as a failed attempt; the operation will be run again and will find its own work.
    async fn done(&self, subject: u64, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), BlobError>;

    /// The body of an [`Op::PutMade`], at most `bytes_max` long: made of what [`Generation::read`](crate::store::blob::Generation::read) says,
    /// packed as the owner likes, and the same whenever it is made for the same operation. The keys are held; nothing may change. Who plans no
    /// such operation has no need of it.
    ///
    /// # Errors
    /// Counted as a failed attempt; `Fetch(Changed)` is a [`Done::SourceChanged`]. An operation that cannot be made any more, since its
    /// generation was let go, must not be the plan any more.
    async fn make(&self, subject: u64, op: &Op) -> Result<Vec<Bytes>, BlobError> {
        let _ = (subject, op);
        Err(BlobError::NotFound)
    }

    /// The batch of `done` is applied and visible: tell front ends, wake waiters.
    fn applied(&self, subject: u64, op: &Op, done: &Done) {
        let _ = (subject, op, done);
    }
}

/// One job as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Whose.
    pub owner: OwnerId,
    /// What.
    pub subject: u64,
    /// Since, nanoseconds since the Unix epoch.
    pub since_ns: i64,
    /// The key that is written now, empty while it waits.
    pub key: String,
    /// Of a body that is under way: sent and whole length, in bytes.
    pub progress_bytes: (u64, u64),
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// The last failure, empty for none.
    pub error: String,
}

/// The scheduler. Shared by reference.
pub struct Uploader {
    blobs: Arc<BlobStore>,
    settings: Settings,
    memory: Arc<Pool>,
    counts: Arc<Counts>,
    owners: RwLock<HashMap<OwnerId, Arc<Owner>>>,
    loops: Mutex<HashMap<OwnerId, JoinHandle<()>>>,
}

impl Uploader {
    /// Starts it on the current runtime; nothing happens before owners are registered.
    pub fn start(blobs: Arc<BlobStore>, settings: Settings) -> Arc<Self> {
        let memory = Pool::new(settings.memory_bytes);
        Arc::new(Self { blobs, settings, memory, counts: Arc::default(), owners: RwLock::default(), loops: Mutex::default() })
    }

    /// Adds an owner and takes up its jobs. `gateway` makes its marks unique.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn register(
        &self,
        owner: OwnerId,
        gateway: &str,
        bucket: SharedStore,
        planner: Arc<dyn Planner>,
    ) -> Result<(), BlobError> {
        self.unregister(owner).await;
        let rows = self.blobs.meta().jobs(owner).await?;
        let runner = Runner {
            owner,
            gateway: gateway.to_owned(),
            bucket,
            blobs: self.blobs.clone(),
            settings: self.settings.clone(),
            budget: Budget::new(self.memory.clone(), owner),
            counts: self.counts.clone(),
            pending: pending::Pending::default(),
        };
        let mut seed = DefaultHasher::new();
        (gateway, owner).hash(&mut seed);
        let added = Arc::new(Owner::new(runner, planner, seed.finish()));
        for row in rows {
            added.restore(row);
        }
        self.owners.write().insert(owner, added.clone());
        let running = tokio::spawn(added.drive());
        self.loops.lock().insert(owner, running);
        Ok(())
    }

    /// Forgets an owner after its running operations ended; its jobs stay in the queue.
    pub async fn unregister(&self, owner: OwnerId) {
        self.stop(owner, None).await;
    }

    async fn stop(&self, owner: OwnerId, grace: Option<Duration>) {
        if let Some(owner) = self.owner(owner) {
            owner.stop(grace);
        }
        let running = self.loops.lock().remove(&owner);
        if let Some(running) = running
            && let Err(error) = running.await
        {
            tracing::error!(%owner, %error, "the upload loop of an owner failed");
        }
        self.owners.write().remove(&owner);
    }

    fn owner(&self, owner: OwnerId) -> Option<Arc<Owner>> {
        self.owners.read().get(&owner).cloned()
    }

    /// A batch that was just applied put, changed or dropped the job of `subject`: look at it. The engine calls this after each batch
    /// that touches a job row; `not_before_ns` is the row's. Without its owner nothing happens: the row is found when it registers.
    pub fn wake(&self, owner: OwnerId, subject: u64, not_before_ns: i64) {
        if let Some(owner) = self.owner(owner) {
            owner.wake(subject, not_before_ns);
        }
    }

    /// Returns when every job of the owner that existed at the call is over, or `false` after `limit` (and where the owner is not
    /// registered, or goes). Jobs that wait for a date are made due. A job of something that never stops changing never ends: it is over as
    /// soon as `is_in` says that what existed at the call is in S3.
    pub async fn drain(&self, owner: OwnerId, limit: Option<Duration>, is_in: &(dyn Fn(u64) -> bool + Send + Sync)) -> bool {
        let Some(owner) = self.owner(owner) else { return false };
        let mut ended = owner.ended.subscribe();
        let mut open = owner.queue.lock().open();
        owner.hurry(open.iter().map(|(subject, _)| *subject));
        let drained = async {
            while let Some((subject, serial)) = open.last().copied() {
                if owner.queue.lock().serial(subject) != Some(serial) || is_in(subject) {
                    open.pop();
                    continue;
                }
                if let Ok(Err(_)) = tokio::time::timeout(LOOK_AGAIN, ended.changed()).await {
                    break;
                }
            }
            open.is_empty()
        };
        let limited = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            drained = drained => drained,
            () = limited => false,
            () = owner.stopped() => false,
        }
    }

    /// Plans every job anew, because what plans are made from changed other than by batches (an operator's settings).
    pub fn look_again(&self, owner: OwnerId) {
        if let Some(owner) = self.owner(owner) {
            let open = owner.queue.lock().open();
            owner.hurry(open.into_iter().map(|(subject, _)| subject));
        }
    }

    /// Makes a job due now and returns when it is over; for `durability = "remote"`. Without a job there is nothing to wait for.
    ///
    /// # Errors
    /// The job's last failure in words, after `limit`. More time is given, `limit` by `limit`, while bytes of its body arrive, and while other
    /// jobs end that it waits for; so an endpoint that is away costs no more than `limit`.
    pub async fn finish(&self, owner: OwnerId, subject: u64, limit: Duration) -> Result<(), String> {
        let Some(owner) = self.owner(owner) else { return Err("nothing is uploaded now".into()) };
        let mut ended = owner.ended.subscribe();
        let Some(serial) = owner.queue.lock().serial(subject) else { return Ok(()) };
        owner.press(subject);
        let mut deadline = Instant::now() + limit;
        let mut pause = self.settings.backoff_min.min(limit);
        let mut press_at = Instant::now() + pause;
        let (mut sent_bytes, mut moves) = owner.queue.lock().pace(subject);
        loop {
            ended.mark_unchanged();
            let (now_serial, trouble, pace) = {
                let queue = owner.queue.lock();
                (queue.serial(subject), queue.trouble(subject), queue.pace(subject))
            };
            if now_serial != Some(serial) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let is_moving = pace.0 > sent_bytes || (trouble.attempts == 0 && pace.1 > moves);
                if !is_moving {
                    let silence =
                        || format!("S3 did not answer within {} s; the change is kept and will be uploaded", limit.as_secs());
                    return Err(Some(trouble.error).filter(|error| !error.is_empty()).unwrap_or_else(silence));
                }
                (sent_bytes, moves) = (sent_bytes.max(pace.0), pace.1);
                deadline = Instant::now() + limit;
            }
            if Instant::now() >= press_at {
                // What was tried may have failed, whoever's it was that this one waits for.
                owner.press(subject);
                pause = (pause * 2).min(PRESS_MAX);
                press_at = Instant::now() + pause;
            }
            tokio::select! {
                _ = ended.changed() => {}
                () = tokio::time::sleep_until(deadline.min(press_at)) => {}
                () = owner.stopped() => return Err("uploads are stopping; the change is kept and will be uploaded".into()),
            }
        }
    }

    /// Whether a job has this key, or a job finished with it after `since_ns`: then a listing asked for at `since_ns` is ignored for it.
    /// Also `true` for times before what is remembered (10 minutes, 100,000 keys).
    pub fn touched_since(&self, owner: OwnerId, key: &str, since_ns: i64) -> bool {
        self.owner(owner).is_some_and(|owner| {
            owner.keys.is_written(key) || owner.runner.pending.writes(key) || owner.finished.lock().since(key, since_ns)
        })
    }

    /// Whether [`Self::touched_since`] still tells keys apart for this time.
    pub fn remembers(&self, owner: OwnerId, since_ns: i64) -> bool {
        self.owner(owner).is_none_or(|owner| owner.finished.lock().reaches(since_ns))
    }

    /// Whether what a job wrote or deletes now may be below this prefix, as far as its outcome is not recorded yet.
    pub fn touches_below(&self, owner: OwnerId, prefix: &str) -> bool {
        self.owner(owner).is_some_and(|owner| owner.runner.pending.writes_below(prefix))
    }

    /// All jobs.
    pub fn status(&self) -> Vec<JobStatus> {
        let owners: Vec<Arc<Owner>> = self.owners.read().values().cloned().collect();
        let mut all = Vec::new();
        for owner in owners {
            all.extend(owner.queue.lock().views().into_iter().map(|view| JobStatus {
                owner: owner.id,
                subject: view.subject,
                since_ns: view.since_ns,
                key: view.key,
                progress_bytes: view.progress_bytes,
                attempts: view.attempts,
                error: view.error,
            }));
        }
        all.sort_by_key(|job| (job.owner, job.since_ns, job.subject));
        all
    }

    /// Why nothing of an owner is uploaded now, in words: its endpoint fails whatever is asked of it, and is tried by one job at a time.
    pub fn endpoint_trouble(&self, owner: OwnerId) -> Option<String> {
        self.owner(owner).and_then(|owner| owner.queue.lock().endpoint_trouble())
    }

    /// Requests of the queue by kind, for tests: operations run, by name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.all()
    }

    /// Ends: running operations are given `grace`, then left for the next start.
    pub async fn close(&self, grace: Duration) {
        let owners: Vec<OwnerId> = self.owners.read().keys().copied().collect();
        futures_util::future::join_all(owners.into_iter().map(|owner| self.stop(owner, Some(grace)))).await;
    }
}

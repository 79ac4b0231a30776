//! One owner's queue: which jobs there are, when each is due, and what a job may do next. Synchronous and pure: time is told.
//!
//! What lives here: [`Queue`] and its jobs, and when a job is due. `queue/turn.rs` is whose turn it is, `queue/end.rs` how a round ends,
//! `queue/health.rs` how long failures wait, `queue/view.rs` what others see.
//!
//! ```text
//!   wake, register          wake ┌──────── Settled ──sweep──► gone
//!        │                       ▼            ▲
//!        └───────────────────► Due ──start─► Running ──► Deleting (collected, in no slot)
//!                               ▲   (its date, a retry,    │             │
//!                               └─── a wait, another job) ─┴─────────────┘
//! ```
//!
//! Invariants:
//! - A wake is never lost: each is counted in its job, and who settles or sweeps a job does so as of a count ([`Look`]); where the job was
//!   woken since, it stays.
//! - A job waits for the latest of: its date (the last wake's), its back-off, what its plan asked for. Hurry drops the first two, once; and the
//!   third where it came after the plan was begun, because plans are made from who is in a hurry.
//! - A job that was woken is open at once, also while its old row is going: who waits for it never takes it for over.
//! - When the endpoint itself fails several times in a row (`queue/health.rs`), one job at a time tries it, least failed first, until one
//!   succeeds; then all retry at once, behind who is due already. So jobs that always fail keep no others from the endpoint. Who is pressed
//!   ([`Queue::press`]: somebody waits for this job) is tried at once, once, also in the quiet time between two tries.
//! - A job is in `parked` where it is parked, and nowhere else.

mod end;
mod health;
mod turn;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Progress;
use super::run::Suspect;
use crate::base::id::Seq;
use health::{Backoff, Health};

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In `Queue::due` at this time and rank.
    Due(Instant, u64),
    /// A task of its own works on it.
    Running,
    /// Its delete is collected.
    Deleting,
    /// Nothing left; its row is to go.
    Settled,
    /// Its row is going, as of this many wakes.
    Sweeping(u64),
}

/// A job in memory.
struct Job {
    serial: u64,
    since_ns: i64,
    date: Instant,
    backoff: Option<Instant>,
    /// Since when it is in a hurry.
    hurry: Option<Instant>,
    hurries: u64,
    wakes: u64,
    /// Of the plan that found nothing left.
    planned_after: Seq,
    state: State,
    parked_on: Option<u64>,
    attempts: u32,
    setbacks: u32,
    error: String,
    saved: Option<(String, u32, Instant)>,
    /// What the last attempt left open, and since when.
    suspect: Option<(Box<Suspect>, Instant)>,
    key: String,
    progress: Arc<Progress>,
}

/// What a task saw when it began a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    wakes: u64,
    hurries: u64,
    moves: u64,
    /// Who asks with a higher number is not part of the plan.
    pub(super) planned_after: Seq,
}

/// What became of a row that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swept {
    /// It is gone.
    Gone,
    /// It stays: somebody asked since the plan.
    Asked,
    /// It could not be dropped now.
    NotYet,
}

/// Failures that are worth a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) attempts: u32,
    pub(super) error: String,
}

/// One owner's jobs.
pub(super) struct Queue {
    jobs: HashMap<u64, Job>,
    due: BTreeSet<(Instant, u64, u64)>,
    /// Who waits for whom.
    parked: HashMap<u64, BTreeSet<u64>>,
    /// Jobs in a hurry that somebody waits for.
    pressed: BTreeSet<u64>,
    settled: Vec<u64>,
    running: usize,
    next_rank: u64,
    /// Outcomes so far, of all jobs.
    moves: u64,
    health: Health,
    /// What the endpoint failed with last.
    trouble: String,
    backoff: Backoff,
}

impl Queue {
    /// An empty queue whose failures wait between the two times.
    pub(super) fn new(backoff_min: Duration, backoff_max: Duration, seed: u64) -> Self {
        Self {
            jobs: HashMap::new(),
            due: BTreeSet::new(),
            parked: HashMap::new(),
            pressed: BTreeSet::new(),
            settled: Vec::new(),
            running: 0,
            next_rank: 0,
            moves: 0,
            health: Health::default(),
            trouble: String::new(),
            backoff: Backoff::new(backoff_min, backoff_max, seed),
        }
    }

    fn rank(&mut self) -> u64 {
        self.next_rank += 1;
        self.next_rank
    }

    /// A row was put or changed.
    pub(super) fn wake(&mut self, subject: u64, since_ns: i64, date: Instant) {
        let Some(job) = self.jobs.get_mut(&subject) else { return self.insert(subject, since_ns, date) };
        if !is_open(job) {
            self.next_rank += 1;
            (job.serial, job.since_ns) = (self.next_rank, since_ns);
        }
        job.wakes += 1;
        job.date = date;
        job.progress.woken.notify_one();
        match job.state {
            State::Due(..) if job.parked_on.is_some() => {}
            State::Due(..) | State::Settled => self.schedule(subject, date),
            State::Sweeping(_) | State::Running | State::Deleting => {}
        }
    }

    /// Takes up a job as its row tells it.
    pub(super) fn restore(
        &mut self,
        subject: u64,
        since_ns: i64,
        date: Instant,
        trouble: Trouble,
        suspect: Option<Box<Suspect>>,
        now: Instant,
    ) {
        if self.jobs.contains_key(&subject) {
            return;
        }
        self.insert(subject, since_ns, date);
        if let Some(job) = self.jobs.get_mut(&subject) {
            job.suspect = suspect.map(|suspect| (suspect, now));
            job.attempts = trouble.attempts;
            job.saved = (trouble != Trouble { attempts: 0, error: String::new() })
                .then(|| (trouble.error.clone(), trouble.attempts, now));
            job.error = trouble.error;
        }
    }

    fn insert(&mut self, subject: u64, since_ns: i64, date: Instant) {
        let serial = self.rank();
        let job = Job {
            serial,
            since_ns,
            date,
            backoff: None,
            hurry: None,
            hurries: 0,
            wakes: 0,
            planned_after: Seq(0),
            state: State::Running,
            parked_on: None,
            attempts: 0,
            setbacks: 0,
            error: String::new(),
            saved: None,
            suspect: None,
            key: String::new(),
            progress: Arc::default(),
        };
        self.jobs.insert(subject, job);
        self.schedule(subject, date);
    }

    /// Makes a job due at `at`, or when its back-off ends; at once where it is in a hurry and was not told to wait.
    fn schedule(&mut self, subject: u64, at: Instant) {
        let rank = self.rank();
        self.unpark(subject);
        let Some(job) = self.jobs.get_mut(&subject) else { return };
        if let State::Due(old, rank) = job.state {
            self.due.remove(&(old, rank, subject));
        }
        let at = match (job.hurry, job.backoff) {
            (_, Some(until)) => at.max(until),
            (Some(since), None) => at.min(since),
            (None, None) => at,
        };
        job.state = State::Due(at, rank);
        job.key.clear();
        self.due.insert((at, rank, subject));
    }

    fn unpark(&mut self, subject: u64) {
        let Some(other) = self.jobs.get_mut(&subject).and_then(|job| job.parked_on.take()) else { return };
        if let Some(waiting) = self.parked.get_mut(&other) {
            waiting.remove(&subject);
            if waiting.is_empty() {
                self.parked.remove(&other);
            }
        }
    }

    /// What there is as a round begins.
    pub(super) fn look(&self, subject: u64, planned_after: Seq) -> Look {
        let (wakes, hurries) = self.jobs.get(&subject).map_or((0, 0), |job| (job.wakes, job.hurries));
        Look { wakes, hurries, moves: self.moves, planned_after }
    }

    /// The task of a job gives way; the job is due at `at`.
    pub(super) fn leave(&mut self, subject: u64, at: Instant) {
        if self.jobs.get(&subject).is_some_and(|job| job.state == State::Running) {
            self.running -= 1;
        }
        self.schedule(subject, at);
    }

    /// The job works on this key now.
    pub(super) fn working(&mut self, subject: u64, look: Look, key: &str) -> Arc<Progress> {
        match self.jobs.get_mut(&subject) {
            Some(job) => {
                key.clone_into(&mut job.key);
                job.progress = Arc::default();
                if job.wakes != look.wakes {
                    job.progress.woken.notify_one();
                }
                job.progress.clone()
            }
            None => Arc::default(),
        }
    }
}

fn is_open(job: &Job) -> bool {
    match job.state {
        State::Settled => false,
        State::Sweeping(wakes) => job.wakes != wakes,
        State::Due(..) | State::Running | State::Deleting => true,
    }
}

#[cfg(test)]
mod tests;

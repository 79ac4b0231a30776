//! One owner's queue: which jobs there are, when each is due, and what a job may do next. Synchronous and pure: time is told.
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
//! - When the endpoint itself fails several times in a row (`queue/health.rs`), one job at a time tries it, until one succeeds; then all retry at once.

mod health;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Progress;
use super::run::{Failure, Suspect};
use crate::base::id::Seq;
use health::{Backoff, Health};

/// A job that waits for another is looked at again after this, whatever happened.
const PARKED: Duration = Duration::from_secs(5);
/// As `PARKED`, where the other has no job.
const UNPARKED: Duration = Duration::from_millis(250);
/// The least time between two records of a job's failures.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

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
    suspect: Option<Box<Suspect>>,
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
    parked: HashMap<u64, Vec<u64>>,
    settled: Vec<u64>,
    running: usize,
    next_rank: u64,
    /// Outcomes so far, of all jobs.
    moves: u64,
    health: Health,
    backoff: Backoff,
}

impl Queue {
    /// An empty queue whose failures wait between the two times.
    pub(super) fn new(backoff_min: Duration, backoff_max: Duration, seed: u64) -> Self {
        Self {
            jobs: HashMap::new(),
            due: BTreeSet::new(),
            parked: HashMap::new(),
            settled: Vec::new(),
            running: 0,
            next_rank: 0,
            moves: 0,
            health: Health::default(),
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
            job.suspect = suspect;
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
        job.parked_on = None;
        job.key.clear();
        self.due.insert((at, rank, subject));
    }

    /// Jobs to start now, with `slots` in all. They are running from here on.
    pub(super) fn start(&mut self, now: Instant, slots: usize) -> Vec<u64> {
        if self.health.quiet_until().is_some_and(|until| until > now) {
            return Vec::new();
        }
        let slots = if self.health.is_in_trouble() { 1 } else { slots };
        let mut started = Vec::new();
        while self.running < slots {
            match self.due.first() {
                Some((at, ..)) if *at <= now => {}
                _ => break,
            }
            let Some((_, _, subject)) = self.due.pop_first() else { break };
            if let Some(job) = self.jobs.get_mut(&subject) {
                job.state = State::Running;
                job.parked_on = None;
                job.backoff = None;
                self.running += 1;
                started.push(subject);
            }
        }
        started
    }

    /// When `start` has something to do next, if only time passes.
    pub(super) fn next_due(&self, slots: usize) -> Option<Instant> {
        let slots = if self.health.is_in_trouble() { 1 } else { slots };
        if self.running >= slots {
            return None;
        }
        let at = self.due.first()?.0;
        Some(self.health.quiet_until().map_or(at, |until| at.max(until)))
    }

    /// Whether operations run or are due, so that more deletes may come soon.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.running > 0 || (!self.health.is_in_trouble() && self.due.first().is_some_and(|(at, ..)| *at <= now))
    }

    /// What there is as a round begins.
    pub(super) fn look(&self, subject: u64, planned_after: Seq) -> Look {
        let (wakes, hurries) = self.jobs.get(&subject).map_or((0, 0), |job| (job.wakes, job.hurries));
        Look { wakes, hurries, moves: self.moves, planned_after }
    }

    /// Whether a task may go on with a job at once. Where the job was woken with a later date, it waits for that instead.
    pub(super) fn go_on(&mut self, subject: u64, look: Look, now: Instant) -> bool {
        let Some(job) = self.jobs.get(&subject) else { return false };
        if job.wakes == look.wakes || job.hurry.is_some() || job.date <= now {
            return true;
        }
        let date = job.date;
        self.leave(subject, date);
        false
    }

    /// The task of a job gives way; the job is due at `at`.
    pub(super) fn leave(&mut self, subject: u64, at: Instant) {
        if self.jobs.get(&subject).is_some_and(|job| job.state == State::Running) {
            self.running -= 1;
        }
        self.schedule(subject, at);
    }

    /// The plan says to wait until `at`, and that even a hurry waits for, unless the plan was begun before it.
    pub(super) fn wait(&mut self, subject: u64, look: Look, at: Instant) {
        let Some(job) = self.jobs.get_mut(&subject) else { return };
        let at = if job.wakes == look.wakes { at } else { job.date.min(at) };
        if job.hurries != look.hurries {
            return self.leave(subject, at);
        }
        let hurry = job.hurry.take();
        self.leave(subject, at);
        if let Some(job) = self.jobs.get_mut(&subject) {
            job.hurry = hurry;
        }
    }

    /// The plan says that `other` goes first.
    pub(super) fn park(&mut self, subject: u64, look: Look, other: u64, now: Instant) {
        if self.moves != look.moves || self.jobs.get(&subject).is_some_and(|job| job.wakes != look.wakes) {
            return self.leave(subject, now);
        }
        let waits = other != subject && self.jobs.get(&other).is_some_and(is_open);
        let hurry = self.jobs.get_mut(&subject).and_then(|job| job.hurry.take());
        self.leave(subject, now + if waits { PARKED } else { UNPARKED });
        let Some(job) = self.jobs.get_mut(&subject) else { return };
        job.hurry = hurry;
        if waits {
            job.parked_on = Some(other);
            self.parked.entry(other).or_default().push(subject);
            if hurry.is_some() {
                self.hurry(other, now);
            }
        }
    }

    /// Who waits for `other` is due.
    fn release(&mut self, other: u64, now: Instant) {
        for subject in self.parked.remove(&other).unwrap_or_default() {
            if self.jobs.get(&subject).is_some_and(|job| job.parked_on == Some(other)) {
                self.schedule(subject, now);
            }
        }
    }

    /// The plan says that nothing is left. Not so where the job was woken since the look.
    pub(super) fn settle(&mut self, subject: u64, look: Look, now: Instant) {
        let Some(job) = self.jobs.get_mut(&subject) else { return };
        if job.wakes != look.wakes {
            let date = job.date;
            return self.leave(subject, date);
        }
        if job.state == State::Running {
            self.running -= 1;
        }
        job.state = State::Settled;
        job.planned_after = look.planned_after;
        job.hurry = None;
        job.key.clear();
        self.settled.push(subject);
        self.release(subject, now);
    }

    /// The job's delete is collected; its task ends.
    pub(super) fn collect(&mut self, subject: u64) {
        if let Some(job) = self.jobs.get_mut(&subject)
            && job.state == State::Running
        {
            job.state = State::Deleting;
            self.running -= 1;
        }
    }

    /// An operation of the job ended, and that is recorded.
    pub(super) fn succeeded(&mut self, subject: u64, now: Instant) {
        self.moves += 1;
        if let Some(job) = self.jobs.get_mut(&subject) {
            job.attempts = 0;
            job.setbacks = 0;
            job.error.clear();
            job.saved = None;
            job.suspect = None;
            job.hurry = None;
        }
        self.release(subject, now);
        if self.health.works() {
            let waiting: Vec<(u64, Instant)> =
                self.jobs.iter().filter(|(_, job)| job.backoff.is_some()).map(|(subject, job)| (*subject, job.date)).collect();
            for (subject, date) in waiting {
                if let Some(job) = self.jobs.get_mut(&subject) {
                    job.backoff = None;
                }
                self.schedule(subject, date);
            }
        }
    }

    /// An operation ended without what was wanted (a conflict, a changed source). Too many of them in a row are a failure.
    pub(super) fn set_back(&mut self, subject: u64) -> bool {
        self.moves += 1;
        let Some(job) = self.jobs.get_mut(&subject) else { return false };
        job.setbacks += 1;
        job.setbacks > 3
    }

    /// The job's collected delete ended: it is due at once, or at its date where it was woken meanwhile.
    pub(super) fn resume(&mut self, subject: u64, look: Look, now: Instant) {
        let Some(job) = self.jobs.get(&subject) else { return };
        let at = if job.wakes == look.wakes { now } else { job.date };
        self.leave(subject, at);
    }

    /// An attempt failed. Says what is worth a record.
    pub(super) fn failed(&mut self, subject: u64, failure: Failure, now: Instant) -> Option<Trouble> {
        if failure.endpoint {
            self.health.failed(now, &mut self.backoff);
        }
        let job = self.jobs.get_mut(&subject)?;
        job.attempts = job.attempts.saturating_add(1);
        job.backoff = Some(now + self.backoff.wait(job.attempts - 1));
        job.error = failure.text;
        job.hurry = None;
        if failure.suspect.is_some() {
            job.suspect = failure.suspect;
        }
        let worth = job.attempts >= 3
            && job.saved.as_ref().is_none_or(|(error, attempts, at)| {
                now.duration_since(*at) >= SAVE_INTERVAL && (*error != job.error || job.attempts >= attempts.saturating_mul(2))
            });
        let trouble = worth.then(|| Trouble { attempts: job.attempts, error: job.error.clone() });
        if let Some(trouble) = &trouble {
            job.saved = Some((trouble.error.clone(), trouble.attempts, now));
        }
        let at = job.date.max(now);
        self.leave(subject, at);
        trouble
    }

    /// What the subject's last attempt left open.
    pub(super) fn suspect(&self, subject: u64) -> Option<Box<Suspect>> {
        self.jobs.get(&subject).and_then(|job| job.suspect.clone())
    }

    /// The suspect of a subject did not happen.
    pub(super) fn clear(&mut self, subject: u64, now: Instant) {
        if let Some(job) = self.jobs.get_mut(&subject) {
            job.suspect = None;
        }
        self.release(subject, now);
    }

    /// The job works on this key now.
    pub(super) fn working(&mut self, subject: u64, key: &str) -> Arc<Progress> {
        match self.jobs.get_mut(&subject) {
            Some(job) => {
                key.clone_into(&mut job.key);
                job.progress = Arc::default();
                job.progress.clone()
            }
            None => Arc::default(),
        }
    }

    /// Settled jobs whose rows are to go, at most `limit`, each as of its look.
    pub(super) fn sweep(&mut self, limit: usize) -> Vec<(u64, Look)> {
        let mut swept = Vec::new();
        while swept.len() < limit {
            let Some(subject) = self.settled.pop() else { break };
            // One that was woken and settled again is in the list twice.
            if let Some(job) = self.jobs.get_mut(&subject)
                && job.state == State::Settled
            {
                job.state = State::Sweeping(job.wakes);
                let Job { wakes, hurries, planned_after, .. } = *job;
                swept.push((subject, Look { wakes, hurries, moves: self.moves, planned_after }));
            }
        }
        swept
    }

    /// How many settled jobs wait for `sweep`.
    pub(super) fn settled(&self) -> usize {
        self.settled.len()
    }

    /// What became of a settled job's row. A job that was woken or asked for meanwhile is planned again.
    pub(super) fn swept(&mut self, subject: u64, outcome: Swept, now: Instant) {
        let Some(job) = self.jobs.get_mut(&subject).filter(|job| matches!(job.state, State::Sweeping(_))) else { return };
        match outcome {
            _ if is_open(job) => {
                let date = job.date;
                self.schedule(subject, date);
            }
            Swept::Asked => {
                self.next_rank += 1;
                job.serial = self.next_rank;
                self.schedule(subject, now);
            }
            Swept::NotYet => {
                job.state = State::Settled;
                self.settled.push(subject);
            }
            Swept::Gone => {
                self.jobs.remove(&subject);
            }
        }
    }

    /// Makes a job due now, whatever its date and its back-off say.
    pub(super) fn hurry(&mut self, subject: u64, now: Instant) {
        let Some(job) = self.jobs.get_mut(&subject) else { return };
        if !is_open(job) {
            return;
        }
        job.hurry = Some(now);
        job.hurries += 1;
        match job.state {
            State::Settled | State::Sweeping(_) | State::Running | State::Deleting => {}
            State::Due(..) => {
                if job.parked_on.is_none() {
                    job.backoff = None;
                    self.schedule(subject, now);
                } else if let Some(other) = job.parked_on
                    && self.jobs.get(&other).is_some_and(|job| job.hurry.is_none())
                {
                    self.hurry(other, now);
                }
            }
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

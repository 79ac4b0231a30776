//! Whose turn it is: what may start now, and who is let in before their time.
//!
//! Invariants: while the endpoint is in trouble (`health.rs`) one job at a time tries it, least failed first, after the quiet time; who is pressed
//! goes at once, once. A press is passed on to the job that the pressed one waits for.

use tokio::time::Instant;

use super::{Queue, State, is_open};

/// Due jobs among which the least failed one is looked for.
const PROBES: usize = 1_000;

impl Queue {
    /// Jobs to start now, with `slots` in all. They are running from here on.
    pub(in crate::store::upload) fn start(&mut self, now: Instant, slots: usize) -> Vec<u64> {
        let mut started = Vec::new();
        while self.running < slots
            && let Some((at, rank, subject)) = self.next(now)
        {
            self.due.remove(&(at, rank, subject));
            self.unpark(subject);
            let Some(job) = self.jobs.get_mut(&subject) else { continue };
            job.state = State::Running;
            job.backoff = None;
            self.running += 1;
            started.push(subject);
        }
        started
    }

    /// The job that goes first of those that may go now.
    fn next(&self, now: Instant) -> Option<(Instant, u64, u64)> {
        let is_due = |(at, ..): &(Instant, u64, u64)| *at <= now;
        if !self.health.is_in_trouble() {
            return self.due.first().copied().filter(is_due);
        }
        let pressed = self.pressed.iter().filter_map(|subject| self.due_at(*subject)).find(is_due);
        if pressed.is_some() || self.running > 0 || self.health.quiet_until().is_some_and(|until| until > now) {
            return pressed;
        }
        let failures = |subject: u64| self.jobs.get(&subject).map_or(0, |job| job.attempts);
        let probes = self.due.iter().take_while(|due| is_due(due)).take(PROBES);
        probes.min_by_key(|(at, rank, subject)| (failures(*subject), *at, *rank)).copied()
    }

    fn due_at(&self, subject: u64) -> Option<(Instant, u64, u64)> {
        match self.jobs.get(&subject)?.state {
            State::Due(at, rank) => Some((at, rank, subject)),
            _ => None,
        }
    }

    /// When `start` has something to do next, if only time passes.
    pub(in crate::store::upload) fn next_due(&self, slots: usize) -> Option<Instant> {
        if self.running >= slots {
            return None;
        }
        let first = self.due.first().map(|(at, ..)| *at);
        if !self.health.is_in_trouble() {
            return first;
        }
        let pressed = self.pressed.iter().filter_map(|subject| self.due_at(*subject)).map(|(at, ..)| at).min();
        let probe = first.filter(|_| self.running == 0).map(|at| self.health.quiet_until().map_or(at, |until| at.max(until)));
        pressed.into_iter().chain(probe).min()
    }

    /// Whether operations run or are due, so that more deletes may come soon.
    pub(in crate::store::upload) fn is_busy(&self, now: Instant) -> bool {
        self.running > 0 || (!self.health.is_in_trouble() && self.due.first().is_some_and(|(at, ..)| *at <= now))
    }

    /// Makes a job due now, whatever its date and its back-off say.
    pub(in crate::store::upload) fn hurry(&mut self, subject: u64, now: Instant) {
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
                } else if let Some(other) = job.parked_on {
                    self.pass_press(subject, other);
                    if self.jobs.get(&other).is_some_and(|job| job.hurry.is_none()) {
                        self.hurry(other, now);
                    }
                }
            }
        }
    }

    /// As [`Self::hurry`], for somebody who waits: also where the endpoint is in trouble, once.
    pub(in crate::store::upload) fn press(&mut self, subject: u64, now: Instant) {
        if self.jobs.get(&subject).is_some_and(is_open) {
            self.pressed.insert(subject);
            self.hurry(subject, now);
        }
    }

    /// Who waits for `subject` waits for `other` first.
    pub(super) fn pass_press(&mut self, subject: u64, other: u64) {
        if self.pressed.remove(&subject) {
            self.pressed.insert(other);
        }
    }
}

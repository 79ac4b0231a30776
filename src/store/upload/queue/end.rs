//! How a round of a job ends: it goes on, waits, is parked, failed, or is over; and how the rows of settled jobs go.

use std::time::Duration;

use tokio::time::Instant;

use super::{Job, Look, Queue, State, Swept, Trouble, is_open};
use crate::store::upload::run::{Failure, Suspect};

/// A job that waits for another is looked at again after this, whatever happened.
const PARKED: Duration = Duration::from_secs(5);
/// As `PARKED`, where the other has no job.
const UNPARKED: Duration = Duration::from_millis(250);
/// A write that was given up may still arrive for so long: what was handed to the network is sent on and on after its connection was closed.
const STRAGGLER: Duration = Duration::from_secs(60);
/// The least time between two records of a job's failures.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

impl Queue {
    /// Whether a task may go on with a job at once. Where the job was woken with a later date, it waits for that instead.
    pub(in crate::store::upload) fn go_on(&mut self, subject: u64, look: Look, now: Instant) -> bool {
        let Some(job) = self.jobs.get(&subject) else { return false };
        if job.wakes == look.wakes || job.hurry.is_some() || job.date <= now {
            return true;
        }
        let date = job.date;
        self.leave(subject, date);
        false
    }

    /// The plan says to wait until `at`, and that even a hurry waits for, unless the plan was begun before it.
    pub(in crate::store::upload) fn wait(&mut self, subject: u64, look: Look, at: Instant) {
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
    pub(in crate::store::upload) fn park(&mut self, subject: u64, look: Look, other: u64, now: Instant) {
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
            self.parked.entry(other).or_default().insert(subject);
            if self.jobs.get(&other).is_some_and(|job| job.suspect.is_some() && matches!(job.state, State::Due(..))) {
                self.schedule(other, now);
            }
            if hurry.is_some() {
                self.pass_press(subject, other);
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
    pub(in crate::store::upload) fn settle(&mut self, subject: u64, look: Look, now: Instant) {
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
        self.pressed.remove(&subject);
        self.settled.push(subject);
        self.release(subject, now);
    }

    /// The job's delete is collected; its task ends.
    pub(in crate::store::upload) fn collect(&mut self, subject: u64) {
        if let Some(job) = self.jobs.get_mut(&subject)
            && job.state == State::Running
        {
            job.state = State::Deleting;
            self.running -= 1;
        }
    }

    /// An operation of the job ended, and that is recorded.
    pub(in crate::store::upload) fn succeeded(&mut self, subject: u64, now: Instant) {
        self.moves += 1;
        self.pressed.remove(&subject);
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
            let backed_off = self.jobs.iter().filter(|(_, job)| job.backoff.is_some());
            let mut waiting: Vec<(u32, Instant, u64)> =
                backed_off.map(|(subject, job)| (job.attempts, job.date, *subject)).collect();
            waiting.sort_unstable();
            for (_, date, subject) in waiting {
                if let Some(job) = self.jobs.get_mut(&subject) {
                    job.backoff = None;
                }
                self.schedule(subject, date.max(now));
            }
        }
    }

    /// An operation ended without what was wanted (a conflict, a changed source). Too many of them in a row are a failure.
    pub(in crate::store::upload) fn set_back(&mut self, subject: u64) -> bool {
        self.moves += 1;
        let Some(job) = self.jobs.get_mut(&subject) else { return false };
        job.setbacks += 1;
        job.setbacks > 3
    }

    /// The job's collected delete ended: it is due at once, or at its date where it was woken meanwhile.
    pub(in crate::store::upload) fn resume(&mut self, subject: u64, look: Look, now: Instant) {
        let Some(job) = self.jobs.get(&subject) else { return };
        let at = if job.wakes == look.wakes { now } else { job.date };
        self.leave(subject, at);
    }

    /// An attempt failed. Says what is worth a record.
    pub(in crate::store::upload) fn failed(&mut self, subject: u64, failure: Failure, now: Instant) -> Option<Trouble> {
        if failure.endpoint {
            self.health.failed(now, &mut self.backoff);
            self.trouble.clone_from(&failure.text);
        }
        self.pressed.remove(&subject);
        let job = self.jobs.get_mut(&subject)?;
        job.attempts = job.attempts.saturating_add(1);
        job.backoff = Some(now + self.backoff.wait(job.attempts - 1));
        job.error = failure.text;
        job.hurry = None;
        if let Some(suspect) = failure.suspect {
            job.suspect = Some((suspect, now));
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
    pub(in crate::store::upload) fn suspect(&self, subject: u64) -> Option<Box<Suspect>> {
        self.jobs.get(&subject).and_then(|job| job.suspect.as_ref()).map(|(suspect, _)| suspect.clone())
    }

    /// The suspect of a subject is not to be seen, and could still happen: it is looked for once more later, and the job waits for that. Not where
    /// another job waits for its key: that goes on at once. Whether it waits.
    pub(in crate::store::upload) fn wait_for_straggler(&mut self, subject: u64, look: Look, now: Instant) -> bool {
        let until = match self.jobs.get(&subject).and_then(|job| job.suspect.as_ref()) {
            Some((_, since)) => *since + STRAGGLER,
            None => now,
        };
        if until <= now || self.parked.contains_key(&subject) {
            return false;
        }
        self.wait(subject, look, until);
        true
    }

    /// The suspect of a subject did not happen.
    pub(in crate::store::upload) fn clear(&mut self, subject: u64, now: Instant) {
        if let Some(job) = self.jobs.get_mut(&subject) {
            job.suspect = None;
        }
        self.release(subject, now);
    }

    /// Settled jobs whose rows are to go, at most `limit`, each as of its look.
    pub(in crate::store::upload) fn sweep(&mut self, limit: usize) -> Vec<(u64, Look)> {
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
    pub(in crate::store::upload) fn settled(&self) -> usize {
        self.settled.len()
    }

    /// What became of a settled job's row. A job that was woken or asked for meanwhile is planned again.
    pub(in crate::store::upload) fn swept(&mut self, subject: u64, outcome: Swept, now: Instant) {
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
                self.pressed.remove(&subject);
                self.jobs.remove(&subject);
            }
        }
    }
}

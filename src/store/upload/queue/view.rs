//! What others see of a queue. A job that is settled, and was not woken since, counts as over, whether its row is gone yet or not.

use super::{Job, Queue, Trouble, is_open};

/// A job as others see it.
#[derive(Clone, Debug)]
pub(in crate::store::upload) struct View {
    pub(in crate::store::upload) subject: u64,
    pub(in crate::store::upload) since_ns: i64,
    pub(in crate::store::upload) key: String,
    pub(in crate::store::upload) progress_bytes: (u64, u64),
    pub(in crate::store::upload) attempts: u32,
    pub(in crate::store::upload) error: String,
}

impl Queue {
    /// All jobs that are not over, with what tells them from later jobs of the same subject.
    pub(in crate::store::upload) fn open(&self) -> Vec<(u64, u64)> {
        self.jobs.iter().filter(|(_, job)| is_open(job)).map(|(subject, job)| (*subject, job.serial)).collect()
    }

    /// The job of a subject, where it is not over.
    pub(in crate::store::upload) fn serial(&self, subject: u64) -> Option<u64> {
        self.jobs.get(&subject).filter(|job| is_open(job)).map(|job| job.serial)
    }

    /// Failed attempts and the last failure of a subject.
    pub(in crate::store::upload) fn trouble(&self, subject: u64) -> Trouble {
        let job = self.jobs.get(&subject);
        Trouble { attempts: job.map_or(0, |job| job.attempts), error: job.map_or(String::new(), |job| job.error.clone()) }
    }

    /// Why nothing is uploaded, where the endpoint itself is in trouble.
    pub(in crate::store::upload) fn endpoint_trouble(&self) -> Option<String> {
        self.health.is_in_trouble().then(|| self.trouble.clone())
    }

    /// What moves while the endpoint answers: bytes of the subject's body that were sent, and outcomes of all jobs.
    pub(in crate::store::upload) fn pace(&self, subject: u64) -> (u64, u64) {
        (self.jobs.get(&subject).map_or(0, |job| job.progress.get().0), self.moves)
    }

    /// All jobs that are not over.
    pub(in crate::store::upload) fn views(&self) -> Vec<View> {
        let view = |(subject, job): (&u64, &Job)| View {
            subject: *subject,
            since_ns: job.since_ns,
            key: job.key.clone(),
            progress_bytes: job.progress.get(),
            attempts: job.attempts,
            error: job.error.clone(),
        };
        self.jobs.iter().filter(|(_, job)| is_open(job)).map(view).collect()
    }
}

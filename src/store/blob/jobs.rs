//! Jobs of the upload queue: their rows are edited, never put.
//!
//! Three parties change a job's row: an engine asks (there is something to do), the uploader tells what is under way and what fails, and
//! the uploader ends a job. An edit is made to the latest row, under the names lock, so that none of them overwrites what another said; the log
//! has the row that came of it.
//!
//! Invariant: a row goes only where nobody asked since its owner planned and found nothing left. What asks therefore either is part of that
//! plan, or keeps its row, also where the gateway dies at any moment in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{BlobError, BlobStore};
use crate::base::id::{OwnerId, Seq};
use crate::store::meta::{Change, JobRow, Key, Row, Stored};

/// A change of one job's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobChange {
    /// There is something to do, not before this (nanoseconds since the Unix epoch) or the date that the row has already.
    Ask {
        /// When.
        not_before_ns: i64,
    },
    /// What is under way in the bucket, as the uploader encodes it; empty for nothing.
    UnderWay(Vec<u8>),
    /// How often it failed since the last success, and why the last time.
    Trouble {
        /// Times.
        attempts: u32,
        /// In words.
        error: String,
    },
    /// Nothing is left to do, as of a plan that began after this number ([`BlobStore::asked_through`]): the row goes, unless somebody asked since.
    Over {
        /// That number.
        planned_after: Seq,
    },
}

/// Rows as they were read before the locks were taken.
pub(super) type Rows = HashMap<u64, Stored>;

/// A fresh job.
fn fresh(owner: OwnerId, subject: u64, now_ns: i64) -> JobRow {
    JobRow {
        owner,
        subject,
        since_ns: now_ns,
        not_before_ns: now_ns,
        attempts: 0,
        error: String::new(),
        multipart: Vec::new(),
        note: Vec::new(),
    }
}

impl JobChange {
    /// The row after the change. `asked`: the number of the last `Ask` in this life of the gateway.
    fn edit(&self, row: Option<JobRow>, fresh: JobRow, asked: Option<Seq>) -> Option<JobRow> {
        match self {
            Self::Ask { not_before_ns } => Some(match row {
                Some(row) => JobRow { not_before_ns: row.not_before_ns.min(*not_before_ns), ..row },
                None => JobRow { not_before_ns: *not_before_ns, ..fresh },
            }),
            Self::UnderWay(state) if row.is_none() && state.is_empty() => None,
            Self::UnderWay(state) => Some(JobRow { multipart: state.clone(), ..row.unwrap_or(fresh) }),
            Self::Trouble { attempts, error } => row.map(|row| JobRow { attempts: *attempts, error: error.clone(), ..row }),
            Self::Over { planned_after } => row.filter(|_| asked.is_some_and(|asked| asked > *planned_after)),
        }
    }
}

impl BlobStore {
    /// A number below that of every [`JobChange::Ask`] that is not visible yet. Taken before a plan is made.
    pub fn asked_through(&self) -> Seq {
        let _names = self.names.lock();
        self.last_seq()
    }

    /// Reads the rows of `jobs`.
    pub(super) async fn job_rows(&self, owner: OwnerId, jobs: &[(u64, JobChange)]) -> Result<Rows, BlobError> {
        let mut rows = Rows::new();
        for (subject, _) in jobs {
            if let Entry::Vacant(vacant) = rows.entry(*subject) {
                vacant.insert(self.meta.load(&Key::Job(owner, *subject)).await?);
            }
        }
        Ok(rows)
    }

    /// The rows that `jobs` make of the latest ones. `None`: they have to be read again. Under the names lock.
    pub(super) fn job_changes(&self, owner: OwnerId, jobs: &[(u64, JobChange)], rows: &Rows) -> Option<Vec<Change>> {
        let asked = self.asked.lock();
        let mut edited: HashMap<u64, (Option<JobRow>, bool)> = HashMap::new();
        let mut order = Vec::new();
        for (subject, change) in jobs {
            let (row, is_changed) = match edited.entry(*subject) {
                Entry::Occupied(edited) => edited.into_mut(),
                Entry::Vacant(vacant) => {
                    let latest = self.meta.latest(&Key::Job(owner, *subject), rows.get(subject)?)?;
                    order.push(*subject);
                    vacant.insert((latest.and_then(|row| if let Row::Job(job) = row { Some(job) } else { None }), false))
                }
            };
            let before = row.take();
            let after =
                change.edit(before.clone(), fresh(owner, *subject, self.clock.now_ns()), asked.get(&(owner, *subject)).copied());
            // Who asks is always written, so that it has a number.
            *is_changed |= after != before || matches!(change, JobChange::Ask { .. });
            *row = after;
        }
        let change = |subject: u64| match edited.remove(&subject) {
            Some((Some(row), true)) => Some(Change::Put(Row::Job(row))),
            Some((None, true)) => Some(Change::Drop(Key::Job(owner, subject))),
            _ => None,
        };
        Some(order.into_iter().filter_map(change).collect())
    }

    /// The edits are in the log, all up to number `seq`. Under the names lock.
    pub(super) fn jobs_changed(&self, owner: OwnerId, jobs: &[(u64, JobChange)], seq: Seq) {
        let mut asked = self.asked.lock();
        for (subject, change) in jobs {
            match change {
                JobChange::Ask { .. } => {
                    asked.insert((owner, *subject), seq);
                }
                JobChange::Over { planned_after } => {
                    if asked.get(&(owner, *subject)).is_some_and(|seq| seq <= planned_after) {
                        asked.remove(&(owner, *subject));
                    }
                }
                JobChange::UnderWay(_) | JobChange::Trouble { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: OwnerId = OwnerId(1);

    fn edit(change: &JobChange, row: Option<JobRow>, asked: Option<u64>) -> Option<JobRow> {
        change.edit(row, fresh(OWNER, 7, 100), asked.map(Seq))
    }

    #[test]
    fn edits_keep_what_others_said() {
        let asked = edit(&JobChange::Ask { not_before_ns: 500 }, None, None).unwrap();
        assert_eq!((asked.since_ns, asked.not_before_ns), (100, 500));
        let busy = edit(&JobChange::UnderWay(vec![1]), Some(asked), None).unwrap();
        let failed = edit(&JobChange::Trouble { attempts: 3, error: "no".into() }, Some(busy), None).unwrap();
        let again = edit(&JobChange::Ask { not_before_ns: 400 }, Some(failed), None).unwrap();
        assert_eq!((again.not_before_ns, again.attempts, again.multipart.as_slice()), (400, 3, &[1_u8][..]));
        let later = edit(&JobChange::Ask { not_before_ns: 600 }, Some(again), None).unwrap();
        assert_eq!(later.not_before_ns, 400);
    }

    #[test]
    fn a_row_goes_only_where_nobody_asked_since() {
        let row = fresh(OWNER, 7, 100);
        let over = JobChange::Over { planned_after: Seq(10) };
        assert_eq!(edit(&over, Some(row.clone()), Some(10)), None);
        assert_eq!(edit(&over, Some(row.clone()), None), None);
        assert_eq!(edit(&over, Some(row.clone()), Some(11)), Some(row));
        assert_eq!(edit(&JobChange::UnderWay(Vec::new()), None, None), None);
        assert!(edit(&JobChange::UnderWay(vec![1]), None, None).is_some(), "what is sent is never without a row");
    }
}

//! Deletes, collected per owner into `DeleteObjects`.
//!
//! What lives here: [`Deletes`], what is collected, and the run of one collection. A collected delete holds its key and no slot.
//!
//! When a collection goes out: with [`KEYS_MAX`] keys; when somebody waits for one of its keys; `delete_linger` after its first, unless
//! operations of the owner run or are due, whose deletes would follow; after [`HELD_MAX`] in any case. So a renamed directory of 1,000 files costs a
//! handful of requests, and a single delete is quick.
//!
//! Each key carries its ETag where the endpoint honours that; where not, each is looked at just before it goes. After a lost answer each is
//! looked at: what is gone was deleted by us, for nobody else was expected there.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::adopt;
use super::keys::KeyGuard;
use super::queue::Look;
use super::run::{Content, Failure, Runner, Suspect};
use super::{Done, Expected, Op};
use crate::store::object::{ETag, ObjectError, Outcome};

/// The most keys of one `DeleteObjects` (S3).
const KEYS_MAX: usize = 1_000;
/// The longest that a delete is held back for others, whatever runs.
const HELD_MAX: Duration = Duration::from_secs(10);
/// HEADs of one collection at a time.
const LOOKS: usize = 16;

/// A delete that waits for company. It has its key.
pub(super) struct Collected {
    pub(super) subject: u64,
    pub(super) op: Op,
    pub(super) look: Look,
    pub(super) since: Instant,
    pub(super) guard: KeyGuard,
}

/// The collected deletes of one owner, oldest first.
#[derive(Default)]
pub(super) struct Deletes(Mutex<Vec<Collected>>);

/// What is to be done with the collection.
pub(super) enum Next {
    /// These go now.
    Send(Vec<Collected>),
    /// Look again then, if nothing happens before.
    At(Instant),
    /// There is nothing.
    Nothing,
}

impl Deletes {
    /// One more.
    pub(super) fn add(&self, collected: Collected) {
        self.0.lock().push(collected);
    }

    /// What goes now. `busy`: more may come soon; `now_or_never`: nothing more is waited for.
    pub(super) fn next(&self, now: Instant, linger: Duration, busy: bool, now_or_never: bool) -> Next {
        let mut all = self.0.lock();
        let Some(first) = all.first() else { return Next::Nothing };
        let held = if busy { HELD_MAX.max(linger) } else { linger };
        let goes_at = first.since + held;
        let goes = now_or_never || goes_at <= now || all.len() >= KEYS_MAX || all.iter().any(|one| one.guard.is_wanted());
        if !goes {
            return Next::At(goes_at);
        }
        let count = all.len().min(KEYS_MAX);
        Next::Send(all.drain(..count).collect())
    }
}

impl Runner {
    /// Deletes all of `ops`. The outcomes are in the same order.
    pub(super) async fn delete(&self, ops: &[&Op]) -> Vec<Result<Done, Failure>> {
        let checks: Vec<_> = ops.iter().map(|op| self.check(op)).collect();
        let checked: Vec<Result<Check, Failure>> = stream::iter(checks).buffered(LOOKS).collect().await;
        let mut keys = Vec::new();
        for (op, check) in ops.iter().zip(&checked) {
            if let Ok(Check::Send(etag)) = check {
                keys.push((op.target().to_owned(), etag.clone()));
            }
        }
        let failed = self.send(&keys).await;
        let outcomes: Vec<_> = ops.iter().zip(checked).map(|(op, check)| self.outcome(op, check, &failed)).collect();
        stream::iter(outcomes).buffered(LOOKS).collect().await
    }

    /// What is to be sent for one key; where the delete cannot carry its condition, a look decides.
    async fn check(&self, op: &Op) -> Result<Check, Failure> {
        self.bucket.ready().await?;
        match op.expected() {
            Expected::Anything => return Ok(Check::Send(None)),
            Expected::Object(etag) if self.bucket.capabilities().conditional_delete => {
                return Ok(Check::Send(Some(etag.clone())));
            }
            Expected::Object(_) | Expected::Absent => {}
        }
        self.counts.add("head");
        let found = adopt::look(&*self.bucket, op.target()).await?;
        Ok(match found {
            None => Check::Done(Done::Deleted),
            Some(head) if matches!(op.expected(), Expected::Object(etag) if head.etag.as_ref() == Some(etag)) => {
                Check::Send(None)
            }
            Some(head) => Check::Done(Done::Conflict(Some(Box::new(head)))),
        })
    }

    /// Sends deletes. Returns what failed, by key.
    async fn send(&self, keys: &[(String, Option<ETag>)]) -> HashMap<String, ObjectError> {
        match keys {
            [] => return HashMap::new(),
            [one] => return self.send_one(one).await.into_iter().collect(),
            _ => self.counts.add("delete_many"),
        }
        match self.bucket.delete_many(keys).await {
            Ok(failed) => failed.into_iter().collect(),
            Err(ObjectError::Unsupported(_)) => {
                let each: Vec<_> = keys.iter().map(|one| self.send_one(one)).collect();
                let failed: Vec<_> = stream::iter(each).buffered(LOOKS).collect().await;
                failed.into_iter().flatten().collect()
            }
            Err(error) => keys.iter().map(|(key, _)| (key.clone(), error.clone())).collect(),
        }
    }

    async fn send_one(&self, (key, etag): &(String, Option<ETag>)) -> Option<(String, ObjectError)> {
        self.counts.add("delete");
        self.bucket.delete(key, etag.as_ref()).await.err().map(|error| (key.clone(), error))
    }

    /// How the delete of one key ended.
    async fn outcome(
        &self,
        op: &Op,
        check: Result<Check, Failure>,
        failed: &HashMap<String, ObjectError>,
    ) -> Result<Done, Failure> {
        if let Check::Done(done) = check? {
            return Ok(done);
        }
        let Some(error) = failed.get(op.target()).cloned() else { return Ok(Done::Deleted) };
        if error.outcome() == Outcome::Refused && !matches!(error, ObjectError::NotFound) {
            return Err(error.into());
        }
        self.counts.add("head");
        match (adopt::look(&*self.bucket, op.target()).await, op.expected()) {
            (Ok(None), _) => Ok(Done::Deleted),
            (Ok(Some(head)), Expected::Object(etag)) if head.etag.as_ref() != Some(etag) => {
                Ok(Done::Conflict(Some(Box::new(head))))
            }
            _ => {
                let suspect = Suspect { op: op.clone(), kin: None, content: Content::default() };
                Err(Failure { suspect: Some(Box::new(suspect)), ..error.into() })
            }
        }
    }
}

/// What is to be done for one key.
enum Check {
    /// Send it, with this ETag.
    Send(Option<ETag>),
    /// Nothing is to be sent.
    Done(Done),
}

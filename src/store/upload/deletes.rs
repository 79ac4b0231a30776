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
const HELD_MAX: Duration = Duration::from_secs(2);
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
        let conditional = self.bucket.capabilities().conditional_delete;
        let checked: Vec<Result<Check, Failure>> = stream::iter(ops.iter().copied())
            .map(|op| async move {
                match op.expected() {
                    Expected::Anything => Ok(Check::Send(None)),
                    Expected::Object(etag) if conditional => Ok(Check::Send(Some(etag.clone()))),
                    _ => self.check(op).await,
                }
            })
            .buffered(LOOKS)
            .collect()
            .await;
        let keys: Vec<(String, Option<ETag>)> = ops
            .iter()
            .zip(&checked)
            .filter_map(|(op, check)| match check {
                Ok(Check::Send(etag)) => Some((op.target().to_owned(), etag.clone())),
                _ => None,
            })
            .collect();
        let sent = self.send(&keys).await;
        stream::iter(ops.iter().copied().zip(checked))
            .map(|(op, check)| {
                let sent = &sent;
                async move {
                    match check? {
                        Check::Done(done) => Ok(done),
                        Check::Send(_) => self.outcome(op, sent).await,
                    }
                }
            })
            .buffered(LOOKS)
            .collect()
            .await
    }

    /// What a look says before a delete that cannot carry a condition.
    async fn check(&self, op: &Op) -> Result<Check, Failure> {
        self.counts.add("head");
        let found = adopt::look(&*self.bucket, op.target()).await?;
        Ok(match found {
            None => Check::Done(Done::Deleted),
            Some(head) if matches!(op.expected(), Expected::Object(etag) if head.etag.as_ref() == Some(etag)) => Check::Send(None),
            Some(head) => Check::Done(Done::Conflict(Some(Box::new(head)))),
        })
    }

    async fn send(&self, keys: &[(String, Option<ETag>)]) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        match keys {
            [] => Ok(Vec::new()),
            [(key, etag)] => {
                self.counts.add("delete");
                self.bucket.delete(key, etag.as_ref()).await.map(|()| Vec::new())
            }
            keys => {
                self.counts.add("delete_many");
                match self.bucket.delete_many(keys).await {
                    Err(ObjectError::Unsupported(_)) => Ok(self.send_each(keys).await),
                    sent => sent,
                }
            }
        }
    }

    /// For endpoints without `DeleteObjects`.
    async fn send_each(&self, keys: &[(String, Option<ETag>)]) -> Vec<(String, ObjectError)> {
        let sent = stream::iter(keys).map(|(key, etag)| async move {
            self.counts.add("delete");
            self.bucket.delete(key, etag.as_ref()).await.err().map(|error| (key.clone(), error))
        });
        sent.buffered(LOOKS).filter_map(|failed| async move { failed }).collect().await
    }

    /// How the delete of one key ended.
    async fn outcome(&self, op: &Op, sent: &Result<Vec<(String, ObjectError)>, ObjectError>) -> Result<Done, Failure> {
        let error = match sent {
            Ok(failed) => match failed.iter().find(|(key, _)| key == op.target()) {
                None => return Ok(Done::Deleted),
                Some((_, error)) => error.clone(),
            },
            Err(error) => error.clone(),
        };
        let open = error.outcome() == Outcome::Unknown || matches!(error, ObjectError::NotFound);
        if !open {
            return Err(error.into());
        }
        self.counts.add("head");
        let suspect = || Some(Box::new(Suspect { op: op.clone(), kin: None, content: Content::default() }));
        match adopt::look(&*self.bucket, op.target()).await {
            Ok(None) => Ok(Done::Deleted),
            Ok(Some(head)) => match op.expected() {
                Expected::Object(etag) if head.etag.as_ref() != Some(etag) => Ok(Done::Conflict(Some(Box::new(head)))),
                _ => Err(Failure { suspect: suspect(), ..error.into() }),
            },
            Err(_) => Err(Failure { suspect: suspect(), ..error.into() }),
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

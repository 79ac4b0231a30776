//! Repeats failed requests: exponential backoff with full jitter, until a deadline per request.
//!
//! What is repeated: what failed for a reason that passes by itself ([`ObjectError::is_transient`]), where either the request
//! is known not to have happened, or making it twice is as good as once ([`Request::repeatable`]). A guarded write whose
//! answer was lost is never repeated here, since its second answer would tell of the first: its maker asks by `head`.
//!
//! Invariants: a write that was begun is never cut off by the deadline, only not begun again; a read is cut off.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::layer::{Answer, Layer, Request};
use super::{ObjectError, Outcome};

#[cfg(test)]
mod tests;

/// When and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The bound of the first wait; each later one is twice the last. The wait is uniform between nothing and its bound.
    pub backoff_first: Duration,
    /// The longest bound.
    pub backoff_max: Duration,
    /// After a request has been tried for this long, its last error is the answer.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { backoff_first: Duration::from_millis(100), backoff_max: Duration::from_secs(5), deadline: Duration::from_secs(60) }
    }
}

/// The layer.
pub struct Retry {
    settings: Settings,
    random: Mutex<fastrand::Rng>,
}

impl Retry {
    /// With jitter of its own.
    pub fn new(settings: Settings) -> Self {
        Self::seeded(settings, fastrand::u64(..))
    }

    /// With jitter that is the same in every run.
    pub fn seeded(settings: Settings, seed: u64) -> Self {
        Self { settings, random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// Full jitter: anything up to the bound of this attempt (the first is 0).
    fn wait(&self, attempt: u32, error: &ObjectError) -> Duration {
        let bound = self.settings.backoff_first.saturating_mul(1 << attempt.min(20)).min(self.settings.backoff_max);
        let wait = bound.mul_f64(self.random.lock().f64());
        // An endpoint that asks for patience gets some in any case.
        if matches!(error, ObjectError::SlowDown) { wait.max(bound / 2) } else { wait }
    }
}

fn may_repeat(request: &Request<'_>, error: &ObjectError) -> bool {
    error.is_transient() && (request.repeatable || error.outcome() == Outcome::Refused)
}

impl Layer for Retry {
    async fn around<T, C, F>(&self, request: Request<'_>, call: C) -> Result<T, ObjectError>
    where
        T: Answer,
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, ObjectError>> + Send,
    {
        let deadline = Instant::now() + self.settings.deadline;
        let mut last = None;
        for attempt in 0.. {
            let answer = if request.kind.reads() {
                // The reason of an earlier attempt says more than that time is over.
                match timeout_at(deadline, call()).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(last.unwrap_or_else(|| request.no_answer("no answer before the deadline"))),
                }
            } else {
                call().await
            };
            let error = match answer {
                Err(error) if may_repeat(&request, &error) => error,
                settled => return settled,
            };
            let next = Instant::now() + self.wait(attempt, &error);
            if next >= deadline {
                return Err(error);
            }
            tracing::debug!(kind = request.kind.name(), key = request.key, attempt, %error, "trying a request again");
            sleep_until(next).await;
            last = Some(error);
        }
        Err(request.no_answer("more attempts than can be counted"))
    }
}

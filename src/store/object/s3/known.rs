//! What is known of an endpoint, and the wait of those who must not write before it is.
//!
//! ```text
//!   unknown ──failed──► unknown (one more round)        who waits hears why, and tries later
//!      └─────learnt───► known                            for good
//! ```
//!
//! Invariants: who waits asks for a round at once, and hears of the first round that ends after it began to wait; nobody waits for longer than
//! `ROUND_MAX`, nor for an endpoint that is not asked any more.

use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::store::object::{Capabilities, ObjectError, Outcome};

/// The longest wait for the end of a round.
const ROUND_MAX: Duration = Duration::from_secs(120);

/// See the header.
pub(super) struct Known {
    state: watch::Sender<State>,
    /// Somebody waits.
    wanted: Notify,
}

#[derive(Clone, Default)]
struct State {
    capabilities: Option<Capabilities>,
    /// Rounds that failed.
    rounds: u64,
    /// Nobody asks any more.
    is_over: bool,
    /// Why the last round failed.
    error: Option<ObjectError>,
}

impl Known {
    /// Known from the start, or not yet.
    pub(super) fn new(capabilities: Option<Capabilities>) -> Self {
        Self { state: watch::Sender::new(State { capabilities, ..State::default() }), wanted: Notify::new() }
    }

    pub(super) fn get(&self) -> Option<Capabilities> {
        self.state.borrow().capabilities
    }

    pub(super) fn learnt(&self, capabilities: Capabilities) {
        self.state.send_modify(|state| state.capabilities = Some(capabilities));
    }

    pub(super) fn failed(&self, error: ObjectError) {
        self.state.send_modify(|state| {
            state.rounds += 1;
            state.error = Some(error);
        });
    }

    pub(super) fn over(&self) {
        self.state.send_modify(|state| state.is_over = true);
    }

    /// Returns when somebody waits.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Returns when it is known; an error where it could not be found out.
    pub(super) async fn ready(&self) -> Result<(), ObjectError> {
        let mut state = self.state.subscribe();
        let rounds = state.borrow().rounds;
        if state.borrow().capabilities.is_some() {
            return Ok(());
        }
        self.wanted.notify_one();
        let ended = state.wait_for(|state| state.capabilities.is_some() || state.is_over || state.rounds > rounds);
        let unknown = |reason: &str| ObjectError::Unavailable {
            reason: format!("it is not known yet what it can do ({reason})"),
            outcome: Outcome::Refused,
        };
        match tokio::time::timeout(ROUND_MAX, ended).await {
            Ok(Ok(state)) if state.capabilities.is_some() => Ok(()),
            Ok(Ok(state)) => match &state.error {
                Some(ObjectError::Unavailable { reason, .. }) => Err(unknown(reason)),
                Some(error) => Err(error.clone()),
                None => Err(unknown("nobody asks it")),
            },
            Ok(Err(_)) | Err(_) => Err(unknown("no answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_asks_for_a_round_and_hears_its_end() {
        let known = Arc::new(Known::new(None));
        let (waiting, other) = (
            tokio::spawn({
                let known = known.clone();
                async move { known.ready().await }
            }),
            known.clone(),
        );
        other.wanted().await;
        assert!(!waiting.is_finished());
        other.failed(ObjectError::SlowDown);
        assert!(matches!(waiting.await, Ok(Err(ObjectError::SlowDown))));

        let waiting = tokio::spawn({
            let known = known.clone();
            async move { known.ready().await }
        });
        other.wanted().await;
        other.learnt(Capabilities::AWS);
        assert!(matches!(waiting.await, Ok(Ok(()))));
        assert!(known.ready().await.is_ok(), "at once, from now on");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_endpoint_that_is_not_asked_any_more() {
        let known = Known::new(None);
        assert!(matches!(known.ready().await, Err(ObjectError::Unavailable { outcome: Outcome::Refused, .. })), "after a while");
        known.over();
        let asked = tokio::time::Instant::now();
        assert!(known.ready().await.is_err());
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
}

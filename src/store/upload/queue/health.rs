//! How long failures wait, and whether the endpoint itself is in trouble.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures of the endpoint in a row, over all jobs of the owner, and it is asked by one job at a time.
const TROUBLE: u32 = 8;

/// Full jitter.
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, random: fastrand::Rng::with_seed(seed) }
    }

    /// Up to `min * 2^failures`, at most `max`, and not quite nothing.
    pub(super) fn wait(&mut self, failures: u32) -> Duration {
        let most = self.min.saturating_mul(1_u32.checked_shl(failures.min(30)).unwrap_or(u32::MAX)).min(self.max);
        most.mul_f64(0.05 + 0.95 * self.random.f64())
    }
}

/// How the endpoint does.
#[derive(Default)]
pub(super) struct Health {
    failures: u32,
    quiet_until: Option<Instant>,
}

impl Health {
    /// It failed once more. In a quiet time that is no news (who was under way, who pressed), and the others wait no longer for it.
    pub(super) fn failed(&mut self, now: Instant, backoff: &mut Backoff) {
        if self.quiet_until().is_some_and(|until| until > now) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.quiet_until = Some(now + backoff.wait(self.failures.saturating_sub(TROUBLE)));
    }

    /// It works. Whether that is news.
    pub(super) fn works(&mut self) -> bool {
        std::mem::take(&mut self.failures) >= TROUBLE
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        self.failures >= TROUBLE
    }

    /// In trouble: when it may be asked again.
    pub(super) fn quiet_until(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| self.is_in_trouble())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_are_never_nothing() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60), 3);
        for failures in 0..200 {
            let most = Duration::from_millis(500).saturating_mul(1 << failures.min(20)).min(Duration::from_secs(60));
            let wait = backoff.wait(failures);
            assert!(wait <= most && wait >= most / 20, "{failures}: {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_begins_after_some_failures_in_a_row_and_ends_with_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60), 3);
        let mut health = Health::default();
        for _ in 1..TROUBLE {
            health.failed(Instant::now(), &mut backoff);
        }
        assert!(!health.is_in_trouble() && health.quiet_until().is_none());
        health.failed(Instant::now(), &mut backoff);
        assert!(health.quiet_until().is_some_and(|until| until > Instant::now()));
        assert!(health.works() && !health.works() && !health.is_in_trouble());
    }
}

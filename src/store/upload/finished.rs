//! Which keys were written or deleted lately, so that a listing that was asked for before is not believed about them.
//!
//! Invariant: the answer errs to "touched". What is forgotten (after [`AGE_MAX_NS`], or beyond [`KEYS_MAX`] keys) moves the horizon, and every key
//! counts as touched since any time before the horizon: who asks about such a time learns nothing ([`Finished::reaches`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How long a key is remembered, in nanoseconds: 10 minutes.
const AGE_MAX_NS: i64 = 600 * 1_000_000_000;
/// How many keys are remembered.
const KEYS_MAX: usize = 100_000;

/// Keys and when they were last done with, nanoseconds since the Unix epoch.
pub(super) struct Finished {
    times: HashMap<Arc<str>, i64>,
    order: VecDeque<(i64, Arc<str>)>,
    horizon_ns: i64,
}

impl Default for Finished {
    fn default() -> Self {
        Self { times: HashMap::new(), order: VecDeque::new(), horizon_ns: i64::MIN }
    }
}

impl Finished {
    /// An operation on `key` ended at `now_ns`.
    pub(super) fn add(&mut self, key: &str, now_ns: i64) {
        let key: Arc<str> = key.into();
        self.times.insert(key.clone(), now_ns);
        self.order.push_back((now_ns, key));
        while let Some((at_ns, _)) = self.order.front()
            && (self.order.len() > KEYS_MAX || *at_ns < now_ns.saturating_sub(AGE_MAX_NS))
        {
            let Some((at_ns, key)) = self.order.pop_front() else { break };
            self.horizon_ns = self.horizon_ns.max(at_ns);
            if self.times.get(&key) == Some(&at_ns) {
                self.times.remove(&key);
            }
        }
    }

    /// Whether everything since `since_ns` is still known.
    pub(super) fn reaches(&self, since_ns: i64) -> bool {
        since_ns > self.horizon_ns
    }

    /// Whether an operation on `key` ended at or after `since_ns`.
    pub(super) fn since(&self, key: &str, since_ns: i64) -> bool {
        !self.reaches(since_ns) || self.times.get(key).is_some_and(|at_ns| *at_ns >= since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_keys_are_known_and_forgotten_ones_count_as_touched() {
        let mut finished = Finished::default();
        finished.add("a", 1_000);
        assert!(finished.since("a", 1_000) && finished.since("a", 0));
        assert!(!finished.since("a", 1_001) && !finished.since("b", 0));
        finished.add("b", 1_000 + AGE_MAX_NS + 1);
        assert!(finished.since("a", 1_000) && finished.since("c", 1_000));
        assert!(!finished.since("a", 1_001));
        assert!(!finished.reaches(1_000) && finished.reaches(1_001));
        for key in 0..=KEYS_MAX as i64 {
            finished.add(&key.to_string(), 2_000 + AGE_MAX_NS + key);
        }
        assert_eq!(finished.times.len(), KEYS_MAX);
        assert!(finished.since("unheard of", 1_000 + AGE_MAX_NS));
    }
}

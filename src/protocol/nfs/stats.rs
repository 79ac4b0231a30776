//! Numbers for `status` and the metrics: calls, errors and latency by procedure. Atomic counters of our own, so that nothing grows while
//! nobody looks, and a count costs a few nanoseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Programs and their procedures by number, as metrics name them.
pub(super) const NFS_PROCEDURES: [&str; 22] = [
    "null",
    "getattr",
    "setattr",
    "lookup",
    "access",
    "readlink",
    "read",
    "write",
    "create",
    "mkdir",
    "symlink",
    "mknod",
    "remove",
    "rmdir",
    "rename",
    "link",
    "readdir",
    "readdirplus",
    "fsstat",
    "fsinfo",
    "pathconf",
    "commit",
];

/// Upper bounds of the latency buckets, in microseconds; the last has none.
pub const LATENCY_BOUNDS_US: [u64; 8] = [50, 200, 1_000, 5_000, 20_000, 100_000, 1_000_000, 10_000_000];

/// One procedure.
#[derive(Default)]
pub(super) struct Counter {
    calls: AtomicU64,
    errors: AtomicU64,
    total_us: AtomicU64,
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
}

impl Counter {
    pub(super) fn count(&self, is_error: bool, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        if is_error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.total_us.fetch_add(us, Ordering::Relaxed);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }
}

/// One procedure's numbers since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcedureStats {
    /// Its name, lower case.
    pub name: &'static str,
    /// Calls.
    pub calls: u64,
    /// Of them, calls that were answered with an error (a missing file is one).
    pub errors: u64,
    /// Time in all, microseconds.
    pub total_us: u64,
    /// Calls by latency, see [`LATENCY_BOUNDS_US`].
    pub buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
}

/// All procedures of NFS, and MOUNT and NLM as one each.
#[derive(Default)]
pub(super) struct Stats {
    pub(super) nfs: [Counter; NFS_PROCEDURES.len()],
    pub(super) mount: Counter,
    pub(super) nlm: Counter,
    /// Records that were no calls, or calls that were refused.
    pub(super) refused: AtomicU64,
}

impl Stats {
    /// What was called at least once.
    pub(super) fn snapshot(&self) -> Vec<ProcedureStats> {
        let named = NFS_PROCEDURES.iter().copied().zip(&self.nfs).chain([("mount", &self.mount), ("nlm", &self.nlm)]);
        named
            .map(|(name, counter)| ProcedureStats {
                name,
                calls: counter.calls.load(Ordering::Relaxed),
                errors: counter.errors.load(Ordering::Relaxed),
                total_us: counter.total_us.load(Ordering::Relaxed),
                buckets: std::array::from_fn(|bucket| counter.buckets[bucket].load(Ordering::Relaxed)),
            })
            .filter(|stats| stats.calls > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_where_they_belong() {
        let stats = Stats::default();
        stats.nfs[1].count(false, Duration::from_micros(50));
        stats.nfs[1].count(true, Duration::from_secs(100));
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.len(), 1);
        assert_eq!((snapshot[0].name, snapshot[0].calls, snapshot[0].errors), ("getattr", 2, 1));
        assert_eq!(snapshot[0].buckets, [1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}

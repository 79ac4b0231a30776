//! Counts every request that is sent to a bucket, by kind, and its bytes and latency: for `/metrics`, and exactly, for tests.
//!
//! One call is one request, whatever comes of it, with two exceptions: `multipart_list` sends one per 1,000 uploads, and a
//! `get` of no bytes may send two (S3 refuses a range that begins past the end, so the attributes are asked for).
//!
//! Invariant: a request is counted when it begins, so one that is given up is counted too.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::ObjectError;
use super::layer::{Answer, Kind, Layer, Request};

#[cfg(test)]
mod tests;

/// Requests sent, by `bucket` and `kind`.
pub const REQUESTS: &str = "tidegate_s3_requests_total";
/// Requests that failed, by `bucket`, `kind` and `reason`.
pub const FAILURES: &str = "tidegate_s3_failures_total";
/// Bytes of objects, by `bucket` and `direction` (`up`, `down`).
pub const BYTES: &str = "tidegate_s3_bytes_total";
/// Time from a request to its whole answer in seconds, by `bucket` and `kind`.
pub const LATENCY: &str = "tidegate_s3_request_seconds";
/// Requests under way, by `bucket`.
pub const IN_FLIGHT: &str = "tidegate_s3_requests_in_flight";

/// The metrics of this module, each with its unit and meaning.
pub const METRICS: [(&str, metrics::Unit, &str); 5] = [
    (REQUESTS, metrics::Unit::Count, "Requests sent to S3"),
    (FAILURES, metrics::Unit::Count, "Requests to S3 that failed"),
    (BYTES, metrics::Unit::Bytes, "Bytes of objects sent to and fetched from S3"),
    (LATENCY, metrics::Unit::Seconds, "Time from a request to its whole answer"),
    (IN_FLIGHT, metrics::Unit::Count, "Requests to S3 under way"),
];

/// Tells the metrics recorder what the metrics of this module mean. Once, after the recorder is installed.
pub fn describe() {
    for (name, unit, meaning) in METRICS {
        match name {
            LATENCY => metrics::describe_histogram!(name, unit, meaning),
            IN_FLIGHT => metrics::describe_gauge!(name, unit, meaning),
            _ => metrics::describe_counter!(name, unit, meaning),
        }
    }
}

/// The layer. Shared by reference: whoever holds it may ask for [`Meter::counts`].
pub struct Meter {
    bucket: Arc<str>,
    requests: [AtomicU64; Kind::ALL.len()],
    failures: [AtomicU64; Kind::ALL.len()],
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
}

/// What a [`Meter`] has counted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    requests: [u64; Kind::ALL.len()],
    failures: [u64; Kind::ALL.len()],
    /// Bytes of bodies sent.
    pub up_bytes: u64,
    /// Bytes of bodies fetched.
    pub down_bytes: u64,
}

impl Meter {
    /// A meter at zero; its metrics are labelled `bucket`.
    pub fn new(bucket: &str) -> Self {
        Self {
            bucket: bucket.into(),
            requests: Default::default(),
            failures: Default::default(),
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
        }
    }

    /// Everything counted so far.
    pub fn counts(&self) -> Counts {
        let read = |counters: &[AtomicU64; Kind::ALL.len()]| counters.each_ref().map(|n| n.load(Ordering::Relaxed));
        Counts {
            requests: read(&self.requests),
            failures: read(&self.failures),
            up_bytes: self.up_bytes.load(Ordering::Relaxed),
            down_bytes: self.down_bytes.load(Ordering::Relaxed),
        }
    }

    fn begin(&self, request: &Request<'_>) -> InFlight {
        let kind = request.kind;
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.up_bytes.fetch_add(request.up_bytes, Ordering::Relaxed);
        metrics::counter!(REQUESTS, "bucket" => self.bucket.clone(), "kind" => kind.name()).increment(1);
        if request.up_bytes > 0 {
            metrics::counter!(BYTES, "bucket" => self.bucket.clone(), "direction" => "up").increment(request.up_bytes);
        }
        let in_flight = metrics::gauge!(IN_FLIGHT, "bucket" => self.bucket.clone());
        in_flight.increment(1.0);
        InFlight(in_flight)
    }

    fn end<T: Answer>(&self, kind: Kind, took: f64, answer: &Result<T, ObjectError>) {
        metrics::histogram!(LATENCY, "bucket" => self.bucket.clone(), "kind" => kind.name()).record(took);
        match answer {
            Ok(answer) if answer.down_bytes() > 0 => {
                self.down_bytes.fetch_add(answer.down_bytes(), Ordering::Relaxed);
                metrics::counter!(BYTES, "bucket" => self.bucket.clone(), "direction" => "down").increment(answer.down_bytes());
            }
            Ok(_) => {}
            Err(error) => {
                self.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
                let labels = [("kind", kind.name()), ("reason", reason(error))];
                let labels = labels.map(|(name, value)| metrics::Label::from_static_parts(name, value));
                let bucket = metrics::Label::new("bucket", self.bucket.clone());
                let [kind, reason] = labels;
                metrics::counter!(FAILURES, vec![bucket, kind, reason]).increment(1);
            }
        }
    }
}

/// A failure as a label.
fn reason(error: &ObjectError) -> &'static str {
    match error {
        ObjectError::NotFound => "not_found",
        ObjectError::NoSuchBucket(_) => "no_such_bucket",
        ObjectError::NoSuchUpload => "no_such_upload",
        ObjectError::PreconditionFailed => "precondition_failed",
        ObjectError::Conflict => "conflict",
        ObjectError::Archived => "archived",
        ObjectError::Denied(_) => "denied",
        ObjectError::Credentials(_) => "credentials",
        ObjectError::SlowDown => "slow_down",
        ObjectError::Unavailable { .. } => "unavailable",
        ObjectError::Corrupt(_) => "corrupt",
        ObjectError::Invalid(_) => "invalid",
        ObjectError::Unsupported(_) => "unsupported",
    }
}

struct InFlight(metrics::Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Layer for Meter {
    async fn around<T, C, F>(&self, request: Request<'_>, call: C) -> Result<T, ObjectError>
    where
        T: Answer,
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, ObjectError>> + Send,
    {
        let _in_flight = self.begin(&request);
        let begun = Instant::now();
        let answer = call().await;
        self.end(request.kind, begun.elapsed().as_secs_f64(), &answer);
        answer
    }
}

impl Counts {
    /// Requests of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.requests[kind as usize]
    }

    /// Requests of one kind that failed.
    pub fn failed(&self, kind: Kind) -> u64 {
        self.failures[kind as usize]
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// All requests but those of these kinds: what a test has not foreseen.
    pub fn besides(&self, kinds: &[Kind]) -> u64 {
        self.total() - kinds.iter().map(|kind| self.of(*kind)).sum::<u64>()
    }

    /// What was counted after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let minus = |now: [u64; Kind::ALL.len()], then: [u64; Kind::ALL.len()]| {
            std::array::from_fn(|kind| now[kind].saturating_sub(then[kind]))
        };
        Self {
            requests: minus(self.requests, earlier.requests),
            failures: minus(self.failures, earlier.failures),
            up_bytes: self.up_bytes.saturating_sub(earlier.up_bytes),
            down_bytes: self.down_bytes.saturating_sub(earlier.down_bytes),
        }
    }
}

/// Only what was counted at all: `put=3 head=1(1 failed) up=12 down=0`.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL.into_iter().filter(|kind| self.of(*kind) > 0) {
            write!(f, "{}={}", kind.name(), self.of(kind))?;
            match self.failed(kind) {
                0 => write!(f, " ")?,
                failed => write!(f, "({failed} failed) ")?,
            }
        }
        write!(f, "up={} down={}", self.up_bytes, self.down_bytes)
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counts({self})")
    }
}

//! The queue's promises to those who wait for a job, in the instants that a whole world seldom meets.

use std::time::Duration;

use tokio::time::Instant;

use super::{Queue, Swept};
use crate::base::id::Seq;
use crate::store::upload::run::Failure;

const HOUR: Duration = Duration::from_secs(3_600);

/// A queue with one job, which was settled.
fn settled(now: Instant) -> Queue {
    let mut queue = Queue::new(Duration::from_millis(500), Duration::from_secs(60), 1);
    queue.wake(1, 0, now);
    assert_eq!(queue.start(now, 1), [1]);
    let look = queue.look(1, Seq(1));
    queue.settle(1, look, now);
    assert_eq!(queue.serial(1), None);
    queue
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_woken_while_its_row_goes_is_open_and_another() {
    let now = Instant::now();
    for outcome in [Swept::Gone, Swept::Asked, Swept::NotYet] {
        let mut queue = settled(now);
        assert_eq!(queue.sweep(10).len(), 1);
        assert_eq!(queue.serial(1), None);
        queue.wake(1, 0, now + HOUR);
        let serial = queue.serial(1);
        assert!(serial.is_some() && queue.open().len() == 1, "{outcome:?}");
        queue.hurry(1, now);
        queue.swept(1, outcome, now);
        // The same job for who waits for it, and the hurry holds.
        assert_eq!(queue.serial(1), serial, "{outcome:?}");
        assert_eq!(queue.start(now, 1), [1], "{outcome:?}");
        let look = queue.look(1, Seq(2));
        queue.settle(1, look, now);
        assert_eq!(queue.serial(1), None, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hurry_that_comes_while_a_job_is_planned_is_not_told_to_wait() {
    let now = Instant::now();
    let mut queue = Queue::new(Duration::from_millis(500), Duration::from_secs(60), 1);
    queue.wake(1, 0, now);
    assert_eq!(queue.start(now, 1), [1]);
    let look = queue.look(1, Seq(1));
    queue.hurry(1, now);
    queue.wait(1, look, now + HOUR);
    assert_eq!(queue.start(now, 1), [1], "planned again, with who is in a hurry");
    let look = queue.look(1, Seq(1));
    queue.wait(1, look, now + HOUR);
    assert_eq!(queue.start(now, 1), [0_u64; 0], "that plan counts");
    assert_eq!(queue.next_due(1), Some(now + HOUR));
}

fn failure(endpoint: bool) -> Failure {
    Failure { text: "no".into(), endpoint, suspect: None }
}

/// A queue of `count` jobs whose endpoint is in trouble, in its quiet time.
fn in_trouble(count: u64, now: Instant) -> Queue {
    let mut queue = Queue::new(Duration::from_millis(500), Duration::from_secs(60), 1);
    for subject in 1..=count {
        queue.wake(subject, 0, now);
    }
    for subject in queue.start(now, 8) {
        queue.failed(subject, failure(true), now);
    }
    assert_eq!(queue.start(now, 8), [0_u64; 0], "quiet");
    assert!(queue.next_due(8).is_some_and(|at| at > now));
    queue
}

#[tokio::test(start_paused = true)]
async fn who_presses_is_tried_at_once_also_in_a_quiet_time_and_once() {
    let now = Instant::now();
    let mut queue = in_trouble(20, now);
    let quiet_until = queue.next_due(8);
    for subject in [3, 15] {
        queue.press(subject, now);
        assert_eq!(queue.next_due(8), Some(now));
        assert_eq!(queue.start(now, 8), [subject]);
        queue.failed(subject, failure(true), now);
        assert_eq!(queue.start(now, 8), [0_u64; 0], "once");
        assert_eq!(queue.next_due(8), quiet_until, "the others wait no longer for that");
    }
    // An operator's hurry is for all jobs, and waits.
    queue.hurry(7, now);
    assert_eq!(queue.start(now, 8), [0_u64; 0]);
    // Who waits for another presses that.
    let at = quiet_until.unwrap();
    let [subject] = queue.start(at, 8)[..] else { panic!("one at a time") };
    let look = queue.look(subject, Seq(1));
    queue.park(subject, look, 20, at);
    queue.press(subject, at);
    assert_eq!(queue.start(at, 8)[0], 20);
}

#[tokio::test(start_paused = true)]
async fn after_trouble_who_failed_often_comes_after_who_waits() {
    let now = Instant::now();
    let mut queue = in_trouble(12, now);
    let later = now + HOUR;
    // In trouble those go first that failed least, whatever their dates.
    queue.wake(100, 0, later);
    let [subject] = queue.start(later, 8)[..] else { panic!("one at a time") };
    assert!((9..=12).contains(&subject), "{subject}");
    queue.succeeded(subject, later);
    let look = queue.look(subject, Seq(1));
    queue.settle(subject, look, later);
    let next = queue.start(later, 4);
    assert!(next.iter().all(|subject| *subject > 8), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_is_known_once_where_it_is_parked() {
    let now = Instant::now();
    let mut queue = Queue::new(Duration::from_millis(500), Duration::from_secs(60), 1);
    queue.wake(1, 0, now);
    queue.wake(2, 0, now + HOUR);
    let mut at = now;
    for _ in 0..100 {
        assert_eq!(queue.start(at, 1), [1]);
        let look = queue.look(1, Seq(1));
        queue.park(1, look, 2, at);
        assert_eq!(queue.parked.values().map(|waiting| waiting.len()).sum::<usize>(), 1);
        at = queue.next_due(1).unwrap();
    }
    assert_eq!(queue.start(now + HOUR, 2), [1, 2]);
    assert!(queue.parked.is_empty(), "it waits no more");
}

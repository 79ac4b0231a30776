//! The queue's promises to those who wait for a job, in the instants that a whole world seldom meets.

use std::time::Duration;

use tokio::time::Instant;

use super::{Queue, Swept};
use crate::base::id::Seq;

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

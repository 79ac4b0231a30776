//! Who may have how many dirty bytes. Pure.
//!
//! An owner always gets what it is guaranteed, never more than its maximum, and in between what the others have and are
//! guaranteed leaves of the whole. Past 80 % of its limit it is slowed, the more the nearer it is; at the limit it waits.

use std::time::Duration;

use super::Portion;

/// Writers are slowed from this share of the limit on, in percent.
const SLOW_FROM_PERCENT: u64 = 80;
/// How fast a writer is at the very limit, bytes per second.
const SLOWEST_BYTES_PER_S: u64 = 16 << 20;

/// What an owner has and may have.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Dirty, kept and reserved.
    pub used_bytes: u64,
    /// Its portion.
    pub portion: Portion,
}

/// The most that an owner may have now, in bytes.
pub fn limit(portion: &Portion, others_bytes: u64, capacity_bytes: u64) -> u64 {
    capacity_bytes.saturating_sub(others_bytes).max(portion.guaranteed_bytes).min(portion.maximum_bytes)
}

/// Whether `bytes` more fit, and how long the writer is slowed first. An owner that has nothing may always write.
pub fn admit(claim: &Claim, others_bytes: u64, capacity_bytes: u64, bytes: u64) -> Option<Duration> {
    let limit = limit(&claim.portion, others_bytes, capacity_bytes);
    let after = claim.used_bytes.saturating_add(bytes);
    if after > limit && claim.used_bytes > 0 {
        return None;
    }
    let slow_from = limit / 100 * SLOW_FROM_PERCENT;
    if after <= slow_from || after > limit {
        return Some(Duration::ZERO);
    }
    let share = (after - slow_from) as f64 / (limit - slow_from).max(1) as f64;
    Some(Duration::from_secs_f64(share * bytes as f64 / SLOWEST_BYTES_PER_S as f64))
}

/// Whether an owner is past the share where it is told to upload sooner.
pub fn is_pressed(claim: &Claim, others_bytes: u64, capacity_bytes: u64) -> bool {
    claim.used_bytes > limit(&claim.portion, others_bytes, capacity_bytes) / 100 * SLOW_FROM_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTION: Portion = Portion { guaranteed_bytes: 100 << 20, maximum_bytes: 500 << 20 };

    fn claim(used_mib: u64) -> Claim {
        Claim { used_bytes: used_mib << 20, portion: PORTION }
    }

    #[test]
    fn the_guaranteed_part_is_always_there() {
        assert_eq!(admit(&claim(50), 10_000 << 20, 1_000 << 20, 1 << 20), Some(Duration::ZERO));
        assert_eq!(admit(&claim(100), 10_000 << 20, 1_000 << 20, 1 << 20), None);
    }

    #[test]
    fn the_maximum_holds_however_empty_the_rest_is() {
        assert!(admit(&claim(499), 0, 1_000 << 20, 1 << 20).is_some());
        assert_eq!(admit(&claim(500), 0, 1_000 << 20, 1 << 20), None);
        assert_eq!(admit(&claim(0), 0, 1_000 << 20, 600 << 20), Some(Duration::ZERO));
    }

    #[test]
    fn writers_are_slowed_in_proportion() {
        assert_eq!(admit(&claim(300), 0, 1_000 << 20, 1 << 20), Some(Duration::ZERO));
        let at_90 = admit(&claim(450), 0, 1_000 << 20, 1 << 20).unwrap();
        let at_99 = admit(&claim(495), 0, 1_000 << 20, 1 << 20).unwrap();
        assert!(Duration::ZERO < at_90 && at_90 < at_99 && at_99 < Duration::from_millis(100), "{at_90:?} {at_99:?}");
        assert!(is_pressed(&claim(450), 0, 1_000 << 20) && !is_pressed(&claim(300), 0, 1_000 << 20));
    }
}

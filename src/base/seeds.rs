//! How many seeds the random tests go through.
//!
//! Nothing set: the quick count. `TIDEGATE_SOAK=1` (`tests/run --soak`): the full one. `TIDEGATE_SEEDS=n`: so many.
//! `TIDEGATE_SEEDS=a..b`: those, beyond what others have seen. `TIDEGATE_SEED=n`: this one alone, which is what a failed test says.

use std::ops::Range;

/// Set and not "0".
pub fn is_soak() -> bool {
    std::env::var("TIDEGATE_SOAK").is_ok_and(|value| !["", "0"].contains(&value.as_str()))
}

/// The seeds of a test.
pub fn seeds(quick: u64, soak: u64) -> Range<u64> {
    let told = |name| std::env::var(name).ok();
    let only = told("TIDEGATE_SEED").and_then(|number| number.parse().ok());
    chosen(only, told("TIDEGATE_SEEDS").as_deref(), if is_soak() { soak } else { quick })
}

fn chosen(only: Option<u64>, some: Option<&str>, default: u64) -> Range<u64> {
    let range = |some: &str| match some.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => Some(0..some.parse().ok()?),
    };
    match only {
        Some(seed) => seed..seed.saturating_add(1),
        None => some.and_then(range).unwrap_or(0..default),
    }
}

/// Whether it is one seed that is looked at: then a test may tell more, and counts over all seeds mean nothing.
pub fn is_one() -> bool {
    std::env::var_os("TIDEGATE_SEED").is_some()
}

/// Runs a test once a seed, each in a runtime of its own whose time is simulated. A failure names its seed; one that is run alone tells all.
pub fn worlds(quick: u64, soak: u64, run: impl AsyncFn(u64)) {
    if is_one() {
        let told =
            tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_test_writer().without_time().with_ansi(false);
        let _ = told.try_init();
    }
    for seed in seeds(quick, soak) {
        world(seed, &run);
    }
}

/// One of [`worlds`]: a seed that found something once.
pub fn world(seed: u64, run: impl AsyncFn(u64)) {
    let _told = Told(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(seed));
}

struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {0} (TIDEGATE_SEED={0} runs it alone)", self.0);
        }
    }
}

#[test]
fn one_seed_some_or_the_default() {
    assert_eq!(chosen(None, None, 12), 0..12);
    assert_eq!(chosen(None, Some("3"), 12), 0..3);
    assert_eq!(chosen(None, Some("5..9"), 12), 5..9);
    assert_eq!(chosen(Some(7), Some("3"), 12), 7..8);
}

//! What every layer stands on and that knows none of them: buffers, clock, disk, ids, byte ranges, pools and purses of memory, tasks and shutdown,
//! metrics and failpoints.
//!
//! Invariants: nothing here imports another layer of Tidegate; the wall clock is read only in [`clock`].

pub mod buffers;
pub mod clock;
pub mod disk;
pub mod id;
pub mod pool;
pub mod purse;
pub mod range;
#[cfg(test)]
pub mod seeds;

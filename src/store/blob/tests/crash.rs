//! The reference model: a `Vec<u8>` per blob and a value per row, under random work and power losses, by seed.
//!
//! After a power loss the store must be at one of the states between the last sync and the crash: nothing synced is
//! missing, nothing is invented, no batch is half there. After the death of the process alone it is at the last state.
//! `TIDEGATE_SOAK=1` runs the full count; `TIDEGATE_SEED=n` one seed.

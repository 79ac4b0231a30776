//! Tidegate.

pub mod base;
pub mod engine;
pub mod protocol;
pub mod store;

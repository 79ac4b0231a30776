//! Tidegate.

pub mod base;
pub mod engine;
pub mod store;

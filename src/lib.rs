//! Tidegate.

pub mod base;
pub mod config;
pub mod engine;
pub mod protocol;
pub mod store;

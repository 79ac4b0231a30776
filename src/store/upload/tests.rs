//! The upload engine in a small world; see `world.rs`.

mod faults;
mod late;
mod order;
mod parts;
mod requests;
mod volume;
mod world;

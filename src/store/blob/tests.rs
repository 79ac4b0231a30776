//! Tests of the blob store in simulated worlds.

mod crash;
mod damage;
mod fetch;
mod full;
mod salvage;
mod verbs;
mod world;

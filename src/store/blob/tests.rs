//! Tests of the blob store in simulated worlds.

//mod crash;
mod verbs;
mod world;

//! Bytes and rows, here and in S3: the local log, the blobs on it, their upload, the metadata and the object stores.
//!
//! `blob` and `upload` stand on `log`, `meta` and `object`, which are strangers to each other.

pub mod blob;
pub mod log;
pub mod meta;
pub mod object;
pub mod upload;

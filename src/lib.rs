//! # Tidegate: the architecture
//!
//! Tidegate is a storage gateway: machines on a local network get ordinary files (later disks and tapes), a local disk keeps what they
//! use, and S3 keeps everything. Each file of a share is one object at its own key with its own bytes.
//!
//! ```text
//!             fuse   nfs   smb      iscsi ─► scsi        s3  admin
//!  protocol    │      │     │                 │           │     │      wire formats and sessions
//!  ────────────┼──────┼─────┼─────────────────┼───────────┼─────┼───────────────────────────────
//!  engine      └──────┴─────┴──► file (Vfs)  volume  tape │     │      names, blocks, records: what bytes mean
//!  ─────────────────────────────────┼─────────────────────┼─────┼───────────────────────────────
//!  store                            └──► blob ◄── upload  │     │      mutable bytes: cached, logged, written back
//!                                  log · meta · object ◄──┘     │      local disk · SQLite · S3
//!  ─────────────────────────────────────────────────────────────────────────────────────────────
//!  base          clock · disk · ids · byte ranges · pools
//! ```
//!
//! Four folders are four layers; imports only go down, and siblings are strangers (`tests/architecture.rs` is the table of who may import
//! whom). Three modules see every layer: [`config`] (the files an operator writes), [`gateway`] (builds bottom-up, runs, drains top-down) and
//! [`cli`]. The page of a module is `x.rs`, its work is in `x/`: reading the pages alone is reading the architecture.
//!
//! ## The one idea: a log in front of S3
//!
//! Every acknowledged change, of names as of bytes, is a checksummed record with a number in one local [log](store::log): at once the write
//! cache, the upload buffer, the journal of the namespace and the disk read cache. A synced operation waits for the next group commit: one
//! `fdatasync` for everybody who waits. [Blobs](store::blob) say for every byte where it is: in S3 only, in the log and S3 (clean), in the log
//! only (dirty). SQLite is the log's indexed [checkpoint](store::meta) of names and states, written behind in batches; recovery reads the
//! checkpoint and replays the tail. The [upload engine](store::upload) makes the bucket agree with the tree: it plans from the state as it is
//! when a file has been quiet, so that create + write + chmod + rename is one PUT at the final key.
//!
//! ## What never bends
//!
//! - *Acknowledged is recoverable.* A change that returned survives the death of the process, one that was synced survives power loss.
//! - *Dirty bytes are never dropped*, whatever is full, slow or broken.
//! - *An object that bytes are read from is not given up before they are had elsewhere*, whoever deletes or overwrites it: another name's object
//!   with the same content, or the log. Which content an object has belongs to its ETag.
//! - *No upload mixes two versions of a file*: it reads a frozen generation.
//! - *Nothing foreign is overwritten unseen*: writes to S3 are conditional where the endpoint honours it, else a HEAD comes first.
//! - *Formats have versions* and are written down where they are made: records in [`store::log`], rows in [`store::meta`], extent pages in
//!   [`store::blob`], object metadata in [`engine::file`].
//!
//! ## Life of a write
//!
//! `write(2)` → the kernel → [`protocol::fuse`] → [`engine::file::Vfs::write`] → [`store::blob::BlobStore::write`] → one record in the log, one change
//! of the extent map, the answer. `fsync` → group commit. Two quiet seconds after the last close the uploader freezes the blob, sends it,
//! and applies one batch: the object's row, the blob's new clean-through, the job's end. Its bytes are now clean: reclaim may drop them.

pub mod base;
pub mod cli;
pub mod config;
pub mod engine;
pub mod gateway;
pub mod protocol;
pub mod store;

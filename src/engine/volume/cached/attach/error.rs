//! Why a volume does not come to a gateway, or go from it.

use crate::engine::volume::names::VolumeId;
use crate::store::blob::{BlobError, FetchError};
use crate::store::object::ObjectError;

/// Why a volume did not come or go; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Another volume here is called so.
    #[error("there is a volume {0} already; choose another name")]
    NameTaken(String),
    /// Not a name.
    #[error("{0:?} is no name for a volume: 1 to 64 of a-z, 0-9, - and ., beginning with a letter or digit")]
    BadName(String),
    /// Not a size.
    #[error("a volume has between 1 MiB and 64 TiB, in multiples of its block of {block_bytes} bytes, and not {len_bytes}")]
    BadSize {
        /// The length that was asked for.
        len_bytes: u64,
        /// The block.
        block_bytes: u32,
    },
    /// Smaller than what it is cloned from.
    #[error("a clone has at least the {0} bytes of what it is cloned from")]
    TooSmall(u64),
    /// There is none.
    #[error("there is no volume {0} in this bucket")]
    Missing(VolumeId),
    /// There is none.
    #[error("the volume {0} has no snapshot {1} in this bucket")]
    NoSnapshot(VolumeId, VolumeId),
    /// Somebody else has it.
    #[error(
        "the gateway {0} has this volume: detach it there first, or attach it with --force where that gateway is gone for good (what it did not upload is lost)"
    )]
    Attached(String),
    /// Nothing there keeps two gateways from writing the same volume.
    #[error(
        "the endpoint ignores conditions of writes, so a gateway that had this volume could still change it: make sure that none does, and attach it with --force"
    )]
    Unconditional,
    /// It is here.
    #[error("this gateway has the volume already, as {0}")]
    Here(String),
    /// Its clones need it.
    #[error("the volume {0} has bytes that clones of it read: delete these first: {1}")]
    HasClones(VolumeId, String),
    /// It could not be uploaded.
    #[error("what is new on the volume did not get to S3 in time; it stays attached")]
    NotDrained,
    /// Somebody changed it at the same time.
    #[error("the volume was changed by another gateway at the same time; try again")]
    Raced,
    /// The endpoint.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The gateway's own bytes.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// What a document in the bucket is not.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// What is not there has a reason of its own.
pub(in crate::engine::volume::cached) fn absent(error: ObjectError, or: AttachError) -> AttachError {
    if matches!(error, ObjectError::NotFound) { or } else { error.into() }
}

/// A condition that does not hold: somebody else was faster.
pub(super) fn raced(error: ObjectError) -> AttachError {
    if matches!(error, ObjectError::PreconditionFailed | ObjectError::Conflict) { AttachError::Raced } else { error.into() }
}

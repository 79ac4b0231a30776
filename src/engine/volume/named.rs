//! What a state of a volume names: the objects without which it cannot be read.

use std::collections::BTreeSet;

use super::checkpoint::Checkpoint;
use super::manifest::State;
use super::names::{Kind, Names, Object};
use super::remote::checkpoint;
use crate::store::blob::FetchError;
use crate::store::object::SharedStore;

/// All objects that a state names, of whichever volumes.
///
/// # Errors
/// What loading its checkpoint says; `Changed` where that is gone.
pub async fn objects_of(bucket: &SharedStore, names: &Names, state: &State) -> Result<BTreeSet<Object>, FetchError> {
    let mut objects: BTreeSet<Object> = state.segments_since().map(|name| (Kind::Segments, name)).collect();
    if let Some(name) = state.checkpoint {
        objects.insert((Kind::Checkpoints, name));
        objects.extend(objects_below(&checkpoint(bucket, names, name).await?));
    }
    Ok(objects)
}

/// All objects that a checkpoint names.
pub fn objects_below(checkpoint: &Checkpoint) -> impl Iterator<Item = Object> {
    let segments = checkpoint.segments.keys().map(|name| (Kind::Segments, *name));
    segments.chain(checkpoint.pages.values().map(|place| (Kind::Pages, place.object)))
}

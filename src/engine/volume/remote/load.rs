//! What a state names, out of S3: the checkpoint, the heads of the segments since, pages of the map.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::{Map, PagePlace, REQUESTS_MAX, Remote, damaged};
use crate::engine::volume::checkpoint::Checkpoint;
use crate::engine::volume::manifest::State;
use crate::engine::volume::map::Page;
use crate::engine::volume::names::{Names, ObjectName};
use crate::engine::volume::segment::Segment;
use crate::store::blob::FetchError;
use crate::store::object::{ObjectError, SharedStore};

/// What is read of a segment to know its table, in bytes; more where that is longer.
const HEAD_BYTES: u64 = 64 << 10;

impl Remote {
    /// Has the map of the state in memory, but for the checkpoint's pages.
    ///
    /// # Errors
    /// What S3 says; `Changed` where an object is gone.
    pub(super) async fn load(&self) -> Result<(), FetchError> {
        if self.inner.read().map.is_some() {
            return Ok(());
        }
        let _loading = self.loading.lock().await;
        loop {
            let state = {
                let inner = self.inner.read();
                if inner.map.is_some() {
                    return Ok(());
                }
                inner.state.clone()
            };
            let map = self.map_of(&state).await?;
            let mut inner = self.inner.write();
            if inner.state == state {
                inner.map = Some(map);
                return Ok(());
            }
        }
    }

    async fn map_of(&self, state: &State) -> Result<Map, FetchError> {
        let checkpoint = match state.checkpoint {
            Some(name) => Some(Arc::new(checkpoint(&self.bucket, &self.names, name).await?)),
            None => None,
        };
        let mut map = Map { checkpoint, ..Map::default() };
        let names: Vec<ObjectName> = state.segments_since().collect();
        for names in names.chunks(REQUESTS_MAX) {
            let heads = names.iter().map(|name| self.head(*name));
            for (name, segment) in names.iter().zip(try_join_all(heads).await?) {
                map.add(*name, &segment);
            }
        }
        Ok(map)
    }

    /// Header and table of a segment.
    ///
    /// # Errors
    /// What S3 says; `Changed` where it is gone.
    pub(in crate::engine::volume) async fn head(&self, name: ObjectName) -> Result<Segment, FetchError> {
        let key = self.names.segment(name);
        let (_, mut bytes) = self.bucket.get(&key, Some(0..HEAD_BYTES), None).await.map_err(gone)?;
        let needed = Segment::head_bytes(&bytes).map_err(|error| damaged(&key, &error))?;
        if needed > bytes.len() as u64 {
            (_, bytes) = self.bucket.get(&key, Some(0..needed), None).await.map_err(gone)?;
        }
        let segment = Segment::decode(&bytes).map_err(|error| damaged(&key, &error))?;
        let about = &segment.about;
        if (about.volume, about.epoch, about.number) != (name.volume, name.epoch, name.number) {
            return Err(ObjectError::Corrupt(format!("{key} is another segment")).into());
        }
        Ok(segment)
    }

    /// A page of the checkpoint.
    ///
    /// # Errors
    /// What S3 says; `Changed` where it is gone.
    pub(in crate::engine::volume) async fn page(&self, number: u64, place: PagePlace) -> Result<Arc<Page>, FetchError> {
        let cached = (place.object, place.at_bytes, number);
        if let Some(page) = self.pages.get(&cached) {
            return Ok(page);
        }
        let key = self.names.pages(place.object);
        let range = place.at_bytes..place.at_bytes + u64::from(place.len_bytes);
        let (_, bytes) = self.bucket.get(&key, Some(range), None).await.map_err(gone)?;
        let page = Arc::new(Page::decode(number, &bytes).map_err(|error| damaged(&key, &error))?);
        self.pages.insert(cached, page.clone());
        Ok(page)
    }

    /// Pages of the checkpoint that is in force, by number.
    ///
    /// # Errors
    /// What loading says.
    pub(super) async fn base_pages(&self, places: &BTreeMap<u64, PagePlace>) -> Result<BTreeMap<u64, Arc<Page>>, FetchError> {
        let wanted: Vec<(u64, PagePlace)> = places.iter().map(|(number, place)| (*number, *place)).collect();
        let mut pages = BTreeMap::new();
        for wanted in wanted.chunks(REQUESTS_MAX) {
            let loaded = try_join_all(wanted.iter().map(|(number, place)| self.page(*number, *place))).await?;
            pages.extend(wanted.iter().map(|(number, _)| *number).zip(loaded));
        }
        Ok(pages)
    }
}

/// A checkpoint.
///
/// # Errors
/// What S3 says; `Changed` where it is gone.
pub(in crate::engine::volume) async fn checkpoint(
    bucket: &SharedStore,
    names: &Names,
    name: ObjectName,
) -> Result<Checkpoint, FetchError> {
    let key = names.checkpoint(name);
    let (_, bytes) = bucket.get(&key, None, None).await.map_err(gone)?;
    Checkpoint::decode(&bytes).map_err(|error| damaged(&key, &error))
}

/// An object that a state names is gone: the state is an old one.
pub(super) fn gone(error: ObjectError) -> FetchError {
    match error {
        ObjectError::NotFound | ObjectError::PreconditionFailed => FetchError::Changed,
        error => error.into(),
    }
}

//! The whole layout: a file's bytes are one object at one key, byte for byte.
//!
//! What lives here: [`Source`], which object a blob's remote bytes are in, with its codec; [`WholeLayout`], which fetches them.
//!
//! The codec, version 1: the byte 1, the object's length (8 bytes, little endian), then key, ETag and version, each as its length
//! (4 bytes, little endian; `0xffff_ffff` for a version that there is not) and its bytes.
//!
//! Invariant: every GET pins the ETag of the source; another object at the key is [`FetchError::Changed`], never other bytes.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::id::BlobId;
use crate::store::blob::{FetchError, Layout};
use crate::store::object::{CopySource, ETag, ObjectError, SharedStore};

const VERSION: u8 = 1;
const NONE: u32 = u32::MAX;

/// The object that a blob's remote bytes are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its whole key.
    pub key: String,
    /// Its ETag.
    pub etag: String,
    /// Its version, where the bucket has versions.
    pub version: Option<String>,
    /// Its length in bytes.
    pub size_bytes: u64,
}

impl Source {
    /// As it is kept with the blob.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(21 + self.key.len() + self.etag.len());
        out.push(VERSION);
        out.extend_from_slice(&self.size_bytes.to_le_bytes());
        for text in [Some(&self.key), Some(&self.etag), self.version.as_ref()] {
            let length = text.map_or(NONE, |text| u32::try_from(text.len()).unwrap_or(NONE));
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(text.map_or(b"", |text| text.as_bytes()));
        }
        out.into()
    }

    /// `None` for nothing (an empty source), a later version, and anything damaged.
    pub fn decode(encoded: &[u8]) -> Option<Self> {
        let rest = encoded.strip_prefix(&[VERSION])?;
        let (size, mut rest) = rest.split_first_chunk::<8>()?;
        let mut text = || -> Option<Option<String>> {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            rest = tail;
            let length = u32::from_le_bytes(*length);
            if length == NONE {
                return Some(None);
            }
            let (text, tail) = rest.split_at_checked(length as usize)?;
            rest = tail;
            Some(Some(String::from_utf8(text.to_vec()).ok()?))
        };
        let (key, etag, version) = (text()??, text()??, text()?);
        rest.is_empty().then_some(Self { key, etag, version, size_bytes: u64::from_le_bytes(*size) })
    }

    /// To copy from it.
    pub fn copy_source(&self) -> CopySource {
        CopySource { key: self.key.clone(), etag: Some(ETag(self.etag.clone())), version: self.version.clone() }
    }
}

/// Fetches from one bucket.
pub struct WholeLayout {
    bucket: SharedStore,
}

impl WholeLayout {
    /// Over a bucket.
    pub fn new(bucket: SharedStore) -> Self {
        Self { bucket }
    }
}

#[async_trait]
impl Layout for WholeLayout {
    async fn fetch(&self, blob: BlobId, source: &[u8], range: Range<u64>) -> Result<Bytes, FetchError> {
        let Some(source) = Source::decode(source) else {
            return Err(ObjectError::Corrupt(format!("blob {blob} does not say which object it is")).into());
        };
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let etag = ETag(source.etag);
        match self.bucket.get(&source.key, Some(range.clone()), Some(&etag)).await {
            Ok((_, bytes)) if bytes.len() as u64 == length => Ok(bytes),
            Ok((head, _)) if head.size_bytes != source.size_bytes => Err(FetchError::Changed),
            Ok((_, bytes)) => {
                let reason = format!("{}: {} bytes came for the range {range:?}", source.key, bytes.len());
                Err(ObjectError::Corrupt(reason).into())
            }
            Err(ObjectError::PreconditionFailed | ObjectError::NotFound) => Err(FetchError::Changed),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_source_is_read_back(key in ".{0,40}", etag in ".{0,40}", version in prop::option::of(".{0,9}"), size_bytes in any::<u64>()) {
            let source = Source { key, etag, version, size_bytes };
            let encoded = source.encode();
            prop_assert_eq!(Source::decode(&encoded), Some(source));
            for end in 0..encoded.len() {
                prop_assert_eq!(Source::decode(&encoded[..end]), None);
            }
        }

        #[test]
        fn anything_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Source::decode(&bytes);
            let _ = Source::decode(&[&[VERSION], bytes.as_slice()].concat());
        }
    }
}

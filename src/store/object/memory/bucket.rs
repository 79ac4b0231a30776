//! What a bucket does: objects, versions, conditions. Synchronous; its caller holds the lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::uploads::Upload;
use crate::store::object::{
    Attributes, CopySource, ETag, Head, METADATA_BYTES_MAX, ObjectError, Precondition, UploadId, Written, check_key,
};

/// An object as it is kept.
#[derive(Debug)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// All else.
    pub head: Head,
}

/// One entry of a key's history.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its id.
    pub id: String,
    /// `None` is a delete marker.
    pub object: Option<Arc<Object>>,
}

#[derive(Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Arc<Object>>,
    pub(super) versions: BTreeMap<String, Vec<Version>>,
    pub(super) uploads: BTreeMap<UploadId, Upload>,
    /// The last number given to a version or an upload.
    serial: u64,
}

/// The ETag of a body that came in one piece: its MD5 in hex.
pub(super) fn etag_of(bytes: &[u8]) -> ETag {
    ETag(hex::encode(Md5::digest(bytes)))
}

/// Attributes as they are kept and read back.
pub(super) fn stored(attributes: &Attributes) -> Result<Attributes, ObjectError> {
    let bytes: usize = attributes.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(ObjectError::Invalid("MetadataTooLarge".into()));
    }
    Ok(Attributes {
        content_type: Some(attributes.content_type.clone().unwrap_or_else(|| "binary/octet-stream".into())),
        metadata: attributes.metadata.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
        storage_class: attributes.storage_class.clone().filter(|class| class != "STANDARD"),
        acl: None,
        encryption: attributes.encryption.clone(),
        kms_key: attributes.kms_key.clone(),
    })
}

/// The attributes that a copy keeps of its source.
pub(super) fn kept(attributes: &Attributes) -> Attributes {
    Attributes { content_type: attributes.content_type.clone(), metadata: attributes.metadata.clone(), ..Attributes::default() }
}

fn archived(head: &Head) -> bool {
    let class = head.attributes.storage_class.as_deref();
    matches!(class, Some("GLACIER" | "DEEP_ARCHIVE")) && head.restore.is_none()
}

impl Bucket {
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn check(&self, key: &str, precondition: &Precondition) -> Result<(), ObjectError> {
        let current = self.objects.get(key);
        let holds = match precondition {
            Precondition::None => true,
            Precondition::Absent => current.is_none(),
            Precondition::Matches(etag) => current.is_some_and(|object| object.head.etag.as_ref() == Some(etag)),
        };
        if holds { Ok(()) } else { Err(ObjectError::PreconditionFailed) }
    }

    /// The object that a read or a copy is to read.
    pub(super) fn source(&self, source: &CopySource) -> Result<Arc<Object>, ObjectError> {
        let object = match &source.version {
            None => self.objects.get(&source.key),
            Some(id) => {
                let history = self.versions.get(&source.key).map_or(&[][..], Vec::as_slice);
                history.iter().find(|version| version.id == *id).and_then(|version| version.object.as_ref())
            }
        };
        let object = object.ok_or(ObjectError::NotFound)?;
        if source.etag.is_some() && source.etag != object.head.etag {
            return Err(ObjectError::PreconditionFailed);
        }
        if archived(&object.head) {
            return Err(ObjectError::Archived);
        }
        Ok(object.clone())
    }

    /// Puts an object at `key`. `attributes` are [`stored`] ones.
    #[allow(clippy::too_many_arguments, reason = "every part of an object, once")]
    pub(super) fn write(
        &mut self,
        key: &str,
        bytes: Bytes,
        etag: ETag,
        attributes: Attributes,
        precondition: &Precondition,
        now_ns: i64,
        versioned: bool,
    ) -> Result<Written, ObjectError> {
        check_key(key)?;
        self.check(key, precondition)?;
        let version = versioned.then(|| format!("v{:016}", self.next_serial()));
        let head = Head {
            size_bytes: bytes.len() as u64,
            etag: Some(etag.clone()),
            version: version.clone(),
            modified_ns: now_ns,
            attributes,
            restore: None,
        };
        let object = Arc::new(Object { bytes, head });
        if let Some(id) = version.clone() {
            self.versions.entry(key.to_owned()).or_default().push(Version { id, object: Some(object.clone()) });
        }
        self.objects.insert(key.to_owned(), object);
        Ok(Written { etag, version })
    }

    pub(super) fn delete(&mut self, key: &str, expect: Option<&ETag>, versioned: bool) -> Result<(), ObjectError> {
        check_key(key)?;
        let Some(object) = self.objects.get(key) else { return Ok(()) };
        if expect.is_some() && expect != object.head.etag.as_ref() {
            return Err(ObjectError::PreconditionFailed);
        }
        self.objects.remove(key);
        if versioned {
            let id = format!("v{:016}", self.next_serial());
            self.versions.entry(key.to_owned()).or_default().push(Version { id, object: None });
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, key: &str) -> bool {
        let Some(object) = self.objects.get_mut(key) else { return false };
        let mut head = object.head.clone();
        head.restore = Some("ongoing-request=\"false\", expiry-date=\"Fri, 31 Dec 2100 00:00:00 GMT\"".into());
        *object = Arc::new(Object { bytes: object.bytes.clone(), head });
        true
    }
}

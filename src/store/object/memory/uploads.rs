//! Multipart uploads of a bucket in memory.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

use super::bucket::{Bucket, etag_of};
use crate::store::object::{
    Attributes, Capabilities, ETag, ObjectError, Part, PendingUpload, Precondition, UploadId, Written, check_key,
};

/// An upload that is under way.
pub(super) struct Upload {
    pub(super) key: String,
    attributes: Attributes,
    initiated_ns: i64,
    parts: BTreeMap<u32, (ETag, Bytes)>,
}

impl Bucket {
    pub(super) fn begin(&mut self, key: &str, attributes: Attributes, now_ns: i64) -> Result<UploadId, ObjectError> {
        check_key(key)?;
        let upload = UploadId(format!("u{:016}", self.next_serial()));
        let pending = Upload { key: key.to_owned(), attributes, initiated_ns: now_ns, parts: BTreeMap::new() };
        self.uploads.insert(upload.clone(), pending);
        Ok(upload)
    }

    pub(super) fn part(
        &mut self,
        key: &str,
        upload: &UploadId,
        number: u32,
        bytes: Bytes,
        limits: &Capabilities,
    ) -> Result<Part, ObjectError> {
        if number == 0 || number > limits.parts_max || bytes.len() as u64 > limits.part_bytes_max {
            return Err(ObjectError::Invalid(format!("part {number} of {} bytes is out of bounds", bytes.len())));
        }
        let pending = self.upload(key, upload)?;
        let etag = etag_of(&bytes);
        pending.parts.insert(number, (etag.clone(), bytes));
        Ok(Part { number, etag })
    }

    /// The parts in their order become the object. A failed commit leaves the upload as it was.
    pub(super) fn commit(
        &mut self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
        now_ns: i64,
        limits: &Capabilities,
    ) -> Result<Written, ObjectError> {
        let pending = self.upload(key, upload)?;
        let chosen = chosen(pending, parts, limits)?;
        let mut digests = Md5::new();
        for (etag, _) in &chosen {
            digests.update(hex::decode(&etag.0).unwrap_or_default());
        }
        let etag = ETag(format!("{}-{}", hex::encode(digests.finalize()), chosen.len()));
        let bytes = match chosen.as_slice() {
            [(_, only)] => (*only).clone(),
            many => {
                let mut whole = BytesMut::with_capacity(many.iter().map(|(_, bytes)| bytes.len()).sum());
                many.iter().for_each(|(_, bytes)| whole.extend_from_slice(bytes));
                whole.freeze()
            }
        };
        let attributes = pending.attributes.clone();
        let written = self.write(key, bytes, etag, attributes, precondition, now_ns, limits.versioned)?;
        self.uploads.remove(upload);
        Ok(written)
    }

    pub(super) fn abort(&mut self, key: &str, upload: &UploadId) {
        if self.upload(key, upload).is_ok() {
            self.uploads.remove(upload);
        }
    }

    /// By key, then by id.
    pub(super) fn pending(&self, prefix: &str) -> Vec<PendingUpload> {
        let below = self.uploads.iter().filter(|(_, upload)| upload.key.starts_with(prefix));
        let mut found: Vec<_> = below
            .map(|(id, upload)| PendingUpload { key: upload.key.clone(), upload: id.clone(), initiated_ns: upload.initiated_ns })
            .collect();
        found.sort_by(|a, b| (&a.key, &a.upload).cmp(&(&b.key, &b.upload)));
        found
    }

    fn upload(&mut self, key: &str, upload: &UploadId) -> Result<&mut Upload, ObjectError> {
        self.uploads.get_mut(upload).filter(|pending| pending.key == key).ok_or(ObjectError::NoSuchUpload)
    }
}

/// The parts that a commit names, checked as S3 does.
fn chosen<'a>(pending: &'a Upload, parts: &[Part], limits: &Capabilities) -> Result<Vec<&'a (ETag, Bytes)>, ObjectError> {
    let refuse = |why: &str| Err(ObjectError::Invalid(why.into()));
    if parts.is_empty() {
        return refuse("MalformedXML: no parts");
    }
    if !parts.is_sorted_by(|a, b| a.number < b.number) {
        return refuse("InvalidPartOrder");
    }
    let mut chosen = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        match pending.parts.get(&part.number) {
            Some(sent) if sent.0 == part.etag => chosen.push(sent),
            _ => return refuse("InvalidPart"),
        }
        let last = index + 1 == parts.len();
        if !last && (chosen[index].1.len() as u64) < limits.part_bytes_min {
            return refuse("EntityTooSmall");
        }
    }
    if chosen.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() > limits.object_bytes_max {
        return refuse("EntityTooLarge");
    }
    Ok(chosen)
}

//! Listings of objects and of multipart uploads.

use aws_sdk_s3::types::{EncodingType, MultipartUpload, Object};

use super::{S3Store, errors, etag, nanoseconds, text};
use crate::store::object::layer::Kind;
use crate::store::object::{ETag, ListPage, ListRequest, Listed, ObjectError, PendingUpload, UploadId};

/// The most uploads that are looked at.
const PENDING_MAX: usize = 10_000;

impl S3Store {
    pub(super) async fn send_list(&self, request: &ListRequest) -> Result<ListPage, ObjectError> {
        let start_after = request.start_after.as_deref().filter(|after| request.token.is_none() && !after.is_empty());
        let limit = (request.limit > 0).then(|| i32::try_from(request.limit.min(1_000)).unwrap_or(1_000));
        let call = self.client.list_objects_v2().bucket(&self.bucket).encoding_type(EncodingType::Url);
        let call = call.set_request_payer(self.payer()).prefix(&request.prefix).set_max_keys(limit);
        let call = call.set_delimiter(request.delimiter.clone().filter(|delimiter| !delimiter.is_empty()));
        let call = call.set_continuation_token(request.token.clone()).set_start_after(start_after.map(str::to_owned));
        let output = call.send().await.map_err(|error| errors::of(Kind::List, &self.bucket, error))?;
        let decode = decoder(output.encoding_type());
        let mut page = ListPage {
            objects: output.contents().iter().map(|object| listed(object, decode)).collect(),
            prefixes: output.common_prefixes().iter().filter_map(|prefix| prefix.prefix()).map(decode).collect(),
            next: output.next_continuation_token().map(str::to_owned),
        };
        // Endpoints differ in whether a prefix is listed that `start_after` is inside of.
        page.prefixes.retain(|prefix| start_after.is_none_or(|after| prefix.as_str() > after));
        if output.is_truncated() != Some(true) {
            page.next = None;
        } else if page.next.is_none() {
            return Err(ObjectError::Corrupt("a listing goes on and does not say where".into()));
        }
        Ok(page)
    }

    pub(super) async fn send_multipart_list(&self, prefix: &str) -> Result<Vec<PendingUpload>, ObjectError> {
        let mut pending = Vec::new();
        let (mut key_marker, mut upload_marker) = (None, None);
        while pending.len() < PENDING_MAX {
            let call = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix);
            let call = call.encoding_type(EncodingType::Url).set_request_payer(self.payer());
            let call = call.set_key_marker(key_marker).set_upload_id_marker(upload_marker);
            let sent = async { call.send().await.map_err(|error| errors::of(Kind::MultipartList, &self.bucket, error)) };
            let output = self.bounded(Kind::MultipartList, 0, sent).await?;
            let decode = decoder(output.encoding_type());
            let found = output.uploads().iter().filter_map(|upload| unfinished(upload, decode));
            // Some endpoints ignore the prefix.
            pending.extend(found.filter(|upload| upload.key.starts_with(prefix)));
            if output.is_truncated() != Some(true) {
                break;
            }
            key_marker = output.next_key_marker().map(decode);
            upload_marker = output.next_upload_id_marker().map(str::to_owned);
            if key_marker.is_none() {
                return Err(ObjectError::Corrupt("a listing of uploads goes on and does not say where".into()));
            }
        }
        pending.truncate(PENDING_MAX);
        Ok(pending)
    }
}

type Decode = fn(&str) -> String;

/// Keys are encoded where the answer says that they are.
fn decoder(encoding: Option<&EncodingType>) -> Decode {
    if encoding == Some(&EncodingType::Url) { text::from_listing } else { str::to_owned }
}

fn listed(object: &Object, decode: Decode) -> Listed {
    Listed {
        key: object.key().map(decode).unwrap_or_default(),
        size_bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        etag: etag(object.e_tag()).unwrap_or_else(|| ETag(String::new())),
        modified_ns: nanoseconds(object.last_modified()),
        storage_class: object.storage_class().map(|class| class.as_str().to_owned()),
    }
}

fn unfinished(upload: &MultipartUpload, decode: Decode) -> Option<PendingUpload> {
    Some(PendingUpload {
        key: decode(upload.key()?),
        upload: UploadId(upload.upload_id()?.to_owned()),
        initiated_ns: nanoseconds(upload.initiated()),
    })
}

//! Everything below a prefix of the bucket, page by page; and the removal of many keys.

use crate::store::object::{ListPage, ListRequest, ObjectError, SharedStore};

/// Keys of one request that removes them.
const DELETES_MAX: usize = 1_000;

/// Hands out each page of a listing.
///
/// # Errors
/// What the endpoint says.
pub async fn each_page(
    bucket: &SharedStore,
    prefix: &str,
    delimiter: Option<&str>,
    mut each: impl FnMut(ListPage),
) -> Result<(), ObjectError> {
    let (prefix, delimiter) = (prefix.to_owned(), delimiter.map(str::to_owned));
    let mut request = ListRequest { prefix, delimiter, ..ListRequest::default() };
    loop {
        let mut page = bucket.list(&request).await?;
        let next = page.next.take();
        each(page);
        match next {
            Some(next) => request.token = Some(next),
            None => return Ok(()),
        }
    }
}

/// All keys below a prefix.
///
/// # Errors
/// What the endpoint says.
pub async fn keys(bucket: &SharedStore, prefix: &str) -> Result<Vec<String>, ObjectError> {
    let mut keys = Vec::new();
    each_page(bucket, prefix, None, |page| keys.extend(page.objects.into_iter().map(|object| object.key))).await?;
    Ok(keys)
}

/// Removes keys; those that are not there count as removed. Returns which could not be, and why.
///
/// # Errors
/// What the endpoint says of a request as a whole.
pub async fn remove(bucket: &SharedStore, keys: Vec<String>) -> Result<Vec<(String, ObjectError)>, ObjectError> {
    let keys: Vec<_> = keys.into_iter().map(|key| (key, None)).collect();
    let mut failed = Vec::new();
    for keys in keys.chunks(DELETES_MAX) {
        failed.extend(bucket.delete_many(keys).await?);
    }
    Ok(failed)
}

//! `ListObjectsV2` over an ordered map of keys. A folded prefix costs one step, whatever is below it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::bucket::Object;
use crate::store::object::{ETag, ListPage, ListRequest, Listed, ObjectError};

/// The most that one page holds.
const PAGE_MAX: usize = 1_000;

/// Where the next page goes on, inside its opaque token: after a key, or after everything below a prefix.
const AFTER_KEY: char = 'k';
const AFTER_PREFIX: char = 'p';

pub(super) fn page(objects: &BTreeMap<String, Arc<Object>>, request: &ListRequest) -> Result<ListPage, ObjectError> {
    let limit = if request.limit == 0 { PAGE_MAX } else { (request.limit as usize).min(PAGE_MAX) };
    let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let start_after = request.start_after.as_deref().filter(|_| request.token.is_none());
    let mut from = beginning(request, start_after)?;
    let mut page = ListPage::default();
    let mut last = String::new();
    while let Some((key, object)) = objects.range::<str, _>((bound(&from), Bound::Unbounded)).next() {
        if !key.starts_with(&request.prefix) {
            break;
        }
        let folded = delimiter.and_then(|delimiter| fold(key, request.prefix.len(), delimiter));
        // A prefix is after `start_after` or is not listed, even where keys below it are.
        let listed = folded.is_none_or(|folded| start_after.is_none_or(|after| folded > after));
        if listed && page.objects.len() + page.prefixes.len() == limit {
            page.next = Some(last);
            return Ok(page);
        }
        match folded {
            Some(folded) => {
                from = past(folded);
                if listed {
                    last = format!("{AFTER_PREFIX}{folded}");
                    page.prefixes.push(folded.to_owned());
                }
            }
            None => {
                from = Bound::Excluded(key.clone());
                last = format!("{AFTER_KEY}{key}");
                page.objects.push(entry(key, object));
            }
        }
    }
    Ok(page)
}

fn entry(key: &str, object: &Object) -> Listed {
    Listed {
        key: key.to_owned(),
        size_bytes: object.head.size_bytes,
        etag: object.head.etag.clone().unwrap_or_else(|| ETag(String::new())),
        modified_ns: object.head.modified_ns,
        storage_class: Some(object.head.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".into())),
    }
}

/// Where a page's keys begin.
fn beginning(request: &ListRequest, start_after: Option<&str>) -> Result<Bound<String>, ObjectError> {
    let after = match (&request.token, start_after) {
        (Some(token), _) => match (token.chars().next(), token.get(1..)) {
            (Some(AFTER_KEY), Some(key)) => Bound::Excluded(key.to_owned()),
            (Some(AFTER_PREFIX), Some(prefix)) => past(prefix),
            _ => return Err(ObjectError::Invalid("the continuation token is not one of ours".into())),
        },
        (None, Some(key)) => Bound::Excluded(key.to_owned()),
        (None, None) => Bound::Unbounded,
    };
    let reaches = match &after {
        Bound::Included(key) | Bound::Excluded(key) => key.as_str() >= request.prefix.as_str(),
        Bound::Unbounded => false,
    };
    Ok(if reaches { after } else { Bound::Included(request.prefix.clone()) })
}

fn bound(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
}

/// The folded prefix that `key` is in, where it has the delimiter after the first `skip` bytes.
fn fold<'a>(key: &'a str, skip: usize, delimiter: &str) -> Option<&'a str> {
    let at = key[skip..].find(delimiter)?;
    Some(&key[..skip + at + delimiter.len()])
}

/// After every key that begins with `prefix`: the first string that is greater than all of them.
fn past(prefix: &str) -> Bound<String> {
    let mut stem = prefix.to_owned();
    while let Some(last) = stem.pop() {
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            stem.push(next);
            return Bound::Included(stem);
        }
    }
    // Nothing is greater: a key longer than any there is.
    Bound::Excluded(char::MAX.to_string().repeat(257))
}

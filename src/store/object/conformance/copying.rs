//! Server-side copies of whole objects.

use bytes::Bytes;

use super::{Case, described, elsewhere};
use crate::store::object::{Attributes, Body, CopySource, ETag, ObjectError, Precondition, Written};

pub(super) fn source(key: String, etag: Option<ETag>) -> CopySource {
    CopySource { key, etag, version: None }
}

/// Copies from and to keys that a header or a URL would bend.
pub(super) async fn under_every_name(case: &Case, names: &[&str]) {
    for name in names {
        let from = source(case.key(name), None);
        let replaced = Some(&Attributes::default());
        // In place, so that no name is added.
        let copied = case.store.copy(&from, &case.key(name), replaced, &Precondition::None).await;
        copied.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(case.read(name).await, *name, "{name:?}");
    }
}

pub(super) async fn a_copy_keeps_or_replaces_attributes(case: Case) {
    let (from, kept, replaced) = (case.key("from"), case.key("kept"), case.key("replaced"));
    let body = Body::from(Bytes::from_static(b"bytes"));
    let written = case.store.put(&from, body, &described(), &Precondition::None).await.expect("put");
    let origin = source(from.clone(), Some(written.etag.clone()));
    let copied = case.store.copy(&origin, &kept, None, &Precondition::None).await.expect("copy");
    let head = case.store.head(&kept).await.expect("head");
    assert_eq!((head.etag, head.attributes.metadata), (Some(copied.etag), described().metadata));
    assert_eq!(head.attributes.content_type, described().content_type);
    let mut other = Attributes { content_type: Some("image/png".into()), ..Attributes::default() };
    other.metadata.insert("only".into(), "this".into());
    case.store.copy(&origin, &replaced, Some(&other), &Precondition::None).await.expect("copy");
    let (head, bytes) = case.store.get(&replaced, None, None).await.expect("get");
    assert_eq!((head.attributes.metadata, head.attributes.content_type), (other.metadata.clone(), other.content_type.clone()));
    assert_eq!(bytes, "bytes");
    case.store.copy(&origin, &from, Some(&other), &Precondition::None).await.expect("in place");
    let (head, bytes) = case.store.get(&from, None, None).await.expect("get");
    assert_eq!((head.attributes.metadata, bytes), (other.metadata, Bytes::from_static(b"bytes")));
    let nothing = case.store.copy(&source(from.clone(), None), &from, None, &Precondition::None).await;
    assert!(matches!(nothing, Err(ObjectError::Invalid(_))), "onto itself without a change: {nothing:?}");
}

pub(super) async fn a_copy_pins_its_source(case: Case) {
    let to = case.key("to");
    let written = case.put("from", b"1").await;
    let missing = case.store.copy(&source(case.key("missing"), None), &to, None, &Precondition::None).await;
    assert!(matches!(missing, Err(ObjectError::NotFound)), "{missing:?}");
    case.put("from", b"2").await;
    let stale = case.store.copy(&source(case.key("from"), Some(written.etag)), &to, None, &Precondition::None).await;
    assert!(matches!(stale, Err(ObjectError::PreconditionFailed)), "{stale:?}");
    assert!(matches!(case.store.head(&to).await, Err(ObjectError::NotFound)));
}

pub(super) async fn a_copy_can_be_conditional_on_its_target(case: Case) {
    if !case.store.capabilities().conditional_copy {
        return;
    }
    case.put("from", b"new").await;
    let from = source(case.key("from"), None);
    let to = case.key("to");
    let copy = async |precondition: Precondition| case.store.copy(&from, &to, None, &precondition).await;
    let failed = |result: Result<Written, ObjectError>| matches!(result, Err(ObjectError::PreconditionFailed));
    assert!(failed(copy(Precondition::Matches(elsewhere())).await), "nothing is there to match");
    let first = copy(Precondition::Absent).await.expect("absent");
    assert!(failed(copy(Precondition::Absent).await));
    assert!(failed(copy(Precondition::Matches(elsewhere())).await));
    copy(Precondition::Matches(first.etag)).await.expect("matches");
    let foreign = case.put("to", b"theirs").await;
    assert!(failed(copy(Precondition::Absent).await));
    assert_eq!(case.store.head(&to).await.expect("head").etag, Some(foreign.etag));
}

//! Multipart uploads.

use bytes::{Bytes, BytesMut};

use super::copying::source;
use super::{Case, described, elsewhere, noise};
use crate::store::object::{Attributes, Body, ObjectError, Part, Precondition, UploadId};

impl Case {
    async fn begin(&self, name: &str) -> UploadId {
        self.store.multipart_begin(&self.key(name), &described()).await.expect("begin")
    }

    async fn part(&self, name: &str, upload: &UploadId, number: u32, bytes: &Bytes) -> Part {
        let key = self.key(name);
        self.store.multipart_part(&key, upload, number, Body::from(bytes.clone())).await.expect("part")
    }

    /// The size of a part that may be followed by another.
    fn part_bytes(&self) -> usize {
        (self.store.capabilities().part_bytes_min as usize).max(1 << 10)
    }
}

fn joined(parts: &[&Bytes]) -> Bytes {
    parts
        .iter()
        .fold(BytesMut::new(), |mut all, part| {
            all.extend_from_slice(part);
            all
        })
        .freeze()
}

pub(super) async fn parts_become_one_object(case: Case) {
    let (one, three, nine) = (noise(1, case.part_bytes()), noise(3, case.part_bytes() + 5), noise(9, 77));
    let upload = case.begin("k").await;
    // Numbers have gaps, parts arrive in any order.
    let last = case.part("k", &upload, 9, &nine).await;
    let first = case.part("k", &upload, 1, &one).await;
    let middle = case.part("k", &upload, 3, &three).await;
    let key = case.key("k");
    assert!(matches!(case.store.head(&key).await, Err(ObjectError::NotFound)), "nothing is there before the commit");
    let parts = [first, middle, last];
    let written = case.store.multipart_commit(&key, &upload, &parts, &Precondition::None).await.expect("commit");
    let whole = joined(&[&one, &three, &nine]);
    let (head, bytes) = case.store.get(&key, None, None).await.expect("get");
    assert!(bytes == whole, "the parts in the order of their numbers");
    assert_eq!((head.etag, head.size_bytes), (Some(written.etag), whole.len() as u64));
    assert_eq!(head.attributes.metadata, described().metadata);
    assert_eq!(head.attributes.content_type, described().content_type);
    let seam = one.len() as u64;
    let (_, bytes) = case.store.get(&key, Some(seam - 3..seam + 3), None).await.expect("over the seam");
    assert_eq!(bytes, whole.slice(one.len() - 3..one.len() + 3));
    assert!(case.store.multipart_list(&case.prefix).await.expect("list").is_empty());
}

pub(super) async fn a_part_sent_again_replaces_the_first(case: Case) {
    let key = case.key("k");
    let upload = case.begin("k").await;
    case.part("k", &upload, 1, &Bytes::from_static(b"first")).await;
    let again = case.part("k", &upload, 1, &Bytes::from_static(b"again")).await;
    case.part("k", &upload, 2, &Bytes::from_static(b"not named by the commit")).await;
    case.store.multipart_commit(&key, &upload, &[again], &Precondition::None).await.expect("commit");
    assert_eq!(case.read("k").await, "again");
}

pub(super) async fn a_commit_of_wrong_parts_is_refused(case: Case) {
    let key = case.key("k");
    let upload = case.begin("k").await;
    let part = case.part("k", &upload, 1, &Bytes::from_static(b"x")).await;
    let strange = Part { number: 1, etag: elsewhere() };
    let missing = Part { number: 2, etag: part.etag.clone() };
    for parts in [vec![], vec![strange], vec![part.clone(), missing]] {
        let refused = case.store.multipart_commit(&key, &upload, &parts, &Precondition::None).await;
        assert!(matches!(refused, Err(ObjectError::Invalid(_))), "{parts:?}: {refused:?}");
    }
    case.store.multipart_commit(&key, &upload, &[part], &Precondition::None).await.expect("the upload is as it was");
}

pub(super) async fn a_commit_can_be_conditional(case: Case) {
    if !case.store.capabilities().conditional_put {
        return;
    }
    let key = case.key("k");
    let upload = case.begin("k").await;
    let part = [case.part("k", &upload, 1, &Bytes::from_static(b"parts")).await];
    let foreign = case.put("k", b"theirs").await;
    for precondition in [Precondition::Absent, Precondition::Matches(elsewhere())] {
        let failed = case.store.multipart_commit(&key, &upload, &part, &precondition).await;
        assert!(matches!(failed, Err(ObjectError::PreconditionFailed)), "{precondition:?}: {failed:?}");
        assert_eq!(case.read("k").await, "theirs");
    }
    let matches = Precondition::Matches(foreign.etag);
    case.store.multipart_commit(&key, &upload, &part, &matches).await.expect("the upload survived the failures");
    assert_eq!(case.read("k").await, "parts");
}

pub(super) async fn an_aborted_upload_is_gone(case: Case) {
    let key = case.key("k");
    let upload = case.begin("k").await;
    let part = case.part("k", &upload, 1, &Bytes::from_static(b"x")).await;
    case.store.multipart_abort(&key, &upload).await.expect("abort");
    case.store.multipart_abort(&key, &upload).await.expect("unknown is fine");
    let sent = case.store.multipart_part(&key, &upload, 2, Body::default()).await;
    assert!(matches!(sent, Err(ObjectError::NoSuchUpload)), "{sent:?}");
    let committed = case.store.multipart_commit(&key, &upload, &[part], &Precondition::None).await;
    assert!(matches!(committed, Err(ObjectError::NoSuchUpload)), "{committed:?}");
    assert!(matches!(case.store.head(&key).await, Err(ObjectError::NotFound)));
}

pub(super) async fn pending_uploads_are_listed_by_prefix(case: Case) {
    let (a, b1, b2) = (case.begin("a").await, case.begin("b/ü 1").await, case.begin("b/ü 1").await);
    assert_ne!(b1, b2, "two uploads of one key are two");
    let all = case.store.multipart_list(&case.prefix).await.expect("list");
    assert_eq!(
        all.iter().map(|pending| &pending.key).collect::<Vec<_>>(),
        [&case.key("a"), &case.key("b/ü 1"), &case.key("b/ü 1")]
    );
    let mut below: Vec<_> =
        case.store.multipart_list(&case.key("b/")).await.expect("list").into_iter().map(|p| p.upload).collect();
    below.sort();
    let mut expected = [b1.clone(), b2.clone()];
    expected.sort();
    assert_eq!(below, expected);
    for (name, upload) in [("a", a), ("b/ü 1", b1), ("b/ü 1", b2)] {
        case.store.multipart_abort(&case.key(name), &upload).await.expect("abort");
    }
    assert!(case.store.multipart_list(&case.prefix).await.expect("list").is_empty());
}

pub(super) async fn parts_are_copied_from_a_pinned_source(case: Case) {
    if !case.store.capabilities().part_copy {
        return;
    }
    let old = noise(5, 2 * case.part_bytes() + 100);
    let written = case.put("ü source+", &old).await;
    let from = source(case.key("ü source+"), Some(written.etag));
    let split = case.part_bytes() as u64;
    let size_bytes = old.len() as u64;
    let key = case.key("k");
    let upload = case.store.multipart_begin(&key, &Attributes::default()).await.expect("begin");
    let first = case.store.multipart_copy(&key, &upload, 1, &from, 0..split).await.expect("copy");
    let new = noise(6, case.part_bytes());
    let second = case.part("k", &upload, 2, &new).await;
    let third = case.store.multipart_copy(&key, &upload, 3, &from, 2 * split..size_bytes).await.expect("copy");

    let stale = source(from.key.clone(), Some(elsewhere()));
    let failed = case.store.multipart_copy(&key, &upload, 4, &stale, 0..split).await;
    assert!(matches!(failed, Err(ObjectError::PreconditionFailed)), "{failed:?}");
    let gone = source(case.key("missing"), None);
    let failed = case.store.multipart_copy(&key, &upload, 4, &gone, 0..split).await;
    assert!(matches!(failed, Err(ObjectError::NotFound)), "{failed:?}");

    case.store.multipart_commit(&key, &upload, &[first, second, third], &Precondition::None).await.expect("commit");
    let expected = joined(&[&old.slice(..split as usize), &new, &old.slice(2 * split as usize..)]);
    assert!(case.read("k").await == expected, "the copied ranges are the source's");
}

use super::*;

fn body(text: &str) -> Body {
    Body::from(Bytes::copy_from_slice(text.as_bytes()))
}

async fn write(store: &MemoryStore, key: &str, text: &str) -> Written {
    store.put(key, body(text), &Attributes::default(), &Precondition::None).await.expect("put")
}

#[tokio::test]
async fn a_versioned_bucket_keeps_every_save_and_reads_an_old_one() {
    let store = MemoryStore::versioned();
    let old = write(&store, "k", "old").await;
    write(&store, "k", "new").await;
    store.delete("k", None).await.expect("delete");
    let history = store.versions("k");
    assert_eq!(history.iter().map(|version| version.object.is_some()).collect::<Vec<_>>(), [true, true, false]);
    let source = CopySource { key: "k".into(), etag: Some(old.etag), version: old.version };
    store.copy(&source, "again", None, &Precondition::Absent).await.expect("copy of an old version");
    assert_eq!(store.object("again").expect("there").bytes, "old");
    assert!(store.object("k").is_none());
}

#[tokio::test]
async fn without_the_capability_conditions_are_ignored_in_silence() {
    let clock = Arc::new(SimulatedClock::new(0));
    let lacking = Capabilities { conditional_put: false, part_copy: false, ..Capabilities::AWS };
    let store = MemoryStore::new(clock, lacking);
    write(&store, "k", "theirs").await;
    store.put("k", body("ours"), &Attributes::default(), &Precondition::Absent).await.expect("ignored");
    assert_eq!(store.object("k").expect("there").bytes, "ours");
    let upload = store.multipart_begin("m", &Attributes::default()).await.expect("begin");
    let source = CopySource { key: "k".into(), etag: None, version: None };
    let refused = store.multipart_copy("m", &upload, 1, &source, 0..2).await;
    assert!(matches!(refused, Err(ObjectError::Unsupported(_))));
}

#[tokio::test]
async fn an_archived_object_is_readable_after_its_restore() {
    let store = MemoryStore::default();
    let cold = Attributes { storage_class: Some("GLACIER".into()), ..Attributes::default() };
    store.put("k", body("cold"), &cold, &Precondition::None).await.expect("put");
    assert!(matches!(store.get("k", None, None).await, Err(ObjectError::Archived)));
    assert!(store.restore("k"));
    assert_eq!(store.get("k", None, None).await.expect("get").1, "cold");
}

#[tokio::test]
async fn parts_below_the_minimum_are_refused_and_the_upload_stays() {
    let clock = Arc::new(SimulatedClock::new(0));
    let store = MemoryStore::new(clock, Capabilities { part_bytes_min: 4, ..Capabilities::AWS });
    let upload = store.multipart_begin("k", &Attributes::default()).await.expect("begin");
    let small = store.multipart_part("k", &upload, 1, body("abc")).await.expect("part");
    let last = store.multipart_part("k", &upload, 2, body("d")).await.expect("part");
    let refused = store.multipart_commit("k", &upload, &[small, last.clone()], &Precondition::None).await;
    assert!(matches!(refused, Err(ObjectError::Invalid(_))));
    let enough = store.multipart_part("k", &upload, 1, body("abcd")).await.expect("part again");
    store.multipart_commit("k", &upload, &[enough, last], &Precondition::None).await.expect("commit");
    assert_eq!(store.object("k").expect("there").bytes, "abcdd");
    assert!(store.pending().is_empty());
}

#[tokio::test]
async fn a_listing_goes_past_a_prefix_in_one_step_whatever_is_in_it() {
    let store = MemoryStore::default();
    for key in ["a/1", "a/\u{10ffff}", "a/\u{10ffff}\u{10ffff}x", "a0", "\u{10ffff}", "\u{10ffff}/"] {
        write(&store, key, "").await;
    }
    let mut request = ListRequest { delimiter: Some("/".into()), limit: 1, ..ListRequest::default() };
    let mut seen = Vec::new();
    for _ in 0..10 {
        let page = store.list(&request).await.expect("list");
        seen.extend(page.prefixes);
        seen.extend(page.objects.into_iter().map(|object| object.key));
        request.token = page.next;
        if request.token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a/", "a0", "\u{10ffff}", "\u{10ffff}/"]);
}

#[tokio::test]
async fn memory_conforms() {
    crate::store::object::conformance::run(Arc::new(MemoryStore::default())).await;
    crate::store::object::conformance::run(Arc::new(MemoryStore::versioned())).await;
}

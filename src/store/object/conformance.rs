//! The conformance suite of [`ObjectStore`]: one list of cases that every implementation passes, the embedded endpoint's wire
//! included. Compiled into tests only; integration tests take this file in by its path.
//!
//! What lives here: [`run`], the [`Case`]'s helpers, and objects and their conditions; `conformance/listing.rs`,
//! `conformance/copying.rs` and `conformance/multipart.rs` hold the rest.
//!
//! A case has a prefix of its own and expects nothing below it. Behaviour that `capabilities` denies is not asked for.

#[path = "conformance/copying.rs"]
mod copying;
#[path = "conformance/listing.rs"]
mod listing;
#[path = "conformance/multipart.rs"]
mod multipart;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::object::{Attributes, Body, ETag, ObjectError, ObjectStore, Precondition, Written};

/// Runs every case on `store`, which may hold other objects, but nothing below `conformance/`.
///
/// # Panics
/// Where the store does not conform; the output names the case.
pub async fn run(store: Arc<dyn ObjectStore>) {
    run_without(store, &Lacks::default()).await;
}

/// What an endpoint of others is known to lack, and no capability tells.
#[derive(Default)]
pub struct Lacks {
    /// Those of the [`NAMES`] that it cannot bear.
    pub names: &'static [&'static str],
    /// It takes no notice of what the source of a copy must match.
    pub pinned_copies: bool,
    /// It takes no notice of the conditions of a commit of parts.
    pub conditional_commits: bool,
    /// It breaks where an upload is gone.
    pub unknown_uploads: bool,
}

/// [`run`], for an endpoint of others.
///
/// # Panics
/// As [`run`].
pub async fn run_without(store: Arc<dyn ObjectStore>, lacks: &Lacks) {
    case(&store, "objects", an_object_is_what_was_put).await;
    case(&store, "attributes", attributes_come_back).await;
    case(&store, "ranges", ranges_are_cut_to_the_object).await;
    case(&store, "missing", what_is_missing_is_not_found).await;
    case(&store, "pinned", a_read_can_pin_its_etag).await;
    case(&store, "conditions", a_put_can_be_conditional).await;
    case(&store, "deletes", deletes_are_idempotent_and_conditional).await;
    let names: Vec<_> = NAMES.into_iter().filter(|name| !lacks.names.contains(name)).collect();
    case(&store, "names", |case| every_key_is_just_a_string(case, names)).await;
    case(&store, "limits", what_is_too_long_is_refused).await;
    case(&store, "create-race", of_many_creators_one_wins).await;
    case(&store, "swap-race", compare_and_swap_loses_no_update).await;
    case(&store, "list-model", listing::pages_are_those_of_a_model).await;
    case(&store, "list-order", listing::keys_are_ordered_by_their_bytes).await;
    case(&store, "list-delete", listing::a_listing_goes_on_where_it_was_while_keys_go).await;
    case(&store, "list-entry", listing::an_entry_tells_what_head_tells).await;
    case(&store, "copy", copying::a_copy_keeps_or_replaces_attributes).await;
    if !lacks.pinned_copies {
        case(&store, "copy-pinned", copying::a_copy_pins_its_source).await;
    }
    case(&store, "copy-conditions", copying::a_copy_can_be_conditional_on_its_target).await;
    case(&store, "parts", multipart::parts_become_one_object).await;
    case(&store, "parts-again", multipart::a_part_sent_again_replaces_the_first).await;
    case(&store, "parts-wrong", multipart::a_commit_of_wrong_parts_is_refused).await;
    if !lacks.conditional_commits {
        case(&store, "parts-conditions", multipart::a_commit_can_be_conditional).await;
    }
    if !lacks.unknown_uploads {
        case(&store, "parts-abort", multipart::an_aborted_upload_is_gone).await;
    }
    case(&store, "parts-pending", multipart::pending_uploads_are_listed_by_prefix).await;
    case(&store, "parts-copy", multipart::parts_are_copied_from_a_pinned_source).await;
}

/// A store, and the prefix below which a case may do what it likes.
#[derive(Clone)]
pub struct Case {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

async fn case<F: Future<Output = ()>>(store: &Arc<dyn ObjectStore>, name: &str, body: impl FnOnce(Case) -> F) {
    println!("conformance: {name}");
    body(Case { store: store.clone(), prefix: format!("conformance/{name}/") }).await;
}

impl Case {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn put(&self, name: &str, bytes: &[u8]) -> Written {
        self.put_if(name, bytes, &Precondition::None).await.expect("an unconditional put")
    }

    async fn put_if(&self, name: &str, bytes: &[u8], precondition: &Precondition) -> Result<Written, ObjectError> {
        let body = Body::from(Bytes::copy_from_slice(bytes));
        self.store.put(&self.key(name), body, &Attributes::default(), precondition).await
    }

    async fn read(&self, name: &str) -> Bytes {
        self.store.get(&self.key(name), None, None).await.expect("a read").1
    }
}

/// Bytes that differ at every place and by seed.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn elsewhere() -> ETag {
    ETag("00000000000000000000000000000000".into())
}

fn described() -> Attributes {
    let metadata = [
        ("file-mtime", "1700000000123456789ns"),
        ("file-permissions", "0100644"),
        ("plain-space", "two words"),
        ("umlaut", "grün"),
        ("beyond", "日本語 🌊"),
        ("looks-encoded", "=?UTF-8?? 100%25 =?="),
    ];
    Attributes {
        content_type: Some("text/plain; charset=utf-8".into()),
        metadata: metadata.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Attributes::default()
    }
}

async fn an_object_is_what_was_put(case: Case) {
    let large = noise(1, (3 << 20) + 17);
    let rope = Body(vec![Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"two "), Bytes::from_static(b"three")]);
    let key = case.key("rope");
    let written = case.store.put(&key, rope, &Attributes::default(), &Precondition::None).await.expect("put");
    assert!(!written.etag.0.is_empty() && !written.etag.0.contains('"'), "{:?}", written.etag);
    let (head, bytes) = case.store.get(&key, None, None).await.expect("get");
    assert_eq!(bytes, "one two three");
    assert_eq!((head.size_bytes, head.etag.as_ref()), (13, Some(&written.etag)));
    let asked = case.store.head(&key).await.expect("head");
    assert_eq!((asked.size_bytes, asked.etag, asked.modified_ns), (13, head.etag, head.modified_ns));
    assert!(asked.modified_ns > 0);
    case.put("empty", b"").await;
    assert_eq!(case.read("empty").await, "");
    case.put("large", &large).await;
    assert_eq!(case.read("large").await, large);
    let first = case.put("over", b"old").await;
    let second = case.put("over", b"new and longer").await;
    assert_ne!(first.etag, second.etag);
    assert_eq!(case.read("over").await, "new and longer");
}

async fn attributes_come_back(case: Case) {
    let key = case.key("described");
    let none = Precondition::None;
    case.store.put(&key, Body::default(), &described(), &none).await.expect("put");
    let head = case.store.head(&key).await.expect("head");
    assert_eq!(head.attributes.content_type, described().content_type);
    assert_eq!(head.attributes.metadata, described().metadata);
    let (got, _) = case.store.get(&key, None, None).await.expect("get");
    assert_eq!(got.attributes, head.attributes);
    case.store.put(&key, Body::default(), &Attributes::default(), &none).await.expect("put");
    let head = case.store.head(&key).await.expect("head");
    assert!(head.attributes.metadata.is_empty(), "a put replaces all attributes: {head:?}");
}

async fn ranges_are_cut_to_the_object(case: Case) {
    case.put("ten", b"0123456789").await;
    case.put("empty", b"").await;
    let table: [(&str, std::ops::Range<u64>, &str); 9] = [
        ("ten", 0..10, "0123456789"),
        ("ten", 0..1, "0"),
        ("ten", 3..7, "3456"),
        ("ten", 9..10, "9"),
        ("ten", 7..100, "789"),
        ("ten", 10..20, ""),
        ("ten", 100..200, ""),
        ("ten", 4..4, ""),
        ("empty", 0..4096, ""),
    ];
    for (name, range, expected) in table {
        let (head, bytes) = case.store.get(&case.key(name), Some(range.clone()), None).await.expect("a ranged get");
        assert_eq!(bytes, expected, "{name} {range:?}");
        assert_eq!(head.size_bytes, if name == "ten" { 10 } else { 0 }, "the size is the object's: {name} {range:?}");
        assert!(head.etag.is_some());
    }
}

async fn what_is_missing_is_not_found(case: Case) {
    let key = case.key("missing");
    assert!(matches!(case.store.head(&key).await, Err(ObjectError::NotFound)));
    assert!(matches!(case.store.get(&key, None, None).await, Err(ObjectError::NotFound)));
    assert!(matches!(case.store.get(&key, Some(0..1), None).await, Err(ObjectError::NotFound)));
    assert!(matches!(case.store.get(&key, None, Some(&elsewhere())).await, Err(ObjectError::NotFound)));
    case.put("missing/below", b"x").await;
    assert!(matches!(case.store.head(&key).await, Err(ObjectError::NotFound)), "a prefix is no object");
}

async fn a_read_can_pin_its_etag(case: Case) {
    let written = case.put("k", b"bytes").await;
    let key = case.key("k");
    let (_, bytes) = case.store.get(&key, Some(1..3), Some(&written.etag)).await.expect("pinned");
    assert_eq!(bytes, "yt");
    for range in [None, Some(0..2), Some(50..60), Some(2..2)] {
        let failed = case.store.get(&key, range.clone(), Some(&elsewhere())).await;
        assert!(matches!(failed, Err(ObjectError::PreconditionFailed)), "{range:?} {failed:?}");
    }
}

async fn a_put_can_be_conditional(case: Case) {
    if !case.store.capabilities().conditional_put {
        return;
    }
    let failed = |result: Result<Written, ObjectError>| matches!(result, Err(ObjectError::PreconditionFailed));
    assert!(failed(case.put_if("k", b"0", &Precondition::Matches(elsewhere())).await), "nothing is there to match");
    assert!(matches!(case.store.head(&case.key("k")).await, Err(ObjectError::NotFound)));
    let first = case.put_if("k", b"1", &Precondition::Absent).await.expect("absent");
    assert!(failed(case.put_if("k", b"2", &Precondition::Absent).await));
    assert!(failed(case.put_if("k", b"2", &Precondition::Matches(elsewhere())).await));
    assert_eq!(case.read("k").await, "1");
    case.put_if("k", b"2", &Precondition::Matches(first.etag.clone())).await.expect("matches");
    assert!(failed(case.put_if("k", b"3", &Precondition::Matches(first.etag)).await), "matched once only");
    assert_eq!(case.read("k").await, "2");
}

async fn deletes_are_idempotent_and_conditional(case: Case) {
    let key = case.key("k");
    let conditional = case.store.capabilities().conditional_delete;
    case.store.delete(&key, None).await.expect("absent is fine");
    let written = case.put("k", b"x").await;
    if conditional {
        let failed = case.store.delete(&key, Some(&elsewhere())).await;
        assert!(matches!(failed, Err(ObjectError::PreconditionFailed)), "{failed:?}");
        assert_eq!(case.read("k").await, "x");
        case.store.delete(&key, Some(&written.etag)).await.expect("as expected");
    } else {
        case.store.delete(&key, None).await.expect("delete");
    }
    assert!(matches!(case.store.head(&key).await, Err(ObjectError::NotFound)));

    let (one, two) = (case.put("one", b"1").await, case.put("two", b"2").await);
    let wrong = if conditional { elsewhere() } else { two.etag };
    let keys = [(case.key("one"), Some(one.etag)), (case.key("two"), Some(wrong)), (case.key("never"), None)];
    let failed = case.store.delete_many(&keys).await.expect("delete_many");
    if conditional {
        assert!(matches!(&failed[..], [(key, ObjectError::PreconditionFailed)] if *key == case.key("two")), "{failed:?}");
    } else {
        assert!(failed.is_empty(), "{failed:?}");
    }
    assert!(matches!(case.store.head(&case.key("one")).await, Err(ObjectError::NotFound)));
    assert_eq!(case.store.head(&case.key("two")).await.is_ok(), conditional);
    let all: Vec<_> = (0..1_000).map(|n| (case.key(&format!("many/{n}")), None)).collect();
    case.put("many/7", b"x").await;
    assert!(case.store.delete_many(&all).await.expect("a thousand").is_empty());
    assert!(matches!(case.store.head(&case.key("many/7")).await, Err(ObjectError::NotFound)));
    assert!(case.store.delete_many(&[]).await.expect("none at all").is_empty());
}

/// Names that a path, a URL or XML would bend.
const NAMES: [&str; 22] = [
    "k",
    "k/below",
    "dir/",
    "two//slashes",
    "a b",
    "a+b",
    "%41",
    "a%2Fb",
    "q?x=1&y=2",
    "h#ash",
    "back\\slash",
    "quote\"'<>&amp;",
    "~tilde!*()$@:;,=",
    "ümlaut",
    "日本語",
    "🌊/wave",
    "new\nline",
    "tab\there\r",
    "bell\u{7}",
    "{curly}|^`[]",
    " lead and trail ",
    "..hidden/.../x..y",
];

async fn every_key_is_just_a_string(case: Case, names: Vec<&str>) {
    for name in &names {
        let written = case.put_if(name, name.as_bytes(), &Precondition::None).await;
        let written = written.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let head = case.store.head(&case.key(name)).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(head.etag, Some(written.etag), "{name:?}");
    }
    let mut expected: Vec<_> = names.iter().map(|name| case.key(name)).collect();
    expected.sort();
    assert_eq!(listing::all_keys(&case).await, expected);
    for name in &names {
        assert_eq!(case.read(name).await, *name, "{name:?}");
    }
    copying::under_every_name(&case, &names).await;
    let half = names.len() / 2;
    for name in &names[..half] {
        case.store.delete(&case.key(name), None).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }
    let rest: Vec<_> = names[half..].iter().map(|name| (case.key(name), None)).collect();
    assert!(case.store.delete_many(&rest).await.expect("delete_many").is_empty());
    assert_eq!(listing::all_keys(&case).await, Vec::<String>::new());
}

async fn what_is_too_long_is_refused(case: Case) {
    let longest = "x".repeat(1024 - case.prefix.len());
    case.put(&longest, b"x").await;
    assert_eq!(case.read(&longest).await, "x");
    let key = case.key(&format!("{longest}x"));
    let refused = case.store.put(&key, Body::default(), &Attributes::default(), &Precondition::None).await;
    assert!(matches!(refused, Err(ObjectError::Invalid(_))), "a key of 1,025 bytes: {refused:?}");
    let mut heavy = Attributes::default();
    heavy.metadata.insert("a".into(), "x".repeat(2_048));
    let refused = case.store.put(&case.key("heavy"), Body::default(), &heavy, &Precondition::None).await;
    assert!(matches!(refused, Err(ObjectError::Invalid(_))), "more than 2 KiB of metadata: {refused:?}");
}

async fn of_many_creators_one_wins(case: Case) {
    if !case.store.capabilities().conditional_put {
        return;
    }
    let attempts = (0..8u8).map(|n| {
        let case = case.clone();
        tokio::spawn(async move { case.put_if("k", &[n], &Precondition::Absent).await.is_ok().then_some(n) })
    });
    let mut winners = Vec::new();
    for attempt in attempts.collect::<Vec<_>>() {
        winners.extend(attempt.await.expect("an attempt"));
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(case.read("k").await.to_vec(), winners);
}

async fn compare_and_swap_loses_no_update(case: Case) {
    if !case.store.capabilities().conditional_put {
        return;
    }
    case.put("k", b"0").await;
    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(add_five(case.clone()))).collect();
    for task in tasks {
        task.await.expect("a counter");
    }
    assert_eq!(case.read("k").await, "20");
}

async fn add_five(case: Case) {
    let mut done = 0;
    for _ in 0..1_000 {
        if done == 5 {
            return;
        }
        let (head, bytes) = case.store.get(&case.key("k"), None, None).await.expect("get");
        let count: u32 = String::from_utf8_lossy(&bytes).parse().expect("a number");
        let expected = Precondition::Matches(head.etag.expect("an ETag"));
        match case.put_if("k", (count + 1).to_string().as_bytes(), &expected).await {
            Ok(_) => done += 1,
            Err(ObjectError::PreconditionFailed | ObjectError::Conflict) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("1,000 rounds are not enough");
}

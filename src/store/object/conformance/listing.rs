//! Listings.

use std::collections::BTreeSet;

use super::Case;
use crate::store::object::{ListPage, ListRequest};

/// All keys of a case, over all pages.
pub(super) async fn all_keys(case: &Case) -> Vec<String> {
    let request = ListRequest { prefix: case.prefix.clone(), ..ListRequest::default() };
    pages(case, request).await.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect()
}

async fn pages(case: &Case, mut request: ListRequest) -> Vec<ListPage> {
    let mut pages = Vec::new();
    for _ in 0..1_000 {
        let page = case.store.list(&request).await.expect("list");
        request.token = page.next.clone();
        pages.push(page);
        if request.token.is_none() {
            return pages;
        }
    }
    panic!("the listing does not end: {request:?}");
}

const TREE: [&str; 16] =
    ["a", "a/", "a/b", "a/b/c", "a/d", "a0", "a0/x", "b/1", "b/2", "b/3", "b/4", "c", "c-d/e", "c/e", "d//e", "z/y/x/w"];

/// What S3 documents, done the obvious way: (keys, prefixes).
fn model(case: &Case, request: &ListRequest) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for key in TREE.iter().map(|name| case.key(name)).filter(|key| key.starts_with(&request.prefix)) {
        let rest = &key[request.prefix.len()..];
        let folded = request.delimiter.as_ref().and_then(|delimiter| Some(rest.find(delimiter.as_str())? + delimiter.len()));
        match folded {
            Some(end) => prefixes.insert(key[..request.prefix.len() + end].to_owned()),
            None => keys.insert(key),
        };
    }
    let after = |name: &String| request.start_after.as_ref().is_none_or(|start| name > start);
    (keys.into_iter().filter(after).collect(), prefixes.into_iter().filter(after).collect())
}

pub(super) async fn pages_are_those_of_a_model(case: Case) {
    for name in TREE {
        case.put(name, name.as_bytes()).await;
    }
    for prefix in ["", "a", "a/", "a/b", "b/", "c", "d/", "nothing/", "z/y"] {
        for delimiter in [None, Some("/"), Some("b/")] {
            for start_after in [None, Some("a"), Some("a/b"), Some("a0"), Some("b/"), Some("zz"), Some("")] {
                for limit in [0, 1, 3] {
                    let request = ListRequest {
                        prefix: case.key(prefix),
                        delimiter: delimiter.map(str::to_owned),
                        start_after: start_after.map(|name| case.key(name)),
                        token: None,
                        limit,
                    };
                    compare(&case, request).await;
                }
            }
        }
    }
}

async fn compare(case: &Case, request: ListRequest) {
    // Endpoints differ in whether a prefix is listed that `start_after` is inside of; nobody asks for that.
    let inside = |prefix: &String| request.start_after.as_ref().is_some_and(|after| after.starts_with(prefix.as_str()));
    let (keys, mut prefixes) = model(case, &request);
    let pages = pages(case, request.clone()).await;
    let limit = if request.limit == 0 { 1_000 } else { request.limit as usize };
    for page in &pages {
        assert!(page.objects.len() + page.prefixes.len() <= limit, "{request:?}");
    }
    let found: Vec<_> = pages.iter().flat_map(|page| &page.objects).map(|object| object.key.clone()).collect();
    let mut folded: Vec<_> = pages.iter().flat_map(|page| &page.prefixes).cloned().collect();
    prefixes.retain(|prefix| !inside(prefix));
    folded.retain(|prefix| !inside(prefix));
    assert_eq!((found, folded), (keys, prefixes), "{request:?}");
}

pub(super) async fn keys_are_ordered_by_their_bytes(case: Case) {
    // U+FF5E is before U+1F30A in UTF-8 and after it in UTF-16.
    let ordered = ["!", "-", "0", "A", "Z", "_", "a", "a!", "a/", "aa", "~", "é", "\u{ff5e}", "\u{1f30a}"];
    for name in ordered.iter().rev() {
        case.put(name, b"").await;
    }
    let expected: Vec<_> = ordered.iter().map(|name| case.key(name)).collect();
    assert_eq!(all_keys(&case).await, expected);
    let request = ListRequest { prefix: case.prefix.clone(), limit: 2, ..ListRequest::default() };
    let paged = pages(&case, request).await;
    assert_eq!(paged.iter().flat_map(|page| &page.objects).map(|object| object.key.clone()).collect::<Vec<_>>(), expected);
}

pub(super) async fn a_listing_goes_on_where_it_was_while_keys_go(case: Case) {
    for n in 0..20 {
        case.put(&format!("{n:02}"), b"").await;
    }
    let mut request = ListRequest { prefix: case.prefix.clone(), limit: 7, ..ListRequest::default() };
    let mut seen = 0;
    for _ in 0..10 {
        let page = case.store.list(&request).await.expect("list");
        seen += page.objects.len();
        let keys: Vec<_> = page.objects.into_iter().map(|object| (object.key, None)).collect();
        assert!(case.store.delete_many(&keys).await.expect("delete_many").is_empty());
        request.token = page.next;
        if request.token.is_none() {
            break;
        }
    }
    assert_eq!(seen, 20);
    assert!(all_keys(&case).await.is_empty());
}

pub(super) async fn an_entry_tells_what_head_tells(case: Case) {
    let written = case.put("k", b"12345").await;
    let request = ListRequest { prefix: case.prefix.clone(), ..ListRequest::default() };
    let page = case.store.list(&request).await.expect("list");
    let head = case.store.head(&case.key("k")).await.expect("head");
    let entry = &page.objects[0];
    assert_eq!((&entry.key, entry.size_bytes, &entry.etag), (&case.key("k"), 5, &written.etag));
    assert_eq!(entry.modified_ns / 1_000_000_000, head.modified_ns / 1_000_000_000);
    assert_eq!(entry.storage_class.as_deref().unwrap_or("STANDARD"), "STANDARD");
}

//! Listings against naive models.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::store::object::local::index::CreateBucket;

/// Keys and folded prefixes in byte order, as a listing shall tell them.
fn model(keys: &BTreeSet<String>, query: &KeyQuery) -> Vec<(String, bool)> {
    let fold = |key: &String| {
        let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let rest = key.strip_prefix(&query.prefix)?;
        let at = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        Some(at.map_or((key.clone(), false), |at| (key[..query.prefix.len() + at].to_owned(), true)))
    };
    let entries: BTreeSet<_> = keys.iter().filter_map(fold).collect();
    let after = query.after.clone().unwrap_or_default();
    entries.into_iter().filter(|(entry, _)| *entry > after).collect()
}

async fn pages(local: &Local, mut query: KeyQuery) -> Vec<Vec<(String, bool)>> {
    let mut pages = Vec::new();
    loop {
        let page = local.list_keys("bucket", &query).await.expect("a page");
        let objects = page.objects.into_iter().map(|object| (object.key, false));
        let mut entries: Vec<_> = objects.chain(page.prefixes.into_iter().map(|prefix| (prefix, true))).collect();
        entries.sort();
        if page.next.is_some() {
            assert_eq!(page.last.as_ref(), entries.last().map(|(entry, _)| entry));
        }
        pages.push(entries);
        query.token = page.next;
        if query.token.is_none() {
            return pages;
        }
    }
}

async fn fill(world: &World, keys: &BTreeSet<String>) {
    let puts = keys.iter().map(|key| world.put(key, Bytes::new()));
    futures_util::future::join_all(puts).await;
}

fn key() -> impl Strategy<Value = String> {
    let piece = prop_oneof![Just("a"), Just("b"), Just("/"), Just("//"), Just("é"), Just("\u{10ffff}"), Just("\u{1}"), Just(" ")];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn query() -> impl Strategy<Value = KeyQuery> {
    let prefix = prop_oneof![3 => Just(String::new()), 2 => key(), 1 => Just("a/".to_owned())];
    let delimiter = prop::option::weighted(0.7, prop_oneof![4 => Just("/"), 1 => Just("é"), 1 => Just("b/"), 1 => Just("")]);
    (prefix, delimiter, prop::option::weighted(0.3, key()), 1..8u32).prop_map(|(prefix, delimiter, after, limit)| KeyQuery {
        prefix,
        delimiter: delimiter.map(str::to_owned),
        after,
        token: None,
        limit,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn pages_are_those_of_a_model(
        keys in prop::collection::btree_set(key(), 0..40),
        queries in prop::collection::vec(query(), 12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let world = world().await;
            fill(&world, &keys).await;
            for query in queries {
                let want = model(&keys, &query);
                let got = pages(&world.local, query.clone()).await;
                let full = got[..got.len() - 1].iter().all(|page| page.len() == query.limit as usize);
                assert!(full, "{query:?}: a page but the last is short: {got:?}");
                assert!(got.len() == 1 || got.last().is_some_and(|page| !page.is_empty()), "{query:?}: an empty last page");
                assert_eq!(got.concat(), want, "{query:?}");
            }
            world.local.close().await;
        });
    }
}

#[tokio::test]
async fn a_folder_of_many_keys_is_one_seek() {
    let world = world().await;
    let mut keys: BTreeSet<String> = (0..3000).map(|n| format!("many/{n}")).collect();
    keys.extend((0..3).map(|n| format!("few{n}/x")));
    keys.insert("z".into());
    fill(&world, &keys).await;
    let before = world.local.index.scans.load(Ordering::Relaxed);
    let query = KeyQuery { delimiter: Some("/".into()), limit: 100, ..KeyQuery::default() };
    let page = world.local.list_keys("bucket", &query).await.expect("a page");
    assert_eq!(page.prefixes, ["few0/", "few1/", "few2/", "many/"]);
    assert_eq!(page.objects.len(), 1);
    assert_eq!(world.local.index.scans.load(Ordering::Relaxed) - before, 2, "one scan to the folder, one behind it");
}

#[tokio::test]
async fn v1_goes_on_from_a_folded_prefix() {
    let world = world().await;
    fill(&world, &["a/1", "a/2", "b/1", "c"].map(str::to_owned).into()).await;
    let mut query = KeyQuery { delimiter: Some("/".into()), limit: 1, ..KeyQuery::default() };
    let mut seen = Vec::new();
    loop {
        let page = world.local.list_keys("bucket", &query).await.expect("a page");
        seen.extend(page.prefixes.into_iter().chain(page.objects.into_iter().map(|object| object.key)));
        query.after = page.last;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a/", "b/", "c"]);
}

#[tokio::test]
async fn a_page_of_nothing_and_a_foreign_token() {
    let world = world().await;
    fill(&world, &["a".to_owned()].into()).await;
    let nothing = world.local.list_keys("bucket", &KeyQuery::default()).await.expect("a page");
    assert!(nothing.objects.is_empty() && nothing.next.is_none(), "max-keys=0");
    let query = KeyQuery { token: Some("no base64!".into()), limit: 1, ..KeyQuery::default() };
    assert!(matches!(world.local.list_keys("bucket", &query).await, Err(LocalError::InvalidArgument(_))));
    let other = CreateBucket { name: "other".into(), created_ns: 0 };
    world.local.index.change(other).await.expect("a bucket");
    let query = KeyQuery { limit: 9, ..KeyQuery::default() };
    assert!(world.local.list_keys("other", &query).await.expect("a page").objects.is_empty(), "buckets are apart");
}

/// A version of the model: name, whether a marker, bytes.
type Known = (VersionId, bool, u64);

#[tokio::test]
async fn versions_are_those_of_a_model() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = world().await;
        let (mut versioning, mut history) = (Versioning::Off, BTreeMap::<String, Vec<Known>>::new());
        for step in 0..120u64 {
            let key = ["a", "a/b", "a/c", "b", "é"][random.usize(..5)];
            let known = history.entry(key.into()).or_default();
            match random.u32(..20) {
                0 if step > 10 => {
                    let enable = random.bool();
                    world.local.set_versioning("bucket", enable).await.expect("versioning");
                    versioning = if enable { Versioning::Enabled } else { Versioning::Suspended };
                }
                1..=10 => {
                    let stored = world.put(key, noise(step, step as usize)).await;
                    add(known, versioning, stored.version, false, step);
                }
                11..=14 => {
                    let deleted = world.local.delete("bucket", key, None, None).await.expect("delete");
                    match versioning {
                        Versioning::Off => known.clear(),
                        _ => add(known, versioning, deleted.version, true, 0),
                    }
                }
                _ => {
                    let Some(&(version, marker, _)) = known.get(random.usize(..known.len().max(1))) else { continue };
                    let deleted = world.local.delete("bucket", key, Some(version), None).await.expect("delete");
                    assert_eq!(deleted, Deleted { version: Some(version), marker });
                    known.retain(|(other, ..)| *other != version);
                }
            }
            check_latest(&world, key, history.get(key)).await;
        }
        check_versions(&world, &history, random.u32(1..7)).await;
        world.local.close().await;
    }
}

fn add(known: &mut Vec<Known>, versioning: Versioning, version: Option<VersionId>, marker: bool, size: u64) {
    let version = version.unwrap_or(VersionId::Null);
    assert_eq!(version == VersionId::Null, versioning != Versioning::Enabled);
    if version == VersionId::Null {
        known.retain(|(other, ..)| *other != VersionId::Null);
    }
    known.push((version, marker, size));
}

async fn check_latest(world: &World, key: &str, known: Option<&Vec<Known>>) {
    let got = world.get(key, None).await;
    match known.and_then(|known| known.last()) {
        None => assert_eq!(got, Err(LocalError::NoSuchKey { marker: false })),
        Some((_, true, _)) => assert_eq!(got, Err(LocalError::NoSuchKey { marker: true })),
        Some((version, false, size)) => {
            assert_eq!(got.expect("the latest"), noise(*size, *size as usize));
            world.get(key, Some(*version)).await.expect("by its version");
        }
    }
}

async fn check_versions(world: &World, history: &BTreeMap<String, Vec<Known>>, limit: u32) {
    let newest_first = history.iter().flat_map(|(key, known)| {
        let versions = known.iter().rev().enumerate();
        versions.map(move |(at, (version, marker, size))| (key.clone(), *version, at == 0, *marker, *size))
    });
    let (want, mut got) = (newest_first.collect::<Vec<_>>(), Vec::new());
    let mut query = VersionQuery { limit, ..VersionQuery::default() };
    loop {
        let page = world.local.list_versions("bucket", &query).await.expect("a page");
        got.extend(page.versions.into_iter().map(|v| (v.key, v.version, v.latest, v.marker, v.size_bytes)));
        let Some((key, version)) = page.next else { break };
        (query.key_marker, query.version_marker) = (Some(key), version);
    }
    assert_eq!(got, want);
    let visible = history.iter().filter(|(_, known)| known.last().is_some_and(|(_, marker, _)| !marker));
    let live = world.local.list_keys("bucket", &KeyQuery { limit: 1000, ..KeyQuery::default() }).await.expect("a page");
    let live: Vec<_> = live.objects.into_iter().map(|object| object.key).collect();
    assert_eq!(live, visible.map(|(key, _)| key.clone()).collect::<Vec<_>>());
}

//! `store/object/s3.rs` against moto, an S3 of other people's making, and against the embedded endpoint.
//!
//! `TIDEGATE_TEST_MOTO` is moto's URL. `tests/run` starts one and sets it; by hand: `tests/tools/moto --run cargo nextest run`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use tidegate::base::clock::SystemClock;
use tidegate::protocol::s3::{self as protocol, serve};
use tidegate::store;
use tidegate::store::object::local::Local;
use tidegate::store::object::s3::{Credentials, Endpoint, S3Store, Settings};
use tidegate::store::object::{
    Attributes, Body, Capabilities, CopySource, ETag, ListRequest, ObjectError, ObjectStore, Precondition, probe,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[path = "../src/store/object/conformance.rs"]
mod conformance;

fn moto() -> String {
    let missing = "TIDEGATE_TEST_MOTO is not set: run this through tests/run, or through tests/tools/moto --run";
    std::env::var("TIDEGATE_TEST_MOTO").expect(missing)
}

/// A plain request: the store itself neither creates nor configures buckets.
fn send(method: &str, path: &str, body: &str) {
    let url = moto();
    let address = url.strip_prefix("http://").expect("moto is on plain HTTP").trim_end_matches('/').to_owned();
    let mut stream = TcpStream::connect(&address).expect("moto answers");
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
}

/// What the embedded endpoint is, seen through the client that is written for every other: nothing is missing.
#[tokio::test]
async fn the_embedded_endpoint_conforms_and_lacks_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let local = Local::open(dir.path(), Arc::new(SystemClock)).await.expect("a store");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    local.create_bucket("bucket").await.expect("a bucket");
    let server = tokio::spawn(serve(listener, local.clone(), protocol::Settings::new("AKIATEST", "secret"), stop.clone()));

    let credentials = Credentials::Keys { access: "AKIATEST".into(), secret: "secret".into(), session: None };
    let settings = Settings { endpoint: Some(url), credentials, ..settings_at("us-east-1") };
    let store = Endpoint::connect(&settings).await.expect("connect").bucket("bucket", false);
    let report = probe::adopt(&store, "").await.expect("a probe");
    assert_eq!((report.missing(), report.capabilities), (vec![], Capabilities::AWS));
    assert!(all_keys(&store).await.is_empty());
    conformance::run(store).await;

    stop.cancel();
    server.await.expect("the server's task").expect("the server");
    local.close().await;
}

fn settings_at(region: &str) -> Settings {
    Settings { region: Some(region.into()), ..Settings::default() }
}

fn settings() -> Settings {
    let credentials = Credentials::Keys { access: "test".into(), secret: "test".into(), session: None };
    Settings { endpoint: Some(moto()), credentials, ..settings_at("us-east-1") }
}

/// A new bucket, and a store on it that knows what the endpoint honours.
async fn bucket(name: &str) -> Arc<S3Store> {
    let name = format!("{name}-{:08x}", fastrand::u32(..));
    send("PUT", &format!("/{name}"), "");
    let store = Endpoint::connect(&settings()).await.expect("connect").bucket(&name, false);
    probe::adopt(&store, "").await.expect("a probe");
    store
}

async fn all_keys(store: &S3Store) -> Vec<String> {
    let page = store.list(&ListRequest::default()).await.expect("list");
    page.objects.into_iter().map(|object| object.key).collect()
}

#[tokio::test]
async fn s3_conforms() {
    let store = bucket("conforms").await;
    // Conditions on PUT are honoured, though the probe, which wants all of them, says no.
    store.adopt(Capabilities { conditional_put: true, ..store.capabilities() }, false);
    // Routes end at a line feed.
    let lacks =
        conformance::Lacks { names: &["new\nline"], pinned_copies: true, conditional_commits: true, unknown_uploads: true };
    conformance::run_without(store, &lacks).await;
}

#[tokio::test]
async fn the_probe_finds_what_moto_does_and_leaves_nothing_behind() {
    let store = bucket("probed").await;
    let report = probe::adopt(&store, "").await.expect("a probe");
    assert!(!report.pinned_copy && report.missing().len() == 6, "{report:?}");
    let found = store.capabilities();
    // It takes no notice of conditions of a commit, of a DeleteObjects' ETags, nor of what a copied part's source must match.
    assert!(!found.conditional_put && !found.conditional_delete && !found.part_copy && !found.versioned, "{found:?}");
    assert!(all_keys(&store).await.is_empty());
    assert!(store.multipart_list("").await.expect("list").is_empty());
}

#[tokio::test]
async fn a_versioned_bucket_is_seen_as_such_and_reads_old_versions() {
    let store = bucket("versions").await;
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    send("PUT", &format!("/{}?versioning", store.bucket()), enabled);
    let report = probe::adopt(&store, "").await.expect("a probe");
    assert!(report.capabilities.versioned);
    let none = Attributes::default();
    let put = async |text: &'static str| {
        let body = Body::from(Bytes::from_static(text.as_bytes()));
        store.put("k", body, &none, &Precondition::None).await.expect("put")
    };
    let old = put("old").await;
    let new = put("new").await;
    assert!(old.version.is_some() && old.version != new.version);
    let source = CopySource { key: "k".into(), etag: Some(old.etag), version: old.version };
    store.copy(&source, "copy", Some(&none), &Precondition::None).await.expect("copy");
    assert_eq!(store.get("copy", None, None).await.expect("get").1, "old");
}

#[tokio::test]
async fn archived_objects_and_missing_buckets_are_told_apart() {
    let store = bucket("errors").await;
    let cold = Attributes { storage_class: Some("GLACIER".into()), ..Attributes::default() };
    let body = Body::from(Bytes::from_static(b"cold"));
    store.put("cold", body, &cold, &Precondition::None).await.expect("put");
    assert_eq!(store.head("cold").await.expect("head").attributes.storage_class.as_deref(), Some("GLACIER"));
    let failed = store.get("cold", None, None).await;
    assert!(matches!(failed, Err(ObjectError::Archived)), "{failed:?}");

    let endpoint = Endpoint::connect(&settings()).await.expect("connect");
    let nowhere = endpoint.bucket("no-such-bucket-anywhere", false);
    let failed = nowhere.list(&ListRequest::default()).await;
    assert!(matches!(&failed, Err(ObjectError::NoSuchBucket(name)) if name == "no-such-bucket-anywhere"), "{failed:?}");
    let failed = probe::adopt(&nowhere, "").await;
    assert!(matches!(failed, Err(ObjectError::NoSuchBucket(_))), "{failed:?}");
}

#[tokio::test]
async fn attributes_reach_other_tools_as_headers() {
    let store = bucket("headers").await;
    let mut attributes = Attributes {
        content_type: Some("image/jpeg".into()),
        storage_class: Some("STANDARD_IA".into()),
        encryption: Some("AES256".into()),
        acl: Some("bucket-owner-full-control".into()),
        ..Attributes::default()
    };
    attributes.metadata.insert("file-owner".into(), "1000".into());
    let written =
        store.put("a b/ü.jpg", Body::from(Bytes::from_static(b"jpg")), &attributes, &Precondition::None).await.expect("put");
    assert_eq!(written.etag, ETag("c36bbd258b7ee694eb987221b2b197b0".into()), "the MD5, without quotes");
    let head = store.head("a b/ü.jpg").await.expect("head");
    assert_eq!(head.attributes, Attributes { acl: None, ..attributes });
}

//! Against a stub that answers what a test says, since no endpoint fails on demand.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::store::object::Outcome;

/// What the stub does with a request.
#[derive(Clone)]
enum Reply {
    /// Status line, headers and body as they are; then the connection is closed.
    Raw(String),
    /// Closes without a word.
    Close,
    /// Says nothing.
    Silence,
}

fn status(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Raw(format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"))
}

fn error(code: u16, name: &str) -> Reply {
    status(code, "", &format!("<Error><Code>{name}</Code><Message>words of {name}</Message></Error>"))
}

/// A server that gives its replies in order, the last one for ever, and keeps what it was sent.
struct Stub {
    store: Arc<S3Store>,
    seen: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn stub(replies: Vec<Reply>) -> Stub {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = tokio::spawn(serve(listener, replies, seen.clone()));
    Stub { store: connect(&url).await, seen, server }
}

fn settings(url: &str) -> Settings {
    let keys = Credentials::Keys { access: "AKIA".into(), secret: "hush".into(), session: None };
    let timeouts = Timeouts { answer: Duration::from_millis(500), long_answer: Duration::from_secs(1), ..Timeouts::default() };
    Settings {
        endpoint: Some(url.into()),
        region: Some("eu-central-1".into()),
        credentials: keys,
        timeouts,
        ..Settings::default()
    }
}

async fn connect(url: &str) -> Arc<S3Store> {
    Endpoint::connect(&settings(url)).await.expect("connect").bucket("b", true)
}

async fn serve(listener: TcpListener, replies: Vec<Reply>, seen: Arc<Mutex<Vec<String>>>) {
    let mut next = 0;
    while let Ok((mut stream, _)) = listener.accept().await {
        let request = read_request(&mut stream).await;
        seen.lock().push(request);
        match &replies[next.min(replies.len() - 1)] {
            Reply::Raw(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            Reply::Close => drop(stream),
            Reply::Silence => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    drop(stream);
                });
            }
        }
        next += 1;
    }
}

/// Head and body of one request, its head in lower case.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return format!("{head}\r\n\r\n{body}");
            }
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return text,
        }
    }
}

impl Stub {
    async fn put(&self, precondition: &Precondition) -> Result<Written, ObjectError> {
        let body = Body(vec![Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"two")]);
        self.store.put("k", body, &Attributes::default(), precondition).await
    }

    async fn get(&self, range: Option<Range<u64>>) -> Result<(Head, Bytes), ObjectError> {
        self.store.get("k", range, None).await
    }

    async fn copy(&self, precondition: &Precondition) -> Result<Written, ObjectError> {
        let source = CopySource { key: "source ü".into(), etag: Some(ETag("e".into())), version: None };
        self.store.copy(&source, "k", None, precondition).await
    }

    async fn commit(&self) -> Result<Written, ObjectError> {
        let part = Part { number: 1, etag: ETag("p".into()) };
        self.store.multipart_commit("k", &UploadId("u".into()), &[part], &Precondition::None).await
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
}

/// The name of an error's variant, with its outcome where that matters.
fn name(error: &ObjectError) -> &'static str {
    match error {
        ObjectError::NotFound => "NotFound",
        ObjectError::NoSuchBucket(_) => "NoSuchBucket",
        ObjectError::NoSuchUpload => "NoSuchUpload",
        ObjectError::PreconditionFailed => "PreconditionFailed",
        ObjectError::Conflict => "Conflict",
        ObjectError::Archived => "Archived",
        ObjectError::Denied(_) => "Denied",
        ObjectError::Credentials(_) => "Credentials",
        ObjectError::SlowDown => "SlowDown",
        ObjectError::Unavailable { outcome: Outcome::Refused, .. } => "Refused",
        ObjectError::Unavailable { outcome: Outcome::Unknown, .. } => "Unknown",
        ObjectError::Corrupt(_) => "Corrupt",
        ObjectError::Invalid(_) => "Invalid",
        ObjectError::Unsupported(_) => "Unsupported",
    }
}

#[tokio::test]
async fn every_answer_is_told_apart() {
    // Status, code, what a GET makes of it, what a PUT makes of it.
    let table = [
        (404, "NoSuchKey", "NotFound", "NotFound"),
        (404, "NoSuchVersion", "NotFound", "NotFound"),
        (404, "NoSuchBucket", "NoSuchBucket", "NoSuchBucket"),
        (404, "NoSuchUpload", "NoSuchUpload", "NoSuchUpload"),
        (412, "PreconditionFailed", "PreconditionFailed", "PreconditionFailed"),
        (409, "ConditionalRequestConflict", "Conflict", "Conflict"),
        (409, "OperationAborted", "Conflict", "Conflict"),
        (403, "InvalidObjectState", "Archived", "Archived"),
        (403, "AccessDenied", "Denied", "Denied"),
        (403, "InvalidAccessKeyId", "Credentials", "Credentials"),
        (403, "SignatureDoesNotMatch", "Credentials", "Credentials"),
        (403, "RequestTimeTooSkewed", "Credentials", "Credentials"),
        (400, "ExpiredToken", "Credentials", "Credentials"),
        (400, "KMS.DisabledException", "Denied", "Denied"),
        (401, "SomethingNew", "Denied", "Denied"),
        (503, "SlowDown", "SlowDown", "SlowDown"),
        (503, "ServiceUnavailable", "SlowDown", "SlowDown"),
        (429, "TooManyRequests", "SlowDown", "SlowDown"),
        (429, "SomethingNew", "SlowDown", "SlowDown"),
        (500, "InternalError", "Refused", "Unknown"),
        (503, "ProxyIsTired", "Refused", "Unknown"),
        (504, "GatewayTimeout", "Refused", "Unknown"),
        (400, "RequestTimeout", "Refused", "Refused"),
        (400, "BadDigest", "Corrupt", "Corrupt"),
        (400, "IncompleteBody", "Corrupt", "Corrupt"),
        (501, "NotImplemented", "Unsupported", "Unsupported"),
        (405, "MethodNotAllowed", "Unsupported", "Unsupported"),
        (400, "EntityTooLarge", "Invalid", "Invalid"),
        (400, "KeyTooLongError", "Invalid", "Invalid"),
        (301, "PermanentRedirect", "Invalid", "Invalid"),
        (400, "AuthorizationHeaderMalformed", "Invalid", "Invalid"),
    ];
    for (code, word, read, write) in table {
        let stub = stub(vec![error(code, word)]).await;
        let failed = stub.get(None).await.expect_err("an error");
        assert_eq!(name(&failed), read, "GET {code} {word}: {failed}");
        let failed = stub.put(&Precondition::None).await.expect_err("an error");
        assert_eq!(name(&failed), write, "PUT {code} {word}: {failed}");
        assert_eq!(stub.seen().len(), 2, "{code} {word}: the SDK does not repeat");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_told_by_its_status() {
    for (code, expected) in
        [(404, "NotFound"), (403, "Denied"), (412, "PreconditionFailed"), (503, "Refused"), (429, "SlowDown"), (400, "Invalid")]
    {
        let stub = stub(vec![status(code, "", "")]).await;
        let failed = stub.store.head("k").await.expect_err("an error");
        assert_eq!(name(&failed), expected, "HEAD {code}: {failed}");
    }
    let stub = stub(vec![status(301, "x-amz-bucket-region: us-west-2\r\n", "")]).await;
    let failed = stub.store.head("k").await.expect_err("an error").to_string();
    assert!(failed.contains("us-west-2") && failed.contains("`region`"), "{failed}");
}

#[tokio::test]
async fn what_to_do_is_in_the_words() {
    for (word, help) in [
        ("InvalidAccessKeyId", "check the credentials"),
        ("SignatureDoesNotMatch", "secret key"),
        ("RequestTimeTooSkewed", "clock"),
        ("AccessDenied", "policy"),
    ] {
        let stub = stub(vec![error(403, word)]).await;
        let said = stub.get(None).await.expect_err("denied").to_string();
        assert!(said.contains(word) && said.contains(&format!("words of {word}")) && said.contains(help), "{said}");
        assert!(!said.contains("hush"));
    }
}

#[tokio::test]
async fn without_an_answer_reads_are_refused_and_writes_unknown() {
    for reply in [Reply::Close, Reply::Silence, Reply::Raw("HTTP/1.1 200".into())] {
        let stub = stub(vec![reply]).await;
        let begun = Instant::now();
        let read = stub.get(None).await.expect_err("no answer");
        let write = stub.put(&Precondition::Absent).await.expect_err("no answer");
        assert_eq!((name(&read), name(&write)), ("Refused", "Unknown"), "{read} {write}");
        assert!(begun.elapsed() < Duration::from_secs(4), "silence ends");
    }
}

#[tokio::test]
async fn what_never_left_this_machine_did_not_happen() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let store = connect(&format!("http://{free}")).await;
    let failed = store.delete("k", None).await.expect_err("nobody listens");
    assert_eq!(name(&failed), "Refused", "{failed}");
    assert!(failed.to_string().to_lowercase().contains("refused"), "{failed}");

    let settings =
        Settings { credentials: Credentials::File("/nowhere/credentials".into(), None), ..settings(&format!("http://{free}")) };
    let store = Endpoint::connect(&settings).await.expect("connect").bucket("b", false);
    let failed = store.delete("k", None).await.expect_err("no keys");
    assert_eq!(name(&failed), "Credentials", "{failed}");
    assert!(failed.to_string().contains("credentials"), "{failed}");
}

#[tokio::test]
async fn an_error_inside_a_200_is_an_error() {
    let inside = |word: &str| vec![error(200, word)];
    let stub_ = stub(inside("InternalError")).await;
    assert_eq!(name(&stub_.copy(&Precondition::None).await.expect_err("inside")), "Unknown");
    assert_eq!(name(&stub_.commit().await.expect_err("inside")), "Unknown");
    let stub_ = stub(inside("SlowDown")).await;
    assert_eq!(name(&stub_.copy(&Precondition::None).await.expect_err("inside")), "SlowDown");
    let stub_ = stub(inside("PreconditionFailed")).await;
    assert_eq!(name(&stub_.commit().await.expect_err("inside")), "PreconditionFailed");
    // Neither an error nor a result: it may have happened.
    let stub_ = stub(vec![status(200, "", "")]).await;
    assert_eq!(name(&stub_.copy(&Precondition::None).await.expect_err("empty")), "Unknown");
    assert_eq!(name(&stub_.put(&Precondition::None).await.expect_err("no ETag")), "Unknown");
}

#[tokio::test]
async fn a_404_of_a_conditional_write_is_a_failed_condition() {
    let matches = Precondition::Matches(ETag("e".into()));
    let stub_ = stub(vec![error(404, "NoSuchKey")]).await;
    assert_eq!(name(&stub_.put(&matches).await.expect_err("absent")), "PreconditionFailed");
    assert_eq!(name(&stub_.copy(&matches).await.expect_err("neither is there")), "NotFound");
    let there = status(200, "ETag: \"e\"\r\n", "");
    let stub_ = stub(vec![error(404, "NoSuchKey"), there]).await;
    assert_eq!(name(&stub_.copy(&matches).await.expect_err("the source is there")), "PreconditionFailed");
}

/// What is answered, which range was asked for, and what comes of it: bytes, or an error's name.
type Asked = (Reply, Option<Range<u64>>, Result<&'static str, &'static str>);

#[tokio::test]
async fn bodies_that_are_not_what_was_asked_for_are_refused() {
    let partial = |range: &str, body: &str| status(206, &format!("ETag: \"e\"\r\nContent-Range: bytes {range}\r\n"), body);
    let cut = "HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"e\"\r\nContent-Length: 10\r\n\r\n0123";
    let table: Vec<Asked> = vec![
        (partial("2-4/10", "234"), Some(2..5), Ok("234")),
        (partial("7-9/10", "789"), Some(7..100), Ok("789")),
        (status(200, "ETag: \"e\"\r\n", "0123"), Some(0..10), Ok("0123")),
        (Reply::Raw(cut.into()), None, Err("Refused")),
        (status(200, "ETag: \"e\"\r\n", "0123456789"), Some(2..5), Err("Unsupported")),
        (partial("3-5/10", "345"), Some(2..5), Err("Corrupt")),
        (partial("2-3/10", "23"), Some(2..5), Err("Corrupt")),
        (partial("two to four", "234"), Some(2..5), Err("Corrupt")),
    ];
    for (reply, range, expected) in table {
        let stub = stub(vec![reply]).await;
        let got = stub.get(range.clone()).await;
        match (&got, expected) {
            (Ok((head, bytes)), Ok(text)) => {
                assert_eq!(bytes, text);
                assert_eq!(head.size_bytes, if text == "0123" { 4 } else { 10 });
            }
            (Err(error), Err(expected)) => assert_eq!(name(error), expected, "{range:?}: {error}"),
            _ => panic!("{range:?}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn a_put_is_one_plain_request() {
    let stub = stub(vec![status(200, "ETag: \"e\"\r\nx-amz-version-id: v7\r\n", "")]).await;
    let written = stub.put(&Precondition::Absent).await.expect("put");
    assert_eq!(written, Written { etag: ETag("e".into()), version: Some("v7".into()) });
    let request = stub.seen().remove(0);
    assert!(request.starts_with("put /b/k"), "the bucket is in the path: {request}");
    for expected in ["if-none-match: *", "content-length: 7", "x-amz-request-payer: requester", "/eu-central-1/s3/aws4_request"] {
        assert!(request.contains(expected), "{expected}: {request}");
    }
    assert!(!request.contains("aws-chunked") && !request.contains("x-amz-checksum"), "{request}");
    assert!(request.ends_with("\r\n\r\none two"), "{request}");

    stub.store.adopt(Capabilities::AWS, true);
    stub.put(&Precondition::Matches(ETag("old".into()))).await.expect("put");
    let request = stub.seen().remove(1);
    // CRC-32C of "one two", big-endian, in base64 (its head is in lower case here).
    let crc32c = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(crc32c::crc32c(b"one two").to_be_bytes()).to_ascii_lowercase()
    };
    assert!(request.contains(&format!("x-amz-checksum-crc32c: {crc32c}")), "{request}");
    assert!(request.contains("if-match: \"old\""), "{request}");
}

#[tokio::test]
async fn other_requests_carry_their_conditions() {
    let copied = status(200, "", "<CopyObjectResult><ETag>&quot;n&quot;</ETag></CopyObjectResult>");
    let stub_ = stub(vec![copied]).await;
    let written = stub_.copy(&Precondition::Matches(ETag("t".into()))).await.expect("copy");
    assert_eq!(written.etag, ETag("n".into()));
    let request = stub_.seen().remove(0);
    for expected in ["x-amz-copy-source: b/source%20%c3%bc", "x-amz-copy-source-if-match: \"e\"", "if-match: \"t\""] {
        assert!(request.contains(expected), "{expected}: {request}");
    }

    let stub_ =
        stub(vec![status(200, "", "<DeleteResult><Error><Key>b</Key><Code>PreconditionFailed</Code></Error></DeleteResult>")])
            .await;
    let keys = [("a".to_owned(), None), ("b".to_owned(), Some(ETag("e".into())))];
    let failed = stub_.store.delete_many(&keys).await.expect("delete_many");
    assert!(matches!(&failed[..], [(key, ObjectError::PreconditionFailed)] if key == "b"), "{failed:?}");
    let request = stub_.seen().remove(0);
    assert!(request.contains("content-md5: ") && request.contains("&quot;e&quot;"), "{request}");
    stub_.store.adopt(Capabilities { conditional_delete: false, ..Capabilities::AWS }, false);
    stub_.store.delete_many(&keys).await.expect("delete_many");
    assert!(!stub_.seen().remove(1).contains("&quot;e&quot;"), "known not to be honoured");
}

#[tokio::test]
async fn a_commit_answered_inside_another_root_is_a_commit() {
    let answer = "<CompleteMultipartUploadResponse><ETag>\"e-1\"</ETag></CompleteMultipartUploadResponse>";
    let stub = stub(vec![status(200, "", answer)]).await;
    assert_eq!(stub.commit().await.expect("commit").etag, ETag("e-1".into()));
}

#[test]
fn secrets_are_not_told() {
    assert!(!format!("{:?}", settings("http://127.0.0.1:1")).contains("hush"));
}

#[tokio::test]
async fn before_a_probe_an_unknown_endpoint_honours_nothing() {
    let unknown = connect("http://127.0.0.1:1").await.capabilities();
    assert!(!unknown.conditional_put && !unknown.conditional_delete && !unknown.conditional_copy && !unknown.part_copy);
    for (url, aws) in [("https://s3.eu-central-1.amazonaws.com", true), ("https://amazonaws.com.example.org", false)] {
        assert_eq!(connect(url).await.capabilities() == Capabilities::AWS, aws, "{url}");
    }
}

//! The embedded S3 endpoint, driven by other people's clients: `aws`, boto3, rclone and s3fs; and by the gateway's own.
//!
//! Each test serves a store of its own in this process, on a port of its own. The Python clients come from
//! `tests/tools/python-clients`, s3fs from Debian's `s3fs`; a test whose client is missing fails and says so.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate::base::clock::SystemClock;
use tidegate::protocol::s3::{Settings, credentials, serve};
use tidegate::store;
use tidegate::store::object::local::Local;
use tidegate::store::object::probe;
use tidegate::store::object::s3 as client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "../src/store/object/conformance.rs"]
mod conformance;

/// How long one client may take.
const CLIENT_TIMEOUT: &str = "240";

struct Endpoint {
    dir: TempDir,
    address: SocketAddr,
    settings: Settings,
    local: Arc<Local>,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

impl Endpoint {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = credentials::load_or_create(&dir.path().join("s3/credentials")).expect("credentials");
        let local = Local::open(&dir.path().join("s3/store"), Arc::new(SystemClock)).await.expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, local.clone(), settings.clone(), stop.clone()));
        Self { dir, address, settings, local, stop, server }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.server.await.expect("the server's task").expect("the server");
        self.local.close().await;
    }

    /// A client with the endpoint and its keys in the environment, and nothing of this machine's own settings.
    fn client(&self, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.arg(CLIENT_TIMEOUT).arg(program).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("HOME", self.dir.path()).env("AWS_SHARED_CREDENTIALS_FILE", self.dir.path().join("s3/credentials"));
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_DEFAULT_REGION", "us-east-1").env("AWS_MAX_ATTEMPTS", "1");
        command.env("AWS_ENDPOINT_URL", self.url()).env("AWS_EC2_METADATA_DISABLED", "true").env_remove("AWS_PROFILE");
        command.env("RCLONE_CONFIG_TG_TYPE", "s3").env("RCLONE_CONFIG_TG_PROVIDER", "Other");
        command.env("RCLONE_CONFIG_TG_ACCESS_KEY_ID", &self.settings.access_key);
        command.env("RCLONE_CONFIG_TG_SECRET_ACCESS_KEY", &self.settings.secret_key);
        command.env("RCLONE_CONFIG_TG_ENDPOINT", self.url()).env("RCLONE_CONFIG", "/dev/null");
        command
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new bucket, through the gateway's own client.
    async fn bucket(&self, name: &str) -> Arc<client::S3Store> {
        self.local.create_bucket(name).await.expect("a bucket");
        let credentials = client::Credentials::Keys {
            access: self.settings.access_key.clone(),
            secret: self.settings.secret_key.clone(),
            session: None,
        };
        let region = Some(self.settings.region.clone());
        let settings = client::Settings { endpoint: Some(self.url()), region, credentials, ..client::Settings::default() };
        client::Endpoint::connect(&settings).await.expect("connect").bucket(name, false)
    }

    /// Runs a client's line to its end, off the server's threads, and gives what it printed.
    async fn run(&self, program: &Path, arguments: &str) -> String {
        let output = self.output(program, arguments).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments}: {}\n{told}", program.display(), output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn output(&self, program: &Path, arguments: &str) -> Output {
        let mut command = self.client(program);
        command.args(arguments.split_whitespace());
        tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("timeout(1)")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn python_client(name: &str) -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv");
    let venv = std::env::var_os("TIDEGATE_VENV").map_or(default, PathBuf::from);
    let path = venv.join("bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/tools/python-clients", path.display());
    path
}

fn debian_client(name: &str, package: &str) -> PathBuf {
    let path = Path::new("/usr/bin").join(name);
    assert!(path.exists(), "{} is missing: apt-get install {package}", path.display());
    path
}

fn script(name: &str) -> String {
    format!("{}/tests/s3_clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// A tree of files: names with spaces and umlauts, an empty file, one that needs a multipart upload.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).expect("folders");
    fs::write(root.join("a.txt"), "hello\n").expect("a file");
    fs::write(root.join("empty"), "").expect("a file");
    fs::write(root.join("sub/größe + 100%.bin"), noise(1, 70_000)).expect("a file");
    fs::write(root.join("sub/deep/with space"), noise(2, 4096)).expect("a file");
    fs::write(root.join("large.bin"), noise(3, 40 << 20)).expect("a file");
}

fn assert_same_tree(left: &Path, right: &Path) {
    let output = Command::new("diff").arg("-r").arg(left).arg(right).output().expect("diff");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_s3_copies_syncs_lists_and_removes() {
    let endpoint = Endpoint::start().await;
    let aws = python_client("aws");
    tree(&endpoint.path("tree"));
    endpoint.run(&aws, "s3 mb s3://demo").await;
    endpoint.run(&aws, "s3 sync tree s3://demo/t").await;
    let listing = endpoint.run(&aws, "s3 ls s3://demo --recursive").await;
    assert_eq!(listing.lines().count(), 5, "{listing}");
    let listing = endpoint.run(&aws, "s3 ls s3://demo/t/").await;
    assert!(listing.contains("PRE sub/") && listing.contains("41943040 large.bin"), "{listing}");
    let again = endpoint.run(&aws, "s3 sync tree s3://demo/t").await;
    assert_eq!(again, "", "a second sync copies nothing");
    endpoint.run(&aws, "s3 sync s3://demo/t back").await;
    assert_same_tree(&endpoint.path("tree"), &endpoint.path("back"));
    endpoint.run(&aws, "s3 mv s3://demo/t/large.bin s3://demo/moved.bin").await;
    endpoint.run(&aws, "s3 cp s3://demo/moved.bin moved.bin").await;
    assert_eq!(fs::read(endpoint.path("moved.bin")).expect("the copy"), noise(3, 40 << 20));
    let busy = endpoint.output(&aws, "s3 rb s3://demo").await;
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("BucketNotEmpty"));
    endpoint.run(&aws, "s3 rm s3://demo --recursive").await;
    endpoint.run(&aws, "s3 rb s3://demo").await;
    assert_eq!(endpoint.run(&aws, "s3 ls").await, "");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_s3api_reads_ranges_conditions_and_versions() {
    let endpoint = Endpoint::start().await;
    let aws = python_client("aws");
    fs::write(endpoint.path("body"), noise(4, 100_000)).expect("a file");
    endpoint.run(&aws, "s3api create-bucket --bucket demo").await;
    endpoint.run(&aws, "s3api put-object --bucket demo --key k --body body --if-none-match *").await;
    let taken = endpoint.output(&aws, "s3api put-object --bucket demo --key k --body body --if-none-match *").await;
    assert!(String::from_utf8_lossy(&taken.stderr).contains("PreconditionFailed"), "{taken:?}");
    endpoint.run(&aws, "s3api get-object --bucket demo --key k --range bytes=500-999 part").await;
    assert_eq!(fs::read(endpoint.path("part")).expect("the range"), noise(4, 100_000)[500..1000]);
    endpoint.run(&aws, "s3api put-bucket-versioning --bucket demo --versioning-configuration Status=Enabled").await;
    endpoint.run(&aws, "s3api delete-object --bucket demo --key k").await;
    let versions = endpoint.run(&aws, "s3api list-object-versions --bucket demo --output text").await;
    assert!(versions.contains("DELETEMARKERS") && versions.contains("null"), "{versions}");
    endpoint.run(&aws, "s3api get-object --bucket demo --key k --version-id null old").await;
    assert_eq!(fs::read(endpoint.path("old")).expect("the version"), noise(4, 100_000));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_sees_an_s3() {
    let endpoint = Endpoint::start().await;
    let python = python_client("python");
    let told = endpoint.run(&python, &script("boto3_suite.py")).await;
    println!("{told}");
    assert!(told.ends_with("all passed\n"), "{told}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_copies_checks_and_moves() {
    let endpoint = Endpoint::start().await;
    let rclone = python_client("rclone");
    tree(&endpoint.path("tree"));
    endpoint.run(&rclone, "mkdir tg:demo").await;
    endpoint.run(&rclone, "copy tree tg:demo/t --s3-upload-cutoff 10M --s3-chunk-size 6M").await;
    endpoint.run(&rclone, "check tree tg:demo/t --download").await;
    let listing = endpoint.run(&rclone, "lsf -R tg:demo").await;
    assert!(listing.contains("t/sub/größe + 100%.bin"), "{listing}");
    endpoint.run(&rclone, "moveto tg:demo/t/large.bin tg:demo/elsewhere --s3-copy-cutoff 10M").await;
    endpoint.run(&rclone, "copyto tg:demo/elsewhere back.bin").await;
    assert_eq!(fs::read(endpoint.path("back.bin")).expect("the copy"), noise(3, 40 << 20));
    endpoint.run(&rclone, "purge tg:demo").await;
    assert_eq!(endpoint.run(&rclone, "lsd tg:").await, "");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3fs_mounts_a_bucket() {
    let endpoint = Endpoint::start().await;
    let s3fs = debian_client("s3fs", "s3fs");
    let script = PathBuf::from(script("s3fs_suite"));
    endpoint.local.create_bucket("demo").await.expect("a bucket");
    tree(&endpoint.path("tree"));
    let keys = format!("{}:{}\n", endpoint.settings.access_key, endpoint.settings.secret_key);
    fs::write(endpoint.path("passwd"), keys).expect("the keys");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(endpoint.path("passwd"), mode).expect("a mode");
    let told = endpoint.run(&script, &format!("{} {}", s3fs.display(), endpoint.url())).await;
    assert!(told.ends_with("all passed\n"), "{told}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_client_finds_everything_it_asks_for() {
    let endpoint = Endpoint::start().await;
    for versioned in [false, true] {
        let name = format!("bucket-{versioned}");
        let store = endpoint.bucket(&name).await;
        if versioned {
            endpoint.local.set_versioning(&name, true).await.expect("versioning");
        }
        let report = probe::adopt(&store, "").await.expect("a probe");
        assert!(report.missing().is_empty(), "{report:?}");
        assert_eq!(report.capabilities.versioned, versioned);
        conformance::run(store).await;
    }
    endpoint.stop().await;
}

/// Sends `text` and gives all that is answered until the endpoint closes the connection.
async fn raw(endpoint: &Endpoint, text: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(endpoint.address).await.expect("a connection");
    stream.write_all(text.as_bytes()).await.expect("send");
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("the endpoint closes").expect("an answer");
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_closes_the_connection_and_is_told() {
    let endpoint = Endpoint::start().await;
    let put = "PUT /demo/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
    let waiting = raw(&endpoint, &format!("{put}Content-Length: 1000\r\n\r\n")).await;
    assert!(waiting.starts_with("http/1.1 403") && waiting.contains("connection: close"), "{waiting}");
    let empty = raw(&endpoint, &format!("{put}Content-Length: 0\r\n\r\n")).await;
    assert!(empty.starts_with("http/1.1 403") && empty.contains("connection: close"), "{empty}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_head_is_refused() {
    let endpoint = Endpoint::start().await;
    let answer = raw(&endpoint, &format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(400_000))).await;
    assert!(answer.starts_with("http/1.1 431"), "{answer}");
    let many: String = (0..500).map(|n| format!("X{n}: y\r\n")).collect();
    let answer = raw(&endpoint, &format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n")).await;
    assert!(answer.starts_with("http/1.1 431"), "{answer}");
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_finish_and_closes_the_port() {
    let endpoint = Endpoint::start().await;
    let (address, local) = (endpoint.address, endpoint.local.clone());
    let idle = tokio::net::TcpStream::connect(address).await.expect("a connection");
    tokio::time::timeout(Duration::from_secs(5), endpoint.stop()).await.expect("an idle connection does not hold it up");
    drop(idle);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(local.create_bucket("late").await.is_err());
}

//! The admin address: `/healthz`, `/metrics` and what the command line asks a running gateway.
//!
//! What lives here: [`serve`], the seam [`Control`] that the gateway implements, the answers as JSON ([`Status`] and its parts), `admin/volumes.rs` (what is said of volumes), and in
//! `admin/client.rs` the command line's side of it. No state of its own.
//!
//! Invariants: listens on loopback unless the operator says otherwise (there is no authentication yet); no answer carries a secret.

pub mod client;
pub mod volumes;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use volumes::{VolumeAnswer, VolumeCommand, VolumeStatus};

/// What the admin address may ask of the gateway. `Err` is a sentence for the operator.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Everything that `tidegate status` shows.
    async fn status(&self) -> Status;

    /// Looks at the bucket again: a directory of a share ("" is the root) and all below it that were listed before.
    async fn refresh(&self, share: &str, path: &str) -> Result<(), String>;

    /// Returns when all that was written to `share` (`None`: to all) before the call is in S3; `Ok(false)` after `limit`.
    async fn wait_for_uploads(&self, share: Option<&str>, limit: Option<Duration>) -> Result<bool, String>;

    /// Does something with volumes.
    async fn volume(&self, command: VolumeCommand) -> Result<VolumeAnswer, String>;

    /// Puts the file of the SMB users in force.
    async fn reload_users(&self) -> Result<(), String>;

    /// Ends the SMB sessions of a user.
    async fn end_sessions(&self, user: &str) -> Result<(), String>;

    /// Prometheus' text format.
    fn metrics(&self) -> String;
}

/// The state of a gateway.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// The gateway's id.
    pub gateway: String,
    /// Its shares, by name.
    pub shares: Vec<ShareStatus>,
    /// Uploads that run, wait or fail, oldest first; at most 100.
    pub uploads: Vec<UploadStatus>,
    /// Jobs in all.
    pub uploads_total: u64,
    /// The cache.
    pub cache: CacheStatus,
    /// NFS.
    #[serde(default)]
    pub nfs: NfsStatus,
    /// Its volumes, by name.
    #[serde(default)]
    pub volumes: Vec<VolumeStatus>,
    /// SMB.
    #[serde(default)]
    pub smb: SmbStatus,
    /// What an operator should know: damage, what an endpoint lacks, a configuration that was refused. Each goes when it is mended.
    pub notices: Vec<String>,
}

/// One share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct ShareStatus {
    /// Its name.
    pub name: String,
    /// `running`, `read-only` (for lack of disk), `draining`, `failed`.
    pub state: String,
    /// Why it failed, or why its mount did; empty for nothing.
    pub reason: String,
    /// Its bucket.
    pub bucket: String,
    /// Its prefix.
    pub prefix: String,
    /// Its mount point on the gateway; empty for none.
    pub mount: String,
    /// Bytes that S3 does not have yet.
    pub dirty_bytes: u64,
    /// The most that it may have of them.
    pub dirty_bytes_max: u64,
    /// The age of the oldest of them in seconds; 0 for none.
    pub oldest_dirty_s: u64,
    /// Files and directories known here.
    pub nodes: u64,
    /// Jobs in the upload queue.
    pub jobs: u64,
    /// Of them, jobs whose last attempt failed.
    pub failing: u64,
}

/// One job of the upload queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct UploadStatus {
    /// Its share.
    pub share: String,
    /// The key that is written, where it runs.
    pub key: String,
    /// Since when it waits, in seconds.
    pub age_s: u64,
    /// Sent so far.
    pub sent_bytes: u64,
    /// To send; 0 where it does not run.
    pub total_bytes: u64,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// The last failure.
    pub error: String,
}

/// The local log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct CacheStatus {
    /// Segment files in all.
    pub segments: u32,
    /// Segment files that are free.
    pub segments_free: u32,
    /// What writers may still write before bytes have to be uploaded or dropped.
    pub writable_bytes: u64,
}

/// The NFS server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct NfsStatus {
    /// Connections that are open.
    pub connections: usize,
    /// Addresses that they come from.
    pub clients: Vec<String>,
    /// `CLIENT:/PATH` of each mount that a client told.
    pub mounts: Vec<String>,
    /// Calls that were refused since the start.
    pub refused: u64,
    /// What was called since the start.
    pub procedures: Vec<ProcedureStatus>,
}

/// One procedure of the NFS server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct ProcedureStatus {
    /// Its name.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Of them, calls that were answered with an error.
    pub errors: u64,
    /// Time of a call, microseconds.
    pub mean_us: u64,
}

/// The SMB server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct SmbStatus {
    /// Connections that are open.
    pub sessions: Vec<SmbSession>,
    /// Shares that are offered.
    pub shares: Vec<SmbShareStatus>,
}

/// One connection of the SMB server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct SmbSession {
    /// Address and port of the client.
    pub client: String,
    /// The protocol's version; empty before it is negotiated.
    pub dialect: String,
    /// Users that logged on.
    pub users: Vec<String>,
    /// Shares that were connected.
    pub shares: Vec<String>,
    /// Logons that failed.
    pub failed_logons: u64,
}

/// One share of the SMB server, counted since it was offered.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct SmbShareStatus {
    /// The share.
    pub name: String,
    /// Files and directories that clients have open.
    pub open_files: u64,
    /// How often something was opened.
    pub opens: u64,
    /// Bytes that clients read.
    pub read_bytes: u64,
    /// Bytes that clients wrote.
    pub written_bytes: u64,
    /// Requests that were answered with an error of the share.
    pub errors: u64,
}

#[derive(Deserialize)]
struct RefreshQuery {
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct WaitQuery {
    share: Option<String>,
    limit_ms: Option<u64>,
}

/// Whether all was uploaded within the limit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Waited {
    /// `false`: the limit passed first.
    pub uploaded: bool,
}

/// Serves until `stop`, then lets the requests that run finish.
///
/// # Errors
/// What the listener says.
pub async fn serve(listener: TcpListener, control: Arc<dyn Control>, stop: CancellationToken) -> io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/shares/{share}/refresh", post(refresh))
        .route("/v1/uploads/wait", post(wait))
        .route("/v1/volumes", post(volume))
        .route("/v1/smb/users/reload", post(reload_users))
        .route("/v1/smb/users/{user}/end-sessions", post(end_sessions))
        .with_state(control);
    axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

/// 200 while every share runs (or leaves as it should), else 503 with the names of those that failed.
async fn health(State(control): State<Arc<dyn Control>>) -> Response {
    let sick: Vec<String> = control
        .status()
        .await
        .shares
        .into_iter()
        .filter(|share| share.state == "failed")
        .map(|share| format!("{}: {}\n", share.name, share.reason))
        .collect();
    if sick.is_empty() { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, sick.concat()).into_response() }
}

async fn metrics(State(control): State<Arc<dyn Control>>) -> Response {
    ([("content-type", "text/plain; version=0.0.4")], control.metrics()).into_response()
}

async fn status(State(control): State<Arc<dyn Control>>) -> Json<Status> {
    Json(control.status().await)
}

async fn refresh(
    State(control): State<Arc<dyn Control>>,
    Path(share): Path<String>,
    Query(query): Query<RefreshQuery>,
) -> Response {
    answer(control.refresh(&share, &query.path).await.map(|()| StatusCode::NO_CONTENT.into_response()))
}

async fn wait(State(control): State<Arc<dyn Control>>, Query(query): Query<WaitQuery>) -> Response {
    let limit = query.limit_ms.map(Duration::from_millis);
    let waited = control.wait_for_uploads(query.share.as_deref(), limit).await;
    answer(waited.map(|uploaded| Json(Waited { uploaded }).into_response()))
}

async fn volume(State(control): State<Arc<dyn Control>>, Json(command): Json<VolumeCommand>) -> Response {
    answer(control.volume(command).await.map(|answer| Json(answer).into_response()))
}

async fn reload_users(State(control): State<Arc<dyn Control>>) -> Response {
    answer(control.reload_users().await.map(|()| StatusCode::NO_CONTENT.into_response()))
}

async fn end_sessions(State(control): State<Arc<dyn Control>>, Path(user): Path<String>) -> Response {
    answer(control.end_sessions(&user).await.map(|()| StatusCode::NO_CONTENT.into_response()))
}

fn answer(result: Result<Response, String>) -> Response {
    result.unwrap_or_else(|reason| (StatusCode::UNPROCESSABLE_ENTITY, reason).into_response())
}

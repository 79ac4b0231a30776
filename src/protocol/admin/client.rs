//! The command line's side of the admin address.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::volumes::{VolumeAnswer, VolumeCommand};
use super::{Status, Waited};

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A gateway that runs, by its admin address.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    address: SocketAddr,
}

impl Client {
    /// The gateway at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// See [`super::Control::status`].
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn status(&self) -> Result<Status, String> {
        parse(&self.ask(Method::GET, "/v1/status").await?)
    }

    /// See [`super::Control::refresh`].
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn refresh(&self, share: &str, path: &str) -> Result<(), String> {
        self.ask(Method::POST, &format!("/v1/shares/{}/refresh?path={}", escape(share), escape(path))).await.map(drop)
    }

    /// See [`super::Control::wait_for_uploads`].
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn wait_for_uploads(&self, share: Option<&str>, limit: Option<Duration>) -> Result<bool, String> {
        let mut query = Vec::new();
        query.extend(share.map(|share| format!("share={}", escape(share))));
        query.extend(limit.map(|limit| format!("limit_ms={}", limit.as_millis())));
        let waited: Waited = parse(&self.ask(Method::POST, &format!("/v1/uploads/wait?{}", query.join("&"))).await?)?;
        Ok(waited.uploaded)
    }

    /// See [`super::Control::volume`].
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn volume(&self, command: &VolumeCommand) -> Result<VolumeAnswer, String> {
        let body = serde_json::to_vec(command).map_err(|error| error.to_string())?;
        parse(&self.send(Method::POST, "/v1/volumes", body.into()).await?)
    }

    /// See [`super::Control::reload_users`]; `Ok(false)`: no gateway runs.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn reload_users(&self) -> Result<bool, String> {
        if TcpStream::connect(self.address).await.is_err() {
            return Ok(false);
        }
        self.ask(Method::POST, "/v1/smb/users/reload").await.map(|_| true)
    }

    /// See [`super::Control::end_sessions`].
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn end_sessions(&self, user: &str) -> Result<(), String> {
        self.ask(Method::POST, &format!("/v1/smb/users/{}/end-sessions", escape(user))).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, String> {
        self.send(method, path, Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, String> {
        let unreachable = |error: &dyn std::fmt::Display| {
            format!(
                "no gateway answers at {} ({error}); is `tidegate serve` running, and is [admin] listen the same?",
                self.address
            )
        };
        let stream = TcpStream::connect(self.address).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?.to_bytes();
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(body),
            _ => Err(String::from_utf8_lossy(&body).trim().to_owned()),
        }
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("the gateway's answer is not understood ({error}); is it another version?"))
}

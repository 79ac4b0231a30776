//! `[nfs]`: of the gateway (where it listens) and of a share (who may, and how).

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Span;
use crate::protocol::nfs::{ANONYMOUS, Namespace, Network, Rules, Squash};

/// The port of NFS, and the one that is taken where that cannot be had.
const PORT: u16 = 2049;
const PORT_ELSE: u16 = 12049;

/// `[nfs]` of `tidegate.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct NfsConfig {
    /// Where NFS and MOUNT listen, on one port each; an empty list is no NFS. Where it is not given: 127.0.0.1, port 2049, or 12049 if
    /// that is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<SocketAddr>>,
    /// Whether to tell this machine's rpcbind, where one runs.
    pub rpcbind: bool,
}

impl Default for NfsConfig {
    fn default() -> Self {
        Self { listen: None, rpcbind: true }
    }
}

impl NfsConfig {
    /// Addresses to listen on, each with what else to try.
    pub fn addresses(&self) -> Vec<(SocketAddr, Option<SocketAddr>)> {
        match &self.listen {
            Some(listen) => listen.iter().map(|address| (*address, None)).collect(),
            None => vec![(([127, 0, 0, 1], PORT).into(), Some(([127, 0, 0, 1], PORT_ELSE).into()))],
        }
    }
}

/// `[nfs]` of a share.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct NfsShareConfig {
    /// Addresses and ranges that may; an empty list is nobody.
    pub clients: Vec<String>,
    /// Nothing can be changed through NFS.
    pub read_only: bool,
    /// Whose identity becomes the anonymous one.
    pub squash: SquashName,
    /// Who anonymous callers are.
    pub anonuid: u32,
    /// See `anonuid`.
    pub anongid: u32,
    /// Only clients that call from a port below 1024.
    pub privileged_ports: bool,
    /// Whether a change of names is answered when it is durable, or at once.
    pub namespace: NamespaceName,
    /// How long a file that was written through NFS is quiet before it is uploaded; doubles with each upload, to 15 minutes.
    pub upload_delay: Span,
}

impl Default for NfsShareConfig {
    fn default() -> Self {
        Self {
            clients: Network::LOOPBACK.iter().map(ToString::to_string).collect(),
            read_only: false,
            squash: SquashName::default(),
            anonuid: ANONYMOUS,
            anongid: ANONYMOUS,
            privileged_ports: false,
            namespace: NamespaceName::default(),
            upload_delay: Span(Duration::from_secs(15)),
        }
    }
}

/// See [`Squash`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SquashName {
    /// Nobody's.
    None,
    /// root's.
    #[default]
    Root,
    /// Everybody's.
    All,
}

/// See [`Namespace`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceName {
    /// When it is durable.
    #[default]
    Sync,
    /// At once.
    Async,
}

impl NfsShareConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for client in &self.clients {
            client.parse::<Network>().map_err(|reason| ("clients", reason))?;
        }
        Ok(())
    }

    /// As the server takes them.
    pub fn rules(&self) -> Rules {
        Rules {
            clients: self.clients.iter().filter_map(|client| client.parse().ok()).collect(),
            read_only: self.read_only,
            squash: match self.squash {
                SquashName::None => Squash::None,
                SquashName::Root => Squash::Root,
                SquashName::All => Squash::All,
            },
            anonymous_uid: self.anonuid,
            anonymous_gid: self.anongid,
            privileged_ports: self.privileged_ports,
            namespace: match self.namespace {
                NamespaceName::Sync => Namespace::Sync,
                NamespaceName::Async => Namespace::Async,
            },
        }
    }
}

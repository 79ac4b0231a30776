//! SMB in a gateway: its server, its users, and what is shown of it.
//!
//! Invariant: users that cannot be read leave those in force alone.

use std::sync::Arc;

use crate::config::{Config, Demand};
use crate::protocol::admin::{SmbSession, SmbShareStatus, SmbStatus};
use crate::protocol::smb::{Settings, Smb, sessions, users};

use super::notices::About;
use super::{Gateway, StartError};

/// The server, without shares and users. Where SMB is not wanted it is never bound.
pub(super) fn server(config: &Config) -> Result<Arc<Smb>, StartError> {
    let listen = config.smb.address().unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let settings = Settings { listen, must_sign: config.smb.signing == Demand::Required };
    Smb::new(&settings).map_err(|error| StartError::Store(format!("the SMB server cannot be made: {error}")))
}

impl Gateway {
    /// The SMB server.
    pub fn smb(&self) -> &Arc<Smb> {
        &self.smb
    }

    /// Reads the users' file and puts it in force.
    ///
    /// # Errors
    /// In words, why it is not; it is a notice too.
    pub async fn reload_users(&self) -> Result<(), String> {
        let directory = self.config.users_dir();
        let loaded = tokio::task::spawn_blocking(move || users::load(&directory)).await;
        let loaded = loaded.map_err(|error| error.to_string()).and_then(|loaded| loaded.map_err(|error| error.to_string()));
        match loaded {
            Ok(users) => {
                self.smb.set_users(users).await;
                self.mended(&About::Users);
                Ok(())
            }
            Err(reason) => {
                self.notice(About::Users, format!("{reason}; the users of SMB are left as they are"));
                Err(reason)
            }
        }
    }

    pub(super) fn smb_status(&self) -> SmbStatus {
        let session = |session: sessions::Session| SmbSession {
            client: session.client,
            dialect: session.dialect,
            users: session.users,
            shares: session.shares,
            failed_logons: session.failed_logons,
        };
        let shares = self.smb.shares().into_iter().map(|share| SmbShareStatus {
            name: share.name,
            open_files: share.open_files,
            opens: share.opens,
            read_bytes: share.read_bytes,
            written_bytes: share.written_bytes,
            errors: share.errors,
        });
        SmbStatus { sessions: sessions::sessions().into_iter().map(session).collect(), shares: shares.collect() }
    }

    pub(super) fn smb_metrics(&self) {
        metrics::gauge!("tidegate_smb_connections").set(sessions::sessions().len() as f64);
        for share in self.smb.shares() {
            metrics::gauge!("tidegate_smb_open_files", "share" => share.name.clone()).set(share.open_files as f64);
            metrics::counter!("tidegate_smb_opens_total", "share" => share.name.clone()).absolute(share.opens);
            metrics::counter!("tidegate_smb_read_bytes_total", "share" => share.name.clone()).absolute(share.read_bytes);
            metrics::counter!("tidegate_smb_written_bytes_total", "share" => share.name.clone()).absolute(share.written_bytes);
            metrics::counter!("tidegate_smb_errors_total", "share" => share.name).absolute(share.errors);
        }
    }
}

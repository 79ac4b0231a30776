//! `[smb]`: of the gateway (where it listens, what it asks of clients) and of a share (who may, as whom, and how).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Config, ShareConfig};
use crate::protocol::smb::Rules;
use crate::protocol::smb::users::{GUEST, check_name};

/// Where SMB listens where nobody said otherwise: not its own port, which most machines have in use or closed.
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 10445);
/// Names in one list, as AWS has it.
const NAMES_MAX: usize = 100;
/// The longest comment, in UTF-16 units.
const COMMENT_UNITS_MAX: usize = 256;

/// `[smb]` of `tidegate.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SmbConfig {
    /// Where it listens: one address, since locks are kept per address; an empty list is no SMB. Where it is not given: 127.0.0.1:10445.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<SocketAddr>>,
    /// Whether every client must sign.
    pub signing: Demand,
    /// Whether every client must encrypt, where its share does not say otherwise. They must where nothing is said.
    pub encryption: Demand,
}

impl Default for SmbConfig {
    fn default() -> Self {
        Self { listen: None, signing: Demand::Client, encryption: Demand::Required }
    }
}

/// Who decides.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// The client.
    Client,
    /// Clients that cannot, or will not, are refused.
    Required,
}

impl SmbConfig {
    /// Where to listen; `None`: nowhere.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.listen {
            Some(listen) => listen.first().copied(),
            None => Some(LISTEN.into()),
        }
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        match &self.listen {
            Some(listen) if listen.len() > 1 => {
                let reason = "must be one address: SMB's locks do not hold between two; \"[::]:445\" or \"0.0.0.0:445\" is all of a machine's";
                Err(("listen", reason.into()))
            }
            _ => Ok(()),
        }
    }
}

/// `[smb]` of a share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SmbShareConfig {
    /// Users and `@groups` that may; an empty list is every user but the guest.
    pub users: Vec<String>,
    /// Users and `@groups` that may not.
    pub deny: Vec<String>,
    /// Users and `@groups` that may only read.
    pub read_only_users: Vec<String>,
    /// Nobody changes anything through SMB.
    pub read_only: bool,
    /// Whether the guest, the user `smbguest`, may.
    pub guest: bool,
    /// The user id that everybody acts as; the share's `uid` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group id that everybody acts as; the share's `gid` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Whether names that differ in case are different.
    pub case: Case,
    /// Whether every client must encrypt; as the gateway's where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Demand>,
    /// Whether clients may cache: only for a share that nobody changes in another way.
    pub leases: bool,
    /// Not shown in lists of shares.
    pub hidden: bool,
    /// Entries that may not be read are not listed.
    pub hide_unreadable: bool,
    /// Shown beside the name.
    pub comment: String,
}

/// How names are compared.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// As clients are used to: without case, and kept.
    #[default]
    Client,
    /// With case.
    Sensitive,
}

impl SmbShareConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, list) in [("users", &self.users), ("deny", &self.deny), ("read_only_users", &self.read_only_users)] {
            if list.len() > NAMES_MAX {
                return Err((field, format!("has {} names; {NAMES_MAX} are the most, use groups", list.len())));
            }
            for item in list {
                check_name(item.strip_prefix('@').unwrap_or(item)).map_err(|reason| (field, reason))?;
            }
        }
        if self.users.iter().any(|user| user.eq_ignore_ascii_case(GUEST)) {
            return Err(("users", format!("\"{GUEST}\" gets in by guest = true, not by the list")));
        }
        if self.comment.encode_utf16().count() > COMMENT_UNITS_MAX || self.comment.chars().any(char::is_control) {
            return Err(("comment", format!("must have at most {COMMENT_UNITS_MAX} characters, and no control characters")));
        }
        Ok(())
    }
}

impl ShareConfig {
    /// How it is offered through SMB.
    pub fn smb_rules(&self, gateway: &Config) -> Rules {
        let smb = self.smb.clone().unwrap_or_default();
        let settings = self.settings(gateway);
        Rules {
            uid: smb.uid.unwrap_or(self.uid),
            gid: smb.gid.unwrap_or(self.gid),
            file_mode: settings.file_mode,
            directory_mode: settings.dir_mode,
            case_sensitive: smb.case == Case::Sensitive,
            must_encrypt: smb.encryption.unwrap_or(gateway.smb.encryption) == Demand::Required,
            leases: smb.leases,
            hidden: smb.hidden,
            comment: smb.comment,
            hide_unreadable: smb.hide_unreadable,
            users: smb.users,
            deny: smb.deny,
            read_only_users: smb.read_only_users,
            read_only: smb.read_only || self.read_only,
            guest: smb.guest,
        }
    }
}

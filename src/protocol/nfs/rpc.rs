//! ONC RPC version 2 (RFC 5531): calls in, replies out.
//!
//! What lives here: [`Request`] (a call that was understood as far as its arguments), [`Credential`], [`Reply`] (a record that is ready to
//! be sent: an encoded head, and for READ a payload that is not copied), and the refusals of RFC 5531 §9.

use std::net::SocketAddr;

use bytes::Bytes;

use super::xdr::{Decoder, Encode, Garbage, padding};

/// The version of RPC.
const RPC_VERSION: u32 = 2;
/// `msg_type` CALL and REPLY (§9).
const CALL: u32 = 0;
const REPLY: u32 = 1;
/// Flavors of credentials (§8.1, RFC 5531 Appendix A).
pub(super) const AUTH_NONE: u32 = 0;
pub(super) const AUTH_SYS: u32 = 1;
/// The longest body of a credential or verifier, in bytes (§8.2).
const AUTH_BYTES_MAX: usize = 400;
/// The longest name of a machine in AUTH_SYS, in bytes.
const MACHINE_BYTES_MAX: usize = 255;
/// Supplementary groups in AUTH_SYS.
const GROUPS_MAX: u32 = 16;
/// The last fragment of a record (§11).
pub(super) const LAST_FRAGMENT: u32 = 1 << 31;

/// Who says that they call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// AUTH_NONE: nobody in particular.
    None,
    /// AUTH_SYS: numbers that the client's machine vouches for.
    Sys { uid: u32, gid: u32, groups: Vec<u32> },
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Where it came from.
    pub(super) peer: SocketAddr,
    pub(super) xid: u32,
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
    pub(super) credential: Credential,
    /// The arguments, not yet read.
    pub(super) args: Decoder,
    /// Of the whole call but its xid: tells a retransmission from another call with the same xid.
    pub(super) checksum: u32,
}

/// Why a call is not carried out; the number is RFC 5531's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RPC_MISMATCH: another version of RPC.
    RpcVersion,
    /// AUTH_ERROR with its `auth_stat`.
    Auth(AuthStat),
    /// PROG_UNAVAIL.
    Program,
    /// PROG_MISMATCH with the versions that are there.
    Version(u32, u32),
    /// PROC_UNAVAIL.
    Procedure,
    /// GARBAGE_ARGS.
    Arguments,
}

/// `auth_stat` (§9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthStat {
    /// A credential that cannot be read, or of a flavor that is not known.
    BadCredential = 1,
}

impl From<Garbage> for Refusal {
    fn from(_: Garbage) -> Self {
        Self::Arguments
    }
}

/// A record that is no call: the connection speaks something else and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotACall;

impl Request {
    /// Reads a call as far as its arguments. The inner error is an answer, the outer one ends the connection.
    pub(super) fn parse(record: Bytes, peer: SocketAddr) -> Result<Result<Self, Reply>, NotACall> {
        let mut decoder = Decoder::new(record.clone());
        let mut word = || decoder.u32().map_err(|_| NotACall);
        let (xid, kind, rpc, program, version, procedure) = (word()?, word()?, word()?, word()?, word()?, word()?);
        if kind != CALL {
            return Err(NotACall);
        }
        if rpc != RPC_VERSION {
            return Ok(Err(Reply::refused(xid, Refusal::RpcVersion)));
        }
        let Ok(credential) = credential(&mut decoder) else {
            return Ok(Err(Reply::refused(xid, Refusal::Auth(AuthStat::BadCredential))));
        };
        let head = &record[4..record.len().min(4 + CHECKED_BYTES)];
        let checksum = crc32c::crc32c(head) ^ u32::try_from(record.len()).unwrap_or(0);
        Ok(Ok(Self { peer, xid, program, version, procedure, credential, args: decoder, checksum }))
    }

    /// The beginning of a successful answer.
    pub(super) fn reply(&self) -> Reply {
        Reply::success(self.xid)
    }
}

/// How much of a call tells it from another one (as Linux's server does it; see nfscache.c on why not all of a WRITE).
const CHECKED_BYTES: usize = 512;

/// Credential and verifier (§8.2). A verifier is only looked at for its length: both flavors have none.
fn credential(decoder: &mut Decoder) -> Result<Credential, Garbage> {
    let flavor = decoder.u32()?;
    let body = decoder.opaque(AUTH_BYTES_MAX)?;
    let _verifier_flavor = decoder.u32()?;
    decoder.opaque(AUTH_BYTES_MAX)?;
    match flavor {
        AUTH_NONE => Ok(Credential::None),
        AUTH_SYS => sys(Decoder::new(body)),
        _ => Err(Garbage),
    }
}

/// `authsys_parms` (RFC 5531 Appendix A).
fn sys(mut body: Decoder) -> Result<Credential, Garbage> {
    let _stamp = body.u32()?;
    body.opaque(MACHINE_BYTES_MAX)?;
    let (uid, gid, count) = (body.u32()?, body.u32()?, body.u32()?);
    if count > GROUPS_MAX {
        return Err(Garbage);
    }
    let groups = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok(Credential::Sys { uid, gid, groups })
}

/// One record on its way out.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Record mark, RPC header and results up to the payload.
    head: Vec<u8>,
    /// What follows the head without having been copied, as one opaque whose length the head ends with.
    payload: Vec<Bytes>,
    /// For logs and metrics: the status of the program (0 is success), or the refusal.
    pub(super) status: u32,
}

/// What a head of ordinary size takes, in bytes.
const HEAD_BYTES: usize = 256;
/// The statuses that metrics count for refusals, above all of NFS and NLM.
const STATUS_REFUSED: u32 = 1 << 30;

impl Reply {
    fn begin(xid: u32) -> Self {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.u32(0);
        head.u32(xid);
        head.u32(REPLY);
        Self { head, payload: Vec::new(), status: 0 }
    }

    /// MSG_ACCEPTED, SUCCESS; results follow.
    pub(super) fn success(xid: u32) -> Self {
        let mut reply = Self::begin(xid);
        reply.absent(4);
        reply
    }

    /// The answer to a call that is not carried out (§9).
    pub(super) fn refused(xid: u32, why: Refusal) -> Self {
        let mut reply = Self::begin(xid);
        let (denied, words): (bool, &[u32]) = match why {
            Refusal::RpcVersion => (true, &[0, RPC_VERSION, RPC_VERSION]),
            Refusal::Auth(stat) => (true, &[1, stat as u32]),
            Refusal::Program => (false, &[1]),
            Refusal::Version(low, high) => (false, &[2, low, high]),
            Refusal::Procedure => (false, &[3]),
            Refusal::Arguments => (false, &[4]),
        };
        reply.u32(u32::from(denied));
        if !denied {
            reply.u32(AUTH_NONE);
            reply.u32(0);
        }
        words.iter().for_each(|word| reply.u32(*word));
        reply.status = STATUS_REFUSED;
        reply
    }

    /// Appends an opaque of several slices without copying them.
    pub(super) fn payload(&mut self, slices: Vec<Bytes>) {
        let len: usize = slices.iter().map(Bytes::len).sum();
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
        self.payload = slices;
        let padding = padding(len);
        if padding > 0 {
            self.payload.push(Bytes::from_static(&[0; 3]).slice(..padding));
        }
    }

    /// How long the results are so far, in bytes, without record mark and RPC header.
    pub(super) fn results_bytes(&self) -> usize {
        self.head.len().saturating_sub(28)
    }

    /// The results so far, without a payload.
    pub(super) fn results(&self) -> &[u8] {
        self.head.get(28..).unwrap_or_default()
    }

    /// The record: head with its mark, and what follows it.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<Bytes>) {
        let len = self.head.len() - 4 + self.payload.iter().map(Bytes::len).sum::<usize>();
        let mark = LAST_FRAGMENT | u32::try_from(len).unwrap_or(0);
        self.head[..4].copy_from_slice(&mark.to_be_bytes());
        (self.head, self.payload)
    }
}

impl Encode for Reply {
    fn bytes(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;

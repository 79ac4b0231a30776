//! Calls that the server itself makes: to rpcbind, to a client's lock manager and status monitor. One connection per call, small answers,
//! a short deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use nfs3_types::portmap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::rpc::{AUTH_NONE, LAST_FRAGMENT};
use super::xdr::{Decoder, Encode, Garbage};

/// How long a call may take.
const CALL_MAX: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Where rpcbind takes registrations, and the version of its protocol there (RFC 1833 §2).
const RPCBIND_SOCKET: &str = "/run/rpcbind.sock";
const RPCBIND_VERSION: u32 = 3;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Procedure {
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
}

fn strange(_: Garbage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is no RPC reply that says success")
}

/// Calls, and returns the results.
///
/// # Errors
/// What the socket says; `TimedOut`; `InvalidData` where the call was refused.
pub(super) async fn call(to: SocketAddr, what: Procedure, args: &[u8]) -> io::Result<Decoder> {
    let called = async { exchange(TcpStream::connect(to).await?, what, args).await };
    tokio::time::timeout(CALL_MAX, called).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn exchange(mut socket: impl AsyncRead + AsyncWrite + Unpin, what: Procedure, args: &[u8]) -> io::Result<Decoder> {
    let xid = fastrand::u32(..);
    let mut record = Vec::with_capacity(64 + args.len());
    let words = [0, xid, 0, 2, what.program, what.version, what.procedure, AUTH_NONE, 0, AUTH_NONE, 0];
    words.iter().for_each(|word| Encode::u32(&mut record, *word));
    record.bytes(args);
    let mark = LAST_FRAGMENT | u32::try_from(record.len() - 4).unwrap_or(0);
    record[..4].copy_from_slice(&mark.to_be_bytes());
    socket.write_all(&record).await?;
    let mark = socket.read_u32().await?;
    let len = (mark & !LAST_FRAGMENT) as usize;
    if mark & LAST_FRAGMENT == 0 || len > ANSWER_BYTES_MAX {
        return Err(strange(Garbage));
    }
    let mut answer = vec![0; len];
    socket.read_exact(&mut answer).await?;
    success(Decoder::new(Bytes::from(answer)), xid).map_err(strange)
}

/// The results of a reply that says success (RFC 5531 §9).
fn success(mut reply: Decoder, xid: u32) -> Result<Decoder, Garbage> {
    let head = (reply.u32()?, reply.u32()?, reply.u32()?, reply.u32()?);
    reply.opaque(400)?;
    if head.0 == xid && head.1 == 1 && head.2 == 0 && reply.u32()? == 0 { Ok(reply) } else { Err(Garbage) }
}

/// `mapping` of the port mapper (RFC 1833 §3).
fn mapping(program: u32, version: u32, protocol: u32, port: u16) -> Vec<u8> {
    let mut args = Vec::new();
    [program, version, protocol, u32::from(port)].iter().for_each(|word| Encode::u32(&mut args, *word));
    args
}

/// Calls a procedure of the port mapper of `host`.
async fn portmap(host: IpAddr, procedure: portmap::PMAP_PROG, args: &[u8]) -> io::Result<u32> {
    let what = Procedure { program: portmap::PROGRAM, version: portmap::VERSION, procedure: procedure as u32 };
    let mut results = call((host, portmap::PMAP_PORT).into(), what, args).await?;
    results.u32().map_err(strange)
}

/// The TCP port of a program on another machine.
///
/// # Errors
/// As [`call`]; `NotFound` where nobody serves it there.
pub(super) async fn port_of(host: IpAddr, program: u32, version: u32) -> io::Result<SocketAddr> {
    let args = mapping(program, version, portmap::IPPROTO_TCP, 0);
    let port = portmap(host, portmap::PMAP_PROG::PMAPPROC_GETPORT, &args).await?;
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok((host, port).into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Calls rpcbind of this machine, over its own socket: it takes registrations from nowhere else.
///
/// # Errors
/// As [`call`]: mostly that none runs.
pub(super) async fn rpcbind(procedure: u32, args: &[u8]) -> io::Result<bool> {
    let what = Procedure { program: portmap::PROGRAM, version: RPCBIND_VERSION, procedure };
    let called = async { exchange(UnixStream::connect(RPCBIND_SOCKET).await?, what, args).await };
    let mut results = tokio::time::timeout(CALL_MAX, called).await.map_err(|_| io::ErrorKind::TimedOut)??;
    results.boolean().map_err(strange)
}

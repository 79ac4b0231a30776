//! Calls that the server itself makes: to rpcbind, to a client's lock manager and status monitor. One connection per call (or a datagram, where
//! a client serves nothing else), small answers, a short deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use nfs3_types::portmap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

use super::rpc::{AUTH_NONE, LAST_FRAGMENT};
use super::xdr::{Decoder, Encode, Garbage};

/// How long a call may take.
const CALL_MAX: Duration = Duration::from_secs(5);
/// A datagram that is not answered is sent again after so long.
const RESEND: Duration = Duration::from_secs(1);
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

/// Where a program is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// By datagrams.
    pub(super) is_udp: bool,
}

fn strange(_: Garbage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is no RPC reply that says success")
}

/// Calls, and returns the results.
///
/// # Errors
/// What the socket says; `TimedOut`; `InvalidData` where the call was refused.
pub(super) async fn call(to: Place, what: Procedure, args: &[u8]) -> io::Result<Decoder> {
    let called = async {
        if to.is_udp {
            return exchange_datagrams(to.address, what, args).await;
        }
        exchange(TcpStream::connect(to.address).await?, what, args).await
    };
    tokio::time::timeout(CALL_MAX, called).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// A call with its record mark, which is zero.
fn message(xid: u32, what: Procedure, args: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(64 + args.len());
    let words = [0, xid, 0, 2, what.program, what.version, what.procedure, AUTH_NONE, 0, AUTH_NONE, 0];
    words.iter().for_each(|word| Encode::u32(&mut record, *word));
    record.bytes(args);
    record
}

async fn exchange_datagrams(to: SocketAddr, what: Procedure, args: &[u8]) -> io::Result<Decoder> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    let xid = fastrand::u32(..);
    let message = message(xid, what, args);
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    loop {
        socket.send(&message[4..]).await?;
        let received = tokio::time::timeout(RESEND, socket.recv(&mut answer)).await;
        // Whoever calls this has a deadline for all of it.
        let Ok(len) = received else { continue };
        let reply = Bytes::copy_from_slice(&answer[..len?]);
        if reply.starts_with(&xid.to_be_bytes()) {
            return success(Decoder::new(reply), xid).map_err(strange);
        }
    }
}

async fn exchange(mut socket: impl AsyncRead + AsyncWrite + Unpin, what: Procedure, args: &[u8]) -> io::Result<Decoder> {
    let xid = fastrand::u32(..);
    let mut record = message(xid, what, args);
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

/// Asks the port mapper of another machine, which listens on `portmap_port`.
async fn portmap(to: Place, program: u32, version: u32, protocol: u32) -> io::Result<Option<u16>> {
    let procedure = portmap::PMAP_PROG::PMAPPROC_GETPORT as u32;
    let what = Procedure { program: portmap::PROGRAM, version: portmap::VERSION, procedure };
    let port = call(to, what, &mapping(program, version, protocol, 0)).await?.u32().map_err(strange)?;
    Ok(u16::try_from(port).ok().filter(|port| *port != 0))
}

/// Where a program of another machine is served: over TCP, if it is.
///
/// # Errors
/// As [`call`]; `NotFound` where nobody serves it there.
pub(super) async fn find(portmap_port: u16, host: IpAddr, program: u32, version: u32) -> io::Result<Place> {
    let mut mapper = Place { address: (host, portmap_port).into(), is_udp: false };
    for (protocol, is_udp) in [(portmap::IPPROTO_TCP, false), (portmap::IPPROTO_UDP, true)] {
        let asked = portmap(mapper, program, version, protocol).await;
        let asked = match asked {
            // A port mapper of datagrams alone.
            Err(error) if !mapper.is_udp && error.kind() == io::ErrorKind::ConnectionRefused => {
                mapper.is_udp = true;
                portmap(mapper, program, version, protocol).await
            }
            asked => asked,
        };
        if let Some(port) = asked? {
            return Ok(Place { address: (host, port).into(), is_udp });
        }
    }
    Err(io::ErrorKind::NotFound.into())
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

//! Lock managers that speak UDP and asynchronously: a machine with a port mapper and a lock manager of its own, which is called back.

use nfs3_types::nfs3::{nfs_fh3, stable_how};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::*;
use crate::protocol::nfs::nlm::PROGRAM;
use crate::protocol::nfs::xdr::Encode;

const GRANTED: u32 = 0;
const DENIED: u32 = 1;
const BLOCKED: u32 = 3;
const UDP: u32 = 17;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at * 4..].first_chunk().unwrap())
}

/// A client's machine, whose lock manager is served by datagrams alone.
struct Machine {
    lockd: UdpSocket,
    server: std::net::SocketAddr,
    xid: u32,
}

/// Says at which port what is served over UDP; over TCP nothing is.
async fn map_ports(listener: TcpListener, lockd_port: u16) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut call = vec![0; 4 + 56];
        socket.read_exact(&mut call).await.unwrap();
        assert_eq!(call[4 + 8..4 + 24], words(&[2, 100_000, 2, 3])[..], "GETPORT");
        let (program, protocol) = (word(&call, 11), word(&call, 13));
        let port = if program == PROGRAM && protocol == UDP { u32::from(lockd_port) } else { 0 };
        let answer = words(&[0x8000_001c, word(&call, 1), 1, 0, 0, 0, 0, port]);
        socket.write_all(&answer).await.unwrap();
    }
}

impl Machine {
    async fn new(served: &Served) -> Self {
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = datagrams.local_addr().unwrap();
        tokio::spawn(served.nfs.clone().serve_datagrams(datagrams));
        let lockd = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mapper = TcpListener::bind("127.0.0.1:0").await.unwrap();
        served.nfs.portmap_port.store(mapper.local_addr().unwrap().port(), Ordering::Relaxed);
        tokio::spawn(map_ports(mapper, lockd.local_addr().unwrap().port()));
        Self { lockd, server, xid: 100 }
    }

    async fn receive(&self) -> (Vec<u8>, std::net::SocketAddr) {
        let mut datagram = vec![0; 9000];
        let (len, from) =
            tokio::time::timeout(Duration::from_secs(10), self.lockd.recv_from(&mut datagram)).await.unwrap().unwrap();
        datagram.truncate(len);
        (datagram, from)
    }

    /// Sends a call from its own socket; returns the results, as they come back by themselves.
    async fn call(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        self.xid += 1;
        let head = words(&[self.xid, 0, 2, program, version, procedure, 0, 0, 0, 0]);
        socket.send_to(&[head.as_slice(), args].concat(), self.server).await.unwrap();
        let mut answer = vec![0; 9000];
        let len = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[..24], words(&[self.xid, 1, 0, 0, 0, 0])[..]);
        answer[24..len].to_vec()
    }

    /// Sends a message; returns the procedure and arguments of the call that comes back.
    async fn message(&mut self, procedure: u32, args: &[u8]) -> (u32, Vec<u8>) {
        let answer = self.call(PROGRAM, 4, procedure, args).await;
        assert!(answer.is_empty(), "a message is answered with nothing");
        self.called().await
    }

    /// Takes a call of the server, and answers it with nothing.
    async fn called(&self) -> (u32, Vec<u8>) {
        let (call, from) = self.receive().await;
        assert_eq!(call[4..20], words(&[0, 2, PROGRAM, 4])[..]);
        self.lockd.send_to(&words(&[word(&call, 0), 1, 0, 0, 0, 0]), from).await.unwrap();
        (word(&call, 5), call[40..].to_vec())
    }
}

/// Cookie, flags, and `nlm4_lock` of all bytes of a file by an owner.
fn args(cookie: &[u8], flags: &[u32], owner: u32, file: &nfs_fh3) -> Vec<u8> {
    let mut args = Vec::new();
    args.opaque(cookie);
    flags.iter().for_each(|flag| Encode::u32(&mut args, *flag));
    args.opaque(b"host");
    args.opaque(&file.data);
    args.opaque(&owner.to_be_bytes());
    Encode::u32(&mut args, owner);
    args.extend([0; 16]);
    args
}

fn lock(cookie: &[u8], block: bool, owner: u32, file: &nfs_fh3) -> Vec<u8> {
    [args(cookie, &[u32::from(block), 1], owner, file), words(&[0, 3])].concat()
}

fn result(cookie: &[u8; 4], status: u32) -> Vec<u8> {
    [&words(&[4]), cookie.as_slice(), &words(&[status])].concat()
}

/// A file that anybody may lock: these calls are nobody's in particular.
async fn file(served: &Served) -> nfs_fh3 {
    let (mut client, root) = served.mounted().await;
    let file = client.create(&root, "f", nfs3_types::nfs3::createhow3::GUARDED(super::client::mode(0o666))).await.unwrap();
    client.write(&file, 0, b"bytes", stable_how::UNSTABLE).await.unwrap();
    file
}

#[tokio::test]
async fn messages_are_answered_with_calls() {
    let served = Served::new().await;
    let file = file(&served).await;
    let mut machine = Machine::new(&served).await;
    assert_eq!(machine.message(7, &lock(b"one!", false, 1, &file)).await, (12, result(b"one!", GRANTED)));
    assert_eq!(machine.message(7, &lock(b"two!", false, 2, &file)).await, (12, result(b"two!", DENIED)));
    let (procedure, told) = machine.message(6, &args(b"ask!", &[1], 2, &file)).await;
    assert_eq!((procedure, &told[..12]), (11, result(b"ask!", DENIED).as_slice()));
    assert_eq!(told[12..], words(&[1, 1, 4, 1, 0, 0, 0, 0])[..], "exclusive, svid 1, its oh, all bytes");
    assert_eq!(machine.message(7, &lock(b"wait", true, 2, &file)).await, (12, result(b"wait", BLOCKED)));
    assert_eq!(machine.message(8, &args(b"stop", &[1, 1], 2, &file)).await, (13, result(b"stop", GRANTED)));
    assert_eq!(machine.message(9, &args(b"free", &[], 1, &file)).await, (14, result(b"free", GRANTED)));
    assert_eq!(machine.message(7, &lock(b"two!", false, 2, &file)).await, (12, result(b"two!", GRANTED)));
    // What is no answer to anything of ours is taken and forgotten.
    assert!(machine.call(PROGRAM, 4, 15, &result(b"huh?", GRANTED)).await.is_empty());
}

#[tokio::test]
async fn who_waits_is_called_back_by_datagram() {
    let served = Served::new().await;
    let file = file(&served).await;
    let mut machine = Machine::new(&served).await;
    let granted = |answer: Vec<u8>| word(&answer, 2);
    assert_eq!(granted(machine.call(PROGRAM, 4, 2, &lock(b"one!", false, 1, &file)).await), GRANTED);
    assert_eq!(granted(machine.call(PROGRAM, 4, 2, &lock(b"two!", true, 2, &file)).await), BLOCKED);
    assert_eq!(granted(machine.call(PROGRAM, 4, 4, &args(b"free", &[], 1, &file)).await), GRANTED);
    // The first datagram is lost: it comes again.
    let (first, _) = machine.receive().await;
    let (call, from) = machine.receive().await;
    assert_eq!(first, call);
    assert_eq!(word(&call, 5), 5, "GRANTED");
    assert_eq!(call[40..48], [&words(&[4])[..], b"two!"].concat());
    let answer = [words(&[word(&call, 0), 1, 0, 0, 0, 0]), result(b"two!", GRANTED)].concat();
    machine.lockd.send_to(&answer, from).await.unwrap();
    assert_eq!(granted(machine.call(PROGRAM, 4, 2, &lock(b"one!", false, 1, &file)).await), DENIED);
}

#[tokio::test]
async fn mount_is_served_by_datagrams_and_nfs_is_not() {
    let served = Served::new().await;
    let mut machine = Machine::new(&served).await;
    let path = [&words(&[5])[..], b"/demo\0\0\0"].concat();
    let mounted = machine.call(crate::protocol::nfs::mount::PROGRAM, 3, 1, &path).await;
    assert_eq!((word(&mounted, 0), word(&mounted, 1)), (0, 32));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (call, expected) in [
        (words(&[7, 0, 2, 100_003, 3, 0, 0, 0, 0, 0]), words(&[7, 1, 0, 0, 0, 1])),
        (words(&[8, 0, 3, 100_005, 3, 0, 0, 0, 0, 0]), words(&[8, 1, 1, 0, 2, 2])),
    ] {
        // What is no call at all is not answered.
        socket.send_to(b"garbage", machine.server).await.unwrap();
        socket.send_to(&call, machine.server).await.unwrap();
        let mut answer = vec![0; 9000];
        let len = socket.recv(&mut answer).await.unwrap();
        assert_eq!(answer[..len], expected[..]);
    }
}

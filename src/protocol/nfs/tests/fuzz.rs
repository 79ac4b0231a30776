//! Mutated calls, deterministic by seed: whatever comes, each record is answered as RFC 5531 says or ends its connection, and nothing breaks.
//!
//! What is mutated are the calls of the golden texts: every procedure of every program, with handles that are good. `TIDEGATE_SOAK=1` goes on
//! for an hour in all (`TIDEGATE_FUZZ_SECONDS`), `TIDEGATE_SEED=n` begins with that seed.

use std::time::Instant;

use bytes::Bytes;

use super::fixed::Fixed;
use super::golden;
use super::*;
use crate::protocol::nfs::record::{RECORD_BYTES_MAX, RecordError, Records};
use crate::protocol::nfs::rpc::LAST_FRAGMENT;

/// Cases of one seed.
const ROUNDS: u32 = 20_000;
/// The longest answer: a READDIR of 256 KiB, or a READ of a megabyte, with its header.
const ANSWER_BYTES_MAX: usize = (1 << 20) + 1024;

/// Words that are at limits of something.
const WORDS: [u32; 24] = [
    0,
    1,
    2,
    3,
    4,
    5,
    31,
    32,
    33,
    63,
    64,
    65,
    255,
    256,
    400,
    401,
    1024,
    4096,
    4097,
    1 << 20,
    (1 << 20) + 1,
    i32::MAX as u32,
    LAST_FRAGMENT,
    u32::MAX,
];

/// Says what was being tried where a test fails.
struct Trying {
    seed: u64,
    round: u32,
    bytes: Vec<u8>,
}

impl Drop for Trying {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("TIDEGATE_SEED={} round {}: {}", self.seed, self.round, hex::encode(&self.bytes));
        }
    }
}

fn word(random: &mut fastrand::Rng) -> u32 {
    if random.bool() { WORDS[random.usize(..WORDS.len())] } else { random.u32(..) }
}

/// Changes a few things of `bytes`, none of them its first `keep` bytes.
fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, other: &[u8], keep: usize) {
    for _ in 0..random.u32(1..5) {
        if bytes.len() <= keep {
            bytes.extend(word(random).to_be_bytes());
            continue;
        }
        let at = random.usize(keep..bytes.len());
        let aligned = at / 4 * 4;
        match random.u32(..9) {
            0 => bytes[at] ^= 1 << random.u32(..8),
            1 => bytes[at] = random.u8(..),
            2 | 3 if aligned >= keep && aligned + 4 <= bytes.len() => {
                bytes[aligned..aligned + 4].copy_from_slice(&word(random).to_be_bytes());
            }
            4 => bytes.truncate(at),
            5 => {
                let word = word(random).to_be_bytes();
                bytes.splice(aligned.max(keep).min(bytes.len())..aligned.max(keep).min(bytes.len()), word);
            }
            6 => {
                let end = (at + random.usize(1..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            7 if !other.is_empty() => {
                let from = random.usize(..other.len());
                let end = (from + random.usize(1..128)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                let fill = random.usize(1..200);
                bytes.extend(std::iter::repeat_n(random.u8(..), fill));
            }
        }
    }
}

/// Seeds, until their time or number is over.
async fn for_seeds(quick: u64, share_of_hour: u64, mut work: impl AsyncFnMut(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("TIDEGATE_SEED").unwrap_or(0);
    let seconds = number("TIDEGATE_FUZZ_SECONDS").unwrap_or(3600) / share_of_hour;
    let (begin, mut seed) = (Instant::now(), first);
    while if soak() { begin.elapsed().as_secs() < seconds } else { seed < first + quick } {
        work(seed).await;
        seed += 1;
    }
    println!("{} seeds", seed - first);
}

/// All records of a stream that is received in pieces; the error that ends it.
fn records(stream: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Bytes>, Option<RecordError>) {
    let (mut records, mut found, mut at) = (Records::default(), Vec::new(), 0);
    while at < stream.len() {
        let end = (at + piece().max(1)).min(stream.len());
        records.room().extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            match records.next() {
                Ok(Some(record)) => found.push(record),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(records.pending_bytes() <= RECORD_BYTES_MAX + 4 + stream.len(), "more than a record");
        assert!(records.room().capacity() <= RECORD_BYTES_MAX + stream.len() + (128 << 10), "more than a record's memory");
    }
    (found, None)
}

#[tokio::test]
async fn a_stream_is_the_same_records_however_it_comes() {
    let corpus = golden::calls();
    for_seeds(1, 4, async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..ROUNDS {
            let mut stream = Vec::new();
            for _ in 0..random.u32(1..4) {
                let call = &corpus[random.usize(..corpus.len())][4..];
                let cut = random.usize(..=call.len());
                for (part, last) in [(&call[..cut], 0), (&call[cut..], LAST_FRAGMENT)] {
                    stream.extend((u32::try_from(part.len()).unwrap() | last).to_be_bytes());
                    stream.extend_from_slice(part);
                }
            }
            if random.u32(..4) > 0 {
                mutate(&mut random, &mut stream, &corpus[0], 0);
            }
            let trying = Trying { seed, round, bytes: stream };
            let whole = records(&trying.bytes, || usize::MAX / 2);
            let pieces = records(&trying.bytes, || random.usize(1..40));
            assert_eq!(whole, pieces);
        }
    })
    .await;
}

/// What RFC 5531 §9 lets an answer be.
fn check_answer(xid: u32, record: &[u8]) {
    let word = |at: usize| u32::from_be_bytes(*record[at * 4..].first_chunk().unwrap());
    assert_eq!(word(0), LAST_FRAGMENT | u32::try_from(record.len() - 4).unwrap());
    assert!(record.len().is_multiple_of(4) && record.len() <= ANSWER_BYTES_MAX, "{} bytes", record.len());
    assert_eq!((word(1), word(2)), (xid, 1));
    match (word(3), record.len()) {
        (0, _) => {
            assert_eq!((word(4), word(5)), (0, 0), "the verifier");
            match (word(6), record.len()) {
                (0, _) | (1 | 3 | 4, 28) | (2, 36) => {}
                other => panic!("accept_stat and length {other:?}"),
            }
        }
        (1, 28) => assert_eq!(word(4), 0, "RPC_MISMATCH"),
        (1, 24) => assert_eq!(word(4), 1, "AUTH_ERROR"),
        other => panic!("reply_stat and length {other:?}"),
    }
}

#[tokio::test]
async fn every_call_is_answered_as_the_rfc_says_or_is_none() {
    let corpus = golden::calls();
    for_seeds(2, 2, async |seed| {
        let nfs = Nfs::new(&KEY, None).unwrap();
        nfs.export("demo", open_rules(), Some(Fixed::new()));
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut calls, mut successes) = (0, 0);
        for round in 0..ROUNDS {
            let mut call = corpus[random.usize(..corpus.len())][4..].to_vec();
            let other = corpus[random.usize(..corpus.len())][4..].to_vec();
            call[..4].copy_from_slice(&round.to_be_bytes());
            // Mostly what is after the header of a call: xid, CALL, 2, program, version, procedure, credentials.
            let keep = [0, 24, 72, 72, 72, 72][random.usize(..6)].min(call.len());
            mutate(&mut random, &mut call, &other, keep);
            let trying = Trying { seed, round, bytes: call };
            let record = Bytes::copy_from_slice(&trying.bytes);
            let xid = record.first_chunk().map_or(0, |xid| u32::from_be_bytes(*xid));
            let answer = match Request::parse(record, ([127, 0, 0, 1], 700).into()) {
                Err(_) => continue,
                Ok(Err(refused)) => refused.finish(),
                Ok(Ok(request)) => {
                    calls += 1;
                    let answered = tokio::time::timeout(Duration::from_secs(20), nfs.clone().carry_out(request)).await;
                    answered.expect("an answer in time").expect("an answer")
                }
            };
            let answer = [answer.0, answer.1.concat()].concat();
            check_answer(xid, &answer);
            successes += u32::from(answer.len() >= 32 && answer[12..16] == [0; 4] && answer[24..28] == [0; 4]);
        }
        nfs.drain().await;
        // Mutations that nothing understands would test nothing.
        assert!(calls > ROUNDS / 2 && successes > ROUNDS / 10, "{calls} calls, {successes} with results");
    })
    .await;
}

/// The same over sockets and UDP, where connections end and others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_outlives_garbage() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let corpus = golden::calls();
    let served = Served::new().await;
    let datagrams = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let datagram_address = datagrams.local_addr().unwrap();
    tokio::spawn(served.nfs.clone().serve_datagrams(datagrams));
    let sender = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for_seeds(1, 4, async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..200 {
            let mut trying = Trying { seed, round, bytes: Vec::new() };
            for _ in 0..random.u32(1..20) {
                let mut call = corpus[random.usize(..corpus.len())].clone();
                if random.bool() {
                    let other = corpus[random.usize(..corpus.len())].clone();
                    let keep = if random.u32(..8) == 0 { 0 } else { 4 };
                    mutate(&mut random, &mut call, &other, keep);
                }
                let _ = sender.send_to(&call[4.min(call.len())..], datagram_address).await;
                trying.bytes.extend(call);
            }
            let mut socket = tokio::net::TcpStream::connect(served.address).await.unwrap();
            let _ = socket.write_all(&trying.bytes).await;
            let _ = socket.shutdown().await;
            let mut answers = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut answers)).await;
            assert!(read.is_ok(), "the connection neither goes on nor ends");
        }
        let (mut client, root) = served.mounted().await;
        assert!(client.getattr(&root).await.is_ok());
        assert!(served.nfs.status().connections <= 2);
    })
    .await;
}

//! The duplicate-request cache: a call that changes something is carried out once, however often it is sent.
//!
//! A client that lost its connection sends again what was not answered, with the same xid, from another connection. It is known by the
//! client's address, xid, procedure and a checksum; a duplicate of a call that still runs waits for its answer.
//!
//! Invariants: bounded in entries, oldest answers go first; an answer that is in the cache was sent, or could have been; a call that ended
//! without an answer (its task died) is forgotten, and its duplicates are not answered.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::rpc::Request;

/// Shards, by xid: calls of one client are spread over all of them.
const SHARDS: usize = 16;
/// Answers that are kept in all; Linux' server keeps about as many per GiB of memory.
const ANSWERS_MAX: usize = 32_768;
/// Answers of any size are kept whole: none of a procedure that changes something is longer than this, in bytes.
const ANSWER_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: IpAddr,
    xid: u32,
    program: u32,
    procedure: u32,
    checksum: u32,
}

type Answer = watch::Receiver<Option<Bytes>>;

#[derive(Default)]
struct Shard {
    calls: HashMap<Key, Answer>,
    /// Answered calls, oldest first.
    answered: VecDeque<Key>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Duplicates {
    shards: [Mutex<Shard>; SHARDS],
}

/// What to do with a call.
pub(super) enum Known<'a> {
    /// Carry it out, and tell the answer.
    New(Running<'a>),
    /// It runs, or was answered.
    Duplicate(Answer),
}

/// A call that is being carried out.
pub(super) struct Running<'a> {
    cache: &'a Duplicates,
    key: Key,
    answer: watch::Sender<Option<Bytes>>,
    is_answered: bool,
}

impl Duplicates {
    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        &self.shards[key.xid as usize % SHARDS]
    }

    /// Looks a call up and, where it is new, notes it.
    pub(super) fn begin(&self, request: &Request) -> Known<'_> {
        let key = Key {
            address: request.peer.ip(),
            xid: request.xid,
            program: request.program,
            procedure: request.procedure,
            checksum: request.checksum,
        };
        let mut shard = self.shard(&key).lock();
        if let Some(answer) = shard.calls.get(&key) {
            return Known::Duplicate(answer.clone());
        }
        let (answer, receiver) = watch::channel(None);
        shard.calls.insert(key, receiver);
        Known::New(Running { cache: self, key, answer, is_answered: false })
    }
}

impl Running<'_> {
    /// Keeps the answer: the whole record.
    pub(super) fn answered(mut self, record: &[u8]) {
        debug_assert!(record.len() <= ANSWER_BYTES_MAX);
        self.answer.send_replace(Some(Bytes::copy_from_slice(record)));
        self.is_answered = true;
        let mut shard = self.cache.shard(&self.key).lock();
        shard.answered.push_back(self.key);
        while shard.answered.len() > ANSWERS_MAX / SHARDS {
            if let Some(oldest) = shard.answered.pop_front() {
                shard.calls.remove(&oldest);
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.cache.shard(&self.key).lock().calls.remove(&self.key);
        }
    }
}

/// The answer of a duplicate's original; `None` where that ended without one.
pub(super) async fn answer_of(mut answer: Answer) -> Option<Bytes> {
    answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::nfs::rpc::Credential;
    use crate::protocol::nfs::xdr::Decoder;

    fn request(xid: u32, port: u16, checksum: u32) -> Request {
        Request {
            peer: ([10, 0, 0, 1], port).into(),
            xid,
            program: 100_003,
            version: 3,
            procedure: 8,
            credential: Credential::None,
            args: Decoder::new(Bytes::new()),
            checksum,
        }
    }

    fn begin(cache: &Duplicates, request: &Request) -> Result<Answer, ()> {
        match cache.begin(request) {
            Known::Duplicate(answer) => Ok(answer),
            Known::New(running) => {
                running.answered(&request.xid.to_be_bytes());
                Err(())
            }
        }
    }

    #[tokio::test]
    async fn a_duplicate_gets_the_first_answer_from_any_connection() {
        let cache = Duplicates::default();
        let Known::New(running) = cache.begin(&request(1, 700, 9)) else { panic!() };
        let Known::Duplicate(waiting) = cache.begin(&request(1, 701, 9)) else { panic!() };
        running.answered(b"done");
        assert_eq!(answer_of(waiting).await.unwrap(), "done");
        let Known::Duplicate(late) = cache.begin(&request(1, 702, 9)) else { panic!() };
        assert_eq!(answer_of(late).await.unwrap(), "done");
        assert!(begin(&cache, &request(1, 700, 8)).is_err(), "another call with the same xid");
    }

    #[tokio::test]
    async fn a_call_without_an_answer_is_forgotten() {
        let cache = Duplicates::default();
        let Known::New(running) = cache.begin(&request(1, 700, 9)) else { panic!() };
        let Known::Duplicate(waiting) = cache.begin(&request(1, 701, 9)) else { panic!() };
        drop(running);
        assert_eq!(answer_of(waiting).await, None);
        assert!(begin(&cache, &request(1, 700, 9)).is_err());
    }

    #[test]
    fn the_oldest_answers_go_first() {
        let cache = Duplicates::default();
        let many = u32::try_from(ANSWERS_MAX).unwrap() + 160;
        for xid in 0..many {
            assert!(begin(&cache, &request(xid, 700, 0)).is_err());
        }
        assert!(begin(&cache, &request(many - 1, 700, 0)).is_ok());
        assert!(begin(&cache, &request(0, 700, 0)).is_err());
        let kept: usize = cache.shards.iter().map(|shard| shard.lock().calls.len()).sum();
        assert!(kept <= ANSWERS_MAX);
    }
}

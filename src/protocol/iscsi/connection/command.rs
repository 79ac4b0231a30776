//! SCSI commands: from their arrival over the wait for room and for data to their response (RFC 7143 §11.3, §11.4, §11.7).
//!
//! ```text
//!   Starving ── a part of the budget ──► Gathering ── all data ──► Running ──► answered
//! ```
//!
//! Invariants:
//! - A command has a slot from its arrival until its response is in the outbox, or it was aborted.
//! - What it moves is held of the budget before it is asked for, or read; until it is with the unit, or written to the socket.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::super::pdu::{FINAL, Header, NO_TAG, Pdu, at, response};
use super::super::window::COMMANDS_MAX;
use super::data::Gather;
use super::{Connection, Done, End};
use crate::base::purse::Held;
use crate::protocol::scsi::{Attribute, Cdb, Completion, Moves, Status, Task};

/// Commands under way, with immediate ones.
const SLOTS_MAX: usize = COMMANDS_MAX as usize + 16;
/// The most that one command may move, in bytes; units take less.
const MOVED_BYTES_MAX: u64 = 16 << 20;
const READS: u8 = 0x40;
const WRITES: u8 = 0x20;
/// Residual flags of responses.
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
/// Data-In with status.
const WITH_STATUS: u8 = 0x01;

/// A command under way.
pub(super) struct Slot {
    pub(super) lun: [u8; 8],
    /// ExpectedDataTransferLength, in bytes.
    expected_bytes: u32,
    flags: u8,
    moves: Moves,
    state: State,
    pub(super) cancel: CancellationToken,
    /// Its response is not wanted any more.
    pub(super) is_aborted: bool,
    /// R2Ts that were sent.
    pub(super) r2t_number: u32,
}

enum State {
    Starving(Task, Gather),
    Gathering(Task, Gather, Option<Held>),
    Running,
}

impl Slot {
    /// Whether the initiator owes Data-Out.
    pub(super) fn waits_for_data(&self) -> bool {
        matches!(self.state, State::Gathering(..))
    }

    pub(super) fn gather(&mut self) -> Option<&mut Gather> {
        match &mut self.state {
            State::Starving(_, gather) | State::Gathering(_, gather, _) => Some(gather),
            State::Running => None,
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    /// What is needed of the budget, in bytes.
    fn needs_bytes(&self) -> usize {
        match self.moves {
            Moves::Nothing => 0,
            Moves::In(bytes) | Moves::Out(bytes) => bytes.min(MOVED_BYTES_MAX) as usize,
        }
    }
}

/// The CDB of a command, with what is in an extended CDB header (§11.2.2.3).
fn cdb_of(pdu: &Pdu) -> Result<Cdb, End> {
    let mut bytes = pdu.header.0[32..48].to_vec();
    let mut more = &pdu.more[..];
    while let [high, low, kind, rest @ ..] = more {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(body) = rest.get(..len) else { return Err(End::Protocol("an additional header beyond its end")) };
        if *kind == 1 {
            bytes.extend(body.iter().skip(1));
        }
        more = more.get((3 + len).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Cdb::new(&bytes))
}

impl Connection {
    pub(super) fn command(&mut self, pdu: Pdu) -> Result<(), End> {
        let Some((target, nexus)) = &self.target else { return Ok(()) };
        let header = &pdu.header;
        let (tag, flags) = (header.task(), header.flags());
        let goes_on = flags & FINAL == 0;
        let first_burst_bytes = self.terms.first_burst_bytes() as usize;
        if tag == NO_TAG || !pdu.data.is_empty() && !self.terms.immediate_data || pdu.data.len() > first_burst_bytes {
            return Err(End::Protocol("a command with a tag or data that it may not have"));
        }
        if goes_on && (self.terms.initial_r2t || flags & WRITES == 0) {
            return Err(End::Protocol("unsolicited data that was not agreed on"));
        }
        let cdb = cdb_of(&pdu)?;
        if self.slots.contains_key(&tag) {
            self.reject(&pdu.header, 0x07);
            return Ok(());
        }
        if self.slots.len() >= SLOTS_MAX {
            self.reject(&pdu.header, 0x06);
            return Ok(());
        }
        let attribute = match flags & 7 {
            2 => Attribute::Ordered,
            3 => Attribute::Head,
            _ => Attribute::Simple,
        };
        let task = target.scsi.begin(nexus, header.lun(), attribute, cdb);
        let (moves, expected_bytes) = (task.moves(), header.word(at::TRANSFER));
        let wanted = match moves {
            Moves::Out(bytes) if flags & WRITES != 0 && bytes <= MOVED_BYTES_MAX => bytes.min(expected_bytes.into()) as usize,
            _ => 0,
        };
        let gather = Gather::new(wanted, goes_on, first_burst_bytes, pdu.data.clone());
        let slot = Slot {
            lun: header.lun(),
            expected_bytes,
            flags,
            moves,
            cancel: task.cancel(),
            state: State::Starving(task, gather),
            is_aborted: false,
            r2t_number: 0,
        };
        let needs_bytes = slot.needs_bytes();
        self.slots.insert(tag, slot);
        if needs_bytes == 0 {
            self.feed(tag, None);
        } else if let Some(held) = self.starving.is_empty().then(|| self.purse.try_hold(needs_bytes)).flatten() {
            self.feed(tag, Some(held));
        } else {
            self.starving.push_back(tag);
            self.ask_for_room();
        }
        Ok(())
    }

    /// Asks for what the first of those that wait needs.
    fn ask_for_room(&mut self) {
        while self.grant.is_none() {
            let Some(tag) = self.starving.front() else { return };
            match self.slots.get(tag) {
                Some(slot) if matches!(slot.state, State::Starving(..)) => {
                    self.grant = Some(Box::pin(self.purse.clone().hold(slot.needs_bytes())));
                }
                _ => drop(self.starving.pop_front()),
            }
        }
    }

    pub(super) fn granted(&mut self, held: Option<Held>) {
        self.grant = None;
        if let Some(tag) = self.starving.pop_front() {
            self.feed(tag, held);
        }
        self.ask_for_room();
    }

    /// There is room for what a command moves.
    fn feed(&mut self, tag: u32, held: Option<Held>) {
        let Some(slot) = self.slots.get_mut(&tag) else { return };
        match std::mem::replace(&mut slot.state, State::Running) {
            State::Starving(task, gather) => slot.state = State::Gathering(task, gather, held),
            other => slot.state = other,
        }
        self.go_on(tag);
    }

    /// Runs a command whose data is there, or asks for more of it.
    pub(super) fn go_on(&mut self, tag: u32) {
        let Some(slot) = self.slots.get_mut(&tag) else { return };
        match std::mem::replace(&mut slot.state, State::Running) {
            State::Gathering(task, gather, held) if gather.is_whole() => {
                let announced_bytes = if slot.flags & WRITES != 0 { slot.expected_bytes.into() } else { 0 };
                self.start(tag, task, gather.into_bytes(), announced_bytes, held);
            }
            State::Gathering(task, gather, held) => {
                slot.state = State::Gathering(task, gather, held);
                self.solicit(tag);
            }
            other => slot.state = other,
        }
    }

    /// What is ready at once is answered at once; the rest goes on in a task of its own.
    fn start(&mut self, tag: u32, task: Task, data: Bytes, announced_bytes: u64, held: Option<Held>) {
        let mut running = Box::pin(task.execute(data, announced_bytes));
        match running.as_mut().now_or_never() {
            Some(completion) => self.complete(tag, completion, held),
            None => drop(self.running.spawn(async move { Done::Command(tag, running.await, held) })),
        }
    }

    /// A command has ended. `None`: it was aborted.
    pub(super) fn complete(&mut self, tag: u32, completion: Option<Completion>, held: Option<Held>) {
        let Some(slot) = self.slots.remove(&tag) else { return };
        if let Some(completion) = completion.filter(|_| !slot.is_aborted) {
            self.respond(tag, &slot, completion, held);
        }
        self.managed_lost(tag);
    }

    fn respond(&mut self, tag: u32, slot: &Slot, completion: Completion, held: Option<Held>) {
        let readable = if slot.flags & READS != 0 { slot.expected_bytes as usize } else { 0 };
        let data_bytes: usize = completion.data.iter().map(Bytes::len).sum();
        let moved = match slot.moves {
            Moves::Out(bytes) => bytes,
            _ => data_bytes as u64,
        };
        let expected = match slot.moves {
            Moves::Out(_) if slot.flags & WRITES == 0 => 0,
            Moves::In(_) => readable as u64,
            _ => slot.expected_bytes.into(),
        };
        let residual = Residual::of(moved, expected);
        let sent_bytes = data_bytes.min(readable);
        let with_status = sent_bytes > 0 && completion.status == Status::Good;
        let units = self.data_in(tag, slot, completion.data, sent_bytes, with_status.then_some(&residual), held);
        if with_status {
            return;
        }
        let mut header = Header::new(response::RESPONSE, tag);
        header.0[1] |= residual.flag;
        header.0[3] = completion.status as u8;
        header.set(at::DATA, units.max(slot.r2t_number));
        header.set(at::COUNT, residual.count);
        let mut data = Vec::new();
        if !completion.sense.is_empty() {
            data.push(Bytes::from([&(completion.sense.len() as u16).to_be_bytes()[..], &completion.sense].concat()));
        }
        self.answer(header, data, None);
    }

    /// Sends Data-In in units that the initiator takes, with the status in the last where it is GOOD. How many they were.
    fn data_in(
        &mut self,
        tag: u32,
        slot: &Slot,
        data: Vec<Bytes>,
        sent_bytes: usize,
        status: Option<&Residual>,
        mut held: Option<Held>,
    ) -> u32 {
        let mut pieces: VecDeque<Bytes> = data.into();
        let (mut offset, mut number) = (0, 0);
        let burst = self.terms.burst_bytes as usize;
        while offset < sent_bytes {
            let to_burst_end = burst - offset % burst;
            let len = (sent_bytes - offset).min(self.terms.sent_bytes_max as usize).min(to_burst_end);
            let is_last = offset + len == sent_bytes;
            let mut header = Header::new(response::DATA_IN, tag);
            header.0[1] = if is_last || len == to_burst_end { FINAL } else { 0 };
            header.set_lun(slot.lun);
            header.set(at::TRANSFER, NO_TAG);
            header.set(at::DATA, number);
            header.set(at::OFFSET, offset as u32);
            let unit = split(&mut pieces, len);
            match status.filter(|_| is_last) {
                Some(residual) => {
                    header.0[1] |= WITH_STATUS | residual.flag;
                    header.set(at::COUNT, residual.count);
                    self.answer(header, unit, held.take());
                }
                // Without status the unit has no status number.
                None => self.push(header, 0, unit, if is_last { held.take() } else { None }),
            }
            offset += len;
            number += 1;
        }
        number
    }

    /// Ends tasks that were aborted by others before they ran.
    pub(super) fn sweep(&mut self) {
        let gone = |slot: &Slot| slot.cancel.is_cancelled() && !slot.is_running();
        let tags: Vec<u32> = self.slots.iter().filter(|(_, slot)| gone(slot)).map(|(tag, _)| *tag).collect();
        for tag in tags {
            self.complete(tag, None, None);
        }
        self.ask_for_room();
    }
}

/// The first `len` bytes of a row of pieces.
fn split(pieces: &mut VecDeque<Bytes>, mut len: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    while len > 0 {
        let Some(first) = pieces.front_mut() else { break };
        if first.len() > len {
            taken.push(first.split_to(len));
            break;
        }
        len -= first.len();
        taken.extend(pieces.pop_front());
    }
    taken
}

/// How much less or more a command moved than the initiator expected (§11.4.5).
#[derive(Debug, PartialEq, Eq)]
struct Residual {
    flag: u8,
    count: u32,
}

impl Residual {
    fn of(moved: u64, expected: u64) -> Self {
        let count = u32::try_from(moved.abs_diff(expected)).unwrap_or(u32::MAX);
        let flag = match moved.cmp(&expected) {
            std::cmp::Ordering::Greater => OVERFLOW,
            std::cmp::Ordering::Less => UNDERFLOW,
            std::cmp::Ordering::Equal => 0,
        };
        Self { flag, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_say_how_much_and_which_way() {
        assert_eq!(Residual::of(512, 512), Residual { flag: 0, count: 0 });
        assert_eq!(Residual::of(512, 10_000), Residual { flag: UNDERFLOW, count: 9488 });
        assert_eq!(Residual::of(512, 0), Residual { flag: OVERFLOW, count: 512 });
        assert_eq!(Residual::of(1 << 41, 0), Residual { flag: OVERFLOW, count: u32::MAX });
    }

    #[test]
    fn pieces_are_split_where_units_end() {
        let mut pieces: VecDeque<Bytes> = [&b"abc"[..], b"", b"defg"].into_iter().map(Bytes::from_static).collect();
        assert_eq!(split(&mut pieces, 5).concat(), b"abcde");
        assert_eq!(split(&mut pieces, 5).concat(), b"fg");
        assert!(pieces.is_empty());
    }

    #[test]
    fn extended_blocks_are_put_together() {
        let mut header = Header::new(1, 1);
        header.0[32] = 0x7f;
        let more = Bytes::from_static(&[0, 5, 1, 0, 1, 2, 3, 4]);
        let pdu = Pdu { header, more, data: Bytes::new() };
        let cdb = cdb_of(&pdu).unwrap();
        assert_eq!((cdb.code(), cdb.len(), cdb.number(16, 4)), (0x7f, 20, 0x0102_0304));
        let beyond = Pdu { more: Bytes::from_static(&[0xff, 0xff, 1, 0]), ..pdu };
        assert!(cdb_of(&beyond).is_err());
    }
}

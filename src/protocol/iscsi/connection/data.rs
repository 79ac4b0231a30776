//! Data-Out: immediate, unsolicited, and asked for by R2T (RFC 7143 §4.2.5.2, §11.7, §11.8).
//!
//! Invariants: data comes in order, as was negotiated; what the command does not need is dropped, not kept; what came in one unit is not
//! copied, what came in several is copied once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::super::pdu::{Header, NO_TAG, Pdu, at, response};
use super::Connection;
use crate::protocol::scsi::{Completion, Condition};

/// A part that was asked for.
#[derive(Debug)]
struct Solicited {
    transfer: u32,
    offset: usize,
    len: usize,
    received: usize,
    data_number: u32,
}

/// The data of a command, as it comes.
#[derive(Debug)]
pub(super) struct Gather {
    /// What the command needs, in bytes.
    wanted: usize,
    /// What came in one unit and is all, or the beginning.
    first: Bytes,
    rest: BytesMut,
    received: usize,
    /// More comes without being asked for: so much at most.
    unsolicited_left: Option<usize>,
    unsolicited_number: u32,
    /// Asked for up to here.
    solicited: usize,
    waiting: VecDeque<Solicited>,
}

impl Gather {
    /// `goes_on`: unsolicited data follows the immediate.
    pub(super) fn new(wanted: usize, goes_on: bool, first_burst_bytes: usize, immediate: Bytes) -> Self {
        let unsolicited_left = goes_on.then(|| first_burst_bytes.saturating_sub(immediate.len()));
        let mut gather = Self {
            wanted,
            first: Bytes::new(),
            rest: BytesMut::new(),
            received: 0,
            unsolicited_left,
            unsolicited_number: 0,
            solicited: 0,
            waiting: VecDeque::new(),
        };
        gather.keep(immediate);
        gather
    }

    fn keep(&mut self, mut data: Bytes) {
        let needed = data.len().min(self.wanted.saturating_sub(self.received));
        self.received += data.len();
        data.truncate(needed);
        if needed == 0 {
            return;
        }
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = data;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(self.wanted);
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&data);
    }

    /// Whether the command may run.
    pub(super) fn is_whole(&self) -> bool {
        self.received >= self.wanted && self.unsolicited_left.is_none()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }

    /// Takes a unit of data.
    ///
    /// # Errors
    /// Where it is not what has to come: the command fails so (RFC 7143 §11.4.7.2).
    fn take(&mut self, header: &Header, data: Bytes) -> Result<(), Condition> {
        let (transfer, number, offset) = (header.word(at::TRANSFER), header.word(at::DATA), header.word(at::OFFSET) as usize);
        if offset != self.received {
            return Err(Condition::PROTOCOL_SERVICE_CRC_ERROR);
        }
        if transfer == NO_TAG {
            let left = self.unsolicited_left.ok_or(Condition::WRITE_ERROR_UNEXPECTED_UNSOLICITED_DATA)?;
            let left = left.checked_sub(data.len()).ok_or(Condition::WRITE_ERROR_UNEXPECTED_UNSOLICITED_DATA)?;
            if number != self.unsolicited_number {
                return Err(Condition::PROTOCOL_SERVICE_CRC_ERROR);
            }
            self.unsolicited_number = self.unsolicited_number.wrapping_add(1);
            self.unsolicited_left = (!header.is_final()).then_some(left);
            self.keep(data);
            return Ok(());
        }
        let part = self.waiting.front_mut().filter(|part| part.transfer == transfer);
        let part = part.ok_or(Condition::PROTOCOL_SERVICE_CRC_ERROR)?;
        if number != part.data_number || offset != part.offset + part.received {
            return Err(Condition::PROTOCOL_SERVICE_CRC_ERROR);
        }
        part.data_number = part.data_number.wrapping_add(1);
        part.received += data.len();
        if part.received > part.len || header.is_final() != (part.received == part.len) {
            return Err(Condition::PROTOCOL_SERVICE_CRC_ERROR);
        }
        if part.received == part.len {
            self.waiting.pop_front();
        }
        self.keep(data);
        Ok(())
    }

    /// The next part to ask for: its offset and length.
    fn ask(&mut self, transfer: u32, burst_bytes: usize, parts_max: usize) -> Option<(usize, usize)> {
        if self.unsolicited_left.is_some() || self.waiting.len() >= parts_max {
            return None;
        }
        let offset = self.solicited.max(if self.waiting.is_empty() { self.received } else { 0 });
        let len = self.wanted.saturating_sub(offset).min(burst_bytes);
        if len == 0 {
            return None;
        }
        self.solicited = offset + len;
        self.waiting.push_back(Solicited { transfer, offset, len, received: 0, data_number: 0 });
        Some((offset, len))
    }
}

impl Connection {
    /// A unit of data. What belongs to no command was asked for by one that has ended: it is dropped.
    pub(super) fn data_out(&mut self, pdu: &Pdu) {
        let tag = pdu.header.task();
        let Some(gather) = self.slots.get_mut(&tag).and_then(|slot| slot.gather()) else { return };
        match gather.take(&pdu.header, pdu.data.clone()) {
            Ok(()) => self.go_on(tag),
            // What else comes for it is dropped.
            Err(condition) => self.complete(tag, Some(Completion::failed(condition)), None),
        }
    }

    /// Asks for as much as may be asked for at a time.
    pub(super) fn solicit(&mut self, tag: u32) {
        let (burst_bytes, parts_max) = (self.terms.burst_bytes as usize, self.terms.r2t_max as usize);
        while let Some(slot) = self.slots.get_mut(&tag) {
            let transfer = self.next_transfer;
            let (lun, number) = (slot.lun, slot.r2t_number);
            let Some((offset, len)) = slot.gather().and_then(|gather| gather.ask(transfer, burst_bytes, parts_max)) else {
                return;
            };
            slot.r2t_number += 1;
            // Any but the one that means "none".
            self.next_transfer = (transfer + 1) % NO_TAG;
            let mut header = Header::new(response::R2T, tag);
            header.set_lun(lun);
            header.set(at::TRANSFER, transfer);
            header.set(at::DATA, number);
            header.set(at::OFFSET, offset as u32);
            header.set(at::COUNT, len as u32);
            self.tell(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::pdu::request;
    use super::*;

    fn unit(transfer: u32, number: u32, offset: usize, is_final: bool) -> Header {
        let mut header = Header::new(request::DATA_OUT, 1);
        header.0[1] = if is_final { 0x80 } else { 0 };
        header.set(at::TRANSFER, transfer);
        header.set(at::DATA, number);
        header.set(at::OFFSET, offset as u32);
        header
    }

    fn bytes(value: u8, len: usize) -> Bytes {
        vec![value; len].into()
    }

    #[test]
    fn immediate_data_that_is_all_is_not_copied() {
        let data = bytes(3, 4096);
        let gather = Gather::new(4096, false, 8192, data.clone());
        assert!(gather.is_whole());
        assert_eq!(gather.into_bytes().as_ptr(), data.as_ptr());
        assert!(Gather::new(0, false, 8192, Bytes::new()).is_whole());
    }

    #[test]
    fn parts_come_in_sequence_and_in_bursts() {
        let mut gather = Gather::new(3000, true, 1500, bytes(1, 500));
        assert_eq!(gather.ask(0, 1000, 2), None, "unsolicited data comes first");
        gather.take(&unit(NO_TAG, 0, 500, false), bytes(2, 400)).unwrap();
        gather.take(&unit(NO_TAG, 1, 900, true), bytes(3, 100)).unwrap();
        assert_eq!(gather.ask(7, 1200, 2), Some((1000, 1200)));
        assert_eq!(gather.ask(8, 1200, 2), Some((2200, 800)));
        assert_eq!(gather.ask(9, 1200, 2), None);
        gather.take(&unit(7, 0, 1000, false), bytes(4, 1000)).unwrap();
        gather.take(&unit(7, 1, 2000, true), bytes(5, 200)).unwrap();
        assert!(!gather.is_whole());
        gather.take(&unit(8, 0, 2200, true), bytes(6, 800)).unwrap();
        assert!(gather.is_whole());
        let expected = [bytes(1, 500), bytes(2, 400), bytes(3, 100), bytes(4, 1000), bytes(5, 200), bytes(6, 800)].concat();
        assert_eq!(gather.into_bytes(), expected);
    }

    #[test]
    fn what_is_not_needed_is_dropped() {
        let mut gather = Gather::new(512, true, 10_000, bytes(1, 400));
        gather.take(&unit(NO_TAG, 0, 400, true), bytes(2, 9000)).unwrap();
        assert!(gather.is_whole());
        assert_eq!(gather.into_bytes(), [bytes(1, 400), bytes(2, 112)].concat());
    }

    #[test]
    fn what_does_not_have_to_come_is_refused() {
        let asked = || {
            let mut gather = Gather::new(2000, false, 512, Bytes::new());
            gather.ask(5, 1000, 2).unwrap();
            gather.ask(6, 1000, 2).unwrap();
            gather
        };
        for (header, len) in [
            (unit(5, 1, 0, false), 100),
            (unit(5, 0, 4, false), 100),
            (unit(9, 0, 0, false), 100),
            (unit(6, 0, 1000, false), 100),
            (unit(5, 0, 0, true), 999),
            (unit(5, 0, 0, false), 1000),
            (unit(5, 0, 0, true), 1001),
            (unit(NO_TAG, 0, 0, true), 10),
        ] {
            assert!(asked().take(&header, bytes(0, len)).is_err(), "{header:?} {len}");
        }
        let unsolicited = || Gather::new(2000, true, 512, Bytes::new());
        assert!(unsolicited().take(&unit(NO_TAG, 0, 0, true), bytes(0, 513)).is_err());
        assert!(unsolicited().take(&unit(NO_TAG, 1, 0, true), bytes(0, 512)).is_err());
        assert!(unsolicited().take(&unit(NO_TAG, 0, 0, true), bytes(0, 512)).is_ok());
    }
}

//! Protocol data units (RFC 7143 §11): a header of 48 bytes, additional headers, data. Fields are named where they are used by the RFC's
//! names; the places of those that several units share are here.
//!
//! Invariant: reading a field never fails; what the fields mean together is checked by whom they concern.

use bytes::Bytes;

/// BASIC HEADER SEGMENT, in bytes.
pub(super) const HEADER_BYTES: usize = 48;
/// The value of a tag that is none.
pub(super) const NO_TAG: u32 = 0xffff_ffff;

/// What initiators send (§11.2.1.2).
pub(super) mod request {
    pub(in super::super) const NOP_OUT: u8 = 0x00;
    pub(in super::super) const COMMAND: u8 = 0x01;
    pub(in super::super) const TASK_MANAGEMENT: u8 = 0x02;
    pub(in super::super) const LOGIN: u8 = 0x03;
    pub(in super::super) const TEXT: u8 = 0x04;
    pub(in super::super) const DATA_OUT: u8 = 0x05;
    pub(in super::super) const LOGOUT: u8 = 0x06;
    pub(in super::super) const SNACK: u8 = 0x10;
}

/// What targets send (§11.2.1.2).
pub(super) mod response {
    pub(in super::super) const NOP_IN: u8 = 0x20;
    pub(in super::super) const RESPONSE: u8 = 0x21;
    pub(in super::super) const TASK_MANAGEMENT: u8 = 0x22;
    pub(in super::super) const LOGIN: u8 = 0x23;
    pub(in super::super) const TEXT: u8 = 0x24;
    pub(in super::super) const DATA_IN: u8 = 0x25;
    pub(in super::super) const LOGOUT: u8 = 0x26;
    pub(in super::super) const R2T: u8 = 0x31;
    pub(in super::super) const ASYNC: u8 = 0x32;
    pub(in super::super) const REJECT: u8 = 0x3f;
}

/// The F bit, and others that are in byte 1's highest place.
pub(super) const FINAL: u8 = 0x80;

/// Places of fields.
pub(super) mod at {
    pub(in super::super) const LUN: usize = 8;
    pub(in super::super) const TASK: usize = 16;
    /// TARGET TRANSFER TAG, REFERENCED TASK TAG.
    pub(in super::super) const TRANSFER: usize = 20;
    /// CmdSN of requests, StatSN of responses.
    pub(in super::super) const COMMAND: usize = 24;
    pub(in super::super) const STATUS: usize = 24;
    /// ExpStatSN of requests, ExpCmdSN of responses.
    pub(in super::super) const EXPECTED: usize = 28;
    pub(in super::super) const COMMAND_MAX: usize = 32;
    /// DataSN, R2TSN.
    pub(in super::super) const DATA: usize = 36;
    pub(in super::super) const OFFSET: usize = 40;
    /// Residual count, desired data transfer length.
    pub(in super::super) const COUNT: usize = 44;
}

/// A unit as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pdu {
    pub(super) header: Header,
    /// Additional headers.
    pub(super) more: Bytes,
    pub(super) data: Bytes,
}

/// The basic header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header(pub(super) [u8; HEADER_BYTES]);

impl Header {
    /// A header of the target's: final, with a task tag.
    pub(super) fn new(opcode: u8, task: u32) -> Self {
        let mut header = Self([0; HEADER_BYTES]);
        header.0[0] = opcode;
        header.0[1] = FINAL;
        header.set(at::TASK, task);
        header
    }

    pub(super) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(super) fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    pub(super) fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(super) fn is_final(&self) -> bool {
        self.flags() & FINAL != 0
    }

    pub(super) fn word(&self, at: usize) -> u32 {
        self.0[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    pub(super) fn half(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(super) fn set(&mut self, at: usize, word: u32) {
        self.0[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }

    pub(super) fn task(&self) -> u32 {
        self.word(at::TASK)
    }

    pub(super) fn lun(&self) -> [u8; 8] {
        let mut lun = [0; 8];
        lun.copy_from_slice(&self.0[at::LUN..at::LUN + 8]);
        lun
    }

    pub(super) fn set_lun(&mut self, lun: [u8; 8]) {
        self.0[at::LUN..at::LUN + 8].copy_from_slice(&lun);
    }

    /// Additional headers, in bytes.
    pub(super) fn more_bytes(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// DataSegmentLength, in bytes: at most 2^24 - 1.
    pub(super) fn data_bytes(&self) -> usize {
        (self.word(4) & 0x00ff_ffff) as usize
    }

    pub(super) fn set_data_bytes(&mut self, len: usize) {
        let bytes = (len as u32).to_be_bytes();
        self.0[5..8].copy_from_slice(&bytes[1..]);
    }
}

/// The order of serial numbers (RFC 1982): how far `a` is ahead of `b`.
pub(super) fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

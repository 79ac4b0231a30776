//! The command window (RFC 7143 §4.2.2.1): which command numbers may come, and which came too early.
//!
//! Invariants: MaxCmdSN never goes back; at most [`COMMANDS_MAX`] numbered commands are under way or wait for one before them; what is
//! outside the window is dropped, as the RFC says.

use std::collections::BTreeMap;

use super::pdu::{Pdu, ahead};

/// Commands of a session that are under way at a time.
pub(super) const COMMANDS_MAX: u32 = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    /// ExpCmdSN.
    expected: u32,
    /// MaxCmdSN, as told.
    last: u32,
    /// Commands that came before one with a lower number, by how far they were ahead of `base`.
    early: BTreeMap<u32, Pdu>,
    base: u32,
}

impl Window {
    /// The window of a session whose first command has this number.
    pub(super) fn new(first: u32) -> Self {
        Self { expected: first, last: first.wrapping_add(COMMANDS_MAX - 1), early: BTreeMap::new(), base: first }
    }

    pub(super) fn expected(&self) -> u32 {
        self.expected
    }

    /// MaxCmdSN, with so many commands under way.
    pub(super) fn last(&mut self, under_way: usize) -> u32 {
        let free = COMMANDS_MAX.saturating_sub(under_way as u32);
        let last = self.expected.wrapping_add(free).wrapping_sub(1);
        if ahead(last, self.last) > 0 {
            self.last = last;
        }
        self.last
    }

    /// Takes a numbered command; what may be carried out now, in order.
    pub(super) fn take(&mut self, number: u32, pdu: Pdu) -> Vec<Pdu> {
        if ahead(number, self.expected) < 0 || ahead(number, self.last) > 0 {
            return Vec::new();
        }
        if number != self.expected {
            self.early.entry(number.wrapping_sub(self.base)).or_insert(pdu);
            return Vec::new();
        }
        self.expected = self.expected.wrapping_add(1);
        let mut now = vec![pdu];
        while let Some(next) = self.early.remove(&self.expected.wrapping_sub(self.base)) {
            self.expected = self.expected.wrapping_add(1);
            now.push(next);
        }
        if self.early.is_empty() {
            self.base = self.expected;
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::iscsi::pdu::Header;

    const NONE: [u32; 0] = [];

    fn pdu(number: u32) -> Pdu {
        Pdu { header: Header::new(1, number), more: Bytes::new(), data: Bytes::new() }
    }

    fn take(window: &mut Window, number: u32) -> Vec<u32> {
        window.take(number, pdu(number)).iter().map(|pdu| pdu.header.task()).collect()
    }

    #[test]
    fn commands_come_out_in_order_also_around_the_end_of_numbers() {
        for first in [0, 5, u32::MAX - 1] {
            let n = |ahead: u32| first.wrapping_add(ahead);
            let mut window = Window::new(first);
            assert_eq!(take(&mut window, n(1)), NONE);
            assert_eq!(take(&mut window, n(3)), NONE);
            assert_eq!(take(&mut window, n(3)), NONE);
            assert_eq!(take(&mut window, n(0)), [n(0), n(1)]);
            assert_eq!(take(&mut window, n(0)), NONE, "a duplicate");
            assert_eq!(take(&mut window, n(2)), [n(2), n(3)]);
            assert_eq!(window.expected(), n(4));
        }
    }

    #[test]
    fn the_window_closes_and_never_goes_back() {
        let mut window = Window::new(10);
        assert_eq!(window.last(0), 137);
        assert_eq!(take(&mut window, 138), NONE);
        assert_eq!(take(&mut window, 9), NONE);
        for number in 10..138 {
            assert_eq!(take(&mut window, number).len(), 1);
        }
        assert_eq!((window.last(128), window.expected()), (137, 138), "closed");
        assert_eq!(take(&mut window, 138), NONE);
        assert_eq!(window.last(100), 165);
        assert_eq!(window.last(128), 165, "what was told holds");
        assert_eq!(take(&mut window, 138), [138]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut window = Window::new(0);
        for number in (1..100_000).chain(0x8000_0000..0x8000_1000) {
            take(&mut window, number);
        }
        assert_eq!(window.early.len(), COMMANDS_MAX as usize - 1);
    }
}

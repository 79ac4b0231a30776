//! Text requests in the full feature phase: SendTargets, and the few keys that may be said anew (RFC 7143 §11.10, §11.11, appendix C).
//!
//! Invariant: one exchange at a time; an answer that is longer than the initiator takes at once is given in parts.

use bytes::Bytes;

use super::super::keys::Negotiation;
use super::super::pdu::{FINAL, Header, NO_TAG, Pdu, at, response};
use super::super::text::{self, Gathered, Pairs};
use super::{Connection, End};

const CONTINUES: u8 = 0x40;
/// The tag of an exchange that goes on. There is one at a time, so they are all the same.
const TRANSFER: u32 = 1;

/// A text exchange under way.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    gathered: Gathered,
    /// What is still to be given.
    left: Bytes,
}

impl Connection {
    pub(super) fn text_request(&mut self, pdu: &Pdu) -> Result<(), End> {
        if pdu.header.word(at::TRANSFER) == NO_TAG {
            // A new exchange ends an old one (§11.10.3).
            self.text.left = Bytes::new();
        } else if !self.text.left.is_empty() {
            self.give_text(pdu);
            return Ok(());
        }
        let goes_on = pdu.header.flags() & CONTINUES != 0;
        let pairs = self.text.gathered.add(&pdu.data, goes_on).map_err(|_| End::Protocol("text that is none"))?;
        if let Some(pairs) = pairs {
            let answers = self.answers(&pairs);
            let text = text::write(answers.iter().map(|(key, value)| (key.as_str(), value.as_str())));
            self.text.left = text.into();
            self.give_text(pdu);
        } else {
            self.text_response(pdu, Bytes::new(), 0);
        }
        Ok(())
    }

    /// As much of the answer as the initiator takes.
    fn give_text(&mut self, pdu: &Pdu) {
        let len = self.text.left.len().min(self.terms.sent_bytes_max as usize);
        let part = self.text.left.split_to(len);
        let flags = if self.text.left.is_empty() { FINAL } else { CONTINUES };
        self.text_response(pdu, part, flags);
    }

    fn text_response(&mut self, pdu: &Pdu, part: Bytes, flags: u8) {
        let mut header = Header::new(response::TEXT, pdu.header.task());
        header.0[1] = flags;
        header.set_lun(pdu.header.lun());
        header.set(at::TRANSFER, if flags == FINAL { NO_TAG } else { TRANSFER });
        self.answer(header, vec![part], None);
    }

    fn answers(&mut self, pairs: &Pairs) -> Pairs {
        let mut answers = Vec::new();
        for (key, value) in pairs {
            if key == "SendTargets" {
                answers.extend(self.send_targets(value));
            } else if let Some(answer) = Negotiation::say_later(&mut self.terms, key, value) {
                answers.push((key.clone(), answer));
            }
        }
        answers
    }

    /// Targets with the address that the initiator reached us at.
    fn send_targets(&self, asked: &str) -> Pairs {
        let names = match (&self.target, asked) {
            (None, "All") => self.server.targets_for(&self.session.initiator),
            // In a normal session a target tells of itself only.
            (Some((target, _)), "") => vec![target.name.clone()],
            (Some((target, _)), name) if name.eq_ignore_ascii_case(&target.name) => vec![target.name.clone()],
            (None, name) => {
                let known = self.server.targets_for(&self.session.initiator);
                known.into_iter().filter(|known| known.eq_ignore_ascii_case(name)).collect()
            }
            _ => Vec::new(),
        };
        let address = self.socket.local_addr().map(|address| {
            // An IPv4 address that came through an IPv6 socket is an IPv4 address.
            std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
        });
        let told = |name: String| {
            let address = address.as_ref().ok().map(|address| ("TargetAddress".to_owned(), format!("{address},1")));
            [("TargetName".to_owned(), name)].into_iter().chain(address)
        };
        names.into_iter().flat_map(told).collect()
    }
}

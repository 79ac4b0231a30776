//! The mode pages of changers (SMC-3 §7.3): which elements there are, and what may go where.

use super::Changer;
use crate::engine::tape::Kind;
use crate::protocol::scsi::mode::Page;

const ADDRESSES: u8 = 0x1d;
const GEOMETRY: u8 = 0x1e;
const CAPABILITIES: u8 = 0x1f;
const EXCEPTIONS: u8 = 0x1c;

/// Storage, import/export, drive: the kinds that hold a cartridge, and from and to which it is moved and exchanged. Bit 0 is the robot's hand.
const HOLDING: u8 = 0x0e;

impl Changer {
    pub(super) fn pages_of_modes(&self) -> Vec<Page> {
        // DEXCPT.
        let exceptions = [vec![0x08], vec![0; 9]].concat();
        let pages =
            [(EXCEPTIONS, exceptions), (ADDRESSES, self.addresses()), (GEOMETRY, vec![0, 0]), (CAPABILITIES, capabilities())];
        pages.map(|(code, body)| Page { code, changeable: vec![0; body.len()], default: body.clone(), body }).into()
    }

    /// Element address assignment, §7.3.4: first and count of each kind.
    fn addresses(&self) -> Vec<u8> {
        let kinds = [Kind::Robot, Kind::Storage, Kind::Port, Kind::Drive];
        let range = |kind: Kind| self.library.layout().range(kind);
        let mut body: Vec<u8> =
            kinds.into_iter().flat_map(|kind| [range(kind).start, range(kind).len() as u16]).flat_map(u16::to_be_bytes).collect();
        body.extend([0, 0]);
        body
    }
}

/// Device capabilities, §7.3.3.
fn capabilities() -> Vec<u8> {
    let mut body = vec![0; 18];
    body[0] = HOLDING;
    // Moves from storage, import/export, drive; byte 2 is from the robot's hand.
    body[3..6].fill(HOLDING);
    // Exchanges, in the same order.
    body[11..14].fill(HOLDING);
    body
}

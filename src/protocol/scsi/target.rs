//! A SCSI target device: logical units by number, and the nexuses through which initiators reach them.
//!
//! Invariant: every nexus is attached to every unit, from its begin to its end, whichever came first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lun::Lun;
use super::task::{Attribute, Task};
use super::{Cdb, Condition};

/// Which unit of a target (SAM-5 §4.7): a number below 16384.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogicalUnitNumber(u16);

impl LogicalUnitNumber {
    /// `None` where it is too large.
    pub fn new(number: u16) -> Option<Self> {
        (number < 1 << 14).then_some(Self(number))
    }

    /// As transports have it: peripheral device or flat space addressing, one level. `None`: a unit that cannot be here.
    pub fn from_wire(bytes: [u8; 8]) -> Option<Self> {
        if bytes[2..].iter().any(|byte| *byte != 0) {
            return None;
        }
        match bytes[0] >> 6 {
            0 if bytes[0] == 0 => Some(Self(bytes[1].into())),
            1 => Some(Self(u16::from_be_bytes([bytes[0] & 0x3f, bytes[1]]))),
            _ => None,
        }
    }

    /// As transports have it.
    pub fn to_wire(self) -> [u8; 8] {
        let [high, low] = self.0.to_be_bytes();
        let method = if self.0 < 256 { 0 } else { 0x40 };
        [method | high, low, 0, 0, 0, 0, 0, 0]
    }
}

/// An initiator port that is connected to a target port: SAM's I_T nexus.
#[derive(Debug)]
pub struct Nexus {
    /// Never used twice.
    pub id: u64,
    /// The SCSI name of the initiator port, which persistent reservations know it by; for iSCSI `iqn…,i,0x<ISID>`.
    pub port: String,
    /// Notified when tasks of this nexus were aborted by another.
    pub wake: Notify,
}

/// See the module.
pub struct Target {
    /// The SCSI name of the target port; for iSCSI `iqn…,t,0x0001`.
    pub port: String,
    /// The SCSI name of the target device.
    pub name: String,
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Default)]
struct State {
    units: BTreeMap<LogicalUnitNumber, Arc<Lun>>,
    nexuses: Vec<Arc<Nexus>>,
}

impl Target {
    /// A target without units.
    pub fn new(name: &str, port: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), port: port.to_owned(), state: Mutex::default(), next: AtomicU64::new(1) })
    }

    /// Puts a unit behind a number, in place of the one that was there.
    pub fn put(&self, number: LogicalUnitNumber, lun: Arc<Lun>) {
        let mut state = self.state.lock();
        for nexus in &state.nexuses {
            lun.attach(nexus);
        }
        state.units.insert(number, lun);
        tell_of_units(&state);
    }

    /// Takes a unit away. Commands under way come to their end.
    pub fn remove(&self, number: LogicalUnitNumber) -> Option<Arc<Lun>> {
        let mut state = self.state.lock();
        let removed = state.units.remove(&number);
        tell_of_units(&state);
        removed
    }

    /// The unit behind a number.
    pub fn unit(&self, lun: [u8; 8]) -> Option<Arc<Lun>> {
        self.state.lock().units.get(&LogicalUnitNumber::from_wire(lun)?).cloned()
    }

    /// All units.
    pub fn units(&self) -> Vec<(LogicalUnitNumber, Arc<Lun>)> {
        self.state.lock().units.iter().map(|(number, lun)| (*number, lun.clone())).collect()
    }

    /// An initiator port is connected.
    pub fn connect(&self, port: &str) -> Arc<Nexus> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let nexus = Arc::new(Nexus { id, port: port.to_owned(), wake: Notify::new() });
        let mut state = self.state.lock();
        for lun in state.units.values() {
            lun.attach(&nexus);
        }
        state.nexuses.push(nexus.clone());
        nexus
    }

    /// The nexus is lost. Its tasks have ended before.
    pub fn disconnect(&self, nexus: &Nexus) {
        let mut state = self.state.lock();
        state.nexuses.retain(|other| other.id != nexus.id);
        for lun in state.units.values() {
            lun.detach(nexus);
        }
    }

    /// A command arrives.
    pub fn begin(self: &Arc<Self>, nexus: &Arc<Nexus>, lun: [u8; 8], attribute: Attribute, cdb: Cdb) -> Task {
        Task::new(self.clone(), nexus.clone(), self.unit(lun), attribute, cdb)
    }
}

fn tell_of_units(state: &State) {
    for lun in state.units.values() {
        lun.raise(Condition::REPORTED_LUNS_DATA_HAS_CHANGED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_methods() {
        let read = |bytes: [u8; 8]| LogicalUnitNumber::from_wire(bytes);
        assert_eq!(read([0; 8]), LogicalUnitNumber::new(0));
        assert_eq!(read([0, 255, 0, 0, 0, 0, 0, 0]), LogicalUnitNumber::new(255));
        assert_eq!(read([0x41, 2, 0, 0, 0, 0, 0, 0]), LogicalUnitNumber::new(258));
        assert_eq!(read([0x40, 7, 0, 0, 0, 0, 0, 0]), LogicalUnitNumber::new(7));
        for wrong in [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0xc1, 1, 0, 0, 0, 0, 0, 0], [0xff; 8]] {
            assert_eq!(read(wrong), None);
        }
        for number in [0, 1, 255, 256, 16383] {
            let number = LogicalUnitNumber::new(number).unwrap();
            assert_eq!(read(number.to_wire()), Some(number));
        }
        assert_eq!(LogicalUnitNumber::new(16384), None);
    }
}

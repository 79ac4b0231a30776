//! Persistent reservations (SPC-4 §5.13): who may use a unit, by keys that initiator ports registered.
//!
//! What lives here: the state and its changes, without I/O; `reservation/wire.rs` reads and writes the parameters of the commands.
//!
//! Invariants:
//! - A port is registered once; the holder of a reservation is registered; with an "all registrants" type each of them holds it.
//! - A change that is refused changes nothing. The generation grows with each change of registrations, as §5.13.4 says.

mod wire;

use serde::{Deserialize, Serialize};

use super::opcode::Access;
use super::sense::{Condition, Sense};
use super::{Failure, Status};
pub(super) use wire::{Parameters, capabilities, full_status, keys, reservation};

/// Ports that may be registered.
const REGISTRANTS_MAX: usize = 256;

/// The type of a reservation (SPC-4 table 175).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(super) enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    pub(super) fn of(number: u8) -> Option<Self> {
        use Kind::*;
        let all = [
            WriteExclusive,
            ExclusiveAccess,
            WriteExclusiveRegistrantsOnly,
            ExclusiveAccessRegistrantsOnly,
            WriteExclusiveAllRegistrants,
            ExclusiveAccessAllRegistrants,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }

    fn lets_read(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants)
    }

    fn is_for_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Registrants that do not hold it may pass too.
    fn is_for_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registrant {
    pub(super) port: String,
    pub(super) key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    pub(super) kind: Kind,
    /// The port that made it.
    pub(super) holder: String,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservations {
    pub(super) registrants: Vec<Registrant>,
    pub(super) reservation: Option<Reservation>,
    /// PRGENERATION. Not kept over a restart (§5.13.4).
    #[serde(skip)]
    pub(super) generation: u32,
    /// Survives power loss: the last registration asked for it.
    pub(super) aptpl: bool,
}

/// What others have to hear of a change, and lose by it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// Port and condition.
    pub(super) attentions: Vec<(String, Condition)>,
    /// Ports whose tasks end.
    pub(super) aborted: Vec<String>,
}

fn conflict<T>() -> Result<T, Failure> {
    Err(Failure::Status(Status::ReservationConflict))
}

impl Reservations {
    pub(super) fn key_of(&self, port: &str) -> Option<u64> {
        self.registrants.iter().find(|registrant| registrant.port == port).map(|registrant| registrant.key)
    }

    pub(super) fn holds(&self, port: &str) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.is_for_all() { self.key_of(port).is_some() } else { reservation.holder == port }
        })
    }

    /// Whether a command of this kind may pass (SPC-4 table 68).
    pub(super) fn allows(&self, port: &str, access: Access) -> bool {
        let Some(reservation) = &self.reservation else { return true };
        match access {
            Access::Free => true,
            _ if self.holds(port) => true,
            _ if reservation.kind.is_for_registrants() && self.key_of(port).is_some() => true,
            Access::Read => reservation.kind.lets_read(),
            Access::Write => false,
        }
    }

    /// Whether nothing is registered: RESERVE(6) may be used.
    pub(super) fn is_empty(&self) -> bool {
        self.registrants.is_empty()
    }

    /// PERSISTENT RESERVE OUT of a port. `kind` is the byte with scope and type.
    pub(super) fn change(&mut self, port: &str, action: u8, kind: u8, parameters: &Parameters) -> Result<Effects, Failure> {
        let registered = self.key_of(port);
        if action != REGISTER_AND_IGNORE && registered.unwrap_or(0) != parameters.key
            || registered.is_none() && !matches!(action, REGISTER | REGISTER_AND_IGNORE)
        {
            return conflict();
        }
        match action {
            REGISTER | REGISTER_AND_IGNORE => self.register(port, parameters),
            RESERVE => self.reserve(port, scoped(kind)?),
            RELEASE => self.release_by(port, scoped(kind)?),
            CLEAR => Ok(self.clear(port)),
            PREEMPT => self.preempt(port, scoped(kind)?, parameters.service_key),
            PREEMPT_AND_ABORT => {
                let mut effects = self.preempt(port, scoped(kind)?, parameters.service_key)?;
                let removed = effects.attentions.iter().filter(|(_, condition)| *condition == Condition::REGISTRATIONS_PREEMPTED);
                effects.aborted = removed.map(|(port, _)| port.clone()).collect();
                Ok(effects)
            }
            REGISTER_AND_MOVE => self.register_and_move(port, parameters),
            _ => Err(Sense::invalid_cdb_bit(1, 4).into()),
        }
    }

    fn register(&mut self, port: &str, parameters: &Parameters) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        if parameters.service_key == 0 {
            if self.key_of(port).is_some() {
                effects = self.unregister(port);
                self.generation = self.generation.wrapping_add(1);
            }
            return Ok(effects);
        }
        self.set_key(port, parameters.service_key)?;
        self.aptpl = parameters.aptpl;
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    fn set_key(&mut self, port: &str, key: u64) -> Result<(), Failure> {
        if let Some(registrant) = self.registrants.iter_mut().find(|registrant| registrant.port == port) {
            registrant.key = key;
        } else if self.registrants.len() >= REGISTRANTS_MAX {
            return Err(Condition::INSUFFICIENT_REGISTRATION_RESOURCES.into());
        } else {
            self.registrants.push(Registrant { port: port.to_owned(), key });
        }
        Ok(())
    }

    /// A port leaves; with the holder goes the reservation (§5.13.11.2.3).
    fn unregister(&mut self, port: &str) -> Effects {
        let held = self.holds(port);
        self.registrants.retain(|registrant| registrant.port != port);
        match &self.reservation {
            Some(reservation) if held && (!reservation.kind.is_for_all() || self.registrants.is_empty()) => self.release(port),
            _ => Effects::default(),
        }
    }

    /// The reservation ends; where registrants used it, they hear of it.
    fn release(&mut self, except: &str) -> Effects {
        match self.reservation.take() {
            Some(reservation) if reservation.kind.is_for_registrants() => self.tell(except, Condition::RESERVATIONS_RELEASED),
            _ => Effects::default(),
        }
    }

    fn tell(&self, except: &str, condition: Condition) -> Effects {
        let others = self.registrants.iter().filter(|registrant| registrant.port != except);
        Effects { attentions: others.map(|other| (other.port.clone(), condition)).collect(), aborted: Vec::new() }
    }

    fn reserve(&mut self, port: &str, kind: Kind) -> Result<Effects, Failure> {
        match &self.reservation {
            Some(reservation) if self.holds(port) && reservation.kind == kind => {}
            Some(_) => return conflict(),
            None => self.reservation = Some(Reservation { kind, holder: port.to_owned() }),
        }
        Ok(Effects::default())
    }

    fn release_by(&mut self, port: &str, kind: Kind) -> Result<Effects, Failure> {
        match &self.reservation {
            Some(reservation) if self.holds(port) => {
                if reservation.kind != kind {
                    return Err(Condition::INVALID_RELEASE_OF_PERSISTENT_RESERVATION.into());
                }
                Ok(self.release(port))
            }
            _ => Ok(Effects::default()),
        }
    }

    fn clear(&mut self, port: &str) -> Effects {
        let effects = self.tell(port, Condition::RESERVATIONS_PREEMPTED);
        self.registrants.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        effects
    }

    /// §5.13.11.2.4 to .6: the registrations with a key go, and the reservation where they held it.
    fn preempt(&mut self, port: &str, kind: Kind, key: u64) -> Result<Effects, Failure> {
        let is_for_all = self.reservation.as_ref().is_some_and(|reservation| reservation.kind.is_for_all());
        if key == 0 && !is_for_all {
            return Err(Sense::invalid_parameter(8).into());
        }
        if key != 0 && !self.registrants.iter().any(|registrant| registrant.key == key) {
            return conflict();
        }
        let holder_key = self.reservation.as_ref().and_then(|reservation| self.key_of(&reservation.holder));
        let takes_over = if is_for_all { key == 0 } else { holder_key == Some(key) };
        let goes = |registrant: &Registrant| registrant.port != port && (key == 0 || registrant.key == key);
        let removed: Vec<_> = self.registrants.iter().filter(|registrant| goes(registrant)).cloned().collect();
        self.registrants.retain(|registrant| !goes(registrant));
        let mut effects = Effects::default();
        if takes_over {
            let old = self.reservation.replace(Reservation { kind, holder: port.to_owned() });
            if old.is_some_and(|old| old.kind != kind) {
                effects = self.tell(port, Condition::RESERVATIONS_RELEASED);
            }
        } else if self.reservation.as_ref().is_some_and(|reservation| self.key_of(&reservation.holder).is_none()) {
            // Who made a reservation for all registrants is gone; another registrant stands for it.
            if let (Some(reservation), Some(first)) = (&mut self.reservation, self.registrants.first()) {
                reservation.holder.clone_from(&first.port);
            }
        }
        effects.attentions.extend(removed.into_iter().map(|gone| (gone.port, Condition::REGISTRATIONS_PREEMPTED)));
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    fn register_and_move(&mut self, port: &str, parameters: &Parameters) -> Result<Effects, Failure> {
        let Some(reservation) = self.reservation.clone() else { return conflict() };
        if !self.holds(port) || reservation.kind.is_for_all() {
            return conflict();
        }
        let Some(to) = parameters.move_to.clone().filter(|to| to != port) else {
            return Err(Sense::invalid_parameter(24).into());
        };
        if parameters.service_key == 0 {
            return Err(Sense::invalid_parameter(8).into());
        }
        self.set_key(&to, parameters.service_key)?;
        self.reservation = Some(Reservation { holder: to, ..reservation });
        if parameters.unregister {
            self.registrants.retain(|registrant| registrant.port != port);
        }
        self.aptpl = parameters.aptpl;
        self.generation = self.generation.wrapping_add(1);
        Ok(Effects::default())
    }
}

/// The type of a reservation of a whole unit.
fn scoped(byte: u8) -> Result<Kind, Failure> {
    let kind = Kind::of(byte & 0x0f).filter(|_| byte >> 4 == 0);
    kind.ok_or_else(|| Sense::invalid_cdb(2).into())
}

pub(super) const REGISTER: u8 = 0;
pub(super) const RESERVE: u8 = 1;
pub(super) const RELEASE: u8 = 2;
pub(super) const CLEAR: u8 = 3;
pub(super) const PREEMPT: u8 = 4;
pub(super) const PREEMPT_AND_ABORT: u8 = 5;
pub(super) const REGISTER_AND_IGNORE: u8 = 6;
pub(super) const REGISTER_AND_MOVE: u8 = 7;

#[cfg(test)]
mod tests;

//! The parameters of PERSISTENT RESERVE IN and OUT (SPC-4 §6.15, §6.16), and TransportIDs of iSCSI (§7.6.4.6).

use super::super::cdb::number;
use super::super::sense::{Condition, Sense};
use super::{Failure, REGISTER_AND_MOVE, Registrant, Reservations};

/// The parameter list of PERSISTENT RESERVE OUT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Parameters {
    /// RESERVATION KEY.
    pub(super) key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub(super) service_key: u64,
    /// ACTIVATE PERSIST THROUGH POWER LOSS.
    pub(super) aptpl: bool,
    /// UNREG, of REGISTER AND MOVE.
    pub(super) unregister: bool,
    /// The port that REGISTER AND MOVE names.
    pub(super) move_to: Option<String>,
}

impl Parameters {
    /// Reads a parameter list of which the CDB says `len` bytes.
    pub(in super::super) fn parse(action: u8, len: usize, bytes: &[u8]) -> Result<Self, Failure> {
        if bytes.len() < len || len < 24 || action != REGISTER_AND_MOVE && len != 24 {
            return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
        }
        let common = Self { key: number(bytes, 0, 8), service_key: number(bytes, 8, 8), ..Self::default() };
        if action == REGISTER_AND_MOVE {
            let transport_bytes = number(bytes, 20, 4) as usize;
            let Some(transport) = bytes.get(24..24_usize.saturating_add(transport_bytes)) else {
                return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
            };
            let move_to = Some(port_of(transport).ok_or(Sense::invalid_parameter(24))?);
            return Ok(Self { aptpl: bytes[17] & 1 != 0, unregister: bytes[17] & 2 != 0, move_to, ..common });
        }
        if bytes[20] & 0x08 != 0 {
            // SPEC_I_PT: not supported, as REPORT CAPABILITIES says.
            return Err(Sense::invalid_parameter(20).into());
        }
        Ok(Self { aptpl: bytes[20] & 1 != 0, ..common })
    }
}

/// The TransportID of an initiator port of iSCSI: format 01b, the name of the port.
fn transport_id(port: &str) -> Vec<u8> {
    let mut name = port.as_bytes().to_vec();
    name.push(0);
    name.resize(name.len().next_multiple_of(4).max(20), 0);
    let mut bytes = vec![0x45, 0];
    bytes.extend((name.len() as u16).to_be_bytes());
    bytes.extend(name);
    bytes
}

/// The initiator port that a TransportID names. The form without ISID names no single port and is not taken.
fn port_of(transport: &[u8]) -> Option<String> {
    if transport.first()? != &0x45 {
        return None;
    }
    let name = transport.get(4..4 + number(transport, 2, 2) as usize)?;
    let name = name.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(name).ok().filter(|name| name.contains(",i,0x")).map(str::to_owned)
}

fn headed(state: &Reservations, body: Vec<u8>) -> Vec<u8> {
    [&state.generation.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

/// READ KEYS.
pub(in super::super) fn keys(state: &Reservations) -> Vec<u8> {
    headed(state, state.registrants.iter().flat_map(|registrant| registrant.key.to_be_bytes()).collect())
}

/// READ RESERVATION. One for all registrants has no key.
pub(in super::super) fn reservation(state: &Reservations) -> Vec<u8> {
    let body = state.reservation.as_ref().map_or_else(Vec::new, |reservation| {
        let key = if reservation.kind.is_for_all() { 0 } else { state.key_of(&reservation.holder).unwrap_or(0) };
        let mut body = key.to_be_bytes().to_vec();
        body.extend([0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
        body
    });
    headed(state, body)
}

/// REPORT CAPABILITIES: ATP_C and PTPL_C; all types; commands that are allowed are as in table 68.
pub(in super::super) fn capabilities(state: &Reservations) -> Vec<u8> {
    vec![0, 8, 0x04 | 0x01, 0x80 | u8::from(state.aptpl), 0xea, 0x01, 0, 0]
}

/// READ FULL STATUS.
pub(in super::super) fn full_status(state: &Reservations) -> Vec<u8> {
    let describe = |registrant: &Registrant| {
        let holds = state.holds(&registrant.port);
        let kind = state.reservation.as_ref().filter(|_| holds).map_or(0, |reservation| reservation.kind as u8);
        let transport = transport_id(&registrant.port);
        let mut bytes = registrant.key.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 0, u8::from(holds), kind, 0, 0, 0, 0, 0, 1]);
        bytes.extend((transport.len() as u32).to_be_bytes());
        bytes.extend(transport);
        bytes
    };
    headed(state, state.registrants.iter().flat_map(describe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_by_transport_ids() {
        let port = "iqn.2026-01.org.example:a,i,0x00023d000001";
        let transport = transport_id(port);
        assert_eq!(transport.len() % 4, 0);
        assert_eq!(port_of(&transport).as_deref(), Some(port));
        assert_eq!(port_of(&transport_id("iqn.2026-01.org.example:a")), None);
        assert_eq!(port_of(&transport[..20]), None);
        assert_eq!(port_of(&[]), None);
        assert_eq!(transport_id("x").len(), 24);
    }

    #[test]
    fn lists_of_a_wrong_length_are_refused() {
        let parse = |action, len, bytes: &[u8]| Parameters::parse(action, len, bytes);
        let length: Failure = Condition::PARAMETER_LIST_LENGTH_ERROR.into();
        assert_eq!(parse(0, 23, &[0; 23]), Err(length.clone()));
        assert_eq!(parse(0, 28, &[0; 28]), Err(length.clone()));
        assert_eq!(parse(0, 24, &[0; 20]), Err(length.clone()));
        let mut list = [0; 24];
        list[7] = 1;
        list[15] = 2;
        list[20] = 1;
        let parameters = Parameters { key: 1, service_key: 2, aptpl: true, ..Parameters::default() };
        assert_eq!(parse(0, 24, &list), Ok(parameters));
        list[20] = 8;
        assert_eq!(parse(0, 24, &list), Err(Sense::invalid_parameter(20).into()));
        list[20..].copy_from_slice(&[0xff; 4]);
        assert_eq!(parse(REGISTER_AND_MOVE, 24, &list), Err(length));
    }
}

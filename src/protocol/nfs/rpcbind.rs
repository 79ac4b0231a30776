//! Telling this machine's rpcbind (RFC 1833) where the programs are, so that clients find them without being told ports.
//!
//! Where no rpcbind runs, clients name the port (`port=`, `mountport=`) and have no locks between machines (`nolock`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::xdr::Encode;
use super::{caller, mount, nlm, nsm, v3};

/// RPCBPROC_SET, RPCBPROC_UNSET.
const SET: u32 = 1;
const UNSET: u32 = 2;

/// Program, version, and whether it is served over UDP too.
const PROGRAMS: [(u32, u32, bool); 4] =
    [(v3::PROGRAM, 3, false), (mount::PROGRAM, 3, true), (nlm::PROGRAM, 4, true), (nsm::PROGRAM, 1, true)];

/// `rpcb` (RFC 1833 §2.1). An empty `netid` is all of them.
fn entry(program: u32, version: u32, netid: &str, address: &str) -> Vec<u8> {
    let mut args = Vec::new();
    Encode::u32(&mut args, program);
    Encode::u32(&mut args, version);
    for text in [netid, address, ""] {
        args.opaque(text.as_bytes());
    }
    args
}

/// The universal address (RFC 5665 §5.2.3.3): the port in two more parts.
fn universal(address: SocketAddr) -> String {
    let [high, low] = address.port().to_be_bytes();
    format!("{}.{high}.{low}", address.ip())
}

/// Where clients find what listens on `address`: by transport. What listens on all of IPv6 listens on all of IPv4 too.
fn transports(address: SocketAddr, protocol: &str) -> Vec<(String, SocketAddr)> {
    let six = (format!("{protocol}6"), address);
    match address.ip() {
        IpAddr::V4(_) => vec![(protocol.to_owned(), address)],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![six, (protocol.to_owned(), (Ipv4Addr::UNSPECIFIED, address.port()).into())]
        }
        IpAddr::V6(_) => vec![six],
    }
}

/// Registers every program; returns why not, in words.
pub(super) async fn register(address: SocketAddr, is_udp_served: bool) -> Result<(), String> {
    for (program, version, has_udp) in PROGRAMS {
        let gone = caller::rpcbind(UNSET, &entry(program, version, "", "")).await;
        gone.map_err(|error| format!("no rpcbind answers here: {error}"))?;
        let mut wanted = transports(address, "tcp");
        if has_udp && is_udp_served {
            wanted.extend(transports(address, "udp"));
        }
        for (netid, address) in wanted {
            let taken = caller::rpcbind(SET, &entry(program, version, &netid, &universal(address))).await;
            if !taken.unwrap_or(false) {
                return Err(format!("rpcbind does not take program {program}: another server of this machine has it"));
            }
        }
    }
    Ok(())
}

/// Takes everything back.
pub(super) async fn unregister() {
    for (program, version, _) in PROGRAMS {
        if caller::rpcbind(UNSET, &entry(program, version, "", "")).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_universal() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(universal(address("10.1.2.3:2049")), "10.1.2.3.8.1");
        let netids = |text: &str| transports(address(text), "tcp").into_iter().map(|(netid, _)| netid).collect::<Vec<_>>();
        assert_eq!(netids("0.0.0.0:2049"), ["tcp"]);
        assert_eq!(netids("[::]:2049"), ["tcp6", "tcp"]);
        assert_eq!(netids("[fd00::1]:2049"), ["tcp6"]);
    }
}

//! ICMP and ICMPv6 errors in answer to a packet that cannot be delivered.
//!
//! Sources: config/tinc.md section 6.5, RFC 792, RFC 4443. Every builder returns `None` for a
//! packet that must not be answered with an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
//! Such a packet is an ICMP error, a later fragment, or has a group address at either end. tinc answers those too. meshd
//! does not, because two nodes might answer each other forever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ip::{self, HEADER_V4, HEADER_V6, Packet, protocol};

/// Longest error in bytes, with IP header. Source: RFC 1812 section 4.3.2.3; tinc uses it for IPv6
/// too.
pub const MAX_ERROR: usize = 576;

/// Reason why a destination is unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// No node owns the address: network unknown (3/6), address unreachable (1/3).
    Unknown,
    /// The owner is not reachable: network unreachable (3/0), no route (1/0).
    Owner,
    /// Forwarding is not allowed: administratively prohibited (3/9, 1/1).
    Prohibited,
}

/// Builds "Destination unreachable", from the packet's destination.
#[must_use]
pub fn unreachable(packet: &Packet<'_>, why: Unreachable) -> Option<Vec<u8>> {
    let (kind, code) = match (packet.is_v6(), why) {
        (false, Unreachable::Unknown) => (3, 6),
        (false, Unreachable::Owner) => (3, 0),
        (false, Unreachable::Prohibited) => (3, 9),
        (true, Unreachable::Unknown) => (1, 3),
        (true, Unreachable::Owner) => (1, 0),
        (true, Unreachable::Prohibited) => (1, 1),
    };
    error(packet, kind, code, 0, packet.destination())
}

/// Builds "Fragmentation needed" (3/4) or "packet too big" (2/0), from the packet's destination:
/// packets of `mtu` bytes would fit.
#[must_use]
pub fn too_big(packet: &Packet<'_>, mtu: u16) -> Option<Vec<u8>> {
    let (kind, code) = if packet.is_v6() { (2, 0) } else { (3, 4) };
    error(packet, kind, code, mtu.into(), packet.destination())
}

/// Builds "Time exceeded" (11/0, 3/0), from our own address `source`, or without one of that family
/// from the packet's destination.
#[must_use]
pub fn time_exceeded(packet: &Packet<'_>, source: Option<IpAddr>) -> Option<Vec<u8>> {
    let kind = if packet.is_v6() { 3 } else { 11 };
    let source = source.unwrap_or_else(|| packet.destination());
    error(packet, kind, 0, 0, source)
}

fn error(packet: &Packet<'_>, kind: u8, code: u8, rest: u32, source: IpAddr) -> Option<Vec<u8>> {
    if !may_be_answered(packet) {
        return None;
    }
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    match (source, packet.source()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            message.extend(quote(packet, HEADER_V4 + message.len()));
            Some(v4(source, destination, message))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            message.extend(quote(packet, HEADER_V6 + message.len()));
            Some(v6(source, destination, message))
        }
        _ => None,
    }
}

fn may_be_answered(packet: &Packet<'_>) -> bool {
    let group = |addr: IpAddr| {
        addr.is_multicast() || addr.is_unspecified() || addr == IpAddr::from(Ipv4Addr::BROADCAST)
    };
    let kind = || {
        packet
            .payload_offset()
            .and_then(|at| packet.bytes().get(at))
    };
    let is_error = match packet.protocol() {
        protocol::ICMP if !packet.is_v6() => {
            kind().is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))
        }
        protocol::ICMPV6 if packet.is_v6() => kind().is_none_or(|kind| *kind < 128),
        _ => false,
    };
    let ends_are_groups = group(packet.source()) || group(packet.destination());
    !is_error && !ends_are_groups && !packet.is_later_fragment()
}

/// Returns as much of the packet as fits into an error.
fn quote<'a>(packet: &Packet<'a>, headers: usize) -> &'a [u8] {
    let bytes = packet.bytes();
    &bytes[..bytes.len().min(MAX_ERROR - headers)]
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, mut message: Vec<u8>) -> Vec<u8> {
    set_checksum(&mut message, 0, 2);
    let length = (HEADER_V4 + message.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 255, protocol::ICMP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    set_checksum(&mut packet, 0, 10);
    packet.extend(message);
    packet
}

/// Builds an ICMPv6 message as a packet of hop limit 255; the checksum of the message is zero
/// before.
pub(super) fn v6(source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len() as u16;
    let addresses = [source.octets(), destination.octets()].concat();
    let pseudo = ip::sum(&addresses) + u64::from(length) + u64::from(protocol::ICMPV6);
    set_checksum(&mut message, pseudo, 2);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol::ICMPV6, 255]);
    packet.extend(addresses);
    packet.extend(message);
    packet
}

/// Writes the checksum of `bytes` and of data with the sum `more` at offset `at`, which is zero
/// before.
fn set_checksum(bytes: &mut [u8], more: u64, at: usize) {
    let sum = ip::checksum(ip::sum(bytes) + more);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sums_are_right, v4, v6};

    #[test]
    fn errors_go_back_with_the_start_of_the_packet() {
        for length in [0, 1, 527, 528, 529, 548, 549, 1400] {
            let four = v4("10.0.0.1", "10.2.0.2", 17, &vec![7; length]);
            let six = v6("fd00::1", "fd00::2", 17, &vec![7; length]);
            for (bytes, header) in [(four, HEADER_V4), (six, HEADER_V6)] {
                let packet = Packet::parse(&bytes).unwrap();
                for error in [
                    unreachable(&packet, Unreachable::Owner),
                    too_big(&packet, 1437),
                    time_exceeded(&packet, None),
                ] {
                    let error = error.unwrap();
                    assert_eq!(error.len(), (header + 8 + bytes.len()).min(MAX_ERROR));
                    assert!(bytes.starts_with(&error[header + 8..]));
                    assert!(sums_are_right(&error));
                    let view = Packet::parse(&error).unwrap();
                    assert_eq!(view.total_length(), error.len());
                    assert_eq!((view.ttl(), view.traffic_class()), (255, 0));
                    assert_eq!(view.source(), packet.destination());
                    assert_eq!(view.destination(), packet.source());
                }
            }
        }
    }

    #[test]
    fn types_codes_and_mtu_are_tincs() {
        let four = v4("10.0.0.1", "10.2.0.2", 17, &[0; 64]);
        let six = v6("fd00::1", "fd00::2", 17, &[0; 64]);
        let (four, six) = (Packet::parse(&four).unwrap(), Packet::parse(&six).unwrap());
        let head = |error: Option<Vec<u8>>, header: usize| error.unwrap()[header..][..2].to_vec();
        for (why, v4, v6) in [
            (Unreachable::Unknown, [3, 6], [1, 3]),
            (Unreachable::Owner, [3, 0], [1, 0]),
            (Unreachable::Prohibited, [3, 9], [1, 1]),
        ] {
            assert_eq!(head(unreachable(&four, why), HEADER_V4), v4);
            assert_eq!(head(unreachable(&six, why), HEADER_V6), v6);
        }
        assert_eq!(head(time_exceeded(&four, None), HEADER_V4), [11, 0]);
        assert_eq!(head(time_exceeded(&six, None), HEADER_V6), [3, 0]);
        let (four, six) = (too_big(&four, 1437).unwrap(), too_big(&six, 1280).unwrap());
        assert_eq!(four[20..22], [3, 4]);
        assert_eq!(four[24..28], [0, 0, 5, 0x9d]);
        assert_eq!(six[40..42], [2, 0]);
        assert_eq!(six[44..48], [0, 0, 5, 0]);
    }

    #[test]
    fn time_exceeded_comes_from_our_own_address() {
        let bytes = v4("10.0.0.1", "10.2.0.2", 17, &[0; 64]);
        let packet = Packet::parse(&bytes).unwrap();
        let error = time_exceeded(&packet, Some([10, 1, 0, 1].into())).unwrap();
        let view = Packet::parse(&error).unwrap();
        assert_eq!(view.source().to_string(), "10.1.0.1");
        assert_eq!(view.destination(), packet.source());
        assert!(sums_are_right(&error));
    }

    #[test]
    fn errors_fragments_and_groups_are_not_answered() {
        let mut fragment = v4("10.0.0.1", "10.2.0.2", 17, &[0; 64]);
        fragment[7] = 9;
        for bytes in [
            v4("10.0.0.1", "10.2.0.2", 1, &[11, 0, 0, 0]),
            v4("10.0.0.1", "10.2.0.2", 1, &[3, 4, 0, 0]),
            v4("10.0.0.1", "10.2.0.2", 1, &[]),
            v4("10.0.0.1", "224.0.0.1", 17, &[0; 64]),
            v4("10.0.0.1", "255.255.255.255", 17, &[0; 64]),
            v4("0.0.0.0", "10.2.0.2", 17, &[0; 64]),
            v6("fd00::1", "fd00::2", 58, &[1, 3, 0, 0]),
            v6("fd00::1", "fd00::2", 58, &[]),
            v6("fd00::1", "ff02::1", 17, &[0; 64]),
            v6("::", "fd00::2", 17, &[0; 64]),
            fragment,
        ] {
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!(unreachable(&packet, Unreachable::Unknown), None);
            assert_eq!(too_big(&packet, 1280), None);
            assert_eq!(time_exceeded(&packet, None), None);
        }
        for bytes in [
            v4("10.0.0.1", "10.2.0.2", 1, &[8, 0, 0, 0]),
            v6("fd00::1", "fd00::2", 58, &[128, 0, 0, 0]),
        ] {
            let packet = Packet::parse(&bytes).unwrap();
            assert!(unreachable(&packet, Unreachable::Unknown).is_some());
        }
    }
}

//! ARP requests and IPv6 neighbour solicitations on a TAP device in router mode, and our answers in
//! the name of other nodes.
//!
//! Source: config/tinc.md section 6.8, RFC 826, RFC 4861. All other nodes share one Ethernet
//! address there: the asker's address with its last byte inverted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    ether::{Frame, HEADER, Mac, TYPE_V6},
    icmp,
    ip::{self, HEADER_V6, Packet, protocol},
};

const TYPE_ARP: u16 = 0x0806;
/// Ethernet, IPv4, lengths of both addresses, and "who has".
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const ARP_LENGTH: usize = 28;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
/// Flags of an advertisement: it answers a solicitation; it overrides a cached address.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A query for the owner of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// An ARP packet: a request or any other.
    Arp(&'a [u8]),
    /// An IPv6 packet with a neighbour solicitation, whose checksum is not verified yet.
    Solicitation(&'a [u8]),
}

impl<'a> Question<'a> {
    /// Parses a whole frame without tags; `None` if it is no query.
    #[must_use]
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let (ether_type, packet) = (Frame::parse(frame)?.first_type(), &frame[HEADER..]);
        match ether_type {
            TYPE_ARP => Some(Self::Arp(packet)),
            TYPE_V6 => is_solicitation(packet).then_some(Self::Solicitation(packet)),
            _ => None,
        }
    }

    /// Returns the frame that answers a query from `asker`, if `others` returns true for the
    /// address.
    #[must_use]
    pub fn answer(self, asker: Mac, others: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
        let invented = invented(asker);
        let (ether_type, packet) = match self {
            Self::Arp(packet) => (TYPE_ARP, arp(packet, invented, others)?),
            Self::Solicitation(packet) => (TYPE_V6, solicited(packet, invented, others)?),
        };
        Some([&asker[..], &invented, &ether_type.to_be_bytes(), &packet].concat())
    }
}

/// Returns the Ethernet address of all other nodes, for an asker with this address.
#[must_use]
pub const fn invented(mut mac: Mac) -> Mac {
    mac[5] ^= 0xff;
    mac
}

fn is_solicitation(packet: &[u8]) -> bool {
    packet.len() > HEADER_V6
        && packet[0] >> 4 == 6
        && packet[6] == protocol::ICMPV6
        && packet[HEADER_V6] == SOLICITATION
}

/// Returns true for a packet that concerns only the sender's own wire. Such packets are router
/// solicitations (RFC 4861) and group membership messages (IGMP: RFC 3376; MLD: RFC 2710, RFC
/// 3810). Systems send them by themselves.
#[must_use]
pub fn is_for_own_wire(packet: &Packet<'_>) -> bool {
    let bytes = packet.bytes();
    let Some(at) = packet.payload_offset() else {
        return false;
    };
    if !packet.is_v6() {
        let kind = bytes.get(at).copied().unwrap_or_default();
        return packet.protocol() == protocol::IGMP && IGMP_MEMBERSHIP.contains(&kind);
    }
    // Reports of MLD follow a hop-by-hop header with the router alert.
    let (next, at) = match (packet.protocol(), bytes.get(at..at + 2)) {
        (HOP_BY_HOP, Some([next, units])) => (*next, at + 8 * (1 + usize::from(*units))),
        (next, _) => (next, at),
    };
    let kind = bytes.get(at).copied().unwrap_or_default();
    next == protocol::ICMPV6 && (kind == ROUTER_SOLICITATION || MLD_MEMBERSHIP.contains(&kind))
}

/// Next header of IPv6 hop-by-hop options.
const HOP_BY_HOP: u8 = 0;
/// Reports of versions 1, 2 and 3, and the leave message.
const IGMP_MEMBERSHIP: [u8; 4] = [0x12, 0x16, 0x22, 0x17];
/// Reports of versions 1 and 2, and the done message.
const MLD_MEMBERSHIP: [u8; 3] = [131, 143, 132];
const ROUTER_SOLICITATION: u8 = 133;

fn arp(packet: &[u8], invented: Mac, others: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let packet = packet.get(..ARP_LENGTH)?;
    let target: Ipv4Addr = (*packet.last_chunk::<4>()?).into();
    if packet[..8] != ARP_REQUEST || !others(target.into()) {
        return None;
    }
    let mut answer = ARP_REQUEST.to_vec();
    answer[7] = 2;
    answer.extend(invented);
    answer.extend(target.octets());
    answer.extend(&packet[8..18]);
    Some(answer)
}

fn solicited(packet: &[u8], invented: Mac, others: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let view = Packet::parse(packet)?;
    let message = packet.get(HEADER_V6..view.total_length())?;
    let target = *message.get(8..24)?.first_chunk::<16>()?;
    let target = Ipv6Addr::from_bits(u128::from_be_bytes(target));
    let (IpAddr::V6(source), length) = (view.source(), message.len() as u64) else {
        return None;
    };
    let pseudo = ip::sum(&packet[8..HEADER_V6]) + length + u64::from(protocol::ICMPV6);
    let right = ip::checksum(ip::sum(message) + pseudo) == 0;
    // A solicitation from beyond this wire is invalid (RFC 4861 section 7.1.1).
    if packet[7] != 255 || message[1] != 0 || !right || !others(target.into()) {
        return None;
    }
    // A sender that checks for a duplicate address has no address yet.
    let probe = source.is_unspecified();
    let option = matches!(message.get(24..32), Some([SOURCE_ADDRESS, 1, ..]));
    let flags = if probe { OVERRIDE } else { SOLICITED };
    let mut answer = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    answer.extend(target.octets());
    if option || probe {
        answer.extend([TARGET_ADDRESS, 1]);
        answer.extend(invented);
    }
    let to = if probe { ALL_NODES } else { source };
    Some(icmp::v6(target, to, answer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{v4, v6};

    const ASKER: Mac = [2, 0, 0, 0, 0, 0x0f];
    const OTHER: Mac = [2, 0, 0, 0, 0, 0xf0];

    fn others(ip: IpAddr) -> bool {
        ip == IpAddr::from([10, 0, 0, 2]) || ip == "fd00::2".parse::<IpAddr>().unwrap()
    }

    fn frame(kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &ASKER, &kind.to_be_bytes(), packet].concat()
    }

    fn request(operation: u8, target: [u8; 4]) -> Vec<u8> {
        let mut packet = ARP_REQUEST.to_vec();
        packet[7] = operation;
        packet.extend(ASKER);
        packet.extend([10, 0, 0, 1]);
        packet.extend([0; 6]);
        packet.extend(target);
        // Short frames are padded.
        packet.extend([0; 18]);
        frame(0x0806, &packet)
    }

    fn solicitation(source: &str, target: &str, option: bool) -> Vec<u8> {
        let target: Ipv6Addr = target.parse().unwrap();
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        if option {
            message.extend([SOURCE_ADDRESS, 1]);
            message.extend(ASKER);
        }
        let to = "ff02::1:ff00:2".parse().unwrap();
        frame(0x86dd, &icmp::v6(source.parse().unwrap(), to, message))
    }

    fn answer(frame: &[u8]) -> Option<Vec<u8>> {
        Question::of(frame)?.answer(ASKER, others)
    }

    #[test]
    fn arp_is_answered_for_other_nodes() {
        let answered = answer(&request(1, [10, 0, 0, 2])).unwrap();
        let mut expected = [&ASKER[..], &OTHER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
        expected.extend(OTHER);
        expected.extend([10, 0, 0, 2]);
        expected.extend(ASKER);
        expected.extend([10, 0, 0, 1]);
        assert_eq!(answered, expected);
        // Our own address, an unowned one, a reply, another kind of hardware, half a packet.
        assert_eq!(answer(&request(1, [10, 0, 0, 1])), None);
        assert_eq!(answer(&request(1, [10, 9, 9, 9])), None);
        assert_eq!(answer(&request(2, [10, 0, 0, 2])), None);
        let mut odd = request(1, [10, 0, 0, 2]);
        odd[HEADER + 1] = 6;
        assert_eq!(answer(&odd), None);
        assert_eq!(answer(&request(1, [10, 0, 0, 2])[..HEADER + 27]), None);
    }

    #[test]
    fn solicitations_are_answered_for_other_nodes() {
        for (source, option) in [("fd00::1", true), ("fd00::1", false), ("::", false)] {
            let answered = answer(&solicitation(source, "fd00::2", option)).unwrap();
            assert_eq!(answered[..14], [&ASKER[..], &OTHER, &[0x86, 0xdd]].concat());
            let packet = &answered[14..];
            assert!(crate::testing::sums_are_right(packet));
            let view = Packet::parse(packet).unwrap();
            let probe = source == "::";
            let to = if probe { "ff02::1" } else { source };
            assert_eq!(view.source().to_string(), "fd00::2");
            assert_eq!(view.destination().to_string(), to);
            assert_eq!((packet[7], packet[40], packet[41]), (255, ADVERTISEMENT, 0));
            assert_eq!(packet[44], if probe { 0x20 } else { 0x40 });
            let tail = [&[2, 1], &OTHER[..]].concat();
            assert_eq!(packet.ends_with(&tail), option || probe);
        }
        assert_eq!(answer(&solicitation("fd00::1", "fd00::1", true)), None);
        let good = solicitation("fd00::1", "fd00::2", true);
        for at in [14 + 7, 14 + 41, 14 + 42, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(answer(&bad), None, "{at}");
        }
        assert!(is_solicitation(&good[14..]));
        // Every other packet is routed.
        let mut echo = good;
        echo[14 + 40] = 128;
        assert_eq!(Question::of(&echo), None);
        assert_eq!(Question::of(&frame(0x0800, &[0x45; 40])), None);
    }

    #[test]
    fn what_systems_tell_their_own_wire() {
        let alert = |kind: u8| [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0, kind, 0, 0, 0];
        let about = |packet: &[u8]| is_for_own_wire(&Packet::parse(packet).unwrap());
        for (kind, own) in [
            (0x11, false),
            (0x12, true),
            (0x16, true),
            (0x17, true),
            (0x22, true),
        ] {
            assert_eq!(
                about(&v4("10.0.0.1", "224.0.0.22", 2, &[kind, 0])),
                own,
                "{kind}"
            );
        }
        for (kind, own) in [
            (130, false),
            (131, true),
            (132, true),
            (143, true),
            (128, false),
        ] {
            let packet = v6("fe80::1", "ff02::16", HOP_BY_HOP, &alert(kind));
            assert_eq!(about(&packet), own, "{kind}");
        }
        assert!(about(&v6("fe80::1", "ff02::2", 58, &[133, 0, 0, 0])));
        assert!(about(&v6("::", "ff02::2", 58, &[133, 0, 0, 0])));
        for kind in [128, 134, 135] {
            assert!(
                !about(&v6("fe80::1", "ff02::1", 58, &[kind, 0, 0, 0])),
                "{kind}"
            );
        }
        assert!(!about(&v6("fd00::1", "ff02::fb", 17, &[133; 8])));
        assert!(!about(&v4("10.0.0.1", "224.0.0.251", 17, &[0x22; 8])));
        assert!(!about(&v6("fe80::1", "ff02::16", HOP_BY_HOP, &[58])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0_usize..3) {
            let mut bytes = bytes;
            let kinds: [&[u8]; 3] = [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0x86, 0xdd, 0x60], &[]];
            if let Some(room) = bytes.get_mut(12..12 + kinds[kind].len()) {
                room.copy_from_slice(kinds[kind]);
            }
            if let (1, Some(next)) = (kind, bytes.get_mut(20)) {
                *next = protocol::ICMPV6;
            }
            if let Some(question) = Question::of(&bytes) {
                let _ = question.answer(ASKER, |_| true);
            }
            let packet = bytes.get(HEADER..).and_then(Packet::parse);
            let _ = packet.is_some_and(|packet| is_for_own_wire(&packet));
        }
    }
}

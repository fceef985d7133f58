//! The bytes of a packet that stay the same from node to node, and the bytes that nodes on the path
//! may change.

use crate::ip::{
    OFFSET, Packet, TCP_HEADER, UDP_HEADER, clamp_segment, protocol, put, tcp_offset, word,
};

/// Length of the front of a packet that contains every byte cleared by [`blank_changeable`]: two
/// IPv4 headers and a TCP header, each with all options.
pub const FRONT: usize = 3 * 60;

/// Clears the fields that nodes on the path may change: TTL or hop limit, IPv4 header checksum, MSS,
/// and the TCP or UDP checksum, which may be computed late. `front` is a copy of the packet or of its
/// first [`FRONT`] bytes.
pub fn blank_changeable(front: &mut [u8]) {
    let Some(packet) = Packet::parse(front) else {
        return;
    };
    let udp = (packet.protocol() == protocol::UDP && !packet.is_later_fragment())
        .then(|| packet.payload_offset())
        .flatten();
    match packet.is_v6() {
        true => front[7] = 0,
        false => {
            front[8] = 0;
            put(front, 10, 0);
        }
    }
    if let Some(tcp) = tcp_offset(front).filter(|tcp| front.len() >= tcp + TCP_HEADER) {
        clamp_segment(&mut front[tcp..], 0);
        put(front, tcp + 16, 0);
    }
    if let Some(udp) = udp.filter(|udp| front.len() >= udp + UDP_HEADER) {
        put(front, udp + 6, 0);
    }
}

/// Returns true if no sender repeats this packet within a short time. These are IPv4 packets with
/// an identification, and echo requests and replies, which are numbered. Source: RFC 6864.
#[must_use]
pub fn is_numbered(bytes: &[u8]) -> bool {
    let Some(packet) = Packet::parse(bytes) else {
        return false;
    };
    if !packet.is_v6() && (word(bytes, 4) != 0 || word(bytes, 6) & OFFSET != 0) {
        return true;
    }
    let kind = packet.payload_offset().and_then(|at| bytes.get(at));
    match (packet.protocol(), kind) {
        (protocol::ICMP, Some(kind)) => !packet.is_v6() && matches!(kind, 0 | 8),
        (protocol::ICMPV6, Some(kind)) => packet.is_v6() && matches!(kind, 128 | 129),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ip::{clamp_mss, decrement_ttl, finish_checksum},
        testing::{tcp, v4, v6},
    };

    fn blanked(packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        blank_changeable(&mut packet);
        packet
    }

    /// A packet stays the same packet after any change on the path; a different packet differs.
    #[test]
    fn changes_on_the_way_are_not_seen() {
        let syn = tcp(&[2, 4, 0x05, 0xb4]);
        let inner = v4("10.9.0.1", "10.9.0.2", 6, &syn);
        for packet in [
            v4("10.0.0.1", "224.0.0.9", 6, &syn),
            v6("fd00::1", "ff02::9", 6, &syn),
            v4("10.0.0.1", "224.0.0.9", 4, &inner),
            v4("10.0.0.1", "224.0.0.9", 17, &[1; 30]),
            v6("fd00::1", "ff02::9", 17, &[1; 30]),
        ] {
            let mut changed = packet.clone();
            assert!(decrement_ttl(&mut changed));
            clamp_mss(&mut changed, 900);
            finish_checksum(&mut changed);
            assert_ne!(changed, packet);
            assert_eq!(blanked(&changed), blanked(&packet));
            let last = packet.len() - 1;
            changed[last] ^= 1;
            assert_ne!(blanked(&changed), blanked(&packet));
        }
    }

    #[test]
    fn identifications_and_numbers_of_echoes_make_packets_unique() {
        let mut packet = v4("10.0.0.1", "224.0.0.9", 17, &[0; 8]);
        packet[4..6].copy_from_slice(&[0, 0]);
        assert!(!is_numbered(&packet));
        packet[5] = 1;
        assert!(is_numbered(&packet));
        let mut echo = v4("10.0.0.1", "224.0.0.9", 1, &[8, 0, 0, 0, 0, 1, 0, 1]);
        echo[4..6].copy_from_slice(&[0, 0]);
        assert!(is_numbered(&echo));
        let echo = v6("fd00::1", "ff02::1", 58, &[128, 0, 0, 0, 0, 1, 0, 1]);
        assert!(is_numbered(&echo));
        assert!(!is_numbered(&v6("fd00::1", "ff02::1", 17, &[0; 8])));
        assert!(!is_numbered(&[]));
    }

    proptest! {
        /// No bytes cause a panic, and the front of a packet is cleared like the whole packet.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), first in 0_u8..=255) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first & 0x2f | 0x40;
            }
            let whole = blanked(&bytes);
            let mut front = bytes.clone();
            front.truncate(FRONT);
            blank_changeable(&mut front);
            prop_assert_eq!(&whole[..front.len()], &front[..]);
            prop_assert_eq!(&whole[front.len()..], &bytes[front.len()..]);
            let _ = is_numbered(&bytes);
        }
    }
}

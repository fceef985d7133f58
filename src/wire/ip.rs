//! IPv4 and IPv6 packets in place: the fields that routing reads, and the few that it changes.
//!
//! Sources: RFC 791, RFC 8200, RFC 1624 (incremental checksums), config/tinc.md section 6.5.

pub mod unchanged;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 header without options, in bytes.
pub const HEADER_V4: usize = 20;
/// Length of the fixed IPv6 header, in bytes.
pub const HEADER_V6: usize = 40;

/// Protocol numbers of inner packets and segments.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP: membership of multicast groups, IPv4.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// A packet that has at least its fixed header. No other check was made.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    v6: bool,
}

impl<'a> Packet<'a> {
    /// Parses a packet; `None` if it is neither IPv4 nor IPv6, or shorter than the fixed header.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let v6 = match bytes.first()? >> 4 {
            4 if bytes.len() >= HEADER_V4 => false,
            6 if bytes.len() >= HEADER_V6 => true,
            _ => return None,
        };
        Some(Self { bytes, v6 })
    }

    /// Returns the whole packet.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns true for IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.v6
    }

    /// Returns the source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self.v6 {
            false => Ipv4Addr::from(self.array(12)).into(),
            true => Ipv6Addr::from(self.array(8)).into(),
        }
    }

    /// Returns the destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self.v6 {
            false => Ipv4Addr::from(self.array(16)).into(),
            true => Ipv6Addr::from(self.array(24)).into(),
        }
    }

    /// Returns the protocol of the payload; for IPv6 the first next-header field, which may name an
    /// extension header.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.bytes[if self.v6 { 6 } else { 9 }]
    }

    /// Returns the length in bytes from the header; it may differ from that of [`Self::bytes`].
    #[must_use]
    pub fn total_length(&self) -> usize {
        match self.v6 {
            false => u16::from_be_bytes(self.array(2)).into(),
            true => HEADER_V6 + usize::from(u16::from_be_bytes(self.array(4))),
        }
    }

    /// Returns the type of service of IPv4, or the traffic class of IPv6.
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        match self.v6 {
            false => self.bytes[1],
            true => self.bytes[0] << 4 | self.bytes[1] >> 4,
        }
    }

    /// Returns the time to live, or hop limit.
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.bytes[if self.v6 { 7 } else { 8 }]
    }

    /// Returns true if routers may not fragment the packet: always for IPv6.
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        self.v6 || self.bytes[6] & 0x40 != 0
    }

    /// Returns true for an IPv4 fragment that does not contain the start of its payload.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        !self.v6 && u16::from_be_bytes(self.array(6)) & OFFSET != 0
    }

    /// Returns the start of the payload, if it is inside the packet. Extension headers count as
    /// payload.
    #[must_use]
    pub fn payload_offset(&self) -> Option<usize> {
        let offset = match self.v6 {
            false => usize::from(self.bytes[0] & 15) * 4,
            true => HEADER_V6,
        };
        (HEADER_V4..=self.bytes.len())
            .contains(&offset)
            .then_some(offset)
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let array = self.bytes[at..].first_chunk();
        *array.expect("fields of the fixed header, whose length was checked")
    }
}

/// Offset bits of the fragment field, and its flag for "more fragments follow".
const OFFSET: u16 = 0x1fff;
const MORE: u16 = 0x2000;

/// Decrements TTL or hop limit, and updates the IPv4 header checksum. Returns `false`, with the
/// packet unchanged, if it is 1 or less.
pub fn decrement_ttl(bytes: &mut [u8]) -> bool {
    let Some(packet) = Packet::parse(bytes) else {
        return false;
    };
    let (v6, ttl) = (packet.v6, packet.ttl());
    if ttl <= 1 {
        return false;
    }
    if v6 {
        bytes[7] = ttl - 1;
    } else {
        let old = word(bytes, 8);
        bytes[8] = ttl - 1;
        let new = word(bytes, 8);
        put(bytes, 10, adjust(word(bytes, 10), old, new));
    }
    true
}

/// Lowers every MSS option of a TCP segment so that packets of the flow fit into `mtu` bytes, and
/// updates the TCP checksum. Handles one level of IP in IP, but no IPv6 extension headers. Any
/// other packet stays unchanged, and so does a malformed segment.
pub fn clamp_mss(bytes: &mut [u8], mtu: u16) {
    let Some(tcp) = tcp_offset(bytes) else {
        return;
    };
    let Some(max) = usize::from(mtu).checked_sub(tcp + TCP_HEADER) else {
        return;
    };
    clamp_segment(&mut bytes[tcp..], max as u16);
}

const TCP_HEADER: usize = 20;

fn tcp_offset(bytes: &[u8]) -> Option<usize> {
    let outer = Packet::parse(bytes)?;
    let offset = outer.payload_offset()?;
    let (packet, offset) = match outer.protocol() {
        protocol::IPV4 | protocol::IPV6 if !outer.is_later_fragment() => {
            let inner = Packet::parse(&bytes[offset..])?;
            (inner, offset + inner.payload_offset()?)
        }
        _ => (outer, offset),
    };
    (packet.protocol() == protocol::TCP && !packet.is_later_fragment()).then_some(offset)
}

fn clamp_segment(segment: &mut [u8], max: u16) {
    if segment.len() < TCP_HEADER {
        return;
    }
    let end = (usize::from(segment[12] >> 4) * 4).min(segment.len());
    let mut at = TCP_HEADER;
    while at < end {
        let length = match segment[at..end] {
            [0, ..] => return,
            [1, ..] => 1,
            [kind, length, ..] if length >= 2 => {
                if kind == 2 && length == 4 && at + 4 <= end {
                    lower_mss(segment, at + 2, max);
                }
                length.into()
            }
            _ => return,
        };
        at += length;
    }
}

fn lower_mss(segment: &mut [u8], at: usize, max: u16) {
    let old = word(segment, at);
    if old <= max {
        return;
    }
    put(segment, at, max);
    // At an odd offset the two bytes lie in different words, so their weights in the sum are
    // swapped.
    let (old, new) = match at % 2 {
        0 => (old, max),
        _ => (old.swap_bytes(), max.swap_bytes()),
    };
    put(segment, 16, adjust(word(segment, 16), old, new));
}

/// Computes the TCP or UDP checksum of a whole packet whose sender's kernel left it to be computed.
/// This is needed before the packet goes to a peer that does not know this state, to a device
/// without offloads, or into fragments. UDP without a checksum keeps none; any other packet stays
/// unchanged.
pub fn finish_checksum(bytes: &mut [u8]) {
    let Some(packet) = Packet::parse(bytes).filter(|p| p.total_length() == p.bytes.len()) else {
        return;
    };
    let fragment = !packet.v6 && word(bytes, 6) & (OFFSET | MORE) != 0;
    let Some(start) = packet.payload_offset().filter(|_| !fragment) else {
        return;
    };
    let (protocol, length) = (packet.protocol(), bytes.len() - start);
    let field = match protocol {
        protocol::TCP if length >= TCP_HEADER => start + 16,
        protocol::UDP if length >= UDP_HEADER && word(bytes, start + 6) != 0 => start + 6,
        _ => return,
    };
    let addresses = if packet.v6 { 8..40 } else { 12..20 };
    put(bytes, field, 0);
    let pseudo = sum(&bytes[addresses]) + u64::from(protocol) + length as u64;
    // Zero means "no checksum" in UDP, so its other form replaces it, as in the kernel.
    let sum = match checksum(pseudo + sum(&bytes[start..])) {
        0 => 0xffff,
        sum => sum,
    };
    put(bytes, field, sum);
}

const UDP_HEADER: usize = 8;

/// Fragments an IPv4 packet into pieces of at most `mtu` bytes. `None` if that is impossible:
/// header with options, wrong length in the header, fragment beyond 64 KiB, `mtu` below 28.
#[must_use]
pub fn fragment(bytes: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
    let packet = Packet::parse(bytes).filter(|p| !p.v6)?;
    if packet.payload_offset() != Some(HEADER_V4) || packet.total_length() != bytes.len() {
        return None;
    }
    let (header, payload) = bytes.split_at(HEADER_V4);
    let piece = usize::from(mtu).checked_sub(HEADER_V4)? & !7;
    let flags = word(header, 6);
    let start = usize::from(flags & OFFSET) * 8;
    if piece == 0 || start + payload.len() > usize::from(OFFSET) * 8 {
        return None;
    }
    let last = payload.len().saturating_sub(1) / piece;
    let pieces = payload.chunks(piece).enumerate().map(|(i, data)| {
        let mut bytes = [header, data].concat();
        let offset = (start + i * piece) as u16 / 8;
        let more = if i < last { MORE } else { flags & MORE };
        let length = bytes.len() as u16;
        put(&mut bytes, 2, length);
        put(&mut bytes, 6, flags & !(OFFSET | MORE) | more | offset);
        put(&mut bytes, 10, 0);
        let sum = checksum(sum(&bytes[..HEADER_V4]));
        put(&mut bytes, 10, sum);
        bytes
    });
    Some(pieces.collect())
}

/// Returns the sum of big-endian 16-bit words; an odd last byte is padded with zero. Sums of pieces
/// of even length may be added.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, odd) = bytes.as_chunks();
    let words = words.iter().map(|w| u64::from(u16::from_be_bytes(*w)));
    words.sum::<u64>() + odd.first().map_or(0, |b| u64::from(*b) << 8)
}

/// Returns the Internet checksum of a [`sum`]: its ones' complement.
#[must_use]
pub const fn checksum(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Returns a checksum after one 16-bit word has changed from `old` to `new`. Source: RFC 1624.
#[must_use]
pub const fn adjust(before: u16, old: u16, new: u16) -> u16 {
    checksum(!before as u64 + !old as u64 + new as u64)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        fix_header, fix_payload, header_sum_is_right, sums_are_right, tcp, v4, v6,
    };

    #[test]
    fn fields_of_both_versions() {
        let bytes = v4("10.0.0.1", "10.0.0.2", protocol::TCP, &[0; 8]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.source().to_string(), "10.0.0.1");
        assert_eq!(packet.destination().to_string(), "10.0.0.2");
        assert_eq!((packet.protocol(), packet.ttl()), (6, 64));
        assert_eq!((packet.traffic_class(), packet.total_length()), (0xb8, 28));
        assert!(!packet.dont_fragment() && !packet.is_later_fragment());

        let bytes = v6("fd00::1", "fd00::2", protocol::TCP, &[0; 8]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.source().to_string(), "fd00::1");
        assert_eq!(packet.destination().to_string(), "fd00::2");
        assert_eq!((packet.protocol(), packet.ttl()), (6, 64));
        assert_eq!((packet.traffic_class(), packet.total_length()), (0xb8, 48));
        assert!(packet.dont_fragment() && !packet.is_later_fragment());
    }

    #[test]
    fn short_and_foreign_packets_are_none() {
        let four = v4("10.0.0.1", "10.0.0.2", 6, &[]);
        let six = v6("fd00::1", "fd00::2", 6, &[]);
        assert!(Packet::parse(&four).is_some() && Packet::parse(&six).is_some());
        for bytes in [&[][..], &four[..19], &six[..39], &[0x55; 60]] {
            assert!(Packet::parse(bytes).is_none());
        }
    }

    #[test]
    fn payload_lies_inside_the_packet() {
        let mut bytes = v4("10.0.0.1", "10.0.0.2", 6, &[]);
        for (first, offset) in [(0x40, None), (0x44, None), (0x45, Some(20)), (0x46, None)] {
            bytes[0] = first;
            assert_eq!(Packet::parse(&bytes).unwrap().payload_offset(), offset);
        }
    }

    #[test]
    fn ttl_goes_down_to_one() {
        for mut bytes in [
            v4("10.0.0.1", "10.0.0.2", 1, &[8, 0, 0xf7, 0xff]),
            v6("fd00::1", "fd00::2", 59, &[]),
        ] {
            for left in (1..64).rev() {
                assert!(decrement_ttl(&mut bytes));
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.ttl(), left);
                assert!(packet.is_v6() || sums_are_right(&bytes));
            }
            let before = bytes.clone();
            assert!(!decrement_ttl(&mut bytes));
            assert_eq!(bytes, before);
        }
    }

    /// A TCP packet of each supported kind, with the start of its TCP header.
    fn tcp_packets(options: &[u8]) -> [(Vec<u8>, usize); 5] {
        let segment = tcp(options);
        let (mut four, mut six) = (
            v4("10.0.0.1", "10.0.0.2", protocol::TCP, &segment),
            v6("fd00::1", "fd00::2", protocol::TCP, &segment),
        );
        fix_payload(&mut four, 16);
        fix_payload(&mut six, 16);
        let mut long = four.clone();
        long[0] = 0x46;
        long.splice(20..20, [1, 1, 1, 0]);
        fix_header(&mut long);
        [
            (v6("fd00::3", "fd00::4", protocol::IPV4, &four), 60),
            (v4("10.9.0.1", "10.9.0.2", protocol::IPV6, &six), 60),
            (four, 20),
            (six, 40),
            (long, 24),
        ]
    }

    #[test]
    fn mss_is_lowered_wherever_it_stands() {
        for options in [
            [2, 4, 0x05, 0xb4, 1, 1, 1, 0],
            [1, 2, 4, 0x05, 0xb4, 1, 1, 0],
            [1, 1, 2, 4, 0x05, 0xb4, 1, 0],
            [8, 3, 9, 2, 4, 0x05, 0xb4, 0],
            [3, 2, 1, 1, 2, 4, 0x05, 0xb4],
        ] {
            let value = options.iter().position(|b| *b == 0x05).unwrap();
            for (packet, tcp) in tcp_packets(&options) {
                for mtu in [1500, 1280, 1001, 577] {
                    let max = mtu - tcp as u16 - 20;
                    let mut clamped = packet.clone();
                    clamp_mss(&mut clamped, mtu);
                    assert_eq!(
                        word(&clamped, tcp + 20 + value),
                        max.min(1460),
                        "{options:?}"
                    );
                    let segment = match clamped[..] {
                        [first, ..] if tcp == 60 => {
                            &clamped[if first >> 4 == 4 { 20 } else { 40 }..]
                        }
                        _ => &clamped,
                    };
                    assert!(sums_are_right(segment), "{options:?} {mtu}");
                    if max >= 1460 {
                        assert_eq!(clamped, packet);
                    }
                }
            }
        }
    }

    #[test]
    fn only_whole_options_of_tcp_are_touched() {
        let mss = [2, 4, 0x05, 0xb4];
        let mut untouched = vec![
            v4("10.0.0.1", "10.0.0.2", 17, &tcp(&mss)),
            v6("fd00::1", "fd00::2", 0, &tcp(&mss)),
            v4(
                "10.0.0.1",
                "10.0.0.2",
                6,
                &tcp(&[0, 2, 4, 0x05, 0xb4, 0, 0, 0]),
            ),
            v4(
                "10.0.0.1",
                "10.0.0.2",
                6,
                &tcp(&[3, 0, 2, 4, 0x05, 0xb4, 0, 0]),
            ),
            v4("10.0.0.1", "10.0.0.2", 6, &tcp(&[2, 3, 0x05, 1])),
            v4("10.0.0.1", "10.0.0.2", 6, &tcp(&[1, 1, 2, 4])),
        ];
        let inner = v4("10.0.0.1", "10.0.0.2", 4, &tcp_packets(&mss)[2].0);
        untouched.push(v4("10.0.0.1", "10.0.0.2", 4, &inner)); // two levels
        let mut fragment = tcp_packets(&mss)[2].0.clone();
        fragment[7] = 1;
        untouched.push(fragment);
        for packet in untouched {
            let mut clamped = packet.clone();
            clamp_mss(&mut clamped, 576);
            assert_eq!(clamped, packet);
        }
        let mut packet = tcp_packets(&mss)[2].0.clone();
        clamp_mss(&mut packet, 30); // no room for any segment: no value would help
        assert_eq!(packet, tcp_packets(&mss)[2].0);
    }

    #[test]
    fn pieces_fit_and_join_again() {
        let payload: Vec<u8> = (0..=255).cycle().take(3001).collect();
        let mut packet = v4("10.0.0.1", "10.0.0.2", 17, &payload);
        for (field, offset, more) in [(0, 0, false), (0x2000, 0, true), (0x2010, 128, true)] {
            put(&mut packet, 6, field);
            for mtu in [28, 576, 1436, 1437, 4000] {
                let pieces = fragment(&packet, mtu).unwrap();
                let mut joined: Vec<u8> = Vec::new();
                for (i, piece) in pieces.iter().enumerate() {
                    assert!(piece.len() <= mtu.into());
                    assert!(header_sum_is_right(piece));
                    let view = Packet::parse(piece).unwrap();
                    assert_eq!(view.total_length(), piece.len());
                    let flags = word(piece, 6);
                    assert_eq!(usize::from(flags & OFFSET) * 8, offset + joined.len());
                    assert_eq!(flags & MORE != 0, more || i + 1 < pieces.len());
                    assert_eq!(piece[..2], packet[..2]);
                    assert_eq!(piece[4..6], packet[4..6]);
                    assert_eq!(piece[8..10], packet[8..10]);
                    assert_eq!(piece[12..20], packet[12..20]);
                    joined.extend(&piece[20..]);
                }
                assert_eq!(joined, payload);
            }
        }
    }

    #[test]
    fn what_cannot_be_cut() {
        let packet = v4("10.0.0.1", "10.0.0.2", 17, &[0; 1000]);
        assert!(fragment(&packet, 27).is_none());
        assert!(fragment(&packet[..999], 576).is_none());
        let mut options = packet.clone();
        options[0] = 0x46;
        assert!(fragment(&options, 576).is_none());
        let mut far = packet;
        put(&mut far, 6, OFFSET);
        assert!(fragment(&far, 576).is_none());
        assert!(fragment(&v6("::1", "::2", 17, &[0; 1000]), 576).is_none());
    }

    proptest! {
        #[test]
        fn adjusting_is_summing_anew(mut bytes: [u8; 32], at in 0..16_usize, new: u16) {
            let before = checksum(sum(&bytes));
            let old = word(&bytes, at * 2);
            put(&mut bytes, at * 2, new);
            // Both zeros of ones' complement stand for the same sum.
            let (anew, adjusted) = (checksum(sum(&bytes)), adjust(before, old, new));
            prop_assert!(anew == adjusted || anew ^ adjusted == 0xffff && anew % 0xffff == 0);
        }

        #[test]
        fn no_packet_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..120), mtu: u16) {
            if let Some(first) = bytes.first_mut() {
                *first = if *first & 0x80 == 0 { 0x40 | *first & 15 } else { 0x60 | *first & 15 };
            }
            if let Some(packet) = Packet::parse(&bytes) {
                let _ = (packet.source(), packet.total_length(), packet.payload_offset());
            }
            let _ = fragment(&bytes, mtu);
            decrement_ttl(&mut bytes);
            clamp_mss(&mut bytes, mtu);
        }
    }
}

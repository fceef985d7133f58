//! IP packets made by hand, and an independent check of their checksums, for tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ip::{Packet, protocol};

/// An IPv4 packet with DF clear, TTL 64, and correct header checksum.
pub fn v4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv4Addr = source.parse().unwrap();
    let destination: Ipv4Addr = destination.parse().unwrap();
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0xb8];
    packet.extend(length.to_be_bytes());
    packet.extend([0xab, 0xcd, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    fix_header(&mut packet);
    packet
}

/// Sets the valid header checksum of an IPv4 packet.
pub fn fix_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 15) * 4;
    let sum = !reference(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet with hop limit 64.
pub fn v6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let destination: Ipv6Addr = destination.parse().unwrap();
    let mut packet = vec![0x6b, 0x80, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A TCP segment with these options (a multiple of 4 bytes) and some data. Pass its packet to
/// [`fix_payload`].
pub fn tcp(options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut segment = vec![0x9c, 0x40, 0, 22, 1, 2, 3, 4, 5, 6, 7, 8];
    segment.extend([(20 + options.len() as u8) << 2, 2, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(b"odd");
    segment
}

/// Sets the valid TCP checksum at `at` in the payload of a packet.
pub fn fix_payload(packet: &mut [u8], at: usize) {
    let offset = Packet::parse(packet).unwrap().payload_offset().unwrap();
    packet[offset + at..offset + at + 2].fill(0);
    let sum = !payload_sum(packet);
    packet[offset + at..offset + at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Returns true if the checksums of the header and of TCP, ICMP or ICMPv6 are valid.
pub fn sums_are_right(packet: &[u8]) -> bool {
    header_sum_is_right(packet) && payload_sum(packet) == 0xffff
}

/// Returns true if the header checksum is valid; IPv6 has none.
pub fn header_sum_is_right(packet: &[u8]) -> bool {
    let view = Packet::parse(packet).unwrap();
    view.is_v6() || reference(&packet[..view.payload_offset().unwrap()]) == 0xffff
}

fn payload_sum(packet: &[u8]) -> u16 {
    let view = Packet::parse(packet).unwrap();
    let payload = &packet[view.payload_offset().unwrap()..];
    if view.protocol() == protocol::ICMP {
        return reference(payload);
    }
    let mut bytes = Vec::new();
    for addr in [view.source(), view.destination()] {
        match addr {
            IpAddr::V4(a) => bytes.extend(a.octets()),
            IpAddr::V6(a) => bytes.extend(a.octets()),
        }
    }
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, view.protocol()]);
    bytes.extend(payload);
    reference(&bytes)
}

/// Returns the ones' complement sum, byte by byte, with the carry added at each step.
fn reference(bytes: &[u8]) -> u16 {
    bytes.iter().enumerate().fold(0_u16, |sum, (i, byte)| {
        let term = u16::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
        let (sum, carry) = sum.overflowing_add(term);
        sum + u16::from(carry)
    })
}

//! Adds headers to captured data, so that every reader shows it: UDP for datagrams, TCP for request lines.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use meshd_wire::ip::{self, protocol};

const UDP: usize = 8;
const TCP: usize = 20;
/// Flags PSH and ACK.
const FLAGS: u8 = 0x18;
const TTL: u8 = 64;

/// Makes a datagram of `length` bytes, of which `data` was captured.
pub(super) fn udp([from, to]: [SocketAddr; 2], length: usize, data: &[u8]) -> Vec<u8> {
    let mut packet = ip_header([from, to], protocol::UDP, UDP + length);
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&short(UDP + length));
    // Zero would mean "no checksum".
    packet.extend_from_slice(&[0, 1]);
    packet.extend_from_slice(data);
    ip::finish_checksum(&mut packet);
    packet
}

/// Sequence numbers of links as TCP streams, so that readers reassemble their lines.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<[SocketAddr; 2], u32>);

impl Streams {
    /// Makes a segment with `length` more bytes, of which `data` was captured.
    pub(super) fn tcp(
        &mut self,
        [from, to]: [SocketAddr; 2],
        length: usize,
        data: &[u8],
    ) -> Vec<u8> {
        let acknowledged = *self.0.entry([to, from]).or_insert(1);
        let next = self.0.entry([from, to]).or_insert(1);
        let number = *next;
        *next = next.wrapping_add(length as u32);
        let mut packet = ip_header([from, to], protocol::TCP, TCP + length);
        packet.extend_from_slice(&from.port().to_be_bytes());
        packet.extend_from_slice(&to.port().to_be_bytes());
        packet.extend_from_slice(&number.to_be_bytes());
        packet.extend_from_slice(&acknowledged.to_be_bytes());
        packet.extend_from_slice(&[(TCP as u8 / 4) << 4, FLAGS]);
        // Window, checksum, urgent pointer.
        packet.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
        packet.extend_from_slice(data);
        ip::finish_checksum(&mut packet);
        packet
    }
}

/// Makes the header of a packet with `length` payload bytes.
fn ip_header([from, to]: [SocketAddr; 2], protocol: u8, length: usize) -> Vec<u8> {
    match (from.ip(), to.ip()) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&short(length));
            header.extend_from_slice(&[protocol, TTL]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header
        }
        (from, to) => {
            // Both addresses have one family, unless our own address is unknown.
            let [from, to] = [from, to].map(|ip| match ip {
                IpAddr::V4(ip) => ip,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            });
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&short(ip::HEADER_V4 + length));
            // Identification, don't fragment.
            header.extend_from_slice(&[0, 0, 0x40, 0, TTL, protocol, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = ip::checksum(ip::sum(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
    }
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_wire::ip::Packet;

    fn ends(from: &str, to: &str) -> [SocketAddr; 2] {
        [from, to].map(|addr| addr.parse().unwrap())
    }

    /// Computes the checksum as a receiver does: 0 if it is correct.
    fn check(packet: &[u8]) -> u16 {
        let parsed = Packet::parse(packet).unwrap();
        let at = parsed.payload_offset().unwrap();
        let addresses = if parsed.is_v6() { 8..40 } else { 12..20 };
        let length = packet.len() - at;
        let pseudo = ip::sum(&packet[addresses]) + u64::from(parsed.protocol()) + length as u64;
        ip::checksum(pseudo + ip::sum(&packet[at..]))
    }

    #[test]
    fn headers_are_those_of_real_packets() {
        for (from, to) in [
            ("10.0.0.1:655", "10.0.0.2:656"),
            ("[fd00::1]:655", "[fd00::2]:656"),
        ] {
            let both = ends(from, to);
            let datagram = udp(both, 5, b"hello");
            let line = Streams::default().tcp(both, 5, b"hello");
            for (packet, protocol, header) in
                [(datagram, protocol::UDP, UDP), (line, protocol::TCP, TCP)]
            {
                let parsed = Packet::parse(&packet).unwrap();
                assert_eq!(
                    [parsed.source(), parsed.destination()],
                    both.map(|end| end.ip())
                );
                assert_eq!(
                    (parsed.protocol(), parsed.total_length()),
                    (protocol, packet.len())
                );
                let at = parsed.payload_offset().unwrap();
                assert_eq!(packet[at..at + 4], [2, 143, 2, 144]);
                assert_eq!(&packet[at + header..], b"hello");
                assert_eq!(check(&packet), 0);
                if !parsed.is_v6() {
                    assert_eq!(ip::checksum(ip::sum(&packet[..at])), 0);
                }
            }
        }
    }

    #[test]
    fn what_is_cut_off_still_counts() {
        let packet = udp(ends("10.0.0.1:655", "10.0.0.2:656"), 1000, b"begin");
        assert_eq!(Packet::parse(&packet).unwrap().total_length(), 1028);
        assert_eq!(packet.len(), 33);
    }

    #[test]
    fn segments_follow_each_other() {
        let mut streams = Streams::default();
        let there = ends("10.0.0.1:655", "10.0.0.2:656");
        let back = [there[1], there[0]];
        let mut numbers = |ends, data: &[u8]| {
            let packet = streams.tcp(ends, data.len(), data);
            let number = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
            (number(24), number(28))
        };
        assert_eq!(numbers(there, b"8\n"), (1, 1));
        assert_eq!(numbers(back, b"9\n"), (1, 3));
        assert_eq!(numbers(there, b"8\n"), (3, 3));
    }
}

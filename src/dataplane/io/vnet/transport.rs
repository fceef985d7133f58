//! Positions of the headers of TCP and UDP packets.

use super::{
    checksum::{fold, sum, word},
    header::Unfinished,
};

/// Lengths of fixed headers in bytes.
pub(super) const HEADER_V4: usize = 20;
pub(super) const HEADER_V6: usize = 40;
pub(super) const HEADER_TCP: usize = 20;
pub(super) const HEADER_UDP: usize = 8;

/// Protocol of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Returns the protocol's number in IP headers.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Returns the position of the checksum in the protocol's header.
    pub(super) const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// Returns the start of the payload of the segment at `start`, if its header is complete.
    pub(super) fn payload(self, packet: &[u8], start: usize) -> Option<usize> {
        let length = match self {
            Self::Tcp => usize::from(packet.get(start + 12)? >> 4) * 4,
            Self::Udp => HEADER_UDP,
        };
        let fits = start + length <= packet.len();
        (fits && (self == Self::Udp || length >= HEADER_TCP)).then_some(start + length)
    }
}

/// A whole TCP or UDP packet: the segment follows the IP header, it is no fragment, and every
/// length field matches the packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transport {
    pub(super) v6: bool,
    pub(super) protocol: Protocol,
    /// Start of the IP header.
    pub(super) ip: usize,
    /// Start of the TCP or UDP header.
    pub(super) start: usize,
    /// Start of the payload.
    pub(super) payload: usize,
}

impl Transport {
    /// Parses a packet with its IP header at `ip`; `None` if it is no whole TCP or UDP packet.
    /// Checksums are not verified.
    pub(super) fn parse(packet: &[u8], ip: usize) -> Option<Self> {
        let packet = packet.get(ip..)?;
        let v6 = match packet.first()? >> 4 {
            4 if packet.len() >= HEADER_V4 => false,
            6 if packet.len() >= HEADER_V6 => true,
            _ => return None,
        };
        let (start, length, protocol) = if v6 {
            (HEADER_V6, HEADER_V6 + be(packet, 4), packet[6])
        } else {
            let fragment = be(packet, 6) & 0x3fff != 0;
            let start = usize::from(packet[0] & 15) * 4;
            if start < HEADER_V4 || fragment {
                return None;
            }
            (start, be(packet, 2), packet[9])
        };
        let protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let payload = protocol.payload(packet, start)?;
        let odd = protocol == Protocol::Udp && be(packet, start + 4) != packet.len() - start;
        (length == packet.len() && !odd).then_some(Self {
            v6,
            protocol,
            ip,
            start: ip + start,
            payload: ip + payload,
        })
    }

    /// Returns the position of the checksum in the virtio header's form.
    pub(super) fn unfinished(&self) -> Unfinished {
        Unfinished {
            start: self.start as u16,
            offset: self.protocol.checksum_offset(),
        }
    }

    /// Returns the position of the checksum in the packet.
    pub(super) fn checksum_at(&self) -> usize {
        self.start + usize::from(self.protocol.checksum_offset())
    }

    /// Returns the sum of the pseudo-header.
    pub(super) fn pseudo(&self, packet: &[u8]) -> u64 {
        let length = ((packet.len() - self.start) as u16).to_be_bytes();
        sum(addresses(&packet[self.ip..], self.v6))
            + word([0, self.protocol.number()])
            + word(length)
    }

    /// Returns true if the packet has no checksum, which UDP allows. The sum of a pseudo-header is
    /// never zero.
    pub(super) fn has_no_checksum(&self, packet: &[u8]) -> bool {
        self.protocol == Protocol::Udp && be(packet, self.checksum_at()) == 0
    }

    /// Writes the pseudo-header sum into the checksum field: the kernel completes it.
    pub(super) fn unfinish(&self, packet: &mut [u8]) {
        let pseudo = fold(self.pseudo(packet));
        put(packet, self.checksum_at(), pseudo);
    }
}

/// Returns both addresses of a packet that starts with its fixed IP header.
pub(super) fn addresses(packet: &[u8], v6: bool) -> &[u8] {
    if v6 { &packet[8..40] } else { &packet[12..20] }
}

/// Returns the big-endian number at `at`.
pub(super) fn be(packet: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]))
}

/// Writes two bytes at `at`.
pub(super) fn put(packet: &mut [u8], at: usize, value: [u8; 2]) {
    packet[at..at + 2].copy_from_slice(&value);
}

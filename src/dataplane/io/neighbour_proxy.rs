//! A TAP device for the router: IP packets travel in Ethernet frames between two stations, our
//! kernel and meshd. Source: config/tinc.md section 6.8.

use std::sync::atomic::Ordering;

use meshd_sync::AtomicU64;

use crate::io::vnet::Header;

/// Length of the Ethernet header in front of a packet.
pub const LINK_HEADER: usize = 14;

/// Ethernet address of our kernel; all queues of a device share it.
#[derive(Debug)]
pub struct Station(AtomicU64);

impl Station {
    /// Makes the station with this address.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self(AtomicU64::new(number(mac)))
    }

    /// Records the address that the kernel used.
    pub fn seen(&self, mac: [u8; 6]) {
        self.0.store(number(mac), Ordering::Relaxed);
    }

    /// Returns the Ethernet header for an IP packet to the kernel. The source is the kernel's
    /// address with the last byte inverted.
    #[must_use]
    pub fn header_for(&self, packet: &[u8]) -> [u8; LINK_HEADER] {
        let [_, _, to @ ..] = self.0.load(Ordering::Relaxed).to_be_bytes();
        let mut header = [0; LINK_HEADER];
        header[..6].copy_from_slice(&to);
        header[6..12].copy_from_slice(&to);
        header[11] ^= 0xff;
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        header[12..].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        header
    }
}

fn number(mac: [u8; 6]) -> u64 {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&mac);
    u64::from_be_bytes(bytes)
}

impl Header {
    /// Returns the same header for the packet behind a link header.
    #[must_use]
    pub fn behind_link(mut self) -> Self {
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.start = unfinished.start.saturating_add(LINK_HEADER as u16);
        }
        if let Some(gso) = &mut self.gso {
            gso.header_len = gso.header_len.saturating_add(LINK_HEADER as u16);
        }
        self
    }

    /// Returns the same header for the packet without its link header; `None` if an offset lies
    /// inside that header.
    #[must_use]
    pub fn without_link(mut self) -> Option<Self> {
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.start = unfinished.start.checked_sub(LINK_HEADER as u16)?;
        }
        if let Some(gso) = &mut self.gso {
            gso.header_len = gso.header_len.saturating_sub(LINK_HEADER as u16);
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::vnet::{Gso, GsoKind, Unfinished};

    #[test]
    fn packets_come_from_the_inverted_address() {
        let station = Station::new([2, 3, 4, 5, 6, 7]);
        let [v4, v6] = [&[0x45][..], &[0x60]].map(|packet| station.header_for(packet));
        assert_eq!(v4, [2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 0xf8, 8, 0]);
        assert_eq!(v6[12..], [0x86, 0xdd]);
        station.seen([0xff, 0, 0, 0, 0, 1]);
        assert_eq!(station.header_for(&[])[..6], [0xff, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn places_in_a_header_move_with_the_packet() {
        let header = |start, header_len| Header {
            unfinished: Some(Unfinished { start, offset: 16 }),
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                size: 1400,
                header_len,
                ecn: false,
            }),
        };
        assert_eq!(header(20, 40).behind_link(), header(34, 54));
        assert_eq!(header(34, 54).without_link(), Some(header(20, 40)));
        assert_eq!(header(13, 54).without_link(), None);
        assert_eq!(Header::default().without_link(), Some(Header::default()));
    }
}

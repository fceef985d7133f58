//! An independent reference for the tests: packets built field by field, and naive cuts and
//! checksums.

use super::{Gso, GsoKind, Header, Unfinished};

/// Bytes in front of IP packets: none, an Ethernet header, one with a tag.
pub(crate) const LINK: [&[u8]; 3] = [
    &[],
    &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0],
    &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 7, 8, 0],
];

/// A packet in a frame.
pub(crate) fn framed(link: &[u8], packet: &[u8]) -> Vec<u8> {
    [link, packet].concat()
}

/// Header from a device with frames, for `header` from a device without.
pub(crate) fn shifted(link: &[u8], header: Header) -> Header {
    let unfinished = header.unfinished.map(|unfinished| Unfinished {
        start: unfinished.start + link.len() as u16,
        ..unfinished
    });
    let gso = header.gso.map(|gso| Gso {
        header_len: gso.header_len + link.len() as u16,
        ..gso
    });
    Header { unfinished, gso }
}

/// The Internet checksum as in RFC 1071.
pub(crate) fn naive_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let word = u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum += word;
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}

/// Fields of a TCP or UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) host: u8,
    pub(crate) port: u16,
    pub(crate) class: u8,
    pub(crate) ttl: u8,
    pub(crate) df: bool,
    pub(crate) id: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// IPv4 options and TCP options, each a multiple of four bytes.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            v6: false,
            udp: false,
            host: 1,
            port: 5000,
            class: 0,
            ttl: 64,
            df: true,
            id: 0,
            seq: 0,
            ack: 1,
            flags: 0x10,
            window: 500,
            ip_options: Vec::new(),
            options: Vec::new(),
            payload: vec![7; 100],
        }
    }
}

impl Parts {
    /// Builds the packet with valid checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut segment = self.segment();
        let at = self.checksum_offset();
        let sum = naive_checksum(&[self.pseudo(segment.len()), segment.clone()].concat());
        let sum = if sum == 0 { 0xffff } else { sum };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        [self.ip_header(segment.len()), segment].concat()
    }

    /// Builds the packet as the kernel passes it before any checksum is computed, with its virtio
    /// header. The header cuts it at `size` bytes of payload if it is longer.
    pub(crate) fn unfinished(&self, size: usize) -> (Header, Vec<u8>) {
        let mut segment = self.segment();
        let at = self.checksum_offset();
        let pseudo = !naive_checksum(&self.pseudo(segment.len()));
        segment[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let ip = self.ip_header(segment.len());
        let header = Header {
            unfinished: Some(Unfinished {
                start: ip.len() as u16,
                offset: at as u16,
            }),
            gso: (self.payload.len() > size).then(|| Gso {
                kind: match (self.udp, self.v6) {
                    (true, _) => GsoKind::Udp,
                    (false, false) => GsoKind::TcpV4,
                    (false, true) => GsoKind::TcpV6,
                },
                size: size as u16,
                header_len: (ip.len() + segment.len() - self.payload.len()) as u16,
                ecn: !self.udp && self.flags & 0x80 != 0,
            }),
        };
        (header, [ip, segment].concat())
    }

    /// Returns the packets of a super-packet.
    pub(crate) fn cut(&self, size: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(size);
        let pieces = self.payload.chunks(size).enumerate();
        let pieces = pieces.map(|(i, payload)| {
            let mut flags = self.flags;
            if i > 0 {
                flags &= 0x7f;
            }
            if i + 1 < count {
                flags &= !0x09;
            }
            Self {
                id: self.id.wrapping_add(i as u16),
                seq: self.seq.wrapping_add((i * size) as u32),
                flags,
                payload: payload.to_vec(),
                ..self.clone()
            }
        });
        pieces.collect()
    }

    pub(crate) fn checksum_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    fn addresses(&self) -> Vec<u8> {
        let (mut from, mut to) = if self.v6 {
            (vec![0xfd; 16], vec![0xfc; 16])
        } else {
            (vec![10, 0, 0, 0], vec![10, 1, 0, 0])
        };
        *from.last_mut().unwrap() = self.host;
        *to.last_mut().unwrap() = 9;
        [from, to].concat()
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let length = (length as u32).to_be_bytes();
        let tail = [0, 0, 0, self.protocol()];
        [&self.addresses()[..], &length, &tail].concat()
    }

    fn ip_header(&self, segment: usize) -> Vec<u8> {
        if self.v6 {
            let length = (segment as u16).to_be_bytes();
            let mut header = vec![0x60 | self.class >> 4, self.class << 4, 0, 42];
            header.extend(length);
            header.extend([self.protocol(), self.ttl]);
            header.extend(self.addresses());
            return header;
        }
        let length = 20 + self.ip_options.len();
        let mut header = vec![0x40 | (length / 4) as u8, self.class];
        header.extend(((length + segment) as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend([
            if self.df { 0x40 } else { 0 },
            0,
            self.ttl,
            self.protocol(),
            0,
            0,
        ]);
        header.extend(self.addresses());
        header.extend(&self.ip_options);
        let sum = naive_checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = [self.port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
        if self.udp {
            segment.extend((8 + self.payload.len() as u16).to_be_bytes());
            segment.extend([0; 2]);
        } else {
            segment.extend(self.seq.to_be_bytes());
            segment.extend(self.ack.to_be_bytes());
            segment.extend([(5 + self.options.len() / 4) as u8 * 16, self.flags]);
            segment.extend(self.window.to_be_bytes());
            segment.extend([0; 4]);
            segment.extend(&self.options);
        }
        segment.extend(&self.payload);
        segment
    }
}

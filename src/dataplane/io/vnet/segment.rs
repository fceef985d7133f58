//! Cuts a super-packet into packets.

use super::{
    Checksums, MAX_PACKET, VnetError,
    checksum::{finish, finish_transport, fold, sum, word},
    header::{Gso, GsoKind, Header, Unfinished},
    transport::{HEADER_V4, HEADER_V6, Protocol, Transport, put},
};

/// TCP flags of the last segment only, and of the first only.
const LAST_ONLY: u8 = 0x01 | 0x08;
const FIRST_ONLY: u8 = 0x80;

/// Packets of one read of the device, in order; an ordinary packet yields itself. Each packet is
/// written once, straight to its destination buffer.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    /// Position of the IP header.
    ip: usize,
    cut: Cut,
    checksums: Checksums,
    unfinished: Option<Unfinished>,
    /// Start of the next segment's payload; `None` behind the last.
    next: Option<usize>,
    /// Number of the next segment.
    number: u16,
}

/// Properties common to all segments.
#[derive(Debug, Clone, Copy)]
struct Cut {
    v6: bool,
    protocol: Option<Protocol>,
    /// Starts of the transport header and of the payload; the headers before the payload precede
    /// each segment. Both are 0 if the packet is not cut.
    start: usize,
    payload: usize,
    /// Bytes of payload in each segment but the last.
    size: usize,
    /// Sum of the pseudo-header without the length.
    pseudo: u64,
}

impl<'a> Segments<'a> {
    /// Makes the packets of `packet`, which was read with `header` and has its IP header at `ip`
    /// (any value if it is no IP packet). `ip` is 0, or the length of the Ethernet header, which
    /// precedes each packet. Checksums that are not computed yet are computed.
    ///
    /// # Errors
    /// If header and packet do not match.
    pub fn new(header: &Header, packet: &'a [u8], ip: usize) -> Result<Self, VnetError> {
        if let Some(Unfinished { start, offset }) = header.unfinished
            && usize::from(start) + usize::from(offset) + 2 > packet.len()
        {
            return Err(VnetError::BadChecksum {
                start,
                offset,
                length: packet.len(),
            });
        }
        let cut = match header.gso {
            None => Cut::whole(packet),
            Some(gso) => Cut::new(gso, header.unfinished, packet, ip).ok_or(VnetError::BadGso {
                length: packet.len(),
            })?,
        };
        Ok(Self {
            packet,
            ip,
            cut,
            checksums: Checksums::Complete,
            unfinished: header.unfinished,
            next: Some(cut.payload),
            number: 0,
        })
    }

    /// Leaves checksums that are not computed yet to the receiver, if they are at the standard
    /// position. See [`Self::checksums`].
    pub fn vouch(&mut self) {
        let found =
            || Transport::parse(self.packet, self.ip).map(|transport| transport.unfinished());
        if self.unfinished.is_some() && self.unfinished == found() {
            self.checksums = Checksums::Vouched;
        }
    }

    /// Returns the state of the checksums for the receiver.
    #[must_use]
    pub const fn checksums(&self) -> Checksums {
        self.checksums
    }

    /// Returns the length of the longest packet in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        (self.cut.payload + self.cut.size).min(self.packet.len())
    }

    /// Returns the length in bytes of the packet that [`Self::next_into`] would write; `None`
    /// behind the last.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        Some(self.cut.payload + self.rest(self.next?).min(self.cut.size))
    }

    /// Returns the number of packets left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.next
            .map_or(0, |at| self.rest(at).div_ceil(self.cut.size.max(1)).max(1))
    }

    /// Writes the next packet to the start of `out` and returns its length in bytes. Returns `None`
    /// behind the last packet, or if `out` is shorter than [`Self::next_len`]; then the packet
    /// stays the next one.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let (at, length) = (self.next?, self.next_len()?);
        let out = out.get_mut(..length)?;
        let (headers, data) = out.split_at_mut(self.cut.payload);
        headers.copy_from_slice(&self.packet[..self.cut.payload]);
        data.copy_from_slice(&self.packet[at..at + data.len()]);
        let end = at + data.len();
        let last = end == self.packet.len();
        match self.cut.protocol {
            Some(protocol) => self.mend(out, protocol, at, last),
            None => self.complete(out),
        }
        self.number = self.number.wrapping_add(1);
        self.next = (!last).then_some(end);
        Some(length)
    }

    fn rest(&self, at: usize) -> usize {
        self.packet.len() - at
    }

    /// Adjusts the headers to the segment whose payload starts at `at` in the super-packet.
    fn mend(&self, out: &mut [u8], protocol: Protocol, at: usize, last: bool) {
        let Cut { v6, .. } = self.cut;
        // `Cut::new` ensures that the super-packet has at most 65,535 bytes from here on.
        let (out, start) = (&mut out[self.ip..], self.cut.start - self.ip);
        let segment = ((out.len() - start) as u16).to_be_bytes();
        if v6 {
            let length = ((out.len() - HEADER_V6) as u16).to_be_bytes();
            put(out, 4, length);
        } else {
            let length = (out.len() as u16).to_be_bytes();
            put(out, 2, length);
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(self.number);
            put(out, 4, id.to_be_bytes());
            put(out, 10, [0; 2]);
            let sum = finish(sum(&out[..start]));
            put(out, 10, sum);
        }
        let header = &mut out[start..];
        match protocol {
            Protocol::Udp => put(header, 4, segment),
            Protocol::Tcp => {
                let seq = header[4..8].first_chunk().expect("four bytes of eight");
                let seq = u32::from_be_bytes(*seq).wrapping_add((at - self.cut.payload) as u32);
                header[4..8].copy_from_slice(&seq.to_be_bytes());
                if self.number > 0 {
                    header[13] &= !FIRST_ONLY;
                }
                if !last {
                    header[13] &= !LAST_ONLY;
                }
            }
        }
        let field = usize::from(protocol.checksum_offset());
        put(header, field, fold(self.cut.pseudo + word(segment)));
        if self.checksums == Checksums::Complete {
            let sum = finish_transport(sum(header));
            put(header, field, sum);
        }
    }

    /// Computes the checksum of an ordinary packet.
    fn complete(&self, out: &mut [u8]) {
        if let (Some(Unfinished { start, offset }), Checksums::Complete) =
            (self.unfinished, self.checksums)
        {
            let summed = &mut out[start.into()..];
            let sum = finish_transport(sum(summed));
            put(summed, offset.into(), sum);
        }
    }
}

impl Cut {
    /// Returns the cut of an ordinary packet.
    const fn whole(packet: &[u8]) -> Self {
        Self {
            v6: false,
            protocol: None,
            start: 0,
            payload: 0,
            size: packet.len(),
            pseudo: 0,
        }
    }

    /// Returns the cut of `packet`; `None` if it cannot be cut that way. IPv6 extension headers are
    /// allowed: the kernel gives the start of the transport header.
    fn new(gso: Gso, unfinished: Option<Unfinished>, packet: &[u8], ip: usize) -> Option<Self> {
        let unfinished = unfinished?;
        let protocol = match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => Protocol::Tcp,
            GsoKind::Udp => Protocol::Udp,
        };
        let start = usize::from(unfinished.start);
        let first = *packet.get(ip)?;
        let v6 = match (first >> 4, gso.kind) {
            (4, GsoKind::TcpV4 | GsoKind::Udp) => false,
            (6, GsoKind::TcpV6 | GsoKind::Udp) => true,
            _ => return None,
        };
        let right_start = match v6 {
            true => start >= ip + HEADER_V6,
            false => start >= ip + HEADER_V4 && start == ip + usize::from(first & 15) * 4,
        };
        let payload = protocol.payload(packet, start)?;
        let right = right_start
            && unfinished.offset == protocol.checksum_offset()
            && gso.size > 0
            && payload < packet.len()
            && packet.len() - ip <= MAX_PACKET;
        // The field holds the pseudo-header sum of the super-packet. Without its length this sum is
        // valid for each segment, whatever the extension headers are.
        let field = start + usize::from(unfinished.offset);
        let length = ((packet.len() - start) as u16).to_be_bytes();
        let without_length = length.map(|byte| !byte);
        right.then(|| Self {
            v6,
            protocol: Some(protocol),
            start,
            payload,
            size: gso.size.into(),
            pseudo: word([packet[field], packet[field + 1]]) + word(without_length),
        })
    }
}

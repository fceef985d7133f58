//! `struct virtio_net_hdr`, in the host's byte order as the TUN device has it by default.

use super::VnetError;

/// Length of the header in bytes: that of TUN devices unless `TUNSETVNETHDRSZ` says otherwise.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What stands before a packet that a device gives or takes. The default says: an ordinary packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// The checksum that is still to be computed.
    pub unfinished: Option<Unfinished>,
    /// How the packet is to be cut, if it is a super-packet.
    pub gso: Option<Gso>,
}

/// A checksum that is to be computed: over everything from `start` to the end of the packet. Its
/// field holds the sum of the pseudo-header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Where the summed bytes start, in bytes from the start of the packet.
    pub start: u16,
    /// Where the field stands, in bytes from `start`.
    pub offset: u16,
}

/// How a super-packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Protocols in it.
    pub kind: GsoKind,
    /// Bytes of payload in each segment but the last.
    pub size: u16,
    /// Length of all headers in bytes. A hint: what the kernel gives may be longer.
    pub header_len: u16,
    /// TCP's CWR is set: it belongs to the first segment only.
    pub ecn: bool,
}

/// Protocols of a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, each segment a datagram (Linux 6.2 or later).
    Udp,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`VnetError::UnknownGso`] for what the device was not asked to give.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, VnetError> {
        let [flags, gso_type, rest @ ..] = bytes;
        let word = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let kind = match gso_type & !GSO_ECN {
            0 => None,
            GSO_TCPV4 => Some(GsoKind::TcpV4),
            GSO_TCPV6 => Some(GsoKind::TcpV6),
            GSO_UDP_L4 => Some(GsoKind::Udp),
            _ => return Err(VnetError::UnknownGso(*gso_type)),
        };
        Ok(Self {
            unfinished: (flags & NEEDS_CSUM != 0).then(|| Unfinished {
                start: word(4),
                offset: word(6),
            }),
            gso: kind.map(|kind| Gso {
                kind,
                size: word(2),
                header_len: word(0),
                ecn: gso_type & GSO_ECN != 0,
            }),
        })
    }

    /// The header as the kernel reads it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        if let Some(Unfinished { start, offset }) = self.unfinished {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..].copy_from_slice(&offset.to_ne_bytes());
        }
        if let Some(gso) = self.gso {
            let ecn = if gso.ecn { GSO_ECN } else { 0 };
            bytes[1] = ecn
                | match gso.kind {
                    GsoKind::TcpV4 => GSO_TCPV4,
                    GsoKind::TcpV6 => GSO_TCPV6,
                    GsoKind::Udp => GSO_UDP_L4,
                };
            bytes[2..4].copy_from_slice(&gso.header_len.to_ne_bytes());
            bytes[4..6].copy_from_slice(&gso.size.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_of_linux() {
        let header = Header {
            unfinished: Some(Unfinished {
                start: 20,
                offset: 16,
            }),
            gso: Some(Gso {
                kind: GsoKind::TcpV6,
                size: 1400,
                header_len: 52,
                ecn: true,
            }),
        };
        let fields = [52_u16, 1400, 20, 16].map(u16::to_ne_bytes).concat();
        assert_eq!(header.to_bytes()[..2], [1, 0x84]);
        assert_eq!(header.to_bytes()[2..], fields);
        assert_eq!(Header::default().to_bytes(), [0; HEADER_LEN]);
    }

    proptest! {
        #[test]
        fn what_parses_is_written_alike(mut bytes in any::<[u8; HEADER_LEN]>()) {
            bytes[1] &= 0x87;
            match Header::parse(&bytes) {
                Ok(header) => prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header)),
                Err(error) => prop_assert_eq!(error, VnetError::UnknownGso(bytes[1])),
            }
        }
    }
}

//! `struct virtio_net_hdr`, in the host's byte order, which is the default of TUN devices.

use super::VnetError;

/// Length of the header in bytes: the default of TUN devices without `TUNSETVNETHDRSZ`.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Header in front of a packet that a device reads or writes. The default stands for an ordinary
/// packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// The checksum that is not computed yet.
    pub unfinished: Option<Unfinished>,
    /// Segmentation, for a super-packet.
    pub gso: Option<Gso>,
}

/// A checksum that is not computed yet, over all bytes from `start` to the end of the packet. The
/// checksum field holds the sum of the pseudo-header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Start of the summed bytes, in bytes from the start of the packet.
    pub start: u16,
    /// Position of the checksum field, in bytes from `start`.
    pub offset: u16,
}

/// Segmentation of a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Protocols of the super-packet.
    pub kind: GsoKind,
    /// Bytes of payload in each segment but the last.
    pub size: u16,
    /// Length of all headers in bytes. A hint: the kernel's value may be too large.
    pub header_len: u16,
    /// True if CWR of TCP is set, which belongs to the first segment only.
    pub ecn: bool,
}

/// Protocols of a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over IPv4 or IPv6, each segment one datagram (Linux 6.2 or later).
    Udp,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`VnetError::UnknownGso`] for a kind that was not enabled on the device.
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

    /// Returns the header in the kernel's form.
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

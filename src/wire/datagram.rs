//! The two node ids in front of an SPTPS datagram. Source: wire/tinc-1.1.md section 4.1.

use crate::NodeId;

/// Length of [`RelayHeader`] in bytes.
pub const HEADER: usize = 12;

/// `dst id(6) | src id(6)`: precedes the SPTPS datagram on UDP to nodes of minor 4 and up, and in
/// SPTPS_PACKET (21).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayHeader {
    /// The end of the tunnel; [`NodeId::DIRECT`] stands for the receiver of the datagram.
    pub to: NodeId,
    /// The node that sealed the datagram.
    pub from: NodeId,
}

impl RelayHeader {
    /// Parses the header of a datagram; `None` if the datagram is shorter than [`HEADER`]. The
    /// content starts at [`HEADER`].
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (to, rest) = datagram.split_first_chunk()?;
        let (from, _) = rest.split_first_chunk()?;
        Some(Self {
            to: NodeId(*to),
            from: NodeId(*from),
        })
    }

    /// Returns the bytes in front of a datagram.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..6].copy_from_slice(&self.to.0);
        bytes[6..].copy_from_slice(&self.from.0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_comes_first() {
        let bytes: Vec<u8> = (1..=20).collect();
        let header = RelayHeader::parse(&bytes).unwrap();
        assert_eq!(header.to, NodeId([1, 2, 3, 4, 5, 6]));
        assert_eq!(header.from, NodeId([7, 8, 9, 10, 11, 12]));
        assert_eq!(header.to_bytes(), bytes[..HEADER]);
        assert_eq!(RelayHeader::parse(&bytes[..11]), None);
    }
}

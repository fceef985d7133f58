//! Properties of the packets of each dialect. Code outside of a dialect's own files asks for a
//! property, never for the dialect.

use meshd_wire::datagram::HEADER;

use crate::{
    dialect::Dialect,
    tunnel::{SPTPS_OVERHEAD, legacy, native, sptps},
};

/// Properties of a dialect's packets. All of them are constants, so a question for one costs a
/// comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes in front of the data of a packet.
    pub head: usize,
    /// True if only the other end opens a packet, and relays forward it unopened. Else each node on
    /// the path opens the packet and seals it again.
    pub end_to_end: bool,
    /// True if both ends agree on their keys in a handshake. Else each end makes the key of the
    /// packets that it receives, and sends the key to the other end.
    pub handshakes: bool,
    /// True if a packet that goes directly to the other end starts with ids, provided that the other
    /// end understands them.
    pub direct_ids: bool,
    /// True if a packet names its key, so that no other key is tried.
    pub names_key: bool,
    /// True if the type of a record may have [`TYPE_VOUCHED`](super::TYPE_VOUCHED).
    pub vouches: bool,
    /// True if packets must leave in the order of their numbers, because the other end's replay
    /// window may be as short as 128.
    pub ordered: bool,
    /// True if the other end receives long runs of datagrams at once.
    pub long_runs: bool,
    /// True if the other end sends only packets from its own subnets, unless SourceCheck = no.
    pub own_sources: bool,
    /// True if the other end drops copies of packets that it has forwarded.
    pub drops_copies: bool,
    /// True if every packet is an Ethernet frame, in router mode too.
    pub frames: bool,
    /// True if a neighbour's MTU counts the Ethernet header of packets that are carried without one.
    pub counts_ethernet: bool,
    /// Bytes by which a datagram sent directly is shorter than one of SPTPS with ids. Probes have
    /// this many bytes of padding, so a proven length counts for SPTPS records behind ids.
    pub direct_saving: usize,
    /// Bytes by which a datagram with ids is longer than one of SPTPS with ids.
    pub relay_cost: usize,
}

impl Dialect {
    /// Returns the properties of the dialect's packets.
    #[inline]
    #[must_use]
    pub const fn caps(self) -> Caps {
        match self {
            Self::Legacy => Caps {
                head: legacy::HEAD,
                end_to_end: false,
                handshakes: false,
                direct_ids: false,
                names_key: false,
                vouches: false,
                ordered: true,
                long_runs: false,
                own_sources: false,
                drops_copies: false,
                frames: true,
                counts_ethernet: true,
                direct_saving: 0,
                relay_cost: 0,
            },
            Self::Sptps => Caps {
                head: sptps::HEAD,
                end_to_end: true,
                handshakes: true,
                direct_ids: true,
                names_key: false,
                vouches: false,
                ordered: true,
                long_runs: false,
                own_sources: false,
                drops_copies: false,
                frames: false,
                counts_ethernet: true,
                direct_saving: 0,
                relay_cost: 0,
            },
            Self::Native => Caps {
                head: native::HEAD,
                end_to_end: true,
                handshakes: true,
                direct_ids: false,
                names_key: true,
                vouches: true,
                ordered: false,
                long_runs: true,
                own_sources: true,
                drops_copies: true,
                frames: false,
                counts_ethernet: false,
                direct_saving: HEADER + SPTPS_OVERHEAD - native::OVERHEAD,
                relay_cost: native::OVERHEAD - SPTPS_OVERHEAD,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use meshd_crypto::aead::TAG;

    use super::*;

    /// Lengths that do not fit each other would let packets through that no path carries.
    #[test]
    fn lengths_of_every_dialect_fit_those_of_its_packets() {
        for dialect in Dialect::ALL {
            let caps = dialect.caps();
            if !caps.end_to_end {
                // The router counts these packets as frames.
                assert!(caps.counts_ethernet && !caps.direct_ids, "{dialect:?}");
                assert_eq!((caps.direct_saving, caps.relay_cost), (0, 0), "{dialect:?}");
                continue;
            }
            let sealed = caps.head + TAG;
            let ids = if caps.direct_ids { HEADER } else { 0 };
            let saving = HEADER + SPTPS_OVERHEAD - (ids + sealed);
            assert_eq!(caps.direct_saving, saving, "{dialect:?}");
            assert_eq!(caps.relay_cost, sealed - SPTPS_OVERHEAD, "{dialect:?}");
        }
    }
}

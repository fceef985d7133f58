//! How a packet for a node travels: UDP to whom, with which header, or TCP.

use std::net::SocketAddr;

use crate::route::NodeIdx;

/// The way of one tunnel datagram. Source: tinc-1.1-wire.md section 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendPath {
    /// By UDP.
    Udp {
        /// The node that the datagram goes to next: the destination itself or a relay.
        hop: NodeIdx,
        /// Its confirmed address.
        to: SocketAddr,
        /// Whether `hop` is the destination and we are the source: the header's dst id is zero then.
        direct: bool,
        /// Whether `hop` (minor 4 and up) wants the 12-byte header of ids.
        header: bool,
    },
    /// As a whole frame over the link to this neighbour, the destination itself (PACKET, 17).
    Frame(NodeIdx),
    /// As a sealed datagram over the link to this neighbour (SPTPS_PACKET, 21 or REQ_KEY 21).
    Relayed(NodeIdx),
    /// Nothing can be sent until there is a key.
    NoKey,
    /// There is no path.
    Unreachable,
}

//! Simulated TCP connections: two ends, and the data on the way between them, in order.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use meshd_proto::mesh::LinkId;

/// Unit that one end sends at once.
#[derive(Debug, Clone)]
pub(super) enum Chunk {
    /// Bytes of the stream.
    Bytes(Bytes),
    /// With [`Fidelity::Lines`](crate::Fidelity::Lines): one request line.
    Line(Bytes),
    /// With lines: one PACKET.
    Frame(Bytes),
    /// With lines: one SPTPS_PACKET.
    Relayed(Bytes),
    /// The end of the stream.
    Fin,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    /// The node of this end; for a stranger, the node at the other end.
    pub(super) node: usize,
    /// Life of the node: a restarted node does not know the connection.
    pub(super) life: u32,
    /// Link id in the node, once there is a link.
    pub(super) link: Option<LinkId>,
    /// Local address of this end.
    pub(super) local: SocketAddr,
    /// Address of the other end in the view of this one.
    pub(super) remote: SocketAddr,
    /// True if this end still sends and receives.
    pub(super) open: bool,
    /// Arrival time of the last chunk sent to this end: the next one arrives later.
    pub(super) last_arrival: Instant,
    /// Bytes that arrived at the end of a stranger, which belongs to no node.
    pub(super) stranger: Option<usize>,
    /// Chunks sent to this end while the network was cut.
    pub(super) stalled: Vec<Chunk>,
    /// With bytes: chunks that arrived while the connection waits to be accepted.
    pub(super) unread: Option<Vec<Chunk>>,
}

/// A connection; the end that dialled comes first.
#[derive(Debug)]
pub(super) struct Conn {
    /// Both ends.
    pub(super) ends: [End; 2],
    /// Addresses that both nodes had had when it was made. With another one it carries nothing.
    pub(super) moves: [u8; 2],
}

/// Id of one end of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId {
    /// Number of the connection.
    pub(super) conn: u64,
    /// 0 for the end that dialled, 1 for the other.
    pub(super) side: usize,
}

impl EndId {
    /// The other end.
    pub(super) fn other(self) -> Self {
        Self {
            side: 1 - self.side,
            ..self
        }
    }
}

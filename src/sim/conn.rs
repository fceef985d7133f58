//! Simulated TCP connections: two ends, and what is under way between them, in order.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use meshd_proto::mesh::LinkId;

/// What one end sends at once.
#[derive(Debug, Clone)]
pub(super) enum Chunk {
    /// Bytes of the stream.
    Bytes(Bytes),
    /// By lines: one request line.
    Line(Bytes),
    /// By lines: one PACKET.
    Frame(Bytes),
    /// By lines: one SPTPS_PACKET.
    Relayed(Bytes),
    /// The end of the stream.
    Fin,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    /// Whose.
    pub(super) node: usize,
    /// Which life of that node: a restarted one knows nothing of it.
    pub(super) life: u32,
    /// Its name there, once there is a link.
    pub(super) link: Option<LinkId>,
    /// Its own address.
    pub(super) local: SocketAddr,
    /// The other end's address as seen from here.
    pub(super) remote: SocketAddr,
    /// Whether it still sends and receives.
    pub(super) open: bool,
    /// When the last chunk sent to it will have arrived: the next comes after it.
    pub(super) last_arrival: Instant,
    /// Sent to it while the network was cut.
    pub(super) stalled: Vec<Chunk>,
}

/// A connection; the end that dialled comes first.
#[derive(Debug)]
pub(super) struct Conn {
    /// Both ends.
    pub(super) ends: [End; 2],
}

/// Names one end of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId {
    /// Number of the connection.
    pub(super) conn: u64,
    /// 0 for the end that dialled.
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

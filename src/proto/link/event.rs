//! Events of a link, and the reasons for its end.

use std::time::Instant;

use bytes::Bytes;

use meshd_crypto::PublicKey;
use meshd_wire::NodeName;

use crate::dialect::LinkCaps;

pub use crate::dialect::Dialect;

/// Identity of the other end, known after authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Name of the other node.
    pub name: NodeName,
    /// Protocol minor of the other node.
    pub minor: u8,
    /// Dialect of the link.
    pub dialect: Dialect,
    /// True if this node opened the connection.
    pub outgoing: bool,
    /// Time at which the link object was made: the edge weight counts milliseconds from here.
    pub started: Instant,
}

impl Hello {
    /// Returns the properties of the link's dialect.
    #[must_use]
    pub const fn caps(&self) -> LinkCaps {
        self.dialect.link_caps()
    }

    /// Returns true if the link speaks legacy although the other node has SPTPS: one of the ends
    /// lacks the other's key.
    #[must_use]
    pub fn lacks_key(&self) -> bool {
        self.dialect == Dialect::Legacy && self.minor > 0
    }
}

/// Result of an UPGRADE: Ed25519 keys sent over a link authenticated by RSA keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// Name of the other node.
    pub name: NodeName,
    /// Ed25519 key that the other node sent. The key equals that of the node's host file, if there
    /// is one.
    pub key: PublicKey,
    /// True if our key was sent and the other node has accepted it.
    pub sent_ours: bool,
}

/// Event of a link. Poll after every `handle_` call until `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link is authenticated; lines may be exchanged now.
    Up(Hello),
    /// One request line, without its LF. The link takes out the length lines of data (17, 21). The
    /// line may be longer than [`crate::link::MAX_LINE`] or hold line feeds: a real daemon forwards
    /// such lines.
    Line(Bytes),
    /// A frame, in SPTPS and legacy as PACKET (17): 14 bytes of Ethernet header, then the packet.
    Frame(Bytes),
    /// A relay datagram, in SPTPS as SPTPS_PACKET (21): dst id, src id, SPTPS datagram.
    Relayed(Bytes),
    /// Ed25519 keys were exchanged; no further event follows. The shell sends the remaining output
    /// and closes the socket.
    Upgraded(Upgraded),
    /// The link is dead; no further event follows. The shell closes the socket, or holds it
    /// silently: see [`LinkError::hold`].
    Down(LinkError),
}

/// Reason for the end of a link, by the end at fault. Text of the other end is escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A peer connected to us and sent no ID line of a known node, or did not prove to be that
    /// node.
    #[error("{0}")]
    Stranger(String),
    /// The other end, dialled or authenticated, broke the protocol.
    #[error("{0}")]
    Misbehaved(String),
    /// This node and the dialled node cannot talk: no key, or a wrong version.
    #[error("{0}")]
    Incompatible(String),
    /// The handshake took longer than its deadline.
    #[error("no authentication within {0} s")]
    AuthTimeout(u64),
    /// More bytes wait to be sent than [`crate::link::MAX_QUEUE`].
    #[error("the other side does not read: {0} bytes queued")]
    Stalled(usize),
    /// All record numbers of the link are used up; a new link can replace it.
    #[error("the sequence numbers of the connection are used up")]
    Exhausted,
}

impl LinkError {
    /// Returns true if the shell should hold the socket open and silent for a while instead of
    /// closing it. A stranger is slowed down by it, and cannot even learn of the refusal.
    #[must_use]
    pub fn hold(&self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

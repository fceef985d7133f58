//! What a link reports, and why it may die.

use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use meshd_crypto::PublicKey;
use meshd_wire::NodeName;

/// What a link speaks, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// RSA and AES-CFB, as tinc 1.0 does.
    Legacy,
    /// SPTPS, as tinc 1.1 does.
    Sptps,
    /// Noise, as only meshd does.
    Native,
}

impl Dialect {
    /// Its name, for the operator.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Sptps => "sptps",
            Self::Native => "native",
        }
    }
}

/// Who is on the other end, known from the moment of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The other node.
    pub name: NodeName,
    /// Its protocol minor version.
    pub minor: u8,
    /// What the link speaks.
    pub dialect: Dialect,
    /// Whether we opened the connection.
    pub outgoing: bool,
    /// When the link object was made: the edge weight counts milliseconds from here.
    pub started: Instant,
}

impl Hello {
    /// Whether the link speaks the legacy protocol.
    #[must_use]
    pub fn is_legacy(&self) -> bool {
        self.dialect == Dialect::Legacy
    }
}

/// What came of telling Ed25519 keys over a link that RSA keys authenticate (UPGRADE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The other node.
    pub name: NodeName,
    /// What it says is its key. That of its host file, if there is one.
    pub key: PublicKey,
    /// Whether it was told ours, and has taken it.
    pub told: bool,
}

/// What a link reports; poll after every `handle_` call until `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Authenticated; lines may flow now.
    Up(Hello),
    /// One request line, without its LF. Lengths of data (17, 21) are taken out by the link. It may be longer than
    /// [`crate::link::MAX_LINE`], or hold line feeds: a real daemon passes such lines on.
    Line(Bytes),
    /// A frame, in SPTPS and legacy as PACKET (17): 14 bytes of Ethernet header, then the packet.
    Frame(Bytes),
    /// A relay datagram, in SPTPS as SPTPS_PACKET (21): dst id, src id, SPTPS datagram.
    Relayed(Bytes),
    /// Ed25519 keys were told; nothing more comes out of the link. The shell sends what is left and closes the socket.
    Upgraded(Upgraded),
    /// The link is dead; nothing more comes out of it. The shell closes the socket (or holds it
    /// silently: see [`LinkError::hold`]).
    Down(LinkError),
}

/// Why a link died, by whose fault. Text of the other side in it is escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Somebody who connected to us got no further: no ID line of a known node, no proof of it.
    #[error("{0}")]
    Stranger(String),
    /// The other side, dialled or authenticated, broke the protocol.
    #[error("{0}")]
    Misbehaved(String),
    /// We and the node that we dialled cannot talk: no key, wrong version.
    #[error("{0}")]
    Incompatible(String),
    /// The handshake took longer than its deadline.
    #[error("no authentication within {0} s")]
    AuthTimeout(u64),
    /// More bytes wait to be sent than [`crate::link::MAX_QUEUE`].
    #[error("the other side does not read: {0} bytes queued")]
    Stalled(usize),
    /// All record numbers of the link are used; a new one can take its place.
    #[error("the sequence numbers of the connection are used up")]
    Exhausted,
}

impl LinkError {
    /// Whether the shell should hold the socket open and silent for a while instead of closing it:
    /// a stranger learns nothing then, not even that it was refused, and is slowed down.
    #[must_use]
    pub fn hold(&self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

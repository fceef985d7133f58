//! One meta connection: bytes in, authenticated request lines out, and back. Three dialects will
//! live behind [`Link`]; they are told apart in this file only. Today: SPTPS.
//!
//! A link knows no socket: the shell feeds it what TCP delivers and writes what it wants sent.
//! Source: tinc-1.1-wire.md sections 2 and 3.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    crypto::{PrivateKey, PublicKey, Rng},
    wire::NodeName,
};

/// Our own side of every link.
pub struct Identity {
    /// Our name.
    pub name: NodeName,
    /// Our private key.
    pub key: Arc<PrivateKey>,
}

/// Where an accepting link finds the key of the name that a stranger claims.
pub trait Keyring {
    /// The public key in the host file of `name`; `None` if there is no such node or key.
    fn public_key(&self, name: &NodeName) -> Option<PublicKey>;
}

/// Who is on the other end, known from the moment of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The other node.
    pub name: NodeName,
    /// Its protocol minor version.
    pub minor: u8,
    /// Whether we opened the connection.
    pub outgoing: bool,
    /// When the link object was made: the edge weight counts milliseconds from here.
    pub started: Instant,
}

/// What a link reports; poll after every `handle_` call until `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Authenticated; lines may flow now.
    Up(Hello),
    /// One request line, without its LF. Lengths of data (17, 21) are taken out by the link.
    Line(Bytes),
    /// A frame that came as PACKET (17): 14 bytes of Ethernet header, then the packet.
    Frame(Bytes),
    /// A relay datagram that came as SPTPS_PACKET (21): dst id, src id, SPTPS datagram.
    Relayed(Bytes),
    /// The link is dead; nothing more comes out of it. The shell closes the socket (or holds it
    /// silently: see [`LinkError::hold`]).
    Down(LinkError),
}

/// Why a link died, by whose fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The other side broke the protocol.
    #[error("{0}")]
    Misbehaved(String),
    /// The two sides cannot talk: no key, wrong version.
    #[error("{0}")]
    Incompatible(String),
    /// The handshake took longer than its deadline.
    #[error("no authentication within {0} s")]
    AuthTimeout(u64),
    /// More bytes wait to be sent than [`MAX_QUEUE`].
    #[error("the other side does not read: {0} bytes queued")]
    Stalled(usize),
}

/// Hard limit of bytes queued to one link. Source: spec/security.md section 5.6.
pub const MAX_QUEUE: usize = 4 << 20;
/// Queued bytes above which data packets over TCP are dropped. Source: the same.
pub const MAX_QUEUE_BULK: usize = 256 << 10;
/// Longest request line in bytes without LF that we send or accept. Source: tinc-1.1-wire.md section 3.3.
pub const MAX_LINE: usize = 2175;
/// Bytes that a stranger may make us hold before it is authenticated. Source: spec/security.md section 5.6.
pub const MAX_PREAUTH: usize = 8 << 10;

/// One meta connection in any dialect.
pub struct Link {
    _todo: (),
}

impl Link {
    /// A link that we open to `peer`. It wants to send at once: poll [`Self::take_output`].
    #[must_use]
    pub fn dial(
        _local: Arc<Identity>,
        _peer: NodeName,
        _peer_key: PublicKey,
        _auth_timeout: Duration,
        _rng: Rng,
        _now: Instant,
    ) -> Self {
        todo!()
    }

    /// A link that somebody opened to us. It stays silent until a valid ID line has come.
    #[must_use]
    pub fn accept(
        _local: Arc<Identity>,
        _auth_timeout: Duration,
        _rng: Rng,
        _now: Instant,
    ) -> Self {
        todo!()
    }

    /// Takes bytes that TCP delivered, any chunking. Poll events and output afterwards.
    pub fn handle_bytes(&mut self, _data: &[u8], _keys: &dyn Keyring, _now: Instant) {
        todo!()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        todo!()
    }

    /// Moves everything that waits to be written into one buffer; empty if nothing waits. The shell
    /// reports progress with [`Self::written`].
    #[must_use]
    pub fn take_output(&mut self) -> Bytes {
        todo!()
    }

    /// Tells the link that `count` bytes of its output have reached the kernel.
    pub fn written(&mut self, _count: usize) {
        todo!()
    }

    /// Bytes handed out or waiting that [`Self::written`] has not confirmed.
    #[must_use]
    pub fn queued(&self) -> usize {
        todo!()
    }

    /// The other node: dialled, claimed or proven.
    #[must_use]
    pub fn peer(&self) -> Option<&NodeName> {
        todo!()
    }

    /// Whether the other side is authenticated and the link alive.
    #[must_use]
    pub fn is_up(&self) -> bool {
        todo!()
    }

    /// Queues one request line (without LF). Ignored on a dead or unauthenticated link.
    pub fn send_line(&mut self, _line: &[u8]) {
        todo!()
    }

    /// Queues a frame as PACKET (17). Returns `false` if it was dropped because the link is congested.
    pub fn send_frame(&mut self, _frame: &[u8]) -> bool {
        todo!()
    }

    /// Queues a relay datagram as SPTPS_PACKET (21). Returns `false` if it was dropped.
    pub fn send_relayed(&mut self, _datagram: &[u8]) -> bool {
        todo!()
    }

    /// When [`Self::handle_timeout`] wants to be called, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Lets the handshake deadline act.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }
}

//! Outputs of the pool: requests to the shell, reports to the mesh, and events for a log.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use meshd_crypto::PublicKey;
use meshd_wire::NodeName;

use crate::link::{Dialect, Hello, LinkId, pool::DialId};

/// An output that the shell carries out, in the given order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolOutput {
    /// Connect to an address. [`Pool::connected`](crate::link::Pool::connected) or
    /// [`Pool::connect_failed`](crate::link::Pool::connect_failed) follows.
    Connect {
        /// The attempt.
        dial: DialId,
        /// The dialled node.
        node: NodeName,
        /// Its address.
        addr: SocketAddr,
    },
    /// Give up a connection attempt; the pool has forgotten it.
    Abort {
        /// The attempt.
        dial: DialId,
    },
    /// Send bytes. [`Pool::written`](crate::link::Pool::written) reports progress.
    Send {
        /// The link.
        link: LinkId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Accept connections, or leave them waiting: connections that cannot be evicted hold all
    /// places. Before the first such output the shell leaves them waiting.
    Listen(bool),
    /// Stop reading, but keep the socket open.
    Mute {
        /// The link.
        link: LinkId,
    },
    /// Close a socket; the pool has forgotten the link.
    Close {
        /// The link.
        link: LinkId,
        /// True if earlier output is to be sent first.
        after_output: bool,
    },
    /// Look up the credentials of a node.
    /// [`Pool::handle_credentials`](crate::link::Pool::handle_credentials) is due. The links that
    /// need them wait.
    NeedCredentials(NodeName),
    /// Store the Ed25519 key of a node (LearnKeys), and put it in force.
    StoreKey {
        /// The node.
        node: NodeName,
        /// Its key.
        key: PublicKey,
    },
    /// A report to the mesh.
    Report(LinkReport),
    /// An event for the log.
    Log(LinkLog),
}

/// A report of the pool to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkReport {
    /// A link is authenticated.
    Up {
        /// The link.
        link: LinkId,
        /// Identity of the other end.
        hello: Hello,
        /// TCP address of the other end.
        remote: SocketAddr,
        /// Our TCP address on the link.
        local: SocketAddr,
    },
    /// A link that was up is gone.
    Down {
        /// The link.
        link: LinkId,
        /// Reason, for the operator.
        why: String,
    },
    /// A request line (no LF) was received.
    Line {
        /// The link.
        link: LinkId,
        /// The line.
        line: Bytes,
    },
    /// A frame was received.
    Frame {
        /// The link.
        link: LinkId,
        /// 14 bytes of Ethernet header, then the packet.
        frame: Bytes,
    },
    /// A relay datagram was received.
    Relayed {
        /// The link.
        link: LinkId,
        /// dst id, src id, SPTPS datagram.
        datagram: Bytes,
    },
    /// The answer to [`Pool::ask_room`](crate::link::Pool::ask_room).
    Room {
        /// The link.
        link: LinkId,
    },
    /// An attempt to dial a node has failed.
    DialFailed {
        /// The dialled node.
        node: NodeName,
        /// The dialled address.
        addr: SocketAddr,
        /// Kind of the failure.
        fault: DialFault,
        /// Reason, for the operator.
        why: String,
    },
    /// A peer connected under the name of a node and did not prove that identity.
    Unproven {
        /// The claimed name.
        node: NodeName,
        /// Address of the peer.
        addr: SocketAddr,
        /// The check that failed.
        why: String,
    },
    /// A node has sent its Ed25519 key over a link authenticated by its RSA key, and the key is not
    /// stored.
    KeyReceived {
        /// The node.
        node: NodeName,
        /// The key.
        key: PublicKey,
    },
}

/// An event that a log may show. It needs no action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkLog {
    /// A connection is accepted.
    Accepted {
        /// Address of the peer.
        addr: SocketAddr,
        /// True if a silent connection was closed for it.
        replaces: bool,
    },
    /// A connection is refused: too many are unauthenticated.
    Refused {
        /// Address of the peer.
        addr: SocketAddr,
    },
    /// A connection is authenticated.
    Authenticated {
        /// The other node.
        node: NodeName,
        /// Its address.
        addr: SocketAddr,
        /// Dialect of the link.
        dialect: Dialect,
    },
    /// An unauthenticated connection has ended.
    Stranger {
        /// Address of the peer.
        addr: SocketAddr,
        /// Reason of the end.
        why: String,
        /// True if the connection is held silently because the peer misbehaved.
        held: bool,
    },
    /// A node is dialled again to exchange Ed25519 keys.
    Upgrading {
        /// The node.
        node: NodeName,
        /// The dialled address.
        addr: SocketAddr,
        /// Reason why the first connection ended.
        why: String,
    },
    /// A node whose Ed25519 key is known has accepted ours.
    KeyAccepted {
        /// The node.
        node: NodeName,
    },
}

/// Reason why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialFault {
    /// The node's host file is missing or has no usable key.
    NoKey,
    /// No address of the node is known.
    NoAddress,
    /// The host name in the node's Address has no address.
    Unresolved,
    /// The host refused the connection: nothing listens on that port.
    Refused,
    /// No answer arrived, or there is no route to the address.
    Silent,
    /// A peer answered, but it did not prove to be the node, or it rejected our proof.
    Handshake,
}

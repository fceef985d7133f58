//! Inputs and outputs of the mesh.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;

use meshd_wire::{NodeName, Subnet, ether::Mac};

use crate::{
    mesh::Settings,
    route::{NodeIdx, RouteSnapshot},
};

pub use crate::link::{LinkId, LinkReport, ROOM_LEFT};

/// An input that the driver gives to the mesh.
#[derive(Debug)]
pub enum Input {
    /// A report of the pool about a link or a dial.
    Link(LinkReport),
    /// A packet or event that a worker leaves to the control plane.
    Punt(Punt),
    /// The answer to [`Output::Resolve`]; empty if the name did not resolve.
    Resolved {
        /// The node whose Address is resolved.
        node: NodeName,
        /// The host name of the question.
        host: String,
        /// All addresses of the host, with the port of the question.
        addrs: Vec<SocketAddr>,
    },
    /// The MTU of the device towards an address, after [`Output::AskPathMtu`]. MTUs from ICMP never
    /// arrive here: anybody can send ICMP.
    PathMtu {
        /// The address.
        to: SocketAddr,
        /// MTU of the device, in bytes of an IP packet.
        mtu: u16,
    },
    /// A datagram of ours was too long for the device (EMSGSIZE).
    TooLong {
        /// Destination of the datagram.
        to: SocketAddr,
        /// Length of the datagram in bytes of UDP payload.
        length: usize,
    },
    /// The current configuration. The mesh finds the differences itself.
    Config(Arc<Settings>),
    /// Dial every node now (SIGALRM, `meshctl retry`).
    Retry,
    /// Neighbours before a restart, and their listening addresses. The mesh dials each one once, no
    /// matter which end dialled before.
    Redial(Vec<(NodeName, SocketAddr)>),
    /// Measure the path to a node once. [`Output::Pong`] with the same token follows if an answer
    /// arrives.
    Ping {
        /// The node.
        node: NodeName,
        /// Token, chosen by the driver.
        token: u64,
    },
    /// Send a question to a node, when there is a native session with it. The answer arrives as
    /// [`Output::Query`]. Only a meshd with a native tunnel answers.
    Ask {
        /// The node that is asked.
        node: NodeName,
        /// The question, at most [`MAX_QUERY`](crate::mesh::reports::query::MAX_QUERY) bytes.
        data: Bytes,
    },
    /// Send the answer to a question of a node. Answers beyond one a second are dropped.
    Answer {
        /// The node that asked.
        node: NodeName,
        /// The answer, at most [`MAX_QUERY`](crate::mesh::reports::query::MAX_QUERY) bytes.
        data: Bytes,
    },
    /// Turns reports of inner packets ([`Output::Seen`]) on or off.
    Capture(bool),
    /// 32 fresh random bytes.
    Entropy([u8; 32]),
    /// The time of [`crate::mesh::Mesh::poll_timeout`] has come.
    Timeout,
}

/// A packet or event that a worker cannot handle by itself.
#[derive(Debug)]
pub enum Punt {
    /// An inner packet for a node that cannot go by UDP now: no key, TCP only, or too long for the
    /// path.
    Packet {
        /// Destination node.
        to: NodeIdx,
        /// The packet.
        packet: Bytes,
    },
    /// A datagram as received, which the worker cannot open: the sender is unknown, the source
    /// address is not the sender's confirmed one, or no key matches.
    Datagram {
        /// Source address.
        from: SocketAddr,
        /// The whole UDP payload.
        datagram: Bytes,
    },
    /// A probe (record type 4) that the worker opened.
    Probe {
        /// The node that sent the probe.
        node: NodeIdx,
        /// Source address.
        from: SocketAddr,
        /// The record data.
        data: Bytes,
    },
    /// A datagram between two other nodes, from a confirmed address, that cannot be forwarded by
    /// UDP.
    Relay {
        /// Destination.
        to: NodeIdx,
        /// Origin.
        from: NodeIdx,
        /// The node that sent it to us.
        by: NodeIdx,
        /// The SPTPS datagram without header.
        datagram: Bytes,
    },
    /// Datagrams from this node's confirmed address failed authentication in the node's tunnel.
    BadTag {
        /// The node.
        node: NodeIdx,
    },
    /// Frames from this Ethernet address came from our device, and the address is not learned yet.
    NewMac {
        /// The address.
        mac: Mac,
    },
    /// The sending key runs out of sequence numbers.
    Exhausted {
        /// The node that the key sends to.
        node: NodeIdx,
    },
}

/// An event for the log. The driver finds the facts and the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A legacy link is up.
    LegacyLink,
    /// A node sent its Ed25519 key over a link that its RSA key authenticates.
    KeySent,
}

/// An action that the mesh asks of the driver. Poll after every [`crate::mesh::Mesh::handle`] until
/// `None`.
#[derive(Debug)]
pub enum Output {
    /// Send this request line (no LF).
    SendLine {
        /// The link.
        to: LinkId,
        /// The line.
        line: Bytes,
    },
    /// Answer with [`LinkReport::Room`] when the socket has taken all lines so far but at most
    /// [`ROOM_LEFT`] bytes.
    AskRoom {
        /// The link.
        link: LinkId,
    },
    /// Send this frame as PACKET (17).
    SendFrame {
        /// The link.
        to: LinkId,
        /// Ethernet header and packet.
        frame: Bytes,
    },
    /// Send this relay datagram as SPTPS_PACKET (21).
    SendRelayed {
        /// The link.
        to: LinkId,
        /// dst id, src id, SPTPS datagram.
        datagram: Bytes,
    },
    /// Send this datagram by UDP with don't-fragment set.
    Datagram {
        /// Destination address.
        to: SocketAddr,
        /// The payload.
        datagram: Bytes,
    },
    /// Write this packet to our device.
    TunWrite(Bytes),
    /// Resolve a host name and answer with [`Input::Resolved`].
    Resolve {
        /// The node whose Address is resolved.
        node: NodeName,
        /// The host name.
        host: String,
        /// The port for the answer.
        port: u16,
    },
    /// Open a meta connection. [`LinkReport::Up`] or [`LinkReport::DialFailed`] follows.
    Dial {
        /// The node to dial.
        node: NodeName,
        /// The address to dial.
        addr: SocketAddr,
    },
    /// Cancel a dial that is in progress.
    CancelDial {
        /// The dialled node.
        node: NodeName,
    },
    /// Close a link. No [`LinkReport::Down`] follows.
    Close {
        /// The link.
        link: LinkId,
        /// Reason, for the log.
        why: String,
    },
    /// Ask the kernel for the MTU of the device towards an address and answer with
    /// [`Input::PathMtu`].
    AskPathMtu {
        /// The address.
        to: SocketAddr,
    },
    /// An address worked: put it first in the node's address cache.
    Remember {
        /// The node.
        node: NodeName,
        /// The TCP address.
        addr: SocketAddr,
    },
    /// The answer to an [`Input::Ping`] arrived.
    Pong {
        /// Token of the input.
        token: u64,
        /// Round-trip time.
        rtt: std::time::Duration,
    },
    /// A question or an answer of a node arrived in a native session.
    Query {
        /// The node.
        node: NodeName,
        /// The content. The node may send anything.
        data: Bytes,
    },
    /// The mesh, not a worker, sent an inner packet into a node's tunnel or received one from it.
    /// Emitted only after [`Input::Capture`].
    Seen {
        /// The node at the other end of the tunnel.
        node: NodeName,
        /// True if the packet was received, false if it was sent.
        received: bool,
        /// The packet or frame.
        packet: Bytes,
    },
    /// An event for the log.
    Notice {
        /// The node.
        node: NodeName,
        /// The event.
        notice: Notice,
    },
    /// Run a script.
    Hook(HookEvent),
    /// Use this snapshot from now on.
    Publish(Arc<RouteSnapshot>),
}

/// An event for which the operator may have a script. All values are typed: no text from the wire
/// reaches an environment unchecked (T33 of proto/threat-model.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEvent {
    /// host-up, host-down and hosts/NODE-up, hosts/NODE-down.
    Host {
        /// True for up, false for down.
        up: bool,
        /// The node.
        node: NodeName,
        /// UDP address of the node, if known.
        address: Option<SocketAddr>,
    },
    /// subnet-up, subnet-down.
    Subnet {
        /// True for up, false for down.
        up: bool,
        /// Owner of the subnet.
        node: NodeName,
        /// The subnet.
        subnet: Subnet,
        /// The owner's UDP address; `None` for our own subnets.
        address: Option<SocketAddr>,
    },
}

/// Reason for a wake-up of the mesh, for the log line that explains a busy loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Once a second: pings, discovery, expiry.
    Tick,
    /// A dial, or a check of AutoConnect, is due.
    Dial,
    /// The graph changed and must be published.
    Publish,
    /// A UDP probe or a step of the path-MTU search is due.
    Pmtu,
    /// A pause in sending around a key change is over, or a native handshake got no answer.
    Keys,
    /// Statements of others that were not accepted at once are decided.
    Doubts,
}

/// A time and the reason for it.
pub type Deadline = (Instant, Timer);

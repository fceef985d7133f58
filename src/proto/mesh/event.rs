//! What goes into the mesh and what comes out of it.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;

use meshd_crypto::PublicKey;
use meshd_wire::{NodeName, Subnet, ether::Mac};

use crate::{
    link::Hello,
    mesh::{Settings, sight::Pair, view::DialFault},
    route::{NodeIdx, RouteSnapshot},
};

/// See [`Output::AskRoom`]. So much waits still when more comes: the socket does not run dry.
pub const ROOM_LEFT: usize = 32 << 10;

slotmap::new_key_type! {
    /// One meta connection. Made by the driver, who owns the [`crate::link::Link`].
    pub struct LinkId;
}

/// What the driver tells the mesh.
#[derive(Debug)]
pub enum Input {
    /// A link is authenticated.
    LinkUp {
        /// Which.
        link: LinkId,
        /// Who is there.
        hello: Hello,
        /// The other end's TCP address.
        remote: SocketAddr,
        /// Our own TCP address on it.
        local: SocketAddr,
    },
    /// A link that was up is gone.
    LinkDown {
        /// Which.
        link: LinkId,
        /// Why, for the operator.
        why: String,
    },
    /// A request line (no LF).
    Line {
        /// From which link.
        link: LinkId,
        /// The line.
        line: Bytes,
    },
    /// A frame that came over TCP as PACKET (17).
    Frame {
        /// From which link.
        link: LinkId,
        /// 14 bytes of Ethernet header, then the packet.
        frame: Bytes,
    },
    /// A relay datagram that came over TCP as SPTPS_PACKET (21).
    Relayed {
        /// From which link.
        link: LinkId,
        /// dst id, src id, SPTPS datagram.
        datagram: Bytes,
    },
    /// Something that a worker leaves to the control plane.
    Punt(Punt),
    /// An attempt of [`Output::Dial`] ended before the link was up.
    DialFailed {
        /// Whom we tried.
        node: NodeName,
        /// Where.
        addr: SocketAddr,
        /// In one word.
        fault: DialFault,
        /// Why it failed.
        why: String,
    },
    /// Somebody connected to us under the name of a node and did not prove to be it.
    Unproven {
        /// The name.
        node: NodeName,
        /// From where.
        addr: SocketAddr,
        /// What failed.
        why: String,
    },
    /// The answer to [`Output::Resolve`]; empty if the name did not resolve.
    Resolved {
        /// For whom.
        node: NodeName,
        /// The host as asked.
        host: String,
        /// All its addresses, with the port as asked.
        addrs: Vec<SocketAddr>,
    },
    /// The MTU of the device towards an address, after [`Output::AskPathMtu`]. What ICMP says of the path never
    /// comes here: anybody can send it.
    PathMtu {
        /// The address.
        to: SocketAddr,
        /// MTU of the device, in bytes of an IP packet.
        mtu: u16,
    },
    /// A datagram of ours was too long for the device (EMSGSIZE).
    TooLong {
        /// Where it was to go.
        to: SocketAddr,
        /// Its length in bytes of UDP payload.
        length: usize,
    },
    /// The configuration as it is now; the mesh finds out itself what changed.
    Config(Arc<Settings>),
    /// Dial everything now (SIGALRM, `meshctl retry`).
    Retry,
    /// Who our neighbours were before a restart, and where they listen: each is dialled once, whoever dialled then.
    Redial(Vec<(NodeName, SocketAddr)>),
    /// Measure the way to a node once; [`Output::Pong`] with the same token follows, if anything
    /// comes back at all.
    Ping {
        /// The node.
        node: NodeName,
        /// Chosen by the driver.
        token: u64,
    },
    /// Ask a node what it sees of another one; [`Output::Told`] with the same token follows, if it answers. Only a
    /// meshd with a native tunnel does.
    AskNode {
        /// Whom.
        node: NodeName,
        /// Of whom.
        about: NodeName,
        /// Chosen by the driver.
        token: u64,
    },
    /// A node has told this Ed25519 key over a link that its RSA key authenticates, and its host file has none.
    KeyTold {
        /// Whose.
        node: NodeName,
        /// What it says.
        key: PublicKey,
    },
    /// Whether to show inner packets that we carry, as [`Output::Seen`].
    Look(bool),
    /// The answer to [`Output::AskRoom`]: the socket has taken what was sent before that, or nearly all.
    Room {
        /// Which link.
        link: LinkId,
    },
    /// 32 fresh random bytes.
    Entropy([u8; 32]),
    /// The time of [`crate::mesh::Mesh::poll_timeout`] has come.
    Timeout,
}

/// What a worker cannot do by itself.
#[derive(Debug)]
pub enum Punt {
    /// An inner packet for a node that cannot go by UDP now: no key, TCP, too long for the path.
    Packet {
        /// Where it is to go.
        to: NodeIdx,
        /// The packet.
        packet: Bytes,
    },
    /// A datagram whose sender the worker does not know, or from an address that is not the sender's
    /// confirmed one, or that no key opens: as it came.
    Datagram {
        /// Source address.
        from: SocketAddr,
        /// The whole UDP payload.
        datagram: Bytes,
    },
    /// A probe (record type 4) that the worker opened.
    Probe {
        /// Whose.
        node: NodeIdx,
        /// Source address.
        from: SocketAddr,
        /// The record data.
        data: Bytes,
    },
    /// A datagram between two other nodes, from a confirmed address, that cannot go on by UDP.
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
    /// Datagrams of this node's tunnel did not open, from its confirmed address.
    BadTag {
        /// Whose.
        node: NodeIdx,
    },
    /// Frames of this Ethernet address, which we have not learned, came from our device.
    NewMac {
        /// The address.
        mac: Mac,
    },
    /// The sending key runs out of numbers.
    Exhausted {
        /// Whose.
        node: NodeIdx,
    },
}

/// What the mesh wants done. Poll after every [`crate::mesh::Mesh::handle`] until `None`.
#[derive(Debug)]
pub enum Output {
    /// Send this line (no LF).
    SendLine {
        /// Over which link.
        to: LinkId,
        /// The line.
        line: Bytes,
    },
    /// Tell by [`Input::Room`] when the socket has taken the lines so far, but [`ROOM_LEFT`] bytes at most.
    AskRoom {
        /// Which link.
        link: LinkId,
    },
    /// Send this frame as PACKET (17).
    SendFrame {
        /// Over which link.
        to: LinkId,
        /// Ethernet header and packet.
        frame: Bytes,
    },
    /// Send this relay datagram as SPTPS_PACKET (21).
    SendRelayed {
        /// Over which link.
        to: LinkId,
        /// dst id, src id, SPTPS datagram.
        datagram: Bytes,
    },
    /// Send by UDP, don't-fragment set.
    Datagram {
        /// Where.
        to: SocketAddr,
        /// The payload.
        datagram: Bytes,
    },
    /// Write this packet to our device.
    TunWrite(Bytes),
    /// Resolve a host name; answer with [`Input::Resolved`].
    Resolve {
        /// For whom.
        node: NodeName,
        /// The name.
        host: String,
        /// The port to put into the answer.
        port: u16,
    },
    /// Open a meta connection; the link's `LinkUp` or a [`Input::DialFailed`] follows.
    Dial {
        /// To whom.
        node: NodeName,
        /// Where.
        addr: SocketAddr,
    },
    /// Give up an attempt that is under way.
    CancelDial {
        /// To whom.
        node: NodeName,
    },
    /// Close a link. No `LinkDown` follows.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        why: String,
    },
    /// Ask the kernel for the MTU of the device towards an address; answer with [`Input::PathMtu`].
    AskPathMtu {
        /// To where.
        to: SocketAddr,
    },
    /// An address worked: put it first in the node's cache.
    Remember {
        /// Whose.
        node: NodeName,
        /// The address, TCP.
        addr: SocketAddr,
    },
    /// The answer to an [`Input::Ping`] came.
    Pong {
        /// As in the input.
        token: u64,
        /// Round trip.
        rtt: std::time::Duration,
    },
    /// The answer to an [`Input::AskNode`] came.
    Told {
        /// As in the input.
        token: u64,
        /// What it sees; `None`: it knows no such node.
        pair: Option<Pair>,
    },
    /// An inner packet went into the tunnel of a node, or came out of it, by us and not by a worker. Only after
    /// [`Input::Look`].
    Seen {
        /// Whose tunnel.
        node: NodeName,
        /// Out of it.
        received: bool,
        /// The packet, or frame.
        packet: Bytes,
    },
    /// Run a script.
    Hook(HookEvent),
    /// Use these tables from now on.
    Publish(Arc<RouteSnapshot>),
}

/// An event for which the operator may have a script. Values are typed: no text from the wire
/// reaches an environment unchecked (T33 of proto/threat-model.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEvent {
    /// host-up, host-down and hosts/NODE-up, hosts/NODE-down.
    Host {
        /// Up or down.
        up: bool,
        /// Which node.
        node: NodeName,
        /// Its UDP address, if it is known.
        address: Option<SocketAddr>,
    },
    /// subnet-up, subnet-down.
    Subnet {
        /// Up or down.
        up: bool,
        /// Whose.
        node: NodeName,
        /// Which.
        subnet: Subnet,
        /// The owner's UDP address; `None` for our own subnets.
        address: Option<SocketAddr>,
    },
}

/// Why the mesh wants to be woken; for the log line that explains a busy loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Once a second: pings, discovery, ages.
    Tick,
    /// A dial is due.
    Dial,
    /// The graph changed and waits to be published.
    Publish,
    /// A path-MTU probe is due.
    Pmtu,
    /// A pause in sending around a change of keys is over.
    Keys,
    /// Lines of others that were not believed at once are decided.
    Doubts,
}

/// A time and what it is for.
pub type Deadline = (Instant, Timer);

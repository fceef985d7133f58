//! Facts about other nodes and the paths to them, as types. Text for operators is made elsewhere.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use meshd_crypto::PublicKey;
use meshd_wire::{NodeName, Subnet, subnet::Prefix};

use crate::{
    dialect::Dialect,
    mesh::settings::{Host, HostAddress},
};

pub use crate::link::DialFault;

/// Path of packets to a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Directly by UDP.
    Udp,
    /// Over the link to the node.
    Tcp,
    /// Via another node.
    Via,
    /// No path.
    #[default]
    Down,
}

impl PathKind {
    /// All kinds, best first.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Via, Self::Down];

    /// Word of the path, as in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Via => "via",
            Self::Down => "down",
        }
    }
}

/// Content of a node's host file, as last read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostFile {
    /// No usable host file.
    #[default]
    Missing,
    /// A host file without an Ed25519 key: allows legacy at most.
    NoKey,
    /// A host file with an Ed25519 key.
    Key,
}

impl From<Option<&Host>> for HostFile {
    fn from(host: Option<&Host>) -> Self {
        match host {
            None => Self::Missing,
            Some(host) if host.key.is_none() => Self::NoKey,
            Some(_) => Self::Key,
        }
    }
}

/// A rule that refuses an announced subnet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// SubnetPolicy.
    #[default]
    SubnetPolicy,
    /// StrictSubnets: set by the operator.
    StrictSubnets,
    /// A bound on subnets that no host file lists.
    Bound,
}

/// One other node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// Name of the node.
    pub name: NodeName,
    /// Subnets of the node, in the order of dumps.
    pub subnets: Vec<Subnet>,
    /// True if the node is reachable.
    pub up: bool,
    /// Path of packets to the node.
    pub path: PathKind,
    /// Time since `up` last changed; `None` if the node was never up.
    pub since: Option<Duration>,
    /// Dialect of our link to the node; `None` if the node is no neighbour.
    pub link: Option<Dialect>,
    /// The way of packets and lines.
    pub route: RouteFacts,
    /// The tunnel.
    pub tunnel: TunnelFacts,
    /// UDP to the node.
    pub udp: UdpFacts,
    /// Packet counters.
    pub traffic: Traffic,
    /// The host file, and claims that it decides on.
    pub host: HostFacts,
    /// Our dials, and failed proofs.
    pub dial: DialFacts,
}

/// The way of packets and lines to a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteFacts {
    /// The relay, if the path is [`PathKind::Via`].
    pub via: Option<NodeName>,
    /// The nexthop for the node's lines, if it is not the node itself.
    pub nexthop: Option<NodeName>,
    /// UDP or TCP address in use.
    pub endpoint: Option<SocketAddr>,
    /// Round trip of a UDP probe, else of the link's PING.
    pub rtt: Option<Duration>,
    /// True if the node's edge has TCPOnly.
    pub tcp_only_there: bool,
    /// True if this node has TCPOnly.
    pub tcp_only_here: bool,
    /// True if every path to the node has an IndirectData edge.
    pub indirect: bool,
}

/// The tunnel to a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TunnelFacts {
    /// Dialect in use; `None` before the tunnel has a key.
    pub protocol: Option<Dialect>,
    /// True if the tunnel has a key. A legacy tunnel has its dialect before that.
    pub established: bool,
    /// Cipher of packets that we send. In legacy with the digest and length of the MAC.
    pub cipher: Option<String>,
    /// True if the graph allows no more than legacy with the node.
    pub legacy: bool,
    /// True if a handshake waits for an answer.
    pub handshake: bool,
    /// Legacy: true if the node's key is requested again because probes stay unanswered.
    pub key_doubted: bool,
    /// Legacy: the suite that the node requested and that we do not support, as an error.
    pub suite_refused: Option<String>,
}

/// UDP to a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UdpFacts {
    /// Address in use, or the best guess.
    pub address: Option<SocketAddr>,
    /// True if that address answered a probe lately.
    pub confirmed: bool,
    /// Probes sent to the node since its last answer, at most 255.
    pub unanswered: u8,
    /// Time since the first unanswered probe.
    pub silent: Option<Duration>,
    /// Probes received from the node since it became reachable.
    pub heard: u64,
    /// Time since the last probe received.
    pub heard_ago: Option<Duration>,
    /// Longest inner IP packet that is proven to pass, in bytes.
    pub proven_mtu: Option<u16>,
    /// True if the search for the path MTU is over.
    pub mtu_fixed: bool,
    /// True if the search is over and packets of 512 bytes do not pass.
    pub mtu_too_small: bool,
}

/// Packet counters of a node. Each frame counts with its 14 bytes of header, as in tinc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received from the node.
    pub rx_bytes: u64,
    /// Bytes sent to the node.
    pub tx_bytes: u64,
    /// Packets received from the node.
    pub rx_packets: u64,
    /// Packets sent to the node.
    pub tx_packets: u64,
    /// Packets received from the node with a source outside the node's subnets. Such packets pass
    /// because the node's host file lists no subnet and no other node owns that source (SourceCheck
    /// = native).
    pub foreign_packets: u64,
}

/// The host file of a node, and claims that it decides on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    /// Content of the file.
    pub file: HostFile,
    /// Reason why the node is shut out now, if it is: Expires or Revoked.
    pub shut_out: Option<String>,
    /// Reason why the Ed25519 key in the file cannot be read, if it cannot.
    pub bad_key: Option<String>,
    /// Ed25519 key that the node sent over a link that its RSA key authenticates.
    pub received_key: Option<PublicKey>,
    /// True if the file has an Address.
    pub has_address: bool,
    /// Label lines.
    pub labels: BTreeMap<String, String>,
    /// Highest dialect that the node announced, now or when it was last up; `None` if it was never
    /// up. Other nodes forward the announcement, so a member may lie about it.
    pub offers: Option<Dialect>,
    /// Least dialect that we speak with the node: from MinProtocol, else from the node's keys.
    pub min_protocol: Option<Dialect>,
    /// True if this node speaks more than legacy.
    pub sptps_here: bool,
}

/// Our dials to a node, and failed proofs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DialFacts {
    /// State of our dialling; `None` if we want no link to the node.
    pub wanted: Option<DialState>,
    /// The last dial, if it failed.
    pub failure: Option<FailedDial>,
    /// The last peer that claimed the node's name without proof, since the node's last link.
    pub unproven: Option<UnprovenPeer>,
}

/// State of our dialling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialState {
    /// Time until the next attempt, if one is scheduled.
    pub next: Option<Duration>,
    /// The address that is being dialled, if any.
    pub now: Option<SocketAddr>,
}

/// A failed dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedDial {
    /// Kind of the failure.
    pub fault: DialFault,
    /// The error, with the address.
    pub error: String,
    /// Time since the failure.
    pub ago: Duration,
}

/// A peer that claimed a node's name without proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnprovenPeer {
    /// Address of the peer.
    pub address: SocketAddr,
    /// The check that failed.
    pub error: String,
    /// Time since the attempt.
    pub ago: Duration,
}

/// Everything known of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDetails {
    /// The facts that a list of nodes holds.
    pub node: NodeFacts,
    /// Fingerprint of the Ed25519 key in the node's host file.
    pub fingerprint: Option<String>,
    /// Address lines of the node's host file.
    pub addresses: Vec<HostAddress>,
    /// Addresses of the node that worked before or that its neighbours report.
    pub learned: Vec<SocketAddr>,
    /// Subnet lines of the node's host file.
    pub listed: Vec<Prefix>,
    /// Announced subnets that this node does not accept.
    pub refused: Vec<RefusedSubnet>,
    /// True if StrictSubnets is in force.
    pub strict: bool,
    /// True if UDPDiscovery is in force.
    pub udp_discovery: bool,
    /// True if the node can be asked for its view: it is a meshd that speaks native.
    pub may_ask: bool,
}

/// An announced subnet that this node does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSubnet {
    /// Node that announces the subnet.
    pub owner: NodeName,
    /// The subnet.
    pub subnet: Prefix,
    /// Rule of the refusal.
    pub rule: Rule,
    /// Reason of the refusal.
    pub why: Refusal,
}

/// Reason why an announced subnet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The owner is shut out: Expires or Revoked.
    #[error("hosts/{owner} says {why}")]
    ShutOut {
        /// The owner.
        owner: NodeName,
        /// The reason, as in [`HostFacts::shut_out`].
        why: String,
    },
    /// The owner's host file does not list it.
    #[error("hosts/{0} does not list it")]
    Unlisted(NodeName),
    /// No Subnet line of the owner covers it (SubnetPolicy = covered).
    #[error("hosts/{0} does not give it that")]
    NotCovered(NodeName),
    /// A default route that the owner's host file does not list.
    #[error("hosts/{0} gives it no default route")]
    DefaultRoute(NodeName),
    /// It belongs to this node.
    #[error("it is our own")]
    Own,
    /// The host file of this node lists it.
    #[error("hosts/{0} gives it to {0}")]
    OfOther(NodeName),
    /// Loopback, link-local or multicast addresses.
    #[error("such addresses are no node's")]
    Special,
    /// It contains an Address of this node.
    #[error("{0} is reached by an Address in it")]
    Underlay(NodeName),
    /// The owner announces this many subnets that its host file does not list.
    #[error("hosts/{owner} does not list it, nor {most} others that {owner} announces")]
    OwnerBound {
        /// The owner.
        owner: NodeName,
        /// The bound.
        most: usize,
    },
    /// Nodes announce this many subnets that no host file lists.
    #[error("no host file lists it, nor {0} others that nodes announce")]
    MeshBound(usize),
    /// There was no room for it when it came.
    #[error("there was no room for it when it came")]
    NoRoomBefore,
}

//! Read-only rows of the mesh's state, for `meshctl`. The control socket sends the rows as they
//! are; `meshctl` makes tables and `--json` from them.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use meshd_wire::subnet::Prefix;

use crate::dialect::Dialect;

/// Packet kinds of `meshctl capture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketKind {
    /// Inner packets: those that go into tunnels or come out of them, as the device sees them.
    Inner,
    /// Sealed datagrams between daemons.
    Outer,
    /// Request lines of links that are up, without keys.
    Meta,
}

impl PacketKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Inner, Self::Outer, Self::Meta];

    /// Word of the kind, as in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inner => "inner",
            Self::Outer => "outer",
            Self::Meta => "meta",
        }
    }
}

/// One node, as `dump nodes` shows it: the fields of tinc 1.1 (wire/tinc-1.1.md section 7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Name of the node.
    pub name: String,
    /// Id of the node, 12 hex digits.
    pub id: String,
    /// Address, `MYSELF`, or `unknown`.
    pub host: String,
    /// Port or `unknown`.
    pub port: String,
    /// Option bits.
    pub options: u32,
    /// Status bits.
    pub status: u32,
    /// Next hop or `-`.
    pub nexthop: String,
    /// Via or `-`.
    pub via: String,
    /// Hops; -1 if unreachable.
    pub distance: i32,
    /// The fixed MTU, else the assumed one.
    pub pmtu: u16,
    /// Proven MTU.
    pub min_mtu: u16,
    /// Upper bound of the MTU search.
    pub max_mtu: u16,
    /// Seconds since reachability last changed; `None` if it never changed.
    pub since_seconds: Option<f64>,
    /// Round-trip time in microseconds; -1 if unknown.
    pub rtt_us: i64,
    /// Packets received from the node.
    pub rx_packets: u64,
    /// Bytes received from the node.
    pub rx_bytes: u64,
    /// Packets sent to the node.
    pub tx_packets: u64,
    /// Bytes sent to the node.
    pub tx_bytes: u64,
}

/// One edge, as `dump edges` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// Owner of the edge.
    pub from: String,
    /// Other end of the edge.
    pub to: String,
    /// Address of `to`.
    pub host: String,
    /// Port of `to`.
    pub port: String,
    /// Local address of `from`.
    pub local_host: String,
    /// Local port of `from`.
    pub local_port: String,
    /// Option bits.
    pub options: u32,
    /// Weight.
    pub weight: i32,
}

/// One subnet, as `dump subnets` and `routes` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRow {
    /// The subnet, without its weight.
    pub subnet: Prefix,
    /// Weight of the subnet.
    pub weight: i32,
    /// Owner; `None` for a broadcast subnet.
    pub owner: Option<String>,
    /// True if the owner is reachable. Always true for our own subnets.
    pub reachable: bool,
    /// True if packets go to this owner: of equal prefixes, the best reachable one.
    pub active: bool,
}

/// One meta connection, as `dump connections` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// The other node.
    pub name: String,
    /// TCP address of the other node.
    pub host: String,
    /// TCP port of the other node.
    pub port: String,
    /// Option bits.
    pub options: u32,
    /// Status bits of tinc (wire/tinc-1.1.md section 7).
    pub status: u32,
    /// True if this node dialled.
    pub outgoing: bool,
    /// Dialect of the link: `sptps`, `native` or `legacy`.
    pub protocol: Dialect,
    /// Round-trip time of the last PING, in seconds.
    pub rtt_seconds: Option<f64>,
}

/// Route to an address: the answer of `routes get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The address of the question.
    pub address: IpAddr,
    /// Every subnet that contains it, best first.
    pub matches: Vec<SubnetRow>,
    /// Nexthop towards the owner in use.
    pub nexthop: Option<String>,
}

/// Status of the mesh, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Name of this node.
    pub name: String,
    /// Number of active links.
    pub links: usize,
    /// Number of known nodes, this one included.
    pub nodes: usize,
    /// Number of reachable nodes, this one included.
    pub reachable: usize,
    /// Number of known edges.
    pub edges: usize,
    /// Number of known subnets.
    pub subnets: usize,
    /// Request lines handled since start.
    pub lines: u64,
    /// Graph passes since start.
    pub graph_runs: u64,
    /// Changes flooded since start: our own and forwarded ones.
    pub floods: u64,
    /// Request lines and graph objects rejected by a limit since start.
    pub refused: u64,
    /// Packets of all nodes, counted as in
    /// [`Traffic::foreign_packets`](crate::mesh::reports::facts::Traffic::foreign_packets).
    #[serde(default)]
    pub foreign_packets: u64,
    /// Attempts since start to make a node speak a lower dialect than it can, refused or suspected.
    #[serde(default)]
    pub downgrades: u64,
    /// Announced subnets not accepted since start, because of SubnetPolicy or a bound.
    #[serde(default)]
    pub subnets_refused: u64,
}

/// Upper bounds of the histogram buckets for round-trip times, in seconds.
pub const RTT_BOUNDS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// Measurements for monitoring.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measures {
    /// Every other node, in order of names.
    pub peers: Vec<PeerMeasures>,
    /// Request lines since start, by type.
    pub lines: Vec<LineCount>,
}

/// Measurements of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerMeasures {
    /// Name of the node.
    pub name: String,
    /// Round trips of UDP probes and of the link's PINGs, counted per bucket of [`RTT_BOUNDS`], and
    /// above the last.
    pub round_trips: [u64; RTT_BOUNDS.len() + 1],
    /// Sum of all round-trip times, in seconds.
    pub round_trips_seconds: f64,
    /// Share of the last UDP probes that stayed unanswered, 0 to 1; `None` before there were two
    /// probes.
    pub loss_ratio: Option<f64>,
    /// Time since the last packet from the node, to about a second; `None` if no packet ever
    /// arrived.
    pub heard: Option<Duration>,
}

/// Count of request lines of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineCount {
    /// Name of the type in the protocol, e.g. `ADD_EDGE`.
    pub name: &'static str,
    /// Number of lines received.
    pub received: u64,
    /// Number of lines sent.
    pub sent: u64,
}

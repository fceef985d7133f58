//! Read-only rows for `meshctl`: what the mesh shows of itself. The control socket sends them as
//! they are, tables and `--json` are made from them.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{link::Dialect, mesh::settings::Host};

/// How packets for a node travel now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Straight by UDP.
    Udp,
    /// Over the link to it.
    Tcp,
    /// Through another node.
    Via,
    /// No path.
    #[default]
    Down,
}

impl PathKind {
    /// Its word, as in JSON.
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

/// Packets as `meshctl capture` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketKind {
    /// What goes into tunnels and comes out of them, as the device knows it.
    Inner,
    /// Datagrams between daemons, sealed.
    Outer,
    /// Request lines of links that are up, without keys.
    Meta,
}

impl PacketKind {
    /// All, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Inner, Self::Outer, Self::Meta];

    /// Its word, as in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inner => "inner",
            Self::Outer => "outer",
            Self::Meta => "meta",
        }
    }
}

/// Why a node is not reached as well as could be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A word for programs, e.g. `udp_no_reply`, `no_address`, `auth_failed`, `tcp_only`, `no_key`.
    pub code: String,
    /// One sentence for people.
    pub text: String,
}

/// Why an attempt to dial a node came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialFault {
    /// Its host file is missing or has no key that would do.
    NoKey,
    /// No address of it is known.
    NoAddress,
    /// The name in its Address has no address.
    Unresolved,
    /// Its machine says that nobody listens there.
    Refused,
    /// Nothing came back, or there is no way to it.
    Silent,
    /// Somebody answered, and did not prove to be the node or did not take us for who we are.
    Handshake,
}

/// What the host file of a node is good for, as it was last read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostFile {
    /// There is none that could be used.
    #[default]
    Missing,
    /// It has no Ed25519 key: good for legacy at most.
    NoKey,
    /// It has one.
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

/// One node other than ourselves, as `meshctl peers` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its name.
    pub name: String,
    /// Its subnets, in the order of dumps.
    pub subnets: Vec<String>,
    /// Whether it is reachable.
    pub up: bool,
    /// How.
    pub path: PathKind,
    /// The relay, where the path is `via`.
    pub via: Option<String>,
    /// UDP or TCP address in use, `ADDR:PORT`.
    pub endpoint: Option<String>,
    /// `native`, `sptps`, `legacy`, or `none` before there is a key.
    pub protocol: String,
    /// Cipher of what we send in the tunnel: `AES-256-GCM` or `ChaCha20-Poly1305`, in legacy with digest and length
    /// of the MAC `aes-256-cbc sha256/4`; `None` before there is a key.
    #[serde(default)]
    pub cipher: Option<String>,
    /// What our link to it speaks, `sptps`, `native` or `legacy`; `None` if it is no neighbour.
    #[serde(default)]
    pub link: Option<String>,
    /// Round trip by UDP probe, else of the link's ping, in seconds.
    pub rtt_seconds: Option<f64>,
    /// Path MTU proven by UDP, in bytes of an inner IP packet.
    pub pmtu_bytes: Option<u16>,
    /// Bytes from it, frames with 14 bytes of header each, as tinc counts.
    pub rx_bytes: u64,
    /// Bytes to it, likewise.
    pub tx_bytes: u64,
    /// Packets from it.
    pub rx_packets: u64,
    /// Packets to it.
    pub tx_packets: u64,
    /// Packets from it that passed though their source is in none of its subnets: its host file lists none, and no other
    /// node has that address (SourceCheck = native).
    #[serde(default)]
    pub foreign_packets: u64,
    /// Seconds since `up` last changed; `None` if it was never up.
    pub since_seconds: Option<f64>,
    /// Why it is not as good as could be, if so.
    pub reason: Option<Reason>,
    /// The most that it speaks by its own word, or spoke when it was last up; `None` if it never was. Passed on by
    /// others, so a member may lie about it.
    #[serde(default)]
    pub offers: Option<Dialect>,
    /// The least that we speak with it: MinProtocol, or what its keys are for.
    #[serde(default)]
    pub min_protocol: Option<Dialect>,
    /// What its host file is good for.
    #[serde(default)]
    pub host_file: HostFile,
    /// Label lines of its host file.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One node, as `dump nodes` shows it: the fields of tinc 1.1 (wire/tinc-1.1.md section 7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Name.
    pub name: String,
    /// Id, 12 hex digits.
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
    /// Hops; -1 unreachable.
    pub distance: i32,
    /// Fixed or assumed MTU.
    pub pmtu: u16,
    /// Proven MTU.
    pub min_mtu: u16,
    /// Upper bound of the search.
    pub max_mtu: u16,
    /// Seconds since reachability last changed; `None`: never.
    pub since_seconds: Option<f64>,
    /// Round trip in microseconds, -1 unknown.
    pub rtt_us: i64,
    /// Packets from it.
    pub rx_packets: u64,
    /// Bytes from it.
    pub rx_bytes: u64,
    /// Packets to it.
    pub tx_packets: u64,
    /// Bytes to it.
    pub tx_bytes: u64,
}

/// One edge, as `dump edges` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// Owner.
    pub from: String,
    /// Other end.
    pub to: String,
    /// Address of `to`.
    pub host: String,
    /// Its port.
    pub port: String,
    /// Local address of `from`.
    pub local_host: String,
    /// Its port.
    pub local_port: String,
    /// Option bits.
    pub options: u32,
    /// Weight.
    pub weight: i32,
}

/// One subnet, as `dump subnets` and `routes` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRow {
    /// The subnet in tinc 1.1's short text, weight left out.
    pub subnet: String,
    /// Its weight.
    pub weight: i32,
    /// Owner; `None` for a broadcast subnet.
    pub owner: Option<String>,
    /// Whether the owner is reachable (ourselves: yes).
    pub reachable: bool,
    /// Whether packets go to this owner: of equal prefixes the best reachable one.
    pub active: bool,
}

/// One meta connection, as `dump connections` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// The other node.
    pub name: String,
    /// Its TCP address.
    pub host: String,
    /// Its TCP port.
    pub port: String,
    /// Option bits.
    pub options: u32,
    /// Status bits as tinc has them (wire/tinc-1.1.md section 7).
    pub status: u32,
    /// Whether we dialled.
    pub outgoing: bool,
    /// What the link speaks: `sptps`, `native` or `legacy`.
    pub protocol: String,
    /// Round trip of the last PING, in seconds.
    pub rtt_seconds: Option<f64>,
}

/// Where an address leads: the answer of `routes get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The address asked for.
    pub address: String,
    /// Every subnet that contains it, best first.
    pub matches: Vec<SubnetRow>,
    /// Next hop towards the owner in use.
    pub nexthop: Option<String>,
}

/// What `status` shows of the mesh itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Our name.
    pub name: String,
    /// Active links.
    pub links: usize,
    /// Known nodes, ourselves included.
    pub nodes: usize,
    /// Reachable nodes, ourselves included.
    pub reachable: usize,
    /// Known edges.
    pub edges: usize,
    /// Known subnets.
    pub subnets: usize,
    /// Request lines handled since start.
    pub lines: u64,
    /// Graph passes since start.
    pub graph_runs: u64,
    /// Changes told to others since start: our own and those passed on.
    pub floods: u64,
    /// Lines and graph objects refused by a limit since start.
    pub refused: u64,
    /// Packets of all nodes as in [`PeerRow::foreign_packets`].
    #[serde(default)]
    pub foreign_packets: u64,
    /// Attempts since start to make a node speak less than it can, refused or suspected.
    #[serde(default)]
    pub downgrades: u64,
    /// Subnets that nodes have announced since start and that are not believed (SubnetPolicy, or a bound).
    #[serde(default)]
    pub subnets_refused: u64,
}

/// Upper bounds of the classes in which round trips are counted, in seconds.
pub const RTT_BOUNDS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// What is measured for monitoring.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measures {
    /// Each node but ourselves, in order of names.
    pub peers: Vec<PeerMeasures>,
    /// Request lines since start, by type.
    pub lines: Vec<LineCount>,
}

/// What is measured of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerMeasures {
    /// Its name.
    pub name: String,
    /// Round trips of UDP probes and of the link's pings, in the class of each of [`RTT_BOUNDS`] and above.
    pub round_trips: [u64; RTT_BOUNDS.len() + 1],
    /// All of them together, in seconds.
    pub round_trips_seconds: f64,
    /// The part of the last probes by UDP that stayed without an answer, 0 to 1; `None` before there were two.
    pub loss_ratio: Option<f64>,
    /// For how long nothing has come from it; `None`: nothing ever did. A second more or less.
    pub heard: Option<Duration>,
}

/// Request lines of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineCount {
    /// The type's name in the protocol, e.g. `ADD_EDGE`.
    pub name: &'static str,
    /// How many came.
    pub received: u64,
    /// How many were sent.
    pub sent: u64,
}

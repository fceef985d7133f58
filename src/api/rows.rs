//! Rows of `meshctl peers`.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use meshd_proto::{
    dialect::{self, Dialect},
    mesh::reports::facts::{HostFile, NodeFacts, PathKind},
};
use meshd_wire::Subnet;

/// Reason why the path to a node is worse than it could be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A code for programs, e.g. `udp_no_reply`, `no_address`, `cannot_connect`, `tcp_only`, `no_key`.
    pub code: String,
    /// One sentence for people.
    pub text: String,
}

/// One other node, as `meshctl peers` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Name of the node.
    pub name: String,
    /// Subnets of the node, in the order of dumps.
    pub subnets: Vec<Subnet>,
    /// True if the node is reachable.
    pub up: bool,
    /// Path to the node.
    pub path: PathKind,
    /// The relay, if the path is `via`.
    pub via: Option<String>,
    /// UDP or TCP address in use.
    pub endpoint: Option<SocketAddr>,
    /// `native`, `sptps`, `legacy`, or `none` before the tunnel has a key.
    #[serde(with = "dialect::or_none")]
    pub protocol: Option<Dialect>,
    /// Cipher of packets that we send in the tunnel: `AES-256-GCM` or `ChaCha20-Poly1305`. In legacy with the digest
    /// and length of the MAC: `aes-256-cbc sha256/4`. `None` before the tunnel has a key.
    #[serde(default)]
    pub cipher: Option<String>,
    /// Dialect of our link to the node. `None` if the node is no neighbour.
    #[serde(default)]
    pub link: Option<Dialect>,
    /// Round-trip time in seconds, of a UDP probe, else of the link's PING.
    pub rtt_seconds: Option<f64>,
    /// Path MTU proven by UDP probes, in bytes of an inner IP packet.
    pub pmtu_bytes: Option<u16>,
    /// Bytes received from the node. Each frame counts with its 14 bytes of header, as in tinc.
    pub rx_bytes: u64,
    /// Bytes sent to the node, counted likewise.
    pub tx_bytes: u64,
    /// Packets received from the node.
    pub rx_packets: u64,
    /// Packets sent to the node.
    pub tx_packets: u64,
    /// Packets received from the node with a source outside the node's subnets. Such packets pass because the node's
    /// host file lists no subnet and no other node owns that source (SourceCheck = native).
    #[serde(default)]
    pub foreign_packets: u64,
    /// Seconds since `up` last changed; `None` if the node was never up.
    pub since_seconds: Option<f64>,
    /// Reason why the path is worse than it could be, if it is.
    pub reason: Option<Reason>,
    /// Highest dialect that the node announced, now or when it was last up; `None` if it was never up. Other nodes
    /// forward the announcement, so a member may lie about it.
    #[serde(default)]
    pub offers: Option<Dialect>,
    /// Least dialect that we speak with the node: from MinProtocol, else from the node's keys.
    #[serde(default)]
    pub min_protocol: Option<Dialect>,
    /// Content of the node's host file.
    #[serde(default)]
    pub host_file: HostFile,
    /// Label lines of the node's host file.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl PeerRow {
    /// Makes the row of a node.
    #[must_use]
    pub fn new(node: &NodeFacts, reason: Option<Reason>) -> Self {
        let (route, traffic, host) = (&node.route, &node.traffic, &node.host);
        Self {
            name: node.name.to_string(),
            subnets: node.subnets.clone(),
            up: node.up,
            path: node.path,
            via: route.via.as_ref().map(ToString::to_string),
            endpoint: route.endpoint,
            protocol: node.tunnel.protocol,
            cipher: node.tunnel.cipher.clone(),
            link: node.link,
            rtt_seconds: route.rtt.map(|rtt| rtt.as_secs_f64()),
            pmtu_bytes: node.udp.proven_mtu,
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            rx_packets: traffic.rx_packets,
            tx_packets: traffic.tx_packets,
            foreign_packets: traffic.foreign_packets,
            since_seconds: node.since.map(|since| since.as_secs_f64()),
            reason,
            offers: host.offers,
            min_protocol: host.min_protocol,
            host_file: host.file,
            labels: host.labels.clone(),
        }
    }
}

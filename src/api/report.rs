//! Report on one node and on the path to it: the facts that `meshctl why` evaluates.

mod shared;

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use meshd_proto::{
    dialect::{self, Dialect},
    mesh::reports::facts::{
        DialFault, NodeDetails, NodeFacts, PathKind, RefusedSubnet, Rule, UdpFacts,
    },
};
use meshd_wire::subnet::Prefix;

use crate::rows::{PeerRow, Reason};

pub use shared::Detail;

/// Longest text in a report to another node, in characters.
const MAX_TEXT: usize = 200;

/// The path to a node, as one end reports it. A meshd sends it to any other meshd that asks, so it holds only facts
/// that every member may know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// True if the node is reachable.
    pub up: bool,
    /// Path of packets to the node.
    pub path: PathKind,
    /// The relay, if the path is `via`.
    pub via: Option<String>,
    /// Round-trip time by UDP, else of the link, in seconds.
    pub rtt_seconds: Option<f64>,
    /// `native`, `sptps`, `legacy`, or `none` before the tunnel has a key.
    #[serde(with = "dialect::or_none")]
    pub protocol: Option<Dialect>,
    /// UDP to the node.
    pub udp: UdpReport,
    /// The search for the path MTU.
    pub mtu: MtuReport,
    /// True if the node's edge has TCPOnly.
    pub tcp_only_there: bool,
    /// True if the reporting end has TCPOnly.
    pub tcp_only_here: bool,
    /// True if every path to the node has an IndirectData edge.
    pub indirect: bool,
    /// Reason why the path is worse than it could be, as in `peers`.
    pub reason: Option<Reason>,
    /// Further facts that the other end sends, if it sends them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Detail>>,
}

/// UDP to a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UdpReport {
    /// UDP address in use, or the best guess.
    pub address: Option<SocketAddr>,
    /// True if that address answered a probe lately.
    pub confirmed: bool,
    /// Probes sent to the node since its last answer, at most 255.
    pub unanswered: u8,
    /// Seconds since the first unanswered probe.
    pub silent_seconds: Option<f64>,
    /// Probes received from the node since it became reachable.
    pub heard: u64,
    /// Seconds since the last probe received.
    pub heard_seconds: Option<f64>,
}

/// The path-MTU search; lengths in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MtuReport {
    /// Longest inner IP packet that is proven to pass.
    pub proven_bytes: Option<u16>,
    /// True if the search is over.
    pub fixed: bool,
    /// True if the search is over and packets of 512 bytes do not pass.
    pub too_small: bool,
}

/// Everything known of a node, with the host file as it is in force now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Row of the node in `peers`.
    pub peer: PeerRow,
    /// Path to the node.
    pub pair: PathReport,
    /// The nexthop for the node's lines, if it is not the node itself.
    pub nexthop: Option<String>,
    /// Fingerprint of the Ed25519 key in the node's host file.
    pub fingerprint: Option<String>,
    /// Address lines of the node's host file.
    pub addresses: Vec<String>,
    /// Addresses of the node that worked before or that its neighbours report.
    pub learned: Vec<SocketAddr>,
    /// Subnet lines of the node's host file.
    pub listed: Vec<Prefix>,
    /// Subnets that the node announces and that this node does not accept.
    pub refused: Vec<RefusedRow>,
    /// True if StrictSubnets is in force.
    pub strict: bool,
    /// True if UDPDiscovery is in force.
    pub udp_discovery: bool,
    /// Our dial state for the node; `None` if we want no link to the node.
    pub dial: Option<DialReport>,
    /// The last attempt to dial the node, if it failed.
    pub missed: Option<DialFailureRow>,
    /// The last peer that claimed the node's name without proof, since the node's last link.
    pub unproven: Option<UnprovenRow>,
    /// True if the node can be asked for its view: it is a meshd that speaks native.
    pub may_ask: bool,
    /// True if a tunnel handshake with the node waits for an answer.
    pub handshake: bool,
    /// Legacy: true if the node's key is requested again because probes stay unanswered.
    #[serde(default)]
    pub key_doubted: bool,
}

/// An announced subnet that this node does not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Node that announces the subnet.
    pub owner: String,
    /// The subnet, without weight.
    pub subnet: Prefix,
    /// Reason of the refusal.
    pub why: String,
    /// Rule of the refusal.
    #[serde(default)]
    pub rule: Rule,
}

/// State of our dialling.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DialReport {
    /// Seconds until the next attempt, if one is scheduled.
    pub next_seconds: Option<f64>,
    /// The address that is being dialled, if any.
    pub now: Option<SocketAddr>,
}

/// A failed dial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DialFailureRow {
    /// Kind of the failure.
    pub fault: DialFault,
    /// One sentence for people, with the address.
    pub text: String,
    /// Seconds since the failure.
    pub seconds: f64,
}

/// A peer that claimed a node's name without proof.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnprovenRow {
    /// Address of the peer.
    pub address: SocketAddr,
    /// The check that failed.
    pub text: String,
    /// Seconds since the attempt.
    pub seconds: f64,
}

impl PathReport {
    /// Makes the report on the path to a node.
    #[must_use]
    pub fn new(node: &NodeFacts, reason: Option<Reason>) -> Self {
        let route = &node.route;
        let reason = reason.map(|reason| Reason {
            text: short(&reason.text),
            ..reason
        });
        Self {
            up: node.up,
            path: node.path,
            via: route.via.as_ref().map(ToString::to_string),
            rtt_seconds: seconds(route.rtt),
            protocol: node.tunnel.protocol,
            udp: UdpReport::from(&node.udp),
            mtu: MtuReport {
                proven_bytes: node.udp.proven_mtu,
                fixed: node.udp.mtu_fixed,
                too_small: node.udp.mtu_too_small,
            },
            tcp_only_there: route.tcp_only_there,
            tcp_only_here: route.tcp_only_here,
            indirect: route.indirect,
            reason,
            detail: None,
        }
    }
}

impl From<&UdpFacts> for UdpReport {
    fn from(udp: &UdpFacts) -> Self {
        Self {
            address: udp.address,
            confirmed: udp.confirmed,
            unanswered: udp.unanswered,
            silent_seconds: seconds(udp.silent),
            heard: udp.heard,
            heard_seconds: seconds(udp.heard_ago),
        }
    }
}

impl NodeReport {
    /// Makes the report on a node.
    #[must_use]
    pub fn new(details: &NodeDetails, reason: Option<Reason>) -> Self {
        let node = &details.node;
        let addresses = details.addresses.iter();
        let dial = node.dial.wanted.as_ref().map(|state| DialReport {
            next_seconds: seconds(state.next),
            now: state.now,
        });
        let missed = node.dial.failure.as_ref().map(|failure| DialFailureRow {
            fault: failure.fault,
            text: failure.error.clone(),
            seconds: failure.ago.as_secs_f64(),
        });
        let unproven = node.dial.unproven.as_ref().map(|peer| UnprovenRow {
            address: peer.address,
            text: peer.error.clone(),
            seconds: peer.ago.as_secs_f64(),
        });
        Self {
            pair: PathReport::new(node, reason.clone()),
            peer: PeerRow::new(node, reason),
            nexthop: node.route.nexthop.as_ref().map(ToString::to_string),
            fingerprint: details.fingerprint.clone(),
            addresses: addresses
                .map(|address| format!("{} port {}", address.host, address.port))
                .collect(),
            learned: details.learned.clone(),
            listed: details.listed.clone(),
            refused: details.refused.iter().map(RefusedRow::from).collect(),
            strict: details.strict,
            udp_discovery: details.udp_discovery,
            dial,
            missed,
            unproven,
            may_ask: details.may_ask,
            handshake: node.tunnel.handshake,
            key_doubted: node.tunnel.key_doubted,
        }
    }
}

impl From<&RefusedSubnet> for RefusedRow {
    fn from(refused: &RefusedSubnet) -> Self {
        let why = match refused.rule {
            Rule::StrictSubnets => format!("{} (StrictSubnets)", refused.why),
            Rule::SubnetPolicy => format!("{} (SubnetPolicy)", refused.why),
            Rule::Bound => refused.why.to_string(),
        };
        Self {
            owner: refused.owner.to_string(),
            subnet: refused.subnet,
            why,
            rule: refused.rule,
        }
    }
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

//! Report on one node and on the path to it: the facts that `meshctl why` evaluates.

mod told;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    dialect::{self, Dialect},
    mesh::{
        Mesh,
        reports::{
            rows::seconds_since,
            view::{DialFault, PathKind, PeerRow, Reason},
        },
        topology::node::{Node, Nodes},
    },
    route::{MIN_MTU, NodeIdx},
};

pub use told::Detail;

/// Longest text in a report to another node, in characters.
const MAX_TEXT: usize = 200;

/// The path to a node, as one end reports it. A meshd sends it to any other meshd that asks, so it
/// holds only facts that every member may know.
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
    pub udp: UdpSight,
    /// The search for the path MTU.
    pub mtu: MtuSight,
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
pub struct UdpSight {
    /// UDP address in use, or the best guess.
    pub address: Option<String>,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MtuSight {
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
    pub learned: Vec<String>,
    /// Subnet lines of the node's host file.
    pub listed: Vec<String>,
    /// Subnets that the node announces and that this node does not accept.
    pub refused: Vec<RefusedRow>,
    /// True if StrictSubnets is in force.
    pub strict: bool,
    /// True if UDPDiscovery is in force.
    pub udp_discovery: bool,
    /// Our dial state for the node; `None` if we want no link to the node.
    pub dial: Option<DialSight>,
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
    pub subnet: String,
    /// Reason of the refusal.
    pub why: String,
    /// Rule of the refusal.
    #[serde(default)]
    pub rule: Rule,
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

/// State of our dialling.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DialSight {
    /// Seconds until the next attempt, if one is scheduled.
    pub next_seconds: Option<f64>,
    /// The address that is being dialled, if any.
    pub now: Option<String>,
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
    pub address: String,
    /// The check that failed.
    pub text: String,
    /// Seconds since the attempt.
    pub seconds: f64,
}

/// The last peer that claimed a node's name without proof.
#[derive(Debug, Clone)]
pub(in crate::mesh) struct Unproven {
    address: std::net::SocketAddr,
    text: String,
    at: Instant,
}

impl Mesh {
    pub(in crate::mesh) fn note_unproven(
        &mut self,
        name: NodeName,
        address: std::net::SocketAddr,
        text: String,
        now: Instant,
    ) {
        if !self.cx.settings.hosts.contains_key(&name) {
            return;
        }
        let idx = self.nodes.add(name, now);
        self.peers.set_unproven(
            idx,
            Unproven {
                address,
                text,
                at: now,
            },
        );
    }

    /// Returns the report on a node; `None` for this node and for an unknown name.
    #[must_use]
    pub fn sight(&self, name: &NodeName, now: Instant) -> Option<NodeReport> {
        let idx = self.nodes.find(name).filter(|idx| *idx != Nodes::ME)?;
        let node = &self.nodes[idx];
        let host = self.cx.settings.hosts.get(name);
        let hop = &self.nodes[node.reachability.nexthop];
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let missed = self.peers.dial_failure(idx).map(|missed| DialFailureRow {
            fault: missed.fault,
            text: missed.text.clone(),
            seconds: ago(missed.at),
        });
        let unproven = self.peers.unproven(idx).map(|one| UnprovenRow {
            address: one.address.to_string(),
            text: one.text.clone(),
            seconds: ago(one.at),
        });
        let dial = self.dialling(name).map(|(next, to)| DialSight {
            next_seconds: next.map(|at| at.saturating_duration_since(now).as_secs_f64()),
            now: to.map(|addr| addr.to_string()),
        });
        let addresses = host.iter().flat_map(|host| &host.addresses);
        let listed = host.iter().flat_map(|host| &host.subnets);
        Some(NodeReport {
            peer: self.peer_row(idx, node, now),
            pair: self.pair(idx, now),
            nexthop: (node.reachability.reachable && node.reachability.nexthop != idx)
                .then(|| hop.name().to_string()),
            fingerprint: host.and_then(|host| Some(host.key?.fingerprint())),
            addresses: addresses
                .map(|address| format!("{} port {}", address.host, address.port))
                .collect(),
            learned: self.learned_addresses(idx),
            listed: listed.map(|subnet| subnet.prefix.to_string()).collect(),
            refused: self.refused_of(idx),
            strict: self.cx.settings.strict_subnets,
            udp_discovery: self.cx.settings.udp_discovery,
            dial,
            missed,
            unproven,
            may_ask: self.offers_native(idx),
            handshake: self.sessions[idx].is_waiting(),
            key_doubted: self.doubts_legacy_key(idx, now),
        })
    }

    /// Returns the path to a node in the form that other nodes may see.
    pub(in crate::mesh) fn pair(&self, idx: NodeIdx, now: Instant) -> PathReport {
        let node = &self.nodes[idx];
        let row = self.peer_row(idx, node, now);
        let reason = row.reason.map(|reason| Reason {
            text: reason.text.chars().take(MAX_TEXT).collect(),
            ..reason
        });
        let silent = self.paths[idx]
            .probes
            .silent_since
            .filter(|_| self.paths[idx].probes.unanswered > 0);
        PathReport {
            up: row.up,
            path: row.path,
            via: row.via,
            rtt_seconds: row.rtt_seconds,
            protocol: row.protocol,
            udp: UdpSight {
                address: self.paths[idx].addr.map(|addr| addr.to_string()),
                confirmed: self.paths[idx].confirmed,
                unanswered: self.paths[idx].probes.unanswered,
                silent_seconds: seconds_since(silent, now),
                heard: self.paths[idx].heard.count,
                heard_seconds: seconds_since(self.paths[idx].heard.at, now),
            },
            mtu: MtuSight {
                proven_bytes: row.pmtu_bytes,
                fixed: self.paths[idx].pmtu.fixed,
                too_small: self.paths[idx].pmtu.fixed && self.paths[idx].pmtu.min < MIN_MTU,
            },
            tcp_only_there: node.reachability.options.has(Options::TCP_ONLY),
            tcp_only_here: self.cx.settings.options.has(Options::TCP_ONLY),
            indirect: node.reachability.indirect,
            reason,
            detail: None,
        }
    }

    fn learned_addresses(&self, idx: NodeIdx) -> Vec<String> {
        let node = &self.nodes[idx];
        let host = self.cx.settings.hosts.get(node.name());
        let cached = host.iter().flat_map(|host| host.cached.iter().copied());
        let back = node.edges.values();
        let back = back.filter_map(|edge| self.nodes.edge(edge.to, idx));
        let seen = back.filter_map(|edge| edge.address.known());
        let mut all: Vec<String> = Vec::new();
        for addr in cached.chain(seen).map(|addr| addr.to_string()) {
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
        all
    }

    fn refused_of(&self, idx: NodeIdx) -> Vec<RefusedRow> {
        let node: &Node = &self.nodes[idx];
        let name = node.name();
        let aside = self.subnets.refused(node.shared.idx).iter();
        let aside = aside.filter(|subnet| !node.subnets.contains(subnet));
        aside
            .map(|subnet| {
                let (rule, why) = self.why_refused(idx, subnet);
                RefusedRow {
                    owner: name.to_string(),
                    subnet: subnet.prefix.to_string(),
                    why,
                    rule,
                }
            })
            .collect()
    }

    fn why_refused(&self, idx: NodeIdx, subnet: &Subnet) -> (Rule, String) {
        let name = self.nodes[idx].name();
        if self.cx.settings.strict_subnets {
            let why = format!("hosts/{name} does not list it (StrictSubnets)");
            return (Rule::StrictSubnets, why);
        }
        match self.may_announce(name, subnet) {
            Err(why) => (Rule::SubnetPolicy, format!("{why} (SubnetPolicy)")),
            Ok(()) => {
                let why = self.has_room(idx, subnet).err();
                let why = why.unwrap_or_else(|| "there was no room for it when it came".into());
                (Rule::Bound, why)
            }
        }
    }

    /// Lists every announced subnet that is not accepted, in order of nodes. [`MAX_ASIDE_PER_NODE`]
    /// bounds the rows of one node, [`MAX_ASIDE`] those of all.
    ///
    /// [`MAX_ASIDE`]: crate::mesh::limits::MAX_ASIDE
    /// [`MAX_ASIDE_PER_NODE`]: crate::mesh::limits::MAX_ASIDE_PER_NODE
    #[must_use]
    pub fn refused_subnets(&self) -> Vec<RefusedRow> {
        let nodes = self.nodes.iter();
        nodes.flat_map(|(idx, _)| self.refused_of(idx)).collect()
    }
}

//! What we see of one node and of the way to it: the facts that `meshctl why` judges.

mod told;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    mesh::{
        Mesh,
        node::{Node, Nodes},
        show::seconds_since,
        view::{DialFault, PathKind, PeerRow, Reason},
    },
    route::{MIN_MTU, NodeIdx},
};

pub use told::Detail;

/// Longest text of ours that others get, in characters.
const MAX_TEXT: usize = 200;

/// The way to a node as one end sees it. A meshd tells it to another that asks, so there is nothing in it that a
/// member may not know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Whether the node is reachable.
    pub up: bool,
    /// How packets for it travel.
    pub path: PathKind,
    /// The relay, where the path is `via`.
    pub via: Option<String>,
    /// Round trip by UDP, else of the link, in seconds.
    pub rtt_seconds: Option<f64>,
    /// `native`, `sptps`, `legacy`, or `none` before there is a key.
    pub protocol: String,
    /// UDP to it.
    pub udp: UdpSight,
    /// The search for the path MTU.
    pub mtu: MtuSight,
    /// Whether its edge says TCPOnly.
    pub tcp_only_there: bool,
    /// Whether this end says TCPOnly.
    pub tcp_only_here: bool,
    /// Whether every way to it has an IndirectData edge.
    pub indirect: bool,
    /// Why it is not reached better, as in `peers`.
    pub reason: Option<Reason>,
    /// The rest of what the other end tells, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Detail>>,
}

/// UDP to a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UdpSight {
    /// The address in use, or the best guess.
    pub address: Option<String>,
    /// Whether it has answered a probe lately.
    pub confirmed: bool,
    /// Probes to it since its last answer, at most 255.
    pub unanswered: u8,
    /// Seconds since the first of them.
    pub silent_seconds: Option<f64>,
    /// Probes that came from the node since it became reachable.
    pub heard: u64,
    /// Seconds since the last of them.
    pub heard_seconds: Option<f64>,
}

/// The search for the path MTU; lengths in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MtuSight {
    /// Longest inner IP packet that is proven to pass.
    pub proven_bytes: Option<u16>,
    /// Whether the search is over.
    pub fixed: bool,
    /// It is over, and not even packets of 512 bytes pass.
    pub too_small: bool,
}

/// Everything that we know of a node; the host file is that in force.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// Its row of `peers`.
    pub peer: PeerRow,
    /// The way to it.
    pub pair: Pair,
    /// The neighbour that its lines go to, if that is not itself.
    pub nexthop: Option<String>,
    /// Fingerprint of the Ed25519 key of its host file.
    pub fingerprint: Option<String>,
    /// Address lines of its host file.
    pub addresses: Vec<String>,
    /// Addresses of it that worked before or that neighbours of it name.
    pub learned: Vec<String>,
    /// Subnet lines of its host file.
    pub listed: Vec<String>,
    /// What it announces and we do not believe.
    pub refused: Vec<RefusedRow>,
    /// Whether StrictSubnets is in force.
    pub strict: bool,
    /// Whether UDPDiscovery is in force.
    pub udp_discovery: bool,
    /// Our dialling it; `None`: we do not want a link to it.
    pub dial: Option<DialSight>,
    /// The last attempt to dial it, if it failed.
    pub missed: Option<MissedRow>,
    /// Who last came under its name without proof, since its last link.
    pub unproven: Option<UnprovenRow>,
    /// Whether it can be asked what it sees: a meshd that speaks native.
    pub may_ask: bool,
    /// Whether a handshake of its tunnel waits for an answer.
    pub handshake: bool,
    /// Legacy: whether its key is asked for anew, as our probes stay unanswered.
    #[serde(default)]
    pub key_doubted: bool,
}

/// A subnet that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Who announces it.
    pub owner: String,
    /// Which, without weight.
    pub subnet: String,
    /// Why not.
    pub why: String,
    /// By which rule.
    #[serde(default)]
    pub rule: Rule,
}

/// A rule by which an announced subnet is not believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// SubnetPolicy.
    #[default]
    SubnetPolicy,
    /// StrictSubnets: the operator asked for it.
    StrictSubnets,
    /// A bound on what files of ours do not list.
    Bound,
}

/// What we do to get a link.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DialSight {
    /// Seconds until the next attempt, if one waits.
    pub next_seconds: Option<f64>,
    /// The address that is dialled now.
    pub now: Option<String>,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MissedRow {
    /// In one word.
    pub fault: DialFault,
    /// In one sentence, with the address.
    pub text: String,
    /// How many seconds ago.
    pub seconds: f64,
}

/// Somebody without proof.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnprovenRow {
    /// From where.
    pub address: String,
    /// What failed.
    pub text: String,
    /// How many seconds ago.
    pub seconds: f64,
}

/// Who last came under a node's name without proof.
#[derive(Debug, Clone)]
pub(super) struct Unproven {
    address: std::net::SocketAddr,
    text: String,
    at: Instant,
}

impl Mesh {
    pub(super) fn note_unproven(
        &mut self,
        name: NodeName,
        address: std::net::SocketAddr,
        text: String,
        now: Instant,
    ) {
        if !self.settings.hosts.contains_key(&name) {
            return;
        }
        let idx = self.nodes.add(name, now);
        self.nodes[idx].unproven = Some(Unproven {
            address,
            text,
            at: now,
        });
    }

    /// What we see of a node; `None` for ourselves and for one that is not known.
    #[must_use]
    pub fn sight(&self, name: &NodeName, now: Instant) -> Option<Sight> {
        let idx = self.nodes.find(name).filter(|idx| *idx != Nodes::ME)?;
        let node = &self.nodes[idx];
        let host = self.settings.hosts.get(name);
        let hop = &self.nodes[node.place.nexthop];
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let missed = node.dial_error.as_ref().map(|missed| MissedRow {
            fault: missed.fault,
            text: missed.text.clone(),
            seconds: ago(missed.at),
        });
        let unproven = node.unproven.as_ref().map(|one| UnprovenRow {
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
        Some(Sight {
            peer: self.peer_row(idx, node, now),
            pair: self.pair(idx, now),
            nexthop: (node.place.reachable && node.place.nexthop != idx)
                .then(|| hop.name().to_string()),
            fingerprint: host.and_then(|host| Some(host.key?.fingerprint())),
            addresses: addresses
                .map(|address| format!("{} port {}", address.host, address.port))
                .collect(),
            learned: self.learned_addresses(idx),
            listed: listed.map(|subnet| subnet.prefix.to_string()).collect(),
            refused: self.refused_of(idx),
            strict: self.settings.strict_subnets,
            udp_discovery: self.settings.udp_discovery,
            dial,
            missed,
            unproven,
            may_ask: self.offers_native(idx),
            handshake: node.keys.is_waiting(),
            key_doubted: self.doubts_legacy_key(idx, now),
        })
    }

    /// The way to a node, as others may know it.
    pub(super) fn pair(&self, idx: NodeIdx, now: Instant) -> Pair {
        let node = &self.nodes[idx];
        let row = self.peer_row(idx, node, now);
        let reason = row.reason.map(|reason| Reason {
            text: reason.text.chars().take(MAX_TEXT).collect(),
            ..reason
        });
        let silent = node.udp.silent_since.filter(|_| node.udp.unanswered > 0);
        Pair {
            up: row.up,
            path: row.path,
            via: row.via,
            rtt_seconds: row.rtt_seconds,
            protocol: row.protocol,
            udp: UdpSight {
                address: node.udp.addr.map(|addr| addr.to_string()),
                confirmed: node.udp.confirmed,
                unanswered: node.udp.unanswered,
                silent_seconds: seconds_since(silent, now),
                heard: node.udp.heard,
                heard_seconds: seconds_since(node.udp.heard_at, now),
            },
            mtu: MtuSight {
                proven_bytes: row.pmtu_bytes,
                fixed: node.udp.pmtu.fixed,
                too_small: node.udp.pmtu.fixed && node.udp.pmtu.min < MIN_MTU,
            },
            tcp_only_there: node.place.options.has(Options::TCP_ONLY),
            tcp_only_here: self.settings.options.has(Options::TCP_ONLY),
            indirect: node.place.indirect,
            reason,
            detail: None,
        }
    }

    fn learned_addresses(&self, idx: NodeIdx) -> Vec<String> {
        let node = &self.nodes[idx];
        let host = self.settings.hosts.get(node.name());
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
        let aside = node.refused.subnets.iter();
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
        if self.settings.strict_subnets {
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

    /// Every subnet that is announced and not believed, in order of nodes; of one node and of all no more than
    /// [`MAX_ASIDE_PER_NODE`] and [`MAX_ASIDE`].
    ///
    /// [`MAX_ASIDE`]: crate::mesh::limits::MAX_ASIDE
    /// [`MAX_ASIDE_PER_NODE`]: crate::mesh::limits::MAX_ASIDE_PER_NODE
    #[must_use]
    pub fn refused_subnets(&self) -> Vec<RefusedRow> {
        let nodes = self.nodes.iter();
        nodes.flat_map(|(idx, _)| self.refused_of(idx)).collect()
    }
}

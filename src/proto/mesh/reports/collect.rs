//! Collects the facts about nodes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    dialect::Dialect,
    mesh::{
        Mesh,
        reports::facts::{
            DialFacts, DialState, FailedDial, HostFacts, NodeDetails, NodeFacts, PathKind, Refusal,
            RefusedSubnet, RouteFacts, Rule, Traffic, TunnelFacts, UdpFacts, UnprovenPeer,
        },
        topology::node::{Node, Nodes},
        total,
    },
    route::{ETHER, MIN_MTU, NodeIdx},
};

/// The last peer that claimed a node's name without proof.
#[derive(Debug, Clone)]
pub(in crate::mesh) struct Unproven {
    address: SocketAddr,
    error: String,
    at: Instant,
}

impl Mesh {
    pub(in crate::mesh) fn note_unproven(
        &mut self,
        name: NodeName,
        address: SocketAddr,
        error: String,
        now: Instant,
    ) {
        if !self.cx.settings.hosts.contains_key(&name) {
            return;
        }
        let idx = self.nodes.add(name, now);
        let at = now;
        self.peers
            .set_unproven(idx, Unproven { address, error, at });
    }

    /// Returns the facts about every other node, in order of names.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<NodeFacts> {
        let others = self.nodes.iter().filter(|(idx, _)| *idx != Nodes::ME);
        others.map(|(idx, _)| self.node_facts(idx, now)).collect()
    }

    /// Returns the facts about one node; `None` for this node and for an unknown name.
    #[must_use]
    pub fn peer(&self, name: &NodeName, now: Instant) -> Option<NodeFacts> {
        let idx = self.nodes.find(name).filter(|idx| *idx != Nodes::ME)?;
        Some(self.node_facts(idx, now))
    }

    /// Returns everything known of a node; `None` for this node and for an unknown name.
    #[must_use]
    pub fn details(&self, name: &NodeName, now: Instant) -> Option<NodeDetails> {
        let idx = self.nodes.find(name).filter(|idx| *idx != Nodes::ME)?;
        let host = self.cx.settings.hosts.get(name);
        let addresses = host.iter().flat_map(|host| &host.addresses);
        let listed = host.iter().flat_map(|host| &host.subnets);
        Some(NodeDetails {
            node: self.node_facts(idx, now),
            fingerprint: host.and_then(|host| Some(host.key?.fingerprint())),
            addresses: addresses.cloned().collect(),
            learned: self.learned_addresses(idx),
            listed: listed.map(|subnet| subnet.prefix).collect(),
            refused: self.refused_of(idx).collect(),
            strict: self.cx.settings.strict_subnets,
            udp_discovery: self.cx.settings.udp_discovery,
            may_ask: self.offers_native(idx),
        })
    }

    fn node_facts(&self, idx: NodeIdx, now: Instant) -> NodeFacts {
        let node = &self.nodes[idx];
        let link = node.link.and_then(|link| self.peers.get(&link));
        NodeFacts {
            name: node.name().clone(),
            subnets: node.subnets.iter().copied().collect(),
            up: node.reachability.reachable,
            path: self.path_kind(idx),
            since: ago(node.since, now),
            link: link.map(|link| link.hello.dialect),
            route: self.route_facts(idx, node),
            tunnel: self.tunnel_facts(idx, node, now),
            udp: self.udp_facts(idx, now),
            traffic: traffic(node),
            host: self.host_facts(node),
            dial: self.dial_facts(idx, now),
        }
    }

    fn route_facts(&self, idx: NodeIdx, node: &Node) -> RouteFacts {
        let path = self.path_kind(idx);
        let link = node.link.and_then(|link| self.peers.get(&link));
        let (endpoint, rtt) = match path {
            PathKind::Udp => (self.paths[idx].addr, self.paths[idx].rtt),
            PathKind::Tcp => (
                link.map(|link| link.remote),
                link.and_then(|link| link.liveness.rtt),
            ),
            PathKind::Via | PathKind::Down => (None, None),
        };
        let reachability = &node.reachability;
        let hop = reachability.nexthop;
        let nexthop = reachability.reachable && hop != idx;
        RouteFacts {
            via: (path == PathKind::Via).then(|| self.relay_name(node).clone()),
            nexthop: nexthop.then(|| self.nodes[hop].name().clone()),
            endpoint,
            rtt,
            tcp_only_there: reachability.options.has(Options::TCP_ONLY),
            tcp_only_here: self.cx.settings.options.has(Options::TCP_ONLY),
            indirect: reachability.indirect,
        }
    }

    fn tunnel_facts(&self, idx: NodeIdx, node: &Node, now: Instant) -> TunnelFacts {
        let keys = &self.sessions[idx];
        TunnelFacts {
            protocol: self.packet_dialect(node),
            established: keys.is_established(),
            cipher: keys.tx().map(|tx| tx.cipher()),
            legacy: self.uses_legacy(idx),
            handshake: keys.is_waiting(),
            key_doubted: self.doubts_legacy_key(idx, now),
            suite_refused: keys.legacy.refused.clone(),
        }
    }

    fn udp_facts(&self, idx: NodeIdx, now: Instant) -> UdpFacts {
        let udp = &self.paths[idx];
        UdpFacts {
            address: udp.addr,
            confirmed: udp.confirmed,
            unanswered: udp.probes.unanswered,
            silent: ago(
                udp.probes
                    .silent_since
                    .filter(|_| udp.probes.unanswered > 0),
                now,
            ),
            heard: udp.heard.count,
            heard_ago: ago(udp.heard.at, now),
            proven_mtu: self.proven_mtu(&self.nodes[idx]),
            mtu_fixed: udp.pmtu.fixed,
            mtu_too_small: udp.pmtu.fixed && udp.pmtu.min < MIN_MTU,
        }
    }

    fn host_facts(&self, node: &Node) -> HostFacts {
        let (host, idx) = (self.cx.settings.hosts.get(node.name()), node.shared.idx);
        HostFacts {
            file: host.map(|host| &**host).into(),
            shut_out: host.and_then(|host| host.shut_out.clone()),
            bad_key: host.and_then(|host| host.bad_key.clone()),
            received_key: self.peers.announced_key(idx),
            has_address: host.is_some_and(|host| !host.addresses.is_empty()),
            labels: host.map(|host| host.labels.clone()).unwrap_or_default(),
            offers: node.since.map(|_| self.peers.dialects(idx).offers()),
            min_protocol: Some(self.least(node.name())),
            sptps_here: self.cx.settings.sptps,
        }
    }

    fn dial_facts(&self, idx: NodeIdx, now: Instant) -> DialFacts {
        let since = |at: Instant| now.saturating_duration_since(at);
        let dialling = self.dialling(self.nodes[idx].name());
        DialFacts {
            wanted: dialling.map(|(next, to)| DialState {
                next: next.map(|at| at.saturating_duration_since(now)),
                now: to,
            }),
            failure: self.peers.dial_failure(idx).map(|failure| FailedDial {
                fault: failure.fault,
                error: failure.text.clone(),
                ago: since(failure.at),
            }),
            unproven: self.peers.unproven(idx).map(|peer| UnprovenPeer {
                address: peer.address,
                error: peer.error.clone(),
                ago: since(peer.at),
            }),
        }
    }

    /// Returns the least dialect that we speak with a node.
    fn least(&self, node: &NodeName) -> Dialect {
        match self.cx.settings.allows_hearsay(node) {
            true => Dialect::Legacy,
            false => self.cx.settings.min_protocol_of(node).into(),
        }
    }

    /// Returns the path of packets to a node.
    pub(in crate::mesh) fn path_kind(&self, idx: NodeIdx) -> PathKind {
        let node = &self.nodes[idx];
        if !node.reachability.reachable {
            PathKind::Down
        } else if self.paths[idx].confirmed && node.reachability.via == idx {
            PathKind::Udp
        } else if node.link.is_some() {
            PathKind::Tcp
        } else {
            PathKind::Via
        }
    }

    pub(super) fn relay_name(&self, node: &Node) -> &NodeName {
        let reachability = &node.reachability;
        let relay = if reachability.via == Nodes::ME || reachability.via == node.shared.idx {
            reachability.nexthop
        } else {
            reachability.via
        };
        self.nodes[relay].name()
    }

    /// Returns the longest inner IP packet that UDP is proven to carry.
    pub(in crate::mesh) fn proven_mtu(&self, node: &Node) -> Option<u16> {
        let (path, session) = (
            &self.paths[node.shared.idx],
            &self.sessions[node.shared.idx],
        );
        let min = path.pmtu.min;
        let proven = path.confirmed && min >= MIN_MTU;
        let dialect = session.dialect().unwrap_or(Dialect::Sptps);
        let mode = self.cx.settings.route.mode;
        proven.then(|| mode.tunnel_mtu(dialect, min, true) - ETHER as u16)
    }

    fn learned_addresses(&self, idx: NodeIdx) -> Vec<SocketAddr> {
        let node = &self.nodes[idx];
        let host = self.cx.settings.hosts.get(node.name());
        let cached = host.iter().flat_map(|host| host.cached.iter().copied());
        let back = node.edges.values();
        let back = back.filter_map(|edge| self.nodes.edge(edge.to, idx));
        let seen = back.filter_map(|edge| edge.address.known());
        let mut all: Vec<SocketAddr> = Vec::new();
        for addr in cached.chain(seen) {
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
        all
    }

    fn refused_of(&self, idx: NodeIdx) -> impl Iterator<Item = RefusedSubnet> {
        let node = &self.nodes[idx];
        let aside = self.subnets.refused(idx).iter();
        let aside = aside.filter(|subnet| !node.subnets.contains(subnet));
        aside.map(move |subnet| {
            let (rule, why) = self.why_refused(idx, subnet);
            RefusedSubnet {
                owner: node.name().clone(),
                subnet: subnet.prefix,
                rule,
                why,
            }
        })
    }

    fn why_refused(&self, idx: NodeIdx, subnet: &Subnet) -> (Rule, Refusal) {
        let name = self.nodes[idx].name();
        if self.cx.settings.strict_subnets {
            return (Rule::StrictSubnets, Refusal::Unlisted(name.clone()));
        }
        match self.may_announce(name, subnet) {
            Err(why) => (Rule::SubnetPolicy, why),
            Ok(()) => {
                let why = self.has_room(idx, subnet).err();
                (Rule::Bound, why.unwrap_or(Refusal::NoRoomBefore))
            }
        }
    }

    /// Lists every announced subnet that is not accepted, in order of nodes. [`MAX_ASIDE_PER_NODE`]
    /// bounds the rows of one node, [`MAX_ASIDE`] those of all.
    ///
    /// [`MAX_ASIDE`]: crate::mesh::limits::MAX_ASIDE
    /// [`MAX_ASIDE_PER_NODE`]: crate::mesh::limits::MAX_ASIDE_PER_NODE
    #[must_use]
    pub fn refused_subnets(&self) -> Vec<RefusedSubnet> {
        let nodes = self.nodes.iter();
        nodes.flat_map(|(idx, _)| self.refused_of(idx)).collect()
    }
}

fn traffic(node: &Node) -> Traffic {
    let counters = &node.shared.counters;
    Traffic {
        rx_bytes: total(&counters.rx_bytes),
        tx_bytes: total(&counters.tx_bytes),
        rx_packets: total(&counters.rx_packets),
        tx_packets: total(&counters.tx_packets),
        foreign_packets: total(&counters.foreign),
    }
}

fn ago(at: Option<Instant>, now: Instant) -> Option<Duration> {
    at.map(|at| now.saturating_duration_since(at))
}

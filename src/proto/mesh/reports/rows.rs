//! Rows of the mesh's state for `meshctl`.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use meshd_sync::AtomicU64;
use meshd_wire::{EdgeAddress, NodeName, Options, Subnet, subnet::DEFAULT_WEIGHT};

use crate::{
    link::Dialect,
    mesh::{
        Mesh,
        reports::view::{
            ConnectionRow, EdgeRow, MeshStatus, NodeRow, PathKind, PeerRow, Reason, RouteRow,
            SubnetRow,
        },
        topology::node::{Node, Nodes},
        total,
    },
    route::{ETHER, NodeIdx},
};

impl Mesh {
    /// Returns one row for every other node, in order of names.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerRow> {
        let others = self.nodes.iter().filter(|(idx, _)| *idx != Nodes::ME);
        others
            .map(|(idx, node)| self.peer_row(idx, node, now))
            .collect()
    }

    pub(in crate::mesh) fn peer_row(&self, idx: NodeIdx, node: &Node, now: Instant) -> PeerRow {
        let path = self.path_kind(idx);
        let link = node.link.and_then(|link| self.peers.get(&link));
        let endpoint = match path {
            PathKind::Udp => self.paths[node.shared.idx].addr,
            PathKind::Tcp => link.map(|link| link.remote),
            PathKind::Via | PathKind::Down => None,
        };
        let rtt = self.paths[node.shared.idx]
            .rtt
            .filter(|_| path == PathKind::Udp);
        let rtt = rtt.or_else(|| {
            link.and_then(|link| link.liveness.rtt)
                .filter(|_| path == PathKind::Tcp)
        });
        let count = |counter: fn(&Node) -> &AtomicU64| total(counter(node));
        let host = self.cx.settings.hosts.get(node.name());
        PeerRow {
            name: node.name().to_string(),
            subnets: node.subnets.iter().map(ToString::to_string).collect(),
            up: node.reachability.reachable,
            path,
            via: (path == PathKind::Via).then(|| self.relay_name(node)),
            endpoint: endpoint.map(|addr| addr.to_string()),
            protocol: if self.sessions[node.shared.idx].native.is_established() {
                Some(Dialect::Native)
            } else if node.reachability.legacy {
                Some(Dialect::Legacy)
            } else {
                self.sessions[node.shared.idx]
                    .is_established()
                    .then_some(Dialect::Sptps)
            },
            cipher: self.sessions[node.shared.idx].tx().map(|tx| tx.cipher()),
            link: link.map(|link| link.hello.dialect),
            rtt_seconds: rtt.map(|rtt| rtt.as_secs_f64()),
            pmtu_bytes: self.proven_mtu(node),
            rx_bytes: count(|n| &n.shared.counters.rx_bytes),
            tx_bytes: count(|n| &n.shared.counters.tx_bytes),
            rx_packets: count(|n| &n.shared.counters.rx_packets),
            tx_packets: count(|n| &n.shared.counters.tx_packets),
            foreign_packets: count(|n| &n.shared.counters.foreign),
            since_seconds: seconds_since(node.since, now),
            reason: self.reason(node, path),
            offers: node
                .since
                .map(|_| self.peers.dialects(node.shared.idx).offers()),
            min_protocol: Some(self.least(node.name())),
            host_file: host.map(|host| &**host).into(),
            labels: host.map(|host| host.labels.clone()).unwrap_or_default(),
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

    fn relay_name(&self, node: &Node) -> String {
        let reachability = &node.reachability;
        let relay = if reachability.via == Nodes::ME || reachability.via == node.shared.idx {
            reachability.nexthop
        } else {
            reachability.via
        };
        self.nodes[relay].name().to_string()
    }

    /// Returns the longest inner IP packet that UDP is proven to carry.
    pub(in crate::mesh) fn proven_mtu(&self, node: &Node) -> Option<u16> {
        let min = self.paths[node.shared.idx].pmtu.min;
        let proven = self.paths[node.shared.idx].confirmed && min >= crate::route::MIN_MTU;
        proven.then(
            || match self.sessions[node.shared.idx].native.is_established() {
                true => self.cx.settings.route.mode.native_mtu(min, true) - ETHER as u16,
                false => min - ETHER as u16,
            },
        )
    }

    fn reason(&self, node: &Node, path: PathKind) -> Option<Reason> {
        let reason = |code: &str, text: String| {
            Some(Reason {
                code: code.into(),
                text,
            })
        };
        let name = node.name();
        let host = self.cx.settings.hosts.get(name);
        if let Some(why) = host.and_then(|host| host.shut_out.as_ref()) {
            return reason("shut_out", format!("{why} (hosts/{name})"));
        }
        if self.cx.settings.sptps
            && !node.reachability.legacy
            && host.is_none_or(|host| host.key.is_none())
        {
            return reason("no_key", self.why_no_key(name));
        }
        if path == PathKind::Down {
            return match self.peers.dial_failure(node.shared.idx) {
                Some(missed) => reason("cannot_connect", missed.text.clone()),
                None if host.is_some_and(|host| host.addresses.is_empty()) => reason(
                    "no_address",
                    format!("no Address in hosts/{name}, and no node reaches it"),
                ),
                None => reason("no_path", "no node reaches it".into()),
            };
        }
        if let Some(why) = &self.sessions[node.shared.idx].legacy.refused {
            return reason("legacy_cipher", format!("{why}: packets go over TCP"));
        }
        if path == PathKind::Udp && node.reachability.legacy {
            return reason("legacy", self.why_legacy(name));
        }
        if path == PathKind::Udp {
            let slow = self.paths[node.shared.idx].pmtu.fixed
                && self.paths[node.shared.idx].pmtu.min < crate::route::MIN_MTU;
            return slow.then(|| Reason {
                code: "mtu_too_small".into(),
                text: "UDP carries short packets only: long ones go by TCP".into(),
            });
        }
        if node.reachability.options.has(Options::TCP_ONLY)
            || self.cx.settings.options.has(Options::TCP_ONLY)
        {
            return reason("tcp_only", "TCPOnly is set".into());
        }
        if node.reachability.indirect {
            return reason("indirect", "IndirectData is set on the way".into());
        }
        if !self.sessions[node.shared.idx].is_established() {
            return if self.sessions[node.shared.idx].is_waiting() {
                reason("handshake", "waiting for the tunnel handshake".into())
            } else {
                reason("idle", "no tunnel yet: nothing was sent".into())
            };
        }
        if self.paths[node.shared.idx].probes.unanswered > 0 {
            return reason(
                "udp_no_reply",
                format!(
                    "{} UDP probes unanswered: is UDP blocked between us?",
                    self.paths[node.shared.idx].probes.unanswered
                ),
            );
        }
        reason(
            "idle",
            "nothing was sent lately, so UDP was not tried".into(),
        )
    }

    /// Returns the rows of `dump nodes`, in order of names.
    #[must_use]
    pub fn nodes(&self, now: Instant) -> Vec<NodeRow> {
        self.nodes
            .iter()
            .map(|(idx, node)| self.node_row(idx, node, now))
            .collect()
    }

    fn node_row(&self, idx: NodeIdx, node: &Node, now: Instant) -> NodeRow {
        let reachability = &node.reachability;
        let me = idx == Nodes::ME;
        let (host, port) = match (me, self.paths[node.shared.idx].addr) {
            (true, _) => ("MYSELF".to_owned(), self.cx.settings.port.to_string()),
            (_, Some(addr)) => (addr.ip().to_string(), addr.port().to_string()),
            _ => ("unknown".to_owned(), "unknown".to_owned()),
        };
        let hop = |hop: NodeIdx| {
            let known = reachability.reachable || me;
            if known {
                self.nodes
                    .get(hop)
                    .map_or_else(|| "-".to_owned(), |n| n.name().to_string())
            } else {
                "-".to_owned()
            }
        };
        let count = |counter: &AtomicU64| total(counter);
        let counters = &node.shared.counters;
        NodeRow {
            name: node.name().to_string(),
            id: node.shared.id.to_string(),
            host,
            port,
            options: if me {
                self.cx.settings.options.0
            } else {
                reachability.options.0
            },
            status: self.node_status(me, node),
            nexthop: hop(reachability.nexthop),
            via: hop(reachability.via),
            distance: reachability.distance,
            pmtu: self.paths[node.shared.idx].pmtu.mtu(),
            min_mtu: self.paths[node.shared.idx].pmtu.min,
            max_mtu: self.paths[node.shared.idx].pmtu.max,
            since_seconds: seconds_since(node.since, now),
            rtt_us: self.paths[node.shared.idx]
                .rtt
                .map_or(-1, |rtt| i64::try_from(rtt.as_micros()).unwrap_or(-1)),
            rx_packets: count(&counters.rx_packets),
            rx_bytes: count(&counters.rx_bytes),
            tx_packets: count(&counters.tx_packets),
            tx_bytes: count(&counters.tx_bytes),
        }
    }

    /// Returns the status bits of a node. Source: wire/tinc-1.1.md section 7.
    fn node_status(&self, me: bool, node: &Node) -> u32 {
        let reachable = node.reachability.reachable || me;
        let host = self.cx.settings.hosts.get(node.name());
        [
            (1, self.sessions[node.shared.idx].is_established()),
            (2, self.sessions[node.shared.idx].is_waiting()),
            (3, reachable),
            (4, reachable),
            (5, node.reachability.indirect),
            (6, node.has_sptps() || me),
            (7, self.paths[node.shared.idx].confirmed),
            (
                11,
                host.is_some_and(|host| !host.addresses.is_empty())
                    || me && self.cx.settings.has_address,
            ),
        ]
        .into_iter()
        .fold(0, |bits, (bit, on)| bits | u32::from(on) << bit)
    }

    /// Returns the rows of `dump edges`, in order of names.
    #[must_use]
    pub fn edges(&self) -> Vec<EdgeRow> {
        let mut rows = Vec::new();
        for (_, node) in self.nodes.iter() {
            for edge in node.edges.values() {
                let local = edge.local.clone().unwrap_or_else(EdgeAddress::unspec);
                rows.push(EdgeRow {
                    from: node.name().to_string(),
                    to: self.nodes[edge.to].name().to_string(),
                    host: edge.address.host(),
                    port: edge.address.port(),
                    local_host: local.host(),
                    local_port: local.port(),
                    options: edge.options.0,
                    weight: edge.weight,
                });
            }
        }
        rows
    }

    /// Returns the rows of `dump subnets` and `routes` in lookup order, broadcast subnets included.
    #[must_use]
    pub fn subnets(&self) -> Vec<SubnetRow> {
        let mut all: Vec<(Subnet, NodeIdx)> = self
            .nodes
            .iter()
            .flat_map(|(idx, node)| node.subnets.iter().map(move |subnet| (*subnet, idx)))
            .collect();
        all.sort_by_key(|(subnet, _)| *subnet);
        let owned = self.subnet_rows(&all);
        let ownerless = self.broadcast_prefixes().map(|prefix| Subnet {
            prefix,
            weight: DEFAULT_WEIGHT,
        });
        let ownerless = ownerless.map(|subnet| {
            let row = SubnetRow {
                subnet: subnet.prefix.to_string(),
                weight: subnet.weight,
                owner: None,
                reachable: true,
                active: true,
            };
            (subnet, row)
        });
        let keys = all.iter().map(|(subnet, _)| *subnet);
        let mut rows: Vec<(Subnet, SubnetRow)> = keys.zip(owned).chain(ownerless).collect();
        rows.sort_by_key(|(subnet, _)| *subnet);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn subnet_rows(&self, sorted: &[(Subnet, NodeIdx)]) -> Vec<SubnetRow> {
        let mut rows = Vec::new();
        let mut served = None;
        for (subnet, idx) in sorted {
            let reachable = self.nodes[*idx].reachability.reachable || *idx == Nodes::ME;
            let active = reachable && served != Some(subnet.prefix);
            if active {
                served = Some(subnet.prefix);
            }
            rows.push(SubnetRow {
                subnet: subnet.prefix.to_string(),
                weight: subnet.weight,
                owner: Some(self.nodes[*idx].name().to_string()),
                reachable,
                active,
            });
        }
        rows
    }

    /// Returns the route to an address.
    #[must_use]
    pub fn route(&self, address: IpAddr) -> RouteRow {
        let matches = self.matching(address);
        let mut rows = self.subnet_rows(&matches);
        let used = matches
            .iter()
            .position(|(_, idx)| self.nodes[*idx].reachability.reachable || *idx == Nodes::ME);
        for (at, row) in rows.iter_mut().enumerate() {
            row.active = Some(at) == used;
        }
        let owner = used.map(|at| matches[at].1);
        let nexthop = owner.map(|idx| {
            self.nodes[self.nodes[idx].reachability.nexthop]
                .name()
                .to_string()
        });
        RouteRow {
            address: address.to_string(),
            matches: rows,
            nexthop,
        }
    }

    /// Returns the rows of `dump connections`.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionRow> {
        let row = |peer: &crate::mesh::peers::handshake::Peer| {
            let bits = [
                (0, peer.liveness.awaiting_pong),
                (8, self.graph.tree().contains(&peer.node)),
            ];
            ConnectionRow {
                name: peer.hello.name.to_string(),
                host: peer.remote.ip().to_string(),
                port: peer.remote.port().to_string(),
                options: peer.options.0,
                status: bits
                    .into_iter()
                    .fold(0, |all, (bit, on)| all | u32::from(on) << bit),
                outgoing: peer.hello.outgoing,
                protocol: peer.hello.dialect,
                rtt_seconds: peer.liveness.rtt.map(|rtt| rtt.as_secs_f64()),
            }
        };
        let mut rows: Vec<ConnectionRow> = self.peers.values().map(row).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// Returns the numbers of `status`.
    #[must_use]
    pub fn status(&self) -> MeshStatus {
        MeshStatus {
            name: self.cx.settings.name.to_string(),
            links: self.peers.values().filter(|peer| peer.active).count(),
            nodes: self.nodes.len(),
            reachable: self
                .nodes
                .iter()
                .filter(|(idx, node)| node.reachability.reachable || *idx == Nodes::ME)
                .count(),
            edges: self.nodes.edge_count,
            subnets: self.subnets.count(),
            lines: self.cx.counters.lines,
            graph_runs: self.cx.counters.graph_runs,
            floods: self.cx.counters.floods,
            refused: self.cx.counters.refused,
            foreign_packets: {
                let nodes = self.nodes.iter();
                nodes.map(|(_, n)| total(&n.shared.counters.foreign)).sum()
            },
            downgrades: self.cx.counters.downgrades,
            subnets_refused: self.cx.counters.subnets_refused,
        }
    }

    /// Finds the node that sends packets from this address, or that its neighbours see at it. For
    /// display only.
    #[must_use]
    pub fn node_by_addr(&self, addr: SocketAddr) -> Option<NodeName> {
        let mut others = self.nodes.iter().filter(|(idx, _)| *idx != Nodes::ME);
        let there = |node: &Node| {
            [self.paths[node.shared.idx].addr, node.reachability.address].contains(&Some(addr))
        };
        let (_, node) = others.find(|(_, node)| there(node))?;
        Some(node.name().clone())
    }

    /// Returns true if a node of that name is known.
    #[must_use]
    pub fn has_node(&self, name: &NodeName) -> bool {
        self.nodes.find(name).is_some()
    }

    /// Returns the path to a node, its endpoint or relay, and its proven MTU: for `ping`.
    #[must_use]
    pub fn path_to(&self, name: &NodeName) -> Option<(PathKind, Option<String>, Option<u16>)> {
        let idx = self.nodes.find(name)?;
        let node = &self.nodes[idx];
        let path = self.path_kind(idx);
        let endpoint = match path {
            PathKind::Udp => self.paths[idx].addr.map(|addr| addr.to_string()),
            PathKind::Tcp => node
                .link
                .and_then(|link| Some(self.peers.get(&link)?.remote.to_string())),
            PathKind::Via => Some(self.relay_name(node)),
            PathKind::Down => None,
        };
        Some((path, endpoint, self.proven_mtu(node)))
    }
}

pub(in crate::mesh) fn seconds_since(since: Option<Instant>, now: Instant) -> Option<f64> {
    since
        .map(|at| now.saturating_duration_since(at))
        .as_ref()
        .map(Duration::as_secs_f64)
}

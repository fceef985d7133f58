//! Rows of the mesh's state for `meshctl`.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use meshd_sync::AtomicU64;
use meshd_wire::{EdgeAddress, NodeName, Subnet, subnet::DEFAULT_WEIGHT};

use crate::{
    mesh::{
        Mesh,
        reports::{
            facts::PathKind,
            view::{ConnectionRow, EdgeRow, MeshStatus, NodeRow, RouteRow, SubnetRow},
        },
        topology::node::{Node, Nodes},
        total,
    },
    route::NodeIdx,
};

impl Mesh {
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
            (6, node.reachability.options.has_handshake() || me),
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
                subnet: subnet.prefix,
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
                subnet: subnet.prefix,
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
            address,
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
            PathKind::Via => Some(self.relay_name(node).to_string()),
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

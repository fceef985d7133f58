//! From the control plane's tables to the workers: the graph pass, its consequences, node states
//! and snapshots.
//!
//! The graph is computed at most once per batch of input. Snapshots are published every 10 ms on
//! average, with a burst of a few. Source: wire/tinc-1.0.md section 2.8, proto/design.md section
//! 2.4.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_wire::{Prefix, Subnet};

use crate::{
    mesh::{
        HookEvent, Mesh, Output, Timer,
        gossip::belief,
        topology::{
            graph,
            node::{Node, Nodes, Reachability},
        },
    },
    route::{
        Broadcast, MTU, NodeIdx, NodeState, RouteSnapshot,
        lpm::{self, Owner, Table},
        source::Claims,
    },
};

/// Mean time between two publications under constant change.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// Time by which publications may run ahead of that mean. A node that comes up causes five changes
/// within 3 ms, and none of them should wait.
const PUBLISH_AHEAD: Duration = Duration::from_millis(80);
/// Ownerless subnets that every 1.1 node has. Source: config/tinc.md section 6.2.
const BROADCASTS: [Prefix; 4] = [
    Prefix::Mac([0xff; 6]),
    Prefix::V4(Ipv4Addr::BROADCAST, 32),
    Prefix::V4(Ipv4Addr::new(224, 0, 0, 0), 4),
    Prefix::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Returns a node's subnets without Ethernet addresses. A node may own thousands of Ethernet
/// addresses, and they come first in order.
pub(super) fn ip_subnets(node: &Node) -> impl Iterator<Item = &Subnet> {
    let is_mac = |subnet: &&Subnet| matches!(subnet.prefix, Prefix::Mac(_));
    node.subnets.iter().skip_while(is_mac)
}

impl Mesh {
    /// Recomputes paths if edges changed, and publishes if the time has come.
    pub(super) fn settle(&mut self, now: Instant) {
        while std::mem::take(&mut self.dirty_graph) {
            self.run_graph(now);
            self.withdraw_orphans();
            if std::mem::take(&mut self.purge) {
                self.purge_unreachable();
            }
        }
        for (link, line) in std::mem::take(&mut self.deferred) {
            self.handle_line(link, &line, now);
        }
        self.close_misbehaved(now);
        if !self.dirty_routes {
            return;
        }
        if now + PUBLISH_AHEAD >= self.publish_at {
            self.publish(now);
        } else {
            let due = self.publish_at - PUBLISH_AHEAD;
            self.timers.insert((due, Timer::Publish, Nodes::ME));
        }
    }

    fn run_graph(&mut self, now: Instant) {
        self.graph_runs += 1;
        let mut places = graph::places(&self.nodes, &belief::Edges::new());
        self.keep_doubted_nodes(&mut places, now);
        let nowhere = Reachability::nowhere(Nodes::ME);
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        let mut flips = Vec::new();
        let mut changed = Vec::new();
        for idx in all {
            let mut reachability = places.remove(&idx).unwrap_or(nowhere);
            if reachability.reachable && idx != Nodes::ME {
                let anew = !self.nodes[idx].reachability.reachable;
                reachability.legacy = self.is_legacy(idx, &reachability);
                reachability.options =
                    self.believed(idx, reachability.options, (reachability.legacy, anew), now);
                reachability = self.hold_path(idx, reachability, now);
            }
            let node = &mut self.nodes[idx];
            let old = std::mem::replace(&mut node.reachability, reachability);
            if idx != Nodes::ME && old.reachable != reachability.reachable {
                flips.push(idx);
            } else if reachability.reachable && old.legacy != reachability.legacy {
                changed.push(idx);
            } else if reachability.reachable && node.udp.addr.is_none() {
                node.udp.addr = reachability.address;
            }
            if old != reachability {
                self.update_state(idx);
            }
        }
        self.find_carriers();
        // In order of names, after all places are known: a script may inspect other nodes.
        for idx in flips {
            self.flip(idx, now);
        }
        for idx in changed {
            self.start_anew(idx, now);
        }
        self.tree = graph::tree_neighbours(&self.nodes);
        self.dirty_routes = true;
    }

    /// Drops the sessions with a reachable node and starts new ones.
    pub(super) fn start_anew(&mut self, idx: NodeIdx, now: Instant) {
        self.drop_keys(idx);
        let node = &mut self.nodes[idx];
        node.udp.reset(node.reachability.address);
        self.update_state(idx);
        self.make_keys(idx, now);
    }

    /// Handles a node that became reachable or unreachable.
    fn flip(&mut self, idx: NodeIdx, now: Instant) {
        let old_address = self.own_address(idx).known();
        self.drop_keys(idx);
        let node = &mut self.nodes[idx];
        node.since = Some(now);
        node.idle_since = now;
        node.udp.reset(node.reachability.address);
        let up = node.reachability.reachable;
        let name = node.name().clone();
        let address = if up {
            node.reachability.address
        } else {
            old_address
        };
        tracing::info!(node = %name, "{}", if up { "reachable" } else { "unreachable" });
        let hooks: Vec<HookEvent> = self.hooks_of(idx, up, address).collect();
        self.outputs.extend(hooks.into_iter().map(Output::Hook));
        self.update_state(idx);
        if up {
            self.tell_left_out(idx);
            self.make_keys(idx, now);
        }
    }

    /// Returns the script events of a node that becomes reachable or unreachable.
    fn hooks_of(
        &self,
        idx: NodeIdx,
        up: bool,
        address: Option<SocketAddr>,
    ) -> impl Iterator<Item = HookEvent> + '_ {
        let name = self.nodes[idx].name();
        let host = HookEvent::Host {
            up,
            node: name.clone(),
            address,
        };
        let subnets = self.nodes[idx].subnets.iter();
        let subnets = subnets.map(move |subnet| HookEvent::Subnet {
            up,
            node: name.clone(),
            subnet: *subnet,
            address,
        });
        std::iter::once(host).chain(subnets)
    }

    /// Returns the script events for all other nodes at shutdown. The call changes no state, so
    /// packets flow while the scripts run.
    pub fn farewell(&self) -> impl Iterator<Item = HookEvent> + '_ {
        let reachable =
            |idx: &NodeIdx| *idx != Nodes::ME && self.nodes[*idx].reachability.reachable;
        let nodes = self.nodes.by_name().filter(reachable);
        nodes.flat_map(|idx| self.hooks_of(idx, false, self.own_address(idx).known()))
    }

    /// Makes the tunnel keys of a neighbour before the first packet needs them.
    fn make_keys(&mut self, idx: NodeIdx, now: Instant) {
        match (self.nodes[idx].link, self.nodes[idx].reachability.legacy) {
            (Some(_), true) => self.send_legacy_key(idx, now),
            (Some(_), false) => self.ensure_session(idx, now),
            (None, _) => {}
        }
    }

    /// Updates a node's state for the workers and marks the address tables for publication.
    pub(super) fn mark_state(&mut self, idx: NodeIdx) {
        self.update_state(idx);
        self.dirty_routes = true;
    }

    /// Gives the workers the node's current keys and path.
    pub(super) fn update_state(&self, idx: NodeIdx) {
        let node = &self.nodes[idx];
        node.shared.state.store(Arc::new(self.state_of(node)));
    }

    fn state_of(&self, node: &Node) -> NodeState {
        let reachability = &node.reachability;
        let udp = &node.udp;
        let pmtu_wanted = reachability
            .options
            .has(meshd_wire::Options::PMTU_DISCOVERY);
        let (min_mtu, mtu) = match (udp.confirmed, pmtu_wanted) {
            (false, _) => (0, udp.hinted_mtu.longest()),
            (true, true) => (udp.pmtu.min, udp.pmtu.mtu()),
            (true, false) => (MTU, MTU),
        };
        let cap = self.pmtu_cap(node);
        NodeState {
            reachable: reachability.reachable || node.shared.idx == Nodes::ME,
            neighbour: node.link.is_some(),
            legacy: reachability.legacy,
            options: if node.shared.idx == Nodes::ME {
                self.settings.options
            } else {
                reachability.options
            },
            nexthop: reachability.nexthop.slot(),
            via: reachability.via.slot(),
            udp: udp.addr.filter(|_| udp.confirmed),
            min_mtu,
            mtu: mtu.min(cap),
            tx: node.keys.tx(),
            resting: node.keys.is_resting(),
            rx: node.keys.rx(),
        }
    }

    /// Upper bound of a neighbour's MTU from the PMTU variable, until discovery has fixed the MTU.
    fn pmtu_cap(&self, node: &Node) -> u16 {
        if node.link.is_none() || node.udp.pmtu.fixed {
            return MTU;
        }
        let host = self
            .settings
            .hosts
            .get(node.name())
            .and_then(|host| host.pmtu);
        [host, self.settings.pmtu]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(MTU)
    }

    /// Returns a snapshot of the current tables, and publishes it if it is new.
    pub(super) fn fresh_snapshot(&mut self) -> Arc<RouteSnapshot> {
        if self.dirty_routes {
            self.publish(self.now);
        }
        self.snapshot.clone()
    }

    fn publish(&mut self, now: Instant) {
        self.dirty_routes = false;
        self.publish_at = self.publish_at.max(now) + PUBLISH_EVERY;
        let (v4, v6) = self.tables();
        let mut nodes = vec![None; self.nodes.slot_count()];
        let mut sources = vec![Claims::default(); self.nodes.slot_count()];
        let mut by_id: HashMap<_, NodeIdx> = HashMap::new();
        let mut losers = Vec::new();
        let mut by_addr = HashMap::new();
        for (idx, node) in self.nodes.iter() {
            let slot = idx.slot();
            nodes[slot.0 as usize] = Some(node.shared.clone());
            sources[slot.0 as usize] = self.claims_of(node, (&v4, &v6));
            // Two names with one id: this node wins, then a node with a host file, then the first
            // by name (T30).
            let rank = |idx: NodeIdx| match idx {
                Nodes::ME => 2,
                _ => u8::from(self.settings.hosts.contains_key(self.nodes[idx].name())),
            };
            match by_id.entry(node.shared.id) {
                Entry::Vacant(entry) => {
                    entry.insert(idx);
                }
                Entry::Occupied(mut entry) => {
                    let loser = match rank(*entry.get()) < rank(idx) {
                        true => entry.insert(idx),
                        false => idx,
                    };
                    losers.push((loser, *entry.get()));
                }
            }
            if let Some(addr) = node
                .udp
                .addr
                .filter(|_| node.udp.confirmed && node.reachability.reachable)
            {
                by_addr.insert(addr, slot);
            }
        }
        self.tell_collisions(losers);
        let by_id = by_id.into_iter().map(|(id, idx)| (id, idx.slot()));
        let broadcast: Vec<NodeIdx> = match self.settings.route.broadcast {
            Broadcast::No => Vec::new(),
            Broadcast::Mst => self
                .tree
                .iter()
                .copied()
                .filter(|idx| self.nodes.get(*idx).is_some_and(|n| n.link.is_some()))
                .collect(),
            Broadcast::Direct => self.direct_nodes(),
        };
        let snapshot = RouteSnapshot {
            generation: self.snapshot.generation + 1,
            settings: self.settings.route.clone(),
            me: Nodes::ME.slot(),
            nodes,
            v4,
            v6,
            macs: self.mac_table(),
            by_id: by_id.collect(),
            by_addr,
            broadcast: broadcast.into_iter().map(NodeIdx::slot).collect(),
            sources,
            recent: self.snapshot.recent.clone(),
            listed: self.lists.table(),
        };
        self.snapshot = Arc::new(snapshot);
        self.outputs
            .push_back(Output::Publish(self.snapshot.clone()));
    }

    /// Warns once about each node whose id another node keeps: no packet finds it by its id.
    fn tell_collisions(&mut self, losers: Vec<(NodeIdx, NodeIdx)>) {
        for (loser, winner) in losers {
            if !std::mem::replace(&mut self.nodes[loser].collides, true) {
                tracing::warn!(node = %self.nodes[loser].name(), with = %self.nodes[winner].name(), "has the id of another node, which keeps it: packets by relays do not reach it; rename it");
            }
        }
    }

    /// Nodes that a direct broadcast is sent to.
    fn direct_nodes(&self) -> Vec<NodeIdx> {
        let direct = |(idx, node): &(NodeIdx, &Node)| {
            let reachability = &node.reachability;
            *idx != Nodes::ME
                && reachability.reachable
                && (reachability.via == *idx
                    || reachability.via == Nodes::ME && reachability.nexthop == *idx)
        };
        self.nodes
            .iter()
            .filter(direct)
            .map(|(idx, _)| idx)
            .collect()
    }

    /// Builds both lookup tables. Of equal prefixes the best reachable owner wins. A prefix without
    /// a reachable owner is left out if a shorter one has a reachable owner (config/tinc.md section
    /// 6.2).
    fn tables(&self) -> (Table<u32>, Table<u128>) {
        let mut best: BTreeMap<Prefix, (bool, i32, Owner)> = BTreeMap::new();
        for (idx, node) in self.nodes.iter() {
            for subnet in ip_subnets(node) {
                let reachable = node.reachability.reachable || idx == Nodes::ME;
                let owner = if reachable {
                    Owner::Node(idx.slot())
                } else {
                    Owner::Unreachable(idx.slot())
                };
                let entry = (reachable, subnet.weight, owner);
                best.entry(subnet.prefix.masked())
                    .and_modify(|old| {
                        // Nodes come in order of names, so equal weights stay with the first node.
                        if reachable && (!old.0 || subnet.weight < old.1) {
                            *old = entry;
                        }
                    })
                    .or_insert(entry);
            }
        }
        for prefix in self.broadcast_prefixes() {
            best.entry(prefix).or_insert((true, 0, Owner::Broadcast));
        }
        let covered = |prefix: &Prefix| {
            let (ip, len) = match *prefix {
                Prefix::V4(ip, len) => (IpAddr::V4(ip), len),
                Prefix::V6(ip, len) => (IpAddr::V6(ip), len),
                Prefix::Mac(_) => return false,
            };
            (0..len).any(|len| {
                best.get(&Prefix::network(ip, len))
                    .is_some_and(|entry| entry.0)
            })
        };
        let kept = best
            .iter()
            .filter(|(prefix, entry)| entry.0 || !covered(prefix));
        lpm::tables(kept.map(|(prefix, (_, _, owner))| (*prefix, *owner)))
    }

    /// Ownerless subnets: the built-in ones and those of BroadcastSubnet.
    pub(super) fn broadcast_prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let extra = self.settings.broadcast_subnets.iter();
        BROADCASTS
            .into_iter()
            .chain(extra.map(|subnet| subnet.prefix.masked()))
    }

    /// Returns every subnet that contains an address, in lookup order.
    pub(super) fn matching(&self, ip: IpAddr) -> Vec<(Subnet, NodeIdx)> {
        let ip = ip.to_canonical();
        let mut found: Vec<(Subnet, NodeIdx)> = self
            .nodes
            .iter()
            .flat_map(|(idx, node)| node.subnets.iter().map(move |subnet| (*subnet, idx)))
            .filter(|(subnet, _)| subnet.prefix.contains(ip))
            .collect();
        found.sort_by_key(|(subnet, _)| *subnet); // stable: owners stay in order of names
        found
    }
}

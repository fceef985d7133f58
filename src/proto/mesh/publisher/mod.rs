//! From the control plane's tables to the workers: node states and snapshots.
//!
//! Snapshots are published every 10 ms and 0.25 ms a node on average, with a burst of a few. Source: wire/tinc-1.0.md
//! section 2.8, proto/design.md section 2.4.

pub(in crate::mesh) mod tables;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    mesh::{
        Mesh, Output, Timer,
        topology::{
            node::{Node, Nodes},
            pace::Pace,
            per_node::PerNode,
        },
    },
    route::{
        MTU, NodeIdx, NodeSlot, NodeState, RouteSnapshot,
        broadcast::{Recipients, recipients},
        source::Claims,
    },
};

/// Mean time between two publications under constant change in a small mesh.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// Time that each node adds to [`PUBLISH_EVERY`].
const PUBLISH_PER_NODE: Duration = Duration::from_micros(250);
/// Longest mean time between two publications.
const PUBLISH_LONGEST: Duration = Duration::from_millis(500);
/// Time by which publications may run ahead of that mean. A node that comes up causes five changes
/// within 3 ms, and none of them should wait.
const PUBLISH_AHEAD: Duration = Duration::from_millis(80);

/// The snapshot of the workers, and when the next one is due.
pub(in crate::mesh) struct Publisher {
    snapshot: Arc<RouteSnapshot>,
    /// Times of publications.
    pace: Pace,
    /// True if the tables have changed since the last publication.
    dirty: bool,
    /// True for each node whose id another node keeps: the operator was told.
    collides: PerNode<bool>,
}

impl Publisher {
    pub(in crate::mesh) fn new(snapshot: RouteSnapshot, now: Instant) -> Self {
        Self {
            snapshot: Arc::new(snapshot),
            pace: Pace::new(PUBLISH_AHEAD, now),
            dirty: true,
            collides: PerNode::default(),
        }
    }

    /// Requests a publication.
    pub(in crate::mesh) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Returns the snapshot published last.
    pub(in crate::mesh) fn snapshot(&self) -> &Arc<RouteSnapshot> {
        &self.snapshot
    }

    /// Returns the time of the next publication; `None` if nothing has changed. The time may be
    /// past.
    fn due(&self) -> Option<Instant> {
        self.dirty.then(|| self.pace.due())
    }

    /// Puts a snapshot in force, and counts it.
    fn replace(&mut self, snapshot: RouteSnapshot, now: Instant) -> Arc<RouteSnapshot> {
        self.dirty = false;
        let slots = u32::try_from(snapshot.nodes.len()).unwrap_or(u32::MAX);
        let interval = PUBLISH_EVERY + PUBLISH_PER_NODE.saturating_mul(slots);
        self.pace.spend(interval.min(PUBLISH_LONGEST), now);
        self.snapshot = Arc::new(snapshot);
        Arc::clone(&self.snapshot)
    }

    /// Forgets a node that is removed.
    pub(in crate::mesh) fn forget_node(&mut self, idx: NodeIdx) {
        self.collides.remove(idx);
    }
}

impl Mesh {
    /// Recomputes paths if edges changed, and publishes if the time has come.
    pub(in crate::mesh) fn settle(&mut self, now: Instant) {
        self.settle_graph(now);
        if !self.graph.is_dirty() {
            for (link, line) in self.gossip.take_deferred() {
                self.handle_line(link, &line, now);
            }
        }
        self.close_misbehaved(now);
        match self.publisher.due() {
            Some(due) if due <= now => self.publish(now),
            Some(due) => self.cx.arm(due, Timer::Publish, Nodes::ME),
            None => {}
        }
    }

    /// Updates a node's state for the workers and marks the address tables for publication.
    pub(in crate::mesh) fn mark_state(&mut self, idx: NodeIdx) {
        self.update_state(idx);
        self.publisher.mark_dirty();
    }

    /// Gives the workers the node's current keys and path.
    pub(in crate::mesh) fn update_state(&self, idx: NodeIdx) {
        let node = &self.nodes[idx];
        node.shared.state.store(Arc::new(self.state_of(node)));
    }

    fn state_of(&self, node: &Node) -> NodeState {
        let reachability = &node.reachability;
        let udp = &self.paths[node.shared.idx];
        let pmtu_wanted = reachability
            .options
            .has(meshd_wire::Options::PMTU_DISCOVERY);
        let (min_mtu, mtu) = match (udp.confirmed, pmtu_wanted) {
            (false, _) => (0, udp.hinted_mtu.longest()),
            (true, true) => (udp.pmtu.min, udp.pmtu.mtu()),
            (true, false) => (MTU, MTU),
        };
        let cap = self.pmtu_cap(node);
        let keys = &self.sessions[node.shared.idx];
        NodeState {
            reachable: reachability.reachable || node.shared.idx == Nodes::ME,
            neighbour: node.link.is_some(),
            dialect: self.packet_dialect(node).unwrap_or(reachability.dialect),
            options: if node.shared.idx == Nodes::ME {
                self.cx.settings.options
            } else {
                reachability.options
            },
            nexthop: reachability.nexthop.slot(),
            via: reachability.via.slot(),
            udp: udp.addr.filter(|_| udp.confirmed),
            min_mtu,
            mtu: mtu.min(cap),
            tx: keys.tx(),
            paused: keys.is_paused(),
            rx: keys.rx(),
        }
    }

    /// Upper bound of a neighbour's MTU from the PMTU variable, until discovery has fixed the MTU.
    fn pmtu_cap(&self, node: &Node) -> u16 {
        if node.link.is_none() || self.paths[node.shared.idx].pmtu.fixed {
            return MTU;
        }
        let host = self
            .cx
            .settings
            .hosts
            .get(node.name())
            .and_then(|host| host.pmtu);
        [host, self.cx.settings.pmtu]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(MTU)
    }

    /// Returns a snapshot of the current tables, and publishes it if it is new.
    pub(in crate::mesh) fn fresh_snapshot(&mut self) -> Arc<RouteSnapshot> {
        if self.publisher.dirty {
            self.publish(self.cx.now);
        }
        self.publisher.snapshot.clone()
    }

    fn publish(&mut self, now: Instant) {
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
                _ => u8::from(self.cx.settings.hosts.contains_key(self.nodes[idx].name())),
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
            if let Some(addr) = self.paths[node.shared.idx]
                .addr
                .filter(|_| self.paths[node.shared.idx].confirmed && node.reachability.reachable)
            {
                by_addr.insert(addr, slot);
            }
        }
        self.tell_collisions(losers);
        let by_id = by_id.into_iter().map(|(id, idx)| (id, idx.slot()));
        let snapshot = RouteSnapshot {
            generation: self.publisher.snapshot.generation + 1,
            settings: self.cx.settings.route.clone(),
            me: Nodes::ME.slot(),
            nodes,
            v4,
            v6,
            macs: self.mac_table(),
            by_id: by_id.collect(),
            by_addr,
            broadcast: self.broadcast_nodes(),
            sources,
            recent: self.publisher.snapshot.recent.clone(),
            listed: self.subnets.listed_sources(),
        };
        let snapshot = self.publisher.replace(snapshot, now);
        self.cx.emit(Output::Publish(snapshot));
    }

    /// Warns once about each node whose id another node keeps: no packet finds it by its id.
    fn tell_collisions(&mut self, losers: Vec<(NodeIdx, NodeIdx)>) {
        for (loser, winner) in losers {
            if !std::mem::replace(&mut self.publisher.collides[loser], true) {
                tracing::warn!(node = %self.nodes[loser].name(), with = %self.nodes[winner].name(), "has the id of another node, which keeps it: packets by relays do not reach it; rename it");
            }
        }
    }

    /// Returns the nodes that broadcasts of our device are sent to.
    fn broadcast_nodes(&self) -> Vec<NodeSlot> {
        let linked = |idx: &NodeIdx| self.nodes.get(*idx).is_some_and(|node| node.link.is_some());
        let nodes = match recipients(&self.cx.settings.route, true) {
            Recipients::Nobody => Vec::new(),
            Recipients::Tree => {
                let tree = self.graph.tree().iter().copied();
                tree.filter(linked).collect()
            }
            Recipients::Direct => self.direct_nodes(),
        };
        nodes.into_iter().map(NodeIdx::slot).collect()
    }

    /// Returns the nodes that we reach directly.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mesh::testing, route::testing as tables};

    /// Publications of a mesh that changes all the time: a burst, then one in 10 ms.
    #[test]
    fn publications_keep_to_their_mean() {
        let start = testing::start();
        let mut publisher = Publisher::new(tables::snapshot([], []), start);
        let mut times = Vec::new();
        for ms in 0..1_000 {
            let now = start + Duration::from_millis(ms);
            publisher.mark_dirty();
            if publisher.due().is_some_and(|due| due <= now) {
                publisher.replace(tables::snapshot([], []), now);
                times.push(ms);
            }
        }
        assert_eq!(times[..9], [0, 1, 2, 3, 4, 5, 6, 7, 8], "a burst");
        assert!((100..=110).contains(&times.len()), "{}", times.len());
        assert!(publisher.due().is_some());
        publisher.replace(tables::snapshot([], []), start);
        assert_eq!(publisher.due(), None, "nothing has changed");
    }
}

//! Known nodes: the identity, edges and reachability of each one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::{Bound, Index, IndexMut},
    sync::Arc,
    time::Instant,
};

use slotmap::SlotMap;

use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    dialect::Dialect,
    mesh::{LinkId, gossip::belief::Evidence, topology::edge::Edge},
    route::{self, NodeIdx, NodeShared, NodeSlot, NodeState},
};

/// One known node.
pub(in crate::mesh) struct Node {
    /// State of the node that the packet threads share.
    pub shared: Arc<NodeShared>,
    /// Outgoing edges, by the name of the other end.
    pub edges: BTreeMap<NodeName, Edge>,
    /// Number of edges that lead to the node.
    pub incoming: usize,
    /// Subnets that the node owns.
    pub subnets: BTreeSet<Subnet>,
    /// Our link to the node, if it is a neighbour.
    pub link: Option<LinkId>,
    /// The result of the last graph pass.
    pub reachability: Reachability,
    /// Nodes on shortest paths to the node, in order of slots; empty if no node speaks legacy.
    pub carriers: Arc<[NodeSlot]>,
    /// Time at which `reachability.reachable` last changed.
    pub since: Option<Instant>,
    /// Time at which the node was added or last became unreachable, for forgetting it.
    pub idle_since: Instant,
    /// Names without a host file that the node introduced, over all its links.
    pub introduced: usize,
    /// The node that introduced this one, if this one has no host file.
    pub introduced_by: Option<NodeIdx>,
    /// Evidence from the node about statements of others about it.
    pub evidence: Evidence,
}

/// Reachability of a node in the graph. Source: wire/tinc-1.0.md section 2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) struct Reachability {
    /// True if there is a path in both directions.
    pub reachable: bool,
    /// True if every path to the node has an IndirectData edge.
    pub indirect: bool,
    /// Hops; -1 if unreachable.
    pub distance: i32,
    /// The neighbour that lines for the node are sent to.
    pub nexthop: NodeIdx,
    /// The node that UDP for the node is sent to.
    pub via: NodeIdx,
    /// The last node on the path, the target included, that we know by a link or a host file.
    pub vouched: NodeIdx,
    /// The least dialect that the node may be sent packets in.
    pub dialect: Dialect,
    /// Options of the last edge of the path, as far as they are accepted.
    pub options: Options,
    /// Address in the last edge of the path.
    pub address: Option<SocketAddr>,
}

impl Reachability {
    pub(in crate::mesh) fn nowhere(me: NodeIdx) -> Self {
        Self {
            reachable: false,
            indirect: false,
            distance: -1,
            nexthop: me,
            via: me,
            vouched: me,
            dialect: Dialect::Sptps,
            options: Options(0),
            address: None,
        }
    }
}

impl Node {
    fn new(idx: NodeIdx, name: NodeName, me: NodeIdx, now: Instant) -> Self {
        let state = NodeState {
            reachable: false,
            neighbour: false,
            dialect: Dialect::Sptps,
            options: Options(0),
            nexthop: me.slot(),
            via: me.slot(),
            udp: None,
            min_mtu: 0,
            mtu: route::MTU,
            tx: None,
            paused: false,
            rx: Vec::new(),
        };
        let shared = NodeShared::new(idx, name, state);
        Self {
            shared: Arc::new(shared),
            edges: BTreeMap::new(),
            incoming: 0,
            subnets: BTreeSet::new(),
            link: None,
            reachability: Reachability::nowhere(me),
            carriers: Arc::default(),
            since: None,
            idle_since: now,
            introduced: 0,
            introduced_by: None,
            evidence: Evidence::default(),
        }
    }

    pub(in crate::mesh) fn name(&self) -> &NodeName {
        &self.shared.name
    }

    /// Protocol minor of the node in its last edge; 0 if the node has no SPTPS or is unreachable.
    pub(in crate::mesh) fn minor(&self) -> u8 {
        self.reachability.options.minor()
    }
}

/// All nodes by name and by index. The index of a forgotten node finds no node.
pub(in crate::mesh) struct Nodes {
    slots: SlotMap<NodeIdx, Box<Node>>,
    /// One more than the largest slot that a node has had.
    slot_count: usize,
    by_name: BTreeMap<NodeName, NodeIdx>,
    /// Number of edges of all nodes.
    pub edge_count: usize,
    /// Number of edges inserted and removed so far.
    pub changes: u64,
    /// Sum of [`Edge::words`] over all edges.
    pub edge_words: usize,
}

impl Nodes {
    /// Index of this node.
    pub(in crate::mesh) const ME: NodeIdx = NodeIdx::FIRST;

    pub(in crate::mesh) fn new(me: NodeName, now: Instant) -> Self {
        let mut nodes = Self {
            slots: SlotMap::with_key(),
            slot_count: 0,
            by_name: BTreeMap::new(),
            edge_count: 0,
            changes: 0,
            edge_words: 0,
        };
        nodes.add(me, now);
        nodes
    }

    pub(in crate::mesh) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Length of a vector that has a place for every node's slot. It grows to the largest number of
    /// nodes known at once.
    pub(in crate::mesh) fn slot_count(&self) -> usize {
        self.slot_count
    }

    pub(in crate::mesh) fn find(&self, name: &NodeName) -> Option<NodeIdx> {
        self.by_name.get(name).copied()
    }

    pub(in crate::mesh) fn get(&self, idx: NodeIdx) -> Option<&Node> {
        Some(self.slots.get(idx)?)
    }

    pub(in crate::mesh) fn get_mut(&mut self, idx: NodeIdx) -> Option<&mut Node> {
        Some(self.slots.get_mut(idx)?)
    }

    /// Returns the index of `name`, and adds a node if none has this name. The caller checks
    /// limits.
    pub(in crate::mesh) fn add(&mut self, name: NodeName, now: Instant) -> NodeIdx {
        if let Some(idx) = self.find(&name) {
            return idx;
        }
        let new = |idx| Box::new(Node::new(idx, name.clone(), Self::ME, now));
        let idx = self.slots.insert_with_key(new);
        self.slot_count = self.slot_count.max(idx.slot().0 as usize + 1);
        self.by_name.insert(name, idx);
        idx
    }

    /// Removes a node that has no edges and no link.
    pub(in crate::mesh) fn remove(&mut self, idx: NodeIdx) {
        let Some(node) = self.slots.remove(idx) else {
            return;
        };
        debug_assert!(node.edges.is_empty() && node.incoming == 0 && node.link.is_none());
        self.by_name.remove(node.name());
        if let Some(introducer) = node.introduced_by.and_then(|idx| self.get_mut(idx)) {
            introducer.introduced -= 1;
        }
    }

    /// Returns the next name after `name` in order, or the first name after `None`.
    pub(in crate::mesh) fn after(&self, name: Option<&NodeName>) -> Option<NodeName> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.by_name.range::<NodeName, _>((from, Bound::Unbounded));
        rest.next().map(|(name, _)| name.clone())
    }

    /// Indices in order of names, the order of every pass of the protocol.
    pub(in crate::mesh) fn by_name(&self) -> impl DoubleEndedIterator<Item = NodeIdx> + '_ {
        self.by_name.values().copied()
    }

    /// Nodes in order of names.
    pub(in crate::mesh) fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeIdx, &Node)> + '_ {
        self.by_name().map(|idx| (idx, &self[idx]))
    }

    /// Inserts an edge and returns the edge that it replaces.
    pub(in crate::mesh) fn insert_edge(
        &mut self,
        from: NodeIdx,
        to: NodeIdx,
        edge: Edge,
    ) -> Option<Edge> {
        let name = self[to].name().clone();
        self.edge_words += edge.words();
        let old = self[from].edges.insert(name, edge);
        self.edge_words -= old.as_ref().map_or(0, Edge::words);
        if old.is_none() {
            self[to].incoming += 1;
            self.edge_count += 1;
            self.changes += 1;
        }
        old
    }

    /// Removes an edge and returns it.
    pub(in crate::mesh) fn remove_edge(&mut self, from: NodeIdx, to: NodeIdx) -> Option<Edge> {
        let name = self[to].name().clone();
        let old = self[from].edges.remove(&name);
        self.edge_words -= old.as_ref().map_or(0, Edge::words);
        if old.is_some() {
            self[to].incoming -= 1;
            self.edge_count -= 1;
            self.changes += 1;
        }
        old
    }

    pub(in crate::mesh) fn edge(&self, from: NodeIdx, to: NodeIdx) -> Option<&Edge> {
        self[from].edges.get(self[to].name())
    }
}

/// For indices of nodes known to exist: ends of edges, nexthops, links.
impl Index<NodeIdx> for Nodes {
    type Output = Node;

    fn index(&self, idx: NodeIdx) -> &Node {
        self.get(idx).expect("a live node's index")
    }
}

impl IndexMut<NodeIdx> for Nodes {
    fn index_mut(&mut self, idx: NodeIdx) -> &mut Node {
        self.get_mut(idx).expect("a live node's index")
    }
}

#[cfg(test)]
mod tests;

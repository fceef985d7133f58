//! Nodes: who is known, and everything that belongs to one of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    ops::{Bound, Index, IndexMut},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use meshd_crypto::PublicKey;
use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    mesh::{
        LinkId, belief::Evidence, budget::Budget, dial::Missed, downgrade::Spoke, edge::Edge,
        keys::Keys, limits::Bucket, measure::Measured, peers::Unclaimed, policy::Refused,
        sight::Unproven, sources::Dropped, udp::UdpState,
    },
    route::{self, NodeIdx, NodeShared, NodeState},
};

/// One known node.
pub(super) struct Node {
    /// What the packet threads see of it.
    pub shared: Arc<NodeShared>,
    /// Its outgoing edges by the name of the other end.
    pub edges: BTreeMap<NodeName, Edge>,
    /// How many edges of others lead to it.
    pub incoming: usize,
    /// What it owns.
    pub subnets: BTreeSet<Subnet>,
    /// How many of its subnets no file of ours lists.
    pub unlisted: usize,
    /// Our link to it, if it is a neighbour.
    pub link: Option<LinkId>,
    /// The result of the last graph pass.
    pub place: Place,
    /// The nodes on shortest paths to it, in order of indices; none where nobody speaks legacy.
    pub carriers: Arc<[NodeIdx]>,
    /// When `place.reachable` last changed.
    pub since: Option<Instant>,
    /// When it was made, or last became unreachable: for forgetting.
    pub idle_since: Instant,
    /// What it has spoken with us, also before it became unreachable.
    pub spoke: Spoke,
    /// Tunnel keys and their making.
    pub keys: Keys,
    /// UDP address, probes, path MTU.
    pub udp: UdpState,
    /// What is measured of it.
    pub measured: Measured,
    /// Packets that wait for a key.
    pub waiting: VecDeque<Bytes>,
    /// What of it was not said again since its link came up.
    pub unclaimed: Unclaimed,
    /// Names without a host file that it introduced, over all its links.
    pub introduced: usize,
    /// Who introduced it, if it has no host file.
    pub introduced_by: Option<NodeIdx>,
    /// Whether its id is another node's: told to the operator.
    pub collides: bool,
    /// Why the last attempt to dial it failed.
    pub dial_error: Option<Missed>,
    /// Who last came under its name without proof.
    pub unproven: Option<Unproven>,
    /// Questions of it that we may answer.
    pub questions: Option<Bucket>,
    /// How it stands against what others say of it.
    pub evidence: Evidence,
    /// What it announces and we do not believe.
    pub refused: Refused,
    /// Packets of it that SourceCheck has dropped.
    pub dropped: Dropped,
    /// Budgets of what is said of it and what it says.
    pub budget: Option<Box<Budget>>,
    /// What it says is its Ed25519 key, where its host file has none.
    pub told_key: Option<PublicKey>,
}

/// Where the graph puts a node. Source: wire/tinc-1.0.md section 2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Whether there is a path in both directions.
    pub reachable: bool,
    /// Whether every path to it has an IndirectData edge.
    pub indirect: bool,
    /// Hops; -1 if unreachable.
    pub distance: i32,
    /// The neighbour that carries lines for it.
    pub nexthop: NodeIdx,
    /// The node that UDP for it is sent to.
    pub via: NodeIdx,
    /// The last node on the path to it, itself included, that we know by a link or a host file.
    pub vouched: NodeIdx,
    /// Whether we speak legacy with it.
    pub legacy: bool,
    /// Options of the last edge of the path, as far as they are believed.
    pub options: Options,
    /// Address in the last edge of the path.
    pub address: Option<SocketAddr>,
}

impl Place {
    pub(super) fn nowhere(me: NodeIdx) -> Self {
        Self {
            reachable: false,
            indirect: false,
            distance: -1,
            nexthop: me,
            via: me,
            vouched: me,
            legacy: false,
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
            legacy: false,
            options: Options(0),
            nexthop: me,
            via: me,
            udp: None,
            min_mtu: 0,
            mtu: route::MTU,
            tx: None,
            resting: false,
            rx: Vec::new(),
        };
        let shared = NodeShared::new(idx, name, state);
        Self {
            shared: Arc::new(shared),
            edges: BTreeMap::new(),
            incoming: 0,
            subnets: BTreeSet::new(),
            unlisted: 0,
            link: None,
            place: Place::nowhere(me),
            carriers: Arc::default(),
            since: None,
            idle_since: now,
            spoke: Spoke::default(),
            measured: Measured::default(),
            keys: Keys::default(),
            udp: UdpState::default(),
            waiting: VecDeque::new(),
            unclaimed: Unclaimed::default(),
            introduced: 0,
            introduced_by: None,
            collides: false,
            dial_error: None,
            unproven: None,
            questions: None,
            evidence: Evidence::default(),
            refused: Refused::default(),
            dropped: Dropped::default(),
            budget: None,
            told_key: None,
        }
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.shared.name
    }

    /// Protocol minor of the node by its last edge; 0 if it does no SPTPS or is unreachable.
    pub(super) fn minor(&self) -> u8 {
        self.place.options.minor()
    }

    /// Whether the node does SPTPS, by its last edge.
    pub(super) fn has_sptps(&self) -> bool {
        self.minor() >= 2
    }
}

/// All nodes by name and by index. An index is never used twice, so that a stale one leads nowhere.
pub(super) struct Nodes {
    slots: Vec<Option<Box<Node>>>,
    by_name: BTreeMap<NodeName, NodeIdx>,
    /// Number of edges of all nodes.
    pub edge_count: usize,
    /// How many edges came and went so far.
    pub changes: u64,
    /// Sum of [`Edge::words`] over all edges.
    pub edge_words: usize,
}

impl Nodes {
    /// Our own index.
    pub(super) const ME: NodeIdx = NodeIdx(0);

    pub(super) fn new(me: NodeName, now: Instant) -> Self {
        let mut nodes = Self {
            slots: Vec::new(),
            by_name: BTreeMap::new(),
            edge_count: 0,
            changes: 0,
            edge_words: 0,
        };
        nodes.add(me, now);
        nodes
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, name: &NodeName) -> Option<NodeIdx> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, idx: NodeIdx) -> Option<&Node> {
        self.slots.get(idx.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, idx: NodeIdx) -> Option<&mut Node> {
        self.slots.get_mut(idx.0 as usize)?.as_deref_mut()
    }

    /// The index of `name`, which is made a node if it is none. The caller checks limits.
    pub(super) fn add(&mut self, name: NodeName, now: Instant) -> NodeIdx {
        if let Some(idx) = self.find(&name) {
            return idx;
        }
        let idx = NodeIdx(u32::try_from(self.slots.len()).expect("fewer than 2^32 nodes ever"));
        let node = Node::new(idx, name.clone(), Self::ME, now);
        self.slots.push(Some(Box::new(node)));
        self.by_name.insert(name, idx);
        idx
    }

    /// Forgets a node to which nothing leads any more.
    pub(super) fn remove(&mut self, idx: NodeIdx) {
        let Some(node) = self.slots[idx.0 as usize].take() else {
            return;
        };
        debug_assert!(node.edges.is_empty() && node.incoming == 0 && node.link.is_none());
        self.by_name.remove(node.name());
        if let Some(introducer) = node.introduced_by.and_then(|idx| self.get_mut(idx)) {
            introducer.introduced -= 1;
        }
    }

    /// The name that follows another in order; the first one after `None`.
    pub(super) fn after(&self, name: Option<&NodeName>) -> Option<NodeName> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.by_name.range::<NodeName, _>((from, Bound::Unbounded));
        rest.next().map(|(name, _)| name.clone())
    }

    /// Indices in order of names, as every pass of the protocol goes.
    pub(super) fn by_name(&self) -> impl DoubleEndedIterator<Item = NodeIdx> + '_ {
        self.by_name.values().copied()
    }

    /// Nodes in order of names.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeIdx, &Node)> + '_ {
        self.by_name().map(|idx| (idx, &self[idx]))
    }

    /// Puts an edge into the graph; returns the one that it replaces.
    pub(super) fn insert_edge(&mut self, from: NodeIdx, to: NodeIdx, edge: Edge) -> Option<Edge> {
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

    /// Takes an edge out of the graph.
    pub(super) fn remove_edge(&mut self, from: NodeIdx, to: NodeIdx) -> Option<Edge> {
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

    pub(super) fn edge(&self, from: NodeIdx, to: NodeIdx) -> Option<&Edge> {
        self[from].edges.get(self[to].name())
    }
}

/// For indices that are known to be alive: ends of edges, next hops, links.
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

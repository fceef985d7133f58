//! Evidence that a node is alive, and lines of others that deny it. The table of what such lines may
//! end is in [`crate::mesh::gossip::law`]. "Alive" means that a packet or a probe has opened in the
//! node's tunnel within [`ALIVE`].
//!
//! A neighbour's word about its own edges takes effect at once. So a node two hops away becomes
//! unreachable when the neighbour on the path deletes the edge. A node farther away is probed four
//! times a second while its reachability is in doubt. Such a node becomes unreachable within about
//! a second of its last answer, or, without UDP, [`ALIVE`] after its last packet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meshd_wire::{Request, Subnet};

use crate::{
    mesh::{
        LinkId, Mesh, Timer,
        gossip::{
            law::{Ends, GRACE, Speaker},
            path_hold::PendingPath,
        },
        limits::MAX_DENIED,
        topology::{
            edge::Edge,
            graph,
            node::{Node, Nodes},
        },
        total,
    },
    route::NodeIdx,
};

/// Time after its last opened packet or probe for which a tunnel counts as alive.
const ALIVE: Duration = Duration::from_secs(3);
/// Value of [`ALIVE`] while a node in doubt is probed by UDP.
const PROBED: Duration = Duration::from_secs(1);
/// Interval of probes to nodes in doubt, and of the doubt timer.
const PACE: Duration = Duration::from_millis(250);

/// Edges by their ends.
pub(in crate::mesh) type Edges = BTreeMap<(NodeIdx, NodeIdx), Edge>;

/// Edges that hearsay has deleted lately, and the time of the doubt timer.
#[derive(Debug, Default)]
pub(in crate::mesh) struct DeniedEdges {
    edges: BTreeMap<(NodeIdx, NodeIdx), (Edge, Instant)>,
    due: Option<Instant>,
}

impl DeniedEdges {
    fn since(&self, at: Option<Instant>) -> Edges {
        let edges = self.edges.iter();
        let young = edges.filter(|(_, (_, denied))| at.is_none_or(|at| *denied > at));
        young
            .map(|(ends, (edge, _))| (*ends, edge.clone()))
            .collect()
    }

    /// Forgets an edge that was added again, or that its owner has deleted.
    pub(in crate::mesh) fn forget(&mut self, from: NodeIdx, to: NodeIdx) {
        self.edges.remove(&(from, to));
    }

    /// Forgets edges that only nodes that are alive may still use.
    fn forget_old(&mut self, now: Instant) {
        let young = |at: Instant| now.saturating_duration_since(at) < GRACE;
        self.edges.retain(|_, (_, at)| young(*at));
    }

    /// Forgets the edges of a node that is removed.
    pub(in crate::mesh) fn forget_node(&mut self, node: NodeIdx) {
        self.edges
            .retain(|(from, to), _| *from != node && *to != node);
    }
}

/// Evidence that a node exists, in addition to the lines of others.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Evidence {
    /// Number of packets from the node at the last count, and the time of its last change.
    packets: u64,
    packet_at: Option<Instant>,
    /// Time since which the node is reachable by denied edges only.
    doubted: Option<Instant>,
    /// End of a doubt, until there is newer evidence: the node may have restarted. True if a
    /// handshake was started.
    returned: Option<(Instant, bool)>,
    /// Options and path in the graph that do not take effect yet.
    pub(in crate::mesh) pending_path: Option<PendingPath>,
    /// Subnets that hearsay has withdrawn, with the time. Such subnets are still in the node's
    /// table.
    pub(in crate::mesh) withdrawn: BTreeMap<Subnet, Instant>,
}

impl Node {
    /// Returns true if the node is reachable by denied edges only.
    pub(in crate::mesh) fn is_doubted(&self) -> bool {
        self.evidence.doubted.is_some()
    }
}

impl Mesh {
    /// Returns the speaker of a request over a link.
    pub(in crate::mesh) fn speaker(&self, link: LinkId, request: &Request) -> Speaker {
        let Some(peer) = self.active(link) else {
            return Speaker::Stranger;
        };
        let sender = request.ends().map(|(from, _)| from);
        let Some(subject) = request.subject().or(sender) else {
            return Speaker::Itself;
        };
        let Some(idx) = self.nodes.find(subject) else {
            return Speaker::Anybody;
        };
        if idx == Nodes::ME {
            Speaker::OfUs
        } else if idx == peer.node {
            Speaker::Itself
        } else if self.nodes[idx].link.is_some() {
            match sender.is_some() && self.is_new_neighbour(idx) {
                true => Speaker::Itself,
                false => Speaker::Aside,
            }
        } else if self.nodes.edge(peer.node, idx).is_some()
            && self.nodes.edge(idx, peer.node).is_some()
        {
            Speaker::Neighbour
        } else {
            Speaker::Anybody
        }
    }

    /// Removes an edge from the graph, and remembers the edge if the line is hearsay.
    pub(in crate::mesh) fn deny_edge(
        &mut self,
        (from, to): (NodeIdx, NodeIdx),
        ends: Ends,
        now: Instant,
    ) {
        let back = (to, from);
        let counted =
            self.nodes.edge(to, from).is_some() || self.gossip.denied.edges.contains_key(&back);
        let Some(edge) = self.nodes.remove_edge(from, to) else {
            return;
        };
        if ends == Ends::AtOnce || !counted {
            return;
        }
        if self.gossip.denied.edges.len() >= MAX_DENIED {
            self.gossip.denied.forget_old(now);
        }
        if self.gossip.denied.edges.len() < MAX_DENIED {
            self.gossip.denied.edges.insert((from, to), (edge, now));
            self.arm_doubt_timer(now);
        }
    }

    /// Counts a completed handshake as evidence.
    pub(in crate::mesh) fn note_session(&mut self, idx: NodeIdx) {
        self.nodes[idx].evidence.packet_at = Some(self.cx.now);
    }

    /// Counts the node's packets. Call it once a second: the time of the last packet has this
    /// precision.
    pub(in crate::mesh) fn count_packets(&mut self, idx: NodeIdx, now: Instant) {
        let node = &mut self.nodes[idx];
        let packets = total(&node.shared.counters.rx_packets);
        if packets != node.evidence.packets {
            node.evidence.packets = packets;
            node.evidence.packet_at = Some(now);
        }
    }

    /// Time of the last packet, probe or completed handshake; `None` without a session.
    fn last_evidence(&mut self, idx: NodeIdx, now: Instant) -> Option<Instant> {
        self.count_packets(idx, now);
        let node = &self.nodes[idx];
        let udp = &self.paths[idx];
        let last = [
            node.evidence.packet_at,
            udp.probes.last_answer,
            udp.heard.at,
        ];
        let last = last.into_iter().flatten().max();
        last.filter(|_| self.sessions[idx].is_established())
    }

    /// Returns true if the node's tunnel is alive. See the module's table.
    pub(in crate::mesh) fn is_tunnel_alive(&mut self, idx: NodeIdx, now: Instant) -> bool {
        let last = self.last_evidence(idx, now);
        let node = &self.nodes[idx];
        let since = |at: Instant| now.saturating_duration_since(at);
        let probed = node.evidence.doubted.is_some_and(|at| since(at) >= PROBED);
        let patience = match self.paths[idx].confirmed && probed {
            true => PROBED,
            false => ALIVE,
        };
        last.is_some_and(|at| since(at) < patience)
    }

    /// Adds places via denied edges for nodes that would become unreachable without these edges.
    pub(in crate::mesh) fn keep_doubted_nodes(&mut self, places: &mut graph::Places, now: Instant) {
        let mut lost = Vec::new();
        for idx in self.nodes.by_name().collect::<Vec<_>>() {
            let node = &mut self.nodes[idx];
            if !places.contains_key(idx) && node.reachability.reachable && idx != Nodes::ME {
                lost.push(idx);
            } else if node.evidence.doubted.take().is_some() && places.contains_key(idx) {
                node.evidence.returned.get_or_insert((now, false));
            }
        }
        if lost.is_empty() {
            return;
        }
        let young = graph::places(
            &self.nodes,
            &self.gossip.denied.since(now.checked_sub(GRACE)),
        );
        let mut all = None;
        for idx in lost {
            let mut kept = young.get(idx).copied();
            if kept.is_none() && self.is_tunnel_alive(idx, now) {
                let all = all.get_or_insert_with(|| {
                    graph::places(&self.nodes, &self.gossip.denied.since(None))
                });
                kept = all.get(idx).copied();
            }
            let Some(reachability) = kept else {
                let evidence = &mut self.nodes[idx].evidence;
                (evidence.doubted, evidence.returned) = (None, None);
                continue;
            };
            places.insert(idx, reachability);
            self.count_packets(idx, now);
            if self.nodes[idx].evidence.doubted.is_none() {
                self.nodes[idx].evidence.doubted = Some(now);
                self.challenge(idx, now);
            }
            self.arm_doubt_timer(now);
        }
    }

    /// Schedules the doubt timer.
    pub(in crate::mesh) fn arm_doubt_timer(&mut self, now: Instant) {
        if self.gossip.denied.due.is_none() {
            let due = now + PACE;
            self.gossip.denied.due = Some(due);
            self.cx.arm(due, Timer::Doubts, Nodes::ME);
        }
    }

    /// Decides doubts by time and silence, four times a second while there are doubts.
    pub(in crate::mesh) fn doubt_timer(&mut self, now: Instant) {
        self.gossip.denied.due = None;
        let mut again = self.settle_doubts(now);
        let mut doubted = false;
        for idx in self.nodes.by_name().collect::<Vec<_>>() {
            if self.nodes[idx].is_doubted() {
                (again, doubted) = (true, true);
                self.challenge(idx, now);
                if !self.is_tunnel_alive(idx, now) {
                    self.graph.mark_dirty();
                }
            }
            again |= self.check_restart(idx, now);
            again |= self.settle_pending_path(idx, now);
            again |= self.settle_withdrawn(idx, now);
        }
        if !doubted {
            self.gossip.denied.forget_old(now);
        }
        if again || !self.gossip.denied.edges.is_empty() {
            self.arm_doubt_timer(now);
        }
    }

    /// Handles a node that hearsay has deleted and that has come back. The session is void if the
    /// node has restarted. So the node is probed, then a handshake starts beside the session, then
    /// the session is dropped. Returns false if nothing is left to do.
    fn check_restart(&mut self, idx: NodeIdx, now: Instant) -> bool {
        let Some((since, asked)) = self.nodes[idx].evidence.returned else {
            return false;
        };
        let heard = self.last_evidence(idx, now).is_some_and(|at| at > since);
        let keyed = self.sessions[idx].is_established();
        let silent = now.saturating_duration_since(since);
        if heard || !keyed || silent >= ALIVE {
            self.nodes[idx].evidence.returned = None;
            if keyed && !heard {
                self.start_anew(idx, now);
            }
            return false;
        }
        self.challenge(idx, now);
        if silent >= PROBED / 2 && !asked {
            self.nodes[idx].evidence.returned = Some((since, true));
            self.start_handshake(idx, now);
        }
        true
    }

    /// Probes a node in doubt, if it has a confirmed address.
    fn challenge(&mut self, idx: NodeIdx, now: Instant) {
        let udp = &self.paths[idx];
        let recent = |at: Instant| now.saturating_duration_since(at) < PACE / 2;
        if udp.confirmed && !udp.probes.last_sent.is_some_and(recent) {
            self.probe_now(idx, now);
        }
    }
}

//! Removal of edges that no node can report any more, and of nodes that no node mentions.

use std::time::Instant;

use crate::{
    mesh::{
        Mesh,
        limits::FORGET_AFTER,
        topology::node::{Node, Nodes},
    },
    route::NodeIdx,
};

impl Mesh {
    /// Deletes the edges of all unreachable nodes. After the last link is gone, no node can report
    /// which of those edges end. Source: wire/tinc-1.0.md section 2.11.
    ///
    /// Subnets stay, as in tinc 1.1: a subnet's owner is unreachable, not unknown. An owner
    /// corrects stale subnets when it becomes reachable again.
    pub(super) fn purge_unreachable(&mut self) {
        let gone: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(idx, node)| *idx != Nodes::ME && !node.reachability.reachable)
            .map(|(idx, _)| idx)
            .collect();
        for idx in gone {
            self.strip_edges(idx);
        }
    }

    fn strip_edges(&mut self, idx: NodeIdx) {
        let ends: Vec<NodeIdx> = self.nodes[idx].edges.values().map(|edge| edge.to).collect();
        for to in ends {
            self.nodes.remove_edge(idx, to);
        }
    }

    /// Forgets unreachable nodes that no other node has mentioned for [`FORGET_AFTER`].
    pub(in crate::mesh) fn forget_nodes(&mut self, now: Instant) {
        let forgettable = |node: &Node| {
            let idle = now.saturating_duration_since(node.idle_since) >= FORGET_AFTER;
            let named = self.cx.settings.hosts.contains_key(node.name())
                || self.peers.is_wanted(node.name());
            idle && !named && !node.reachability.reachable && node.link.is_none()
        };
        let old: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(idx, node)| *idx != Nodes::ME && forgettable(node))
            .map(|(idx, _)| idx)
            .collect();
        for idx in old {
            self.strip_edges(idx);
            let subnets: Vec<_> = self.nodes[idx].subnets.iter().copied().collect();
            for subnet in subnets {
                self.remove_subnet(idx, subnet);
            }
            self.forget_refused(idx, None);
            if self.nodes[idx].incoming == 0 {
                self.gossip.forget_node(idx);
                self.peers.forget_node(idx);
                self.sessions.drop_keys(idx);
                self.paths.forget_node(idx);
                self.subnets.forget_node(idx);
                self.publisher.forget_node(idx);
                self.reports.forget_node(idx);
                self.nodes.remove(idx);
                self.publisher.mark_dirty();
            }
        }
    }
}

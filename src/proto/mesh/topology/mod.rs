//! Nodes, their edges, and the graph made of them.

pub(in crate::mesh) mod edge;
mod forget;
pub(in crate::mesh) mod graph;
pub(in crate::mesh) mod node;
pub(in crate::mesh) mod pace;
mod pass;
pub(in crate::mesh) mod per_node;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::route::NodeIdx;

/// Time by which passes may run ahead of their mean: changes after a quiet time take effect at once.
const AHEAD: Duration = Duration::from_millis(200);

/// The pending work of the graph pass, and its results for the whole mesh.
#[derive(Debug)]
pub(in crate::mesh) struct Graph {
    /// True if edges changed since the last pass.
    dirty: bool,
    /// True if the last link is gone: edges are forgotten that only other nodes could report.
    purge: bool,
    /// Nodes that lost an edge.
    orphans: BTreeSet<NodeIdx>,
    /// Neighbours on the minimum spanning tree.
    tree: BTreeSet<NodeIdx>,
    /// Times of passes.
    pace: pace::Pace,
}

impl Graph {
    pub(in crate::mesh) fn new(now: Instant) -> Self {
        Self {
            dirty: false,
            purge: false,
            orphans: BTreeSet::new(),
            tree: BTreeSet::new(),
            pace: pace::Pace::new(AHEAD, now),
        }
    }

    /// Requests a graph pass.
    pub(in crate::mesh) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Returns true if a graph pass is due.
    pub(in crate::mesh) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Requests a graph pass that also forgets the edges of unreachable nodes.
    pub(in crate::mesh) fn purge(&mut self) {
        (self.purge, self.dirty) = (true, true);
    }

    /// Remembers a node that lost an edge. See [`crate::mesh::Mesh::withdraw_orphans`].
    pub(in crate::mesh) fn add_orphan(&mut self, idx: NodeIdx) {
        self.orphans.insert(idx);
    }

    /// Takes the nodes that lost an edge.
    pub(in crate::mesh) fn take_orphans(&mut self) -> BTreeSet<NodeIdx> {
        std::mem::take(&mut self.orphans)
    }

    /// Returns our neighbours on the minimum spanning tree.
    pub(in crate::mesh) fn tree(&self) -> &BTreeSet<NodeIdx> {
        &self.tree
    }

    /// Replaces the tree, for the test of broadcasts that go in circles.
    #[cfg(test)]
    pub(in crate::mesh) fn set_tree(&mut self, tree: BTreeSet<NodeIdx>) {
        self.tree = tree;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing;

    #[test]
    fn a_purge_is_part_of_a_pass() {
        let mut graph = Graph::new(testing::start());
        assert!(!graph.is_dirty());
        graph.add_orphan(NodeIdx::FIRST);
        assert!(!graph.is_dirty(), "the line about the edge marks it");
        graph.purge();
        assert!(graph.is_dirty() && graph.purge);
        assert_eq!(graph.take_orphans(), [NodeIdx::FIRST].into());
        assert!(graph.take_orphans().is_empty());
    }
}

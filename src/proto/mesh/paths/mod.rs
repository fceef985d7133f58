//! UDP paths to each node: addresses, probes, path MTU, and hints from relays.

pub(in crate::mesh) mod hints;
pub(in crate::mesh) mod pmtu;
pub(in crate::mesh) mod probe;
pub(in crate::mesh) mod udp;

use std::{
    ops::{Index, IndexMut},
    time::Instant,
};

use crate::{
    mesh::{limits::Bucket, topology::per_node::PerNode},
    route::NodeIdx,
};

/// UDP paths to all nodes.
pub(in crate::mesh) struct Paths {
    of: PerNode<udp::UdpState>,
    /// Budgets of probes to addresses that other nodes name.
    guesses: probe::Guesses,
    /// Budget of probes to addresses that packets came from.
    challenge: Bucket,
    paced: hints::Paced,
}

impl Paths {
    pub(in crate::mesh) fn new(now: Instant) -> Self {
        Self {
            of: PerNode::default(),
            guesses: probe::Guesses::new(now),
            challenge: Bucket::new(20, now),
            paced: hints::Paced::default(),
        }
    }

    /// Forgets addresses without a recent probe, once a second.
    pub(in crate::mesh) fn forget(&mut self, now: Instant) {
        self.guesses.forget(now);
    }

    /// Forgets a node that is removed.
    pub(in crate::mesh) fn forget_node(&mut self, idx: NodeIdx) {
        self.of.remove(idx);
    }
}

impl Index<NodeIdx> for Paths {
    type Output = udp::UdpState;

    fn index(&self, idx: NodeIdx) -> &udp::UdpState {
        &self.of[idx]
    }
}

impl IndexMut<NodeIdx> for Paths {
    fn index_mut(&mut self, idx: NodeIdx) -> &mut udp::UdpState {
        &mut self.of[idx]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mesh::testing, route::NodeSlot};

    #[test]
    fn a_forgotten_node_has_no_path() {
        let [one, two] = [1, 2].map(|n| NodeIdx::of_slot(NodeSlot(n)));
        let mut paths = Paths::new(testing::start());
        for idx in [one, two] {
            paths[idx].addr = Some(testing::underlay(7));
        }
        paths.forget_node(one);
        assert_eq!(paths[one].addr, None);
        assert_eq!(paths[two].addr, Some(testing::underlay(7)));
    }
}

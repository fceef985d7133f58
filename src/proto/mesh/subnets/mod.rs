//! Subnets: the right to announce one, the addresses a node may send from, and learned MAC addresses.

pub(in crate::mesh) mod mac_learning;
pub(in crate::mesh) mod policy;
pub(in crate::mesh) mod sources;
pub(in crate::mesh) mod table;

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use meshd_wire::Subnet;

use crate::{
    mesh::{Settings, topology::per_node::PerNode},
    route::{NodeIdx, source},
};

/// Subnets of all nodes, besides the sets in [`crate::mesh::topology::node::Node`].
pub(in crate::mesh) struct Subnets {
    /// Number of subnets in the table.
    count: usize,
    /// Subnets that host files list, and the number of all other subnets.
    listed: policy::Listed,
    /// Number of subnets kept aside (announced, not accepted), over all nodes.
    aside: usize,
    /// Ethernet addresses learned behind our device.
    learned: mac_learning::Learned,
    /// Source addresses that host files list.
    sources: sources::Lists,
    of: PerNode<OfNode>,
}

/// Subnets of one node.
#[derive(Default)]
struct OfNode {
    /// Number of the node's subnets that no host file lists.
    unlisted: usize,
    /// Subnets that the node announces and that we do not accept.
    refused: policy::Refused,
    /// Packets from the node that SourceCheck has dropped.
    dropped: sources::Dropped,
}

impl Subnets {
    pub(in crate::mesh) fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            count: 0,
            listed: policy::Listed::new(settings),
            aside: 0,
            learned: mac_learning::Learned::new(now),
            sources: sources::Lists::new(settings),
            of: PerNode::default(),
        }
    }

    /// Returns the number of subnets in the table.
    pub(in crate::mesh) fn count(&self) -> usize {
        self.count
    }

    /// Returns the table for [`crate::route::RouteSnapshot::listed`].
    pub(in crate::mesh) fn listed_sources(&self) -> Arc<source::Listed> {
        self.sources.table()
    }

    /// Reads the source addresses of a new configuration.
    pub(in crate::mesh) fn reload_sources(&mut self, settings: &Settings) {
        self.sources = sources::Lists::new(settings);
    }

    /// Returns the subnets that the node announces and that we do not accept.
    pub(in crate::mesh) fn refused(&self, idx: NodeIdx) -> &BTreeSet<Subnet> {
        &self.of[idx].refused.subnets
    }

    /// Forgets a node that is removed and has no subnets.
    pub(in crate::mesh) fn forget_node(&mut self, idx: NodeIdx) {
        self.of.remove(idx);
    }
}

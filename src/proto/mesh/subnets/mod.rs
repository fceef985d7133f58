//! Subnets: the right to announce one, the addresses a node may send from, and learned MAC addresses.

mod host_files;
pub(in crate::mesh) mod mac_learning;
pub(in crate::mesh) mod policy;
pub(in crate::mesh) mod sources;
pub(in crate::mesh) mod table;

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use meshd_wire::{NodeName, Prefix, Subnet};

use crate::{
    mesh::{Settings, topology::per_node::PerNode},
    route::{NodeIdx, source},
};

/// Subnets of all nodes, besides the sets in [`crate::mesh::topology::node::Node`].
pub(in crate::mesh) struct Subnets {
    /// Number of subnets in the table.
    count: usize,
    /// Number of subnets in the table that no host file lists.
    unlisted: usize,
    /// Subnets that host files list.
    files: host_files::ListedSubnets,
    /// Number of subnets kept aside (announced, not accepted), over all nodes.
    aside: usize,
    /// Ethernet addresses learned behind our device.
    learned: mac_learning::Learned,
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
            unlisted: 0,
            files: host_files::ListedSubnets::new(settings),
            aside: 0,
            learned: mac_learning::Learned::new(now),
            of: PerNode::default(),
        }
    }

    /// Returns the number of subnets in the table.
    pub(in crate::mesh) fn count(&self) -> usize {
        self.count
    }

    /// Returns the table for [`crate::route::RouteSnapshot::listed`].
    pub(in crate::mesh) fn listed_sources(&self) -> Arc<source::Listed> {
        Arc::clone(self.files.table())
    }

    /// Returns the other nodes for which a host file, or our configuration, lists the same prefix.
    pub(in crate::mesh) fn rivals(
        &self,
        owner: &NodeName,
        prefix: &Prefix,
    ) -> impl Iterator<Item = &NodeName> {
        self.files.rivals(owner, prefix)
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

//! The table of subnets: every insertion and removal, and the script event of each.

use meshd_wire::Subnet;

use crate::{
    mesh::{HookEvent, Mesh, Output, topology::node::Nodes},
    route::NodeIdx,
};

impl Mesh {
    /// Inserts a subnet into the tables.
    pub(in crate::mesh) fn insert_subnet(&mut self, idx: NodeIdx, subnet: Subnet) {
        if self.nodes[idx].subnets.insert(subnet) {
            self.subnets.count += 1;
            self.count_unlisted(idx, &subnet, true);
            self.publisher.mark_dirty();
            self.subnet_hook(true, idx, subnet);
        }
    }

    /// Removes a subnet from the tables.
    pub(in crate::mesh) fn remove_subnet(&mut self, idx: NodeIdx, subnet: Subnet) {
        self.nodes[idx].claims_again(&subnet);
        if self.nodes[idx].subnets.remove(&subnet) {
            self.subnets.count -= 1;
            self.count_unlisted(idx, &subnet, false);
            self.publisher.mark_dirty();
            self.subnet_hook(false, idx, subnet);
        }
    }

    /// Emits the script event of a subnet of a reachable node or of this node.
    pub(in crate::mesh) fn subnet_hook(&mut self, up: bool, idx: NodeIdx, subnet: Subnet) {
        let node = &self.nodes[idx];
        if node.reachability.reachable || idx == Nodes::ME {
            let address = (idx != Nodes::ME)
                .then(|| self.own_address(idx).known())
                .flatten();
            let node = node.name().clone();
            self.cx.emit(Output::Hook(HookEvent::Subnet {
                up,
                node,
                subnet,
                address,
            }));
        }
    }
}

//! Subnets that hearsay withdraws in the name of a node that is no neighbour. See the table in
//! `law.rs`.
//!
//! A subnet in the node's host file stays, because the operator wrote it. Such a subnet is removed
//! when the node withdraws it over its own link, when the line is removed from the host file, or
//! when another node whose host file lists it too announces it: a failover of the operator.
//! Difference from tinc: tinc removes the subnet at once. `SubnetPolicy = open` removes it after a
//! moment.

use std::time::Instant;

use meshd_wire::{Prefix, Subnet};

use crate::{
    mesh::{
        Mesh,
        gossip::law::{Ends, UNCLAIMED},
        settings::SubnetPolicy,
        topology::node::{Node, Nodes},
    },
    route::NodeIdx,
};

/// Number of subnets above which a withdrawn subnet is removed at once: the search for other owners
/// would cost too much.
const MAX_COMPARED: usize = 2_048;

impl Node {
    /// The node's subnets without those that hearsay has withdrawn: the subnets that are announced
    /// to other nodes.
    pub(in crate::mesh) fn claimed(&self) -> impl Iterator<Item = &Subnet> {
        let subnets = self.subnets.iter();
        subnets.filter(|subnet| !self.evidence.withdrawn.contains_key(subnet))
    }

    /// Returns true if the subnet is among [`Self::claimed`].
    pub(in crate::mesh) fn claims(&self, subnet: &Subnet) -> bool {
        self.subnets.contains(subnet) && !self.evidence.withdrawn.contains_key(subnet)
    }

    /// Records an announcement. Returns true if hearsay had withdrawn the subnet.
    pub(in crate::mesh) fn claims_again(&mut self, subnet: &Subnet) -> bool {
        self.evidence.withdrawn.remove(subnet).is_some()
    }
}

impl Mesh {
    /// Decides a DEL_SUBNET for a subnet that the node holds. `None`: the line takes effect.
    /// `Some`: the line takes no effect, or not yet; true if the line is new and is forwarded.
    pub(in crate::mesh) fn keeps_subnet(
        &mut self,
        idx: NodeIdx,
        subnet: Subnet,
        ends: Ends,
        now: Instant,
    ) -> Option<bool> {
        let node = &self.nodes[idx];
        let kept = self.gives_prefix(idx, &subnet) || node.reachability.reachable;
        if ends == Ends::AtOnce || !kept || !self.is_missed(idx, &subnet) {
            return None;
        }
        self.arm_doubt_timer(now);
        let withdrawn = &mut self.nodes[idx].evidence.withdrawn;
        if withdrawn.contains_key(&subnet) {
            return Some(false);
        }
        withdrawn.insert(subnet, now);
        Some(true)
    }

    /// Returns true if the subnet is listed or has no other owner, and the node announces its
    /// prefix in no other way.
    fn is_missed(&self, idx: NodeIdx, subnet: &Subnet) -> bool {
        if matches!(subnet.prefix, Prefix::Mac(_)) {
            return false;
        }
        let prefix = subnet.prefix.masked();
        let has = |one: &Subnet| one.prefix.masked() == prefix && one != subnet;
        !self.nodes[idx].claimed().any(has)
            && (self.gives_prefix(idx, subnet)
                || self.subnets.count() <= MAX_COMPARED && !self.has_other_owner(idx, prefix))
    }

    /// Returns true if another reachable node, or this one, owns the prefix.
    fn has_other_owner(&self, idx: NodeIdx, prefix: Prefix) -> bool {
        let has = |node: &Node| node.claimed().any(|one| one.prefix.masked() == prefix);
        let mut nodes = self.nodes.iter();
        nodes.any(|(other, node)| {
            let there = other == Nodes::ME || other != idx && node.reachability.reachable;
            there && has(node)
        })
    }

    /// Returns true if the node's host file lists the prefix.
    fn gives_prefix(&self, idx: NodeIdx, subnet: &Subnet) -> bool {
        let host = self.cx.settings.hosts.get(self.nodes[idx].name());
        let prefix = subnet.prefix.masked();
        self.cx.settings.subnet_policy != SubnetPolicy::Open
            && host.is_some_and(|host| host.subnets.iter().any(|one| one.prefix.masked() == prefix))
    }

    /// Returns true if another node that is there announces the prefix and has a line for it.
    fn has_failover(&self, idx: NodeIdx, subnet: &Subnet) -> bool {
        let prefix = subnet.prefix.masked();
        let mut rivals = self.subnets.rivals(self.nodes[idx].name(), &prefix);
        rivals.any(|name| {
            let other = self
                .nodes
                .find(name)
                .map(|other| (other, &self.nodes[other]));
            other.is_some_and(|(other, node)| {
                let there = other == Nodes::ME || node.reachability.reachable;
                there && node.claimed().any(|one| one.prefix.masked() == prefix)
            })
        })
    }

    /// Decides again about withdrawn subnets that a node has announced now, if host files list them
    /// for several nodes.
    pub(in crate::mesh) fn settle_failover(&mut self, idx: NodeIdx, subnet: &Subnet, now: Instant) {
        let prefix = subnet.prefix.masked();
        if self
            .subnets
            .rivals(self.nodes[idx].name(), &prefix)
            .next()
            .is_some()
        {
            self.arm_doubt_timer(now);
        }
    }

    /// Removes unlisted subnets whose withdrawal is old enough. Returns true if others still wait.
    pub(in crate::mesh) fn settle_withdrawn(&mut self, idx: NodeIdx, now: Instant) -> bool {
        let withdrawn = &self.nodes[idx].evidence.withdrawn;
        let ends = |one: &Subnet| !self.gives_prefix(idx, one) || self.has_failover(idx, one);
        let unlisted = withdrawn.iter().filter(|(one, _)| ends(one));
        let over = |at: Instant| now.saturating_duration_since(at) >= UNCLAIMED;
        let (over, left): (Vec<_>, Vec<_>) = unlisted
            .map(|(subnet, at)| (*subnet, over(*at)))
            .partition(|(_, over)| *over);
        for (subnet, _) in over {
            self.remove_subnet(idx, subnet);
        }
        !left.is_empty()
    }
}
